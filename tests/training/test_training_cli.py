"""``counterview train`` from a recipe file to a model folder, through typer."""

import json
import sys

import pytest
import torch
import typer
from training_toy import ToyTask

from counterview.cli.train import train
from counterview.errors import CheckpointError, ConfigError, InputError
from counterview.training.checkpoint import verify_checkpoint
from counterview.training.recipe import register_method

register_method("toy", ToyTask)
RECIPE = """
method: toy
training: {epochs: 2, batch_size: 8, lr: 0.02, trackers: []}
data: {samples: 16}
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    torch.set_num_threads(1)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(train)
    return lambda *arguments: app(list(arguments), standalone_mode=False)


def test_train_resume_and_change(command, tmp_path, capsys):
    command("small.yaml", "training.epochs=1", "model.width=8")
    out = tmp_path / "runs" / "small"
    verify_checkpoint(out / "model")
    printed = capsys.readouterr()
    assert f"iou: {json.loads((out / 'result.json').read_text())['metrics']['iou']:.4f}" in printed.out
    assert "model of step 2 of 2" in printed.err
    assert "epoch 1/1" in printed.err  # the bar, which also tells the time left
    assert json.loads((out / "model" / "config.json").read_text())["width"] == 8
    with pytest.raises(InputError, match="holds a run already"):
        command("small.yaml")
    with pytest.raises(CheckpointError, match=r"training.epochs was 1, now is 2"):
        command("small.yaml", "model.width=8", "--resume")
    command("small.yaml", "model.width=8", "--resume", "--allow-changes", "--quiet")
    result = json.loads((out / "result.json").read_text())
    assert result["steps"] == 4
    assert "epoch" not in capsys.readouterr().err.replace("resumed with a change: recipe: training.epochs", "")
    command("small.yaml", "--out", str(tmp_path / "other"), "training.max_steps=1")
    assert json.loads((tmp_path / "other" / "result.json").read_text())["steps"] == 1


def test_mistakes(command, tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.yaml: no such file"):
        command("missing.yaml")
    with pytest.raises(ConfigError, match=r"'training\.learning_rate'"):
        command("small.yaml", "training.learning_rate=3")
    with pytest.raises(ConfigError, match="an override is key=value"):
        command("small.yaml", "training.lr")
    with pytest.raises(InputError, match="no such data set"):
        command("small.yaml", "data.samples=-1")
    assert not (tmp_path / "runs").exists()


def test_a_recipe_of_the_package_by_its_name(command, tmp_path, monkeypatch):
    """From any folder; a recipe beside the user comes first, and need not stand beside all the others."""
    from counterview.inference.zoo import recipe_file

    assert recipe_file("tabletop/omama").parts[-3:] == ("recipes", "tabletop", "omama.yaml")
    with pytest.raises(InputError, match="tabletop"):  # its data set is not in this folder
        command("tabletop/omama")
    with pytest.raises(ConfigError, match=r"no such recipe.*Did you mean 'tabletop/omama'"):
        command("tabletop/omma")
    (tmp_path / "recipes" / "omama").mkdir(parents=True)
    (tmp_path / "recipes" / "omama" / "mine.yaml").write_text(RECIPE)
    command("omama/mine", "training.max_steps=1")
    assert (tmp_path / "runs" / "mine" / "result.json").is_file()
    assert recipe_file("tabletop/omama").is_file()


def test_training_extra_is_named(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    from counterview.errors import MissingExtraError

    with pytest.raises(MissingExtraError, match=r"counterview\[train\]"):
        command("small.yaml")
