"""Hostile prediction and ground-truth files: a clear error or a reported skip, never a crash or a wrong number."""

import contextlib
import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterview.errors import CounterviewError, InputError, MaskError, PredictionError, ProposalError
from counterview.evaluation.folders import MaskFolder, folder_name, png_path
from counterview.evaluation.groundtruth import GroundTruth, decode_mask
from counterview.evaluation.open import open_predictions
from counterview.evaluation.oracle import ProposalFiles
from counterview.evaluation.predictions import JsonTake, PredictedMask, PredictionFile
from counterview.evaluation.protocol import IncompletePredictions, evaluate
from counterview.evaluation.report import compare, write_report
from counterview.evaluation.submission import submit
from counterview.masks import rle
from counterview.types import ObjectMask

FOLDER = Path(__file__).parents[1] / "data" / "evaluator"
GT, EXO = FOLDER / "correspondence-gt.json", FOLDER / "pred_exo-ego.json"
TAKE = "051f9c79-4b4e-4c30-ac1f-df814091f7ff"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BAD_MASKS = [
    None,
    [],
    "Pbn3",
    {},
    {"size": [270, 480]},
    {"size": [270, 480], "counts": None},
    {"size": [270, 480], "counts": ""},
    {"size": [270, 480], "counts": "0"},  # too short
    {"size": [270, 480], "counts": "Pbn3Pbn3"},  # too long
    {"size": [270, 480], "counts": "\u00e9"},
    {"size": [270, 480], "counts": "ooooooooooooooooooooooooo"},
    {"size": [270, 480], "counts": "0" * 100_000},
    {"size": [270, 480], "counts": [-1, 129601]},
    {"size": [270, 480], "counts": [10**40]},
    {"size": [270, 480], "counts": [129600.0]},
    {"size": [0, 480], "counts": "0"},
    {"size": [-270, -480], "counts": "Pbn3"},
    {"size": [2**31, 2**31], "counts": "Pbn3"},
    {"size": [46340, 46340], "counts": [46340 * 46340]},  # fits COCO's 32 bits, not an image
    {"size": [270.0, 480.0], "counts": "Pbn3"},
    {"size": "ab", "counts": "Pbn3"},
    {"size": [270, 480, 3], "counts": "Pbn3"},
    {"size": [True, True], "counts": "1"},
    {"size": [480, 270], "counts": "Pbn3"},  # right number of pixels, wrong shape
]
BAD_CONFIDENCES = [None, "0.9", [], [0.1, 0.9], [[0.5]], {}, math.nan, math.inf, -math.inf, [math.nan], 10**400]


@pytest.fixture
def content(fixture_data):
    return copy.deepcopy(fixture_data("evaluator/pred_ego-exo.json"))


def bowl(content):
    return content["ego-exo"]["results"][TAKE]["masks"]["stainless bowl_0"]["aria01_214-1_cam01"]


def write(path, value):
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("mask", BAD_MASKS, ids=lambda m: repr(m)[:40])
def test_a_bad_mask_is_named(tmp_path, content, mask):
    bowl(content)["0"]["pred_mask"] = mask
    path = write(tmp_path / "p.json", content)
    with pytest.raises(IncompletePredictions) as caught:
        evaluate(GT, path)
    assert len(caught.value.lines) == 1
    assert "'stainless bowl_0', aria01_214-1 -> cam01: frames 0: the predicted mask" in caught.value.lines[0]
    assert len(str(caught.value)) < 1000
    if mask != BAD_MASKS[-1]:  # submit brings masks of another shape to the right one
        with pytest.raises(IncompletePredictions):
            submit(path, EXO, tmp_path / "s.json", gt=GT)


@pytest.mark.parametrize("confidence", BAD_CONFIDENCES, ids=lambda c: repr(c)[:20])
def test_a_bad_confidence_is_named(tmp_path, content, confidence):
    bowl(content)["60"]["confidence"] = confidence  # of an absent target: its confidence counts all the same
    with pytest.raises(IncompletePredictions, match="frames 60: the confidence is not a finite number"):
        evaluate(GT, write(tmp_path / "p.json", content))


def test_a_list_of_one_confidence_is_read_as_it_is_meant(tmp_path, content):
    before = evaluate(GT, write(tmp_path / "p.json", content)).totals
    for frames in content["ego-exo"]["results"][TAKE]["masks"]["stainless bowl_0"].values():
        for entry in frames.values():
            entry["confidence"] = [entry["confidence"]]
    assert evaluate(GT, write(tmp_path / "p.json", content)).totals == before


