"""A key mask moved to another frame along composed flow, from one side or from both."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.tracking.flow import F32, U8, sample
from counterview.types import BoolImage, ObjectMask, RgbImage

_PAD_PX = 6
"""Working pixels around a moved mask in which its flow is kept."""
_ALIKE = 10.0
"""Grey levels by which a pixel may differ from where it came from, and count as the same."""
_FAR_PX = 6.0
"""Distances from a mask's edge are cut off here before two masks are blended."""


@dataclass(frozen=True)
class Window:
    """A part of an image: rows ``top`` to ``bottom``, columns ``left`` to ``right``, the ends not included."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the part of an ``(H, W)`` array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.bottom - self.top, self.right - self.left

    def grown(self, by_px: int, size_hw: tuple[int, int]) -> Window:
        """With ``by_px`` more on each side, within an image of height and width ``size_hw``."""
        return Window(
            max(0, self.left - by_px),
            max(0, self.top - by_px),
            min(size_hw[1], self.right + by_px),
            min(size_hw[0], self.bottom + by_px),
        )

    def around(self, other: Window) -> Window:
        """The smallest window that holds both."""
        return Window(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def scaled(self, by_xy: tuple[float, float], size_hw: tuple[int, int]) -> Window:
        """The same part of an image of another height and width, rounded outwards."""
        return Window(
            max(0, int(np.floor(self.left * by_xy[0]))),
            max(0, int(np.floor(self.top * by_xy[1]))),
            min(size_hw[1], int(np.ceil(self.right * by_xy[0]))),
            min(size_hw[0], int(np.ceil(self.bottom * by_xy[1]))),
        )


def window_of(mask: BoolImage) -> Window | None:
    """The smallest window with all of a mask ``(H, W)``; None for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


class KeyMask:
    """An object's mask in a key frame, ready to be sampled.

    Args:
        mask: ``(H, W)``, not empty.
        image: ``(h, w, 3)`` uint8, the key frame at working size.

    Attributes:
        size_hw: height and width of the mask.
        small: ``(h, w)`` uint8 at working size, 255 inside.
        level: value of ``small`` from which a pixel counts as inside.
        area: working pixels inside.
        contrast: mean difference of the object's colours from their median, grey levels.
    """

    def __init__(self, mask: ObjectMask, image: RgbImage) -> None:
        self.size_hw = mask.size_hw
        dense = mask.to_array().view(np.uint8) * 255
        self.small: U8 = np.asarray(
            cv2.resize(dense, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA), np.uint8
        )
        x, y, width, height = mask.box_xywh
        window = Window(x, y, x + width, y + height).grown(2, self.size_hw)
        self._corner = np.array([window.left, window.top], np.float32)
        self._pixels: U8 = np.ascontiguousarray(dense[window.slices])
        # A far object may cover no working pixel by half.
        self.level = min(128.0, 0.5 * float(self.small.max()))
        inside = self.small >= self.level
        self.area = float(inside.sum())
        colours = image[inside].astype(np.float32)
        self.contrast = float(np.abs(colours - np.median(colours, axis=0)).mean())

    def at(self, places_px: F32) -> F32:
        """How far places ``(h, w, 2)``, (x, y) in the mask's own pixels, are inside: ``(h, w)`` float32, 0 to 1."""
        local = places_px - self._corner
        return np.asarray(sample(self._pixels, local, False) / np.float32(255), np.float32)


