"""Oracles: arrays written and read back; DAVIS's published first palette entries; pixels that must not change."""

import numpy as np
import pytest
from PIL import Image

from counterview.errors import ImageError, MaskError
from counterview.masks import draw, png
from counterview.masks.labels import text_size
from counterview.types import ObjectMask, View

SHAPES = np.zeros((60, 80), bool)
SHAPES[10:40, 20:50] = True


def test_palette_is_the_davis_one():
    colours = np.array(png.davis_palette()).reshape(256, 3)
    known = [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
        (64, 0, 0),
    ]
    assert [tuple(c) for c in colours[:9]] == known
    assert len(np.unique(colours, axis=0)) == 256


def test_mask_round_trip(tmp_path):
    png.write_mask_png(tmp_path / "a.png", SHAPES)
    assert np.array_equal(png.read_mask(tmp_path / "a.png"), SHAPES)
    png.write_mask_png(tmp_path / "a.png", ObjectMask.from_array(~SHAPES))
    assert np.array_equal(png.read_mask(tmp_path / "a.png"), ~SHAPES)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(SHAPES),
        Image.fromarray(SHAPES.astype(np.uint8)),
        Image.fromarray(SHAPES.astype(np.uint8) * 7),
        Image.fromarray(SHAPES.astype(np.uint16) * 65535),
        Image.fromarray(np.dstack([SHAPES * np.uint8(255)] * 3)),
        Image.fromarray(np.dstack([np.zeros((60, 80, 3), np.uint8), SHAPES * np.uint8(255)])),
    ],
    ids=["1-bit", "0 and 1", "0 and 7", "16-bit", "grey as RGB", "alpha"],
)
def test_the_ways_people_store_a_mask(tmp_path, image):
    image.save(tmp_path / "a.png")
    assert np.array_equal(png.read_mask(tmp_path / "a.png"), SHAPES)


def test_antialiased_edges_are_cut_in_the_middle(tmp_path):
    soft = np.tile(np.array([0, 60, 127, 128, 255], np.uint8), (5, 1))
    Image.fromarray(soft).save(tmp_path / "a.png")
    assert np.array_equal(png.read_mask(tmp_path / "a.png")[0], [False, False, False, True, True])


def test_all_black_and_all_white(tmp_path):
    for value in (0, 255):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / "a.png")
        assert png.read_mask(tmp_path / "a.png").all() == bool(value)


def test_what_is_not_a_mask(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 5, 3), dtype=np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(MaskError, match="colour image"):
        png.read_mask(tmp_path / "rgb.png")
    png.write_index_png(tmp_path / "i.png", np.arange(9).reshape(3, 3))
    with pytest.raises(MaskError, match="several objects"):
        png.read_mask(tmp_path / "i.png")
    with pytest.raises(ImageError, match="no such file"):
        png.read_mask(tmp_path / "none.png")
    with pytest.raises(MaskError):
        png.write_mask_png(tmp_path / "a.jpg", SHAPES)


def test_index_round_trip(tmp_path):
    labels = np.arange(256).reshape(16, 16)
    png.write_index_png(tmp_path / "i.png", labels)
    with Image.open(tmp_path / "i.png") as image:
        assert image.mode == "P"
        assert tuple(image.getpalette()[3:6]) == (128, 0, 0)
    assert np.array_equal(png.read_index_png(tmp_path / "i.png"), labels)
    masks = [ObjectMask.from_array(SHAPES), ObjectMask.from_array(~SHAPES)]
    png.write_index_png(tmp_path / "m.png", masks)
    assert png.read_index_masks(tmp_path / "m.png") == {1: masks[0], 2: masks[1]}
    for bad in (labels + 1, labels - 1, labels[0], labels / 2, []):
        with pytest.raises(MaskError):
            png.write_index_png(tmp_path / "i.png", bad)


def test_overlay_marks_the_object_and_leaves_the_rest():
    image = np.full((60, 80, 3), 90, np.uint8)
    drawn = draw.overlay(image, [SHAPES, np.zeros_like(SHAPES)], labels=["mug", "gone"], colors=["#ff0000", "#00ff00"])
    assert (image == 90).all()
    assert (drawn[50:, 60:] == 90).all()
    assert drawn[25, 35, 0] > drawn[25, 35, 1]
    assert np.array_equal(draw.overlay(image, []), image)
    with pytest.raises(MaskError):
        draw.overlay(image, [SHAPES[1:]])
    with pytest.raises(MaskError):
        draw.overlay(image, [SHAPES], colors=[])


@pytest.mark.parametrize(("opacity", "thickness_px"), [(0.35, None), (0.0, 1), (0.6, 4)])
def test_overlays_are_those_of_supervision(opacity, thickness_px):
    """Oracle: its annotators, on masks that overlap, have a hole, and touch the image's border."""
    import supervision as sv

    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:90, :130]
    ring = np.abs(np.hypot(rows - 40, columns - 50) - 25) < 8
    masks, colors = [ring, (rows < 30) & (columns < 60), (rows > 50) & (columns > 100)], ["#1f9bff", "#aa0033", "#0f0"]
    found = sv.Detections(xyxy=sv.mask_to_xyxy(np.stack(masks)), mask=np.stack(masks), class_id=np.arange(3))
    palette = sv.ColorPalette.from_hex(colors)
    expected = np.ascontiguousarray(image[..., ::-1])
    if opacity:
        expected = sv.MaskAnnotator(color=palette, opacity=opacity).annotate(expected, found)
    expected = sv.PolygonAnnotator(color=palette, thickness=thickness_px or 2).annotate(expected, found)
    drawn = draw.overlay(image, masks, colors=colors, opacity=opacity, thickness_px=thickness_px)
    assert np.array_equal(drawn, expected[..., ::-1])


def test_views_are_drawn_as_their_images():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    view = View(image)
    assert np.array_equal(draw.overlay(view, [SHAPES]), draw.overlay(image, [SHAPES]))
    assert np.array_equal(draw.side_by_side(view, image), draw.side_by_side(image, image))
    assert np.array_equal(draw.contact_sheet([view, image], columns=2), draw.contact_sheet([image, image], columns=2))


def test_images_beside_each_other_and_in_rows():
    a, b = np.zeros((40, 60, 3), np.uint8), np.full((80, 20, 3), 255, np.uint8)
    both = draw.side_by_side(a, b, gap_px=4)
    assert both.shape == (80, 120 + 4 + 20, 3)
    sheet = draw.contact_sheet([a, b, a], columns=2, captions=["a", "b", "c"], tile_height_px=40)
    strip = text_size("a", draw.CAPTION_PX)[1]
    assert sheet.shape == (2 * (40 + strip) + 4, 60 + 4 + 10, 3)
    with pytest.raises(MaskError):
        draw.contact_sheet([], columns=1)


@pytest.mark.parametrize(("rows", "columns"), [((30, 31), (40, 41)), ((30, 31), (40, 46)), ((30, 34), (40, 41))])
def test_a_point_and_a_line_have_an_outline(rows, columns):
    mask = np.zeros((60, 80), bool)
    mask[slice(*rows), slice(*columns)] = True
    drawn = draw.overlay(np.zeros((60, 80, 3), np.uint8), [mask], colors=["#1f9bff"])
    assert (drawn[mask] == (0x1F, 0x9B, 0xFF)).all()
    assert not drawn[:20].any()
