"""Masks at the image's size from score maps of another size, without resizing the whole map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from counterview.proposals.base import mask_from_crop
from counterview.types import ObjectMask


def mask_from_score_map(
    scores: NDArray[np.float32],
    threshold: float,
    size_hw: tuple[int, int],
    *,
    within_hw: tuple[int, int] | None = None,
    offset_yx: tuple[int, int] = (0, 0),
) -> ObjectMask:
    """Where a score map, resized bilinearly to an image, exceeds a threshold.

    Pixel centres are at halves and the border is repeated, as in torch's ``interpolate(mode="bilinear",
    align_corners=False)`` without antialiasing. Only the part that can exceed the threshold is resized.

    Args:
        scores: ``(h, w)`` float.
        threshold: what to exceed.
        size_hw: size that the map is resized to, in pixels.
        within_hw: size of the image, if the map covers only a part of it.
        offset_yx: row and column of that part in the image.
    """
    within_hw = size_hw if within_hw is None else within_hw
    above: NDArray[np.bool_] = scores > threshold
    if not above.any():
        return ObjectMask.empty(within_hw)
    rows, top = _axis(np.flatnonzero(above.any(axis=1)), scores.shape[0], size_hw[0])
    columns, left = _axis(np.flatnonzero(above.any(axis=0)), scores.shape[1], size_hw[1])
    near_y, far_y, weight_y = rows
    near_x, far_x, weight_x = columns
    x0, x1 = near_x[0], far_x[-1] + 1
    strip = scores[:, x0:x1]
    tall = strip[near_y] * (1 - weight_y)[:, None] + strip[far_y] * weight_y[:, None]
    crop = tall[:, near_x - x0] * (1 - weight_x) + tall[:, far_x - x0] * weight_x
    return mask_from_crop(crop > threshold, left + offset_yx[1], top + offset_yx[0], within_hw)


def mask_from_window(
    window: NDArray[np.float32],
    origin_yx: tuple[int, int],
    map_hw: tuple[int, int],
    threshold: float,
    size_hw: tuple[int, int],
) -> ObjectMask:
    """:func:`mask_from_score_map` of a map that is zero outside a window, without building the map.

    Args:
        window: ``(h, w)`` float, the map where it is not zero.
        origin_yx: row and column of the window in the map.
        map_hw: size of the map.
        threshold: what to exceed, not negative.
        size_hw: size that the map is resized to, in pixels.
    """
    above: NDArray[np.bool_] = window > threshold
    if not above.any():
        return ObjectMask.empty(size_hw)
    (near_y, far_y, weight_y), top = _axis(np.flatnonzero(above.any(axis=1)) + origin_yx[0], map_hw[0], size_hw[0])
    (near_x, far_x, weight_x), left = _axis(np.flatnonzero(above.any(axis=0)) + origin_yx[1], map_hw[1], size_hw[1])
    # The first and the last target position may reach this far beyond the window.
    margin = int(np.ceil(max(map_hw[0] / size_hw[0], map_hw[1] / size_hw[1]))) + 2
    padded = np.pad(window, margin)
    y0, x0 = origin_yx[0] - margin, origin_yx[1] - margin
    if size_hw[0] >= _BY_CROSSINGS * map_hw[0]:
        wide = padded[:, near_x - x0] * (1 - weight_x) + padded[:, far_x - x0] * weight_x
        return _mask_of_crossings(wide[near_y[0] - y0 : far_y[-1] - y0 + 1], near_y, far_y, weight_y, threshold,
                                  (top, left), size_hw)  # fmt: skip
    tall = padded[near_y - y0] * (1 - weight_y)[:, None] + padded[far_y - y0] * weight_y[:, None]
    crop = tall[:, near_x - x0] * (1 - weight_x) + tall[:, far_x - x0] * weight_x
    return mask_from_crop(crop > threshold, left, top, size_hw)


_BY_CROSSINGS = 2
"""From this enlargement on, the pixels between two rows of the map are not computed one by one."""


def _mask_of_crossings(
    wide: NDArray[np.float32],
    near: NDArray[np.int64],
    far: NDArray[np.int64],
    weight: NDArray[np.float32],
    threshold: float,
    origin_yx: tuple[int, int],
    size_hw: tuple[int, int],
) -> ObjectMask:
    """The mask of rows that are interpolated from the rows of a map, where they exceed a threshold.

    Between two rows of the map, values of a column run straight, so that they cross the threshold once at most. Which
    pixel is the first beyond it is found by bisection over the target rows.

    Args:
        wide: ``(h, W)`` rows of the map at the target's columns, from the first that ``near`` names.
        near: ``(H,)`` first row of the map of each target row, rising.
        far: ``(H,)`` second row.
        weight: ``(H,)`` of the second.
        threshold: what to exceed.
        origin_yx: row and column of the target's first.
        size_hw: of the image.
    """
    near, far = near - near[0], far - near[0]
    above = np.zeros((len(wide) + 2, wide.shape[1]), dtype=bool)
    above[1:-1] = wide > threshold
    column, change = np.nonzero((above[1:] != above[:-1]).T)
    rising = above[change + 1, column]
    # The first target row on the new side lies after `low` and not after `high`.
    first = np.concatenate(([0], np.searchsorted(near, np.arange(len(wide) + 1))))
    low, high = first[change] - 1, first[change + 1]
    low[change == 0] = -1
    while (between := np.flatnonzero(high - low > 1)).size:
        middle, at = (low[between] + high[between]) // 2, column[between]
        value = wide[near[middle], at] * (1 - weight[middle]) + wide[far[middle], at] * weight[middle]
        passed = (value > threshold) == rising[between]
        high[between], low[between] = np.where(passed, middle, high[between]), np.where(passed, low[between], middle)
    edges = (column + origin_yx[1]) * size_hw[0] + high + origin_yx[0]
    height, width = size_hw
    return ObjectMask((height, width), np.diff(np.concatenate(([0], edges, [height * width]))))


def _axis(
    used: NDArray[np.int64], source: int, target: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]], int]:
    """For the target positions that ``used`` reaches: two source positions, weight of the second; first position."""
    scale = source / target
    first = max(int(np.floor((used[0] - 0.5) / scale - 0.5)), 0)
    last = min(int(np.ceil((used[-1] + 1.5) / scale - 0.5)), target - 1)
    at = np.clip((np.arange(first, last + 1) + 0.5) * scale - 0.5, 0, source - 1)
    near = at.astype(np.int64)
    far = np.minimum(near + 1, source - 1)
    return (near, far, (at - near).astype(np.float32)), first
