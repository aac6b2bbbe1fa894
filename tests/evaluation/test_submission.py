"""Merged submissions, written files, and folders of masks."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterview.errors import PredictionError
from counterview.evaluation.folders import folder_name, png_path
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.open import open_predictions
from counterview.evaluation.protocol import IncompletePredictions, evaluate
from counterview.evaluation.submission import PredictionWriter, prediction_entry, split_pair, submit
from counterview.masks import rle
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.masks.png import write_mask_png
from counterview.types import ObjectMask

FOLDER = Path(__file__).parents[1] / "data" / "evaluator"
GT = FOLDER / "correspondence-gt.json"
EGO, EXO = FOLDER / "pred_ego-exo.json", FOLDER / "pred_exo-ego.json"
TAKE = "051f9c79-4b4e-4c30-ac1f-df814091f7ff"


def official_validator(gt, pred, key):
    """The checks of the challenge's evaluator, as its behaviour on broken files shows them."""
    annotations, results = gt["annotations"], pred[key]["results"]
    assert set(annotations) == set(results)
    for uid, take in annotations.items():
        assert set(results[uid]) >= {"masks", "subsample_idx"}
        assert set(take["masks"]) == set(results[uid]["masks"])
        for name, cameras in take["masks"].items():
            ego = [c for c in cameras if "aria" in c]
            if len(ego) != 1:
                continue
            for exo in (c for c in cameras if "aria" not in c):
                query, target = (ego[0], exo) if key == "ego-exo" else (exo, ego[0])
                frames = results[uid]["masks"][name][f"{query}_{target}"]
                for frame in cameras[query]:
                    entry = frames[frame]
                    assert entry["confidence"] > -1
                    if frame in cameras[target]:
                        size = cameras[target][frame]["size"]
                        assert entry["pred_mask"]["size"] == [int(v * (1.0 / max(size) * 480)) for v in size]


def test_merging_changes_no_number(tmp_path, fixture_data):
    report = submit(EGO, EXO, tmp_path / "s.json", gt=GT)
    assert report.predictions == {"ego2exo": 113, "exo2ego": 98}
    assert report.resized == 0
    for direction, file in (("ego2exo", EGO), ("exo2ego", EXO)):
        assert evaluate(GT, tmp_path / "s.json", direction).totals == evaluate(GT, file).totals
    content = json.loads((tmp_path / "s.json").read_text())
    for key in ("ego-exo", "exo-ego"):
        official_validator(fixture_data("evaluator/correspondence-gt.json"), content, key)
    with pytest.raises(PredictionError, match=r"no ego2exo predictions; found exo2ego\. Give the ego2exo file first"):
        submit(EXO, EGO, tmp_path / "t.json", gt=GT)
    assert not (tmp_path / "t.json").exists()


def test_without_annotation_the_file_is_the_same(tmp_path):
    submit(EGO, EXO, tmp_path / "a.json", gt=GT)
    report = submit(EGO, EXO, tmp_path / "b.json")
    assert any("not checked" in note for note in report.notes)
    a, b = (json.loads((tmp_path / n).read_text()) for n in ("a.json", "b.json"))
    for key in a:
        for uid, take in a[key]["results"].items():
            assert b[key]["results"][uid]["masks"] == take["masks"]


def test_native_masks_are_resized(tmp_path):
    native = [FOLDER / f"pred_native_{k}.json" for k in ("ego-exo", "exo-ego")]
    report = submit(*native, tmp_path / "s.json", gt=GT)
    assert report.resized == 113 + 98
    row = evaluate(GT, tmp_path / "s.json", "ego2exo").table.row(4)
    direct = open_predictions(native[0]).load("ego2exo", row.take)
    mask = direct.get(row.object, row.query_camera, row.target_camera, row.frame).mask()
    assert row.pred_area_px == resize_mask(mask, (row.height, row.width)).area


