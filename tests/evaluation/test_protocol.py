"""What is scored, what is missing, and which notes are written."""

import copy
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from counterview.errors import AnnotationError, InputError, MissingExtraError, PredictionError
from counterview.evaluation.breakdown import KINDS, breakdown
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.oracle import oracle
from counterview.evaluation.protocol import IncompletePredictions, evaluate
from counterview.evaluation.scorer import MEASURES
from counterview.evaluation.table import COLUMNS, FrameScore, FrameTable
from counterview.masks.geometry import resize_mask

FOLDER = Path(__file__).parents[1] / "data" / "evaluator"
GT, PRED = FOLDER / "correspondence-gt.json", FOLDER / "pred_ego-exo.json"
RAW = FOLDER / "relations_val.json"
TAKE = "051f9c79-4b4e-4c30-ac1f-df814091f7ff"


@pytest.fixture
def content(fixture_data):
    return copy.deepcopy(fixture_data("evaluator/pred_ego-exo.json"))


@pytest.fixture
def score(tmp_path):
    def run(content, **options):
        path = tmp_path / "pred.json"
        path.write_text(json.dumps(content))
        return evaluate(GT, path, **options)

    return run


def bowl(content):
    return content["ego-exo"]["results"][TAKE]["masks"]["stainless bowl_0"]["aria01_214-1_cam01"]


def test_everything_that_is_missing_is_listed(content, score):
    del bowl(content)["0"], bowl(content)["30"]
    del content["ego-exo"]["results"]["14408a10-1493-4a0d-b737-a957cb0c4531"]
    del content["ego-exo"]["results"]["899343f7-0b0b-4150-afb3-c35cff2e0ce8"]["masks"]["left hand_0"]
    with pytest.raises(IncompletePredictions) as caught:
        score(content)
    lines = "\n".join(caught.value.lines)
    assert "'stainless bowl_0', aria01_214-1 -> cam01: frames 0, 30" in lines
    assert lines.count("14408a10") == 2
    assert lines.count("'left hand_0'") == 3
    assert len(caught.value.lines) == 6
    assert "missing" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).lines == caught.value.lines

    counted = score(content, missing="count-absent")
    assert counted.totals.missing == 2 + 12 + 4 + 12
    assert counted.totals.frames == 102
    assert not counted.table["pred_visible"][counted.table["missing"]].any()
    assert "30 missing predictions were counted" in counted.notes[0]


def test_a_missing_prediction_counts_as_an_empty_mask_of_confidence_0(content, score):
    kept = copy.deepcopy(content)
    entry = bowl(content).pop("0")
    bowl(kept)["0"] = {"pred_mask": {"size": entry["pred_mask"]["size"], "counts": "Pbn3"}, "confidence": 0.0}
    gone, empty = score(content, missing="count-absent").totals, score(kept).totals
    assert [getattr(gone, m) for m in MEASURES] == [getattr(empty, m) for m in MEASURES]


def test_what_is_surplus_changes_nothing_and_is_noted(content, score):
    before = score(content).totals
    results = content["ego-exo"]["results"]
    results["another take"] = {"masks": {}, "subsample_idx": []}
    bowl(content)["990"] = bowl(content)["0"]  # no query mask there
    results[TAKE]["masks"]["cup_9"] = {"aria01_214-1_cam01": {"0": bowl(content)["0"]}}
    results[TAKE]["masks"]["knife_0"]["aria01_214-1_cam99"] = {"0": bowl(content)["0"]}
    del results["e8f9789e-2ef3-4268-9424-adb49620f368"]["masks"]["bolt/nut_0"]["aria03_214-1_cam04"][
        "60"
    ]  # not annotated
    report = score(content)
    assert report.totals == before
    text = "\n".join(report.notes)
    assert "1 predicted takes are not in the ground truth: another take" in text
    assert "2 predictions belong to no object" in text
    assert "1 query frames that are not scored have no prediction" in text


