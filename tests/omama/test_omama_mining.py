"""Oracles: the rules of the draw themselves, and what was measured on the released code."""

import numpy as np
import pytest

from counterview.errors import InputError
from counterview.masks.geometry import iou
from counterview.omama.training.mining import TRUTH, best_box, draw_candidates, representatives
from counterview.omama.training.neighbours import adjacency


def scene(number, seed=0):
    rng = np.random.default_rng(seed)
    overlap = np.zeros(number)
    overlap[rng.permutation(number)[:4]] = [0.9, 0.7, 0.55, 0.3][: min(4, number)]
    return adjacency(rng.uniform(0, 100, (number, 2))), overlap


@pytest.mark.parametrize("number", [1, 3, 10, 60, 300])
@pytest.mark.parametrize("mining", ["adjacent", "random"])
@pytest.mark.parametrize("positive", ["gt", "proposal"])
def test_negatives_are_clean(number, mining, positive):
    neighbours, overlap = scene(number)
    same = np.arange(number)
    if number >= 10:
        best = int(np.argmax(overlap))
        twins = np.flatnonzero(overlap == 0)[:2]
        same[twins[1]] = twins[0]
    for seed in range(40):
        draw = draw_candidates(
            np.random.default_rng(seed),
            neighbours=neighbours,
            overlap=overlap,
            representative=same,
            mining=mining,
            positive=positive,
        )
        assert draw.visible
        right = draw.proposals[draw.positive]
        assert right == (TRUTH if positive == "gt" else int(np.argmax(overlap)))
        negatives = np.delete(draw.proposals, draw.positive)
        assert len(set(negatives.tolist())) == len(negatives)
        assert (negatives >= 0).all()
        assert (overlap[negatives] < 0.5).all()
        assert len(set(same[negatives].tolist())) == len(negatives)
        available = len(set(same[overlap < 0.5].tolist()))
        assert len(draw.proposals) == 1 + min(31, available)
        if mining == "adjacent" and number >= 10:
            near = set(same[neighbours[best] & (overlap < 0.5)].tolist())
            taken = set(same[negatives].tolist())
            assert near <= taken or taken <= near, "neighbours come first"


@pytest.mark.parametrize("positive", ["gt", "proposal"])
def test_neither_the_best_proposal_nor_its_duplicates_are_negatives(positive):
    """Even where they overlap the truth by less than the threshold."""
    overlap, representative = np.array([0.4, 0.39, 0.3, 0.0, 0.1, 0.2]), np.array([0, 0, 2, 3, 4, 5])
    for seed in range(20):
        draw = draw_candidates(np.random.default_rng(seed), neighbours=~np.eye(6, dtype=bool), overlap=overlap,
                               representative=representative, positive=positive)  # fmt: skip
        assert sorted(np.delete(draw.proposals, draw.positive).tolist()) == [2, 3, 4, 5]
        assert draw.proposals[draw.positive] == (TRUTH if positive == "gt" else 0)


def test_a_proposal_at_the_threshold_is_not_a_negative():
    draw = draw_candidates(np.random.default_rng(0), neighbours=~np.eye(4, dtype=bool),
                           overlap=np.array([0.9, 0.5, 0.49, 0.0]))  # fmt: skip
    assert sorted(draw.proposals.tolist()) == [TRUTH, 2, 3]


@pytest.mark.parametrize("mining", ["adjacent", "random", "released"])
def test_the_positive_comes_to_every_place(mining):
    neighbours, overlap = scene(100)
    draws = [
        draw_candidates(np.random.default_rng(s), neighbours=neighbours, overlap=overlap, count=4, mining=mining)
        for s in range(200)
    ]
    counts = np.bincount([draw.positive for draw in draws])
    assert len(counts) == 4
    assert counts.min() > 25  # of 50 each


def test_the_released_choice_leaves_the_best_proposal_out_of_its_neighbours():
    neighbours = np.ones((40, 40), dtype=bool)  # each proposal beside all of them, itself too
    for seed in range(20):
        draw = draw_candidates(np.random.default_rng(seed), neighbours=neighbours, overlap=np.eye(40)[7], best=7,
                               mining="released")  # fmt: skip
        negatives = np.delete(draw.proposals, draw.positive)
        assert 7 not in negatives
        assert len(set(negatives.tolist())) == 31