def test_everything_wrong_is_listed_at_once_and_nothing_is_written(tmp_path, fixture_data):
    content = copy.deepcopy(fixture_data("evaluator/pred_ego-exo.json"))
    results = content["ego-exo"]["results"]
    bowl = results[TAKE]["masks"]["stainless bowl_0"]["aria01_214-1_cam01"]
    bowl["0"]["confidence"] = float("nan")
    bowl["30"]["pred_mask"]["counts"] = "0"
    bowl["60"]["pred_mask"] = None
    bowl["90"]["confidence"] = [0.25]  # mended
    del bowl["120"]
    del results["14408a10-1493-4a0d-b737-a957cb0c4531"]
    del results[TAKE]["masks"]["pan_0"]  # has no ego mask and must be listed all the same: mended
    results["surplus"] = {"masks": {}}
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content))
    with pytest.raises(IncompletePredictions) as caught:
        submit(path, EXO, tmp_path / "s.json", gt=GT)
    text = "\n".join(caught.value.lines)
    for part in (
        "frames 0: the confidence",
        "frames 30: the predicted mask is malformed",
        "frames 60: the predicted mask is null",
        "frames 120 are missing",
        "take 14408a10-1493-4a0d-b737-a957cb0c4531: missing",
    ):
        assert part in text
    assert len(caught.value.lines) == 5
    assert list(tmp_path.iterdir()) == [path]
    for frame in ("0", "30", "60"):
        bowl[frame] = bowl["150"]
    path.write_text(json.dumps(content))
    report = submit(path, EXO, tmp_path / "s.json", gt=GT, missing="count-absent")
    notes = "\n".join(report.notes)
    assert "17 missing predictions were filled" in notes
    assert "1 confidences stood in a list" in notes
    assert "1 takes that the annotation does not have were left out: surplus" in notes
    written = json.loads((tmp_path / "s.json").read_text())
    official_validator(fixture_data("evaluator/correspondence-gt.json"), written, "ego-exo")
    assert written["ego-exo"]["results"][TAKE]["masks"]["pan_0"] == {}


def test_perfect_predictions_score_what_resizing_leaves(tmp_path):
    truth = GroundTruth(GT)
    with PredictionWriter(tmp_path / "p.json") as writer:
        for direction in ("ego2exo", "exo2ego"):
            writer.begin(direction)
            for take in truth:
                objects = {name: {} for name in take.objects}
                for name, query, target in take.pairs(direction):
                    frames = objects[name][f"{query}_{target}"] = {}
                    size = next(iter(take.objects[name][target].masks), None)
                    size = (270, 480) if size is None else take.mask(name, target, size).size_hw
                    for frame in take.objects[name][query].masks:
                        mask = take.mask(name, target, frame)
                        sure = 0.0 if mask is None else 1.0
                        frames[str(frame)] = prediction_entry(mask or ObjectMask.empty(size), sure, size)
                writer.add(take.uid, objects, [0])
    for direction in ("ego2exo", "exo2ego"):
        totals = evaluate(truth, tmp_path / "p.json", direction).totals
        assert totals.balanced_accuracy == 1
        assert totals.iou == pytest.approx(1, abs=1e-3)
        assert totals.contour_accuracy == 1
        assert totals.location_error == 0


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "p.json"
    with pytest.raises(RuntimeError), PredictionWriter(path) as writer:
        writer.begin("ego2exo")
        writer.add("t", {})
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with PredictionWriter(path, version="2", challenge='c"') as writer:
        writer.begin("exo2ego")
        writer.add("t\n1", {"a": {}}, [30, 0])
        writer.add("t2", {})
        with pytest.raises(ValueError, match="cannot be added"):
            writer.add("t2", {})
        with pytest.raises(ValueError, match="cannot be started"):
            writer.begin("exo2ego")
    assert json.loads(path.read_text()) == {
        "exo-ego": {
            "version": "2",
            "challenge": 'c"',
            "results": {
                "t\n1": {"masks": {"a": {}}, "subsample_idx": [0, 30]},
                "t2": {"masks": {}, "subsample_idx": []},
            },
        }
    }


@pytest.mark.parametrize(
    "size", [(2160, 3840), (3840, 2160), (1408, 1408), (540, 960), (270, 480), (480, 270), (1, 5000)]
)
def test_an_entry_has_the_size_that_the_server_wants(size):
    wanted = fit_longest_side(size, 480)
    entry = prediction_entry(ObjectMask.empty((40, 30)), 0.3, size)
    assert entry["pred_mask"]["size"] == list(wanted)
    assert fit_longest_side(wanted, 480) == wanted
    assert max(wanted) == 480