def test_the_mask_is_not_read_where_the_target_is_absent(content, score):
    before = score(content).totals
    bowl(content)["60"]["pred_mask"] = {"size": [3, 3], "counts": "nonsense"}
    assert score(content).totals == before


def test_all_confidences_one_half(content, score):
    for take in content["ego-exo"]["results"].values():
        for pairs in take["masks"].values():
            for frames in pairs.values():
                for entry in frames.values():
                    entry["confidence"] = 0.5
    assert score(content).totals.balanced_accuracy == 0.5  # what the official evaluator printed


def test_unknown_directions_and_protocols(content, score):
    with pytest.raises(PredictionError, match="no exo2ego predictions"):
        score(content, direction="exo2ego")
    with pytest.raises(InputError, match="no such direction"):
        score(content, direction="sideways")
    with pytest.raises(InputError, match="no such protocol: 'best'; expected official or"):
        score(content, protocol="best")
    with pytest.raises(InputError, match="count-absent"):
        score(content, missing="ignore")
    with pytest.raises(PredictionError, match="is not a prediction file; found the keys 'results'"):
        score({"results": {}})


def test_visible_counts_only_frames_with_masks_in_both_views(content, score):
    report = score(content, protocol="visible")
    assert report.totals.absent == 0
    truth = GroundTruth(GT)
    expected = 0
    for take in truth:
        for name, query, target in take.pairs("ego2exo"):
            shared = set(take.objects[name][query].masks) & set(take.objects[name][target].masks)
            areas = [(take.mask(name, query, f).area, take.mask(name, target, f).area) for f in shared]
            expected += sum(min(pair) > 0 for pair in areas)
    assert report.totals.frames == expected


def make_prepared(folder, truth, annotated_frames=True):
    """A prepared folder with the official ground truth's masks."""
    official = json.loads((FOLDER / "correspondence-gt.json").read_text())["annotations"]
    for uid, take in official.items():
        (folder / uid).mkdir(parents=True)
        if not annotated_frames:
            take = {k: v for k, v in take.items() if k != "annotated_frames"}
        (folder / uid / "annotation.json").write_text(json.dumps(take))
    (folder / "split.json").write_text((FOLDER / "split.json").read_text())
    facts = [{"take_uid": t.uid, "take_name": t.name, "scenario": t.scenario} for t in truth]
    (folder / "takes.json").write_text(json.dumps(facts))


def test_a_prepared_folder(tmp_path):
    make_prepared(tmp_path / "a", GroundTruth(RAW))
    make_prepared(tmp_path / "b", GroundTruth(RAW), annotated_frames=False)
    expected = evaluate(RAW, PRED)
    same = evaluate(tmp_path / "a", PRED)
    assert same.totals == expected.totals
    assert repr(list(same.table.rows())) == repr(list(expected.table.rows()))  # scenarios too
    unknown = evaluate(tmp_path / "b", PRED)
    assert unknown.totals.frames == 113  # every query frame
    assert any("does not state which frames were annotated" in note for note in unknown.notes)
    with pytest.raises(InputError, match="no split 'night'"):
        evaluate(tmp_path / "a", PRED, split="night")
    with pytest.raises(InputError, match="split can only be chosen"):
        evaluate(GT, PRED, split="val")
    (tmp_path / "a" / TAKE / "annotation.json").unlink()
    with pytest.raises(InputError, match="1 take of the split not prepared"):
        evaluate(tmp_path / "a", PRED)
    fewer = evaluate(tmp_path / "a", PRED, allow_missing_takes=True)
    assert fewer.totals.frames == 102 - 11
    assert any("1 take of the split not prepared" in note for note in fewer.notes)


