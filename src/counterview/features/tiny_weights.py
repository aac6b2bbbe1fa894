"""The weights of ``tiny`` features, out of a ``tiny-match`` that is bundled or trained."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from counterview.config import load_config
from counterview.errors import CheckpointError, ConfigError, WeightsError
from counterview.features.tiny import Tiny, TinyConfig, TinyNet
from counterview.guard import read_file
from counterview.media.files import read_bundled
from counterview.nn.checkpoint import CONFIG_NAME, WEIGHTS_NAME, model_file, read_header
from counterview.nn.weights import check_architecture, decode_tensors, load_strictly, renamed, shapes_only

BUNDLED = "tiny-match"
"""The bundled model whose network is ``load_backbone("tiny")``."""

_PREFIX = "network."
"""With which the names of the network's weights begin in a model."""
_FIRST_VERSION = {"backbone.close_ups.": "network.object_crops.", "backbone.": _PREFIX}


def network_settings(folder: Path) -> Mapping[str, Any] | None:
    """The configuration of the network in a model's folder, of any version; ``None`` if the model has none.

    Raises:
        CheckpointError: not a checkpoint.
    """
    header = read_header(folder)
    if header.version == 1 and header.method == "omama":
        settings = header.model.get("backbone_settings") if header.model.get("learned_backbone") else None
    else:
        settings = header.model.get("network")
    return settings if isinstance(settings, Mapping) else None


def load_tiny(folder: Path, device: torch.device | str = "cpu", *, name: str = "tiny") -> Tiny:
    """The network out of a model's folder.

    Args:
        folder: of the model.
        device: where to compute.
        name: by which the features were loaded.

    Raises:
        CheckpointError: not a model with a network of its own, or damaged weights.
    """
    path = model_file(folder, WEIGHTS_NAME)
    return _build(folder, read_file(path, CheckpointError), device, name)


def load_bundled_tiny(device: torch.device | str = "cpu") -> Tiny:
    """The network of the bundled model, after a check of its files' hashes.

    Raises:
        WeightsError: it is not part of this installation.
        CheckpointError: it is damaged.
    """
    root = Path(str(files("counterview"))) / "assets" / "models"
    if not (root / BUNDLED).is_dir():
        raise WeightsError(
            "the features 'tiny' are not part of this installation", fix="`--features classical` runs without weights."
        )
    read_bundled(root, f"{BUNDLED}/{CONFIG_NAME}")
    data, _ = read_bundled(root, f"{BUNDLED}/{WEIGHTS_NAME}")
    return _build(root / BUNDLED, data, device, "tiny")


def _build(folder: Path, data: bytes, device: torch.device | str, name: str) -> Tiny:
    """The network that a folder's configuration describes, with the weights in the bytes ``data``."""
    try:
        settings = network_settings(folder)
        config = None if settings is None else load_config(TinyConfig, settings)
    except ConfigError as error:
        raise CheckpointError(f"has a network that cannot be built: {error.problem}", path=folder) from None
    if config is None:
        raise CheckpointError("has no network of its own", path=folder, expected="a tiny-match model")
    path = folder / WEIGHTS_NAME
    state = {
        key.removeprefix(_PREFIX): value.float() if value.is_floating_point() else value
        for key, value in renamed(decode_tensors(data, path), _FIRST_VERSION).items()
        if key.startswith(_PREFIX)
    }
    with shapes_only():  # takes no memory, whatever the configuration says
        check_architecture(TinyNet(config), state, path)
    net = TinyNet(config)
    load_strictly(net, state, path)
    return Tiny(net, device, name)
