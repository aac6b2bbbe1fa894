"""What the values of a mask mean. Oracle: the shapes that were drawn."""

import logging

import cv2
import numpy as np
import pytest
from PIL import Image

from counterview.errors import MaskError
from counterview.masks import png
from counterview.masks.png import read_mask

DISC = np.zeros((60, 80), np.uint8)
cv2.circle(DISC, (40, 30), 15, 1, -1)
LABELS = np.zeros((60, 80), np.uint8)
LABELS[5:25, 5:25], LABELS[30:50, 10:30], LABELS[10:40, 40:70] = 1, 2, 3
SOFT = cv2.GaussianBlur(DISC * 255, (0, 0), 2)
RING = DISC.copy()
cv2.circle(RING, (40, 30), 15, 255, 2)
NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def saved(tmp_path, values, name="a.png", **options):
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(tmp_path / name, **options)
    return tmp_path / name


def palette(indices, colours):
    image = Image.fromarray(indices)
    image.putpalette(colours)
    return image


@pytest.mark.parametrize(
    ("values", "listed", "label", "truth"),
    [
        (LABELS * 60, "60, 120, 180", 120, LABELS == 2),
        ((LABELS % 3).astype(np.uint8), "1, 2", 1, LABELS == 1),
        (LABELS.astype(np.uint16) * 300, "300, 600, 900", 900, LABELS == 3),
        (np.where(LABELS == 3, 200, LABELS * 5).astype(np.uint8), "5, 10, 200", 10, LABELS == 2),
        (np.where(LABELS == 3, 255, (LABELS > 0) * 128).astype(np.uint8), "128, 255", 255, LABELS == 3),
        ((LABELS + 1).astype(np.uint8), "1, 2, 3, 4", 3, LABELS == 2),
        (palette(LABELS, [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]), "1, 2, 3", 3, LABELS == 3),
    ],
    ids=["60 120 180", "1 2", "16 bits", "small and large", "two greys", "no background", "palette"],
)
def test_label_images_are_refused_with_their_labels_and_read_with_one(tmp_path, values, listed, label, truth):
    path = saved(tmp_path, values)
    with pytest.raises(MaskError, match=f"holds several objects; found labels {listed}; .*--label N"):
        read_mask(path)
    assert np.array_equal(read_mask(path, label=label), truth)
    with pytest.raises(MaskError, match=rf"has no label 77; found labels {listed}"):
        read_mask(path, label=77)
    for bad in (0, -1, True, 1.5):
        with pytest.raises(MaskError, match="a label is an integer of 1 or more"):
            read_mask(path, label=bad)


def test_small_and_thin_objects_are_labels_too(tmp_path):
    labels = np.where(DISC, 200, 0).astype(np.uint8)
    labels[2:4, 2:60] = 90  # two pixels wide, and apart
    with pytest.raises(MaskError, match="labels 90, 200"):
        read_mask(saved(tmp_path, labels))
    labels[2:4] = 0
    labels[28:34, 38:44] = 90  # a small one within a large one
    with pytest.raises(MaskError, match="labels 90, 200"):
        read_mask(saved(tmp_path, labels))


def test_many_labels(tmp_path):
    labels = np.kron(np.arange(1, 81, dtype=np.uint8).reshape(8, 10) * 3, np.ones((7, 7), np.uint8))
    with pytest.raises(MaskError, match=r"labels 3, 6, 9, .*80 in all"):
        read_mask(saved(tmp_path, labels))


