"""Masks beside images that are stored turned. Oracle: one object, drawn before anything is turned."""

import logging

import numpy as np
import pytest
from PIL import Image

from counterview.errors import ConfigError, MaskError
from counterview.masks.orientation import read_image_and_mask
from counterview.masks.png import read_mask

STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What Pillow calls the way from an upright image to its stored pixels, by EXIF orientation."""


def save(pixels, path, turn, tag):
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = image.transpose(STORED[turn]) if turn > 1 else image
    stored.save(path, **({"exif": exif} if tag > 1 else {}))
    return path


@pytest.fixture(params=[(24, 40), (32, 32)], ids=["oblong", "square"])
def upright(request):
    """An image whose object is the only place that is not black, and its mask."""
    mask = np.zeros(request.param, bool)
    mask[3:9, 5:18] = True
    mask[9:14, 5:8] = True
    return np.where(mask[..., None], np.uint8(250), np.uint8(0)).repeat(3, axis=2), mask


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_mask_lies_on_the_object_or_is_refused(tmp_path, upright, turn, suffix, caplog):
    caplog.set_level(logging.INFO)
    pixels, mask = upright
    image = save(pixels, tmp_path / f"image{suffix}", turn, turn)
    on_upright = save(mask.astype(np.uint8) * 255, tmp_path / "upright.png", 1, 1)
    on_stored = save(mask.astype(np.uint8) * 255, tmp_path / "stored.png", turn, 1)
    same_tag = save(mask.astype(np.uint8) * 255, tmp_path / "tagged.png", turn, turn)
    ambiguous = turn > 1 and (turn < 5 or pixels.shape[0] == pixels.shape[1])
    for path, orientation in ((on_upright, "upright"), (on_stored, "raw")):
        if ambiguous:
            with pytest.raises(MaskError, match=r"fits both the upright image .* --mask-orientation upright"):
                read_image_and_mask(image, path)
        else:
            seen, found = read_image_and_mask(image, path)
            assert np.array_equal(seen, pixels)
            assert np.array_equal(found, mask)
        assert np.array_equal(read_image_and_mask(image, path, orientation=orientation)[1], mask)
    assert ("size of the stored image" in caplog.text) == (turn > 4 and not ambiguous)
    assert np.array_equal(read_image_and_mask(image, same_tag)[1], mask)


@pytest.mark.parametrize("turn", range(2, 9))
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_the_tag_of_a_mask_is_applied(tmp_path, upright, turn, suffix):
    pixels, mask = upright
    values = mask.astype(np.uint8) * 255
    stored = np.dstack([values] * 3) if suffix == ".webp" else values
    options = {"lossless": True} if suffix == ".webp" else {}
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(stored).transpose(STORED[turn]).save(tmp_path / f"m{suffix}", exif=exif, **options)
    assert np.array_equal(read_mask(tmp_path / f"m{suffix}"), mask)
    save(pixels, tmp_path / "image.png", 1, 1)
    assert np.array_equal(read_image_and_mask(tmp_path / "image.png", tmp_path / f"m{suffix}")[1], mask)


def test_what_does_not_fit_is_refused(tmp_path, upright):
    pixels, mask = upright
    image = save(pixels, tmp_path / "image.png", 6, 6)
    save((mask[1:] * 255).astype(np.uint8), tmp_path / "m.png", 1, 1)
    with pytest.raises(MaskError, match="of another size than the image"):
        read_image_and_mask(image, tmp_path / "m.png")
    with pytest.raises(ConfigError, match="unknown orientation of a mask; found sideways"):
        read_image_and_mask(image, tmp_path / "m.png", orientation="sideways")


def test_a_mask_that_is_equal_both_ways_is_taken(tmp_path):
    mask = np.zeros((20, 20), np.uint8)
    mask[6:14, 6:14] = 255
    image = save(np.dstack([mask] * 3), tmp_path / "image.png", 3, 3)
    assert np.array_equal(read_image_and_mask(image, save(mask, tmp_path / "m.png", 1, 1))[1], mask > 0)
