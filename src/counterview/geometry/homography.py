"""How two views of a scene lie to each other: a homography between the places where its things stand.

Things stand on something, a table or a floor, and a plane seen twice is the same image up to a homography. Which
proposal of one view is which of the other is not known, only how alike they are; so minimal samples of four pairs are
drawn by likeness, and the homography under which most pairs agree is kept (RANSAC, Fischler and Bolles 1981, with
uncertain matches) and fitted to the pairs that agree (locally optimised, Chum, Matas and Kittler 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SAMPLES = 2000
TOLERANCE = 0.13
"""Deviation that is expected of places, in half widths of an image: feet of boxes, and not all on one plane."""
TEMPERATURE = 0.07
"""Of the soft assignment of proposals to each other."""
LEAST_SIMILARITY, LEAST_WEIGHT = 0.3, 0.01
"""Pairs below are not looked at."""
LEAST_SCORE = 1e-3
"""What a proposal counts at least, whatever its score."""
AREA_RANGE = (0.02, 60.0)
"""How much smaller or larger a patch of the plane may become."""
FITTED, FITS = 20, 3
"""So many of the best samples are fitted, so often."""
LEAST_AGREEMENT = 0.02
"""Pairs that agree less have no part in that."""


@dataclass(frozen=True, eq=False)
class Homography:
    """Where places of the query image lie in the target image.

    Attributes:
        matrix: ``(3, 3)``, of points as :func:`places` gives them.
        support: weight of the pairs that agree: about how many proposals.
        share: the same, of all that could have agreed; 0 to 1.
    """

    matrix: F64
    support: float
    share: float

    def map(self, points: NDArray[np.floating]) -> tuple[F64, F64, NDArray[np.bool_]]:
        """Map ``(n, 2)`` points.

        Returns:
            ``(n, 2)`` where they lie; ``(n,)`` logarithm of how much lengths grow there; ``(n,)`` whether they can be
            seen at all: what lies beyond the horizon has no place, and its numbers mean nothing.
        """
        to, depth = _map(self.matrix[None], points)
        # A homography has no sign; it is chosen at estimation so that depths are positive.
        ahead = depth[0] > 1e-6
        deep = np.where(ahead, depth[0], 1.0)
        return np.where(ahead[:, None], to[0], 0.0), np.log(abs(np.linalg.det(self.matrix)) / deep**3) / 2, ahead


def places(boxes_xywh: NDArray[np.floating], size_hw: tuple[int, int]) -> F64:
    """Where boxes stand: the middles of their lower edges ``(n, 2)``, from the image's centre in half widths."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    height, width = size_hw
    foot = boxes[:, :2] + boxes[:, 2:] * (0.5, 1.0)
    return (foot - (width / 2, height / 2)) / (width / 2)


def find_homography(
    query: NDArray[np.floating],
    target: NDArray[np.floating],
    similarity: NDArray[np.floating],
    scores: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    *,
    seed: int = 0,
) -> Homography | None:
    """Find the homography on which proposals of two views agree best.

    Args:
        query: ``(m, 2)`` places of the query image's proposals.
        target: ``(n, 2)`` places of the target image's.
        similarity: ``(m, n)`` how alike they are, cosines.
        scores: ``(m,)`` and ``(n,)`` how far each proposal is a thing, 0 to 1; without them all count alike. What is no
            thing, a piece of one or of the wall, has its lower edge anywhere.
        seed: of the samples.

    Returns:
        ``None`` where there are not four pairs, or none of the samples is one that two cameras could see.
    """
    if min(similarity.shape) < 4:
        return None
    weights = _assignment(np.asarray(similarity, dtype=np.float64))
    if scores is not None:
        here, there = (np.clip(np.asarray(part, dtype=np.float64), LEAST_SCORE, 1) for part in scores)
        weights = weights * here[:, None] * there[None]
    one, other = np.nonzero((weights > LEAST_WEIGHT) & (similarity > LEAST_SIMILARITY))
    if len(one) < 5:
        return None
    pairs = _Pairs(np.asarray(query, np.float64)[one], np.asarray(target, np.float64)[other], one, other,
                   weights[one, other])  # fmt: skip
    chance = pairs.weight**2
    drawn = np.random.default_rng(seed).choice(len(one), (SAMPLES, 4), p=chance / chance.sum())
    drawn = drawn[_distinct(one[drawn]) & _distinct(other[drawn])]
    matrices = _through(pairs.query[drawn], pairs.target[drawn])
    whole = np.isfinite(matrices).all((1, 2))
    matrices = _sensible(matrices[whole], pairs.query[drawn[whole]])
    if not len(matrices):
        return None
    agreement = pairs.agreement(matrices)
    support = pairs.support(agreement)
    best = int(support.argmax())
    matrix, most = matrices[best], float(support[best])
    agreement = agreement[np.argsort(-support, kind="stable")[:FITTED]]
    for _ in range(FITS):
        fitted = pairs.fit(agreement)
        if not len(fitted):
            break
        agreement = pairs.agreement(fitted)
        support = pairs.support(agreement)
        best = int(support.argmax())
        if support[best] > most:
            matrix, most = fitted[best], float(support[best])
    possible = pairs.support(pairs.weight[None])
    return Homography(matrix, most, most / max(float(possible[0]), 1e-9))


