"""Features of pairs of a query object and a candidate: similarity, place, size, and rivals. Ours.

Two cups of one set look the same; where they stand distinguishes them. The homography between the views gives the point
at which each query object should stand in the target image, and how large it should be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.geometry.boxes import ScoredBoxes, ground_points
from counterview.geometry.homography import Homography

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class PairFeature(IntEnum):
    """Columns of the features of a query object and a candidate.

    Offsets and radii are in halves of the image width; sizes are logarithms.
    """

    SIMILARITY = 0
    """Cosine of the descriptors."""
    SCORE = 1
    """The candidate's score, the best proposal 1."""
    NEAR = 2
    """How near the candidate stands to the expected point, within :attr:`PairFeatureConfig.near_radius`; 0 to 1."""
    NEARBY = 3
    """The same within :attr:`PairFeatureConfig.nearby_radius`."""
    OFFSET_X = 4
    """How far right of the expected point it stands, in nearby radii."""
    OFFSET_Y = 5
    """How far below."""
    WIDER = 6
    """How much wider it is than the query object."""
    TALLER = 7
    """How much taller."""
    WIDER_THAN_EXPECTED = 8
    """How much wider it is than the homography lets the query object become."""
    TALLER_THAN_EXPECTED = 9
    """How much taller."""
    INLIER_WEIGHT = 10
    """How many proposals agree on the homography, as a logarithm."""
    INLIER_FRACTION = 11
    """That number as a fraction."""
    SIMILARITY_MARGIN = 12
    """How much more similar the candidate is to the query object than to any other proposal of the query image."""
    PLACE_MARGIN = 13
    """The same with half of the nearness added to the similarities."""


class QueryFeature(IntEnum):
    """Columns of the features of a query object that do not depend on the candidate."""

    HAS_PLACE = 0
    """1 where the homography gives the object a point in the target image's plane."""
    INSIDE = 1
    """How far inside the target image that point is; negative outside."""
    SIZE = 2
    """Logarithm of the query object's size."""
    EXPECTED_SIZE = 3
    """Logarithm of the size that the homography gives it in the target image."""
    INLIER_WEIGHT = 4
    """See :class:`PairFeature`."""
    INLIER_FRACTION = 5
    """See :class:`PairFeature`."""


