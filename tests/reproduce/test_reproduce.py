"""Tables on small takes whose names say that they are synthetic ones."""

import contextlib
import dataclasses
import io
import json

import pytest

from counterview.cli.main import main
from counterview.data.dataset import DIRECTIONS
from counterview.data.pairs import enumerate_pairs
from counterview.errors import MissingExtraError
from counterview.evaluation.published import load_published
from counterview.masks.geometry import resize_mask
from counterview.masks.rle import from_coco, to_coco
from counterview.media.files import write_json
from counterview.reproduce import run as steps
from counterview.reproduce.commands import commands
from counterview.reproduce.plan import make_plan
from counterview.reproduce.present import page
from counterview.reproduce.tables import TABLES, Model, get_table
from counterview.tiny.model import TinyMatch
from tests.omama.tiny_takes import write_takes

QUICK = ["--set", "training.epochs=1", "--set", "training.max_steps=1", "--quiet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_takes(tmp_path_factory.mktemp("takes"), frames=2, splits={"train": 3, "val": 1, "test": 2})
    names = [{"take_uid": f"take{n}", "take_name": f"tabletop_test_0000_000{n}"} for n in range(6)]
    write_json(root / "takes.json", names)
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where runs are kept, over several tests."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(data, place):
    """Arguments, what they printed, and results of a run that trained a row and made another without training."""
    arguments = ["omama-main", "--tabletop", "--data", data, "--out", place, "--rows", "knn,omama", *QUICK]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["reproduce", *map(str, arguments), "--save", str(place / "saved.json")]) == 0
    return arguments, out.getvalue(), json.loads((place / "saved.json").read_text())


