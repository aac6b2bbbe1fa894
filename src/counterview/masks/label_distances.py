"""Distances between labels, outlines and lines, for :mod:`counterview.masks.labels`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def gaps_to_points(
    corners: NDArray[np.int64], size_wh: tuple[int, int], points: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Distances in pixels of boxes of one size at ``(K, 2)`` corners from points, ``(K, P)``.

    Args:
        corners: ``(K, 2)`` top left corners ``x, y``.
        size_wh: width and height of the boxes in pixels.
        points: ``(P, 2)``, ``x, y``.
    """
    dx, dy = (
        np.maximum(
            np.maximum(corners[:, None, i] - points[:, i], points[:, i] - corners[:, None, i] - size_wh[i] + 1), 0
        )
        for i in (0, 1)
    )
    return np.hypot(dx, dy)


def gaps_to_box(corners: NDArray[np.int64], size_wh: tuple[int, int], points: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distances ``(K,)`` as of :func:`gaps_to_points`, from the box around the points: none is nearer.

    Args:
        corners: ``(K, 2)`` top left corners ``x, y``.
        size_wh: width and height of the boxes in pixels.
        points: ``(P, 2)``, ``x, y``.
    """
    low, high = points.min(0), points.max(0)
    dx, dy = (
        np.maximum(np.maximum(corners[:, i] - high[i], low[i] - corners[:, i] - size_wh[i] + 1), 0) for i in (0, 1)
    )
    return np.hypot(dx, dy)


def between(points: NDArray[np.int64], low: Any, high: Any) -> NDArray[np.bool_]:
    """Whether points ``(…, 2)`` lie in boxes from ``low`` to below ``high``, ``(…)``.

    Args:
        points: ``x, y``.
        low: ``(…, 2)``, broadcast to them.
        high: likewise, excluded.
    """
    inside = (points >= low) & (points < high)
    return np.asarray(inside[..., 0] & inside[..., 1])


def points_on_lines(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """24 points on each line between points, ``(K, 24, 2)``.

    Args:
        starts: ``(K, 2)``.
        ends: ``(K, 2)``.
    """
    way = np.linspace(0, 1, 24)[None, :, None]
    return (starts[:, None] * (1 - way) + ends[:, None] * way).round().astype(np.int64)
