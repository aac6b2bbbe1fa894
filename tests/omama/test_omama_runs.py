"""Whole runs through the engine: two processes equal one, killed and resumed equals unbroken, the model loads again."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from counterview.config import load_config
from counterview.omama import OMaMa
from counterview.omama.training.task import OMaMaTask
from counterview.training.fit import fit
from counterview.training.recipe import Recipe, load_recipe
from counterview.training.task import TrainingError

SCRIPT = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from counterview.training.fit import fit
from counterview.training.recipe import load_recipe

class Deadly:
    def __init__(self, task, step):
        self.task, self.left = task, step
    def __getattr__(self, name):
        return getattr(self.task, name)
    def loss(self, model, batch):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.task.loss(model, batch)

if __name__ == "__main__":
    recipe = load_recipe(json.loads(sys.argv[1]))
    task = recipe.build_task()
    kill = int(sys.argv[3])
    fit(Deadly(task, kill) if kill else task, recipe.training, sys.argv[2], resume=True, progress=False)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
"""


def recipe_values(place, **training) -> dict:
    values = json.loads(json.dumps(place[1]))
    values["data"]["directions"] = ["ego2exo"]
    base = {
        "epochs": 2,
        "max_steps": 6,
        "batch_size": 8,
        "lr": 1e-3,
        "trackers": [],
        "device": "cpu",
        "checkpoint_every": 2,
    }
    return {"method": "omama", "training": base | training, **values}


def run(tmp_path, values, out, processes=1, kill=0):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [str(script), json.dumps(values), str(out), str(kill)]
    if processes > 1:
        command = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone", *command]
    return subprocess.run(
        [sys.executable, *command], timeout=280, check=False, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def losses(out) -> list[float]:
    with (out / "train.csv").open() as handle:
        return [float(row["loss"]) for row in csv.DictReader(handle)]


@pytest.fixture(scope="module")
def unbroken(task, place, tmp_path_factory):
    """A run in this process; the images were made by the ``task`` fixture."""
    out = tmp_path_factory.mktemp("run") / "out"
    recipe: Recipe = load_recipe(recipe_values(place))
    result = fit(OMaMaTask(recipe.config), recipe.training, out, progress=False)
    return out, result


def test_a_run_ends_in_a_model_that_loads(unbroken, task, place):
    out, result = unbroken
    model = OMaMa.from_pretrained(result.model_dir)
    assert model.config == load_config(type(model.config), place[1]["model"])
    assert 0 <= result.metrics["iou"] <= 1
    assert (result.model_dir / "README.md").read_text().startswith("---")
    assert len(losses(out)) == 6
    assert model.visibility_head.calibration.scale != 1


@pytest.mark.slow
def test_killed_and_resumed_equals_unbroken(unbroken, place, tmp_path):
    values = recipe_values(place)
    first = run(tmp_path, values, tmp_path / "out", kill=4)
    assert first.returncode == -9, first.stderr
    second = run(tmp_path, values, tmp_path / "out")
    assert second.returncode == 0, second.stderr
    theirs = load_file(unbroken[1].model_dir / "model.safetensors")
    ours = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert losses(tmp_path / "out") == losses(unbroken[0])


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(unbroken, place, tmp_path):
    result = run(tmp_path, recipe_values(place), tmp_path / "out", processes=2)
    assert result.returncode == 0, result.stderr
    ours, theirs = losses(tmp_path / "out"), losses(unbroken[0])
    assert len(ours) == len(theirs)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-5


def test_a_learning_rate_that_breaks_the_network_is_told_as_such(place, tmp_path):
    recipe = load_recipe(recipe_values(place, lr=1e30, max_steps=4))
    with pytest.raises(TrainingError, match=r"of step \d+ is not a finite number.*The batch is in this folder"):
        fit(recipe.build_task(), recipe.training, tmp_path / "run", progress=False)
    assert [path.name[:9] for path in tmp_path.glob("run/nan_step_*")] == ["nan_step_"]
