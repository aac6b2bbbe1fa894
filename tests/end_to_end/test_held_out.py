"""The held-out benchmark on two small takes in which objects change their colours between the cameras."""

import json
import sys

import pytest

from benchmarks import held_out, held_out_systems
from counterview.errors import InputError
from tests.omama.tiny_takes import write_takes

GRAPH = {"max_masks": 30, "working_side_px": 160, "regions": 150, "candidates": 150}


@pytest.fixture
def takes(tmp_path):
    return write_takes(tmp_path / "data", frames=2, splits={"test": 2})


def run(capsys, monkeypatch, tmp_path, *arguments):
    monkeypatch.setattr(sys, "argv", ["held_out", *map(str, arguments), "--out", str(tmp_path / "out")])
    code = held_out.main()
    out = capsys.readouterr().out
    return code, out, json.loads(out.strip().splitlines()[-1]) if code == 0 else None


def test_all_systems_predict_the_same_objects_and_a_second_run_predicts_nothing(
    takes, with_bundled, tmp_path, capsys, monkeypatch
):
    code, out, result = run(capsys, monkeypatch, tmp_path, f"small={takes}")
    assert code == 0
    part = result["sets"]["small"]
    assert (part["takes"], part["frames"], part["split"]) == (2, 4, "test")
    a, b = part["candidates"], part["proposals"]
    assert list(a["rows"]) == ["chance", "same place", "k-NN, Lab histogram", "k-NN, classical features",
                               "k-NN, tiny features", "tiny-match", "tiny-follow"]  # fmt: skip
    assert list(b["rows"]) == [*a["rows"], "best choice", "ground-truth candidates"]
    # Five objects in the ego image, four in the exo image: chance is one over their number, object by object.
    assert a["rows"]["chance"]["ego2exo"]["accuracy"] == pytest.approx(1 / 4)
    assert a["rows"]["chance"]["exo2ego"]["accuracy"] == pytest.approx(1 / 5)
    assert a["mean_candidates"] == pytest.approx(4.5)
    assert a["questions"] == 2 * 2 * (4 + 4)
    assert b["visible"] == a["questions"]
    assert b["object_frames"] == 2 * 2 * (5 + 4), "the absent object is predicted from ego to exo"
    best = b["rows"]["best choice"]["iou"]["value"]
    for name, row in b["rows"].items():
        if name not in ("tiny-follow", "same place", "ground-truth candidates"):
            assert row["iou"]["value"] <= best + 1e-9, name
        assert 0 <= row["iou"]["value"] <= 1
    mean_iou, accuracy = (
        t["rows"][n][m]["value"] for t, n, m in ((b, "ground-truth candidates", "iou"), (a, "tiny-match", "accuracy"))
    )
    assert mean_iou == pytest.approx(accuracy, abs=0.05), "the IoU of a true mask is about 1 or 0"
    assert "balanced_accuracy" not in b["rows"]["chance"]
    assert "tiny-match over k-NN" in out
    for row in (a["rows"]["same place"]["accuracy"], b["rows"]["tiny-match"]["iou"]):
        low, high = row["interval"]
        assert low <= row["value"] <= high

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(held_out, "run_systems", fail)
    _, _, again = run(capsys, monkeypatch, tmp_path, f"small={takes}")
    assert again["sets"] == result["sets"]
    with pytest.raises(AssertionError, match="computed again"):
        run(capsys, monkeypatch, tmp_path, f"small={takes}", "--frames", "1")


def test_models_that_are_not_installed_are_reported_and_left_out(takes, without_bundled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(held_out_systems, "load_proposer", lambda name: _graph())
    code, out, result = run(capsys, monkeypatch, tmp_path, f"small={takes}:test", "--takes", "1", "--frames", "1")
    assert code == 0
    assert result["left_out"] == ["k-NN, tiny features", "tiny-follow", "tiny-match"]
    assert "left out: tiny-match" in out
    part = result["sets"]["small"]
    assert (part["takes"], part["frames"]) == (1, 1)
    assert "ground-truth candidates" in part["proposals"]["rows"]
    assert part["candidates"]["rows"]["k-NN, Lab histogram"]["accuracy"]["interval"] == [None, None], "one take"


def _graph():
    from counterview.proposals import load_proposer

    return load_proposer("graph", **GRAPH)


def test_malformed_sets_and_unknown_models(takes, without_bundled, tmp_path, capsys, monkeypatch):
    assert run(capsys, monkeypatch, tmp_path, "nothing")[0] == 2
    code, out, _ = run(capsys, monkeypatch, tmp_path, f"small={takes}", "--match", "tiny")
    assert code == 1
    assert "not part of this installation" in out
    with pytest.raises(InputError, match="no split"):
        held_out.open_set(f"x={takes}:val")
