"""The tab "Data sets" over the bundled take. Oracles: its own annotation, and predictions made from it."""

import json
from pathlib import Path

import numpy as np
import pytest

import counterview
from counterview.app.data_browser import DataBrowser, Order
from counterview.cli.main import main
from counterview.data.inspect import inspect_dataset
from counterview.data.pairs import pairs_of_take
from counterview.errors import InputError, PredictionError
from counterview.inference.examples import load_take
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.types import ObjectMask
from tests.app.conftest import serving, wait_until
from tests.inference.coloured_videos import ColourPredictor

ROOT = Path(counterview.__file__).parent / "assets" / "take"


def write_predictions(path, *, wrong=(), lost=()):
    """What is annotated as predictions; those of some objects are at another place, or not there."""
    take = load_take()
    masks = {}
    for pair in pairs_of_take(take, "ego2exo"):
        if pair.object in lost:
            continue
        size = fit_longest_side(take.native_size(pair.target_camera))
        truth = take.mask(pair.object, pair.target_camera, pair.frame)
        mask = ObjectMask.empty(size) if truth is None else resize_mask(truth, size)
        if pair.object in wrong:
            mask = ObjectMask.from_array(np.roll(mask.to_array(), (100, 150), (0, 1)))
        frames = masks.setdefault(pair.object, {}).setdefault(f"{pair.query_camera}_{pair.target_camera}", {})
        frames[str(pair.frame)] = {"pred_mask": mask.to_coco(), "confidence": 0.0 if truth is None else 0.9}
    content = {"ego-exo": {"version": "00", "challenge": "xview", "results": {take.uid: {"masks": masks}}}}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    names = load_take().objects
    return write_predictions(folder / "good.json"), write_predictions(folder / "bad.json", wrong=names[:1])


def test_takes_cameras_frames_and_objects_are_listed():
    browser = DataBrowser(ROOT)
    take = load_take()
    assert browser.uids == (take.uid,)
    assert browser.titles() == [take.name]
    frames = browser.frames(take.uid, "cam01")
    assert frames == sorted({f for name in take.objects for f in take.annotated_frames(name, "cam01")})
    assert browser.about(take.uid).startswith(
        f"{take.name}: 1 ego camera and 2 exo cameras, {len(take.objects)} object"
    )
    assert (browser.directions, browser.orders()) == ([], [])
    assert browser.statistics().summary() == inspect_dataset(ROOT).summary()
    view = browser.draw(take.uid, "aria05_214-1", "cam01", frames[0], list(take.objects))
    assert list(view.targets) == [""]
    changed = np.abs(view.query.astype(int) - take.frame("aria05_214-1", frames[0])).sum(-1) > 0
    visible = [n for n in take.objects if take.mask(n, "aria05_214-1", frames[0]) is not None]
    for name in visible:
        mask = resize_mask(take.mask(name, "aria05_214-1", frames[0]), changed.shape).to_array()
        assert changed[mask].mean() > 0.7
    with pytest.raises(InputError, match="there is no such camera; found cam9"):
        browser.draw(take.uid, "cam9", "cam01", frames[0], [])
    with pytest.raises(InputError, match="no take"):
        browser.frames("../../etc", "cam01")


