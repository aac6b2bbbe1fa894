import numpy as np
import pytest

from counterview.baselines.weightless import BINS, CHROMA_MOST, LabHistogram, nearest_to_place, same_place
from counterview.features.base import Backbone
from counterview.features.colour import lab_bins
from counterview.types import ObjectMask


def square(size_hw, x, y, side):
    dense = np.zeros(size_hw, bool)
    dense[y : y + side, x : x + side] = True
    return ObjectMask.from_array(dense)


def test_same_place_is_relative_to_the_sides():
    placed = same_place(square((40, 80), 40, 10, 10), (80, 40))
    assert placed.size_hw == (80, 40)
    assert placed.box_xywh == (20, 20, 5, 20)


def test_nearest_to_place_overlaps_first_and_centres_next():
    size = (50, 50)
    candidates = [square(size, 0, 0, 10), square(size, 8, 8, 10), square(size, 40, 40, 5)]
    assert nearest_to_place(square(size, 6, 6, 10), candidates) == 1
    assert nearest_to_place(square(size, 30, 35, 4), candidates) == 2
    assert nearest_to_place(ObjectMask.empty(size), candidates) == 0


def test_histograms_tell_colours_and_nothing_else():
    rng = np.random.default_rng(0)
    image = np.full((40, 60, 3), 128, np.uint8)
    image[5:15, 5:15], image[20:35, 40:55] = (200, 30, 30), (200, 30, 30)
    image[5:15, 40:50] = (30, 60, 200)
    image[20:30, 5:15] = rng.integers(0, 256, (10, 10, 3))
    backbone = LabHistogram()
    assert isinstance(backbone, Backbone)
    masks = [square((40, 60), 5, 5, 10), square((40, 60), 40, 20, 15), square((40, 60), 40, 5, 10),
             square((40, 60), 5, 20, 10), ObjectMask.empty((40, 60))]  # fmt: skip
    rows = backbone.describe(backbone.encode(image), masks).numpy()
    assert rows.shape == (5, BINS**3)
    cosine = rows @ rows.T
    assert np.diag(cosine)[:4] == pytest.approx(np.ones(4), abs=1e-6)
    assert cosine[0, 1] == pytest.approx(1.0, abs=1e-6), "same colour, other size and place"
    assert cosine[0, 2] == pytest.approx(0.0, abs=1e-6)
    assert not rows[4].any()


def test_bins_are_those_of_a_plain_count():
    """Against a histogram by numpy itself."""
    import cv2

    image = np.random.default_rng(1).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float64)
    lab[:, 1:] = lab[:, 1:].clip(-CHROMA_MOST, CHROMA_MOST - 1e-6)
    span = (-CHROMA_MOST, CHROMA_MOST)
    lab[:, 0] = lab[:, 0].clip(0, 100 - 1e-4)
    expected, _ = np.histogramdd(lab, bins=[8, 8, 8], range=[(0, 100), span, span])
    counts = np.bincount(lab_bins(image), minlength=512)
    assert np.abs(counts - expected.reshape(-1)).sum() <= 4, "rounding at a bin's edge"
