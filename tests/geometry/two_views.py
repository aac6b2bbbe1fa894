"""Two views of points on a plane, related by a known homography."""

from __future__ import annotations

import numpy as np

from counterview.geometry import ScoredBoxes

VIEW = np.array([[0.7, -0.25, 0.1], [0.3, 0.9, -0.2], [0.15, -0.2, 1.0]])


def project(points, matrix=VIEW):
    """Points of the query image in the target image."""
    to = np.c_[points, np.ones(len(points))] @ matrix.T
    return to[:, :2] / to[:, 2:]


def two_views(seed=0, count=30, twins=True):
    """Points of two views, and the similarity of their objects.

    Half of the objects have a twin elsewhere that is exactly as similar; a third of the points show something else.
    """
    rng = np.random.default_rng(seed)
    query = rng.uniform(-0.9, 0.9, (count, 2))
    target = project(query) + rng.normal(0, 0.01, (count, 2))
    similarity = rng.uniform(0.1, 0.4, (count, count))
    similarity[np.arange(count), np.arange(count)] = 0.75
    if twins:
        for a in range(0, count // 2, 2):
            similarity[a, a + 1] = similarity[a + 1, a] = 0.75
    target[-count // 3 :] = rng.uniform(-0.9, 0.9, (count // 3, 2))
    return query, target, similarity


def boxes_at(points, size_hw=(300, 400), side=20, scores=None):
    """Boxes whose ground points these are."""
    width = size_hw[1]
    foot = points * (width / 2) + (width / 2, size_hw[0] / 2)
    xywh = np.c_[foot - (side / 2, side), np.full((len(points), 2), side)]
    return ScoredBoxes.make(xywh, size_hw, scores)
