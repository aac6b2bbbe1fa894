"""What is said of a file whose predictions are there, but not where they are looked for, or on another scale."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from counterview.errors import PredictionError
from counterview.evaluation.diagnosis import confidence_notes
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.protocol import IncompletePredictions, evaluate
from counterview.evaluation.submission import submit
from counterview.masks import rle
from counterview.masks.geometry import fit_longest_side
from counterview.types import ObjectMask

EGO, EXO = "aria01_214-1", "cam01"
FRAMES = (0, 30, 60, 90)
OBJECTS = ("mug 0", "bolt/nut_0")


def mask(size: tuple[int, int]) -> dict[str, object]:
    array = np.zeros(size, dtype=bool)
    array[10:40, 20:60] = True
    return rle.to_coco(ObjectMask.from_array(array))


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """One take named cook_1; both objects are visible in both cameras in four frames."""
    sizes = {EGO: (96, 96), EXO: (90, 160)}
    masks = {name: {c: {str(f): mask(sizes[c]) for f in FRAMES} for c in sizes} for name in OBJECTS}
    annotated = {name: {c: list(FRAMES) for c in sizes} for name in OBJECTS}
    take = {"masks": masks, "annotated_frames": annotated, "take_name": "cook_1", "scenario": ""}
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({"annotations": {"Uid-a": take}}))
    return path


def entry(confidence: float = 0.9) -> dict[str, object]:
    return {"pred_mask": mask(fit_longest_side((90, 160))), "confidence": confidence}


def content() -> dict[str, dict[str, dict[str, object]]]:
    return {name: {f"{EGO}_{EXO}": {str(f): entry() for f in FRAMES}} for name in OBJECTS}


def write(path: Path, objects: object, uid: str = "Uid-a") -> Path:
    take = {"masks": objects, "subsample_idx": list(FRAMES)}
    path.write_text(json.dumps({"ego-exo": {"version": "x", "challenge": "x", "results": {uid: take}}}))
    return path


def rename_frames(objects: dict, rename) -> dict:
    return {n: {p: {rename(f): e for f, e in fs.items()} for p, fs in ps.items()} for n, ps in objects.items()}


CASES = {
    "names in another case": (
        lambda o: {name.title(): pairs for name, pairs in o.items()},
        8, "8 of them seem to be there under names in another letter case, such as 'Mug 0' for 'mug 0'",
    ),
    "cameras in another case": (
        lambda o: {name: {p.upper(): f for p, f in pairs.items()} for name, pairs in o.items()},
        8, f"names in another letter case, such as '{EGO.upper()}_CAM01' for '{EGO}_cam01'",
    ),
    "separators": (
        lambda o: {name.replace(" ", "_"): pairs for name, pairs in o.items()},
        4, "4 of them seem to be there under names that are spelled otherwise, such as 'mug_0' for 'mug 0'",
    ),
    "the stream as takes.json calls it": (
        lambda o: {name: {p.replace("214-1", "rgb"): f for p, f in pairs.items()} for name, pairs in o.items()},
        8, f"spelled otherwise, such as 'aria01_rgb_cam01' for '{EGO}_cam01'",
    ),
    "seconds": (
        lambda o: rename_frames(o, lambda f: str(int(f) // 30)),
        6, "6 of them seem to be there under times in seconds, or counts of the annotated frames: a frame number is 30 "
        "times the second, such as '3' for 90",
    ),
    "seconds with a point": (
        lambda o: rename_frames(o, lambda f: f"{int(f) / 30:.1f}"), 8, "30 times the second, such as '3.0' for 90",
    ),
    "padded": (
        lambda o: rename_frames(o, lambda f: f"{int(f):06d}"),
        8, "8 of them seem to be there under padded frame numbers, which are written without zeros in front, such as "
        "'000090' for 90",
    ),
    "the other order": (
        lambda o: {name: {f"{EXO}_{EGO}": f for f in pairs.values()} for name, pairs in o.items()},
        8, f"8 of them seem to be there under the pair of cameras in the other order, which is query_target, such as "
        f"'{EXO}_{EGO}' for '{EGO}_{EXO}'",
    ),
    "surplus frames": (
        lambda o: rename_frames(o, lambda f: str(int(f) + 7)),
        8, "It has 8 frames that are not asked for, such as 7, 37, 67",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_looks_like_the_missing_ones_is_named(truth: Path, tmp_path: Path, case: str) -> None:
    change, missing, message = CASES[case]
    path = write(tmp_path / "p.json", change(content()))
    with pytest.raises(IncompletePredictions) as caught:
        evaluate(truth, path, "ego2exo") if case != "the other order" else evaluate(truth, both(path), "ego2exo")
    assert f"{missing} predictions are missing" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).fix == caught.value.fix


def both(path: Path) -> Path:
    """The file with one right pair, so that it counts as ego2exo."""
    value = json.loads(path.read_text())
    take = value["ego-exo"]["results"]["Uid-a"]["masks"]
    value["ego-exo"]["results"] = {"Uid-0": {"masks": {"x": {f"{EGO}_{EXO}": {}}}}, "Uid-a": {"masks": take}}
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("uid", ["uid-A", "cook_1"])
def test_a_take_by_another_name(truth: Path, tmp_path: Path, uid: str) -> None:
    path = write(tmp_path / "p.json", content(), uid)
    with pytest.raises(
        IncompletePredictions, match=f"another name of the take, which is its take_uid, such as '{uid}'"
    ):
        evaluate(truth, path)
    with pytest.raises(IncompletePredictions, match=f"such as '{uid}' for 'Uid-a'"):
        submit(path, None, tmp_path / "s.json", gt=truth)


def test_nothing_is_said_where_nothing_looks_alike(truth: Path, tmp_path: Path) -> None:
    objects = content()
    del objects["mug 0"][f"{EGO}_{EXO}"]["30"]
    with pytest.raises(IncompletePredictions) as caught:
        evaluate(truth, write(tmp_path / "p.json", objects))
    assert caught.value.fix == "Correct the file, or count them as absent: --missing count-absent."


def test_what_is_counted_as_absent_is_named_too(truth: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", rename_frames(content(), lambda f: str(int(f) // 30)))
    notes = evaluate(truth, path, missing="count-absent").notes
    assert any("of the missing predictions: 6 of them seem to be there under times in seconds" in n for n in notes)
    assert "6 predictions are of frames without a query mask and are not scored" in notes
    report = submit(path, None, tmp_path / "s.json", gt=truth, missing="count-absent")
    assert any("under times in seconds" in note for note in report.notes)


def test_submissions_are_told_the_same(truth: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", {name.title(): pairs for name, pairs in content().items()})
    with pytest.raises(IncompletePredictions, match="another letter case, such as 'Mug 0' for 'mug 0'"):
        submit(path, None, tmp_path / "s.json", gt=truth)


CONFIDENCES = {
    "percent": (
        [3.0, 20.0, 60.0, 75.0, 80.0, 90.0, 95.0, 100.0],
        "8 of 8 confidences are outside 0 to 1 (3 to 100): they look like percent. All are above 0.5, so every object "
        "counts as visible; as percent, 6 would be. Write probabilities.",
    ),
    "logits": (
        [-3.2, -1, 0.2, 0.4, 1, 2, 4, 8.1],
        "5 of 8 confidences are outside 0 to 1 (-3.2 to 8.1): they look like logits, whose threshold is 0. 4 of 8 are "
        "above 0.5, which counts as visible; as logits, 6 would be. Write probabilities.",
    ),
    "all negative": ([-1.0] * 8, "None is above 0.5, so every object counts as not visible; as logits, 0 would be"),
    "mixed": ([0.9, 0.8, 0.2, 0.1, 90, 80, 20, 10], "they look like percent mixed with 4 fractions. 6 of 8 are above"),
    "scores": ([1.0, 500, 3, 2, 0, 7, 8, 9], "(0 to 500): they look like scores without a bound. 7 of 8"),
}


@pytest.mark.parametrize("kind", CONFIDENCES)
def test_confidences_of_another_scale_are_named(truth: Path, tmp_path: Path, kind: str) -> None:
    values, message = CONFIDENCES[kind]
    objects, rest = content(), iter(values)
    for pairs in objects.values():
        for frame in FRAMES:
            pairs[f"{EGO}_{EXO}"][str(frame)] = entry(next(rest))
    path = write(tmp_path / "p.json", objects)
    report = evaluate(truth, path)
    assert report.totals.frames == 8
    assert any(message in note for note in report.notes)
    assert any(message in note for note in submit(path, None, tmp_path / "s.json", gt=truth).notes)


def test_probabilities_need_no_note_and_nonsense_is_refused(truth: Path, tmp_path: Path) -> None:
    assert evaluate(truth, write(tmp_path / "p.json", content())).notes == []
    assert confidence_notes([]) == confidence_notes([0.0, 1.0, 0.5]) == []
    for bad in (float("nan"), float("inf"), "0.9", None):
        objects = copy.deepcopy(content())
        objects["mug 0"][f"{EGO}_{EXO}"]["30"]["confidence"] = bad  # type: ignore[index]
        with pytest.raises(PredictionError, match="the confidence is not a finite number"):
            evaluate(truth, write(tmp_path / "p.json", objects))


def test_a_confidence_file_with_other_names(truth: Path, tmp_path: Path) -> None:
    """The mask's area would decide without a word."""
    from counterview.evaluation.folders import png_path
    from counterview.masks.png import write_mask_png

    for name in OBJECTS:
        for frame in FRAMES:
            path = png_path(tmp_path / "png", "Uid-a", name, EGO, EXO, frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask_png(path, np.ones((270, 480), dtype=bool))
    numbers = {f"{EGO}_{EXO}": {str(f): 0.2 for f in FRAMES}}
    confidences = {"Uid-a": {"mug 0": numbers, "Bolt/nut_0": numbers}}
    (tmp_path / "png" / "confidence.json").write_text(json.dumps(confidences))
    report = evaluate(GroundTruth(truth), tmp_path / "png")
    assert sorted(report.table["confidence"].tolist()) == [0.2] * 4 + [1.0] * 4
    assert any("'bolt/nut_0'" in note and "not in confidence.json" in note for note in report.notes)
    assert not any("'mug 0'" in note for note in report.notes)
