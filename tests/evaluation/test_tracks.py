"""Tracks against annotations: the official measures, by hand and by the scorer of takes."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import typer

from counterview.cli.evaluate import evaluate
from counterview.errors import InputError, PredictionError
from counterview.evaluation.protocol import IncompletePredictions
from counterview.evaluation.scorer import Scorer
from counterview.evaluation.tracks import evaluate_tracks, is_annotations
from counterview.exchange import write
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks, write_tracks
from counterview.masks.geometry import iou, resize_mask
from counterview.types import ObjectMask
from tests.exchange.samples import blob
from tests.exchange.test_formats import PLACES

EGO, CAM = (60, 80), (270, 480)


def truth():
    cameras = {"ego": TrackedCamera("ego.mp4", EGO, 30.0), "cam": TrackedCamera("cam.mp4", CAM, 30.0)}
    mug = {
        "ego": [TrackedMask(f / 30, f, blob(EGO, f), 1.0, "given") for f in (0, 30, 60)],
        "cam": [
            TrackedMask(0, 0, blob(CAM, 1), 1.0, "given"),
            TrackedMask(1, 30, None, 0.0, "given"),
            TrackedMask(2, 60, blob(CAM, 2), 1.0, "given"),
            TrackedMask(3, 90, None, 0.0, "given"),
        ],
    }
    return Tracks(cameras, {"mug": mug})


def predicted(**changes):
    def shifted(mask, by):
        return ObjectMask.from_array(np.roll(mask.to_array(), by, axis=1))

    known = truth().objects["mug"]["cam"]
    cam = [
        TrackedMask(0, 0, shifted(known[0].mask_rle, 9), 0.9, "matched"),
        TrackedMask(1, 30, None, 0.2, "matched"),
        TrackedMask(1.5, 45, None, 0.2, "matched"),
        TrackedMask(2, 60, None, 0.4, "matched"),
        TrackedMask(3, 90, shifted(known[0].mask_rle, 20), 0.7, "matched"),
    ]
    own = truth().objects["mug"]["ego"]
    ego = [own[0], TrackedMask(1, 30, shifted(own[1].mask_rle, 1), 0.8, "followed"), own[2]]
    objects = {"mug": {"ego": ego, "cam": cam}, **changes}
    return Tracks(truth().cameras, objects)


@cache
def expected_report():
    return evaluate_tracks(truth(), predicted())


def test_measures_are_the_official_ones():
    report = expected_report()
    known, found = truth().objects["mug"]["cam"], predicted().objects["mug"]["cam"]
    assert report.totals.iou == pytest.approx(iou(known[0].mask_rle, found[0].mask_rle) / 2)  # none in the other
    assert report.totals.balanced_accuracy == 0.5  # one of two visible, one of two absent
    counts = report.totals
    assert (counts.frames, counts.visible, counts.absent, counts.missing) == (4, 2, 2, 0)
    scorer = Scorer("official")
    for one, other in zip(known, [found[0], found[1], found[3], found[4]], strict=True):
        scorer.add("t", "mug", "ego", "cam", one.frame, gt=one.mask_rle, pred=other.mask_rle, resize=True,
                   confidence=other.visibility)  # fmt: skip
    assert scorer.totals() == report.totals
    assert report.pairs["ego", "cam"] == report.totals
    own = report.pairs["ego", "ego"]
    assert own.frames == 1  # the two others were given
    expected = predicted().objects["mug"]["ego"][1].mask_rle
    size = (360, 480)
    assert own.iou == pytest.approx(
        iou(resize_mask(truth().objects["mug"]["ego"][1].mask_rle, size), resize_mask(expected, size))
    )
    assert report.notes == [
        "2 frames of the query camera whose mask was given, and not scored",
        "1 predicted frame of which the ground truth states nothing",
    ]


def test_perfect_tracks_are_perfect_in_every_protocol_of_tracks():
    for protocol in ("official", "omama", "macro", "corrected"):
        totals = evaluate_tracks(truth(), truth(), protocol=protocol).totals
        assert (totals.iou, totals.location_error, totals.contour_accuracy, totals.balanced_accuracy) == pytest.approx(
            (1, 0, 1, 1)
        )
    with pytest.raises(InputError, match="lmeec"):
        evaluate_tracks(truth(), truth(), protocol="lmeec")


@pytest.mark.parametrize("format", [name for name in PLACES if name != "tracks"])
def test_any_format_is_a_ground_truth(tmp_path, format):
    write(truth(), format, tmp_path)
    path = tmp_path / PLACES[format]
    assert is_annotations(path)
    report = evaluate_tracks(path, predicted())
    expected = expected_report()
    if format == "yolo":  # outlines
        assert report.totals.iou == pytest.approx(expected.totals.iou, abs=0.01)
        assert report.totals.balanced_accuracy == expected.totals.balanced_accuracy
    else:
        assert report.totals == expected.totals


def test_what_is_missing_is_refused_or_counted():
    objects = {"mug": {"ego": truth().objects["mug"]["ego"], "cam": predicted().objects["mug"]["cam"][:2]}}
    short = Tracks(truth().cameras, objects)
    with pytest.raises(IncompletePredictions, match="2 predictions missing") as caught:
        evaluate_tracks(truth(), short)
    assert caught.value.lines == ["object 'mug', camera 'cam': frames 60, 90"]
    report = evaluate_tracks(truth(), short, missing="count-absent")
    assert report.totals.missing == 2
    assert any("2 missing predictions counted as not visible" in note for note in report.notes)
    with pytest.raises(PredictionError, match="matched by name"):
        evaluate_tracks(truth(), Tracks(truth().cameras, {"pot": {}}))
    more = Tracks({**truth().cameras, "cam9": TrackedCamera(None, (4, 4))}, {**truth().objects, "pot": {}})
    notes = evaluate_tracks(truth(), more).notes
    assert "objects that the ground truth does not have: pot" in notes
    assert "cameras that the ground truth does not have: cam9" in notes


def test_frames_that_the_tracks_know_nothing_of_count_as_not_visible():
    cam = [*predicted().objects["mug"]["cam"][:4], TrackedMask(3, 90, None, None, "unknown")]
    report = evaluate_tracks(truth(), predicted(mug={"ego": predicted().objects["mug"]["ego"], "cam": cam}))
    assert report.totals.balanced_accuracy == 0.75
    assert "1 frame of which the tracks know nothing counted as not visible" in report.notes


def test_all_frames_of_another_tool_are_scored(tmp_path):
    write(truth(), "yolo", tmp_path)  # which has no sources
    pair = evaluate_tracks(truth(), tmp_path / "yolo").pairs["ego", "ego"]
    assert (pair.frames, pair.balanced_accuracy) == (3, 1.0)
    assert evaluate_tracks(truth(), predicted()).pairs["ego", "ego"].frames == 1


def test_masks_of_another_aspect_ratio_are_refused():
    cameras = {**truth().cameras, "cam": TrackedCamera(None, (480, 270))}
    cam = [TrackedMask(0, 0, blob((480, 270), 1), 0.9, "matched")]
    with pytest.raises(PredictionError, match="aspect ratio"):
        evaluate_tracks(truth(), Tracks(cameras, {"mug": {"cam": cam}}), missing="count-absent")


def test_the_command(tmp_path, capsys, fixture_data):
    app = typer.Typer()
    app.command()(evaluate)
    app.command("other")(lambda: None)
    write(truth(), "cvat", tmp_path)
    write_tracks(tmp_path / "tracks.json", predicted())
    files = ["--gt", str(tmp_path / "cvat"), "--pred", str(tmp_path / "tracks.json")]

    app(["evaluate", *files, "--json", "--per-frame", str(tmp_path / "rows.csv")], standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    expected = expected_report()
    assert printed == json.loads(json.dumps(expected.to_json()))
    assert [(pair["query_camera"], pair["target_camera"]) for pair in printed["pairs"]] == [
        ("ego", "ego"),
        ("ego", "cam"),
    ]
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 4 + 1

    app(["evaluate", *files], standalone_mode=False)
    table = capsys.readouterr().out
    assert "ego -> cam" in table
    assert f"{expected.totals.iou:.4f}" in table

    with pytest.raises(InputError, match="--direction is for the takes"):
        app(["evaluate", *files, "--direction", "ego2exo"], standalone_mode=False)
    (tmp_path / "other.json").write_text('{"ego-exo": {"results": {}}}')
    with pytest.raises(InputError, match=r"other\.json: is not tracks"):
        app(["evaluate", *files[:2], "--pred", str(tmp_path / "other.json")], standalone_mode=False)


def test_files_of_the_benchmark_are_no_annotations(tmp_path):
    folder = Path(__file__).parents[1] / "data" / "evaluator"
    assert [is_annotations(folder / name) for name in ("correspondence-gt.json", "pred_ego-exo.json")] == [False, False]
    assert not is_annotations(tmp_path)
    assert not is_annotations(tmp_path / "missing")
