"""Over-segmentation: an image as a region adjacency graph with additive descriptors.

Watershed basins of the colour gradient are merged until a fixed number of regions is left. Every descriptor of a region
is a sum over its pixels and every descriptor of a border is a sum over its pixel pairs, so that unions of regions are
described by adding, without another pass over the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.proposals.flooding import flood
from counterview.proposals.merging import merge_tree, sum_by_pair
from counterview.types import RgbImage

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

AREA = 0
"""Column of the region sums: number of pixels."""
LAB = slice(1, 4)
"""Columns: L, a and b."""
MOMENTS = slice(4, 9)
"""Columns: x, y, x*x, y*y, x*y."""
FRAME = 9
"""Column: pixels on the image border."""
HISTOGRAMS = slice(10, 62)
"""Columns: histograms of L, a, b and gradient strength, one after the other; each sums to the area."""

LENGTH = 0
"""Column of the border sums: number of pixel pairs."""
STRENGTH = 1
"""Column: gradient strength."""
STRONG = 2
"""Column: number of pixel pairs with a visible edge, see :data:`STRONG_GRADIENT`."""

STRONG_GRADIENT = 3.0
"""Lab units a pixel from which an edge counts as visible: above sensor noise and JPEG's ringing."""

BINS = (12, 16, 16, 8)
"""Bins of the histograms of L, a, b and gradient strength."""


@dataclass(frozen=True, eq=False)
class Regions:
    """An image as a region adjacency graph.

    Attributes:
        labels: ``(h, w)`` int64, region of every pixel, ``0 … n-1``.
        sums: ``(n, d)`` float64 sums over the pixels of each region; columns as named in this module.
        pairs: ``(e, 2)`` int64 neighbouring regions, smaller index first.
        borders: ``(e, 3)`` float64 sums over the pixel pairs between them; columns as named in this module.
    """

    labels: I64
    sums: F64
    pairs: I64
    borders: F64

    def __len__(self) -> int:
        return len(self.sums)


def oversegment(image: RgbImage, regions: int, smoothing_px: float = 0.8) -> Regions:
    """Over-segment an image into at most ``regions`` regions of even colour.

    Args:
        image: ``(h, w, 3)`` uint8, RGB, at working size.
        regions: number of regions to stop at; an image of one colour has one.
        smoothing_px: standard deviation of the Gaussian before the gradient.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((8, 12, 3), np.uint8)
        >>> image[:, 6:] = 255
        >>> regions = oversegment(image, 2)
        >>> regions.labels[0].tolist()
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
        >>> regions.sums[:, AREA].tolist(), regions.pairs.tolist(), regions.borders[:, LENGTH].tolist()
        ([48.0, 48.0], [[0, 1]], [8.0])
    """
    lab = np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)
    smooth = cv2.GaussianBlur(lab, (0, 0), smoothing_px) if smoothing_px else lab
    gradient = gradient_strength(np.asarray(smooth, dtype=np.float32))
    labels = _basins(gradient)
    colour = pixel_sums(labels, lab)
    pairs, borders = _borders(labels, gradient)
    tree = merge_tree(colour, pairs, borders, ward_cost, stop_at=regions)
    labels = tree.final_labels()[labels]
    pairs, borders = _borders(labels, gradient)
    sums = np.concatenate([pixel_sums(labels, lab), descriptors(labels, lab, gradient)], axis=1)
    return Regions(labels, sums, pairs, borders)


def gradient_strength(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """Norm ``(h, w)`` of the Sobel gradient of an image ``(h, w, 3)`` over its channels, in Lab units a pixel."""
    dx = cv2.Sobel(lab, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(lab, cv2.CV_32F, 0, 1, scale=1 / 8)
    return np.sqrt(np.einsum("hwc,hwc->hw", dx, dx) + np.einsum("hwc,hwc->hw", dy, dy))


def step_between(sums: F64, columns: slice, u: I64, v: I64) -> F64:
    """Euclidean distance ``(e,)`` between the means of two regions.

    Args:
        sums: ``(n, d)``.
        columns: of the sums, whose means are compared.
        u: ``(e,)`` one region of each pair.
        v: ``(e,)`` the other.
    """
    step = sums[u, columns] / sums[u, AREA, None] - sums[v, columns] / sums[v, AREA, None]
    return np.asarray(np.sqrt(np.einsum("ec,ec->e", step, step)))


def ward_cost(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    """Growth ``(e,)`` of the squared error when two regions are given one colour (Ward 1963).

    A :data:`~counterview.proposals.merging.Cost`.
    """
    a, b = sums[u, AREA], sums[v, AREA]
    difference = sums[u, LAB] / a[:, None] - sums[v, LAB] / b[:, None]
    return a * b / (a + b) * np.einsum("ec,ec->e", difference, difference)


def _basins(gradient: NDArray[np.float32]) -> I64:
    """Watershed basins ``(h, w)`` of the gradient, one for each of its regional minima."""
    low = gradient <= cv2.erode(gradient, np.ones((3, 3), np.uint8))
    _, markers = cv2.connectedComponents(low.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return flood(gradient, np.asarray(markers)) - 1


def pixel_sums(labels: I64, lab: NDArray[np.float32]) -> F64:
    """Area and Lab sums ``(n, 4)`` of every region, the first four columns.

    Args:
        labels: ``(h, w)`` region of every pixel.
        lab: ``(h, w, 3)``.
    """
    flat, count = labels.ravel(), int(labels.max()) + 1
    channels = [np.bincount(flat, lab[..., c].ravel(), count) for c in range(3)]
    return np.stack([np.bincount(flat, minlength=count), *channels], 1).astype(np.float64)


def descriptors(labels: I64, lab: NDArray[np.float32], gradient: NDArray[np.float32]) -> F64:
    """Moments, pixels on the image border and histograms ``(n, 58)`` of every region, in the order of the columns.

    Args:
        labels: ``(h, w)`` region of every pixel.
        lab: ``(h, w, 3)``.
        gradient: ``(h, w)`` gradient strength.
    """
    (height, width), flat, count = labels.shape, labels.ravel(), int(labels.max()) + 1
    y, x = np.divmod(np.arange(height * width, dtype=np.float64), width)
    columns = [np.bincount(flat, values, count) for values in (x, y, x * x, y * y, x * y)]
    border = np.concatenate([labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1]])
    columns.append(np.bincount(border, minlength=count))
    steps = (
        lab[..., 0] * (BINS[0] / 100),
        (lab[..., 1] + 80) * (BINS[1] / 160),
        (lab[..., 2] + 80) * (BINS[2] / 160),
        np.log2(gradient + 1e-3) + 1,
    )
    tables = []
    for values, bins in zip(steps, BINS, strict=True):
        step = np.clip(values, 0, bins - 1).astype(np.int64).ravel()
        tables.append(np.bincount(flat * bins + step, minlength=count * bins).reshape(count, bins))
    return np.concatenate([np.stack(columns, 1), *tables], 1).astype(np.float64)


def _borders(labels: I64, gradient: NDArray[np.float32]) -> tuple[I64, F64]:
    """Neighbouring regions ``(e, 2)`` and sums ``(e, 3)`` over the pixel pairs (left-right, up-down) between them."""
    ends, strengths = [], []
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        apart = labels[near] != labels[far]
        ends.append(np.stack([labels[near][apart], labels[far][apart]], 1))
        strengths.append(np.maximum(gradient[near][apart], gradient[far][apart]))
    strength = np.concatenate(strengths).astype(np.float64)
    values = np.stack([np.ones_like(strength), strength, strength > STRONG_GRADIENT], 1)
    return sum_by_pair(np.concatenate(ends), values)
