"""Masks sampled on a coarser lattice of points, straight from their run lengths, without dense arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterview.errors import MaskError
from counterview.masks.geometry import nearest_indices
from counterview.types import ObjectMask


@dataclass(frozen=True)
class Runs:
    """Vertical runs of lattice points inside masks, of all masks together.

    Attributes:
        owner: ``(R,)`` index of the mask.
        column: ``(R,)`` column on the lattice.
        top: ``(R,)`` first row on the lattice.
        bottom: ``(R,)`` last row plus one, above ``top``.
        count: number of masks N.
    """

    owner: NDArray[np.int64]
    column: NDArray[np.int64]
    top: NDArray[np.int64]
    bottom: NDArray[np.int64]
    count: int

    def points(self) -> NDArray[np.int64]:
        """Number of lattice points inside each mask, ``(N,)`` int64."""
        return np.bincount(self.owner, weights=self.bottom - self.top, minlength=self.count).astype(np.int64)


def lattice_runs(masks: Sequence[ObjectMask], image_hw: tuple[int, int], points_hw: tuple[int, int]) -> Runs:
    """Sample masks by nearest neighbour on a lattice, from their run lengths, all masks at once.

    The same points as :func:`counterview.masks.geometry.resize_nearest` to ``points_hw``.

    Args:
        masks: N masks.
        image_hw: their height and width, px.
        points_hw: rows and columns of the lattice.

    Raises:
        MaskError: a mask is not of size ``image_hw``.
    """
    for index, mask in enumerate(masks):
        if mask.size_hw != image_hw:
            raise MaskError(
                f"mask {index} is of another size than its image",
                found=f"{mask.size_hw[0]}x{mask.size_hw[1]}",
                expected=f"{image_hw[0]}x{image_hw[1]}",
            )
    height, width = image_hw
    empty = np.zeros(0, dtype=np.int64)
    if len(masks) == 0:
        return Runs(empty, empty, empty, empty, 0)
    lengths = np.array([len(mask.runs) for mask in masks])
    ends = np.cumsum(np.concatenate([mask.runs for mask in masks]))  # every mask fills H * W, so ends run on
    first = np.cumsum(lengths) - lengths
    inside = (np.arange(len(ends)) - np.repeat(first, lengths)) % 2 == 1
    stop = ends[inside]
    start = ends[np.flatnonzero(inside) - 1]
    owner = np.repeat(np.arange(len(masks)), lengths)[inside]
    start, stop = start - owner * (height * width), stop - owner * (height * width)

    rows, columns = nearest_indices(height, points_hw[0]), nearest_indices(width, points_hw[1])
    row_at = np.searchsorted(rows, np.arange(height + 1))  # first lattice row at or below a pixel row
    column_at = np.searchsorted(columns, np.arange(width + 1))
    low, high = column_at[start // height], column_at[(stop - 1) // height + 1]
    times = high - low
    which = np.repeat(np.arange(len(start)), times)
    column = low[which] + np.arange(len(which)) - np.repeat(np.cumsum(times) - times, times)
    edge = columns[column] * height
    top = row_at[np.maximum(start[which] - edge, 0)]
    bottom = row_at[np.minimum(stop[which] - edge, height)]
    keep = bottom > top
    return Runs(owner[which][keep], column[keep], top[keep], bottom[keep], len(masks))


def with_centres(runs: Runs, masks: Sequence[ObjectMask], image_hw: tuple[int, int], size_hw: tuple[int, int]) -> Runs:
    """Add the lattice point at the centroid of each mask that has pixels but no lattice point.

    Args:
        runs: of the masks, from :func:`lattice_runs`.
        masks: N masks.
        image_hw: their height and width, px.
        size_hw: rows and columns of the lattice.
    """
    lost = [int(i) for i in np.flatnonzero(runs.points() == 0) if not masks[int(i)].is_empty]
    if not lost:
        return runs
    centres = np.array([masks[i].centroid_xy for i in lost]) + 0.5
    column = np.minimum(centres[:, 0] * size_hw[1] / image_hw[1], size_hw[1] - 1).astype(np.int64)
    row = np.minimum(centres[:, 1] * size_hw[0] / image_hw[0], size_hw[0] - 1).astype(np.int64)
    owner = np.concatenate([runs.owner, lost])
    order = np.argsort(owner, kind="stable")
    return Runs(
        owner[order],
        np.concatenate([runs.column, column])[order],
        np.concatenate([runs.top, row])[order],
        np.concatenate([runs.bottom, row + 1])[order],
        runs.count,
    )
