"""Pointing at an object: a mask, a point or a box in the query image becomes a query mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterview.errors import InputError, MaskError, ProposalError
from counterview.masks.geometry import box_iou, intersection
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask

MAX_POINT_SHARE = 0.5
"""A proposal that covers more of the image than this is background, not what somebody points at."""


@dataclass(frozen=True)
class Point:
    """A pixel of the query image, ``x`` to the right and ``y`` down, from the top left corner."""

    x_px: float
    y_px: float

    def check(self, size_hw: tuple[int, int]) -> None:
        """Raise ``InputError`` if the point lies outside an image of ``size_hw``."""
        height, width = size_hw
        if not (0 <= self.x_px < width and 0 <= self.y_px < height):
            raise InputError(
                f"the point {self.x_px:g},{self.y_px:g} lies outside the query image",
                expected=f"x from 0 to {width - 1} and y from 0 to {height - 1}",
            )


@dataclass(frozen=True)
class Box:
    """A box of the query image by two corners; the second lies outside of it by one pixel."""

    x1_px: float
    y1_px: float
    x2_px: float
    y2_px: float

    def check(self, size_hw: tuple[int, int]) -> None:
        """Raise ``InputError`` if the box is empty or reaches outside an image of ``size_hw``."""
        height, width = size_hw
        text = f"the box {self.x1_px:g},{self.y1_px:g},{self.x2_px:g},{self.y2_px:g}"
        if not (self.x1_px < self.x2_px and self.y1_px < self.y2_px):
            raise InputError(f"{text} is empty", expected="X1 < X2 and Y1 < Y2")
        if self.x1_px < 0 or self.y1_px < 0 or self.x2_px > width or self.y2_px > height:
            raise InputError(
                f"{text} reaches outside the query image",
                expected=f"x from 0 to {width} and y from 0 to {height}",
            )


def check_query_mask(mask: ObjectMask, size_hw: tuple[int, int], name: str) -> None:
    """Raise ``MaskError`` if a query mask is empty or of another size than its image."""
    if mask.size_hw != tuple(size_hw):
        raise MaskError(
            f"the mask {name!r} does not fit the query image",
            found=f"{mask.size_hw[1]} x {mask.size_hw[0]}",
            expected=f"{size_hw[1]} x {size_hw[0]}",
            fix="Draw the mask on the image at its own size.",
        )
    if mask.is_empty:
        raise MaskError(f"the mask {name!r} is empty", expected="at least one pixel inside")


def mask_at(prompt: Point | Box, proposals: Proposals) -> ObjectMask:
    """The proposal that a point or a box means.

    A point means the best-scored proposal that contains it and is no background; a box means the proposal
    whose own box overlaps it most, weighted by the share of the proposal that lies inside.

    Raises:
        InputError: the prompt lies outside the image.
        ProposalError: no proposal is there.
    """
    prompt.check(proposals.size_hw)
    masks = proposals.masks
    height, width = proposals.size_hw
    if isinstance(prompt, Point):
        column, row = int(prompt.x_px), int(prompt.y_px)
        pixel = np.array([column * height + row])
        best = None
        for index, mask in enumerate(masks):
            inside = np.searchsorted(np.cumsum(mask.runs), pixel, side="right")[0] % 2 == 1
            fits = inside and mask.area <= MAX_POINT_SHARE * height * width
            if fits and (best is None or proposals.scores[index] > proposals.scores[best]):
                best = index
        if best is None:
            raise ProposalError(
                f"no proposal contains the point {prompt.x_px:g},{prompt.y_px:g}",
                fix="Point at another part of the object, or give a box or a mask.",
            )
        return masks[best]
    if not masks:
        raise ProposalError("the query image has no proposals", fix="Give a mask.")
    x1, y1, x2, y2 = prompt.x1_px, prompt.y1_px, prompt.x2_px, prompt.y2_px
    overlap = box_iou(np.array([[x1, y1, x2 - x1, y2 - y1]]), proposals.boxes_xywh)[0]
    window = np.zeros((height, width), dtype=np.bool_)
    window[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
    frame = ObjectMask.from_array(window)
    value = np.array(
        [
            overlap[i] * intersection(mask, frame) / mask.area if overlap[i] > 0 and mask.area else 0.0
            for i, mask in enumerate(masks)
        ]
    )
    best = int(value.argmax())
    if value[best] <= 0:
        raise ProposalError("no proposal lies in the box", fix="Give a larger box or a mask.")
    return masks[best]
