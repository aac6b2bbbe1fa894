"""Labels hide neither one another nor objects, and have the letters of most scripts. Oracle: boxes and pixels."""

import itertools
import logging

import numpy as np
import pytest
from PIL import ImageFont
from skimage.color import rgb2lab

from counterview.masks import draw, label_distances, labels

SIZE = 14


def disc(x, y, radius, size=(300, 400)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.hypot(columns - x, rows - y) <= radius


def overlap(a, b):
    (ax, ay), (bx, by) = a.xy, b.xy
    width = min(ax + a.size_wh[0], bx + b.size_wh[0]) - max(ax, bx)
    height = min(ay + a.size_wh[1], by + b.size_wh[1]) - max(ay, by)
    return max(0, width) * max(0, height)


def covers(label, mask):
    (x, y), (w, h) = label.xy, label.size_wh
    return bool(mask[y : y + h, x : x + w].any())


@pytest.mark.parametrize("spread", [6, 15, 40])
def test_labels_of_near_objects_do_not_cover_one_another_or_small_objects(spread):
    masks = [disc(200 + spread * dx, 150 + spread * dy, 5) for dx in (-1, 0, 1) for dy in (-1, 1)]
    placed = labels.place([f"object {i}" for i in range(6)], ["#1f9bff"] * 6, masks, SIZE)
    assert [overlap(a, b) for a, b in itertools.combinations(placed, 2)] == [0] * 15
    covered = np.logical_or.reduce(masks)
    for label in placed:
        (x, y), (w, h) = label.xy, label.size_wh
        assert 0 <= x <= 400 - w
        assert 0 <= y <= 300 - h
        assert not covered[y : y + h, x : x + w].any()


def test_a_line_leads_to_an_object_that_is_not_beside_its_label():
    masks = [disc(200 + 6 * dx, 150 + 6 * dy, 5) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    placed = labels.place(["a long name of it"] * 9, ["#1f9bff"] * 9, masks, SIZE)
    leading = [(label, mask) for label, mask in zip(placed, masks, strict=True) if label.anchor_xy is not None]
    assert leading
    for label, mask in leading:
        assert mask[label.anchor_xy[1], label.anchor_xy[0]]
    image = labels.draw_labels(np.zeros((300, 400, 3), np.uint8), placed, SIZE)
    seen = [(image[label.anchor_xy[1], label.anchor_xy[0]] == (0x1F, 0x9B, 0xFF)).all() for label, _ in leading]
    assert all(seen)
    alone = labels.place(["mug"], ["#1f9bff"], [masks[0]], SIZE)
    assert alone[0].anchor_xy is None


def test_without_a_font_of_the_system_letters_lose_their_accents(monkeypatch, caplog):
    monkeypatch.setattr(labels, "fonts", lambda size_px: (ImageFont.load_default(size_px),))
    with caplog.at_level(logging.WARNING):
        text, _ = labels.writable.__wrapped__("šálka, кружка, cốc", SIZE)
    assert text == "salka, ??????, coc"
    assert "DejaVu" in caplog.text


@pytest.mark.parametrize("text", ["mug", "šálka", "κούπα", "кружка", "cốc", "ספל"])
def test_letters_of_many_scripts_are_drawn(text, caplog):
    line, font = labels.writable(text, SIZE)
    assert line == text
    assert all(labels._has(font, letter) for letter in text)
    assert caplog.text == ""


def test_letters_that_no_font_has_are_marked_and_logged(caplog, monkeypatch):
    monkeypatch.setattr(labels, "WIDE_FONTS", ())
    for function in (labels.fonts, labels.writable, labels._warn):
        function.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert labels.writable("mug 杯子", SIZE)[0] == "mug ??"
    assert "no font here has the letters '子杯'" in caplog.text
    for function in (labels.fonts, labels.writable, labels._warn):
        function.cache_clear()


def test_a_label_is_drawn_and_a_long_caption_is_cut():
    image = np.full((300, 400, 3), 90, np.uint8)
    drawn = draw.overlay(image, [disc(200, 150, 30)], labels=["кружка"], colors=["#bb3399"], opacity=0.0)
    changed = (drawn != image).any(-1) & ~disc(200, 150, 36)
    assert changed.sum() > 200
    strip = labels.caption(120, "a legend that is far too long for it", SIZE)
    assert strip.shape[1] == 120
    assert (strip[:, -2:] == 255).all()
    legend = draw.with_legend(image, "white line: annotation")
    assert legend.shape[0] > 300
    assert np.array_equal(legend[:300], image)


DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
"""Machado, Oliveira and Fernandes 2009, full severity; of linear RGB."""


def test_the_colours_of_objects_differ_for_every_eye():
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (*draw.PALETTE, draw.TRUTH)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ DEUTERANOPIA.T, 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    for colours in (rgb, seen):
        lab = rgb2lab(colours[None])[0]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 20


def crowd(seed, count=16, size=(300, 400), largest=20):
    rng = np.random.default_rng(seed)
    return [disc(*rng.uniform((10, 10), (size[1] - 10, size[0] - 10)), rng.uniform(2, largest), size)
            for _ in range(count)]  # fmt: skip


@pytest.mark.parametrize("size", [(300, 400), (640, 360), (448, 448)])
@pytest.mark.parametrize("seed", range(3))
def test_sixteen_labels_cover_no_mask_and_no_label_while_there_is_room(size, seed):
    masks, others = crowd(seed, 16, size), crowd(seed + 50, 4, size)
    placed = labels.place([f"object {i}" for i in range(16)], ["#1f9bff"] * 16, masks, SIZE, avoid=others)
    assert [label.text for label in placed] == [f"object {i}" for i in range(16)]
    assert [overlap(a, b) for a, b in itertools.combinations(placed, 2)] == [0] * 120
    assert not any(covers(label, mask) for label in placed for mask in (*masks, *others))


def test_a_place_is_found_far_away_if_it_must_be_and_the_least_is_hidden_if_there_is_none():
    everything = np.ones((300, 400), bool)
    everything[270:, 300:] = False
    small = disc(60, 60, 6)
    (label,) = labels.place(["mug"], ["#1f9bff"], [small], SIZE, avoid=[everything])
    assert label.xy[0] > 300
    assert label.xy[1] > 270
    assert label.anchor_xy is not None
    (label,) = labels.place(["mug"], ["#1f9bff"], [small], SIZE, avoid=[np.ones((300, 400), bool)])
    assert not covers(label, small)


def test_labels_stay_where_they_were_while_that_is_near_and_free():
    mask = disc(200, 150, 12)
    (first,) = labels.place(["mug"], ["#1f9bff"], [mask], SIZE)
    there = (first.xy[0] + 9, first.xy[1] - 4)
    (kept,) = labels.place(["mug"], ["#1f9bff"], [mask], SIZE, earlier=[there])
    assert kept.xy == there
    (moved,) = labels.place(["mug"], ["#1f9bff"], [mask], SIZE, earlier=[(5, 5)])
    assert moved.xy == first.xy
    blocked = np.zeros_like(mask)
    blocked[there[1] : there[1] + 10, there[0] : there[0] + 10] = True
    (away,) = labels.place(["mug"], ["#1f9bff"], [mask], SIZE, avoid=[blocked], earlier=[there])
    assert away.xy != there
    assert not covers(away, blocked)


def test_a_line_goes_around_other_objects():
    """Beside the object there is room to the right, behind another object, and to the left, in the open."""
    mask, other = disc(200, 150, 10), disc(224, 150, 10)
    (label,) = labels.place(["mug"], ["#1f9bff"], [mask], SIZE, avoid=[other])
    way = label_distances.points_on_lines(np.array([[200, 150]]), np.array([labels._end(label)]))[0]
    assert not other[way[:, 1], way[:, 0]].any()


def test_a_long_name_keeps_its_end():
    line = labels.cut("black crackers box_17", SIZE, 120, middle=True)
    assert line.startswith("black")
    assert line.endswith("17")
    assert "…" in line
    assert labels.text_size(line, SIZE)[0] <= 120
    assert labels.cut("black crackers box_17", SIZE, 120).endswith("…")
    assert labels.cut("mug", SIZE, 120, middle=True) == "mug"


def test_sixteen_colours_differ():
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in draw.object_colors(16)]) / 255
    lab = rgb2lab(rgb[None])[0]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 15
    assert draw.object_colors(8) == list(draw.PALETTE)
