"""Pair and query features: each column against what it stands for, worked out on its own."""

import numpy as np
import pytest

from counterview.errors import ConfigError
from counterview.geometry import (
    Homography,
    PairFeature,
    PairFeatureConfig,
    QueryFeature,
    ScoredBoxes,
    find_homography,
    ground_points,
    pair_features,
)
from tests.geometry.two_views import VIEW, boxes_at, project, two_views

SIZE_HW = (300, 400)
SHIFT = Homography(np.array([[1.0, 0, 0.5], [0, 1, 0], [0, 0, 1]]), inlier_weight=7.0, inlier_fraction=0.25)
"""Everything stands half of half an image width further right."""


def box(x, y, width=20, height=40, size_hw=SIZE_HW):
    """One box whose ground point is ``(x, y)``, in halves of the image width from the centre."""
    foot = np.array([x, y]) * size_hw[1] / 2 + (size_hw[1] / 2, size_hw[0] / 2)
    return np.array([[foot[0] - width / 2, foot[1] - height, width, height]])


def features(query, candidates, homography=SHIFT, similarity=None, rivals=None, rival_similarity=None, **values):
    """Features of boxes; without rivals unless they are given."""
    query, candidates = (ScoredBoxes.make(b, SIZE_HW) for b in (query, candidates))
    similarity = np.full((len(query), len(candidates)), 0.5) if similarity is None else similarity
    rivals = ScoredBoxes.make(np.zeros((0, 4)) if rivals is None else rivals, SIZE_HW)
    rival_similarity = np.zeros((len(rivals), len(candidates))) if rival_similarity is None else rival_similarity
    return pair_features(
        similarity, query, candidates, homography, rival_similarity, rivals, PairFeatureConfig(**values)
    )


def test_offsets_point_from_the_expected_place_to_the_candidate():
    pairs, _ = features(box(0, 0), np.concatenate([box(0.5, 0), box(0.6, 0), box(0.4, 0), box(0.5, 0.1)]))
    assert pairs[0, :, PairFeature.OFFSET_X] == pytest.approx([0, 0.1 / 0.35, -0.1 / 0.35, 0], abs=1e-5)
    assert pairs[0, :, PairFeature.OFFSET_Y] == pytest.approx([0, 0, 0, 0.1 / 0.35], abs=1e-5)
    # A Gaussian of the distance, one radius away.
    pairs, _ = features(box(0, 0), np.concatenate([box(0.5 + 0.12, 0), box(0.5, 0.35)]))
    assert pairs[0, 0, PairFeature.NEAR] == pytest.approx(np.exp(-0.5), abs=1e-5)
    assert pairs[0, 1, PairFeature.NEARBY] == pytest.approx(np.exp(-0.5), abs=1e-5)
    wider, _ = features(box(0, 0), box(0.5 + 0.24, 0), near_radius=0.24)
    assert wider[0, 0, PairFeature.NEAR] == pytest.approx(np.exp(-0.5), abs=1e-5)


def test_sizes_are_logarithms_of_growth_and_of_growth_beyond_the_homographys():
    pairs, queries = features(box(0, 0, 20, 40), box(0.5, 0, 60, 20))
    assert pairs[0, 0, PairFeature.WIDER] == pytest.approx(np.log(3), abs=1e-5)
    assert pairs[0, 0, PairFeature.TALLER] == pytest.approx(np.log(0.5), abs=1e-5)
    # A shift changes no size; a scale of two takes its logarithm away.
    assert pairs[0, 0, PairFeature.WIDER_THAN_EXPECTED] == pytest.approx(np.log(3), abs=1e-5)
    assert queries[0, QueryFeature.EXPECTED_SIZE] == pytest.approx(queries[0, QueryFeature.SIZE], abs=1e-6)
    double = Homography(np.diag([2.0, 2.0, 1.0]), 3.0, 0.5)
    pairs, queries = features(box(0, 0, 20, 40), box(0, 0, 60, 20), double)
    assert pairs[0, 0, PairFeature.WIDER_THAN_EXPECTED] == pytest.approx(np.log(3 / 2), abs=1e-5)
    assert pairs[0, 0, PairFeature.TALLER_THAN_EXPECTED] == pytest.approx(np.log(0.5 / 2), abs=1e-5)
    growth = 3 * (queries[0, QueryFeature.EXPECTED_SIZE] - queries[0, QueryFeature.SIZE])
    assert growth == pytest.approx(np.log(2), abs=1e-5)
    assert queries[0, QueryFeature.SIZE] == pytest.approx(np.log([20 / 200, 40 / 200]).mean() / 3, abs=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-0.5, 0.0, 0.5),  # at the centre after the shift: three quarters of the half height are clipped to 0.5
        (0.3, 0.0, 0.2),  # 0.8 of the half width from the centre, so 0.2 from the right edge
        (0.6, 0.0, -0.1),  # beyond it
        (-0.5, 0.6, 0.15),  # the image is 0.75 high in halves of its width
        (-0.5, 0.9, -0.15),
        (2.0, 0.0, -0.5),  # far outside: clipped
    ],
)
def test_inside_is_the_distance_to_the_nearest_edge_and_negative_outside(x, y, expected):
    _, queries = features(box(x, y), box(0, 0))
    assert queries[0, QueryFeature.INSIDE] == pytest.approx(expected, abs=1e-5)
    assert queries[0, QueryFeature.HAS_PLACE] == 1


