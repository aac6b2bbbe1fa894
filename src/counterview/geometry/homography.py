"""The homography between two views of a scene, from points at which its objects stand.

Objects stand on a table or a floor, and two images of a plane differ by a homography. Which proposal of one view
corresponds to which of the other is not given, only how similar they are. Minimal samples of four pairs are therefore
drawn by similarity, the homography with the largest inlier weight is kept (RANSAC, Fischler and Bolles 1981, with
uncertain matches), and it is refined on its inliers (locally optimised RANSAC, Chum, Matas and Kittler 2003).

Ours; neither paper has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.geometry.boxes import ScoredBoxes, ground_points

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_SMALLEST_SAMPLE = 5
"""Pairs that a fit needs: four determine a homography, and one must confirm it."""


@dataclass(frozen=True)
class HomographyConfig:
    """How homographies are estimated. The defaults are what the bundled model was trained with.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    samples: int = field(default=2000, metadata={"help": "minimal samples of four pairs that are drawn"})
    tolerance: float = field(
        default=0.13,
        metadata={"help": "expected deviation of points from the plane, in halves of the image width"},
    )
    temperature: float = field(default=0.07, metadata={"help": "of the soft assignment of proposals to each other"})
    min_similarity: float = field(default=0.3, metadata={"help": "cosine below which a pair is left out"})
    min_pair_weight: float = field(default=0.01, metadata={"help": "assignment weight below which a pair is left out"})
    min_score: float = field(default=1e-3, metadata={"help": "smallest weight of a proposal, whatever its score"})
    min_area_scale: float = field(default=0.02, metadata={"help": "how much smaller a patch of the plane may become"})
    max_area_scale: float = field(default=60.0, metadata={"help": "how much larger a patch of the plane may become"})
    refined: int = field(default=20, metadata={"help": "best samples that are refined"})
    refinements: int = field(default=3, metadata={"help": "rounds of refinement"})
    min_inlier_weight: float = field(
        default=0.02, metadata={"help": "weight under a homography below which a pair has no part in its refinement"}
    )
    kept_fraction: float = field(
        default=0.9,
        metadata={"help": "smallest fraction of the proposals from which each of several homographies is estimated"},
    )

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "samples", "refined", at_least=1, at_most=100_000),
            *out_of_range(self, "refinements", at_least=0, at_most=100),
            *out_of_range(self, "tolerance", "temperature", "min_area_scale", "max_area_scale", above=0),
            *out_of_range(self, "min_similarity", at_least=-1, at_most=1),
            *out_of_range(self, "min_pair_weight", "min_score", "min_inlier_weight", at_least=0, at_most=1),
            *out_of_range(self, "kept_fraction", above=0, at_most=1),
        ]
        if self.min_area_scale >= self.max_area_scale:
            problems.append(f"min_area_scale is {self.min_area_scale}, above max_area_scale = {self.max_area_scale}")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, eq=False)
class Homography:
    """A map from points of the plane in the query image to the target image.

    Attributes:
        query_to_target: ``(3, 3)``, of points as :func:`~counterview.geometry.boxes.ground_points` gives them.
        inlier_weight: summed weight of the inliers: about the number of proposals that agree.
        inlier_fraction: the same as a fraction of the weight of all pairs, 0 to 1.
    """

    query_to_target: F64
    inlier_weight: float
    inlier_fraction: float

    def map(self, points: NDArray[np.floating]) -> tuple[F64, F64, NDArray[np.bool_]]:
        """Map points.

        Args:
            points: ``(N, 2)``.

        Returns:
            ``(N, 2)`` points in the target image; ``(N,)`` logarithm of the growth of lengths there; ``(N,)`` bool,
            whether the points lie before the horizon. Where they do not, the point is 0 and the growth meaningless.

        >>> half = Homography(np.diag([0.5, 0.5, 1.0]), inlier_weight=9.0, inlier_fraction=0.8)
        >>> points, growth, before_horizon = half.map(np.array([[0.4, -0.2]]))
        >>> points.tolist(), growth.round(3).tolist(), before_horizon.tolist()
        ([[0.2, -0.1]], [-0.693], [True])
        """
        mapped, depth = _map(self.query_to_target[None], points)
        # A homography has no sign; the estimation chooses it so that depths are positive.
        before_horizon = depth[0] > 1e-6
        safe_depth = np.where(before_horizon, depth[0], 1.0)
        growth = np.log(abs(np.linalg.det(self.query_to_target)) / safe_depth**3) / 2
        return np.where(before_horizon[:, None], mapped[0], 0.0), growth, before_horizon


