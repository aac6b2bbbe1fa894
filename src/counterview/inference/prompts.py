"""Points and boxes on an object of the query image, and the proposals that they select as query masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterview.errors import ImageError, InputError, MaskError, ProposalError
from counterview.masks.geometry import box_iou, intersection
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask

MAX_POINT_FRACTION = 0.5
"""A point does not select a proposal that covers a larger fraction of the image: that is background."""


@dataclass(frozen=True)
class Point:
    """A pixel of the query image, as :func:`mask_at` takes it.

    Attributes:
        x_px: column, counted from the left edge.
        y_px: row, counted from the top edge.

    >>> Point(12, 7.5).check((480, 640))
    >>> Point(640, 0).check((480, 640))
    Traceback (most recent call last):
    counterview.errors.InputError: the point 640,0 is outside the query image; expected x from 0 to 639 and y from ...
    """

    x_px: float
    y_px: float

    def check(self, size_hw: tuple[int, int]) -> None:
        """Check that the point is inside an image of height and width ``size_hw``.

        Raises:
            InputError: the point is outside.
        """
        height, width = size_hw
        if not (0 <= self.x_px < width and 0 <= self.y_px < height):
            raise InputError(
                f"the point {self.x_px:g},{self.y_px:g} is outside the query image",
                expected=f"x from 0 to {width - 1} and y from 0 to {height - 1}",
            )


@dataclass(frozen=True)
class Box:
    """A box around an object of the query image, as :func:`mask_at` takes it.

    It covers the pixels ``x1_px <= x < x2_px`` and ``y1_px <= y < y2_px``.

    Attributes:
        x1_px: left edge.
        y1_px: top edge.
        x2_px: right edge, exclusive.
        y2_px: bottom edge, exclusive.

    >>> Box(10, 20, 60, 80).check((480, 640))
    >>> Box(10, 20, 10, 80).check((480, 640))
    Traceback (most recent call last):
    counterview.errors.InputError: the box 10,20,10,80 is empty; expected X1 < X2 and Y1 < Y2
    """

    x1_px: float
    y1_px: float
    x2_px: float
    y2_px: float

    def check(self, size_hw: tuple[int, int]) -> None:
        """Check that the box is not empty and is inside an image of height and width ``size_hw``.

        Raises:
            InputError: the box is empty or reaches outside the image.
        """
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
    """Check that a query mask ``(H, W)`` has the size of its image and is not empty.

    Args:
        mask: the mask.
        size_hw: height and width of the image in pixels.
        name: of the object, for the error message.

    Raises:
        MaskError: the mask is empty or of another size.
    """
    if mask.size_hw != tuple(size_hw):
        raise MaskError(
            f"the mask {name!r} does not fit the query image",
            found=f"{mask.size_hw[1]} x {mask.size_hw[0]}",
            expected=f"{size_hw[1]} x {size_hw[0]}",
            fix="Draw the mask on the image at its own size.",
        )
    if mask.is_empty:
        raise MaskError(f"the mask {name!r} is empty", expected="at least one pixel")


def check_prompt(prompt: ObjectMask | Point | Box, size_hw: tuple[int, int], name: str) -> None:
    """Check that a mask, point or box fits its image, before anything is computed.

    Args:
        prompt: the mask ``(H, W)``, point or box.
        size_hw: height and width of the image in pixels.
        name: of the object, for the error message.

    Raises:
        MaskError: a mask that is empty or of another size.
        InputError: a point or box outside the image, or an empty box.
    """
    if isinstance(prompt, ObjectMask):
        check_query_mask(prompt, size_hw, name)
    else:
        prompt.check(size_hw)


MAX_ASPECT = 20
"""Images that are longer than this many times their other side are refused: strips, not views of a scene."""


def check_shape(size_hw: tuple[int, int], what: str) -> None:
    """Check that an image may be a view of a scene, before anything is computed.

    Args:
        size_hw: its height and width in pixels.
        what: names it in the error message.

    Raises:
        ImageError: a strip.
    """
    if max(size_hw) > MAX_ASPECT * min(size_hw):
        raise ImageError(
            f"the {what} is a strip", found=f"{size_hw[1]} x {size_hw[0]}",
            expected=f"a longer side of at most {MAX_ASPECT} times the shorter", fix="Give the whole image.",
        )  # fmt: skip


MIN_PIXELS = 4
"""A query mask with fewer pixels describes nothing."""

MAX_QUERY_FRACTION = 0.8
"""A query mask that covers more of its image is background, or inverted."""

DOUBTFUL_VISIBILITY = 0.5
"""Largest visibility for a query mask that :func:`doubts_on` doubts: not called visible, whatever the match."""


def doubts_on(mask: ObjectMask) -> tuple[str, ...]:
    """Why a query mask ``(H, W)`` hardly shows an object, in sentences for the user; empty if it may.

    Args:
        mask: with at least one pixel.

    >>> dense = np.zeros((40, 60), dtype=bool)
    >>> dense[10:12, 10:20] = True
    >>> doubts_on(ObjectMask.from_array(dense))
    ()
    >>> doubts_on(ObjectMask.from_array(~dense))
    ('the query mask covers 99 % of its image: it may be inverted, or the background',)
    """
    fraction = mask.area / (mask.size_hw[0] * mask.size_hw[1])
    if mask.area < MIN_PIXELS:
        number = f"{mask.area} pixel" + ("" if mask.area == 1 else "s")
        return (f"the query mask has {number}: too few to describe an object",)
    if fraction > MAX_QUERY_FRACTION:
        what = "all" if fraction == 1 else f"{fraction:.0%}".replace("%", " %")
        return (f"the query mask covers {what} of its image: it may be inverted, or the background",)
    return ()


def mask_at(prompt: Point | Box, proposals: Proposals) -> ObjectMask:
    """The proposal that a point or a box selects.

    A point selects the proposal with the best score among those that contain it and are not background
    (:data:`MAX_POINT_FRACTION`). A box selects the proposal with the largest product of two numbers: the IoU of its
    own box with the given box, and the fraction of its pixels inside the given box.

    Args:
        prompt: a point or a box of the image.
        proposals: masks ``(H, W)`` of the image.

    Returns:
        one of the masks, ``(H, W)``.

    Raises:
        InputError: the prompt is outside the image.
        ProposalError: no proposal at the point or in the box.

    >>> masks = np.zeros((2, 40, 60), dtype=bool)
    >>> masks[0, 10:20, 10:20] = masks[1, 5:30, 5:40] = True
    >>> mug, tray = map(ObjectMask.from_array, masks)
    >>> proposals = Proposals((40, 60), (mug, tray), np.array([0.9, 0.8]))
    >>> mask_at(Point(12, 12), proposals) == mug, mask_at(Point(30, 25), proposals) == tray
    (True, True)
    >>> mask_at(Box(9, 9, 22, 22), proposals) == mug, mask_at(Box(4, 4, 42, 30), proposals) == tray
    (True, True)
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
            eligible = inside and mask.area <= MAX_POINT_FRACTION * height * width
            if eligible and (best is None or proposals.scores[index] > proposals.scores[best]):
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
    box_mask = ObjectMask.from_array(window)
    values = np.array(
        [
            overlap[i] * intersection(mask, box_mask) / mask.area if overlap[i] > 0 and mask.area else 0.0
            for i, mask in enumerate(masks)
        ]
    )
    best = int(values.argmax())
    if values[best] <= 0:
        raise ProposalError("no proposal is in the box", fix="Give a larger box or a mask.")
    return masks[best]
