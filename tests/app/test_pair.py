"""Two images without a browser: marks, matches, corrections, and what is taken home."""

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from counterview.app.jobs import Job
from counterview.app.marks import Mark, read_mark, with_mark
from counterview.app.pair import PageImage, PagePair, visibility_words
from counterview.app.pair_drawing import draw_target, thumbnails
from counterview.app.pair_output import downloads
from counterview.errors import ImageError, InputError, MaskError, PathError, ProposalError
from counterview.exchange.formats import read
from counterview.masks.geometry import iou
from counterview.masks.rle import from_coco
from tests.app.conftest import BLUE, RED, scene

SIZE = (240, 320)


def point(x, y, tool="point"):
    return Mark(tool, ((float(x), float(y)),))


@pytest.fixture
def pair(predictor):
    made = PagePair(predictor)
    made.put("query", PageImage("near.png", scene()))
    made.put("target", PageImage("far.png", np.ascontiguousarray(scene()[:, ::-1])))
    job = Job("me", "a", "one", lambda job: None)
    made.encode("query", job)
    made.encode("target", job)
    made.job = job
    return made


def true(color, mirrored=False):
    mask = (scene() == color).all(-1)
    return mask[:, ::-1] if mirrored else mask


def test_a_click_outlines_the_object_and_a_match_finds_it(pair):
    pair.mark(point(80, 80))
    assert iou(pair.objects[0].selection.mask_rle, true(RED)) > 0.95
    pair.rename(0, "red thing")
    pair.add()
    pair.mark(point(230, 150))
    pair.match(pair.job)
    assert [item.match.name for item in pair.matched] == ["red thing", "object 2"]
    assert iou(pair.objects[0].match.mask_rle, true(RED, mirrored=True)) > 0.95
    assert iou(pair.objects[1].match.mask_rle, true(BLUE, mirrored=True)) > 0.95
    drawn, plain = draw_target(pair).astype(int), pair.images["target"].image.astype(int)
    changed = (drawn != plain).any(-1)
    assert changed[true(RED, mirrored=True)].mean() > 0.95
    assert changed.mean() < 0.35
    assert len(thumbnails(pair, 0)) == len(pair.objects[0].found.candidates)


def test_a_second_click_at_the_same_place_takes_away(pair):
    pair.mark(point(80, 80))
    pair.mark(point(81, 80))
    assert pair.objects[0].selection is None
    assert pair.objects[0].marks == []


def test_a_box_a_brush_and_an_eraser(pair):
    pair.mark(Mark("box", ((185.0, 105.0), (285.0, 205.0))))
    assert iou(pair.objects[0].selection.mask_rle, true(BLUE)) > 0.95
    pair.mark(Mark("erase", ((190.0, 155.0), (280.0, 155.0)), 60.0))
    assert pair.objects[0].selection.mask_rle.area < 0.1 * true(BLUE).sum()
    pair.undo()
    assert iou(pair.objects[0].selection.mask_rle, true(BLUE)) > 0.95
    pair.add()
    pair.mark(Mark("brush", ((60.0, 80.0), (100.0, 80.0)), 10.0))
    area = pair.objects[1].selection.mask_rle.area
    assert 0.8 * (40 * 20 + 314) < area < 1.2 * (40 * 20 + 314)


def test_what_means_nothing_changes_nothing(pair):
    with pytest.raises(InputError, match="nothing is marked yet"):
        pair.mark(point(80, 80, "away"))
    pair.mark(point(80, 80))
    before = pair.objects[0].selection
    with pytest.raises(ProposalError):
        pair.mark(point(82, 90, "away"))
    assert pair.objects[0].selection is before
    assert len(pair.objects[0].marks) == 1


def test_a_change_of_the_object_takes_its_match_away(pair):
    pair.mark(point(80, 80))
    pair.match(pair.job)
    pair.mark(point(60, 60))
    assert pair.matched == []


def test_candidates_corrections_and_absence(pair):
    pair.mark(point(80, 80))
    pair.match(pair.job)
    found = pair.objects[0].match
    pair.choose(0, 1)
    assert pair.objects[0].match.mask_rle == found.candidates[1].mask_rle
    assert "by hand" in pair.objects[0].match.notes[-1]
    pair.choose(0, 0)
    assert pair.objects[0].match is found
    pair.correct(point(80, 150))  # the blue thing in the mirror image
    assert iou(pair.objects[0].match.mask_rle, true(BLUE, mirrored=True)) > 0.95
    assert pair.objects[0].match.visibility == 1
    pair.undo_correction()
    assert pair.objects[0].match is found
    pair.correct(Mark("erase", ((240.0, 80.0), (240.0, 81.0)), 10.0))
    assert 0 < pair.objects[0].match.mask_rle.area < found.mask_rle.area
    pair.absent(0)
    assert pair.objects[0].match.visibility == 0
    assert pair.objects[0].match.mask_rle.is_empty
    draw_target(pair)
    for index, candidate in ((0, 99), (3, 0), (0, "1"), (None, 0)):
        with pytest.raises(InputError):
            pair.choose(index, candidate)


