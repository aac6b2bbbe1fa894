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
    query_objects = np.array([[1.0, 0.0, 0.1]])
    query_masks = [box(2, 2, 6, 6)]
    proposals = np.array([[1.0, 0.02, 0.1], [0.0, 0.1, 1.0]])
    proposal_masks = [box(2, 2, 6, 5), box(15, 2, 6, 6)]
    targets = np.array([[0.0, 0.12, 1.0], [1.0, 0.0, 0.12], [1.0, 0.1, 0.2], [0.1, 1.0, 0.1]])
    target_masks = [box(1, 1, 5, 5), box(10, 10, 8, 6), box(10, 10, 8, 5), box(22, 3, 4, 4)]
    return query_objects, query_masks, proposals, proposal_masks, targets, target_masks


def check(scene, keep=None):
    query_objects, query_masks, proposals, proposal_masks, targets, target_masks = scene
    keep = list(range(len(targets))) if keep is None else keep
    targets, target_masks = targets[keep], [target_masks[i] for i in keep]
    result = match_descriptors(query_objects, targets)
    return result, cycle_visibility(
        result, query_objects, query_masks, proposals, proposal_masks, targets, target_masks
    )


def test_numbers_are_the_documented_ones(scene):
    result, checked = check(scene)
    similarity = result.similarity[0]
    assert result.order[0, 0] == 1
    median = np.median(similarity)
    # Candidate 2 is another outline of the best one (IoU 40/48), so the rival is the next one.
    rival = max(similarity[0], similarity[3])
    lift, margin = (similarity[1] - median) / (1 - median), (similarity[1] - rival) / (1 - median)
    assert checked.lift[0] == pytest.approx(lift)
    assert checked.margin[0] == pytest.approx(min(margin, 1))
    score = knn.VISIBILITY_BIAS + knn.LIFT_WEIGHT * checked.lift[0] + knn.MARGIN_WEIGHT * checked.margin[0]
    score += knn.CYCLE_WEIGHT * checked.consistency[0]
    assert checked.visibility[0] == pytest.approx(1 / (1 + math.exp(-score)))


def at_cosines(*cosines):
    """Unit vectors in the plane with these cosines to (1, 0)."""
    return np.array([[c, math.sqrt(1 - c * c)] for c in cosines])


def spread(*spans):
    """Masks of one row, from the first to the last column of each."""
    return [box(first, 0, last - first + 1, 1, (1, 200)) for first, last in spans]


def check_rivals(second, *, rival):
    """Best candidate at cosine 0.8, the next at 0.5 with the mask ``second``; others at 0.2, 0.1 and 0."""
    query, candidates = at_cosines(1.0), at_cosines(0.2, 0.8, 0.1, 0.5, 0.0)
    masks = spread((100, 109), (0, 14), (120, 129), second, (140, 149))
    result = match_descriptors(query, candidates)
    checked = cycle_visibility(result, query, masks[:1], np.zeros((0, 2)), [], candidates, masks)
    # The median is 0.2, and so is the next best cosine of another object.
    lift, margin = (0.8 - 0.2) / 0.8, (0.8 - (0.5 if rival else 0.2)) / 0.8
    assert checked.lift[0] == pytest.approx(lift)
    assert checked.margin[0] == pytest.approx(margin)
    # The documented constants: bias -2.4, weights 3.6, 0.4 and 1.0; the cycle closes on the query.
    assert checked.visibility[0] == pytest.approx(1 / (1 + math.exp(2.4 - 3.6 * lift - 0.4 * margin - 1.0)))


def test_a_rival_overlaps_the_best_candidate_by_three_tenths_at_most():
    check_rivals((60, 69), rival=True)
    check_rivals((9, 19), rival=True)  # 6 of 20 columns are in both
    check_rivals((8, 19), rival=False)  # 7 of 20
    check_rivals((6, 19), rival=False)  # 9 of 20


def test_a_proposal_as_near_as_the_query_itself_does_not_open_the_cycle(scene):
    query_objects, query_masks, _, _, targets, target_masks = scene
    _, checked = check((query_objects, query_masks, query_objects.copy(), [box(20, 10, 3, 3)], targets, target_masks))
    assert (checked.returned[0], checked.consistency[0]) == (-1, 1.0)


def test_each_query_is_compared_with_its_own_mask():
    queries, proposals = at_cosines(0.995, -0.995), at_cosines(1.0, -1.0)
    query_masks, proposal_masks = spread((0, 9), (50, 59)), spread((0, 4), (50, 57))
    targets, target_masks = at_cosines(1.0, -1.0), spread((0, 9), (100, 109))
    result = match_descriptors(queries, targets)
    checked = cycle_visibility(result, queries, query_masks, proposals, proposal_masks, targets, target_masks)
    assert checked.returned.tolist() == [0, 1]
    assert checked.consistency.tolist() == [5 / 10, 8 / 10]


def test_the_cycle_closes_on_the_query_or_its_proposal(scene):
    query_objects, query_masks, proposals, proposal_masks, targets, target_masks = scene
    _, checked = check(scene)
    assert (checked.returned[0], checked.consistency[0]) == (-1, 1.0)
    targets = targets.copy()
    targets[1] = [1.0, 0.03, 0.1]  # now the proposal that covers 30 of the query's 36 pixels is nearer
    _, checked = check((query_objects, query_masks, proposals, proposal_masks, targets, target_masks))
    assert checked.returned[0] == 0
    assert checked.consistency[0] == pytest.approx(30 / 36)


def test_an_absent_object_is_less_visible(scene):
    _, present = check(scene)
    _, absent = check(scene, keep=[0, 3])
    assert absent.visibility[0] < 0.5 < present.visibility[0]
    assert absent.returned[0] == 1
    assert absent.consistency[0] == 0.0


def test_without_proposals_in_the_query_image_the_query_alone_is_compared(scene):
    query_objects, query_masks, _, _, targets, target_masks = scene
    _, checked = check((query_objects, query_masks, np.zeros((0, 3)), [], targets, target_masks))
    assert checked.returned[0] == -1
    assert 0 <= checked.visibility[0] <= 1


def test_one_candidate_and_no_objects(scene):
    _, checked = check(scene, keep=[1])
    assert np.isfinite(checked.visibility).all()
    query_objects, _, proposals, proposal_masks, targets, target_masks = scene
    empty = match_descriptors(query_objects[:0], targets)
    checked = cycle_visibility(empty, query_objects[:0], [], proposals, proposal_masks, targets, target_masks)
    assert checked.visibility.shape == checked.returned.shape == (0,)


def test_refuses_masks_of_another_number(scene):
    query_objects, query_masks, proposals, proposal_masks, targets, target_masks = scene
    result = match_descriptors(query_objects, targets)
    with pytest.raises(InputError, match="differ in number"):
        cycle_visibility(result, query_objects, query_masks, proposals, proposal_masks[:1], targets, target_masks)