def test_predictions_stand_beside_the_annotation_and_the_worst_come_first(files):
    browser = DataBrowser(ROOT, files)
    take, name = load_take(), load_take().objects[0]
    assert browser.names == ["good", "bad"]
    assert browser.directions == ["ego2exo"]
    assert browser.orders() == [
        Order("lowest IoU of good", 0), Order("lowest IoU of bad", 1), Order("good behind bad", 0, 1),
        Order("bad behind good", 1, 0),
    ]  # fmt: skip
    said = []
    worst = browser.worst("ego2exo", browser.orders()[1], lambda text, part: said.append(text))
    assert worst.cases[0].row.object == name
    assert worst.cases[0].row.iou == 0
    assert worst.cases[0].query.ndim == worst.cases[0].target.ndim == 3
    assert [case.row.iou for case in worst.cases] == sorted(case.row.iou for case in worst.cases)
    assert worst.said[0].startswith("good: IoU 1.0000, ")
    assert said[0] == "Scoring: take 1 of 1"
    assert said[-1].startswith("Drawing: case ")
    behind = browser.worst("ego2exo", browser.orders()[3])
    assert {case.row.object for case in behind.cases} == {name}
    assert browser.worst("ego2exo", browser.orders()[2]).cases == []
    row = worst.cases[0].row
    view = browser.draw(row.take, row.query_camera, row.target_camera, row.frame, list(take.objects))
    assert list(view.targets) == ["good", "bad"]
    assert np.abs(view.targets["good"].astype(int) - view.targets["bad"]).sum() > 0
    assert view.problems == []
    other = browser.draw(row.take, "cam01", "cam02", row.frame, [name])
    assert other.problems == ["good: predictions are between an ego and an exo camera"]
    assert list(other.targets) == [""]


def test_a_frame_without_predictions_says_so(tmp_path):
    names = load_take().objects
    file = write_predictions(tmp_path / "part.json", lost=names[1:])
    browser = DataBrowser(ROOT, [file], "test")
    frame = browser.frames(browser.uids[0], "aria05_214-1")[0]
    view = browser.draw(browser.uids[0], "aria05_214-1", "cam01", frame, list(names))
    assert view.problems == [f"part: has no prediction here for {len(names) - 1} objects"] or len(names) == 2
    assert {case.row.object for case in browser.worst("ego2exo", browser.orders()[0]).cases} == {names[0]}


def test_what_cannot_be_browsed_is_said_before_anything_is_served(tmp_path, files, capsys):
    (tmp_path / "text.json").write_text("{}")
    with pytest.raises(PredictionError, match="is not a prediction file"):
        DataBrowser(ROOT, [tmp_path / "text.json"])
    with pytest.raises(InputError, match="too many prediction files to browse; found 3"):
        DataBrowser(ROOT, [*files, files[0]])
    assert main(["serve", "--predictions", str(files[0])]) == 2
    assert "--predictions and --split are of a data set. Name it with --data ROOT" in capsys.readouterr().err
    assert main(["serve", "--data", str(tmp_path)]) == 2
    assert "is not a data set of a known format" in capsys.readouterr().err


def test_a_visitor_browses_scores_and_goes_to_the_worst_case(visit, files):
    take, name = load_take(), load_take().objects[0]
    with serving(ColourPredictor(), about={"data": ROOT, "predictions": files}) as served:
        page = visit(served)
        page.get_by_role("tab", name="Data sets").click()
        wait_until(page, page.get_by_text("take: 1 take, with predictions of good and bad.").is_visible)
        page.wait_for_selector("#cv-data-images img")
        assert page.locator("#cv-data-images figcaption").all_inner_texts() == [
            "aria05_214-1: annotation", "cam01: good", "cam01: bad"
        ]  # fmt: skip
        first = page.locator("#cv-data-images img").nth(0).get_attribute("src")
        page.locator("#cv-data-forth").click()
        page.wait_for_function(
            "old => document.querySelector('#cv-data-images img').getAttribute('src') !== old", arg=first
        )
        page.get_by_label("lowest IoU of bad").check()
        page.locator("#cv-data-find").click()
        page.wait_for_selector("#cv-cases .cv-place")
        place = page.locator("#cv-cases .cv-place").first
        assert place.locator("span").nth(1).inner_text() == f"{name}: IoU 0.000"
        wait_until(page, page.get_by_text("bad: IoU 0.").is_visible)
        place.click()
        page.wait_for_selector("#cv-cases .cv-place[aria-pressed=true]")
        wait_until(page, page.get_by_label(name, exact=True).is_checked)
        wait_until(page, lambda: not page.get_by_label(take.objects[1], exact=True).is_checked())
        page.get_by_role("button", name="Statistics of the data set").click()
        page.locator("#cv-data-count").click()
        page.wait_for_selector("#cv-data-numbers table")
        assert page.failures == []
        page.close()
