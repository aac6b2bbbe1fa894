"""Neighbouring masks of an image, by Delaunay triangulation of centroids (paper: Hard Negative Adjacent Mining)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError
from counterview.types import ObjectMask


def centroids_yx(masks: Sequence[ObjectMask] | NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean pixel position of each mask.

    Args:
        masks: N masks, of any sizes; or ``(N, H, W)`` bool.

    Returns:
        ``(N, 2)`` row and column; NaN for an empty mask.
    """
    result = np.full((len(masks), 2), np.nan)
    for index, mask in enumerate(masks):
        if isinstance(mask, ObjectMask):
            if not mask.is_empty:
                result[index] = _centroid_of_runs(mask)
        else:
            rows, columns = np.nonzero(mask)
            if len(rows):
                result[index] = rows.mean(), columns.mean()
    return result


def _centroid_of_runs(mask: ObjectMask) -> tuple[float, float]:
    """From the intervals alone: sums of rows and columns over ``[a, b)`` have a closed form."""
    height = mask.size_hw[0]
    starts, ends = mask.intervals()

    def sums_before(p: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # Sums of columns and of rows over the positions 0 .. p - 1.
        column, row = np.divmod(p, height)
        columns = height * (column * (column - 1) // 2) + column * row
        rows = column * (height * (height - 1) // 2) + row * (row - 1) // 2
        return columns, rows

    (end_columns, end_rows), (start_columns, start_rows) = sums_before(ends), sums_before(starts)
    return float((end_rows - start_rows).sum() / mask.area), float((end_columns - start_columns).sum() / mask.area)


def adjacency(points_yx: NDArray[np.floating], order: int = 2) -> NDArray[np.bool_]:
    """Neighbours up to an order in the Delaunay triangulation of points.

    Row and column ``i`` always belong to point ``i``. A point with NaN (an empty mask) has no neighbour.
    Points that coincide are neighbours of one another and have the same neighbours. Where there is no triangulation,
    two points are neighbours, and points on one line are neighbours of the next ones along it.

    Args:
        points_yx: ``(N, 2)``.
        order: 1 for neighbours, 2 for their neighbours too, 3 for the neighbours of those.

    Returns:
        ``(N, N)`` bool, symmetric; the diagonal is false.

    Raises:
        InputError: another shape, an infinite point, or an order other than 1 to 3.

    >>> adjacency(np.array([[0.0, 0.0], [0.0, 5.0], [0.0, 9.0]]), order=1).astype(int).tolist()
    [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    points = np.asarray(points_yx, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or np.isinf(points).any():
        raise InputError("centroids are pairs of finite numbers, or NaN", found=f"shape {points.shape}")
    if order not in (1, 2, 3):
        raise InputError("no such order of neighbours", found=order, expected="1, 2 or 3")
    finite = np.flatnonzero(~np.isnan(points).any(axis=1))
    result = np.zeros((len(points), len(points)), dtype=bool)
    if len(finite) < 2:
        return result
    distinct, group = np.unique(points[finite], axis=0, return_inverse=True)
    group = group.reshape(-1)
    # In the order in which they first appear: where four points lie on a circle, the triangulation depends on it.
    first = np.array([np.flatnonzero(group == k)[0] for k in range(len(distinct))])
    edges = _closed_triangulation(distinct[np.argsort(first)])
    vertex = np.argsort(np.argsort(first))[group]
    result[np.ix_(finite, finite)] = _power(edges, order)[np.ix_(vertex, vertex)]
    np.fill_diagonal(result, False)
    return result


def _closed_triangulation(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """First-order neighbours ``(N, N)`` of distinct points ``(N, 2)``, each a neighbour of itself."""
    from scipy.spatial import Delaunay, QhullError

    count = len(points)
    edges = np.eye(count, dtype=bool)
    try:
        mesh = Delaunay(points) if count > 2 else None
    except QhullError:  # all on one line
        mesh = None
    if mesh is None:
        centred = points - points.mean(axis=0)
        axis = np.linalg.svd(centred, full_matrices=False)[2][0]
        along = np.argsort(centred @ axis, kind="stable")
        edges[along[:-1], along[1:]] = edges[along[1:], along[:-1]] = True
        return edges
    starts, neighbours = mesh.vertex_neighbor_vertices
    edges[np.repeat(np.arange(count), np.diff(starts)), neighbours] = True
    for point, _, vertex in mesh.coplanar:  # left out of the mesh for being too near to one of its points
        edges[point] |= edges[vertex]
        edges[:, point] |= edges[:, vertex]
        edges[point, point] = True
    return edges


def _power(edges: NDArray[np.bool_], order: int) -> NDArray[np.bool_]:
    """Which points are at most ``order`` edges apart, ``(N, N)``."""
    reached = edges
    for _ in range(order - 1):
        reached = (reached.astype(np.float32) @ edges.astype(np.float32)) > 0
    return reached
