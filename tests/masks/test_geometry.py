"""Oracles: dense NumPy, exact fractions, OpenCV's nearest resize, pycocotools' IoU."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from counterview.errors import MaskError
from counterview.masks import geometry as g
from counterview.types import ObjectMask

shape = st.tuples(st.integers(1, 30), st.integers(1, 30))


def test_longest_side_as_the_official_scorer():
    assert g.fit_longest_side((2160, 3840)) == (270, 480)
    assert g.fit_longest_side((3840, 2160)) == (480, 270)
    assert g.fit_longest_side((1408, 1408)) == (480, 480)
    for size in ((700, 700), (532, 952), (1, 5000)):
        ratio = 1.0 / max(size) * 480
        assert g.fit_longest_side(size) == tuple(max(1, int(s * ratio)) for s in size)


@given(st.integers(1, 4000), st.integers(1, 900))
def test_nearest_is_the_exact_floor(source, target):
    indices = g.nearest_indices(source, target)
    for i in (0, target // 3, target - 1):
        assert indices[i] == int(Fraction(i * source, target))


def test_nearest_where_floating_point_goes_wrong():
    wrong = np.floor(np.arange(480) * (1408 / 480)).astype(int)
    right = g.nearest_indices(1408, 480)
    assert (wrong != right).any()
    assert np.array_equal(right, [int(Fraction(i * 1408, 480)) for i in range(480)])


@given(shape, shape, st.integers(0, 2**32 - 1))
def test_resizing_run_lengths_equals_resizing_pixels(a, b, seed):
    dense = np.random.default_rng(seed).random(a) > 0.6
    assert np.array_equal(g.resize_mask(ObjectMask.from_array(dense), b).to_array(), g.resize_nearest(dense, b))


@pytest.mark.parametrize(
    ("pixels_yx", "expected_yx"),
    [([(33, 51)], (3, 17)), ([(91, 4)], (9, 1)), ([(33, 47), (33, 55)], (3, 17)), ([(41, 5), (48, 5)], (4, 1))],
)
def test_a_mask_that_vanishes_keeps_the_pixel_at_its_centroid(pixels_yx, expected_yx):
    """From (100, 60) to (10, 20) pixels: every tenth row and third column is kept, so that these masks vanish."""
    dense = np.zeros((100, 60), dtype=bool)
    for y, x in pixels_yx:
        dense[y, x] = True
    assert not g.resize_nearest(dense, (10, 20)).any()
    fitted = g.fit_mask(ObjectMask.from_array(dense), (10, 20)).to_array()
    assert [tuple(place) for place in np.argwhere(fitted)] == [expected_yx]


@given(shape, shape, st.integers(0, 2**32 - 1))
def test_a_mask_is_fitted_by_resizing_it_where_it_does_not_vanish(a, b, seed):
    dense = np.random.default_rng(seed).random(a) > 0.9
    fitted, resized = g.fit_mask(ObjectMask.from_array(dense), b).to_array(), g.resize_nearest(dense, b)
    assert fitted.shape == b
    assert fitted.any() == dense.any()
    if resized.any():
        assert np.array_equal(fitted, resized)


@given(shape, st.integers(0, 2**32 - 1))
def test_runs_are_split_at_the_ends_of_columns(size, seed):
    """The oracle goes through the columns one by one."""
    dense = np.random.default_rng(seed).random(size) > 0.3
    expected = []
    for x, column in enumerate(dense.T):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], column.astype(int), [0]))))
        expected += [(x * size[0] + int(a), x * size[0] + int(b)) for a, b in edges.reshape(-1, 2)]
    starts, ends = g.split_at_columns(*ObjectMask.from_array(dense).intervals(), size[0])
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected


@given(shape, st.integers(0, 2**32 - 1))
def test_intersection_and_iou(size, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(size) > rng.random(), rng.random(size) > rng.random()
    left, right = ObjectMask.from_array(a), ObjectMask.from_array(b)
    assert g.intersection(left, right) == (a & b).sum()
    union = (a | b).sum()
    assert g.iou(left, right) == pytest.approx((a & b).sum() / union if union else 1.0)
    if union:
        encoded = [coco.encode(np.asfortranarray(m.astype(np.uint8))) for m in (a, b)]
        assert g.iou(a, b) == pytest.approx(coco.iou(encoded[:1], encoded[1:], [False])[0, 0])


def test_sizes_must_agree():
    with pytest.raises(MaskError):
        g.iou(np.ones((2, 2), bool), np.ones((2, 3), bool))


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.just(4)), elements=st.floats(0, 50)),
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.just(4)), elements=st.floats(0, 50)),
)
def test_box_iou_equals_pycocotools(a, b):
    a[:, 2:] += 0.1
    b[:, 2:] += 0.1
    expected = coco.iou(a, b, [False] * len(b))
    assert np.allclose(g.box_iou(a, b), expected, atol=1e-9)


def test_empty_boxes():
    assert g.box_iou(np.zeros((1, 4)), np.zeros((1, 4))) == 0
