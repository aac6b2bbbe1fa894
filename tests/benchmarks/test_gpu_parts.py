"""A machine with a GPU is lent for minutes: what is measured is kept, whatever happens to the rest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

ROOT = Path(__file__).parents[2]


def test_a_part_that_fails_is_recorded_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def broken(device, quick):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "PARTS", {"one": broken, "two": lambda device, quick: {"on": device, "quick": quick}})
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--quick", "--out", str(tmp_path / "a" / "gpu.json")])
    assert gpu.main() == 1
    written = json.loads((tmp_path / "a" / "gpu.json").read_text())
    assert written["parts"]["one"]["error"] == "RuntimeError: no such kernel"
    assert (written["parts"]["two"]["on"], written["parts"]["two"]["quick"]) == ("cpu", True)
    assert written["machine"]["torch"]
    assert "failed: one" in capsys.readouterr().err


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_training_step_changes_the_weights(precision):
    seen = []

    def loss():
        value = layer(torch.ones(1, 3)).float().square().mean()
        seen.append(value.item())
        return value

    layer = torch.nn.Linear(3, 2)
    step = gpu._step(layer, loss, "cpu", precision)
    before = layer.weight.detach().clone()
    step()
    assert not torch.equal(layer.weight, before)
    assert gpu.clocked(step, "cpu", 2, warmup=0)["waits"] is None
    assert len(seen) == 3


def test_the_script_is_bash_and_says_what_it_needs():
    script = ROOT / "tools" / "gpu_check.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    refused = subprocess.run([script], env={"PATH": "/usr/bin:/bin", "PYTHON": "/bin/false"}, check=False)
    assert refused.returncode == 2
