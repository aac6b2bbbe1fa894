"""What speaks for each candidate being an object, as numbers: looks, place, and the match from another camera. Ours.

Cosines are brought to one scale for all models: 0 is how alike two candidates of the image are on average, 1 is equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.geometry.boxes import ground_points
from counterview.masks.geometry import box_iou, iou
from counterview.tracking.place import ExpectedPlace, inside
from counterview.tracking.views import EncodedView
from counterview.types import ObjectMask

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Evidence(IntEnum):
    """Columns of the evidence for a candidate. Evidence that is missing is 0, and so is its ``HAS_``."""

    HAS_MEMORY = 0
    """1 where the object was seen in this camera before."""
    LOOK_BEST = 1
    """Its likeness to the most similar entry of the object's bank in this camera."""
    LOOK_MEAN = 2
    """Mean likeness to all entries, weighted by the frames that they stand for."""
    LOOK_LAST = 3
    """Likeness to the newest entry."""
    LOOK_LEAD = 4
    """How far :attr:`LOOK_BEST` is below that of the best candidate."""
    LOOK_MARGIN = 5
    """How much more it is like this object than like any other object's bank in this camera."""
    HAS_CROSS = 6
    """1 where the object is known in another camera at the same time."""
    CROSS_LOG = 7
    """Logarithm of the probability by the match from there."""
    CROSS_SIMILARITY = 8
    """Cosine of that match."""
    CROSS_LEAD = 9
    """How far that is below the best candidate's."""
    CROSS_VISIBILITY = 10
    """Logit of the visibility by that match."""
    HAS_OTHER = 11
    """1 where another camera's bank of the object has entries."""
    OTHER_BEST = 12
    """Likeness to the most similar entry of the other cameras' banks."""
    OTHER_LEAD = 13
    """How far that is below the best candidate's."""
    HAS_PLACE = 14
    """1 where a place is expected, less the less candidates agree on the camera's motion."""
    MASK_OVERLAP = 15
    """IoU with the mask at the time when the object was last seen, if the camera stood still since."""
    BOX_OVERLAP = 16
    """IoU of its box with the expected one."""
    NEAR = 17
    """How near it stands to the expected point; 0 to 1 within a small radius."""
    NEARBY = 18
    """The same within a larger one."""
    SIZE = 19
    """Absolute logarithm of its area over the expected one."""
    SCORE = 20
    """The proposer's score, the best 1."""
    AGE = 21
    """Logarithm of the steps since the object was seen in this camera."""
    WAS_VISIBLE = 22
    """Visibility in the step before."""
    INSIDE = 23
    """How far inside the image the expected place is."""


_NEAR, _NEARBY = 0.05, 0.2
"""Radii in halves of the image width."""
_MIN_LOG = -12.0


@dataclass(frozen=True, eq=False)
class Remembered:
    """What the memories say of one object in one camera.

    Attributes:
        own: ``(K, N)`` cosines of its bank in this camera with the candidates.
        counts: ``(K,)`` frames that these entries stand for.
        other: ``(L, N)`` cosines of its banks in other cameras.
        rivals: ``(R, N)`` cosines of all other objects' banks in this camera.
        place: where it should be.
        last_mask: ``(H, W)`` when it was last seen here.
        last_area: its pixels, as expected now.
        age: steps since then.
        visibility: in the step before.
    """

    own: F32
    counts: NDArray[np.int64]
    other: F32
    rivals: F32
    place: ExpectedPlace | None
    last_mask: ObjectMask | None
    last_area: float
    age: int
    visibility: float


@dataclass(frozen=True, eq=False)
class CrossMatch:
    """One object's row of a :class:`~counterview.tracking.views.ViewComparison`: ``(N,)``, ``(N,)`` and a number."""

    similarity: F64
    log_probability: F64
    visibility: float


