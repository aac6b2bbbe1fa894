"""What a command is doing, for a person who waits: on a terminal alone."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def stage(what: str) -> Iterator[None]:
    """Say what is being done while the block runs.

    On a terminal a line on standard error is shown and taken away again. With ``--verbose`` the stage is logged with
    its time, wherever standard error goes.

    Args:
        what: the work, for example ``"encoding the query image"``.
    """
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if sys.stderr.isatty() and not logger.isEnabledFor(logging.INFO):
            from rich.console import Console

            stack.enter_context(Console(stderr=True).status(f"{what} …"))
        yield
    logger.info("%s: %.2f s", what, time.perf_counter() - start)
