"""A mask cut to its box is the mask. Oracle: the dense array."""

import tracemalloc

import numpy as np
import pytest

from counterview.masks.boxed import BoxedMask
from counterview.masks.draw import overlay
from counterview.types import ObjectMask

SIZE = (13, 17)


def masks():
    rng = np.random.default_rng(0)
    for _ in range(60):
        array = np.zeros(SIZE, dtype=bool)
        y1, y2 = np.sort(rng.integers(0, SIZE[0] + 1, 2))
        x1, x2 = np.sort(rng.integers(0, SIZE[1] + 1, 2))
        array[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) < rng.choice([0.2, 0.7, 1])
        yield array
    yield np.ones(SIZE, dtype=bool)
    yield np.zeros(SIZE, dtype=bool)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        array = np.zeros(SIZE, dtype=bool)
        array[corner] = True
        yield array


@pytest.mark.parametrize("form", [np.asarray, ObjectMask.from_array, lambda array: BoxedMask.of(array)])
def test_a_boxed_mask_is_the_mask(form):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for array in masks():
        boxed = BoxedMask.of(form(array))
        whole = np.zeros(SIZE, dtype=bool)
        whole[boxed.region] = boxed.pixels
        np.testing.assert_array_equal(whole, array)
        np.testing.assert_array_equal(boxed.at(x, y), array)
        assert (boxed.size_hw, boxed.area) == (SIZE, array.sum())
        if array.any():
            rows, columns = np.nonzero(array)
            assert boxed.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        else:
            assert boxed.pixels.shape == (0, 0)


def test_many_masks_are_drawn_without_as_many_images():
    size = (480, 640)
    small = []
    for i in range(300):
        array = np.zeros(size, dtype=bool)
        array[10 + i : 20 + i, 5 + i : 20 + i] = True
        small.append(ObjectMask.from_array(array))
    image = np.zeros((*size, 3), dtype=np.uint8)
    named = [f"{i}" for i in range(10)]
    overlay(image, small[:10], labels=named)  # fonts are read
    tracemalloc.start()
    drawn = overlay(image, small[:10], labels=named, avoid=small[10:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn.any()
    assert peak < 60 * size[0] * size[1], "300 masks of a byte a pixel would be five times that"