def view_homographies(
    similarity: NDArray[np.floating],
    query: ScoredBoxes,
    target: ScoredBoxes,
    count: int,
    config: HomographyConfig | None = None,
) -> tuple[Homography | None, ...]:
    """Several homographies between two images, each from another random subset of the proposals.

    Nothing shows that a single homography is wrong; where several differ, none of them is reliable.

    Args:
        similarity: ``(M, N)`` cosines of query and target proposals.
        query: the M proposals of the query image; each counts by its score.
        target: the N proposals of the target image, likewise.
        count: number of homographies.
        config: constants of the estimation; the defaults if not given.

    Returns:
        ``count`` homographies; ``None`` for one that was not found.
    """
    config = config or HomographyConfig()
    points, target_points = (ground_points(boxes.xywh, boxes.size_hw) for boxes in (query, target))
    homographies = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        rows, columns = (
            np.flatnonzero(rng.random(len(p)) < rng.uniform(config.kept_fraction, 1)) for p in (points, target_points)
        )
        scores = query.scores[rows], target.scores[columns]
        subset = similarity[np.ix_(rows, columns)]
        homographies.append(
            find_homography(points[rows], target_points[columns], subset, scores, seed=seed, config=config)
        )
    return tuple(homographies)


def find_homography(
    query: NDArray[np.floating],
    target: NDArray[np.floating],
    similarity: NDArray[np.floating],
    scores: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    *,
    seed: int = 0,
    config: HomographyConfig | None = None,
) -> Homography | None:
    """Find the homography on which most proposals of two views agree.

    Args:
        query: ``(M, 2)`` points at which the query image's proposals stand.
        target: ``(N, 2)`` likewise of the target image.
        similarity: ``(M, N)`` cosines.
        scores: ``(M,)`` and ``(N,)`` how likely each proposal is an object, 0 to 1; all 1 if not given. The lower
            edge of a proposal that is not an object, such as a piece of a wall, may be anywhere.
        seed: of the samples.
        config: constants of the estimation; the defaults if not given.

    Returns:
        The homography; ``None`` if there are too few pairs, or no sample is possible for two cameras.

    >>> query = np.random.default_rng(0).uniform(-1, 1, (8, 2))
    >>> target = query / 2 + (0.1, -0.2)
    >>> homography = find_homography(query, target, similarity=np.eye(8))
    >>> homography.map(np.array([[0.4, 0.6]]))[0].round(3).tolist()
    [[0.3, 0.1]]
    """
    config = config or HomographyConfig()
    if min(similarity.shape) < 4:
        return None
    weights = soft_assignment(np.asarray(similarity, dtype=np.float64), config.temperature)
    if scores is not None:
        row_scores, column_scores = (np.clip(np.asarray(s, dtype=np.float64), config.min_score, 1) for s in scores)
        weights = weights * row_scores[:, None] * column_scores[None]
    rows, columns = np.nonzero((weights > config.min_pair_weight) & (similarity > config.min_similarity))
    if len(rows) < _SMALLEST_SAMPLE:
        return None
    pairs = _Pairs(
        np.asarray(query, np.float64)[rows], np.asarray(target, np.float64)[columns], rows, columns,
        weights[rows, columns], config.tolerance,
    )  # fmt: skip
    probability = pairs.weight**2
    samples = np.random.default_rng(seed).choice(len(rows), (config.samples, 4), p=probability / probability.sum())
    samples = samples[_distinct(rows[samples]) & _distinct(columns[samples])]
    matrices = _through(pairs.query[samples], pairs.target[samples])
    finite = np.isfinite(matrices).all((1, 2))
    area_range = (config.min_area_scale, config.max_area_scale)
    matrices = _plausible(matrices[finite], pairs.query[samples[finite]], area_range)
    if not len(matrices):
        return None
    agreement = pairs.agreement(matrices)
    inlier_weight = pairs.inlier_weight(agreement)
    best = int(inlier_weight.argmax())
    matrix, largest = matrices[best], float(inlier_weight[best])
    agreement = agreement[np.argsort(-inlier_weight, kind="stable")[: config.refined]]
    for _ in range(config.refinements):
        refined = pairs.fit(agreement, config.min_inlier_weight)
        if not len(refined):
            break
        agreement = pairs.agreement(refined)
        inlier_weight = pairs.inlier_weight(agreement)
        best = int(inlier_weight.argmax())
        if inlier_weight[best] > largest:
            matrix, largest = refined[best], float(inlier_weight[best])
    possible = pairs.inlier_weight(pairs.weight[None])
    return Homography(matrix, largest, largest / max(float(possible[0]), 1e-9))


