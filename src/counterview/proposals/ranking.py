"""Which of thousands of possible regions are worth keeping: how object-like each is, and a varied choice."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from counterview.proposals.regions import AREA, FRAME, HISTOGRAMS, LENGTH, MOMENTS, STRONG, Regions

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def ellipse_fill(sums: F64) -> F64:
    """Area over the area of the ellipse with the same second moments, ``(n, d)`` to ``(n,)``.

    1 for an ellipse, 0.95 for a rectangle of any elongation; small for ragged, hollow and scattered regions.
    """
    area = sums[:, AREA]
    x, y, xx, yy, xy = (sums[:, MOMENTS] / area[:, None]).T
    # A pixel is a square, not a point: 1/12 is its own variance.
    var_x, var_y, cov = xx - x * x + 1 / 12, yy - y * y + 1 / 12, xy - x * y
    return area / (4 * np.pi * np.sqrt(np.maximum(var_x * var_y - cov * cov, 1 / 144)))


def closedness(sums: F64, outlines: F64) -> F64:
    """Share of a region's outline along which the image changes, ``(n,)``.

    Where the image ends nothing is known of the outline: it counts as if it were not there.
    """
    return outlines[:, STRONG] / np.maximum(outlines[:, LENGTH], 1)


def surround_contrast(members: NDArray[np.float32], sums: F64, regions: Regions) -> F64:
    """How much colours and texture differ between each candidate and the regions around it, 0 to 1.

    One minus the histogram intersection, averaged over L, a, b and gradient strength. Each region around
    counts by the length of the border that it shares.

    Args:
        members: ``(m, n)`` which regions make up every candidate, 0 or 1.
        sums: ``(m, d)`` their sums.
    """
    u, v = regions.pairs.T
    length = regions.borders[:, LENGTH].astype(np.float32)
    shared = sparse.csr_matrix(
        (np.concatenate([length, length]), (np.concatenate([u, v]), np.concatenate([v, u]))),
        shape=(len(regions), len(regions)),
    )
    around = (shared @ members.T).T * (1 - members)
    histograms = (regions.sums[:, HISTOGRAMS] / regions.sums[:, [AREA]]).astype(np.float32)
    outside = around @ histograms / np.maximum(around.sum(1, keepdims=True), 1e-6)
    inside = sums[:, HISTOGRAMS] / sums[:, [AREA]]
    kinds = 4
    return 1 - np.minimum(inside, outside).sum(1) / kinds


def rim_share(sums: F64, outlines: F64) -> F64:
    """Share of a region's outline that lies on the rim of the image, ``(n,)``."""
    return sums[:, FRAME] / np.maximum(sums[:, FRAME] + outlines[:, LENGTH], 1)


def choose_varied(iou: NDArray[np.float32], weight: F64, count: int, duplicate_iou: float) -> I64:
    """Choose candidates so that every object-like candidate has a good stand-in among the chosen.

    Facility location: the choice S maximises the sum over all candidates of ``weight`` times the best IoU
    with S, greedily, which is within 1 - 1/e of the optimum (Nemhauser, Wolsey and Fisher 1978). Gains only
    shrink, so most need not be computed again (Minoux 1978). Any first part of the result is itself a choice.

    Args:
        iou: ``(m, m)`` IoU of every two candidates.
        weight: ``(m,)`` how much each candidate should be covered, not negative.
        count: number to choose at most.
        duplicate_iou: a candidate that overlaps a chosen one by more is passed over.

    Returns:
        indices in the order of choice.
    """
    weight = weight.astype(np.float32)
    covered = np.zeros(len(weight), dtype=np.float32)
    nearest = np.zeros(len(weight), dtype=np.float32)
    heap = [(-gain, index, 0) for index, gain in enumerate((iou @ weight).tolist())]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, index, when = heapq.heappop(heap)
        if nearest[index] > duplicate_iou:
            continue
        if when < len(chosen):
            gain = float(np.maximum(iou[index] - covered, 0) @ weight)
            heapq.heappush(heap, (-gain, index, len(chosen)))
            continue
        chosen.append(index)
        covered = np.maximum(covered, iou[index])
        nearest = covered
    return np.array(chosen, dtype=np.int64)


def pairwise_iou(members: NDArray[np.float32], area: F64) -> NDArray[np.float32]:
    """IoU of every two candidates ``(m, n)`` over regions of ``area (n,)``: ``(m, m)``."""
    weighted = members * area.astype(np.float32)
    common = weighted @ members.T
    total = weighted.sum(1)
    return common / (total[:, None] + total[None, :] - common)
