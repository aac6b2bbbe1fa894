"""Plain colour histograms of masks: the square root of an 8 x 8 x 8 histogram in CIE Lab."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.types import ObjectMask, RgbImage

BINS = 8
"""Bins of each of L, a and b."""
CHROMA_MOST = 32.0
"""Bins of a and b go from minus this to this; what lies beyond is counted in the last one. On 784 questions of 24
rendered takes, accuracy among the true masks was 0.68 with it, 0.64 with 64, and 0.58 with 128, the whole range."""
LENGTH = BINS**3
"""Bins in all."""


def lab_bins(image: RgbImage) -> NDArray[np.int64]:
    """``(H * W,)`` number of each pixel's bin, column-major as masks are."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    light = lab[..., 0] / 100
    chroma = (lab[..., 1:] + CHROMA_MOST) / (2 * CHROMA_MOST)
    whole = [np.clip((v * BINS).astype(np.int64), 0, BINS - 1) for v in (light, chroma[..., 0], chroma[..., 1])]
    return np.ravel((whole[0] * BINS + whole[1]) * BINS + whole[2], order="F")


def histograms(bins: NDArray[np.int64], masks: Sequence[ObjectMask]) -> NDArray[np.float32]:
    """Square-rooted histograms ``(N, 512)`` of unit length, whose cosine is Bhattacharyya's; zeros without a pixel.

    Args:
        bins: of the image, from :func:`lab_bins`.
        masks: N masks at the image's size.
    """
    rows = np.zeros((len(masks), LENGTH), dtype=np.float32)
    for row, mask in zip(rows, masks, strict=True):
        for start, end in zip(*mask.intervals(), strict=True):
            row += np.bincount(bins[start:end], minlength=LENGTH)
        row /= max(1.0, row.sum())
    return np.sqrt(rows)
