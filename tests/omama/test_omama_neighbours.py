"""Oracles: the released adjacency where it is right; brute-force Delaunay; invariants where the release is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass
from scipy.spatial import Delaunay

from counterview.errors import InputError
from counterview.omama import adjacency
from counterview.omama.training.neighbours import centroids_yx
from counterview.types import ObjectMask


def case_of(fixture_data, name):
    case = fixture_data("omama/adjacency.json")["cases"][name]
    points = np.array([[np.nan, np.nan] if p is None else p for p in case["centroids_yx"]], dtype=float)
    orders = {}
    for order in (1, 2, 3):
        if f"order{order}" in case:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(case[f"order{order}"]), np.uint8))
            orders[order] = bits[: case["n"] ** 2].reshape(case["n"], case["n"]).astype(bool)
    return points, orders


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", ["n12", "n40", "n3", "all_empty"])
def test_equals_the_released_where_that_is_right(fixture_data, name, order):
    points, gold = case_of(fixture_data, name)
    ours = adjacency(points, order)
    if order > 1:  # the released one says that a mask with neighbours is its own neighbour, from the second order on
        np.fill_diagonal(ours, ours.any(axis=1))
    assert np.array_equal(ours, gold[order])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_empty_mask_shifts_nothing(fixture_data, order):
    points, gold = case_of(fixture_data, "n12_mask4_empty")
    there = ~np.isnan(points[:, 0])
    ours = adjacency(points, order)
    assert not ours[~there].any()
    assert not ours[:, ~there].any()
    # The released matrix holds the right values in its first rows, shifted from the empty mask on.
    np.fill_diagonal(gold[order], False)
    assert np.array_equal(ours[np.ix_(there, there)], gold[order][:11, :11])
    assert not np.array_equal(ours, gold[order])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_duplicate_shares_its_twins_neighbours(fixture_data, order):
    points, gold = case_of(fixture_data, "n12_mask7_duplicates_mask2")
    assert np.array_equal(points[7], points[2])
    ours = adjacency(points, order)
    np.fill_diagonal(gold[order], False)
    rest = np.arange(12) != 7
    isolated = [i for i in (2, 7) if not gold[order][i].any()]
    assert len(isolated) == 1, "the released code leaves one of the twins alone"
    keep = np.arange(12) != isolated[0]
    assert np.array_equal(ours[np.ix_(keep, keep)], gold[order][np.ix_(keep, keep)])
    assert ours[2, 7]
    both = rest & (np.arange(12) != 2)
    assert np.array_equal(ours[2, both], ours[7, both])


def test_collinear_points_are_a_chain(fixture_data):
    points, gold = case_of(fixture_data, "collinear")
    assert not gold
    ours = adjacency(points, 1)
    along = np.argsort(points @ [1.0, np.pi])
    chain = np.abs(np.argsort(along)[:, None] - np.argsort(along)) == 1
    assert np.array_equal(ours, chain)
    assert np.array_equal(adjacency(points, 2), np.isin(np.abs(np.argsort(along)[:, None] - np.argsort(along)), (1, 2)))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three(count):
    points = np.array([[1.0, 2.0], [3.0, 9.0]])[:count]
    assert np.array_equal(adjacency(points, 2), ~np.eye(count, dtype=bool) if count == 2 else np.zeros((count, count)))
    assert adjacency(np.array([[1.0, 1.0]] * 3), 1).sum() == 6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)) | st.none(), min_size=0, max_size=14),
    st.sampled_from([1, 2, 3]),
    st.randoms(use_true_random=False),
)
def test_invariants_on_degenerate_points(points, order, random):
    array = np.array([(np.nan, np.nan) if p is None else p for p in points], dtype=float).reshape(-1, 2)
    ours = adjacency(array, order)
    there = ~np.isnan(array[:, 0])
    assert np.array_equal(ours, ours.T)
    assert not ours.diagonal().any()
    assert not ours[~there].any()
    assert not ours[there].any(axis=1).any() if there.sum() < 2 else ours[there].any(axis=1).all()
    if order > 1:
        assert not (adjacency(array, order - 1) & ~ours).any()
    nearest = np.linalg.norm(array[:, None] - array, axis=-1)
    np.fill_diagonal(nearest, np.inf)
    for i in np.flatnonzero(there):
        if there.sum() > 1:  # a point's nearest neighbour is always one of its Delaunay neighbours
            row = np.where(np.isnan(nearest[i]), np.inf, nearest[i])
            close = np.flatnonzero(row == row.min())
            assert ours[i, close].any()


def test_general_position_equals_brute_force():
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 100, (25, 2))
    ours = adjacency(points, 1)
    expected = np.zeros((25, 25), bool)
    for i in range(25):
        for j in range(i):
            for k in range(j):
                a, b, c = points[[i, j, k]]
                matrix = 2 * np.array([b - a, c - a])
                centre = np.linalg.solve(matrix, [b @ b - a @ a, c @ c - a @ a])
                radius = np.linalg.norm(a - centre)
                if (np.delete(np.linalg.norm(points - centre, axis=1), [i, j, k]) > radius).all():
                    for p, q in ((i, j), (j, k), (i, k)):
                        expected[p, q] = expected[q, p] = True
    assert np.array_equal(ours, expected)


@pytest.mark.parametrize("seed", range(6))
def test_points_on_one_circle_are_triangulated_in_their_order(seed):
    """Of a square either diagonal will do; which one Delaunay takes depends on the order of the points."""
    y, x = np.mgrid[:4, :5]
    points = np.random.default_rng(seed).permutation(np.stack([y.ravel(), x.ravel()], axis=1)).astype(float)
    expected = np.zeros((20, 20), dtype=bool)
    for a, b, c in Delaunay(points).simplices:
        for i, j in ((a, b), (b, c), (a, c)):
            expected[i, j] = expected[j, i] = True
    assert np.array_equal(adjacency(points, 1), expected)


def test_a_point_too_near_to_another_for_the_triangulation_has_its_neighbours():
    corners = np.array([[0.0, 0], [0, 1000], [1000, 0], [1000, 1000], [500, 400]])
    points = np.vstack([corners, corners[4] + [0, 1e-13]])
    assert not np.array_equal(points[4], points[5])
    assert len(Delaunay(points).coplanar) == 1, "the case that this test is about"
    ours = adjacency(points, 1)
    assert ours[4, 5]
    assert np.array_equal(ours[4, :4], ours[5, :4])
    assert ours[5, :4].any()
    assert np.array_equal(ours, ours.T)


def test_bad_input():
    with pytest.raises(InputError, match="pairs"):
        adjacency(np.zeros((3, 3)))
    with pytest.raises(InputError, match="pairs"):
        adjacency(np.array([[np.inf, 0]]))
    with pytest.raises(InputError, match="order"):
        adjacency(np.zeros((3, 2)), 4)


def test_centroids_equal_scipys():
    rng = np.random.default_rng(0)
    masks = rng.random((20, 13, 9)) < rng.uniform(0.02, 0.98, (20, 1, 1))
    masks[5] = False
    masks[6] = True
    dense = centroids_yx(masks)
    runs = centroids_yx([ObjectMask.from_array(m) for m in masks])
    expected = np.array([center_of_mass(m) if m.any() else (np.nan, np.nan) for m in masks])
    assert np.allclose(dense, expected, atol=1e-12, equal_nan=True)
    assert np.allclose(runs, expected, atol=1e-12, equal_nan=True)
