"""Plain colour histograms against scikit-image's Lab and NumPy's histograms."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from counterview.features.colour import BINS, CHROMA_MOST, LENGTH, LabBins, histograms, lab_bins
from counterview.types import ObjectMask


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (23, 31, 3), dtype=np.uint8)  # neither side a multiple of the other


def plain_histogram(image, mask):
    lab = rgb2lab(image)[mask]
    edges = (np.linspace(0, 100, BINS + 1), *[np.linspace(-CHROMA_MOST, CHROMA_MOST, BINS + 1)] * 2)
    inside = [np.clip(lab[:, c], e[0] + 1e-6, e[-1] - 1e-6) for c, e in enumerate(edges)]
    counts, _ = np.histogramdd(np.stack(inside, 1), edges)
    return np.sqrt(counts.ravel() / counts.sum())


def test_histograms_are_those_of_the_pixels_of_each_mask(image):
    masks = np.zeros((3, 23, 31), bool)
    masks[0, 2:9, 3:28] = masks[1, 10:22, 1:4] = True
    masks[2] = np.random.default_rng(1).random((23, 31)) < 0.3
    rows = histograms(LabBins.of(image), [ObjectMask.from_array(mask) for mask in masks])
    assert rows.shape == (3, LENGTH)
    for row, mask in zip(rows, masks, strict=True):
        # A colour on the edge of two bins may round to either.
        assert row @ plain_histogram(image, mask) > 0.95
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
    assert not histograms(LabBins.of(image), [ObjectMask.empty((23, 31))]).any()


def test_bins_are_counted_column_by_column():
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 1] = 255
    bins = lab_bins(image)
    assert len(bins) == 6
    assert np.flatnonzero(bins != bins[0]).tolist() == [2]  # first of the second column


def test_masks_of_another_resolution_are_sampled_and_none_vanishes():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (200, 40, 40)
    bins = LabBins.of(image)
    dense = np.zeros((160, 240), bool)
    dense[40:80, 100:140] = True  # half of it on either side
    speck = np.zeros((160, 240), bool)
    speck[61, 202] = True
    large = histograms(bins, [ObjectMask.from_array(dense), ObjectMask.from_array(speck)])
    own = histograms(bins, [ObjectMask.from_array(dense[::4, ::4])])
    assert np.array_equal(large[0], own[0])
    assert np.count_nonzero(large[0]) == 2
    assert np.count_nonzero(large[1]) == 1
