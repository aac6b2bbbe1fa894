"""Every total and every per-frame number against what the official evaluators, O-MaMa's and LM-EEC's printed."""

import json
import math
import random
from pathlib import Path

import pytest

from counterview.evaluation.protocol import evaluate

FOLDER = Path(__file__).parents[1] / "data" / "evaluator"
KEYS = {"ego2exo": "ego-exo", "exo2ego": "exo-ego"}
GROUND_TRUTHS = ("relations_val.json", "correspondence-gt.json")
NAMES = {
    "iou": "iou",
    "location_error": "location_score",
    "contour_accuracy": "shape_acc",
    "balanced_accuracy": "balanced_existence_acc",
}


def check_totals(report, expected, tolerance=1e-9):
    for ours, theirs in NAMES.items():
        assert getattr(report.totals, ours) == pytest.approx(expected[theirs], abs=tolerance), ours


@pytest.mark.parametrize("gt", GROUND_TRUTHS)
@pytest.mark.parametrize("direction", KEYS)
@pytest.mark.parametrize(
    ("protocol", "file", "field"),
    [
        ("official", "pred_{}.json", "official"),
        ("omama", "pred_{}.json", "omama_evaluator_on_480"),
        ("omama", "pred_native_{}.json", "omama_evaluator_on_native"),
    ],
)
def test_totals(fixture_data, gt, direction, protocol, file, field):
    expected = fixture_data("evaluator/expected.json")[KEYS[direction]]
    report = evaluate(FOLDER / gt, FOLDER / file.format(KEYS[direction]), direction, protocol=protocol)
    check_totals(report, expected[field])
    counts = expected["counts"]
    totals = report.totals
    assert (totals.frames, totals.visible, totals.absent, totals.missing) == (
        counts["evaluated_frames"],
        counts["gt_visible"],
        counts["gt_absent"],
        0,
    )


@pytest.mark.parametrize("direction", KEYS)
@pytest.mark.parametrize(
    ("protocol", "file", "field"),
    [("official", "pred_{}.json", "official"), ("omama", "pred_native_{}.json", "omama_native")],
)
def test_every_frame(fixture_data, direction, protocol, file, field):
    expected = fixture_data("evaluator/expected_per_frame.json")[KEYS[direction]][field]
    report = evaluate(FOLDER / GROUND_TRUTHS[0], FOLDER / file.format(KEYS[direction]), direction, protocol=protocol)
    rows = {(r.take, r.object, f"{r.query_camera}_{r.target_camera}", str(r.frame)): r for r in report.table.rows()}
    evaluated = [e for e in expected if e["evaluated"]]
    assert len(rows) == len(report.table) == len(evaluated)
    for e in evaluated:
        row = rows[e["take"], e["object"], e["cams"], e["frame"]]
        assert (row.gt_visible, row.pred_visible) == (bool(e["gt_exists"]), bool(e["pred_exists"]))
        if not e["gt_exists"]:
            assert math.isnan(row.iou)
            continue
        assert row.iou == pytest.approx(e["iou"], abs=1e-9)
        assert row.contour_accuracy == pytest.approx(e["shape_acc"], abs=1e-9)
        assert row.location_error == pytest.approx(e["location_score"], abs=1e-9)
        assert (row.gt_area_px, row.pred_area_px) == (e["gt_area"], e["pred_area"])
        assert [row.height, row.width] == e["size"]


@pytest.mark.parametrize("gt", GROUND_TRUTHS)
@pytest.mark.parametrize(
    ("direction", "shape"), [("ego2exo", "square480"), ("ego2exo", "aspect480"), ("exo2ego", "square480")]
)
def test_lmeec(fixture_data, gt, direction, shape):
    expected = fixture_data("evaluator/expected_lmeec.json")["compute_metrics"][f"{KEYS[direction]} {shape}"]
    file = FOLDER / f"lmeec_pred_{KEYS[direction]}_{shape}.json"
    report = evaluate(FOLDER / gt, file, direction, protocol="lmeec")
    check_totals(report, expected)
    # Its script writes the key ego-exo for both directions.
    assert any("read as exo2ego" in note for note in report.notes) == (direction == "exo2ego")


@pytest.mark.parametrize("direction", KEYS)
def test_workers_and_order_do_not_matter(tmp_path, fixture_data, direction):
    def shuffled(value, rng):
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        rng.shuffle(items)
        return {k: shuffled(v, rng) for k, v in items}

    rng = random.Random(3)
    pred = f"pred_{KEYS[direction]}.json"
    plain = evaluate(FOLDER / GROUND_TRUTHS[0], FOLDER / pred, direction)
    for name in (GROUND_TRUTHS[0], pred):
        (tmp_path / name).write_text(json.dumps(shuffled(fixture_data(f"evaluator/{name}"), rng)))
    mixed = evaluate(tmp_path / GROUND_TRUTHS[0], tmp_path / pred, direction)
    assert mixed.totals == plain.totals
    if direction == "ego2exo":
        two = evaluate(FOLDER / GROUND_TRUTHS[0], FOLDER / pred, direction, workers=2)
        assert two.totals == plain.totals
        assert repr(list(two.table.rows())) == repr(list(plain.table.rows()))  # NaN is not equal to itself
