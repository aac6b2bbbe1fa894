import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from counterview.baselines import knn
from counterview.baselines.knn import cycle_visibility, match_descriptors
from counterview.errors import InputError, ProposalError
from counterview.types import ObjectMask


def box(x, y, width, height, size_hw=(20, 30)):
    array = np.zeros(size_hw, dtype=bool)
    array[y : y + height, x : x + width] = True
    return ObjectMask.from_array(array)


def test_similarity_and_order_are_scikit_learns():
    rng = np.random.default_rng(0)
    query, candidates = rng.normal(size=(5, 16)), rng.normal(size=(40, 16))
    result = match_descriptors(query, torch.from_numpy(candidates), top_k=7)
    np.testing.assert_allclose(result.similarity, cosine_similarity(query, candidates), atol=1e-12)
    oracle = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(candidates)
    np.testing.assert_array_equal(result.order, oracle.kneighbors(query, return_distance=False))


def test_many_queries_at_once_are_each_alone():
    rng = np.random.default_rng(1)
    query, candidates = rng.normal(size=(6, 8)), rng.normal(size=(9, 8))
    together = match_descriptors(query, candidates)
    for q in range(6):
        alone = match_descriptors(query[q : q + 1], candidates)
        np.testing.assert_allclose(alone.similarity[0], together.similarity[q], atol=1e-15)
        np.testing.assert_array_equal(alone.order[0], together.order[q])


def test_equals_keep_their_order_and_zeros_match_nothing():
    candidates = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    result = match_descriptors(np.array([[3.0, 0.0]]), candidates, top_k=10)
    np.testing.assert_array_equal(result.order, [[1, 2, 0, 3]])
    np.testing.assert_array_equal(result.similarity, [[0, 1, 1, 0]])
    assert not match_descriptors(np.zeros((1, 2)), candidates).similarity.any()


@pytest.mark.parametrize(
    ("query", "candidates", "top_k", "error"),
    [
        (np.ones((1, 2)), np.ones((0, 2)), 1, ProposalError),
        (np.ones((1, 2)), np.ones((3, 4)), 1, InputError),
        (np.ones((1, 2)), np.full((3, 2), np.nan), 1, InputError),
        (np.ones(2), np.ones((3, 2)), 1, InputError),
        (np.ones((1, 2)), np.ones((3, 2)), 0, InputError),
    ],
)
def test_refuses(query, candidates, top_k, error):
    with pytest.raises(error):
        match_descriptors(query, candidates, top_k)


@pytest.fixture
def scene():
    """A red and a blue object in both images; descriptors are (red, green, blue)."""
    own = np.array([[1.0, 0.0, 0.1]])
    own_mask = [box(2, 2, 6, 6)]
    back = np.array([[1.0, 0.02, 0.1], [0.0, 0.1, 1.0]])
    back_masks = [box(2, 2, 6, 5), box(15, 2, 6, 6)]
    there = np.array([[0.0, 0.12, 1.0], [1.0, 0.0, 0.12], [1.0, 0.1, 0.2], [0.1, 1.0, 0.1]])
    there_masks = [box(1, 1, 5, 5), box(10, 10, 8, 6), box(10, 10, 8, 5), box(22, 3, 4, 4)]
    return own, own_mask, back, back_masks, there, there_masks


def check(scene, keep=None):
    own, own_mask, back, back_masks, there, there_masks = scene
    keep = list(range(len(there))) if keep is None else keep
    there, there_masks = there[keep], [there_masks[i] for i in keep]
    result = match_descriptors(own, there)
    return result, cycle_visibility(result, own, own_mask, back, back_masks, there, there_masks)


def test_numbers_are_the_documented_ones(scene):
    result, checked = check(scene)
    similarity = result.similarity[0]
    assert result.order[0, 0] == 1
    median = np.median(similarity)
    # Candidate 2 is another outline of the answer (IoU 40/48), so the rival is the next one.
    rival = max(similarity[0], similarity[3])
    lift, margin = (similarity[1] - median) / (1 - median), (similarity[1] - rival) / (1 - median)
    assert checked.lift[0] == pytest.approx(lift)
    assert checked.margin[0] == pytest.approx(min(margin, 1))
    score = knn.VISIBILITY_BIAS + knn.LIFT_WEIGHT * checked.lift[0] + knn.MARGIN_WEIGHT * checked.margin[0]
    score += knn.CYCLE_WEIGHT * checked.consistency[0]
    assert checked.visibility[0] == pytest.approx(1 / (1 + math.exp(-score)))


def test_the_cycle_closes_on_the_query_or_its_proposal(scene):
    own, own_mask, back, back_masks, there, there_masks = scene
    _, checked = check(scene)
    assert (checked.returned[0], checked.consistency[0]) == (-1, 1.0)
    there = there.copy()
    there[1] = [1.0, 0.03, 0.1]  # now the proposal that covers 30 of the query's 36 pixels is nearer
    _, checked = check((own, own_mask, back, back_masks, there, there_masks))
    assert checked.returned[0] == 0
    assert checked.consistency[0] == pytest.approx(30 / 36)


def test_an_absent_object_is_less_visible(scene):
    _, present = check(scene)
    _, absent = check(scene, keep=[0, 3])
    assert absent.visibility[0] < 0.5 < present.visibility[0]
    assert absent.returned[0] == 1
    assert absent.consistency[0] == 0.0


def test_without_proposals_in_the_query_image_the_query_alone_is_asked(scene):
    own, own_mask, _, _, there, there_masks = scene
    _, checked = check((own, own_mask, np.zeros((0, 3)), [], there, there_masks))
    assert checked.returned[0] == -1
    assert 0 <= checked.visibility[0] <= 1


def test_one_candidate_and_no_objects(scene):
    _, checked = check(scene, keep=[1])
    assert np.isfinite(checked.visibility).all()
    own, _, back, back_masks, there, there_masks = scene
    none = match_descriptors(own[:0], there)
    checked = cycle_visibility(none, own[:0], [], back, back_masks, there, there_masks)
    assert checked.visibility.shape == checked.returned.shape == (0,)


def test_refuses_masks_of_another_number(scene):
    own, own_mask, back, back_masks, there, there_masks = scene
    result = match_descriptors(own, there)
    with pytest.raises(InputError, match="differ in number"):
        cycle_visibility(result, own, own_mask, back, back_masks[:1], there, there_masks)
