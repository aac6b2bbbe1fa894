"""The proposals that points and boxes select as query masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterview.errors import ProposalError
from counterview.geometry.boxes import relative_scores
from counterview.inference.prompts import Box, Point, Prompt, as_box, as_point
from counterview.masks.geometry import box_iou, intersection
from counterview.proposals.base import Proposals
from counterview.types import BoolImage, ObjectMask, RgbImage

MAX_POINT_FRACTION = 0.5
"""A point does not select a proposal that covers a larger fraction of the image: that is background."""

CENTRALITY_WEIGHT, SMALLNESS_WEIGHT = 0.7, 0.3
"""What counts for a point beside a proposal's score (the best 1): how deep inside it the point lies (0 to 1), and the
negative logarithm of the fraction of the image that it covers. Fitted on rendered takes: ``benchmarks/pointing.py``."""

RIM_LEVEL = 16
"""Largest value of any channel on the dark rim of a fisheye image."""
RIM_FRACTION = (0.01, 0.4)
"""Smallest and largest fraction of an image that its dark rim covers."""
RIM_RADIUS = 0.97
"""Smallest distance of the rim from the image's centre, in halves of its longer side: dark objects that touch the rim
are nearer."""


@dataclass(frozen=True)
class Selection:
    """The query mask that a prompt means.

    Attributes:
        mask_rle: the mask, ``(H, W)``.
        notes: what the user should know of it.
    """

    mask_rle: ObjectMask
    notes: tuple[str, ...] = ()


def mask_at(prompt: Point | Box | Prompt, proposals: Proposals) -> ObjectMask:
    """The mask of :func:`select`, without its notes.

    Args:
        prompt: a point, a box, or several of them for one object.
        proposals: masks ``(H, W)`` of the image.

    Raises:
        InputError, ProposalError: see :func:`select`.

    >>> masks = np.zeros((2, 40, 60), dtype=bool)
    >>> masks[0, 10:20, 10:20] = masks[1, 5:30, 5:40] = True
    >>> mug, tray = map(ObjectMask.from_array, masks)
    >>> proposals = Proposals((40, 60), (mug, tray), np.array([0.9, 0.8]))
    >>> mask_at(Point(12, 12), proposals) == mug, mask_at(Point(30, 25), proposals) == tray
    (True, True)
    >>> mask_at(Box(9, 9, 22, 22), proposals) == mug, mask_at(Box(4, 4, 42, 30), proposals) == tray
    (True, True)
    >>> mask_at(Prompt(points=[(12, 12), (30, 25)]), proposals) == tray
    True
    >>> mask_at(Prompt(points=[(12, 12)], background=[(30, 25)]), proposals) == mug
    True
    """
    return select(prompt, proposals).mask_rle


def select(prompt: Point | Box | Prompt, proposals: Proposals, image: RgbImage | None = None) -> Selection:
    """The proposal that a prompt selects.

    A point selects among the proposals that contain it and are not background (:data:`MAX_POINT_FRACTION`). People
    point at the middle of things: beside its score, a proposal counts the more the deeper the point lies in it, and the
    smaller it is (:data:`CENTRALITY_WEIGHT`). A box selects the proposal with the largest product of two numbers: the
    IoU of its own box with the given box, and the fraction of its pixels inside the given box.

    Several points select the best such proposal that contains them all and no background point. Where none does, the
    best ones for the single points are joined, and a note says so.

    Args:
        prompt: a point, a box, or several of them for one object.
        proposals: masks ``(H, W)`` of the image.
        image: ``(H, W, 3)`` uint8; with it, a point on the dark rim of a fisheye image is refused.

    Returns:
        one of the masks ``(H, W)``, or the union of several.

    Raises:
        InputError: the prompt is outside the image.
        ProposalError: no proposal at the point or in the box; or only background, or the dark rim of the image.
    """
    prompt.check(proposals.size_hw)
    if isinstance(prompt, Point):
        prompt = Prompt(points=(prompt,))
    elif isinstance(prompt, Box):
        prompt = Prompt(box=prompt)
    points = [as_point(point) for point in prompt.points]
    rim = None if image is None or not points else dark_rim(image)
    for point in points:
        if rim is not None and rim[int(point.y_px), int(point.x_px)]:
            raise ProposalError(
                f"the point {point.x_px:g},{point.y_px:g} is on the dark rim around the image of the lens",
                fix="Point at the object itself.",
            )
    if prompt.box is None:
        height, width = proposals.size_hw
        small = np.array([mask.area <= MAX_POINT_FRACTION * height * width for mask in proposals.masks], dtype=bool)
        values = np.where(small, _point_values(proposals, points), -np.inf)
    else:
        if not proposals.masks:
            raise ProposalError("the query image has no proposals", fix="Give a mask.")
        fits = _box_fits(as_box(prompt.box), proposals)
        if fits.max() <= 0:
            raise ProposalError("no proposal is in the box", fix="Give a larger box or a mask.")
        values = np.where(fits > 0, fits, -np.inf)
    background = [as_point(point) for point in prompt.background]
    values = np.where(_contains(proposals, background).any(axis=1), -np.inf, values)
    inside = _contains(proposals, points)
    together = np.where(inside.all(axis=1), values, -np.inf)
    if together.size and together.max() > -np.inf:
        return Selection(proposals.masks[int(together.argmax())])
    if not points:  # a box with background points
        raise ProposalError(
            "every proposal in the box contains a background point", fix="Leave one out, or give a mask."
        )
    chosen: list[int] = []
    for number, point in enumerate(points):
        single = np.where(inside[:, number], values, -np.inf)
        if not single.size or single.max() == -np.inf:
            raise _nothing_at(point, inside[:, number], bool(background) or prompt.box is not None)
        if int(single.argmax()) not in chosen:
            chosen.append(int(single.argmax()))
    union = np.logical_or.reduce([proposals.masks[i].to_array() for i in chosen])
    note = f"no proposal holds all {len(points)} points: the union of {len(chosen)} proposals was taken"
    return Selection(ObjectMask.from_array(union), (note,))


def dark_rim(image: RgbImage) -> BoolImage | None:
    """The black rim around the round image of a fisheye camera, ``(H, W)`` bool; ``None`` without one.

    Args:
        image: ``(H, W, 3)`` uint8.
    """
    import cv2

    dark = (image.max(axis=2) <= RIM_LEVEL).astype(np.uint8)
    _, labels = cv2.connectedComponents(dark, connectivity=4)
    corners = {int(labels[y, x]) for y in (0, -1) for x in (0, -1)} - {0}
    rim: BoolImage = np.isin(labels, list(corners))
    if not RIM_FRACTION[0] <= rim.mean() <= RIM_FRACTION[1]:
        return None
    height, width = rim.shape
    distance = np.hypot(np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2)
    return rim & (distance >= RIM_RADIUS * max(height, width) / 2)


def _nothing_at(point: Point, inside: NDArray[np.bool_], restricted: bool) -> ProposalError:
    """Why no proposal was selected by a point.

    Args:
        point: the point.
        inside: ``(N,)``, which proposals contain it.
        restricted: whether background points or a box may have refused them.
    """
    text = f"{point.x_px:g},{point.y_px:g}"
    if inside.any() and restricted:
        return ProposalError(
            f"nothing at the point {text} agrees with the background points and the box",
            fix="Leave one of them out, or give a mask.",
        )
    if inside.any():
        return ProposalError(
            f"only background was found at the point {text}",
            fix="Point at an object, or give a box or a mask.",
        )
    return ProposalError(
        f"no object was found at the point {text}",
        fix="Point at another part of the object, or give a box or a mask.",
    )


def _contains(proposals: Proposals, points: Sequence[Point]) -> NDArray[np.bool_]:
    """Whether each of N proposals contains each of P points, ``(N, P)``."""
    height = proposals.size_hw[0]
    pixels = np.array([int(p.x_px) * height + int(p.y_px) for p in points], dtype=np.int64)
    inside = [np.searchsorted(np.cumsum(mask.runs), pixels, side="right") % 2 == 1 for mask in proposals.masks]
    return np.array(inside, dtype=bool).reshape(len(proposals.masks), len(points))


def _point_values(proposals: Proposals, points: Sequence[Point]) -> NDArray[np.float64]:
    """How well each of N proposals answers to P points, ``(N,)``; of use for those alone that contain one of them."""
    height, width = proposals.size_hw
    inside = _contains(proposals, points)
    depths = np.zeros(len(proposals.masks))
    for i in np.flatnonzero(inside.any(axis=1)):
        here = [point for point, is_in in zip(points, inside[i], strict=True) if is_in]
        depths[i] = float(np.mean(_depths(proposals.masks[int(i)], here)))
    areas = np.array([mask.area for mask in proposals.masks], dtype=np.float64) / (height * width)
    scores = relative_scores(proposals.scores.astype(np.float64))
    return scores + CENTRALITY_WEIGHT * depths - SMALLNESS_WEIGHT * np.log(np.maximum(areas, 1e-9))


def _depths(mask: ObjectMask, points: Sequence[Point]) -> list[float]:
    """How deep inside a mask points lie: 0 at its edge, 1 where it is deepest."""
    import cv2

    x, y, width, height = mask.box_xywh
    crop = np.pad(mask.to_array()[y : y + height, x : x + width].astype(np.uint8), 1)
    distance = cv2.distanceTransform(crop, cv2.DIST_L2, 5)
    deepest = max(float(distance.max()), 1e-9)
    return [float(distance[int(p.y_px) - y + 1, int(p.x_px) - x + 1]) / deepest for p in points]


def _box_fits(box: Box, proposals: Proposals) -> NDArray[np.float64]:
    """How well each of N proposals fits a box, ``(N,)``: IoU of the boxes times the fraction of its pixels inside."""
    height, width = proposals.size_hw
    x1, y1, x2, y2 = box.x1_px, box.y1_px, box.x2_px, box.y2_px
    overlap = box_iou(np.array([[x1, y1, x2 - x1, y2 - y1]]), proposals.boxes_xywh)[0]
    window = np.zeros((height, width), dtype=np.bool_)
    window[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
    box_mask = ObjectMask.from_array(window)
    return np.array(
        [
            overlap[i] * intersection(mask, box_mask) / mask.area if overlap[i] > 0 and mask.area else 0.0
            for i, mask in enumerate(proposals.masks)
        ]
    )
