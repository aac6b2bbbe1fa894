"""Every command that ``reproduce --dry-run`` prints runs by itself, and ``reproduce`` takes up what they leave.

Oracle: the command line itself; ``reproduce`` with training and prediction forbidden.
"""

import json
import shlex
from importlib.resources import files

import pytest

from counterview.cli.main import main
from counterview.data.dataset import DIRECTIONS
from counterview.inference.zoo import find_recipe, resolve
from counterview.media.files import write_json
from counterview.nn import bundled
from counterview.reproduce.commands import commands
from counterview.reproduce.plan import make_plan
from counterview.reproduce.tables import TABLES, get_table
from counterview.training.recipe import load_recipe
from tests.omama.tiny_takes import write_takes

FOLLOW = ["model.image_size=64", "data.clips_per_epoch=4", "data.val_takes=1", "data.clip_frames=2",
          "data.val_frames=2"]  # fmt: skip
MATCH = ["training.batch_size=2", "data.frame_step=1", "model.omama.proposer_settings.max_masks=20"]


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    """One take for each split, in a folder whose name has to be quoted."""
    root = write_takes(
        tmp_path_factory.mktemp("two words") / "takes", frames=2, splits={"train": 1, "val": 1, "test": 1}
    )
    write_json(root / "takes.json", [{"take_uid": f"take{n}", "take_name": f"tabletop_0000_{n}"} for n in range(3)])
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Where all tables are made, so that proposals are computed once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Where features are kept from one training to the next."""
    return tmp_path_factory.mktemp("features")


def changes(table, features):
    more = FOLLOW if table.startswith("lmeec") else [*MATCH, f"data.cache={features}"]
    return ["training.epochs=1", "training.max_steps=1", *more]


@pytest.mark.parametrize("name", [pytest.param(t, marks=pytest.mark.slow) if t == "omama-main" else t for t in TABLES])
def test_every_printed_command_runs_as_it_stands(
    name, takes, features, runs, tmp_path, capsys, with_bundled, monkeypatch
):
    overrides = changes(name, features)
    arguments = [name, "--tabletop", "--data", str(takes), "--out", str(runs), "--quiet"]
    arguments += [text for change in overrides for text in ("--set", change)]
    assert main(["reproduce", *arguments, "--dry-run"]) == 0
    printed = [
        line.partition(". ")[2] for line in capsys.readouterr().out.split("steps:")[1].splitlines() if ". " in line
    ]
    plan = make_plan(get_table(name), takes, runs, tabletop=True, overrides=overrides)
    assert printed == commands(plan)
    scores = []
    for line in printed:
        command = shlex.split(line)
        assert command[0] == "counterview"
        code = main([*command[1:], *(["--json"] if command[1] == "evaluate" else [])])
        out = capsys.readouterr()
        assert code == 0, (line, out.err)
        scores += [json.loads(out.out)] if command[1] == "evaluate" else []

    def fail(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr("counterview.training.fit.fit", fail)
    monkeypatch.setattr("counterview.inference.dataset.predict", fail)
    assert main(["reproduce", *arguments, "--save", str(tmp_path / "saved.json")]) == 0
    out = capsys.readouterr().out
    results = json.loads((tmp_path / "saved.json").read_text())
    assert [(r["direction"], r["scores"]["iou"]["value"], r["counts"]) for r in results["rows"]] == [
        (s["direction"], s["iou"], s["counts"]) for s in scores
    ]
    squares = name.startswith("lmeec")
    assert results["layout"]["sizes"] == ("480 x 480 squares" if squares else "longer side 480, aspect kept")
    assert f"frames and sizes: {results['layout']['frames']}, {results['layout']['sizes']}" in out
    for row in results["rows"]:
        # An ego image is square, so there both sizes are the same.
        assert row["contents"]["sizes"] == (
            results["layout"]["sizes"] if row["direction"] == "ego2exo" else "either layout"
        )
        assert row["contents"]["frames"] in (results["layout"]["frames"], "either layout")
        assert row["trainable_parameters"] == 0 or row["trainable_parameters"] > 1000
        assert row["protocol"] == results["protocol"]
    untrained = {u.row.name for u in plan.units if not u.is_trained and not u.model.bundled}
    assert {r["row"] for r in results["rows"] if r["trainable_parameters"] == 0} == untrained


@pytest.mark.parametrize("name", TABLES)
def test_commands_on_ego_exo4d_name_recipes_and_settings_that_exist(name, takes, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "available", lambda: ())
    plan = make_plan(get_table(name), takes, tmp_path)
    lines = [shlex.split(line) for line in commands(plan)]
    assert {line[1] for line in lines} <= {"train", "predict", "evaluate"}
    trained = {line[line.index("--out") + 1] for line in lines if line[1] == "train"}
    for line in lines:
        if line[1] == "train":
            changed = [text for text in line[3:] if "=" in text]
            assert load_recipe(line[2], changed).config.data.root == str(takes)
        if line[1] == "predict" and find_recipe(line[2]) is not None:
            overrides = [text for text in line[3:] if text.startswith("model.")]
            assert resolve(line[2], overrides).settings is not None, "a recipe that needs no training"
        elif line[1] == "predict":
            assert line[2].removesuffix("/model") in trained or line[2].startswith("geometric:")
        if line[1] == "predict":
            fraction = plan.table.fraction
            assert ("--fraction" in line) == (fraction < 1)
            assert line[line.index("--layout") + 1] == ("lmeec" if name.startswith("lmeec") else "official")


def test_commands_for_the_first_takes(takes, tmp_path):
    plan = make_plan(get_table("lmeec-main"), takes, tmp_path, takes=1)
    predicted = [line for line in commands(plan) if " predict " in line]
    assert predicted
    assert all("--takes 1" in line and "predictions-test-1-lmeec.json" in line for line in predicted)
    assert {u.directions for u in plan.units} == {(d,) for d in DIRECTIONS} | {DIRECTIONS}


def test_commands_on_a_release_score_against_its_annotation(tmp_path, capsys, with_bundled):
    release = files("counterview") / "assets" / "take"
    plan = make_plan(get_table("lmeec-main"), str(release), tmp_path, tabletop=True, rows=["tiny-follow"])
    for line in commands(plan):
        if " evaluate " in line:
            assert f"--gt {release}/annotations/relations_test.json" in line
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    assert "frames with a target mask" in capsys.readouterr().out