@pytest.mark.parametrize("entry", [None, 3, [], "x", {}, {"pred_mask": None}])
def test_a_bad_entry_is_named(tmp_path, content, entry):
    bowl(content)["0"] = entry
    with pytest.raises(IncompletePredictions, match="frames 0: the confidence"):
        evaluate(GT, write(tmp_path / "p.json", content))


@pytest.mark.parametrize("level", range(6))
@pytest.mark.parametrize("value", [None, 3, [], "x"])
def test_a_wrong_type_at_any_level(tmp_path, content, level, value):
    way = ["ego-exo", "results", TAKE, "masks", "stainless bowl_0", "aria01_214-1_cam01"]
    node = content
    for key in way[:level]:
        node = node[key]
    node[way[level]] = value
    path = write(tmp_path / "p.json", content)
    with pytest.raises(PredictionError) as caught:
        evaluate(GT, path, "ego2exo")
    assert "p.json" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../../up", "a/b", "nul\0", "\ud800", "x" * 5000, "", "<script>alert(1)</script>", "=1+1"]
)
def test_hostile_names_stay_names(tmp_path, fixture_data, name):
    gt = copy.deepcopy(fixture_data("evaluator/correspondence-gt.json"))
    pred = copy.deepcopy(fixture_data("evaluator/pred_ego-exo.json"))
    before = evaluate(FOLDER / "correspondence-gt.json", FOLDER / "pred_ego-exo.json").totals
    for take in (gt["annotations"], pred["ego-exo"]["results"]):
        take[name] = take.pop(TAKE)
        take[name]["masks"][name] = take[name]["masks"].pop("stainless bowl_0")
    annotated_frames = gt["annotations"][name]["annotated_frames"]
    annotated_frames[name] = annotated_frames.pop("stainless bowl_0")
    annotated_frames[name][name] = annotated_frames[name].pop("cam01")
    cameras = gt["annotations"][name]["masks"][name]
    cameras[name] = cameras.pop("cam01")
    pairs = pred["ego-exo"]["results"][name]["masks"][name]
    pairs[f"aria01_214-1_{name}"] = pairs.pop("aria01_214-1_cam01")
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    truth, source = GroundTruth(write(inside / "gt.json", gt)), open_predictions(write(inside / "p.json", pred))
    report = evaluate(truth, source, "ego2exo")
    assert report.totals == before
    page = write_report(inside / "r", compare([report]), truth, [source], frames=inside)
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "\0" not in text
    report.table.write(inside / "rows.csv")
    assert not any(line.startswith("=") for line in (inside / "rows.csv").read_text(encoding="utf-8").splitlines())
    submit(source, None, inside / "s.json", gt=truth)
    assert evaluate(truth, inside / "s.json", "ego2exo").totals == before
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "gt.json", "p.json", "index.html", "index.json", "rows.csv", "s.json",
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["../up", "..", "a/b", "nul\0", "con", "", "x" * 400, "."])
def test_paths_from_names_stay_inside(tmp_path, name):
    path = png_path(tmp_path, "take", name, name, name, 30)
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert len(path.relative_to(tmp_path).parts) == 4
    if name != "x" * 400:
        with pytest.raises(InputError):
            png_path(tmp_path, name, "cup", "a", "b", 30)
    with pytest.raises(ProposalError):
        ProposalFiles(tmp_path).get("../" + name, "cam", 0)
    (tmp_path / "take" / folder_name("cup") / "aria01_cam01").mkdir(parents=True)
    (tmp_path / "take" / folder_name("cup") / "aria01_cam01" / "0.png").write_bytes(b"")
    for kind in ("png", "lmeec"):
        try:
            predictions = MaskFolder(tmp_path, kind).load("ego2exo", "take")
        except PredictionError:
            continue
        assert predictions is None or predictions.get(name, name, name, 0) is None