class _Pairs:
    """P pairs of proposals that may correspond: their points, their rows, and how likely they are.

    Args:
        query: ``(P, 2)`` points in the query image.
        target: ``(P, 2)`` points in the target image.
        rows: ``(P,)`` rows of the query proposals, sorted.
        columns: ``(P,)`` rows of the target proposals.
        weight: ``(P,)``.
        tolerance: see :class:`HomographyConfig`.
    """

    def __init__(self, query: F64, target: F64, rows: I64, columns: I64, weight: F64, tolerance: float) -> None:
        self.query, self.target, self.weight, self._tolerance = query, target, weight, tolerance
        starts = np.diff(rows, prepend=-1) > 0
        self._row_starts, self._row_group = np.flatnonzero(starts), np.cumsum(starts) - 1
        self._column_order = np.argsort(columns, kind="stable")
        self._column_starts = np.flatnonzero(np.diff(columns[self._column_order], prepend=-1))
        equations, right = _equations(query, target)
        augmented = np.concatenate([equations, right[:, None]], 1)
        # Weighted least squares sums these products over pairs; they are computed once.
        products = (augmented[:, :8, None] * augmented[:, None, :]).reshape(2, len(query), 72)
        self._products = products.sum(0)

    def agreement(self, matrices: F64) -> F64:
        """``(K, P)``: a pair's weight, reduced by how far apart its points are under a homography."""
        mapped, depth = _map(matrices, self.query)
        with np.errstate(over="ignore", invalid="ignore"):
            squared_distance = ((mapped - self.target) ** 2).sum(-1)
            agreement = self.weight * np.exp(-squared_distance / (2 * self._tolerance**2))
        return np.where(depth > 0, agreement, 0.0)

    def inlier_weight(self, agreement: F64) -> F64:
        """``(K,)``: each proposal counts once, with its best pair; the smaller sum of the two views."""
        query_sum = np.maximum.reduceat(agreement, self._row_starts, axis=1).sum(1)
        target_sum = np.maximum.reduceat(agreement[:, self._column_order], self._column_starts, axis=1).sum(1)
        return np.minimum(query_sum, target_sum)

    def fit(self, agreement: F64, min_weight: float) -> F64:
        """Least-squares homographies of each row's inliers, ``(up to K, 3, 3)``; each proposal's best pair counts.

        Rows with fewer than five inliers are left out.
        """
        best = np.maximum.reduceat(agreement, self._row_starts, axis=1)[:, self._row_group]
        used = np.where((agreement == best) & (agreement > min_weight), agreement, 0.0)
        used = used[(used > 0).sum(1) >= _SMALLEST_SAMPLE]
        systems = (used @ self._products).reshape(-1, 8, 9)
        left = systems[..., :8] + 1e-9 * np.eye(8)
        matrices = _matrix(np.linalg.solve(left, systems[..., 8:])[..., 0])
        return matrices[np.isfinite(matrices).all((1, 2))]


