"""Where an object should be now: by where it was, and by how its camera moved since. Ours.

A camera that did not move is recognised by its images; for one that moved, the candidates of both images give a
homography (:mod:`counterview.geometry.homography`), as they do for two cameras.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.geometry.boxes import ground_points
from counterview.geometry.homography import Homography, HomographyConfig, find_homography
from counterview.tracking.views import EncodedView
from counterview.types import RgbImage

GRAY_PX = 160
"""Longer side of the small images by which a camera that stands still is recognised."""
_STILL_SHIFT_PX = 0.6
_STILL_DIFFERENCE = 7.0
_CANDIDATES = 100
_MOTION = HomographyConfig(samples=1000, tolerance=0.06, temperature=0.05, min_similarity=0.4, refined=10)
_STILL = Homography(np.eye(3), inlier_weight=100.0, inlier_fraction=1.0)


def small_gray(image: RgbImage) -> NDArray[np.uint8]:
    """A small grey copy ``(h, w)`` uint8 of an image ``(H, W, 3)``; its longer side has :data:`GRAY_PX` pixels."""
    height, width = image.shape[:2]
    scale = GRAY_PX / max(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class ViewSummary:
    """What is kept of an image to relate it to a later one of the same camera.

    Attributes:
        gray: ``(h, w)`` uint8, see :func:`small_gray`.
        points: ``(M, 2)`` where the best candidates stand, see :func:`~counterview.geometry.boxes.ground_points`.
        looks: ``(M, D)`` their descriptors.
        scores: ``(M,)`` of the proposer, the best 1.
    """

    gray: NDArray[np.uint8]
    points: NDArray[np.float64]
    looks: NDArray[np.float32]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, view: EncodedView[Any]) -> ViewSummary:
        """The summary of an encoded image."""
        rows = view.boxes.best(_CANDIDATES)
        boxes = view.boxes.at(rows)
        scores = np.asarray(boxes.scores, dtype=np.float64)
        return cls(view.gray, ground_points(boxes.xywh, boxes.size_hw), view.looks[rows], scores)

    def state(self) -> dict[str, Any]:
        """The contents as arrays."""
        return {"gray": self.gray, "points": self.points, "looks": self.looks, "scores": self.scores}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ViewSummary:
        """The inverse of :meth:`state`."""
        return cls(*(np.asarray(state[name]) for name in ("gray", "points", "looks", "scores")))


def is_still(earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> bool:
    """Whether a camera did not move between two small grey images ``(h, w)``, whatever moved before it."""
    if earlier.shape != later.shape:
        return False
    first, second = earlier.astype(np.float64), later.astype(np.float64)
    window = np.asarray(cv2.createHanningWindow((first.shape[1], first.shape[0]), cv2.CV_64F), dtype=np.float64)
    (dx, dy), _ = cv2.phaseCorrelate(first.copy(), second.copy(), window)  # OpenCV 5 changes its inputs
    difference = np.abs((first - np.median(first)) - (second - np.median(second)))
    return float(np.hypot(dx, dy)) < _STILL_SHIFT_PX and float(np.quantile(difference, 0.75)) < _STILL_DIFFERENCE


def camera_motion(earlier: ViewSummary, later: ViewSummary) -> Homography | None:
    """The map of points of an image to a later one of the same camera; ``None`` if they have too little in common."""
    if is_still(earlier.gray, later.gray):
        return _STILL
    if min(len(earlier.points), len(later.points)) < 4:
        return None
    similarity = earlier.looks @ later.looks.T
    return find_homography(
        earlier.points, later.points, similarity, (earlier.scores, later.scores), seed=0, config=_MOTION
    )


def stood_still(motion: Homography | None) -> bool:
    """Whether :func:`camera_motion` found that the camera did not move."""
    return motion is not None and bool((motion.query_to_target == _STILL.query_to_target).all())


@dataclass(frozen=True, eq=False)
class ExpectedPlace:
    """Where one object should stand in an image.

    Attributes:
        box_xywh: ``(4,)`` in pixels.
        point: ``(2,)``, see :func:`~counterview.geometry.boxes.ground_points`.
        is_still: whether the camera did not move since the object was there.
        support: weight of the candidates that agree on the motion, as a fraction; 1 for a camera that stood still.
    """

    box_xywh: NDArray[np.float64]
    point: NDArray[np.float64]
    is_still: bool
    support: float


def expected_place(
    box_xywh: NDArray[np.floating], size_hw: tuple[int, int], motion: Homography | None
) -> ExpectedPlace | None:
    """Carry the box of an object along with the motion of its camera.

    Args:
        box_xywh: ``(4,)`` in the earlier image, in pixels.
        size_hw: height and width of both images, in pixels.
        motion: from the earlier to the later image.

    Returns:
        ``None`` without motion, or where the object would be behind the camera.
    """
    if motion is None:
        return None
    box = np.asarray(box_xywh, dtype=np.float64)
    if stood_still(motion):
        return ExpectedPlace(box, ground_points(box[None], size_hw)[0], True, 1.0)
    point, growth, before_horizon = motion.map(ground_points(box[None], size_hw))
    if not before_horizon[0]:
        return None
    size = box[2:] * float(np.exp(np.clip(growth[0], -2, 2)))
    half_width = size_hw[1] / 2
    x, y = point[0] * half_width + (half_width, size_hw[0] / 2)
    moved = np.array([x - size[0] / 2, y - size[1], size[0], size[1]])
    return ExpectedPlace(moved, point[0], False, float(motion.inlier_fraction))


def inside(place: ExpectedPlace, size_hw: tuple[int, int]) -> float:
    """How far inside the image a place is, in halves of its width; negative outside, at most 0.5 either way."""
    limit = np.array([1.0, size_hw[0] / size_hw[1]])
    return float(np.clip((limit - np.abs(place.point)).min(), -0.5, 0.5))
