"""Levels of an image."""

import numpy as np
import pytest

from counterview.media.pyramid import ImagePyramid


@pytest.mark.parametrize("size", [(64, 48), (37, 48), (37, 51), (1, 5), (5, 1)])
def test_a_level_is_the_mean_of_blocks(size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    odd = [(0, side % 2) for side in size]
    whole = np.pad(image, [*odd, (0, 0)], mode="edge").astype(float)
    expected = whole.reshape(whole.shape[0] // 2, 2, whole.shape[1] // 2, 2, 3).mean((1, 3))
    found = ImagePyramid(image).level(1)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 0.51


def test_a_level_is_made_once_and_the_image_is_not_copied():
    image = np.zeros((40, 60, 3), np.uint8)
    pyramid = ImagePyramid(image)
    assert pyramid.level(0) is image
    assert pyramid.level(2) is pyramid.level(2)
    assert pyramid.level(2).shape == (10, 15, 3)


def test_the_reduced_image_has_at_least_the_side_asked_for():
    for side in (799, 800, 1599, 1600, 3201):
        image = ImagePyramid(np.zeros((4, side, 3), np.uint8)).reduced(800)
        assert image.shape[1] == side or 800 <= image.shape[1] < 1600
