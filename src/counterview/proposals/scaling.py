"""Masks at the size of the image from maps of another size, without building the whole image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from counterview.proposals.base import mask_from_crop
from counterview.types import ObjectMask


def mask_from_field(
    field: NDArray[np.float32],
    level: float,
    size_hw: tuple[int, int],
    *,
    within_hw: tuple[int, int] | None = None,
    offset_yx: tuple[int, int] = (0, 0),
) -> ObjectMask:
    """Where a map, resized bilinearly to an image, exceeds a level.

    Pixel centres lie at halves and the rim is repeated, as with torch's ``interpolate(mode="bilinear",
    align_corners=False)`` without antialiasing. Only the part that can exceed the level is resized.

    Args:
        field: ``(h, w)`` float.
        level: what to exceed.
        size_hw: size that the map is resized to, in pixels.
        within_hw: size of the image, if the map covers only a part of it.
        offset_yx: row and column of that part in the image.
    """
    within_hw = size_hw if within_hw is None else within_hw
    above: NDArray[np.bool_] = field > level
    if not above.any():
        return ObjectMask.empty(within_hw)
    rows, top = _axis(np.flatnonzero(above.any(axis=1)), field.shape[0], size_hw[0])
    columns, left = _axis(np.flatnonzero(above.any(axis=0)), field.shape[1], size_hw[1])
    near_y, far_y, share_y = rows
    near_x, far_x, share_x = columns
    x0, x1 = near_x[0], far_x[-1] + 1
    strip = field[:, x0:x1]
    tall = strip[near_y] * (1 - share_y)[:, None] + strip[far_y] * share_y[:, None]
    crop = tall[:, near_x - x0] * (1 - share_x) + tall[:, far_x - x0] * share_x
    return mask_from_crop(crop > level, left + offset_yx[1], top + offset_yx[0], within_hw)


def mask_from_window(
    window: NDArray[np.float32],
    origin_yx: tuple[int, int],
    field_hw: tuple[int, int],
    level: float,
    size_hw: tuple[int, int],
) -> ObjectMask:
    """:func:`mask_from_field` of a map that is zero outside a window, without building the map.

    Args:
        window: ``(h, w)`` float, the map where it is not zero.
        origin_yx: row and column of the window in the map.
        field_hw: size of the map.
        level: what to exceed, not negative.
        size_hw: size that the map is resized to, in pixels.
    """
    above: NDArray[np.bool_] = window > level
    if not above.any():
        return ObjectMask.empty(size_hw)
    (near_y, far_y, share_y), top = _axis(np.flatnonzero(above.any(axis=1)) + origin_yx[0], field_hw[0], size_hw[0])
    (near_x, far_x, share_x), left = _axis(np.flatnonzero(above.any(axis=0)) + origin_yx[1], field_hw[1], size_hw[1])
    # As much around the window as the first and the last target position may reach.
    around = int(np.ceil(max(field_hw[0] / size_hw[0], field_hw[1] / size_hw[1]))) + 2
    padded = np.pad(window, around)
    y0, x0 = origin_yx[0] - around, origin_yx[1] - around
    tall = padded[near_y - y0] * (1 - share_y)[:, None] + padded[far_y - y0] * share_y[:, None]
    crop = tall[:, near_x - x0] * (1 - share_x) + tall[:, far_x - x0] * share_x
    return mask_from_crop(crop > level, left, top, size_hw)


def _axis(
    used: NDArray[np.int64], source: int, target: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]], int]:
    """For the target positions that ``used`` reaches: the two source positions, the share of the second; the first."""
    scale = source / target
    first = max(int(np.floor((used[0] - 0.5) / scale - 0.5)), 0)
    last = min(int(np.ceil((used[-1] + 1.5) / scale - 0.5)), target - 1)
    at = np.clip((np.arange(first, last + 1) + 0.5) * scale - 0.5, 0, source - 1)
    near = at.astype(np.int64)
    far = np.minimum(near + 1, source - 1)
    return (near, far, (at - near).astype(np.float32)), first
