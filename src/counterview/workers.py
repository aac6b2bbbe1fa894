"""Work on many images that several processes share, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait as wait_for
from typing import Any

from tqdm import tqdm

FEW = 8
"""So many items are not worth the start of a process."""


def spread(
    start: Callable[..., Callable[[Any], None]],
    arguments: Sequence[Any],
    items: Sequence[Any],
    *,
    workers: int,
    label: str,
    progress: bool = True,
) -> None:
    """Do something with each item.

    Args:
        start: called once in each process with ``arguments``; what it returns is called with one item after the other.
        arguments: picklable where there is more than one worker.
        items: picklable likewise; in no order.
        workers: processes, each with one thread.
        label: of the bar, on standard error.
        progress: show it.
    """
    with tqdm(total=len(items), desc=label, unit="image", dynamic_ncols=True, disable=not progress) as bar:
        if workers <= 1 or len(items) < FEW:
            do = start(*arguments)
            for item in items:
                do(item)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with context.Pool(workers, initializer=_begin, initargs=(start, tuple(arguments))) as pool:
            for _ in pool.imap_unordered(_work, items, chunksize=4):
                bar.update()


_DO: list[Callable[[Any], None]] = []


def _begin(start: Callable[..., Callable[[Any], None]], arguments: tuple[Any, ...]) -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _DO[:] = [start(*arguments)]


def _end_with_parent() -> None:
    """A killed run leaves no processes behind that wait for work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _work(item: Any) -> None:
    _DO[0](item)