@pytest.mark.parametrize(
    ("pair", "cameras"),
    [
        ("aria01_214-1_cam01", ("aria01_214-1", "cam01")),
        ("cam01_aria01_214-1", ("cam01", "aria01_214-1")),
        ("gp01_aria05_1201-1", ("gp01", "aria05_1201-1")),
        ("aria01_214-1__cam03v", ("aria01_214-1", "cam03v")),
        ("cam01_cam02", ("", "")),
        ("x", ("", "")),
    ],
)
def test_pairs_of_cameras(pair, cameras):
    assert split_pair(pair) == cameras


@given(st.text(max_size=60), st.text(max_size=60))
def test_names_become_folders_and_stay_different(a, b):
    left, right = folder_name(a), folder_name(b)
    assert (left == right) == (a == b)
    assert "/" not in left
    assert left not in ("", ".", "..")


def test_folders_of_png_masks(tmp_path):
    source = open_predictions(EGO)
    confidence = {}
    for take in GroundTruth(GT):
        predictions = source.load("ego2exo", take.uid)
        for name, query, target in take.pairs("ego2exo"):
            for frame in predictions.frames(name, query, target):
                entry = predictions.get(name, query, target, frame)
                path = png_path(tmp_path, take.uid, name, query, target, frame)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_mask_png(path, entry.mask())
                pairs = confidence.setdefault(take.uid, {}).setdefault(name, {})
                pairs.setdefault(f"{query}_{target}", {})[str(frame)] = entry.confidence()
    assert (tmp_path / "e8f9789e-2ef3-4268-9424-adb49620f368" / "bolt%2Fnut_0").is_dir()
    expected = evaluate(GT, EGO).totals
    without = evaluate(GT, tmp_path)
    assert (without.totals.iou, without.totals.contour_accuracy) == (expected.iou, expected.contour_accuracy)
    assert any("confidence.json" in note for note in without.notes)
    (tmp_path / "confidence.json").write_text(json.dumps(confidence))
    assert evaluate(GT, tmp_path).totals == expected
    report = submit(tmp_path, EXO, tmp_path / "out" / "s.json", gt=GT)
    assert report.predictions["ego2exo"] == 113
    assert evaluate(GT, tmp_path / "out" / "s.json", "ego2exo").totals == expected


def test_folders_of_one_json_a_frame(tmp_path):
    merged = FOLDER / "lmeec_pred_ego-exo_square480.json"
    for uid, take in json.loads(merged.read_text())["ego-exo"]["results"].items():
        for name, pairs in take["masks"].items():
            for pair, frames in pairs.items():
                folder = tmp_path / uid / pair.replace("-1_", "-1__") / name  # LM-EEC's script joins names unencoded
                folder.mkdir(parents=True)
                for frame, entry in frames.items():
                    (folder / f"{frame}.json").write_text(json.dumps(entry["pred_mask"]))
    expected = evaluate(GT, merged, protocol="lmeec").totals
    assert evaluate(GT, tmp_path, protocol="lmeec").totals == expected


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(PredictionError, match="holds no predicted masks"):
        open_predictions(tmp_path)
    path = png_path(tmp_path, "t", "cup", "aria01", "cam01", 30)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not an image")
    predictions = open_predictions(tmp_path).load("ego2exo", "t")
    with pytest.raises(PredictionError, match="not an image"):
        predictions.get("cup", "aria01", "cam01", 30).mask()
    write_mask_png(path.with_name("030.png"), np.ones((3, 4), dtype=bool))
    again = open_predictions(tmp_path).load("ego2exo", "t")
    assert again.frames("cup", "aria01", "cam01") == (30,)
    assert any("two files" in p for p in again.problems)


def test_large_counts_survive_writing():
    mask = ObjectMask((480, 480), np.array([0, 480 * 480]))
    assert rle.from_coco(prediction_entry(mask, 1)["pred_mask"]) == mask
