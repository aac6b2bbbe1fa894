"""Oracle: the watershed of scikit-image, which floods pixel by pixel out of a queue."""

import cv2
import numpy as np
import pytest
from skimage.segmentation import watershed

from counterview.proposals.flooding import flood


def markers_at(rng, shape, count):
    markers = np.zeros(shape, np.int64)
    markers.ravel()[rng.choice(markers.size, count, replace=False)] = np.arange(1, count + 1)
    return markers


@pytest.mark.parametrize("smooth_px", [0, 1, 4])
@pytest.mark.parametrize("seed", range(6))
def test_any_markers_flood_as_out_of_a_queue(seed, smooth_px):
    """Few markers leave hollows without one, which have to be levelled."""
    rng = np.random.default_rng(seed)
    height = rng.random((37, 53)).astype(np.float32)
    height = cv2.GaussianBlur(height, (0, 0), smooth_px) if smooth_px else height
    markers = markers_at(rng, height.shape, int(rng.integers(1, 30)))
    assert np.array_equal(flood(height, markers), watershed(height, markers))


def test_pixels_of_one_height_are_shared_out_nearly_alike():
    """With eight heights, most pixels have equal neighbours; the order of markers of one height is not a heap's."""
    same = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        height = cv2.GaussianBlur(rng.random((40, 60)).astype(np.float32), (0, 0), 3)
        height = np.digitize(height, np.quantile(height, np.linspace(0, 1, 9)[1:-1])).astype(np.float32)
        markers = markers_at(rng, height.shape, 12)
        labels = flood(height, markers)
        assert set(np.unique(labels)) == set(range(1, 13))
        same.append((labels == watershed(height, markers)).mean())
    assert np.mean(same) > 0.9


def test_basins_are_connected_to_their_markers():
    rng = np.random.default_rng(3)
    height = np.zeros((20, 30), np.float32)  # level everywhere
    markers = markers_at(rng, height.shape, 5)
    labels = flood(height, markers)
    for value in range(1, 6):
        assert cv2.connectedComponents((labels == value).astype(np.uint8), connectivity=4)[0] == 2


def test_no_marker_and_one_pixel():
    assert not flood(np.zeros((3, 4), np.float32), np.zeros((3, 4), np.int64)).any()
    assert flood(np.zeros((1, 1), np.float32), np.array([[7]])).tolist() == [[7]]
