"""How one camera's colours become another's."""

import numpy as np
import pytest

from counterview.errors import ImageError
from counterview.features.colour_transfer import (
    ColourTransfer,
    fit_transfer,
    mean_chroma,
    recoloured,
    region_colours,
)
from counterview.features.object_crops import crop_objects
from counterview.types import ObjectMask

WARM = ColourTransfer(gains=(1.15, 1.0, 0.8), gamma=1.25)


def regions(count=60, seed=0):
    """Colours of regions, ``(count, 3, 3)``: a colour of its own each, in three brightnesses."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.15, 0.6, (count, 1, 3)) * np.array([0.7, 1.0, 1.3])[None, :, None]


def transferred(colours, transfer):
    levels = np.clip(np.asarray(transfer.gains) * colours**transfer.gamma, 0, None)
    grey = (levels @ [0.299, 0.587, 0.114])[..., None]
    return grey + (levels - grey) * transfer.saturation


def test_a_transfer_is_undone_as_far_as_eight_bits_allow():
    image = np.random.default_rng(0).integers(20, 200, (30, 40, 3), dtype=np.uint8)
    for transfer in (WARM, ColourTransfer(gamma=0.7), ColourTransfer(saturation=0.6)):
        assert np.abs(transfer.undo(transfer.apply(image)).astype(int) - image).max() <= 3
    grey = ColourTransfer(saturation=0.0)
    assert np.ptp(grey.apply(image).astype(int), axis=-1).max() == 0
    assert np.array_equal(ColourTransfer().apply(image), image)
    with pytest.raises(ImageError, match="not RGB pixels"):
        WARM.apply(image[..., :2])


def test_the_transfer_between_two_cameras_is_found():
    colours = regions()
    found = fit_transfer(colours, transferred(colours, WARM), np.ones(len(colours)))
    assert np.log(found.gains) == pytest.approx(np.log(WARM.gains), abs=0.03)
    assert found.gamma == pytest.approx(WARM.gamma, abs=0.05)
    assert found.saturation == pytest.approx(1, abs=0.05)


def test_wrong_pairs_move_it_little():
    colours = regions()
    target = transferred(colours, WARM)
    target[::3] = regions(seed=9)[::3]  # a third of the pairs are of two things
    target[1] = np.nan  # and one region is too small to tell
    found = fit_transfer(colours, target, np.ones(len(colours)))
    tint = np.log(found.gains)[[0, 2]] - np.log(found.gains)[1]
    assert tint == pytest.approx(np.log([1.15, 0.8]), abs=0.08)


def test_without_evidence_nothing_changes():
    colours = regions(3)
    unknown = np.full_like(colours, np.nan)
    for target, weights in ((unknown, np.ones(3)), (transferred(colours, WARM), np.zeros(3))):
        found = fit_transfer(colours, target, weights)
        assert (*found.gains, found.gamma, found.saturation) == pytest.approx((1,) * 5, abs=1e-6)


def test_colours_of_regions_are_means_of_their_thirds():
    image = np.zeros((60, 60, 3), np.uint8)
    image[10:20], image[20:30], image[30:40] = (30, 20, 10), (60, 50, 40), (200, 100, 0)
    mask = np.zeros((60, 60), bool)
    mask[10:40, 10:40] = True
    tiny = np.zeros((60, 60), bool)
    crops = crop_objects(image, [ObjectMask.from_array(m) for m in (mask, tiny)])
    colours = region_colours(crops)
    assert np.isnan(colours[1]).all()
    assert np.abs(colours[0] * 255 - [[30, 20, 10], [60, 50, 40], [200, 100, 0]]).max() < 12
    again = region_colours(recoloured(crops, ColourTransfer(gains=(0.5, 1.0, 1.0)).apply))
    assert again[0, :, 0] == pytest.approx(colours[0, :, 0] / 2, abs=0.01)


def test_an_image_without_colour_is_told_from_one_with_little():
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (50, 50, 1), dtype=np.uint8), 3, axis=2)
    assert mean_chroma(grey) == 0
    assert mean_chroma(np.clip(grey.astype(int) + np.array([8, 0, 0]), 0, 255).astype(np.uint8)) > 0.02
