"""Models as users have saved them since the first version: ``config.json`` and the names, types and shapes of weights.

The weights themselves are drawn from each name, so that a fixture takes a few kilobytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SAVED = Path(__file__).parents[1] / "data" / "golden" / "saved"


def drawn(name: str, shape: list[int], dtype: str) -> torch.Tensor:
    """The weight of that name: the same on every machine."""
    if dtype in ("torch.bool", "torch.int64"):
        return torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
    leaf = name.rpartition(".")[2]
    if leaf in ("knots", "values"):
        return torch.linspace(-20, 20, shape[0])
    if leaf in ("scale", "visibility_scale") and not shape:
        return torch.ones(())
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    values = rng.normal(0, 1, shape)
    if leaf == "running_var":
        values = np.abs(values) + 0.5
    elif len(shape) > 1:
        values /= np.sqrt(np.prod(shape[1:]))
    else:
        values = values * 0.1 + (leaf == "weight")
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def unpack(name: str, folder: Path) -> Path:
    """Lay a saved model down as a folder, with ``config.json`` and ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SAVED / name / "config.json", folder / "config.json")
    listed = json.loads((SAVED / name / "weights.json").read_text())
    state = {key: drawn(key, shape, dtype) for key, (shape, dtype) in listed.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def scene(places: dict[str, tuple[int, int]], size_hw: tuple[int, int] = (80, 120), side: int = 16):
    """A grey image with a square of each colour at ``(x, y)``, and the squares' masks."""
    colours = {"red": (200, 20, 20), "green": (20, 180, 20), "blue": (30, 30, 220)}
    image = np.full((*size_hw, 3), 90, np.uint8)
    masks = {}
    for name, (x, y) in places.items():
        masks[name] = np.zeros(size_hw, bool)
        masks[name][y : y + side, x : x + side] = True
        image[masks[name]] = colours[name]
    return image, masks


QUERY, MASKS = scene({"red": (5, 5), "green": (40, 30), "blue": (90, 50)})
TARGET, _ = scene({"red": (60, 8), "green": (8, 50), "blue": (90, 20)})
