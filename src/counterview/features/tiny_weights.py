"""Where the weights of ``tiny`` features come from: the model that holds them, shipped or trained."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from counterview.config import load_config
from counterview.errors import CheckpointError, ConfigError, InputError, WeightsError
from counterview.features.tiny import Tiny, TinyConfig, TinyNet
from counterview.media.files import read_json, read_shipped

PREFIX = "backbone."
"""Of the network's weights among those of an O-MaMa model."""
SHIPPED = "tiny-match"
"""The shipped model whose network is ``load_backbone("tiny")``."""
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_RENAMED = {"backbone.close_ups.": "backbone.object_crops."}
"""Earlier beginnings of the names of weights."""


def current_name(name: str) -> str:
    """The name of a weight today, from that in a file of any version."""
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def load_tiny(folder: Path, device: torch.device | str = "cpu", *, name: str = "tiny") -> Tiny:
    """The network out of an O-MaMa model's folder.

    Raises:
        CheckpointError: no such model, or damaged weights.
    """
    try:
        data = (folder / _WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError("has no weights that can be read", path=folder / _WEIGHTS, found=str(error)) from None
    return _build(folder, data, device, name)


def _build(folder: Path, data: bytes, device: torch.device | str, name: str) -> Tiny:
    """The network that a folder's configuration describes, with the weights in ``data``."""
    try:
        values = read_json(folder / _CONFIG)["model"]
        config = load_config(TinyConfig, values["backbone_settings"])
    except (InputError, ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(
            "holds no backbone of its own",
            path=folder,
            found=str(error)[:120],
            expected="an O-MaMa model trained end to end",
        ) from None
    net = TinyNet(config)
    try:
        state = {current_name(k).removeprefix(PREFIX): v.float() for k, v in load(data).items() if k.startswith(PREFIX)}
        net.load_state_dict({k: v.long() if k.endswith("num_batches_tracked") else v for k, v in state.items()})
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            "the weights do not fit the backbone", path=folder / _WEIGHTS, found=str(error).splitlines()[0][:120]
        ) from None
    return Tiny(net, device, name)


def load_shipped_tiny(device: torch.device | str = "cpu") -> Tiny:
    """The network of the shipped model, its file checked.

    Raises:
        WeightsError: this installation does not hold it.
        CheckpointError: it is damaged.
    """
    root = Path(str(files("counterview"))) / "assets" / "models"
    if not (root / SHIPPED).is_dir():
        raise WeightsError(
            "the features 'tiny' are not part of this installation", fix="`--features classical` runs without weights."
        )
    read_shipped(root, f"{SHIPPED}/{_CONFIG}")
    data, _ = read_shipped(root, f"{SHIPPED}/{_WEIGHTS}")
    return _build(root / SHIPPED, data, device, "tiny")