def test_frames_that_are_no_numbers_are_said(tmp_path, content):
    before = evaluate(GT, write(tmp_path / "p.json", content)).totals
    bowl(content).update({"-30": {}, "1e3": {}, "030": {}, " 30": {}, "x": {}, "9" * 5000: {}, "\u0663": {}})
    report = evaluate(GT, write(tmp_path / "p.json", content))
    assert report.totals == before
    assert sum("not a frame number" in note for note in report.notes) == 7


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", '{"ego-exo": ', '{"ego-exo": {"results": {"a": NaN}}}', "\0\0", '{"ego-exo": {}}', "[" * 100_000,
     '{"ego-exo": {"results": {"t": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}}}", '{"ego-exo": {"results": []}}'],
)  # fmt: skip
def test_files_that_are_no_predictions(tmp_path, text):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(PredictionError) as caught:
        evaluate(GT, path, "ego2exo")
    assert "p.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_json_as_a_take_is_read_or_refused(value):
    take = JsonTake(value)
    for name, pairs in take.objects.items():
        for frames in pairs.values():
            assert all(type(f) is int for f in frames)
        assert isinstance(name, str)
    list(take.pairs())


@settings(max_examples=100, deadline=None)
@given(JSON, JSON)
def test_any_json_as_an_entry_is_read_or_refused(mask, confidence):
    prediction = PredictedMask(mask, confidence)
    with contextlib.suppress(PredictionError):
        assert math.isfinite(prediction.confidence())
    try:
        decoded = prediction.mask()
    except PredictionError:
        return
    assert 0 <= decoded.area <= decoded.size_hw[0] * decoded.size_hw[1]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.integers(1, 60), st.integers(1, 60))
def test_any_counts_are_a_mask_or_refused(data, height, width):
    try:
        mask = PredictedMask({"size": [height, width], "counts": data.decode("latin-1")}, 1).mask()
    except PredictionError:
        return
    assert mask.to_array().shape == (height, width)
    assert rle.from_coco(rle.to_coco(mask)) == mask


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.text("ABCDEFabcdef0123456789+-$", max_size=60), JSON, JSON)
def test_any_encoded_mask_is_a_mask_or_refused(text, width, height):
    for size in ((480, 270), (width, height)):
        try:
            mask = decode_mask({"width": size[0], "height": size[1], "encodedMask": text})
        except MaskError:
            continue
        assert isinstance(mask, ObjectMask)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_prediction_file_never_gives_another_number(tmp_path, data):
    text = bytearray((FOLDER / "pred_ego-exo.json").read_bytes())
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text) - 2))]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.sampled_from(list(b'{}[]",:\\0aZ\x00\xff')))
    path = tmp_path / "p.json"
    path.write_bytes(bytes(text))
    try:
        PredictionFile(path).takes("ego2exo")
        report = evaluate(FOLDER / "correspondence-gt.json", path, "ego2exo")
    except CounterviewError:
        return
    assert report.totals.frames == 102  # whatever survives is scored completely
    assert 0 <= report.totals.iou <= 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON, st.integers(0, 5))
def test_a_damaged_ground_truth_is_refused_or_reported(tmp_path, fixture_data, value, level):
    gt = copy.deepcopy(fixture_data("evaluator/correspondence-gt.json"))
    way = ["annotations", TAKE, "masks", "stainless bowl_0", "cam01", "0"]
    node = gt
    for key in way[:level]:
        node = node[key]
    node[way[level]] = value
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(gt))
    try:
        report = evaluate(path, FOLDER / "pred_ego-exo.json")
    except CounterviewError:
        return
    assert report.totals.frames <= 113


@pytest.mark.parametrize("kind", ["pickle", "object", "huge", "flat", "empty", "text", "zip"])
def test_hostile_proposal_arrays(tmp_path, kind):
    path = tmp_path / "t" / "cam01" / "0_masks.npz"
    path.parent.mkdir(parents=True)
    if kind == "pickle":
        np.savez(path, masks=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "object":
        np.savez(path, masks=np.zeros((2, 3, 4), dtype=complex))
    elif kind == "huge":
        import zipfile

        header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
        shape = b"{'descr': '|b1', 'fortran_order': False, 'shape': (1000, 2000, 2000), }"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("masks.npy", header + shape.ljust(117) + b"\n")
    elif kind == "flat":
        np.savez(path, masks=np.zeros((3, 4), dtype=bool))
    elif kind == "empty":
        np.savez(path)
    elif kind == "zip":
        path.write_bytes(b"PK\x05\x06" + bytes(18))
    else:
        path.write_text("no archive")
    with pytest.raises(ProposalError, match=r"0_masks\.npz"):
        ProposalFiles(tmp_path).get("t", "cam01", 0)