def test_names_are_unique_and_fit_files(pair):
    pair.mark(point(80, 80))
    pair.add()
    for name, error in (("object 1", InputError), ("", InputError), ("../mug", PathError), ("con", PathError)):
        with pytest.raises(error):
            pair.rename(1, name)
    pair.remove(0)
    assert [item.name for item in pair.objects] == ["object 2"]
    pair.remove(0)
    assert [item.name for item in pair.objects] == ["object 1"]


def test_what_is_missing_is_said(predictor, pair):
    empty = PagePair(predictor)
    with pytest.raises(InputError, match="no query image"):
        empty.check_ready()
    with pytest.raises(InputError, match="no object is shown"):
        pair.check_ready()
    with pytest.raises(InputError, match="not matched yet"):
        pair.correct(point(80, 80))
    with pytest.raises(ImageError, match="strip"):
        PageImage("a.png", np.zeros((2, 4000, 3), np.uint8))
    pair.mark(Mark("brush", ((80.0, 80.0),), 5.0))
    pair.mark(Mark("erase", ((80.0, 80.0),), 20.0))
    with pytest.raises(MaskError):
        pair.check_ready()


def test_an_image_that_is_replaced_takes_its_objects_along(pair):
    pair.mark(point(80, 80))
    pair.match(pair.job)
    pair.put("target", PageImage("other.png", scene()))
    assert pair.matched == []
    assert pair.objects[0].selection is not None
    pair.put("query", PageImage("other.png", scene()))
    assert pair.objects[0].selection is None


def test_downloads_read_back(pair, tmp_path):
    pair.mark(point(80, 80))
    pair.rename(0, "red")
    pair.add()
    pair.mark(point(230, 150))
    pair.match(pair.job)
    pair.absent(1)
    made = {}
    for name, (_, make) in downloads(pair).items():
        folder = tmp_path / name
        folder.mkdir()
        made[name] = make(folder)
        assert made[name].name == name
    assert set(made) == {
        "overlay.png", "masks.zip", "match.json", "coco.json", "cvat.zip", "labelstudio.zip", "tracks.json",
    }  # fmt: skip
    record = json.loads(made["match.json"].read_text())
    assert [item["name"] for item in record["objects"]] == ["red", "object 2"]
    assert iou(from_coco(record["objects"][0]["mask"]), true(RED, mirrored=True)) > 0.95
    assert record["settings"]["matcher"]["name"] == "knn"
    assert Image.open(made["overlay.png"]).size[0] > 640
    for name in ("coco.json", "tracks.json"):
        tracks = read(made[name])
        assert iou(tracks.objects["red"]["far"][0].mask_rle, true(RED, mirrored=True)) > 0.95
        assert tracks.objects["object 2"]["far"][0].mask_rle is None
    with zipfile.ZipFile(made["masks.zip"]) as archive:
        names = archive.namelist()
        assert {"query/red.png", "target/red.png", "target/object 2.png"} <= set(names)
        mask = np.asarray(Image.open(archive.open("target/red.png"))) > 0
    assert iou(mask, true(RED, mirrored=True)) > 0.95
    for name, inside in (("cvat.zip", "cvat"), ("labelstudio.zip", "labelstudio.json")):
        with zipfile.ZipFile(made[name]) as archive:
            archive.extractall(tmp_path / f"{name}-out")
        assert "red" in read(tmp_path / f"{name}-out" / inside).objects


def test_images_of_one_name_are_told_apart(pair, tmp_path):
    pair.images["target"].name = "near.png"
    pair.mark(point(80, 80))
    pair.match(pair.job)
    _, make = downloads(pair)["coco.json"]
    assert set(read(make(tmp_path)).cameras) == {"near-query", "near-target"}


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "point", "points": [[320, 10]]}, {"kind": "point", "points": [[-1, 10]]},
        {"kind": "point", "points": []},
        {"kind": "point", "points": [[1, 2], [3, 4]]}, {"kind": "box", "points": [[1, 2]]},
        {"kind": "x", "points": [[1, 2]]},
        {"kind": "point", "points": [[float("nan"), 1]]}, {"kind": "point", "points": "12"}, {"kind": "point"},
        {"kind": "brush", "points": [[1, 1]] * 6000}, {"kind": "brush", "points": [[1, 1]], "radius": 1e9},
        {"kind": ["point"], "points": [[1, 2]]}, {"kind": "point", "points": [[1, 2, 3]]},
        {"kind": "brush", "points": [[1, 1]], "radius": "wide"},
    ],
)  # fmt: skip
def test_marks_of_another_form_are_refused(data):
    with pytest.raises(InputError):
        read_mark(SimpleNamespace(**data), SIZE)


def test_a_box_replaces_the_earlier_one():
    first, second = Mark("box", ((1.0, 1.0), (9.0, 9.0))), Mark("box", ((2.0, 2.0), (9.0, 9.0)))
    assert with_mark([first, point(5, 5)], second, SIZE) == [point(5, 5), second]


def test_visibility_in_words_agrees_with_the_scoring():
    """Above one half an object is visible, as in the official scoring."""
    assert "not" in visibility_words(0.5)
    assert "not" not in visibility_words(0.51)
