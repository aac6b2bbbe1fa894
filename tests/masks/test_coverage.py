"""How much of the cells of a grid masks cover."""

import cv2
import numpy as np
import pytest

from counterview.errors import InputError
from counterview.masks import coverage as module
from counterview.masks.coverage import Square, coverage
from counterview.types import ObjectMask


def squares_and_masks(count, seed=0):
    """Ragged masks in images of 120 x 90 px, and squares around them that reach beyond the image."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        mask = cv2.resize(rng.random((8, 6)), (90, 120), interpolation=cv2.INTER_CUBIC) > 0.55
        yield mask, Square(int(rng.integers(-30, 20)), int(rng.integers(-30, 10)), int(rng.integers(100, 170)))


def dense_coverage(mask, square, cells):
    """By the exact areas of all pixels, which OpenCV's resizing averages."""
    canvas = np.zeros((square.side, square.side), np.float32)
    height, width = mask.shape
    for y in range(square.side):
        for x in range(square.side):
            if 0 <= y + square.top < height and 0 <= x + square.left < width:
                canvas[y, x] = mask[y + square.top, x + square.left]
    return cv2.resize(canvas, (cells, cells), interpolation=cv2.INTER_AREA)


def test_coverage_is_that_of_the_dense_masks(monkeypatch):
    pairs = list(squares_and_masks(7))
    expected = np.stack([dense_coverage(mask, square, 33) for mask, square in pairs])
    monkeypatch.setattr(module, "_AT_A_TIME", 3)
    found = coverage([ObjectMask.from_array(m) for m, _ in pairs], [s for _, s in pairs], 33)
    assert found.shape == (7, 33, 33)
    assert np.abs(found - expected).max() < 1e-5


def test_runs_over_whole_columns_are_split():
    mask = np.zeros((40, 30), bool)
    mask[:, 5:25] = True
    found = coverage([ObjectMask.from_array(mask)], [Square(0, -5, 40)], 8)[0]
    assert np.allclose(found[:, 2:6], 1)
    assert np.allclose(found[:, [0, 1, 6, 7]], 0)


def test_a_square_smaller_than_the_grid_is_refused():
    with pytest.raises(InputError, match="smaller"):
        coverage([ObjectMask.empty((9, 9))], [Square(0, 0, 4)], 5)
    assert coverage([], [], 5).shape == (0, 5, 5)
