"""Nearest neighbours between two sets of descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterview.baselines.geometric.base import F64

_ROWS = 1024  # of a similarity matrix at once: 8192 keypoints on both sides would be 268 MB


@dataclass(frozen=True, eq=False)
class NearestDescriptors:
    """The nearest of M target descriptors for each of N query descriptors.

    Attributes:
        index: ``(N,)`` int64, the nearest target.
        cosine: ``(N,)`` float64, its cosine.
        second: ``(N,)`` float64, the cosine of the second nearest; -1 if M is 1.
        back: ``(M,)`` int64, the nearest query of each target.
    """

    index: NDArray[np.int64]
    cosine: F64
    second: F64
    back: NDArray[np.int64]

    @property
    def ratio(self) -> F64:
        """``(N,)`` in ``[0, 1]``: distance to the nearest divided by that to the second nearest, 1 if both are 0."""
        near, far = (np.sqrt(np.maximum(2.0 - 2.0 * cosine, 0.0)) for cosine in (self.cosine, self.second))
        return np.where(far > 0, near / np.where(far > 0, far, 1.0), 1.0)


def nearest_descriptors(query: NDArray[np.float32], target: NDArray[np.float32]) -> NearestDescriptors:
    """Compare all descriptors of two images, a block at a time.

    Args:
        query: ``(N, D)``, of unit length.
        target: ``(M, D)``, of unit length, M at least 1.

    >>> near = nearest_descriptors(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[::-1])
    >>> near.index.tolist(), near.back.tolist(), near.ratio.tolist()
    ([1, 0], [1, 0], [0.0, 0.0])
    """
    index, back = np.empty(len(query), dtype=np.int64), np.zeros(len(target), dtype=np.int64)
    cosine, second = np.empty(len(query)), np.full(len(query), -1.0)
    best_of_target = np.full(len(target), -np.inf, dtype=np.float32)
    columns = np.arange(len(target))
    for start in range(0, len(query), _ROWS):
        similarity = query[start : start + _ROWS] @ target.T
        rows, block = np.arange(len(similarity)), slice(start, start + _ROWS)
        nearest_query = similarity.argmax(axis=0)
        values = similarity[nearest_query, columns]
        better = values > best_of_target
        back[better], best_of_target[better] = nearest_query[better] + start, values[better]
        nearest = similarity.argmax(axis=1)
        index[block], cosine[block] = nearest, similarity[rows, nearest]
        if len(target) > 1:
            similarity[rows, nearest] = -np.inf
            second[block] = similarity.max(axis=1)
    return NearestDescriptors(index, cosine, second, back)
