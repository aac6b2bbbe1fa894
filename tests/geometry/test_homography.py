"""Homographies between two views: found among twins and outliers, and never one that no two cameras could see."""

import numpy as np
import pytest

from counterview.errors import ConfigError
from counterview.geometry import HomographyConfig, find_homography, view_homographies
from tests.geometry.two_views import boxes_at, project, two_views


@pytest.mark.parametrize("seed", range(4))
def test_the_homography_is_found_among_twins_and_outliers(seed):
    query, target, similarity = two_views(seed)
    found = find_homography(query, target, similarity)
    fresh = np.random.default_rng(99).uniform(-0.8, 0.8, (50, 2))
    to, growth, ahead = found.map(fresh)
    assert ahead.all()
    assert np.abs(to - project(fresh)).max() < 0.1
    step = 1e-5
    across, down = (
        project(fresh + np.array([step, 0])) - project(fresh),
        project(fresh + np.array([0, step])) - project(fresh),
    )
    area = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) / step**2
    assert np.abs(growth - np.log(area) / 2).max() < 0.15
    assert 0.4 < found.inlier_fraction <= 1
    again = find_homography(query, target, similarity)
    assert np.array_equal(found.query_to_target, again.query_to_target)
    order = np.random.default_rng(1).permutation(len(query))
    other = find_homography(query[order], target, similarity[order])
    assert np.abs(other.map(fresh)[0] - to).max() < 0.05


def test_proposals_with_low_scores_hardly_count():
    query, target, similarity = two_views(twins=False)
    count = len(query)
    # More pieces of walls than things, whose feet agree on another homography.
    pieces = np.random.default_rng(8).uniform(-0.9, 0.9, (2 * count, 2))
    query, target = np.concatenate([query, pieces]), np.concatenate([target, project(pieces) + np.array([0.5, -0.4])])
    whole = np.full((3 * count, 3 * count), 0.2)
    whole[:count, :count] = similarity
    whole[np.arange(count, 3 * count), np.arange(count, 3 * count)] = 0.75
    scores = np.where(np.arange(3 * count) < count, 1.0, 0.1)
    fresh = np.random.default_rng(99).uniform(-0.6, 0.6, (50, 2))

    def off(scores):
        return np.median(
            np.linalg.norm(find_homography(query, target, whole, scores).map(fresh)[0] - project(fresh), axis=1)
        )

    assert off((scores, scores)) < 0.1
    assert off(None) > 0.4
    assert off((np.full(3 * count, 0.5),) * 2) > 0.4
    boxes = [boxes_at(p, scores=scores) for p in (query, target)]
    for homography in view_homographies(whole, *boxes, 3):
        assert np.median(np.linalg.norm(homography.map(fresh)[0] - project(fresh), axis=1)) < 0.1


def test_homographies_that_two_cameras_could_not_see_are_not_found():
    query, target, similarity = two_views(twins=False)
    mirrored = find_homography(query, target * (-1, 1), similarity)
    straight = find_homography(query, target, similarity)
    assert mirrored is None or mirrored.inlier_weight < straight.inlier_weight / 2
    assert find_homography(query[:3], target, similarity[:3]) is None
    assert find_homography(query, target, np.full_like(similarity, 0.2)) is None
    assert find_homography(query[:0], target, similarity[:0]) is None


def test_a_point_beyond_the_horizon_is_not_mapped():
    query, target, similarity = two_views(twins=False)
    found = find_homography(query, target, similarity)
    _, growth, ahead = found.map(np.array([[0.0, 0.0], [-20.0, 20.0]]))
    assert ahead.tolist() == [True, False]
    assert np.isfinite(growth).all()


def test_constants_change_what_is_found():
    query, target, similarity = two_views(twins=False)
    default = find_homography(query, target, similarity)
    assert find_homography(query, target, similarity, config=HomographyConfig(min_similarity=0.9)) is None
    strict = find_homography(query, target, similarity, config=HomographyConfig(tolerance=0.02))
    assert strict.inlier_weight < default.inlier_weight
    assert np.abs(strict.map(query[:5])[0] - project(query[:5])).max() < 0.03
    # The view doubles no area: a range that begins above it leaves nothing.
    assert find_homography(query, target, similarity, config=HomographyConfig(min_area_scale=50)) is None


@pytest.mark.parametrize(
    "values",
    [{"samples": 0}, {"tolerance": 0}, {"temperature": -1}, {"min_similarity": 2}, {"kept_fraction": 0},
     {"min_area_scale": 3, "max_area_scale": 2}],
)  # fmt: skip
def test_constants_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        HomographyConfig(**values)
