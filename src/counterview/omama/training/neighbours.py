"""Which masks of an image are neighbours: Delaunay triangulation of their centroids (paper: hard negatives)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError
from counterview.types import ObjectMask


def centroids_yx(masks: Sequence[ObjectMask] | NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean pixel position ``(N, 2)`` of each mask, row before column; NaN for an empty one."""
    result = np.full((len(masks), 2), np.nan)
    for index, mask in enumerate(masks):
        encoded = mask if isinstance(mask, ObjectMask) else None
        if encoded is not None:
            if not encoded.is_empty:
                result[index] = _centroid_of_runs(encoded)
        else:
            rows, columns = np.nonzero(mask)
            if len(rows):
                result[index] = rows.mean(), columns.mean()
    return result


def _centroid_of_runs(mask: ObjectMask) -> tuple[float, float]:
    """From the intervals alone: the sum of ``p`` over ``[a, b)`` is known, and so is the sum of ``p // H``."""
    height = mask.size_hw[0]
    starts, ends = mask.intervals()

    def below(p: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # Sums of column and row numbers over the positions 0 .. p - 1.
        column, row = np.divmod(p, height)
        columns = height * (column * (column - 1) // 2) + column * row
        rows = column * (height * (height - 1) // 2) + row * (row - 1) // 2
        return columns, rows

    (c1, r1), (c0, r0) = below(ends), below(starts)
    return float((r1 - r0).sum() / mask.area), float((c1 - c0).sum() / mask.area)


def adjacency(points_yx: NDArray[np.floating], order: int = 2) -> NDArray[np.bool_]:
    """Neighbours up to an order in the Delaunay triangulation of points.

    Row and column ``i`` always belong to point ``i``. A point with NaN (an empty mask) has no neighbour.
    Points that coincide are neighbours of one another and share their neighbours. Two points are
    neighbours; points on one line are neighbours of the next ones along it.

    Args:
        points_yx: ``(N, 2)``.
        order: 1 for neighbours, 2 for their neighbours too, 3 for the neighbours of those.

    Returns:
        ``(N, N)`` bool, symmetric; the diagonal is false.

    Raises:
        InputError: another shape, an infinite point, or an order other than 1 to 3.
    """
    points = np.asarray(points_yx, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or np.isinf(points).any():
        raise InputError("centroids are pairs of finite numbers, or NaN", found=f"shape {points.shape}")
    if order not in (1, 2, 3):
        raise InputError("no such order of neighbours", found=order, expected="1, 2 or 3")
    there = np.flatnonzero(~np.isnan(points).any(axis=1))
    result = np.zeros((len(points), len(points)), dtype=bool)
    if len(there) < 2:
        return result
    places, which = np.unique(points[there], axis=0, return_inverse=True)
    which = which.reshape(-1)
    # Kept in their first order: where four points lie on a circle, the triangulation depends on it.
    first = np.array([np.flatnonzero(which == k)[0] for k in range(len(places))])
    ranks = np.argsort(np.argsort(first))
    edges = _closed_triangulation(places[np.argsort(first)])
    own = ranks[which]
    result[np.ix_(there, there)] = _power(edges, order)[np.ix_(own, own)]
    np.fill_diagonal(result, False)
    return result


def _closed_triangulation(places: NDArray[np.float64]) -> NDArray[np.bool_]:
    """First-order neighbours of distinct points, each a neighbour of itself."""
    from scipy.spatial import Delaunay, QhullError

    count = len(places)
    edges = np.eye(count, dtype=bool)
    try:
        mesh = Delaunay(places) if count > 2 else None
    except QhullError:  # all on one line
        mesh = None
    if mesh is None:
        centred = places - places.mean(axis=0)
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
    reached = edges
    for _ in range(order - 1):
        reached = (reached.astype(np.float32) @ edges.astype(np.float32)) > 0
    return reached
