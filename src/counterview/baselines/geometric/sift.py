"""``sift``: SIFT keypoints (Lowe 2004) with square-rooted descriptors (Arandjelović and Zisserman 2012). No weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from counterview.baselines.geometric.base import ImageKeypoints, PointMatches
from counterview.baselines.geometric.descriptors import nearest_descriptors
from counterview.baselines.geometric.scaling import grey, input_hw, resized, to_image_px
from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.types import RgbImage, as_rgb


@dataclass(frozen=True)
class SiftSettings:
    """Settings of the ``sift`` matcher."""

    max_keypoints: int = field(default=8192, metadata={"help": "keypoints of an image, the strongest first"})
    contrast_threshold: float = field(
        default=0.01, metadata={"help": "weaker keypoints are dropped (OpenCV's scale, where its default is 0.04)"}
    )
    max_ratio: float = field(
        default=0.8, metadata={"help": "largest ratio of the distances to the best and second best descriptor"}
    )
    longest_side_px: int = field(default=1600, metadata={"help": "larger images are scaled down to this longer side"})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "max_keypoints", "longest_side_px", at_least=1),
            *out_of_range(self, "contrast_threshold", at_least=0),
            *out_of_range(self, "max_ratio", above=0, at_most=1),
        ]
        if problems:
            raise ConfigError("invalid settings of the sift matcher: " + "; ".join(problems))


class SiftMatcher:
    """Mutual nearest neighbours of SIFT descriptors that pass Lowe's ratio test.

    A match's confidence is one minus the ratio of the distances to the best and to the second best descriptor.

    Args:
        settings: see :class:`SiftSettings`.
    """

    name = "sift"

    def __init__(self, settings: SiftSettings | None = None) -> None:
        self._settings = settings or SiftSettings()

    def settings(self) -> dict[str, Any]:
        """All settings."""
        return dataclasses.asdict(self._settings)

    def encode(self, image: RgbImage) -> ImageKeypoints:
        """Keypoints and ``(N, 128)`` float32 descriptors of an image ``(H, W, 3)``, the strongest first.

        Raises:
            ImageError: another shape or dtype.
        """
        image, settings = as_rgb(image), self._settings
        size = (image.shape[0], image.shape[1])
        scaled = input_hw(size, settings.longest_side_px, enlarge=False)
        # Without the precise upscaling, all positions are a quarter of a pixel off.
        detector: Any = cv2.SIFT_create(  # type: ignore[attr-defined]
            settings.max_keypoints, 3, settings.contrast_threshold, 10, 1.6, cv2.CV_32F, True
        )
        keypoints, descriptors = detector.detectAndCompute(resized(grey(image), scaled), None)
        if not keypoints:
            return ImageKeypoints(size, np.zeros((0, 2)), np.zeros(0), np.zeros((0, 128), np.float32))
        scores = np.array([keypoint.response for keypoint in keypoints], dtype=np.float64)
        order = np.argsort(-scores, kind="stable")[: settings.max_keypoints]  # OpenCV keeps more where scores are equal
        xy = to_image_px(np.array([keypoint.pt for keypoint in keypoints], dtype=np.float64), scaled, size)
        roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12))
        return ImageKeypoints(size, xy[order], scores[order], roots[order].astype(np.float32))

    def match(self, query: ImageKeypoints, target: ImageKeypoints) -> PointMatches:
        """See :meth:`counterview.baselines.geometric.base.ImageMatcher.match`."""
        if len(query) == 0 or len(target) < 2:  # the ratio test compares two
            return PointMatches.none()
        near = nearest_descriptors(query.descriptors, target.descriptors)
        ratio, mutual = near.ratio, near.back[near.index] == np.arange(len(query))
        kept = np.flatnonzero(mutual & (ratio <= self._settings.max_ratio))
        return PointMatches(query.xy[kept], target.xy[near.index[kept]], 1.0 - ratio[kept])
