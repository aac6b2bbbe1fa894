"""Plain colour histograms of masks: the square root of an 8 x 8 x 8 histogram in CIE Lab."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.masks.lattice import lattice_runs, with_centres
from counterview.types import ObjectMask, RgbImage

BINS = 8
"""Bins of each of L, a and b."""
CHROMA_MOST = 32.0
"""Bins of a and b go from minus this to this; values beyond are counted in the outermost ones.

On 784 queries of 24 rendered takes, accuracy among the true masks was 0.68 with it, 0.64 with 64, and 0.58 with 128,
the full range."""
LENGTH = BINS**3
"""Number of bins of a histogram."""


def lab_bins(image: RgbImage) -> NDArray[np.int16]:
    """Histogram bin of every pixel.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.

    Returns:
        ``(H * W,)`` int16, 0 to 511, column by column, as run lengths are.

    Example:
        >>> import numpy as np
        >>> lab_bins(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)).tolist()
        [36, 484]
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    light = lab[..., 0] / 100
    chroma = (lab[..., 1:] + CHROMA_MOST) / (2 * CHROMA_MOST)
    bins = [np.clip((v * BINS).astype(np.int16), 0, BINS - 1) for v in (light, chroma[..., 0], chroma[..., 1])]
    return np.ravel((bins[0] * BINS + bins[1]) * BINS + bins[2], order="F")


@dataclass(frozen=True, eq=False)
class LabBins:
    """The bins of all pixels of an image.

    Attributes:
        size_hw: height and width of the image in pixels.
        bins: ``(H * W,)`` of :func:`lab_bins`.
    """

    size_hw: tuple[int, int]
    bins: NDArray[np.int16]

    @classmethod
    def of(cls, image: RgbImage) -> LabBins:
        """Those of an image ``(H, W, 3)`` uint8."""
        return cls((image.shape[0], image.shape[1]), lab_bins(image))


def histograms(image: LabBins, masks: Sequence[ObjectMask]) -> NDArray[np.float32]:
    """Square roots of the masks' colour histograms; their cosine is the Bhattacharyya coefficient.

    Args:
        image: the bins of the image.
        masks: N masks of its size, or all of another resolution of it: these are sampled at the image's, and one that
            would vanish keeps the pixel at its centre.

    Returns:
        ``(N, 512)`` float32 of unit length, zeros for an empty mask.

    Example:
        >>> import numpy as np
        >>> from counterview.types import ObjectMask
        >>> image = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
        >>> rows = histograms(LabBins.of(image), [ObjectMask.from_array(np.array([[True, True]]))])
        >>> rows.shape, np.flatnonzero(rows).tolist(), round(float(rows.max()), 4)
        ((1, 512), [36, 484], 0.7071)
    """
    rows = np.zeros((len(masks), LENGTH), dtype=np.float32)
    for row, (starts, ends) in zip(rows, _intervals(image.size_hw, masks), strict=True):
        if len(starts):
            inside = np.concatenate([image.bins[start:end] for start, end in zip(starts, ends, strict=True)])
            row[:] = np.bincount(inside, minlength=LENGTH)
        row /= max(1.0, row.sum())
    return np.sqrt(rows)


def _intervals(
    size_hw: tuple[int, int], masks: Sequence[ObjectMask]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Of each mask at a size, starts and ends of its runs as :meth:`ObjectMask.intervals` has them."""
    if all(mask.size_hw == size_hw for mask in masks):
        yield from (mask.intervals() for mask in masks)
        return
    own = masks[0].size_hw
    runs = with_centres(lattice_runs(masks, own, size_hw), masks, own, size_hw)
    bounds = np.searchsorted(runs.owner, np.arange(len(masks) + 1))
    first = runs.column * size_hw[0]
    for row in range(len(masks)):
        of_mask = slice(bounds[row], bounds[row + 1])
        yield (first + runs.top)[of_mask], (first + runs.bottom)[of_mask]
