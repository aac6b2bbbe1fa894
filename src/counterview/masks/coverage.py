"""How much of each cell of a grid over a square masks cover, straight from their run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError
from counterview.masks.geometry import split_at_columns
from counterview.types import ObjectMask

_AT_A_TIME = 256
"""Masks whose grids are summed at a time."""


@dataclass(frozen=True)
class Square:
    """A square of an image, in pixels; it may extend beyond the image.

    Attributes:
        top: its first row.
        left: its first column.
        side: its side, at least 1.
    """

    top: int
    left: int
    side: int


def coverage(masks: Sequence[ObjectMask], squares: Sequence[Square], cells: int) -> NDArray[np.float32]:
    """The fraction of each cell that a mask covers, exact to rounding, and without dense masks.

    The cost grows with the number of runs, which is that of the columns of the masks, not with their area.

    Args:
        masks: N masks of one size.
        squares: one a mask, with sides of at least ``cells`` pixels.
        cells: rows and columns of the grid.

    Returns:
        ``(N, cells, cells)`` float32, from 0 to 1.

    Raises:
        InputError: a square smaller than the grid.

    >>> mask = ObjectMask.from_array(np.pad(np.ones((3, 2), dtype=bool), ((0, 1), (1, 1))))
    >>> coverage([mask], [Square(0, 0, 4)], 2)[0].tolist()
    [[0.5, 0.5], [0.25, 0.25]]
    """
    smallest = min((square.side for square in squares), default=cells)
    if smallest < cells:
        raise InputError("a square is smaller than its grid", found=smallest, expected=f"{cells} or more")
    result = np.zeros((len(masks), cells, cells), dtype=np.float32)
    for first in range(0, len(masks), _AT_A_TIME):
        rows = slice(first, first + _AT_A_TIME)
        result[rows] = _coverage(masks[rows], squares[rows], cells)
    return result


def _coverage(masks: Sequence[ObjectMask], squares: Sequence[Square], cells: int) -> NDArray[np.float32]:
    parts = [split_at_columns(*mask.intervals(), mask.size_hw[0]) for mask in masks]
    owner = np.repeat(np.arange(len(masks)), [len(starts) for starts, _ in parts])
    starts, ends = (np.concatenate([part[i] for part in parts]) for i in range(2))
    height = masks[0].size_hw[0]
    corner = np.array([(s.top, s.left, s.side) for s in squares], dtype=np.float64)[owner]
    column = starts // height
    inside = (column >= corner[:, 1]) & (column < corner[:, 1] + corner[:, 2])
    if not inside.all():
        owner, starts, ends, column = owner[inside], starts[inside], ends[inside], column[inside]
        corner = corner[inside]
    cell_px = corner[:, 2] / cells
    # A pixel column is narrower than a cell, so that it lies in at most two.
    offset = column - corner[:, 1]
    first = np.clip(np.floor(offset / cell_px).astype(np.int64), 0, cells)
    within = np.clip((first + 1) * cell_px - offset, 0, 1)
    columns, shares = np.stack([first, np.minimum(first + 1, cells)]), np.stack([within, 1 - within]) / cell_px
    # Down a column, the covered part of each cell is the difference of two ramps. Each is summed from two steps.
    edges = np.stack([starts, ends]) - column * height - corner[:, 0]
    edges = np.clip(edges / cell_px, 0, cells)
    row = np.floor(edges).astype(np.int64)
    part = edges - row
    sign = np.array([1.0, -1.0])[:, None]
    rows, steps = np.concatenate([row, row + 1]), np.concatenate([sign * (1 - part), sign * part])
    index = (owner * (cells + 2) + rows[:, None]) * (cells + 1) + columns
    weights = steps[:, None] * shares
    total = np.bincount(index.ravel(), weights.ravel(), minlength=len(masks) * (cells + 2) * (cells + 1))
    grid = np.cumsum(total.reshape(len(masks), cells + 2, cells + 1), axis=1)
    return np.asarray(grid[:, :cells, :cells].clip(0, 1), dtype=np.float32)