class _Pairs:
    """P pairs of proposals that may be the same: where they stand, which they are, and how likely they are a pair.

    Args:
        query, target: ``(P, 2)`` places.
        one, other: ``(P,)`` numbers of the proposals, ``one`` in order.
        weight: ``(P,)``.
    """

    def __init__(self, query: F64, target: F64, one: I64, other: I64, weight: F64) -> None:
        self.query, self.target, self.weight = query, target, weight
        begins = np.diff(one, prepend=-1) > 0
        self._first, self._group = np.flatnonzero(begins), np.cumsum(begins) - 1
        self._order = np.argsort(other, kind="stable")
        self._others = np.flatnonzero(np.diff(other[self._order], prepend=-1))
        rows, right = _equations(query, target)
        whole = np.concatenate([rows, right[:, None]], 1)
        # The least squares of weighted pairs are sums over pairs of what is made of each here, once.
        products = (whole[:, :8, None] * whole[:, None, :]).reshape(2, len(query), 72)
        self._products = products.sum(0)

    def agreement(self, matrices: F64) -> F64:
        """``(k, P)``: a pair's weight, less the further its places are from each other under a homography."""
        to, depth = _map(matrices, self.query)
        with np.errstate(over="ignore", invalid="ignore"):
            square = ((to - self.target) ** 2).sum(-1)
            agreement = self.weight * np.exp(-square / (2 * TOLERANCE**2))
        return np.where(depth > 0, agreement, 0.0)

    def support(self, agreement: F64) -> F64:
        """``(k,)``: every proposal counts once, with its best pair; of the two views, the one that agrees less."""
        here = np.maximum.reduceat(agreement, self._first, axis=1).sum(1)
        there = np.maximum.reduceat(agreement[:, self._order], self._others, axis=1).sum(1)
        return np.minimum(here, there)

    def fit(self, agreement: F64) -> F64:
        """The homographies that fit each row's pairs best, ``(up to k, 3, 3)``: of a proposal's pairs its best counts.

        Rows with which fewer than five pairs agree have none.
        """
        best = np.maximum.reduceat(agreement, self._first, axis=1)[:, self._group]
        used = np.where((agreement == best) & (agreement > LEAST_AGREEMENT), agreement, 0.0)
        used = used[(used > 0).sum(1) >= 5]
        systems = (used @ self._products).reshape(-1, 8, 9)
        left = systems[..., :8] + 1e-9 * np.eye(8)
        matrices = _matrix(np.linalg.solve(left, systems[..., 8:])[..., 0])
        return matrices[np.isfinite(matrices).all((1, 2))]


def _assignment(similarity: F64) -> F64:
    """How likely two proposals are each other's, from 0 to 1: what is like many is no evidence."""
    power = np.exp((similarity - similarity.max()) / TEMPERATURE)
    least = np.finfo(np.float64).tiny
    rows, columns = power.sum(1, keepdims=True), power.sum(0, keepdims=True)
    return np.asarray(power / np.sqrt(np.maximum(rows * columns, least)))


def _distinct(numbers: I64) -> NDArray[np.bool_]:
    return np.asarray((np.diff(np.sort(numbers, axis=1), axis=1) > 0).all(1))


def _map(matrices: F64, points: NDArray[np.floating]) -> tuple[F64, F64]:
    """Points ``(n, 2)``, or ``(k, n, 2)`` of each one's own, to ``(k, n, 2)`` and the depths ``(k, n)``."""
    points = np.asarray(points, dtype=np.float64)
    to = np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1) @ matrices.transpose(0, 2, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return to[..., :2] / to[..., 2:], to[..., 2]


def _equations(query: F64, target: F64) -> tuple[F64, F64]:
    """Rows ``(…, 2n, 8)`` and right sides ``(…, 2n)`` of the direct linear transformation; the last element is 1."""
    (x, y), (u, v) = np.moveaxis(query, -1, 0), np.moveaxis(target, -1, 0)
    zero, one = np.zeros_like(x), np.ones_like(x)
    rows = np.concatenate([
        np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
        np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
    ], -2)  # fmt: skip
    return rows, np.concatenate([u, v], -1)


def _matrix(values: F64) -> F64:
    return np.concatenate([values, np.ones((*values.shape[:-1], 1))], -1).reshape(*values.shape[:-1], 3, 3)


def _through(query: F64, target: F64) -> F64:
    """Homographies through four pairs each: ``(k, 4, 2)`` twice to ``(k, 3, 3)``, not a number where there is none."""
    rows, right = _equations(query, target)
    good = np.abs(np.linalg.det(rows)) > 1e-9
    values = np.full((len(rows), 8), np.nan)
    values[good] = np.linalg.solve(rows[good], right[good][..., None])[..., 0]
    return _matrix(values)


def _sensible(matrices: F64, samples: F64) -> F64:
    """Those that two cameras could see: nothing mirrored or behind, no patch out of all proportion.

    Args:
        matrices: ``(k, 3, 3)``.
        samples: ``(k, 4, 2)`` the points that each was drawn through.
    """
    _, depth = _map(matrices, samples)
    growth = np.linalg.det(matrices)[:, None] / np.where(depth == 0, np.nan, depth) ** 3
    sign = np.sign(depth[:, :1])
    good = (np.sign(depth) == sign).all(1) & ((growth > AREA_RANGE[0]) & (growth < AREA_RANGE[1])).all(1)
    return matrices[good] * sign[good][..., None]