@dataclass(frozen=True, eq=False)
class WarpedMask:
    """A key mask in another frame.

    Attributes:
        key: the mask that was moved.
        window: where it is, at working size, with some room.
        places: ``(h, w, 2)`` float32, for each pixel of the window its place in the key frame, at working size.
        trust: ``(h, w)`` float32, 0 to 1, how consistent the flow was.
        kept: ``(h, w)`` float32, 0 where the mask is dropped: at its edge, where the flow was not consistent and the
            colour is another one. Behind an object that moves, what it uncovers takes its flow and would be dragged
            along.
        consistency: fraction of it with consistent flow, before any of it was dropped.
        growth: its area over that of the key mask.
        residual: mean difference of colours from the key frame within the mask, grey levels, apart from a common shift.
    """

    key: KeyMask
    window: Window
    places: F32
    trust: F32
    kept: F32
    consistency: float
    growth: float
    residual: float

    def at_full_size(self, window: Window) -> tuple[F32, F32]:
        """The mask and its trust, each ``(H, W)`` float32 from 0 to 1, within a window of the full-size image."""
        scale = self._scale()
        own = self.window.scaled(scale, self.key.size_hw)
        # Pixel centres: full-size x is at working (x + 0.5) / scale - 0.5.
        matrix = np.array(
            [
                [1 / scale[0], 0, (own.left + 0.5) / scale[0] - 0.5 - self.window.left],
                [0, 1 / scale[1], (own.top + 0.5) / scale[1] - 0.5 - self.window.top],
            ]
        )
        size_wh, how = own.size_hw[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        shifts = np.asarray(cv2.warpAffine(self._shifts(), matrix, size_wh, flags=how, borderMode=cv2.BORDER_REPLICATE))
        y, x = np.mgrid[own.top : own.bottom, own.left : own.right].astype(np.float32)
        inside = self.key.at((shifts * np.array(scale) + np.stack([x, y], -1)).astype(np.float32))
        trust, kept = (
            cv2.warpAffine(values, matrix, size_wh, flags=how, borderMode=cv2.BORDER_REPLICATE)
            for values in (self.trust, self.kept)
        )
        full_mask, full_trust = np.zeros(window.size_hw, np.float32), np.ones(window.size_hw, np.float32)
        at = np.s_[own.top - window.top : own.bottom - window.top, own.left - window.left : own.right - window.left]
        full_mask[at], full_trust[at] = np.minimum(inside, kept), trust
        return full_mask, full_trust

    def full_window(self) -> Window:
        """Its window in the full-size image."""
        return self.window.scaled(self._scale(), self.key.size_hw)

    def _scale(self) -> tuple[float, float]:
        height, width = self.key.small.shape
        return self.key.size_hw[1] / width, self.key.size_hw[0] / height

    def _shifts(self) -> F32:
        """``(h, w, 2)`` px at working size, from each pixel to its place in the key frame."""
        y, x = np.mgrid[self.window.top : self.window.bottom, self.window.left : self.window.right].astype(np.float32)
        return self.places - np.stack([x, y], -1)


def warp(key: KeyMask, places: F32, trust: F32, residual: F32) -> WarpedMask | None:
    """Move a key mask to a frame.

    Args:
        key: the mask.
        places: ``(h, w, 2)``, where each pixel of the frame was in the key frame, at working size.
        trust: ``(h, w)``, how consistent the flow was.
        residual: ``(h, w, 3)``, see :meth:`counterview.tracking.flow.FlowChain.residual`.

    Returns:
        None where nothing of it is left.
    """
    small = sample(key.small, places, False)
    inside = small >= key.level
    tight = window_of(inside)
    if tight is None:
        return None
    height, width = inside.shape
    window = tight.grown(_PAD_PX, (height, width))
    within, trusted = inside[window.slices], trust[window.slices]
    consistent = within & (trusted >= 0.5)
    # What is enclosed by consistent flow stays.
    closed = cv2.morphologyEx(consistent.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
    differences = residual[window.slices] - np.median(residual[window.slices][within], axis=0)
    kept = closed | ~within | (np.abs(differences).mean(-1) <= _ALIKE)
    if not (within & kept).any():
        return None
    return WarpedMask(
        key,
        window,
        places[window.slices].copy(),
        trusted.copy(),
        kept.astype(np.float32),
        float(consistent.sum()) / float(within.sum()),
        float((within & kept).sum()) / key.area,
        float(np.abs(differences[within & kept]).mean()),
    )


def agreement(one: WarpedMask, other: WarpedMask) -> float:
    """IoU of two masks of one frame, at full size."""
    window = one.full_window().around(other.full_window())
    a, b = one.at_full_size(window)[0] >= 0.5, other.at_full_size(window)[0] >= 0.5
    union = int((a | b).sum())
    return float((a & b).sum()) / union if union else 0.0


def blend(one: WarpedMask, other: WarpedMask | None, weight: float) -> tuple[Window, BoolImage]:
    """One mask out of two.

    Their signed distances are averaged, so that an edge that two masks place differently comes to lie between.

    Args:
        one: of the nearer or farther key frame.
        other: of the other; None where there is none.
        weight: of ``other``, from 0 to 1.

    Returns:
        a window of the full-size image, and the mask ``(H, W)`` bool within.
    """
    window = one.full_window() if other is None else one.full_window().around(other.full_window())
    mask, trust = one.at_full_size(window)
    if other is None:
        return window, mask >= 0.5
    second, second_trust = other.at_full_size(window)
    # The least trust is not none: where both are in doubt, time decides.
    share = (1 - weight) * (0.1 + trust), weight * (0.1 + second_trust)
    distance = share[0] * _signed_distance(mask >= 0.5) + share[1] * _signed_distance(second >= 0.5)
    return window, distance > 0


def _signed_distance(mask: BoolImage) -> F32:
    """Distance of each pixel ``(H, W)`` from the mask's edge, px, positive inside, cut off far from it."""
    # A frame of zeros: a mask that fills its window has an edge, too.
    padded = np.pad(mask.view(np.uint8), 1)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    outside = cv2.distanceTransform(1 - padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(np.clip(inside - outside, -_FAR_PX, _FAR_PX), np.float32)


def whole_image(window: Window, mask: BoolImage, size_hw: tuple[int, int]) -> ObjectMask:
    """A mask of a window as one of the image of height and width ``size_hw``."""
    full: NDArray[np.bool_] = np.zeros(size_hw, np.bool_)
    full[window.slices] = mask
    return ObjectMask.from_array(full)