def reproduce(capsys, *arguments):
    code = main(["reproduce", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("tabletop", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_every_table_has_a_recipe_that_parses(name, tabletop, data, tmp_path):
    table = get_table(name)
    for split in table.splits:
        plan = make_plan(table, data, tmp_path / "out", tabletop=tabletop, split=split)
        predicted = {d for u in plan.units for d in u.directions}
        assert predicted == set(table.directions)
        for unit in plan.units:
            trained = set() if unit.recipe is None else set(unit.recipe[1].config.data.directions)
            assert set(unit.directions) <= trained or not unit.is_trained
            assert tabletop or unit.recipe is None or trained == set(unit.directions)
        lines = commands(plan)
        for unit in plan.units:
            assert sum(str(plan.predictions(unit)) in line and " predict " in line for line in lines) == 1
            assert any(line.startswith("counterview evaluate") and str(unit.folder) in line for line in lines)
    assert not (tmp_path / "out").exists(), "planning writes nothing"


def test_published_rows_stand_beside_rows_that_are_there():
    for table in TABLES.values():
        names = {row.name for row in table.rows}
        entries = load_published().of_table(table.name)
        assert {e.row for e in entries if e.row} <= names
        assert any(e.split in near for near in table.splits.values() for e in entries)
        if table.name.endswith(("modules", "ablations")):
            assert names - {e.row for e in entries} <= {"weighted"}, "the paper's rows, and one of ours"


def test_dry_run_in_the_place_of_ego_exo4d(data, tmp_path, capsys):
    code, out, err = reproduce(capsys, "lmeec-ablations", "--data", data, "--dry-run", "--out", tmp_path / "r")
    assert (code, err) == (0, "")
    assert "Tabletop, synthetic takes in the place of Ego-Exo4D, split val, 1 take" in out
    assert "protocol: lmeec" in out
    assert "data: tabletop_test" in out
    order = [out.index(part) for part in ("counterview train recipes/lmeec/ablation-no-cross-view.yaml",
                                          "counterview predict", "counterview evaluate")]  # fmt: skip
    assert order == sorted(order)
    assert out.count("counterview train recipes/lmeec/paper-ego2exo.yaml") == 1, "three rows share these weights"
    assert "model.compression=fifo" in out
    assert "frames and sizes: frames with a target mask, 480 x 480 squares" in out
    assert not (tmp_path / "r").exists()


def test_a_table_without_its_data_says_how_to_get_them(data, tmp_path, capsys):
    for arguments, parts in (
        (["omama-main"], ["Ego-Exo4D", "counterview prepare", "--tabletop"]),
        (["omama-main", "--tabletop"], ["synthetic takes", "counterview tabletop"]),
        (["omama-main", "--data", tmp_path / "none"], ["no such folder", "ego-exo4d-data.org"]),
        (["omama-main", "--data", data, "--split", "train"], ["no split 'train'", "test or val"]),
        (["omama-mein"], ["omama-main"]),
        (["omama-main", "--data", data, "--rows", "konn"], ["no row 'konn'"]),
        (["omama-main", "--data", data, "--set", "training.epoch=3"], ["epochs"]),
        (["omama-main", "--data", data, "--row", "Cutie=none.json", "--rows", "none"], ["predictions of Cutie"]),
        (["omama-main", "--data", data, "--row", "Cutie"], ["NAME=FILE"]),
    ):
        code, out, err = reproduce(capsys, *arguments, "--out", tmp_path / "r")
        assert code == 2, arguments
        assert out == ""
        assert len(err.strip().splitlines()) == 1
        for part in parts:
            assert part in err, (arguments, err)
    assert not (tmp_path / "r").exists()


def test_missing_splits_and_takes_that_are_not_synthetic(tmp_path, capsys):
    other = write_takes(tmp_path / "real", frames=1, splits={"test": 1})
    code, _, err = reproduce(capsys, "omama-main", "--data", other, "--dry-run")
    assert code == 2
    assert "no split 'train'" in err
    code, out, _ = reproduce(capsys, "omama-main", "--data", other, "--dry-run", "--rows", "knn")
    assert code == 0
    assert "data: Ego-Exo4D Correspondence, split test" in out
    code, _, err = reproduce(capsys, "omama-main", "--data", other, "--tabletop")
    assert code == 2
    assert "Leave --tabletop out" in err


def test_trains_predicts_scores_and_goes_on_where_it_was(data, place, trained, capsys, monkeypatch):
    arguments, out, results = trained
    assert json.loads((place / "omama-main-tabletop-test.json").read_text()) == results
    assert [(r["row"], r["direction"]) for r in results["rows"]] == [
        (n, d) for n in ("knn", "omama") for d in DIRECTIONS
    ]
    assert results["overrides"] == ["training.epochs=1", "training.max_steps=1"]
    row = results["rows"][2]
    assert row["steps"] == 1
    assert row["recipe"] == "tabletop/omama.yaml"
    assert len(row["weights_sha256"]) == 64
    for part in ("data: Tabletop, synthetic takes, split test, 2 takes", "protocol: official", "k-NN", "O-MaMa",
                 "not to be compared", "0.4257", "PSALM zero-shot"):  # fmt: skip
        assert part in out, part
    # The same as what `counterview evaluate` prints for the same file.
    (predictions,) = (p for p in place.glob("*/predictions-test.json") if (p.parent / "run").is_dir())
    for row in results["rows"][2:]:
        assert main(["evaluate", "--gt", str(data), "--split", "test", "--pred", str(predictions), "--json",
                     "--direction", row["direction"]]) == 0  # fmt: skip
        scores = json.loads(capsys.readouterr().out)
        assert scores["iou"] == row["scores"]["iou"]["value"]
        assert scores["balanced_accuracy"] == row["scores"]["balanced_accuracy"]["value"]
        assert scores["counts"] == row["counts"]

    def fail(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr("counterview.training.fit.fit", fail)
    monkeypatch.setattr("counterview.inference.dataset.predict", fail)
    code, again, _ = reproduce(capsys, *arguments)
    assert code == 0
    assert again.split("results in")[0] == out.split("results in")[0]
    # Another system's file is a row, and counts alike.
    code, out, _ = reproduce(
        capsys, *arguments[: arguments.index("--rows")], "--rows", "none", "--row", f"XSegTx={predictions}", *QUICK
    )
    assert code == 0
    rows = json.loads((place / "omama-main-tabletop-test.json").read_text())["rows"]
    assert [(r["title"], r["kind"]) for r in rows] == [("XSegTx", "external")] * 2
    assert [r["scores"] for r in rows] == [r["scores"] for r in results["rows"][2:]]
    assert "XSegTx (from its file)" in out
    # Total IoU is the mean of both directions, and stands in a table of its own.
    values = json.loads((place / "omama-main-tabletop-test.json").read_text())
    (total,) = values["totals"]
    assert total["total_iou"] == pytest.approx(sum(r["scores"]["iou"]["value"] for r in rows) / 2, abs=1e-6)
    assert f"XSegTx (from its file)  {total['iou']['ego2exo']:.3f}" in out
    assert f"{total['total_iou']:.3f}" in out.split("both directions")[1]


def test_the_number_of_trainable_parameters_is_the_models_own(place, trained):
    _, out, results = trained
    by_row = {r["row"]: r["trainable_parameters"] for r in results["rows"]}
    assert by_row["knn"] == 0
    folder = next(p.parent for p in place.glob("*/run/model/config.json"))
    model = TinyMatch.from_pretrained(folder)
    # The recipe trains every part: head, visibility head and the weight of the descriptors.
    assert by_row["omama"] == sum(p.numel() for p in model.parameters() if p.requires_grad) > 100_000
    (line,) = [line for line in out.split("exo to ego")[0].splitlines() if line.startswith("O-MaMa ")]
    assert f"  {by_row['omama'] / 1e6:.1f}  " in line
    assert "trainable parameters (M)" in out


def test_a_run_of_another_recipe_is_not_taken_for_this_one(data, place, trained, capsys):
    plan = make_plan(get_table("omama-main"), data, place, tabletop=True, rows=["omama"],
                     overrides=["training.epochs=1", "training.max_steps=1"])  # fmt: skip
    (unit,) = plan.units
    (state,) = unit.base.glob("checkpoints/step_*/state/trainer.json")
    values = json.loads(state.read_text())
    kept = state.read_bytes()
    values["recipe"]["training"]["lr"] = 1.0
    write_json(state, values)
    code, _, err = reproduce(
        capsys, "omama-main", "--tabletop", "--data", data, "--out", place, "--rows", "omama", *QUICK
    )
    assert code == 2
    assert "another recipe" in err
    assert "training.lr" in err
    state.write_bytes(kept)


def test_a_tenth_of_the_pairs_is_a_tenth_and_always_the_same(data, place, capsys):
    arguments = ["omama-modules", "--tabletop", "--data", data, "--out", place, "--rows", "baseline", "--quiet"]
    code, out, _ = reproduce(capsys, *arguments)
    assert code == 0
    assert "10% of the pairs" in out
    rows = json.loads((place / "omama-modules-tabletop-val.json").read_text())["rows"]
    plan = make_plan(get_table("omama-modules"), data, place, tabletop=True, rows=["baseline"])
    for row in rows:
        total = len(enumerate_pairs(plan.dataset, row["direction"], targets="annotated"))
        assert row["counts"]["frames"] == round(total / 10) > 0
    assert reproduce(capsys, *arguments)[1] == out


def test_settings_of_inference_share_one_training(data, place, capsys, monkeypatch):
    calls = []
    from counterview.training import fit as module

    real = module.fit
    monkeypatch.setattr(module, "fit", lambda *a, **k: calls.append(a) or real(*a, **k))
    small = ["--set", "model.image_size=64", "--set", "data.clips_per_epoch=4", "--set", "data.val_takes=1",
             "--set", "data.clip_frames=2", "--set", "data.val_frames=2"]  # fmt: skip
    arguments = ["lmeec-ablations", "--tabletop", "--data", data, "--out", place, "--rows", "fifo,full", *small, *QUICK]
    code, out, err = reproduce(capsys, *arguments)
    assert code == 0, err
    assert len(calls) == 1
    rows = json.loads((place / "lmeec-ablations-tabletop-val.json").read_text())["rows"]
    assert [r["row"] for r in rows] == ["fifo", "full"]
    assert rows[0]["settings"] == {"compression": "fifo"}
    assert rows[0]["weights_sha256"] == rows[1]["weights_sha256"]
    assert "0.5823" in out


def test_bundled_models_are_rows_if_they_are_installed(data, with_bundled, tmp_path, capsys):
    arguments = ["lmeec-main", "--tabletop", "--data", data, "--out", tmp_path, "--rows", "tiny-follow", "--quiet"]
    code, out, _ = reproduce(capsys, *arguments, "--takes", "1")
    assert code == 0
    assert "tiny-follow, bundled" in out
    rows = json.loads((tmp_path / "lmeec-main-tabletop-test.json").read_text())["rows"]
    assert {r["model"] for r in rows} == {"tiny-follow, bundled"}
    assert "split test, 1 take" in out


def squares(path, out, **changes):
    """A prediction file as LM-EEC's script leaves it: every mask a square."""
    values = json.loads(path.read_text())
    for way in values.values():
        del way["counterview"]
        for take in way["results"].values():
            for pairs in take["masks"].values():
                for frames in pairs.values():
                    for entry in frames.values():
                        mask = resize_mask(from_coco(entry["pred_mask"]), (480, 480))
                        entry["pred_mask"] = to_coco(mask)
    out.write_text(json.dumps({**values, **changes}))
    return out


def test_files_of_other_frames_or_sizes_are_no_rows_of_the_table(data, with_bundled, tmp_path, capsys):
    """Official files do not stand in LM-EEC's tables, nor the other way round; a file like the table's does."""
    files = {}
    for layout in ("official", "lmeec"):
        files[layout] = tmp_path / f"{layout}.json"
        assert main(["predict", "tiny-follow", str(data), "--layout", layout, "--out", str(files[layout])]) == 0
    files["square"] = squares(files["official"], tmp_path / "square.json")
    bare = json.loads(files["lmeec"].read_text())
    for way in bare.values():
        del way["counterview"]  # as if another system had written it
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    capsys.readouterr()
    every, visible = "every query frame, longer side 480, aspect kept", "frames with a target mask, 480 x 480 squares"
    for table, file, found in (
        ("lmeec-main", "official", f"X: {every}; the table lmeec-main: {visible}"),
        ("lmeec-main", "square", f"X: every query frame, 480 x 480 squares; the table lmeec-main: {visible}"),
        ("omama-main", "lmeec", f"X: {visible}; the table omama-main: {every}"),
        ("omama-main", "bare", f"X: {visible}; the table omama-main: {every}"),
    ):
        arguments = [table, "--tabletop", "--data", data, "--out", tmp_path / "r", "--rows", "none", "--missing",
                     "count-absent", "--row", f"X={tmp_path / file}.json"]  # fmt: skip
        for more in ([], ["--dry-run"]):
            code, out, err = reproduce(capsys, *arguments, *more)
            assert (code, out) == (2, "")
            assert len(err.strip().splitlines()) == 1
            assert "cannot stand side by side" in err
            assert found in err
    assert not (tmp_path / "r").exists(), "refused before anything is trained"
    for file in ("lmeec", "bare"):
        arguments = ["lmeec-main", "--tabletop", "--data", data, "--out", tmp_path / "r", "--rows", "none",
                     "--row", f"X={tmp_path / file}.json"]  # fmt: skip
        code, out, err = reproduce(capsys, *arguments, "--dry-run")
        assert code == 0, err
        assert f"row from a file: X, ego2exo: {visible}" in out
        assert reproduce(capsys, *arguments)[0] == 0
    for row in json.loads((tmp_path / "r" / "lmeec-main-tabletop-test.json").read_text())["rows"]:
        assert row["counts"]["absent"] == 0
        assert row["contents"]["counts"]["visible"] == row["counts"]["frames"]
        assert row["contents"]["frames"] == (
            "frames with a target mask" if row["direction"] == "ego2exo" else "either layout"
        )


def test_a_file_of_another_selection_or_other_takes_is_no_row(data, with_bundled, tmp_path, capsys):
    for name, options, problem in (
        ("seed", ["--fraction", "0.1", "--seed", "7"], "holds another selection of pairs"),
        ("tenth", ["--fraction", "0.1"], None),
        ("all", [], None),
    ):
        file = tmp_path / f"{name}.json"
        assert main(["predict", "tiny-follow", str(data), "--split", "val", "--out", str(file), *options]) == 0
        code, _, err = reproduce(
            capsys, "omama-modules", "--tabletop", "--data", data, "--out", tmp_path / "out", "--rows", "none",
            "--row", f"{name}={file}",
        )  # fmt: skip
        assert (code, problem in err if problem else "") == ((2, True) if problem else (0, "")), err
        if not problem:
            rows = json.loads((tmp_path / "out" / "omama-modules-tabletop-val.json").read_text())["rows"]
            assert [r["counts"]["frames"] for r in rows] == [1, 1], "a tenth of 10 and of 9 pairs"
    file = tmp_path / "first.json"
    assert main(["predict", "tiny-follow", str(data), "--takes", "1", "--out", str(file)]) == 0
    capsys.readouterr()
    arguments = [
        "omama-main",
        "--tabletop",
        "--data",
        data,
        "--out",
        tmp_path / "out",
        "--rows",
        "none",
        "--row",
        f"X={file}",
    ]
    code, _, err = reproduce(capsys, *arguments)
    assert code == 2
    assert "was predicted for other takes" in err
    assert reproduce(capsys, *arguments, "--takes", "1")[0] == 0


def test_a_model_by_name_is_a_row_or_left_out_with_the_reason(data, with_bundled, tmp_path, capsys, monkeypatch):
    arguments = [
        "omama-modules",
        "--tabletop",
        "--data",
        data,
        "--out",
        tmp_path / "out",
        "--rows",
        "geometric",
        "--quiet",
    ]
    monkeypatch.setitem(TABLES, "omama-modules", _with_geometric("no:such-model"))
    code, out, _ = reproduce(capsys, *arguments)
    assert code == 0
    assert "left out: geometric matching: there is no model 'no:such-model'" in out
    # Any name that counterview.load knows will do.
    monkeypatch.setitem(TABLES, "omama-modules", _with_geometric("tiny"))
    code, out, _ = reproduce(capsys, *arguments, "--dry-run")
    assert "counterview predict tiny " in out
    code, out, err = reproduce(capsys, *arguments)
    assert code == 0, err
    rows = json.loads((tmp_path / "out" / "omama-modules-tabletop-val.json").read_text())["rows"]
    assert [(r["row"], r["model"], r["direction"]) for r in rows] == [("geometric", "tiny", d) for d in DIRECTIONS]

    def missing(*_, **__):
        raise MissingExtraError("roma", "RoMa")

    monkeypatch.setattr(steps, "load_take_predictor", missing)
    reason = "RoMa needs the extra [roma], which is not installed"
    code, _, err = reproduce(capsys, *arguments[:4], "--out", tmp_path / "new", "--rows", "baseline", "--quiet")
    assert code == 1, "an extra that a recipe needs is an error"
    assert reason in err
    code, out, _ = reproduce(capsys, *arguments[:4], "--out", tmp_path / "new", "--rows", "geometric", "--quiet")
    assert code == 0
    assert f"left out: geometric matching: {reason}" in out


def _with_geometric(name):
    table = get_table("omama-modules")
    rows = [dataclasses.replace(r, tabletop=Model(name=name)) if r.name == "geometric" else r for r in table.rows]
    return dataclasses.replace(table, rows=tuple(rows))


def test_the_geometric_row_is_named_as_its_models_are():
    (row,) = [r for r in get_table("omama-modules").rows if r.name == "geometric"]
    assert (row.egoexo.name, row.tabletop.name) == ("geometric:roma", "geometric:sift")


def test_what_is_left_out_is_said(data, without_bundled, tmp_path, capsys):
    code, out, _ = reproduce(capsys, "omama-descriptors", "--tabletop", "--data", data, "--dry-run")
    assert code == 0
    assert "left out: learned, mean over the box, CLIP: CLIP's weights come from the Hub" in out
    code, out, _ = reproduce(capsys, "lmeec-main", "--tabletop", "--data", data, "--dry-run")
    assert "left out: tiny-follow, bundled: this installation does not have it" in out


def test_pages_keep_synthetic_and_real_scores_apart(data, tmp_path):
    plan = make_plan(get_table("omama-main"), data, tmp_path, tabletop=True, rows=["knn"])
    row = {"row": "knn", "title": "k-NN", "direction": "ego2exo", "kind": "ours", "notes": [],
           "scores": {m: {"value": 0.5, "interval": [0.4, 0.6]} for m in
                      ("iou", "location_error", "contour_accuracy", "balanced_accuracy")}}  # fmt: skip
    lines = page(steps.results(plan, [row], {}))
    middle = next(i for i, line in enumerate(lines) if "not to be compared" in line)
    assert any("0.500 (0.400..0.600)" in line for line in lines[:middle])
    assert not any("0.500 (" in line for line in lines[middle:])
    assert not any("0.4257" in line for line in lines[:middle])


def test_list_names_every_table(capsys):
    code, out, _ = reproduce(capsys, "list")
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == list(TABLES)