def test_void_is_no_object(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert np.array_equal(read_mask(saved(tmp_path, RING)), RING == 1)
    assert "255 is taken as void" in caplog.text
    several = np.where(RING == 255, 255, LABELS).astype(np.uint8)
    with pytest.raises(MaskError, match="found labels 1, 2, 3; "):
        read_mask(saved(tmp_path, several))
    assert np.array_equal(read_mask(tmp_path / "a.png", label=2), several == 2)
    colours = [0, 0, 0, 128, 0, 0] + [0] * 759 + [224, 224, 192]
    assert np.array_equal(read_mask(saved(tmp_path, palette(RING, colours))), RING == 1)
    assert sorted(png.read_index_masks(tmp_path / "a.png")) == [1]


def test_a_few_odd_pixels_beside_a_white_object_are_not_the_object(tmp_path):
    values = DISC * 255
    values[0, :3] = 1
    with pytest.raises(MaskError, match="labels 1, 255"):
        read_mask(saved(tmp_path, values))
    assert np.array_equal(read_mask(tmp_path / "a.png", label=255), DISC > 0)


@pytest.mark.parametrize(
    "values",
    [
        SOFT, (SOFT * 0.4).astype(np.uint8), SOFT.astype(np.uint16) * 200, SOFT.astype(np.uint16) * 10,
        np.dstack([SOFT] * 3), Image.fromarray(SOFT).convert("P"), np.dstack([NOISE, SOFT]),
    ],
    ids=["8 bits", "maximum of 100", "16 bits", "dim 16 bits", "RGB", "grey palette", "alpha"],
)  # fmt: skip
def test_soft_edges_are_cut_at_half_of_the_maximum_and_said_so(tmp_path, values, caplog):
    caplog.set_level(logging.INFO)
    found = read_mask(saved(tmp_path, values))
    assert np.abs(found.astype(int) - DISC).sum() < 0.06 * DISC.sum()
    assert "soft edges" in caplog.text
    assert "half of its maximum" in caplog.text


def test_soft_floats_and_jpeg(tmp_path):
    soft = saved(tmp_path, SOFT.astype(np.float32) / 255, "a.tiff")
    assert np.array_equal(read_mask(soft), SOFT > 127)
    large = cv2.resize(DISC * 255, (800, 600), interpolation=cv2.INTER_NEAREST)
    assert np.mean(read_mask(saved(tmp_path, large, "a.jpg")) != (large > 0)) < 0.002
    with pytest.raises(MaskError, match="JPEG changes labels"):
        read_mask(tmp_path / "a.jpg", label=1)


def test_antialiasing_of_a_straight_edge_is_no_label(tmp_path):
    box = np.zeros((40, 40), np.uint8)
    box[10:30, 10:30] = 255
    box[9, 10:30] = box[10:30, 30] = 128
    assert np.array_equal(read_mask(saved(tmp_path, box)), box > 127)


@pytest.mark.parametrize("top", [1, 2, 100, 255])
def test_two_values_are_one_object(tmp_path, top):
    assert np.array_equal(read_mask(saved(tmp_path, DISC * np.uint8(top))), DISC > 0)


def test_a_grey_photo_is_no_mask(tmp_path):
    with pytest.raises(MaskError, match="neither a mask nor a label image; found 256 grey values"):
        read_mask(saved(tmp_path, NOISE[..., 0]))


def test_coloured_masks(tmp_path):
    red = np.dstack([DISC * 200, DISC * 0, DISC * 10])
    assert np.array_equal(read_mask(saved(tmp_path, red)), DISC > 0)
    for image, found in (
        (red + np.uint8(10), r"RGB \(10, 10, 10\) and \(210, 10, 20\)"),
        (np.dstack([LABELS * 50, LABELS == 2, LABELS * 0]).astype(np.uint8), "more than two colours"),
    ):
        with pytest.raises(MaskError, match=f"colour image, not a mask; found {found}; .*Save the mask"):
            read_mask(saved(tmp_path, image))


def test_cut_outs(tmp_path):
    white = DISC * np.uint8(255)
    assert np.array_equal(read_mask(saved(tmp_path, np.dstack([NOISE, white]))), DISC > 0)
    assert np.array_equal(read_mask(saved(tmp_path, np.dstack([white] * 4))), DISC > 0)
    opaque = np.full_like(white, 255)
    assert np.array_equal(read_mask(saved(tmp_path, np.dstack([white] * 3 + [opaque]))), DISC > 0)
    assert not read_mask(saved(tmp_path, np.dstack([white * 0] * 3 + [opaque]))).any(), "opaque black"
    other = ((LABELS == 3) * 255).astype(np.uint8)
    for image, problem in (
        (np.dstack([white] * 3 + [other]), "two different masks"),
        (np.dstack([NOISE, white * 0]), "the same transparency everywhere"),
        (np.dstack([NOISE, np.where(DISC, 255, 90).astype(np.uint8)]), "nowhere transparent"),
    ):
        with pytest.raises(MaskError, match=f"{problem}.*Save the mask"):
            read_mask(saved(tmp_path, image))


def test_a_palette_that_does_not_say_what_is_background_is_refused(tmp_path):
    for colours in ([255, 255, 255, 0, 0, 0], [9, 9, 9, 200, 0, 0]):
        path = saved(tmp_path, palette(DISC, colours))
        with pytest.raises(MaskError, match=r"which of its two colours is the object; found index 0: RGB"):
            read_mask(path)
        assert np.array_equal(read_mask(path, label=1), DISC > 0)


def test_every_mask_is_writable(tmp_path):
    for values in (DISC > 0, DISC, DISC * 255, SOFT, palette(DISC, [0, 0, 0, 255, 0, 0])):
        mask = read_mask(saved(tmp_path, values))
        assert mask.flags.writeable
        assert mask.flags.c_contiguous


def test_an_index_image_is_not_made_of_a_soft_edge(tmp_path):
    path = saved(tmp_path, SOFT)
    for read in (png.read_index_png, png.read_index_masks):
        with pytest.raises(MaskError, match="soft edges, not an index image"):
            read(path)
