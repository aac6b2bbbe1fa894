"""Worker processes that share a list of items. Each has one thread and ends with the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from tqdm import tqdm

MIN_POOL_ITEMS = 8
"""Fewer items are processed in the calling process: starting a process would take longer."""

Worker = Callable[[Any], None]
"""Processes one item, for its side effect: usually a file that it writes."""


def for_each_item(
    make_worker: Callable[..., Worker],
    arguments: Sequence[Any],
    items: Sequence[Any],
    *,
    workers: int,
    label: str,
    progress: bool = True,
) -> None:
    """Process every item once, in the calling process or in several, with a progress bar on standard error.

    Args:
        make_worker: is called once in each process as ``make_worker(*arguments)``, so that each process loads its
            models once; the function that it returns is called with one item after another.
        arguments: of ``make_worker``; picklable if there are several processes, like ``make_worker`` itself.
        items: what to process, in no particular order; picklable likewise.
        workers: number of processes; with 1, or fewer than :data:`MIN_POOL_ITEMS` items, no process is started.
        label: text before the bar.
        progress: whether to show the bar.

    Raises:
        Exception: the first exception of a worker, unchanged. The other processes are stopped.

    >>> squares = []
    >>> def start(out):
    ...     return lambda n: out.append(n * n)
    >>> for_each_item(start, [squares], [1, 2, 3], workers=1, label="", progress=False)
    >>> squares
    [1, 4, 9]
    """
    with tqdm(total=len(items), desc=label, unit="image", dynamic_ncols=True, disable=not progress) as bar:
        if workers <= 1 or len(items) < MIN_POOL_ITEMS:
            worker = make_worker(*arguments)
            for item in items:
                worker(item)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with context.Pool(workers, initializer=_start, initargs=(make_worker, tuple(arguments))) as pool:
            for _ in pool.imap_unordered(_process, items, chunksize=4):
                bar.update()


def end_with_parent() -> None:
    """End this worker process when its parent ends. Without this, a killed run leaves workers that wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_WORKER: list[Worker] = []
"""The worker of this process, once it is started."""


def _start(make_worker: Callable[..., Worker], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    _use_one_thread()
    _WORKER[:] = [make_worker(*arguments)]
    _use_one_thread()


def _use_one_thread() -> None:
    """Let OpenCV and PyTorch compute with one thread each: the processes already fill the cores.

    PyTorch is not imported for that, only limited where it is loaded, before or by ``make_worker``.
    """
    import cv2

    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _process(item: Any) -> None:
    _WORKER[0](item)
