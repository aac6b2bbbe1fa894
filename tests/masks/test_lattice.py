import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from counterview.masks.geometry import resize_nearest
from counterview.masks.lattice import lattice_runs, with_centres
from counterview.types import ObjectMask

pairs = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), image_hw=pairs, points_hw=pairs)
def test_runs_on_the_lattice_are_the_nearest_neighbour_resize(seed, image_hw, points_hw):
    masks = np.random.default_rng(seed).random((3, *image_hw)) < 0.4
    runs = lattice_runs([ObjectMask.from_array(m) for m in masks], image_hw, points_hw)
    painted = np.zeros((len(masks), *points_hw), dtype=int)
    for owner, column, top, bottom in zip(runs.owner, runs.column, runs.top, runs.bottom, strict=True):
        painted[owner, top:bottom, column] += 1
    np.testing.assert_array_equal(painted, [resize_nearest(m, points_hw) for m in masks])
    np.testing.assert_array_equal(runs.points(), painted.sum((1, 2)))


def test_a_mask_without_a_point_gets_the_one_whose_cell_holds_its_centroid():
    mask = np.zeros((2, 8, 10), dtype=bool)
    mask[0, 3, 4:6] = True
    mask[1, 2:4, 7] = True
    # On a lattice of every third pixel, neither mask has a point: each gets the one whose cell holds its centroid.
    runs = lattice_runs([ObjectMask.from_array(m) for m in mask], (8, 10), (2, 2))
    assert runs.points().tolist() == [0, 0]
    centred = with_centres(runs, [ObjectMask.from_array(m) for m in mask], (8, 10), (2, 2))
    assert centred.points().tolist() == [1, 1]
    assert centred.owner.tolist() == [0, 1]
    # Columns of 5 pixels, rows of 4: (x, y) of the centroids are (5.0, 3.5) and (7.5, 3.0).
    assert list(zip(centred.column, centred.top, strict=True)) == [(1, 0), (1, 0)]
