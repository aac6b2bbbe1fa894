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
    tall = padded[near_y - y0] * (1 - weight_y)[:, None] + padded[far_y - y0] * weight_y[:, None]
    crop = tall[:, near_x - x0] * (1 - weight_x) + tall[:, far_x - x0] * weight_x
    return mask_from_crop(crop > threshold, left, top, size_hw)


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
