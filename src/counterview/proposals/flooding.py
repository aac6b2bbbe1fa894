"""Watershed by flooding from markers (Meyer 1994), without a queue of pixels.

With 4-connectivity. A pixel is flooded at its level: the lowest height over which water comes to it from a marker. It
gets the label of the neighbour with the lowest level, as that one was flooded first. Nearly every pixel's level is its
own height; the others, which lie in a hollow without a marker, are few and are levelled by themselves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_MOST_TURNS = 64
"""Sources of sources that are compared where levels are equal; further ones are taken as equally early."""


def flood(height: F32, markers: NDArray[np.integer]) -> I64:
    """Label every pixel by the marker that floods it first.

    The labels are those of a queue of pixels in the order of their height and, where heights are equal, of their
    arrival; only the order in which markers of one height start is not that of a heap but that of the pixels.

    Args:
        height: ``(h, w)`` finite.
        markers: ``(h, w)`` labels from 1 on; 0 is to be labelled.

    Returns:
        ``(h, w)`` labels; 0 everywhere if there is no marker.

    Example:
        >>> height = np.array([[0, 1, 4, 2, 0]], np.float32)
        >>> flood(height, np.array([[1, 0, 0, 0, 2]])).tolist()
        [[1, 1, 1, 2, 2]]
    """
    padded = np.pad(height.astype(np.float32, copy=False), 1, constant_values=np.inf)
    seeds = np.pad(markers.astype(np.int64, copy=False), 1)
    level, flat = padded.ravel(), seeds.ravel()
    steps = np.array([-padded.shape[1], -1, 1, padded.shape[1]])
    source, ties = _lowest(padded, padded, steps)
    np.copyto(source, np.arange(len(level)), where=flat > 0)
    turn = np.zeros(len(level), dtype=np.int64)
    hollow = np.flatnonzero((flat[_ends(source)] == 0) & np.isfinite(level))
    if len(hollow):
        level, turn = _fill_hollows(level, hollow, steps)
        source, ties = _lowest(level.reshape(padded.shape), padded, steps)
        np.copyto(source, np.arange(len(level)), where=flat > 0)
        around = hollow[:, None] + steps
        # Within one hollow, levels are equal, and water came to a neighbour of an earlier turn first.
        first = np.lexsort((turn[around], level[around]), axis=1)[:, 0]
        source[hollow] = around[np.arange(len(hollow)), first]
        source[hollow[~np.isfinite(level[hollow])]] = 0  # no marker at all: the border, which has no label
        ties = np.union1d(ties, hollow[np.isfinite(level[hollow])])
    ties = ties[flat[ties] == 0]
    for step in steps:
        _prefer_earlier(source, level, turn, ties, ties + step)
    return flat[_ends(source)].reshape(padded.shape)[1:-1, 1:-1].copy()


def _lowest(level: F32, height: F32, steps: I64) -> tuple[I64, I64]:
    """The flat index ``(n,)`` of every pixel's lowest neighbour, its own if none is lower than its height.

    Second come the indices ``(m,)`` of the pixels with two such neighbours of one level.
    """
    best = height[1:-1, 1:-1].copy()
    source = np.arange(level.size, dtype=np.int64).reshape(level.shape)
    step = np.zeros(best.shape, dtype=np.int64)
    tied = np.zeros(best.shape, dtype=np.bool_)
    for move, (y, x) in zip(steps, ((0, 1), (1, 0), (1, 2), (2, 1)), strict=True):
        near = level[y : y + best.shape[0], x : x + best.shape[1]]
        lower = near < best
        tied = (tied & ~lower) | ((near == best) & (step != 0))
        np.copyto(best, near, where=lower)
        step[lower] = move
    source[1:-1, 1:-1] += step
    return source.ravel(), np.flatnonzero(np.pad(tied, 1))


def _prefer_earlier(source: I64, level: F32, turn: I64, pixels: I64, others: I64) -> None:
    """Take the other neighbour as a source where it is of the same level and was flooded earlier.

    Of two pixels of one level, that one is earlier whose own source is; with one source, the first of its neighbours.

    Args:
        source: ``(n,)``, changed in place.
        level: ``(n,)``.
        turn: ``(n,)`` as of :func:`_fill_hollows`; others of another turn are not earlier.
        pixels: ``(m,)`` indices.
        others: ``(m,)`` indices of a neighbour of each.
    """
    known = source[pixels]
    same = (level[others] == level[known]) & (turn[others] == turn[known]) & (others != known)
    pixels, others = pixels[same], others[same]
    a, b = source[pixels], others
    for _ in range(_MOST_TURNS):
        if not len(a):
            return
        from_a, from_b = source[a], source[b]
        started_a, started_b = from_a == a, from_b == b  # markers, before all others of their level
        decided = (from_a == from_b) | (level[from_a] != level[from_b]) | started_a | started_b
        earlier = np.where(level[from_a] != level[from_b], level[from_b] < level[from_a], b < a)
        earlier = np.where(started_a == started_b, earlier, started_b)
        taken = decided & earlier
        source[pixels[taken]] = others[taken]
        pixels, others, a, b = pixels[~decided], others[~decided], from_a[~decided], from_b[~decided]


def _ends(source: I64) -> I64:
    """Where the path of every pixel ends, ``(n,)``: its source's source and so on."""
    while True:
        further = source[source]
        if np.array_equal(further, source):
            return source
        source = further


def _fill_hollows(height: F32, hollow: I64, steps: I64) -> tuple[F32, I64]:
    """Levels ``(n,)`` of all pixels, and for those of hollows the turn in which water came.

    Args:
        height: ``(n,)``, infinite on the border.
        hollow: ``(k,)`` pixels from which no way down leads to a marker.
        steps: ``(4,)`` from a pixel to its neighbours.
    """
    level, turn = height.copy(), np.zeros(len(height), dtype=np.int64)
    level[hollow] = np.inf
    waiting, count = hollow, 0
    is_hollow = np.zeros(len(height), dtype=np.bool_)
    is_hollow[hollow] = True
    while len(waiting):
        count += 1
        filled = np.maximum(height[waiting], level[waiting[:, None] + steps].min(axis=1))
        changed = waiting[filled < level[waiting]]
        level[changed] = filled[filled < level[waiting]]
        turn[changed] = count
        near = np.unique(changed[:, None] + steps)
        waiting = near[is_hollow[near]]
    return level, turn
