"""Results on a GPU. Oracle: the same on the CPU. Run by ``tools/gpu_check.sh``; without a GPU all are skipped."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import counterview
from counterview.devices import resolve_autocast, resolve_device
from counterview.inference.examples import load_pair
from tests.lmeec.lmeec_fill import disc, random_images, small_model

RUN_TOY = Path(__file__).parents[1] / "training" / "run_toy.py"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(autouse=True)
def exact_products():
    """TensorFloat32 rounds to 10 bits, which is no comparison."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def clip(device, autocast=None):
    """The logits of three objects in the last of ten frames: banks are shortened on the way."""
    model = small_model(bank_size=4, max_pointers=6).to(device)
    session = model.session(autocast=autocast)
    images = random_images(20)
    for number in range(10):
        shown = {f"object {i}": disc((48, 80), 15 + 12 * i + number, 24, 9) for i in range(3)}
        found = session.step(images[2 * number], shown, images[2 * number + 1])
    return {name: result.low_res_logits for name, result in found.items()}


@pytest.mark.parametrize(("autocast", "tolerance"), [(None, 1e-3), (torch.bfloat16, 0.15), (torch.float16, 0.05)])
def test_a_clip_of_lmeec(autocast, tolerance):
    exact, found = clip("cpu"), clip("cuda", autocast)
    for name, logits in exact.items():
        assert np.abs(found[name] - logits).max() < tolerance * np.abs(logits).max()


def test_the_bundled_model_matches():
    pair = load_pair()
    matches = {}
    for device in ("cpu", "cuda"):
        model = counterview.load(device=device)
        matches[device] = model.match(pair.near.image, pair.near.masks, pair.far.image)
    for exact, found in zip(matches["cpu"], matches["cuda"], strict=True):
        assert found.name == exact.name
        assert found.visibility == pytest.approx(exact.visibility, abs=0.02)
        assert found.mask_rle.box_xywh == pytest.approx(exact.mask_rle.box_xywh, abs=4)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_with_pinned_batches(tmp_path, num_workers):
    """The losses are those of the CPU to rounding. Each run has a process: Accelerate keeps a device for good."""
    training = {"epochs": 2, "batch_size": 8, "lr": 0.02, "clip_norm": 1.0, "num_workers": num_workers, "trackers": []}
    losses = {}
    for device in ("cpu", "auto"):
        options = {"training": {**training, "device": device}, "task": {"model": {"dropout": 0.0}}}
        command = [sys.executable, str(RUN_TOY), str(tmp_path / device), json.dumps(options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        with (tmp_path / device / "train.csv").open(encoding="utf-8") as handle:
            losses[device] = [float(row["loss"]) for row in csv.DictReader(handle)]
    assert losses["auto"] == pytest.approx(losses["cpu"], rel=1e-3)


def test_the_device_and_its_dtypes():
    assert resolve_device("auto").type == "cuda"
    assert resolve_autocast("float16", torch.device("cuda")) is torch.float16
