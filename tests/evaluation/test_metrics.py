"""Measures from run lengths against plain definitions on whole images (NumPy, SciPy, scikit-learn)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation, center_of_mass
from sklearn.metrics import balanced_accuracy_score

from counterview.errors import PredictionError
from counterview.evaluation.metrics import (
    box_centre,
    contour_accuracy,
    contour_radius_px,
    crop,
    location_error,
    mass_centre,
    official_iou,
)
from counterview.evaluation.scorer import PROTOCOLS, Scorer, balanced_accuracy, totals
from counterview.masks.geometry import resize_mask, resize_nearest
from counterview.types import ObjectMask

SHAPE = (37, 61)
MASKS = st.one_of(
    arrays(np.bool_, SHAPE),
    st.tuples(st.integers(0, 36), st.integers(0, 60), st.integers(0, 40), st.integers(0, 60)).map(
        lambda b: np.fromfunction(lambda y, x: (y >= b[0]) & (y < b[0] + b[2]) & (x >= b[1]) & (x < b[1] + b[3]), SHAPE)
    ),
)


def boundary(mask, closed=False):
    """Pixels that differ from their right, lower or lower-right neighbour."""
    mode = {"mode": "constant"} if closed else {"mode": "edge"}
    padded = np.pad(mask, ((0, 1), (0, 1)), **mode)
    return (mask != padded[1:, :-1]) | (mask != padded[:-1, 1:]) | (mask != padded[1:, 1:])


def f_measure(gt, pred, radius, closed=False):
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = x * x + y * y <= radius * radius
    a, b = boundary(gt, closed), boundary(pred, closed)
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    precision = (b & binary_dilation(a, disk)).sum() / b.sum()
    recall = (a & binary_dilation(b, disk)).sum() / a.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@settings(max_examples=80, deadline=None)
@given(MASKS, MASKS, st.sampled_from([0.008, 0.03, 0.1]))
def test_contours_are_those_of_whole_images(a, b, tolerance):
    got = contour_accuracy(ObjectMask.from_array(a), ObjectMask.from_array(b), tolerance=tolerance)
    assert got == pytest.approx(f_measure(a, b, contour_radius_px(SHAPE, tolerance)), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(MASKS, MASKS)
def test_registered_contours_are_those_of_moved_masks(a, b):
    got = contour_accuracy(ObjectMask.from_array(a), ObjectMask.from_array(b), register=True)
    if a.any() != b.any():
        assert got == 0
        return
    if a.any():
        (ay, ax), (by, bx) = center_of_mass(a), center_of_mass(b)
        margin = 80
        shift = (math.floor(ay - by + 0.5), math.floor(ax - bx + 0.5))
        a, b = np.pad(a, margin), np.roll(np.pad(b, margin), shift, axis=(0, 1))
    assert got == pytest.approx(f_measure(a, b, contour_radius_px(SHAPE), closed=True), abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(MASKS, MASKS)
def test_iou_and_centres_are_those_of_pixels(a, b):
    left, right = ObjectMask.from_array(a), ObjectMask.from_array(b)
    union = (a | b).sum()
    assert official_iou(left, right) == pytest.approx((a & b).sum() / (union + 1e-7) if union else 1.0, abs=1e-12)
    if a.any():
        y, x = np.nonzero(a)
        assert box_centre(left) == ((x.min() + x.max()) // 2, (y.min() + y.max()) // 2)
        assert mass_centre(left) == pytest.approx((x.mean(), y.mean()), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(MASKS, st.integers(0, 60), st.integers(0, 36), st.data())
def test_a_crop_is_a_part_of_the_image(a, x, y, data):
    width, height = data.draw(st.integers(1, 61 - x)), data.draw(st.integers(1, 37 - y))
    assert (a[y : y + height, x : x + width] == crop(ObjectMask.from_array(a), x, y, width, height).T).all()


@settings(max_examples=80, deadline=None)
@given(MASKS, st.integers(1, 90), st.integers(1, 130))
def test_resized_runs_are_resized_pixels(a, height, width):
    got = resize_mask(ObjectMask.from_array(a), (height, width))
    assert (got.to_array() == resize_nearest(a, (height, width))).all()


def test_resizing_a_huge_mask_needs_no_huge_memory():
    tall = ObjectMask((2**31 - 1, 1), np.array([10, 2**30, 2**31 - 1 - 10 - 2**30]))
    small = resize_mask(tall, (480, 1))
    assert small.area == pytest.approx(240, abs=1)


def test_an_empty_mask_has_its_centre_where_the_official_code_puts_it():
    empty = ObjectMask.empty((270, 480))
    assert box_centre(empty) == (135, 240)  # x and y swapped
    assert box_centre(empty, swap_if_empty=False) == (240, 135)
    assert mass_centre(empty) == (239.5, 134.5)
    full = ObjectMask.from_array(np.ones((270, 480), dtype=bool))
    assert location_error(full, empty, diagonal_px=1.0) == math.hypot(239 - 135, 134 - 240)
    # A full image has no contour, no more than an empty one: the official measure calls that a match.
    assert contour_accuracy(full, empty) == 1.0
    assert contour_accuracy(full, empty, register=True) == 0.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_balanced_accuracy_is_that_of_scikit_learn(pairs):
    truth, predicted = np.array(pairs).T
    got = balanced_accuracy(truth, predicted)
    if len(set(truth.tolist())) == 2:
        assert got == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)
    else:
        assert got == (truth == predicted).mean()


def square(size, x, y, side):
    array = np.zeros(size, dtype=bool)
    array[y : y + side, x : x + side] = True
    return ObjectMask.from_array(array)


def test_nothing_scored_is_nan_and_null():
    empty = Scorer().totals()
    assert math.isnan(empty.iou)
    assert math.isnan(empty.balanced_accuracy)
    assert empty.to_json() == {
        "iou": None,
        "location_error": None,
        "contour_accuracy": None,
        "balanced_accuracy": None,
        "counts": {"frames": 0, "visible": 0, "absent": 0, "missing": 0},
    }


def test_macro_averages_objects_of_a_frame_first():
    gt, half = square((480, 480), 100, 100, 100), square((480, 480), 150, 100, 100)
    scorer = Scorer("macro")
    for frame, pred in ((0, gt), (0, half), (0, half), (30, gt)):
        scorer.add("t", f"o{len(scorer.table)}", "aria01", "cam01", frame, gt=gt, pred=pred, confidence=1.0)
    third = 5000 / (15000 + 1e-7)
    assert scorer.totals().iou == pytest.approx(((1 + 2 * third) / 3 + 1) / 2)
    assert totals(scorer.table, "official").iou == pytest.approx((2 + 2 * third) / 4)


def test_corrected_measures_what_the_page_describes():
    gt, moved = square((1080, 1920), 400, 400, 200), square((270, 480), 150, 100, 50)
    row = Scorer("corrected").add("t", "o", "aria01", "cam01", 0, gt=gt, pred=moved, confidence=1.0)
    assert row.contour_accuracy == 1.0
    assert row.contour_accuracy_unregistered < 0.5
    assert row.location_error == pytest.approx(50 / math.hypot(270, 480))
    official = Scorer("official").add("t", "o", "aria01", "cam01", 0, gt=gt, pred=moved, confidence=1.0)
    assert official.location_error == pytest.approx(50 / math.hypot(480, 480))
    nothing = Scorer("corrected").add("t", "o", "aria01", "cam01", 0, gt=gt, pred=None, confidence=0.0)
    assert nothing.location_error == pytest.approx(math.hypot(124.5 - 239.5, 124.5 - 134.5) / math.hypot(270, 480))


def test_the_size_must_be_right_or_is_made_right():
    gt = square((1080, 1920), 400, 400, 200)
    for protocol in PROTOCOLS.values():
        scorer = Scorer(protocol)
        if protocol.official_size:
            with pytest.raises(PredictionError, match="wrong size; found 1080 x 1920; expected 270 x 480"):
                scorer.add("t", "o", "aria01", "cam01", 0, gt=gt, pred=gt, confidence=1.0)
        row = scorer.add("t", "o", "aria01", "cam01", 0, gt=gt, pred=gt, confidence=1.0, resize=True)
        assert row.iou == pytest.approx(1, abs=1e-9)
        with pytest.raises(PredictionError, match="finite"):
            scorer.add("t", "o", "aria01", "cam01", 0, gt=gt, pred=gt, confidence=math.nan, resize=True)
    assert Scorer().add("t", "o", "a", "c", 0, gt=None, pred=gt, confidence=0.5).pred_visible is False