@pytest.mark.parametrize("change", ["null", "two ego cameras", "undecodable"])
def test_bad_ground_truth_is_left_out_and_noted(tmp_path, fixture_data, change):
    if change == "undecodable":
        gt = copy.deepcopy(fixture_data("evaluator/relations_val.json"))
        gt["annotations"][TAKE]["object_masks"]["stainless bowl_0"]["cam01"]["annotation"]["0"]["encodedMask"] = "?!"
    else:
        gt = copy.deepcopy(fixture_data("evaluator/correspondence-gt.json"))
        tracks = gt["annotations"][TAKE]["masks"]["stainless bowl_0"]
        if change == "null":
            tracks["cam01"]["0"] = None
        else:
            tracks["aria02_214-1"] = tracks["aria01_214-1"]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(gt))
    report = evaluate(path, PRED)
    text = "\n".join(report.notes)
    assert "1 entries were left out" in text
    assert "'stainless bowl_0'" in text
    assert report.totals.frames == (94 if change == "two ego cameras" else 101)


def test_break_downs_cover_every_row_once():
    report = evaluate(RAW, PRED)
    for kind in KINDS:
        groups = breakdown(report.table, kind, direction="ego2exo")
        rows = 77 if kind == "size" else 102
        assert sum(g.totals.frames for g in groups) == rows, kind
        visible = [g for g in groups if g.totals.visible]
        mean = math.fsum(g.totals.iou * g.totals.visible for g in visible) / 77
        assert mean == pytest.approx(report.totals.iou, abs=1e-12), kind
    assert [g.label for g in breakdown(report.table, "camera", direction="ego2exo")][:2] == ["cam01", "cam02"]
    assert {g.label for g in breakdown(report.table, "scenario")} >= {"cooking", "bike repair"}
    with pytest.raises(ValueError, match="colour"):
        breakdown(report.table, "colour")


def test_the_oracle_chooses_the_best_proposal(tmp_path):
    truth = GroundTruth(GT)
    from counterview.masks import rle
    from counterview.types import ObjectMask

    proposals, worse = {}, {}
    for take in truth:
        for name, _, camera in take.pairs("ego2exo"):
            for frame in take.objects[name][camera].masks:
                mask = take.mask(name, camera, frame)
                decoy = rle.to_coco(ObjectMask.empty(mask.size_hw))
                at = proposals.setdefault(take.uid, {}).setdefault(camera, {}).setdefault(str(frame), [decoy])
                at.append(rle.to_coco(mask))
                worse.setdefault(take.uid, {}).setdefault(camera, {})[str(frame)] = [decoy]
    (tmp_path / "p.json").write_text(json.dumps(proposals))
    best = oracle(truth, tmp_path / "p.json", "ego2exo")
    assert best.totals.iou == pytest.approx(1.0, abs=1e-6)
    assert best.totals.contour_accuracy == 1.0
    assert best.totals.visible == 77
    for uid, cameras in proposals.items():
        for camera, frames in cameras.items():
            (tmp_path / "f" / uid / camera).mkdir(parents=True)
            for frame, masks in frames.items():
                (tmp_path / "f" / uid / camera / f"{frame}.json").write_text(json.dumps(masks))
    folder = oracle(truth, tmp_path / "f", "ego2exo", workers=2)
    assert folder.totals == best.totals
    (tmp_path / "w.json").write_text(json.dumps(worse))
    assert oracle(truth, tmp_path / "w.json", "ego2exo").totals.iou < 0.1
    with pytest.raises(InputError, match="no proposal belongs"):
        oracle(truth, tmp_path / "w.json", "exo2ego")
    with pytest.raises(InputError, match="lmeec"):
        oracle(truth, tmp_path / "w.json", "ego2exo", protocol="lmeec")


