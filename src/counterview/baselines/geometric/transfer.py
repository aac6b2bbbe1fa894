"""From matched points to a mask: which proposal the points of an object fall into, or their convex hull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.baselines.geometric.base import F64, PointMatches
from counterview.errors import InputError
from counterview.proposals.base import Proposals
from counterview.types import BoolImage, ObjectMask


@dataclass(frozen=True, eq=False)
class ProposalVotes:
    """How the matches of one object fall on N proposals.

    Attributes:
        count: ``(N,)`` int64, matches of the object inside each proposal.
        overlap: ``(N,)`` float64 in ``[0, 1]``: IoU over matches instead of pixels. Of the matches that belong to the
            object or fall into the proposal, the fraction that does both.
        order: ``(K,)`` int64, the proposals with a match of the object, best first; of equal ones the smaller.
    """

    count: NDArray[np.int64]
    overlap: F64
    order: NDArray[np.int64]


def inside(points_xy: F64, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Which of ``(M, 2)`` points lie in an image of ``size_hw``: ``(M,)`` bool."""
    pixels = np.rint(points_xy)
    kept: NDArray[np.bool_] = (pixels >= 0).all(axis=1) & (pixels[:, 0] < size_hw[1]) & (pixels[:, 1] < size_hw[0])
    return kept


def in_mask(points_xy: F64, mask: ObjectMask) -> NDArray[np.bool_]:
    """Which of ``(M, 2)`` points fall on a pixel of a mask ``(H, W)``: ``(M,)`` bool.

    >>> in_mask(np.array([[1.4, 0.0], [0.0, 0.0], [9.0, 0.0]]), ObjectMask.from_array([[0, 1]])).tolist()
    [True, False, False]
    """
    height = mask.size_hw[0]
    kept = inside(points_xy, mask.size_hw)
    pixels = np.rint(np.where(kept[:, None], points_xy, 0)).astype(np.int64)
    index = pixels[:, 0] * height + pixels[:, 1]
    on: NDArray[np.bool_] = np.searchsorted(np.cumsum(mask.runs), index, side="right") % 2 == 1
    return kept & on


def count_in_masks(points_xy: F64, masks: Sequence[ObjectMask], size_hw: tuple[int, int]) -> NDArray[np.int64]:
    """How many of ``(M, 2)`` points fall on each of N masks of ``size_hw``: ``(N,)`` int64.

    >>> masks = [ObjectMask.from_array([[1, 1, 0]]), ObjectMask.from_array([[0, 0, 1]])]
    >>> count_in_masks(np.array([[0.0, 0.0], [1.2, 0.0], [7.0, 0.0]]), masks, (1, 3)).tolist()
    [2, 0]
    """
    height, width = size_hw
    pixels = np.rint(points_xy[inside(points_xy, size_hw)]).astype(np.int64)
    points = np.bincount(pixels[:, 0] * height + pixels[:, 1], minlength=height * width)
    before = np.concatenate(([0], np.cumsum(points)))  # of all pixels in front of one, in the order of the runs
    counts = []
    for mask in masks:
        starts, ends = mask.intervals()
        counts.append(int((before[ends] - before[starts]).sum()))
    return np.array(counts, dtype=np.int64)


def vote(
    own: PointMatches, total: NDArray[np.int64], proposals: Proposals, by: Literal["overlap", "count"] = "overlap"
) -> ProposalVotes:
    """Order the proposals of the target image by the matches of one object.

    The proposal with the most matches alone is often too large: whatever contains the object contains its matches.
    ``overlap`` also looks at the matches of everything else that fall into a proposal.

    Args:
        own: the object's matches.
        total: ``(N,)`` int64, all matches inside each proposal, from :func:`count_in_masks`.
        proposals: N masks of the target image.
        by: what the proposals are ordered by.

    >>> masks = [[[1, 1, 1, 1]], [[1, 1, 0, 0]]]  # a table, and a cup on it
    >>> proposals = Proposals((1, 4), tuple(ObjectMask.from_array(mask) for mask in masks), [1.0, 1.0])
    >>> target = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])  # two points of the cup, two of the table
    >>> matches = PointMatches(target, target, np.ones(4))
    >>> total = count_in_masks(target, proposals.masks, (1, 4))
    >>> votes = vote(matches.take([0, 1]), total, proposals)
    >>> votes.count.tolist(), votes.overlap.tolist(), votes.order.tolist()
    ([2, 2], [0.5, 1.0], [1, 0])
    """
    count = count_in_masks(own.target_xy, proposals.masks, proposals.size_hw)
    overlap = count / np.maximum(len(own) + total - count, 1)
    area = np.array([mask.area for mask in proposals.masks])
    order = np.lexsort((area, -count if by == "count" else -overlap))
    return ProposalVotes(count, overlap, order[count[order] > 0])


def hull(points_xy: F64, size_hw: tuple[int, int]) -> ObjectMask:
    """The convex hull of ``(M, 2)`` points as a mask of ``size_hw``, its outline included.

    Points outside the image are left out; of fewer than three, or of points on a line, the mask is that line.

    Raises:
        InputError: no point in the image.

    >>> hull(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]), (4, 4)).to_array().astype(int).tolist()
    [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    """
    pixels = np.rint(points_xy[inside(points_xy, size_hw)]).astype(np.int32)
    if not len(pixels):
        raise InputError("no point of the hull is in the image", expected=f"points in {size_hw[1]} x {size_hw[0]}")
    canvas: NDArray[np.uint8] = np.zeros(size_hw, dtype=np.uint8)
    cv2.fillConvexPoly(canvas, cv2.convexHull(pixels), 1)
    dense: BoolImage = canvas.astype(np.bool_)
    return ObjectMask.from_array(dense)