def test_positions_and_negatives_vary_and_are_reproducible():
    neighbours, overlap = scene(100)
    draws = [draw_candidates(np.random.default_rng(s), neighbours=neighbours, overlap=overlap) for s in range(60)]
    again = [draw_candidates(np.random.default_rng(s), neighbours=neighbours, overlap=overlap) for s in range(60)]
    assert len({d.positive for d in draws}) > 20
    assert all(
        np.array_equal(a.proposals, b.proposals) and a.positive == b.positive for a, b in zip(draws, again, strict=True)
    )


def test_object_that_is_not_visible():
    neighbours, _ = scene(50)
    draw = draw_candidates(np.random.default_rng(0), neighbours=neighbours, overlap=None)
    assert not draw.visible
    assert len(set(draw.proposals.tolist())) == 32
    assert len(draw_candidates(np.random.default_rng(0), neighbours=neighbours[:0, :0], overlap=None).proposals) == 0


def test_truth_stands_in_where_no_proposal_overlaps():
    neighbours, _ = scene(5)
    draw = draw_candidates(np.random.default_rng(0), neighbours=neighbours, overlap=np.zeros(5), positive="proposal")
    assert draw.proposals[draw.positive] == TRUTH
    none = np.zeros((0, 0), bool)
    draw = draw_candidates(np.random.default_rng(0), neighbours=none, overlap=np.zeros(0), positive="proposal")
    assert draw.proposals.tolist() == [TRUTH]


@pytest.mark.parametrize(
    ("number", "own", "twice"), [(10, 0.90, 1.0), (40, 0.52, 1.0), (60, 0.36, 1.0), (120, 0.12, 0.92)]
)
def test_released_choice_has_its_measured_faults(number, own, twice):
    """Measured on the released function in 200 draws: how often the best proposal itself, and any one twice."""
    faults = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        neighbours = adjacency(rng.uniform(0, 100, (number, 2)))
        best = int(rng.integers(number))
        draw = draw_candidates(rng, neighbours=neighbours, overlap=np.eye(number)[best], best=best, mining="released")
        negatives = np.delete(draw.proposals, draw.positive)
        assert len(negatives) == 31
        assert draw.proposals[draw.positive] == TRUTH
        near = set(np.flatnonzero(neighbours[best]))
        assert near <= set(negatives.tolist()) or len(near) > 31
        faults.append((best in negatives, len(set(negatives.tolist())) < 31))
    measured = np.mean(faults, axis=0)
    # 200 and 300 draws: four standard errors of their difference, and the scenes are not the same ones.
    assert abs(measured[0] - own) < 0.17
    assert abs(measured[1] - twice) < 0.12


def test_released_invisible_pair_draws_with_repeats_only_if_it_must():
    few, many = np.zeros((10, 10), bool), np.zeros((40, 40), bool)
    assert (
        len(draw_candidates(np.random.default_rng(0), neighbours=few, overlap=None, mining="released").proposals) == 32
    )
    draw = draw_candidates(np.random.default_rng(0), neighbours=many, overlap=None, mining="released")
    assert len(set(draw.proposals.tolist())) == 32


def test_best_box():
    boxes = np.array([[0, 0, 9, 9], [5, 5, 9, 9], [20, 20, 5, 5]], dtype=float)
    assert best_box(boxes, np.array([5, 5, 8, 8])) == 1
    assert best_box(boxes, np.array([3, 3, 0, 0])) == 0
    assert best_box(np.vstack([boxes, [[1, 1, 0, 0]]]), np.array([3, 3, 0, 0])) == 3


def test_representatives_are_first_of_their_kind():
    rng = np.random.default_rng(1)
    base = rng.random((4, 20, 20)) < 0.4
    masks = np.concatenate([base, base[[2, 0]], base[[1]]])
    masks[6, 0, 0] ^= True
    overlap = np.array([[iou(a, b) for b in masks] for a in masks])
    assert representatives(overlap).tolist() == [0, 1, 2, 3, 2, 0, 1]


def test_bad_input():
    neighbours, overlap = scene(10)
    with pytest.raises(InputError, match="overlap does not fit"):
        draw_candidates(np.random.default_rng(0), neighbours=neighbours, overlap=overlap[:5])
    with pytest.raises(InputError, match="at least one"):
        draw_candidates(np.random.default_rng(0), neighbours=neighbours, overlap=overlap, count=0)