def test_the_table_as_a_file(tmp_path):
    import csv

    report = evaluate(GT, PRED)
    report.table.write(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == 102
    visible = [r for r in rows if r["gt_visible"] == "1"]
    assert math.fsum(float(r["iou"]) for r in visible) / len(visible) == pytest.approx(report.totals.iou, abs=1e-12)
    assert all(r["iou"] == "" for r in rows if r["gt_visible"] == "0")
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        report.table.write(tmp_path / "t.xlsx")
    try:
        import pyarrow.parquet as pq
    except ImportError:
        with pytest.raises(MissingExtraError):
            report.table.write(tmp_path / "t.parquet")
    else:
        report.table.write(tmp_path / "t.parquet")
        assert pq.read_table(tmp_path / "t.parquet")["frame"].to_pylist() == report.table["frame"].tolist()


def test_texts_that_a_spreadsheet_would_run_are_quoted(tmp_path):
    import csv

    names = ["=1+1", "+1", "@cup", "cup", "a=b"]
    table = FrameTable()
    for name in names:
        table.append(FrameScore("t", name, "aria01", "cam01", 0, False, False, 0.5))
    table.write(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as handle:
        cells = [row["object"] for row in csv.DictReader(handle)]
    assert cells == ["'=1+1", "'+1", "'@cup", "cup", "a=b"]


def test_selected_rows_keep_the_order_of_the_indices():
    table = FrameTable()
    for frame in range(4):
        table.append(FrameScore(f"t{frame}", "o", "aria01", "cam01", frame, True, True, 0.5, iou=frame / 4))
    part = table.select([3, 0, 2])
    assert part["frame"].tolist() == [3, 0, 2]
    assert part["take"].tolist() == ["t3", "t0", "t2"]
    assert [row.iou for row in part.rows()] == [0.75, 0.0, 0.5]
    assert table.select(np.array([True, False, False, True]))["frame"].tolist() == [0, 3]


def test_an_empty_table_has_totals_but_nothing_to_average():
    assert len(FrameTable().select([])) == 0
    assert breakdown(FrameTable(), "frame") == []


def test_files_that_are_not_a_ground_truth(tmp_path):
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "none.json").write_text('{"annotations": {}}')
    (tmp_path / "odd.json").write_text('{"annotations": {"t": {"masks": 3}}}')
    for name in ("list.json", "none.json", "missing.json"):
        with pytest.raises(AnnotationError):
            GroundTruth(tmp_path / name)
    with pytest.raises(AnnotationError, match="take t has no masks"):
        GroundTruth(tmp_path / "odd.json").load("t")
    with pytest.raises(InputError):
        GroundTruth(tmp_path)


@pytest.mark.parametrize("direction", ["ego2exo", "exo2ego"])
def test_empty_predictions_have_their_documented_values(tmp_path, direction):
    """IoU is the fraction of ground truth that vanished at the size of scoring; no object is predicted visible."""
    (tmp_path / "p.json").write_text(json.dumps({"ego-exo": {"results": {}}, "exo-ego": {"results": {}}}))
    report = evaluate(GT, tmp_path / "p.json", direction, missing="count-absent")
    gt_area = report.table["gt_area_px"][report.table["gt_visible"]]
    assert report.totals.iou == pytest.approx((gt_area == 0).mean(), abs=1e-12)
    assert 0 < report.totals.iou < 0.1
    assert report.totals.balanced_accuracy == 0.5
    assert report.totals.missing == report.totals.frames


def test_proposals_in_archives_of_another_size(tmp_path):
    """Arrays (N, H, W) at another size than the image, as mask generators write them."""
    truth = GroundTruth(GT)
    for take in truth:
        for name, _, camera in take.pairs("ego2exo"):
            for frame in take.objects[name][camera].masks:
                mask = take.mask(name, camera, frame)
                half = resize_mask(mask, (mask.size_hw[0] // 2, mask.size_hw[1] // 2)).to_array()
                path = tmp_path / take.uid / camera / f"{frame}_masks.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                earlier = np.load(path)["masks"] if path.exists() else np.zeros((1, *half.shape), dtype=bool)
                np.savez_compressed(path, masks=np.concatenate([earlier, half[None]]))
    report = oracle(truth, tmp_path, "ego2exo")
    assert report.totals.iou > 0.8
    assert report.totals.missing == 0
    assert report.notes == []
