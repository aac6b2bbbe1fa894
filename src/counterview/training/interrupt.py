"""Requests to stop (SIGINT, SIGTERM), kept until the current step has ended."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Within the block, a first SIGINT or SIGTERM sets ``requested``; a second SIGINT interrupts as usual.

    Outside the main thread, where Python handles no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(ValueError, OSError):
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
