"""Baselines without weights: the same place in the other image, and a plain colour histogram.

They show how much of a score is due to the data: cameras around one table see an object in similar places, and
rendered objects keep their colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from counterview.features.base import Fallback, FeatureMap, PoolingKind
from counterview.features.colour import BINS, CHROMA_MOST, LENGTH, LabBins, histograms
from counterview.masks.geometry import iou, resize_mask
from counterview.types import ObjectMask, RgbImage, as_rgb

if TYPE_CHECKING:
    from torch import Tensor


def same_place(mask: ObjectMask, size_hw: tuple[int, int]) -> ObjectMask:
    """The query mask stretched to the target image's size: the same place relative to the image's edges.

    Args:
        mask: in the query image, any size.
        size_hw: ``(H, W)`` of the target image, in pixels.
    """
    return resize_mask(mask, size_hw)


def nearest_to_place(mask: ObjectMask, candidates: Sequence[ObjectMask]) -> int:
    """The candidate that overlaps a mask most; the one with the nearest centre where none overlaps.

    Args:
        mask: where the object is expected, at the size of the candidates.
        candidates: at least one; none of them empty.

    Returns:
        Index of a candidate.

    Raises:
        MaskError: the sizes differ.
    """
    overlaps = [iou(mask, candidate) for candidate in candidates]
    if max(overlaps) > 0 or mask.centroid_xy is None:
        return int(np.argmax(overlaps))
    centres = np.array([candidate.centroid_xy for candidate in candidates])
    return int(np.linalg.norm(centres - np.array(mask.centroid_xy), axis=1).argmin())


class LabHistogram:
    """The square root of an object's 8 x 8 x 8 histogram in CIE Lab as a backbone.

    The cosine of two such descriptors is the Bhattacharyya coefficient of the histograms. Strong where both cameras
    render a colour alike, as synthetic ones do. It uses no position, texture or context.
    """

    name = "lab-histogram"
    channels = LENGTH
    stride = 1

    def settings(self) -> dict[str, Any]:
        """Bins and their range."""
        return {"features": self.name, "bins": BINS, "chroma_most": CHROMA_MOST}

    def encode(self, image: RgbImage) -> FeatureMap:
        """A placeholder map ``(1, 1, 1)``: descriptors come from the image's pixels, kept in ``extra``.

        Args:
            image: ``(H, W, 3)`` uint8.
        """
        import torch

        image = as_rgb(image)
        size = (image.shape[0], image.shape[1])
        return FeatureMap(torch.zeros(1, 1, 1), size, size, extra=LabBins.of(image))

    def __call__(self, images: Sequence[RgbImage]) -> list[FeatureMap]:
        """Encode images ``(H, W, 3)`` uint8, one by one."""
        return [self.encode(image) for image in images]

    def describe(
        self,
        features: FeatureMap,
        masks: Sequence[ObjectMask],
        kind: PoolingKind = "mask",
        *,
        context_px: int | None = None,
        fallback: Fallback = "centre",
    ) -> Tensor:
        """Descriptors of N masks: ``(N, 512)`` float32 of unit length; zeros for a mask without pixels.

        Args:
            features: of :meth:`encode`.
            masks: N masks at the image's size.
            kind: ignored: the histogram is always over the mask.
            context_px: ignored.
            fallback: ignored.
        """
        import torch

        return torch.from_numpy(histograms(features.extra, masks))
