"""Move a mask's edge to the object's boundary, where the bundled boundary network sees one close by."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from counterview.proposals.flooding import flood
from counterview.tracking.flow import F32, U8
from counterview.tracking.warping import Window
from counterview.types import BoolImage, RgbImage

if TYPE_CHECKING:
    from counterview.proposals.bundled import BoundaryModel

_CONTEXT_PX = 24
"""Pixels around a mask that the network sees, beside the mask."""
_GAIN = 0.05
"""By how much the mean boundary probability along the new edge has to exceed that along the old one."""


class BoundarySnap:
    """Edges of masks are moved by a watershed of predicted boundaries within a narrow band.

    Args:
        reach_px: half the width of the band, pixels.
    """

    def __init__(self, reach_px: int = 3) -> None:
        self._reach = reach_px

    @cached_property
    def _model(self) -> BoundaryModel:
        from counterview.proposals.bundled import load_boundary  # torch: not needed for flow alone

        return load_boundary()

    def __call__(self, image: RgbImage, window: Window, mask: BoolImage) -> BoolImage:
        """Snap one mask.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            window: part of the image.
            mask: ``(h, w)`` bool, within the window, not empty.

        Returns:
            ``(h, w)`` bool: the mask as it was, where the image supports no better edge.
        """
        wide = window.grown(_CONTEXT_PX, (image.shape[0], image.shape[1]))
        edge = self._model(np.ascontiguousarray(image[wide.slices])).edge
        top, left = window.top - wide.top, window.left - wide.left
        return snap_to(edge[top : top + mask.shape[0], left : left + mask.shape[1]], mask, self._reach)


def snap_to(edge: U8, mask: BoolImage, reach_px: int) -> BoolImage:
    """Move a mask's edge to ridges of a boundary map.

    Args:
        edge: ``(h, w)`` uint8, 255 times the probability of a boundary.
        mask: ``(h, w)`` bool.
        reach_px: how far the edge may move.

    Returns:
        ``(h, w)`` bool: the mask as it was, where the moved edge lies on no stronger boundary.
    """
    kernel, dense = np.ones((3, 3), np.uint8), mask.astype(np.uint8)
    core = cv2.erode(dense, kernel, iterations=reach_px, borderType=cv2.BORDER_REPLICATE) > 0
    near = cv2.dilate(dense, kernel, iterations=reach_px) > 0
    if not core.any() or near.all():  # too small, or no background to flood from
        return mask
    # Distance from the old edge decides where there is no boundary: the edge then stays.
    inside, outside = cv2.distanceTransform(dense, cv2.DIST_L2, 3), cv2.distanceTransform(1 - dense, cv2.DIST_L2, 3)
    height = np.asarray(edge.astype(np.float32) / 255 - 0.02 * np.maximum(inside, outside), dtype=np.float32)
    flooded = flood(height, core.astype(np.int32) + 2 * (~near).astype(np.int32)) == 1
    gained = _along(edge, flooded) - _along(edge, mask)
    return np.asarray(flooded) if gained > _GAIN else mask


def _along(edge: U8, mask: BoolImage) -> float:
    """Mean boundary probability along a mask's edge: of each pixel pair across it, the higher."""
    values: list[F32] = []
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        across = mask[near] != mask[far]
        values.append(np.maximum(edge[near][across], edge[far][across]).astype(np.float32))
    return float(np.concatenate(values).mean()) / 255 if sum(map(len, values)) else 0.0