@dataclass(frozen=True)
class PairFeatureConfig:
    """Constants of the pair features. The defaults are what the bundled model was trained with.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    near_radius: float = field(
        default=0.12, metadata={"help": "radius of the accuracy of a homography, in halves of the image width"}
    )
    nearby_radius: float = field(
        default=0.35, metadata={"help": "radius of a part of the table, in halves of the image width"}
    )
    same_object_overlap: float = field(
        default=0.5,
        metadata={
            "help": "overlap, as a fraction of the smaller box, above which a proposal is the object, not a rival"
        },
    )
    place_weight: float = field(default=0.5, metadata={"help": "weight of nearness beside similarity in a margin"})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "near_radius", "nearby_radius", above=0),
            *out_of_range(self, "same_object_overlap", "place_weight", at_least=0, at_most=1),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


def pair_features(
    similarity: NDArray[np.floating],
    query: ScoredBoxes,
    candidates: ScoredBoxes,
    homography: Homography | None,
    rival_similarity: NDArray[np.floating],
    rivals: ScoredBoxes,
    config: PairFeatureConfig | None = None,
) -> tuple[F32, F32]:
    """Features of each query object and candidate.

    A rival is another object of the query image that a candidate may show instead of the query object.

    Args:
        similarity: ``(Q, N)`` cosines.
        query: Q query objects.
        candidates: N candidates.
        homography: from the query to the target image, if one was found.
        rival_similarity: ``(M, N)`` cosines of proposals of the query image with the candidates.
        rivals: these M proposals. Those that overlap a query object are not its rivals.
        config: constants; the defaults if not given.

    Returns:
        ``(Q, N, 14)`` float32 in the order of :class:`PairFeature`, and ``(Q, 6)`` float32 in the order of
        :class:`QueryFeature`.

    >>> cup = ScoredBoxes.make(np.array([[90.0, 50, 20, 25]]), (150, 200))
    >>> same_place = Homography(np.eye(3), inlier_weight=7.0, inlier_fraction=0.5)
    >>> similarity, no_rivals = np.array([[0.8]]), ScoredBoxes.make(np.zeros((0, 4)), (150, 200))
    >>> pairs, queries = pair_features(similarity, cup, cup, same_place, np.zeros((0, 1)), no_rivals)
    >>> pairs.shape, float(pairs[0, 0, PairFeature.NEAR]), float(queries[0, QueryFeature.INSIDE])
    ((1, 1, 14), 1.0, 0.5)
    """
    config = config or PairFeatureConfig()
    count, number = similarity.shape
    points = ground_points(candidates.xywh, candidates.size_hw)
    places, rival_places = (_expected_places(boxes, points, homography) for boxes in (query, rivals))
    log_sizes = [np.log(np.maximum(b.xywh[:, 2:], 1) / b.size_hw[1] * 2) for b in (query, candidates)]
    inlier_weight = inlier_fraction = 0.0
    if homography is not None:
        inlier_weight, inlier_fraction = np.log1p(homography.inlier_weight) / 3, homography.inlier_fraction
    growth = log_sizes[1][None] - log_sizes[0][:, None]
    nearby = places.nearness(config.nearby_radius)
    pairs = np.zeros((count, number, len(PairFeature)), dtype=np.float32)
    pairs[..., PairFeature.SIMILARITY] = similarity
    pairs[..., PairFeature.SCORE] = candidates.scores
    pairs[..., PairFeature.NEAR] = places.nearness(config.near_radius)
    pairs[..., PairFeature.NEARBY] = nearby
    pairs[..., [PairFeature.OFFSET_X, PairFeature.OFFSET_Y]] = (places.offset / config.nearby_radius).clip(-2, 2)
    pairs[..., [PairFeature.WIDER, PairFeature.TALLER]] = growth.clip(-3, 3)
    unexpected_growth = (growth - places.growth[:, None, None]) * places.has_place[:, None, None]
    columns = [PairFeature.WIDER_THAN_EXPECTED, PairFeature.TALLER_THAN_EXPECTED]
    pairs[..., columns] = unexpected_growth.clip(-3, 3)
    pairs[..., PairFeature.INLIER_WEIGHT] = inlier_weight
    pairs[..., PairFeature.INLIER_FRACTION] = inlier_fraction
    is_rival = ~_same_object(query.xywh, rivals.xywh, config.same_object_overlap)
    pairs[..., PairFeature.SIMILARITY_MARGIN] = _margin(similarity, rival_similarity, is_rival)
    pairs[..., PairFeature.PLACE_MARGIN] = _margin(
        similarity + nearby * config.place_weight,
        rival_similarity + rival_places.nearness(config.nearby_radius) * config.place_weight,
        is_rival,
    )
    limit = np.array([1.0, candidates.size_hw[0] / candidates.size_hw[1]])
    size = log_sizes[0].mean(-1)
    queries = np.zeros((count, len(QueryFeature)), dtype=np.float32)
    queries[:, QueryFeature.HAS_PLACE] = places.has_place
    queries[:, QueryFeature.INSIDE] = (limit - np.abs(places.point)).min(-1).clip(-0.5, 0.5) * places.has_place
    queries[:, QueryFeature.SIZE] = size / 3
    queries[:, QueryFeature.EXPECTED_SIZE] = (size + places.growth) * places.has_place / 3
    queries[:, QueryFeature.INLIER_WEIGHT] = inlier_weight
    queries[:, QueryFeature.INLIER_FRACTION] = inlier_fraction
    return pairs, queries


@dataclass(frozen=True, eq=False)
class _ExpectedPlaces:
    """Where M boxes of the query image should stand in the target image, beside N candidates.

    Attributes:
        point: ``(M, 2)``.
        growth: ``(M,)`` logarithm of the growth of their sides.
        has_place: ``(M,)`` 1 where the homography gives a point, else 0.
        offset: ``(M, N, 2)`` from there to the points at which the candidates stand.
    """

    point: F64
    growth: F64
    has_place: F64
    offset: F64

    def nearness(self, radius: float) -> F64:
        """``(M, N)`` a Gaussian of the distance, from 0 to 1."""
        squared = (self.offset**2).sum(-1)
        return np.asarray(np.exp(-squared / (2 * radius**2)) * self.has_place[:, None])


def _expected_places(boxes: ScoredBoxes, points: F64, homography: Homography | None) -> _ExpectedPlaces:
    """Where M boxes should stand, beside N candidates that stand at ``points`` ``(N, 2)``."""
    count = len(boxes)
    if homography is None:
        offsets = np.zeros((count, len(points), 2))
        return _ExpectedPlaces(np.zeros((count, 2)), np.zeros(count), np.zeros(count), offsets)
    point, growth, before_horizon = homography.map(ground_points(boxes.xywh, boxes.size_hw))
    offset = (points[None] - point[:, None]).clip(-4, 4) * before_horizon[:, None, None]
    growth = np.where(before_horizon, growth, 0.0).clip(-3, 3)
    return _ExpectedPlaces(point, growth, before_horizon.astype(np.float64), offset)


def _same_object(one: NDArray[np.floating], other: NDArray[np.floating], overlap: float) -> NDArray[np.bool_]:
    """``(M, N)`` whether more than a fraction of the smaller of two boxes is in the other."""
    start, other_start = (np.asarray(b, dtype=np.float64)[:, :2] for b in (one, other))
    end, other_end = (np.asarray(b, dtype=np.float64)[:, :2] + np.asarray(b)[:, 2:] for b in (one, other))
    overlap_wh = np.minimum(end[:, None], other_end[None]) - np.maximum(start[:, None], other_start[None])
    areas = [np.asarray(b, dtype=np.float64)[:, 2:].prod(-1) for b in (one, other)]
    return np.asarray(overlap_wh.clip(0).prod(-1) > overlap * np.minimum(areas[0][:, None], areas[1][None]))


def _margin(values: NDArray[np.floating], rival_values: NDArray[np.floating], is_rival: NDArray[np.bool_]) -> F64:
    """By how much values exceed those of the best rival; 0 without rivals.

    Args:
        values: ``(Q, N)``.
        rival_values: ``(M, N)``.
        is_rival: ``(Q, M)``.

    Returns:
        ``(Q, N)``.
    """
    margin = np.zeros(values.shape)
    for row, rivals in enumerate(is_rival):
        if rivals.any():
            margin[row] = values[row] - rival_values[rivals].max(0)
    return margin
