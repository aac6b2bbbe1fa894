"""Objectness cues of candidate regions, and the selection of a diverse subset of them."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from counterview.proposals.regions import AREA, FRAME, HISTOGRAMS, LENGTH, MOMENTS, STRONG, Regions

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def ellipse_fill(sums: F64) -> F64:
    """Area ``(n,)`` over the area of the ellipse with the same second moments.

    1 for an ellipse, 0.95 for a rectangle of any elongation; small for ragged, hollow and scattered regions.

    Args:
        sums: ``(n, d)`` region sums.
    """
    area = sums[:, AREA]
    x, y, xx, yy, xy = (sums[:, MOMENTS] / area[:, None]).T
    # A pixel is a square, not a point: 1/12 is its own variance.
    var_x, var_y, cov = xx - x * x + 1 / 12, yy - y * y + 1 / 12, xy - x * y
    return area / (4 * np.pi * np.sqrt(np.maximum(var_x * var_y - cov * cov, 1 / 144)))


def closedness(sums: F64, outlines: F64) -> F64:
    """Fraction ``(n,)`` of a region's outline with a visible edge, 0 to 1.

    The image border is not part of the outline.

    Args:
        sums: ``(n, d)`` region sums.
        outlines: ``(n, k)`` border sums along the outlines.
    """
    return outlines[:, STRONG] / np.maximum(outlines[:, LENGTH], 1)


def surround_contrast(members: NDArray[np.float32], sums: F64, regions: Regions) -> F64:
    """Saliency: how much colour and texture differ between candidates and their surroundings, ``(m,)``, 0 to 1.

    One minus the histogram intersection, averaged over L, a, b and gradient strength. Each surrounding region counts by
    the length of its border with the candidate.

    Args:
        members: ``(m, n)`` which regions make up every candidate, 0 or 1.
        sums: ``(m, d)`` sums of the candidates.
        regions: the n regions.
    """
    from scipy import sparse

    u, v = regions.pairs.T
    length = regions.borders[:, LENGTH].astype(np.float32)
    shared = sparse.csr_matrix(
        (np.concatenate([length, length]), (np.concatenate([u, v]), np.concatenate([v, u]))),
        shape=(len(regions), len(regions)),
    )
    adjacent = (shared @ members.T).T * (1 - members)
    histograms = (regions.sums[:, HISTOGRAMS] / regions.sums[:, [AREA]]).astype(np.float32)
    outside = adjacent @ histograms / np.maximum(adjacent.sum(1, keepdims=True), 1e-6)
    inside = sums[:, HISTOGRAMS] / sums[:, [AREA]]
    kinds = 4
    return 1 - np.minimum(inside, outside).sum(1) / kinds


def frame_fraction(sums: F64, outlines: F64) -> F64:
    """Fraction ``(n,)`` of a region's outline that is on the image border.

    Args:
        sums: ``(n, d)`` region sums.
        outlines: ``(n, k)`` border sums along the outlines.
    """
    return sums[:, FRAME] / np.maximum(sums[:, FRAME] + outlines[:, LENGTH], 1)


def select_diverse(iou: NDArray[np.float32], weight: F64, count: int, duplicate_iou: float) -> I64:
    """Select a diverse subset: every object-like candidate is well covered by a selected one.

    Facility location: the selection S maximises the sum over all candidates of ``weight`` times the best IoU with S,
    greedily, which is within 1 - 1/e of the optimum (Nemhauser, Wolsey and Fisher 1978). Gains only shrink, so most
    need not be computed again (Minoux 1978). The first k of a selection are the selection of k.

    Args:
        iou: ``(m, m)`` IoU of every two candidates.
        weight: ``(m,)`` how much each candidate should be covered, not negative.
        count: number of candidates to select at most.
        duplicate_iou: a candidate that overlaps a selected one by more is skipped.

    Returns:
        indices ``(k,)`` int64 in the order of selection.

    Example:
        Candidates 0 and 1 are nearly the same object, 2 is another.

        >>> import numpy as np
        >>> iou = np.array([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1]], np.float32)
        >>> select_diverse(iou, np.array([0.5, 0.6, 0.3]), 2, duplicate_iou=0.9).tolist()
        [1, 2]
    """
    weight = weight.astype(np.float32)
    covered = np.zeros(len(weight), dtype=np.float32)
    heap = [(-gain, index, 0) for index, gain in enumerate((iou @ weight).tolist())]
    heapq.heapify(heap)
    selected: list[int] = []
    while heap and len(selected) < count:
        _, index, when = heapq.heappop(heap)
        if covered[index] > duplicate_iou:
            continue
        if when < len(selected):
            gain = float(np.maximum(iou[index] - covered, 0) @ weight)
            heapq.heappush(heap, (-gain, index, len(selected)))
            continue
        selected.append(index)
        covered = np.maximum(covered, iou[index])
    return np.array(selected, dtype=np.int64)


def pairwise_iou(members: NDArray[np.float32], area: F64) -> NDArray[np.float32]:
    """IoU ``(m, m)`` of every two candidates.

    Args:
        members: ``(m, n)`` which regions make up every candidate, 0 or 1.
        area: ``(n,)`` area of each region.
    """
    weighted = members * area.astype(np.float32)
    common = weighted @ members.T
    total = weighted.sum(1)
    return common / (total[:, None] + total[None, :] - common)