def likeness_scale(looks: F32) -> tuple[float, float]:
    """Mean cosine of different candidates ``(N, D)`` of an image, and its distance to 1: the scale of likeness."""
    if len(looks) < 2:
        return 0.0, 1.0
    total = float(looks.sum(0) @ looks.sum(0)) - len(looks)
    mean = min(total / (len(looks) * (len(looks) - 1)), 0.95)
    return mean, 1.0 - mean


def evidence(view: EncodedView[Any], remembered: Remembered | None, cross: CrossMatch | None) -> F32:
    """The evidence for every candidate of an image being one object.

    Args:
        view: the image with its N candidates.
        remembered: what the memories say; ``None`` for an object that no camera remembers.
        cross: the match from another camera at the same time.

    Returns:
        ``(N, 24)`` float32 in the order of :class:`Evidence`.
    """
    table = np.zeros((len(view.masks), len(Evidence)), dtype=np.float32)
    table[:, Evidence.SCORE] = view.boxes.scores
    if cross is not None:
        table[:, Evidence.HAS_CROSS] = 1
        table[:, Evidence.CROSS_LOG] = np.maximum(cross.log_probability, _MIN_LOG) / 4
        table[:, Evidence.CROSS_SIMILARITY] = cross.similarity
        table[:, Evidence.CROSS_LEAD] = cross.similarity - cross.similarity.max()
        p = min(max(cross.visibility, 1e-4), 1 - 1e-4)
        table[:, Evidence.CROSS_VISIBILITY] = np.log(p / (1 - p)) / 4
    if remembered is not None:
        _add_looks(table, view, remembered)
        _add_place(table, view, remembered)
    return table


def _add_looks(table: F32, view: EncodedView[Any], remembered: Remembered) -> None:
    mean, scale = likeness_scale(view.looks)
    own, other, rivals = ((c - mean) / scale for c in (remembered.own, remembered.other, remembered.rivals))
    if len(own):
        best = own.max(0)
        table[:, Evidence.HAS_MEMORY] = 1
        table[:, Evidence.LOOK_BEST] = best
        table[:, Evidence.LOOK_MEAN] = remembered.counts @ own / remembered.counts.sum()
        table[:, Evidence.LOOK_LAST] = own[-1]
        table[:, Evidence.LOOK_LEAD] = best - best.max()
        if len(rivals):
            table[:, Evidence.LOOK_MARGIN] = best - rivals.max(0)
    if len(other):
        best = other.max(0)
        table[:, Evidence.HAS_OTHER] = 1
        table[:, Evidence.OTHER_BEST] = best
        table[:, Evidence.OTHER_LEAD] = best - best.max()


def _add_place(table: F32, view: EncodedView[Any], remembered: Remembered) -> None:
    table[:, Evidence.AGE] = np.log1p(remembered.age) / 3
    table[:, Evidence.WAS_VISIBLE] = remembered.visibility
    place = remembered.place
    if place is None:
        return
    boxes = np.asarray(view.boxes.xywh, dtype=np.float64)
    offset = ground_points(boxes, view.size_hw) - place.point
    squared = (offset**2).sum(1)
    overlap = box_iou(boxes, place.box_xywh[None])[:, 0]
    table[:, Evidence.HAS_PLACE] = place.support
    table[:, Evidence.BOX_OVERLAP] = overlap
    table[:, Evidence.NEAR] = np.exp(-squared / (2 * _NEAR**2))
    table[:, Evidence.NEARBY] = np.exp(-squared / (2 * _NEARBY**2))
    area = max(remembered.last_area, 1.0)
    table[:, Evidence.SIZE] = np.clip(np.abs(np.log(np.maximum(view.areas, 1) / area)), 0, 3)
    table[:, Evidence.INSIDE] = inside(place, view.size_hw)
    if place.is_still and remembered.last_mask is not None:
        for row in np.flatnonzero(overlap > 0.1):
            table[row, Evidence.MASK_OVERLAP] = iou(view.masks[int(row)], remembered.last_mask)
