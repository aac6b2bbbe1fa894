"""Memory that sessions held goes back to the system when they end."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

_ARENA_MAX = -8
"""``M_ARENA_MAX`` of glibc's ``malloc.h``."""


def keep_one_heap() -> None:
    """Let all threads of this process allocate from one heap (glibc); to be called before there are any.

    By default every thread gets one of its own, and what is free in one is of no use to the others, nor to the system:
    after twenty visitors at once the server would keep half as much again as before.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def give_memory_back() -> None:
    """Free what ended sessions held, and return it to the system where the C library keeps it otherwise (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