def test_the_homography_speaks_for_itself_in_both_tables():
    pairs, queries = features(box(0, 0), np.concatenate([box(0, 0), box(0.5, 0)]))
    for table, names in ((pairs, PairFeature), (queries, QueryFeature)):
        assert np.allclose(table[..., names.INLIER_WEIGHT], np.log(8) / 3)
        assert np.allclose(table[..., names.INLIER_FRACTION], 0.25)


def test_a_point_beyond_the_horizon_has_no_place():
    behind = Homography(np.array([[1.0, 0, 0], [0, 1, 0], [0, -10, 1]]), 5.0, 0.5)
    pairs, queries = features(box(0, 0.5), box(0, 0), behind)
    blank = [QueryFeature.HAS_PLACE, QueryFeature.INSIDE, QueryFeature.EXPECTED_SIZE]
    assert not queries[0, blank].any()
    columns = [PairFeature.NEAR, PairFeature.NEARBY, PairFeature.OFFSET_X, PairFeature.OFFSET_Y,
               PairFeature.WIDER_THAN_EXPECTED, PairFeature.TALLER_THAN_EXPECTED]  # fmt: skip
    assert not pairs[0, 0, columns].any()


def test_margins_are_over_the_best_other_object_of_the_query_image():
    query, candidates = box(0, 0), np.concatenate([box(0.5, 0), box(-0.2, 0)])
    # The first rival is the object itself, the second another that resembles the second candidate.
    rivals = np.concatenate([box(0, 0), box(-0.7, 0)])
    rival_similarity = np.array([[0.9, 0.3], [0.1, 0.8]])
    pairs, _ = features(query, candidates, similarity=np.array([[0.6, 0.7]]), rivals=rivals,
                        rival_similarity=rival_similarity)  # fmt: skip
    assert pairs[0, :, PairFeature.SIMILARITY_MARGIN] == pytest.approx([0.6 - 0.1, 0.7 - 0.8], abs=1e-5)

    def near(distance):
        return np.exp(-(distance**2) / (2 * 0.35**2)) / 2

    expected = [0.6 + near(0) - (0.1 + near(0.7)), 0.7 + near(0.7) - (0.8 + near(0))]
    assert pairs[0, :, PairFeature.PLACE_MARGIN] == pytest.approx(expected, abs=1e-5)
    alone, _ = features(query, candidates, similarity=np.array([[0.6, 0.7]]), rivals=rivals[:1],
                        rival_similarity=rival_similarity[:1])  # fmt: skip
    assert not alone[..., PairFeature.SIMILARITY_MARGIN].any(), "its own proposal is no rival"


def test_features_of_a_real_homography():
    query, target, similarity = two_views(twins=False)
    assert np.allclose(ground_points(boxes_at(query).xywh, SIZE_HW), query)
    homography = find_homography(query, target, similarity)
    objects, candidates = boxes_at(query[:5]), boxes_at(target, side=30, scores=np.linspace(0.1, 5, len(target)))
    pairs, queries = pair_features(similarity[:5], objects, candidates, homography, similarity, boxes_at(query))
    assert pairs.shape == (5, len(target), len(PairFeature))
    assert queries.shape == (5, len(QueryFeature))
    assert np.allclose(pairs[..., PairFeature.SIMILARITY], similarity[:5], atol=1e-6)
    assert np.allclose(pairs[0, :, PairFeature.SCORE], np.linspace(0.1, 5, len(target)) / 5, atol=1e-6)
    assert (pairs[..., PairFeature.NEARBY].argmax(1) == np.arange(5)).all()
    assert (pairs[np.arange(5), np.arange(5), PairFeature.NEAR] > 0.8).all()
    for row in range(5):
        rivals = [i for i in range(len(query)) if np.abs(query[i] - query[row]).max() > 0.1]
        expected = similarity[row] - similarity[rivals].max(0)
        assert pairs[row, row, PairFeature.SIMILARITY_MARGIN] == pytest.approx(expected[row], abs=1e-5)
    outside = project(np.array([[-1.2, 0.0]]), np.linalg.inv(VIEW))
    _, left_of_it = pair_features(similarity[:1], boxes_at(outside), candidates, homography, similarity,
                                  boxes_at(query))  # fmt: skip
    assert left_of_it[0, QueryFeature.INSIDE] < 0


def test_without_a_homography_similarity_and_size_are_left():
    query, target, similarity = two_views(twins=False)
    pairs, queries = pair_features(similarity[:5], boxes_at(query[:5]), boxes_at(target), None, similarity[:0],
                                   boxes_at(query[:0]))  # fmt: skip
    kept = [PairFeature.SIMILARITY, PairFeature.SCORE, PairFeature.WIDER, PairFeature.TALLER]
    assert not np.delete(pairs, kept, axis=-1).any()
    assert pairs[..., kept[:2]].all()
    assert not np.delete(queries, QueryFeature.SIZE, axis=-1).any()


@pytest.mark.parametrize("values", [{"near_radius": 0}, {"same_object_overlap": 1.5}, {"place_weight": -1}])
def test_constants_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        PairFeatureConfig(**values)
