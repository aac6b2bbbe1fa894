"""The same scene by another camera."""

import numpy as np
import pytest

from counterview.errors import ConfigError, ImageError
from counterview.evaluation.camera_change import CHANGES, CameraChange, draw_change


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_without_a_difference_the_image_is_the_same(image):
    changed = CameraChange().apply(image)
    assert np.array_equal(changed, image)
    assert not np.shares_memory(changed, image)


def test_each_change_is_what_it_says(image):
    values = image.astype(float)
    warm = values * [1.2, 1, 0.75]
    assert np.abs(CHANGES["warm"].apply(image) - np.minimum(warm, 255)).max() <= 0.5 + 1e-4
    dark = 255 * (values / 255) ** 1.8
    assert np.abs(CHANGES["dark"].apply(image) - dark).max() <= 0.5 + 1e-3
    grey = CHANGES["grey"].apply(image).astype(int)
    assert np.ptp(grey, axis=-1).max() <= 1
    assert np.abs(grey[..., 0] - values @ [0.299, 0.587, 0.114]).max() <= 1
    assert CHANGES["cool"].apply(image).mean() > image.mean()


@pytest.mark.parametrize("slope", [0.7, 1.5])
def test_contrast_keeps_both_ends_and_the_middle(slope):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    curved = CameraChange(contrast=slope).apply(ramp)[0, :, 0].astype(int)
    assert (curved[0], curved[255]) == (0, 255)
    assert abs(curved[127] - 127) <= 1
    assert (np.diff(curved) >= 0).all()
    assert (curved[137] - curved[117]) / 20 == pytest.approx(slope, abs=0.1)


def test_noise_and_compression_depend_on_the_seed_alone(image):
    change = CameraChange(noise=5, jpeg=60, blur_px=20)
    assert np.array_equal(change.apply(image, 3), change.apply(image, 3))
    assert not np.array_equal(change.apply(image, 3), change.apply(image, 4))
    assert change.apply(image).shape == image.shape


def test_a_drawn_camera_is_within_what_the_text_says():
    changes = [draw_change(np.random.default_rng(seed)) for seed in range(300)]
    assert changes[0] == draw_change(np.random.default_rng(0))
    gains = np.log([[c.gains[0], c.gains[2]] for c in changes])
    assert gains.std() == pytest.approx(0.15, abs=0.02)
    assert {c.gains[1] for c in changes} == {1.0}
    assert np.log([c.gamma for c in changes]).std() == pytest.approx(0.25, abs=0.03)
    assert min(c.saturation for c in changes) >= 0.5
    assert max(c.saturation for c in changes) <= 1.3


def test_values_and_images_that_make_no_sense_are_refused(image):
    with pytest.raises(ConfigError, match=r"gamma is 0.*noise is -1"):
        CameraChange(gamma=0, noise=-1)
    with pytest.raises(ConfigError, match="gains"):
        CameraChange(gains=(1.0, 1.0))  # type: ignore[arg-type]
    for wrong in (image[..., 0], image.astype(np.float32)):
        with pytest.raises(ImageError, match="not an RGB image of bytes"):
            CameraChange().apply(wrong)
