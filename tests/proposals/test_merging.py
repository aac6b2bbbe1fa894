import numpy as np
import pytest

from counterview.proposals.merging import merge_tree, sum_by_pair
from counterview.proposals.regions import oversegment, ward_cost


def _chain(values):
    """Regions in a row, as ``(sums, pairs, borders)`` with area, three channels."""
    values = np.asarray(values, float)
    sums = np.stack([np.ones_like(values), values, np.zeros_like(values), np.zeros_like(values)], 1)
    index = np.arange(len(values) - 1)
    return sums, np.stack([index, index + 1], 1), np.ones((len(index), 1))


def _one_at_a_time(sums, pairs, borders):
    """Oracle: the plain loop that joins the one cheapest pair, mean border strength as the price."""
    alive = {i: frozenset([i]) for i in range(len(sums))}
    edges = {frozenset(p): b.copy() for p, b in zip(pairs.tolist(), borders, strict=True)}
    found = set()
    count = len(sums)
    while edges:
        pair = min(edges, key=lambda e: (edges[e][1] / edges[e][0], sorted(e)))
        a, b = sorted(pair)
        alive[count] = alive.pop(a) | alive.pop(b)
        found.add(alive[count])
        merged = {}
        for edge, value in edges.items():
            if edge == pair:
                continue
            edge = frozenset(count if end in (a, b) else end for end in edge)
            merged[edge] = merged.get(edge, 0) + value
        edges, count = merged, count + 1
    return found


@pytest.mark.parametrize("seed", range(8))
def test_tree_is_that_of_one_merge_at_a_time(seed):
    # The mean border strength is reducible: joining two regions never brings a third nearer than both were.
    rng = np.random.default_rng(seed)
    side = 6
    at = np.arange(side * side).reshape(side, side)
    pairs = np.concatenate(
        [np.stack([at[:, :-1].ravel(), at[:, 1:].ravel()], 1), np.stack([at[:-1].ravel(), at[1:].ravel()], 1)]
    )
    length = rng.integers(1, 6, len(pairs)).astype(float)
    borders = np.stack([length, length * rng.random(len(pairs))], 1)
    tree = merge_tree(np.ones((side * side, 1)), pairs, borders, lambda s, u, v, b: b[:, 1] / b[:, 0])
    members = tree.members()[side * side :]
    assert {frozenset(np.flatnonzero(row).tolist()) for row in members} == _one_at_a_time(
        np.ones((side * side, 1)), pairs, borders
    )


def test_sums_outlines_and_keys_agree_with_the_members():
    rng = np.random.default_rng(1)
    sums, pairs, borders = _chain(rng.random(20))
    borders = rng.random((19, 2))
    tree = merge_tree(sums, pairs, borders, ward_cost)
    other = merge_tree(sums, pairs, borders, lambda s, u, v, b: b[:, 0])
    members = tree.members()
    assert np.allclose(members @ sums, tree.sums)
    crossing = members[:, pairs[:, 0]] != members[:, pairs[:, 1]]
    assert np.allclose(crossing @ borders, tree.outlines)
    parents = tree.parents()
    assert parents[-1] == -1
    assert all((members[i] <= members[p]).all() for i, p in enumerate(parents[:-1]))
    sets = [row.tobytes() for row in (*members, *other.members())]
    keys = [*tree.keys().tolist(), *other.keys().tolist()]
    assert len(set(zip(sets, keys, strict=True))) == len(set(sets)) == len(set(keys))


def test_stopping_leaves_that_many_regions():
    sums, pairs, borders = _chain([0, 0.1, 5, 5.1, 9, 9.2])
    labels = merge_tree(sums, pairs, borders, ward_cost, stop_at=3).final_labels()
    assert labels.tolist() == [labels[0]] * 2 + [labels[2]] * 2 + [labels[4]] * 2
    assert sorted(set(labels)) == [0, 1, 2]
    apart = merge_tree(sums, pairs[:2], borders[:2], ward_cost)
    assert len(set(apart.final_labels())) == 4


def test_sum_by_pair_adds_both_directions():
    pairs, values = sum_by_pair(np.array([[3, 1], [0, 2], [1, 3]]), np.array([[1.0], [5.0], [2.0]]))
    assert pairs.tolist() == [[0, 2], [1, 3]]
    assert values.tolist() == [[5.0], [3.0]]
    empty = sum_by_pair(np.zeros((0, 2), np.int64), np.zeros((0, 3)))
    assert empty[0].shape == (0, 2)
    assert empty[1].shape == (0, 3)


def test_over_segmentation_counts_every_pixel_once():
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    regions = oversegment(image, 50)
    assert len(regions) == 50
    assert regions.labels.shape == (40, 60)
    assert np.array_equal(np.bincount(regions.labels.ravel()), regions.sums[:, 0])
    # Histograms: four of them, each with every pixel in it.
    assert np.allclose(regions.sums[:, 10:].sum(1), 4 * regions.sums[:, 0])
    assert regions.sums[:, 9].sum() == 2 * 40 + 2 * 60 - 4
    right = regions.labels[:, :-1] != regions.labels[:, 1:]
    down = regions.labels[:-1] != regions.labels[1:]
    assert regions.borders[:, 0].sum() == right.sum() + down.sum()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (2, 2)])
def test_over_segmentation_of_the_smallest_images(shape):
    regions = oversegment(np.full((*shape, 3), 77, np.uint8), 10)
    assert regions.labels.shape == shape
    assert len(regions) == 1
    assert len(regions.pairs) == 0


@pytest.mark.parametrize(("at_once", "rounds"), [(0.5, 3), (1.0, 1), (0.25, 4)])
def test_a_round_merges_the_cheapest_fraction_of_the_mutual_pairs(at_once, rounds):
    """Four pairs that touch nothing else: all are each other's cheapest neighbours from the start."""
    pairs = np.arange(8).reshape(4, 2)
    prices = np.array([4.0, 1.0, 3.0, 2.0])
    calls = []

    def cost(sums, u, v, borders):
        calls.append(len(u))
        return borders[:, 0]

    tree = merge_tree(np.ones((8, 1)), pairs, prices[:, None], cost, at_once=at_once)
    assert len(calls) == rounds
    assert tree.costs.tolist() == sorted(prices)
    assert tree.children.tolist() == pairs[np.argsort(prices)].tolist()
