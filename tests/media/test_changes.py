"""Where images of one camera differ, with noise, light and codecs that are no difference."""

import io

import numpy as np
import pytest
from PIL import Image

from counterview.media.changes import REDUCED_PX, at_pixels, changed_squares, grown, reduced, windows_around


def scene(seed=0, size_hw=(240, 320)):
    """Smooth ground with boxes on it, ``(H, W, 3)``."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size_hw)
    image = np.stack([60 + rows / 4, 80 + columns / 8, 120 - rows / 5], -1)
    for _ in range(12):
        y, x = rng.integers(0, size_hw[0] - 40), rng.integers(0, size_hw[1] - 40)
        image[y : y + 30, x : x + 25] = rng.uniform(30, 220, 3)
    return image.clip(0, 255).astype(np.uint8)


def noisy(image, seed, sigma=3.0):
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def jpeg(image, quality=80):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


@pytest.mark.parametrize("light", [0, 3, -3])
def test_noise_codec_and_a_little_light_change_nothing(light):
    image = scene()
    earlier, later = jpeg(noisy(image, 1)), jpeg(noisy((image + np.int16(light)).clip(0, 255), 2))
    assert changed_squares(earlier, later).mean() < 0.01


def test_what_moves_is_found_and_nothing_else():
    image = scene()
    moved = image.copy()
    moved[100:124, 200:220] = (240, 20, 20)
    squares = changed_squares(jpeg(noisy(image, 1, 1.5), 92), jpeg(noisy(moved, 2, 1.5), 92))
    differs = (moved != image).any(-1)
    found = at_pixels(squares, image.shape[:2], image.shape[:2])
    assert found[differs].mean() == 1
    assert not (found & ~at_pixels(grown(squares_of(differs)), image.shape[:2], image.shape[:2])).any()


def squares_of(pixels):
    return pixels.reshape(pixels.shape[0] // 8, 8, pixels.shape[1] // 8, 8).any((1, 3))


def test_other_light_or_another_size_changes_everything():
    image = scene()
    assert changed_squares(image, (image.astype(np.int16) + 12).clip(0, 255).astype(np.uint8)).all()
    assert changed_squares(image, image[:-8]).all()


def test_of_a_camera_that_moved_everything_changed():
    """However much: where most pixels differ, they must not pass for noise."""
    texture = np.random.default_rng(0).uniform(0, 255, (30, 40, 3)).astype(np.uint8)
    image = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    assert changed_squares(image, np.roll(image, 5, axis=1)).all()
    assert changed_squares(scene(), np.roll(scene(), 6, axis=1)).mean() > 0.1


def test_large_images_are_compared_reduced_and_squares_cover_their_pixels():
    image = np.kron(scene(), np.ones((4, 4, 1), np.uint8))
    small = reduced(image)
    assert max(small.shape[:2]) == REDUCED_PX
    assert reduced(small) is small
    later = image.copy()
    later[400:520, 800:900] = (255, 0, 0)
    squares = changed_squares(small, reduced(later))
    covered = at_pixels(squares, small.shape[:2], image.shape[:2])
    assert covered[400:520, 800:900].all()
    assert covered.mean() < 0.05


def test_windows_hold_all_that_changed_and_do_not_touch():
    changed = np.zeros((100, 200), bool)
    changed[10:20, 10:20] = changed[12:18, 30:40] = changed[80:90, 150:160] = True
    windows = windows_around(changed, 8, 0.2)
    assert windows.tolist() == [[2, 2, 48, 28], [142, 72, 168, 98]]
    inside = np.zeros_like(changed)
    for x0, y0, x1, y1 in windows.tolist():
        inside[y0:y1, x0:x1] = True
    assert inside[changed].all()
    assert windows_around(np.zeros((5, 5), bool), 8, 0.2).shape == (0, 4)
