"""The side of the worker: what runs in each process of a pool, whichever engine started it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Literal

from counterview.errors import CounterviewError
from counterview.jobs.manifest import MakeWorker, Worker

_PLAIN = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError, MemoryError)


@dataclass(frozen=True)
class Reply:
    """What a worker says of a task, or its engine in its place.

    Attributes:
        kind: ``"done"``; ``"failed"``, with an exception; ``"unusable"``, if the worker itself could not be made; or
            ``"died"``, if its process ended.
        value: the result or the exception.
    """

    kind: Literal["done", "failed", "unusable", "died"]
    value: Any = None


class TaskRunner:
    """Makes its worker at the first task, then does one task after the other.

    Args:
        make_worker: makes the worker.
        arguments: of ``make_worker``.
    """

    def __init__(self, make_worker: MakeWorker, arguments: tuple[Any, ...]) -> None:
        self._make, self._arguments = make_worker, arguments
        self._worker: Worker | None = None

    def __call__(self, item: Any) -> Reply:
        """Do one task.

        Args:
            item: of the task.
        """
        try:
            if self._worker is None:
                use_one_thread()
                self._worker = self._make(*self._arguments)
                use_one_thread()
                report_steps(0)
        except Exception as error:
            return Reply("unusable", transportable(error))
        try:
            return Reply("done", self._worker(item))
        except Exception as error:
            return Reply("failed", transportable(error))


def transportable(error: Exception) -> Exception:
    """An exception that another process can read, with its traceback as a note.

    Args:
        error: any exception; classes of other packages may not survive pickling, so only their text is kept.
    """
    text = "".join(traceback.format_exception(error))
    # A subclass that asks for other arguments than Exception's breaks when it is read back.
    if not isinstance(error, CounterviewError) and type(error) not in _PLAIN and type(error).__module__ != "builtins":
        error = RuntimeError(f"{type(error).__name__}: {error}")
    elif isinstance(error, UnicodeError):
        error = ValueError(str(error))
    error = error.with_traceback(None)
    error.__cause__ = error.__context__ = None
    error.add_note(text)
    return error


def use_one_thread() -> None:
    """Let OpenCV and PyTorch compute with one thread each: the processes already fill the cores.

    PyTorch is not imported for that, only limited where it is loaded.
    """
    import cv2

    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def end_with_parent() -> None:
    """End this worker process when its parent ends. Without this, a killed run leaves workers that wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# ------------------------------------------------------------------------------------------------------ progress

_LISTENERS: list[Callable[[int], None]] = []
"""Who is told of steps in this process: the last one."""

_NUMBER: list[int] = [0]
"""Position of this worker among those of its run, from 0."""


def report_steps(number: int = 1) -> None:
    """Say that so many steps of a task are done, or none yet: a task that says so does not count as hanging.

    Args:
        number: of steps; frames, for instance.
    """
    if _LISTENERS:
        _LISTENERS[-1](number)


def worker_number() -> int:
    """Position of this worker among those of its run, from 0; a replacement has that of the worker before it."""
    return _NUMBER[0]


def begin(number: int, listener: Callable[[int], None]) -> None:
    """Set up the process of a worker.

    Args:
        number: its position.
        listener: is told of steps.
    """
    _NUMBER[0] = number
    _LISTENERS[:] = [listener]


@contextmanager
def listening(listener: Callable[[int], None]) -> Iterator[None]:
    """Tell a listener of the steps that the block reports in this process.

    Args:
        listener: is given numbers of steps.
    """
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)