def soft_assignment(similarity: F64, temperature: float) -> F64:
    """How likely two proposals correspond, ``(M, N)`` from 0 to 1: one that is similar to many is weak evidence.

    Args:
        similarity: ``(M, N)`` cosines, neither M nor N 0.
        temperature: divides them.
    """
    power = np.exp((similarity - similarity.max()) / temperature)
    smallest = np.finfo(np.float64).tiny
    rows, columns = power.sum(1, keepdims=True), power.sum(0, keepdims=True)
    return np.asarray(power / np.sqrt(np.maximum(rows * columns, smallest)))


def _distinct(numbers: I64) -> NDArray[np.bool_]:
    """``(K,)`` whether the integers of each row ``(K, 4)`` differ from one another."""
    return np.asarray((np.diff(np.sort(numbers, axis=1), axis=1) > 0).all(1))


def _map(matrices: F64, points: NDArray[np.floating]) -> tuple[F64, F64]:
    """Points ``(N, 2)``, or ``(K, N, 2)`` for each matrix, mapped to ``(K, N, 2)``, and their depths ``(K, N)``."""
    points = np.asarray(points, dtype=np.float64)
    mapped = np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1) @ matrices.transpose(0, 2, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return mapped[..., :2] / mapped[..., 2:], mapped[..., 2]


def _equations(query: F64, target: F64) -> tuple[F64, F64]:
    """Rows ``(…, 2N, 8)`` and right sides ``(…, 2N)`` of the direct linear transformation; the last element is 1."""
    (x, y), (u, v) = np.moveaxis(query, -1, 0), np.moveaxis(target, -1, 0)
    zero, one = np.zeros_like(x), np.ones_like(x)
    rows = np.concatenate([
        np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
        np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
    ], -2)  # fmt: skip
    return rows, np.concatenate([u, v], -1)


def _matrix(values: F64) -> F64:
    """``(K, 8)`` elements to matrices ``(K, 3, 3)`` whose last element is 1."""
    return np.concatenate([values, np.ones((*values.shape[:-1], 1))], -1).reshape(*values.shape[:-1], 3, 3)


def _through(query: F64, target: F64) -> F64:
    """Homographies through four pairs of points ``(K, 4, 2)`` each: ``(K, 3, 3)``, NaN where three are collinear."""
    rows, right = _equations(query, target)
    solvable = np.abs(np.linalg.det(rows)) > 1e-9
    values = np.full((len(rows), 8), np.nan)
    values[solvable] = np.linalg.solve(rows[solvable], right[solvable][..., None])[..., 0]
    return _matrix(values)


def _plausible(matrices: F64, samples: F64, area_range: tuple[float, float]) -> F64:
    """The matrices that are possible for two cameras: nothing mirrored or behind, no patch grown beyond the range.

    Args:
        matrices: ``(K, 3, 3)``.
        samples: ``(K, 4, 2)`` the points that each was drawn through.
        area_range: smallest and largest growth of areas.
    """
    _, depth = _map(matrices, samples)
    growth = np.linalg.det(matrices)[:, None] / np.where(depth == 0, np.nan, depth) ** 3
    sign = np.sign(depth[:, :1])
    plausible = (np.sign(depth) == sign).all(1) & ((growth > area_range[0]) & (growth < area_range[1])).all(1)
    return matrices[plausible] * sign[plausible][..., None]
