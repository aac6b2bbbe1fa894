"""What computes the networks of a model: torch, or ONNX Runtime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from counterview.errors import ConfigError, MissingExtraError, shown
from counterview.guard import expanded

if TYPE_CHECKING:
    from counterview.deploy.models import OnnxNetworks
    from counterview.omama.model import OMaMa
    from counterview.tiny.model import TinyMatch


def is_onnx(runtime: str) -> bool:
    """Whether the networks are computed by ONNX Runtime.

    Args:
        runtime: ``torch``, ``onnx`` or ``onnx:FOLDER``.

    Raises:
        ConfigError: something else.
        MissingExtraError: ONNX Runtime is not installed.

    >>> is_onnx("torch")
    False
    """
    kind, colon, folder = runtime.partition(":")
    if kind not in ("torch", "onnx") or (colon and (kind == "torch" or not folder)):
        raise ConfigError("no such runtime", found=shown(runtime), expected="torch, onnx or onnx:FOLDER")
    if kind == "onnx" and find_spec("onnxruntime") is None:
        raise MissingExtraError("onnx", "the runtime onnx")
    return kind == "onnx"


def runtime_folder(runtime: str) -> Path | None:
    """The folder of exported networks that a runtime names, ``None`` for this user's cache.

    >>> runtime_folder("onnx:out/mug").as_posix(), runtime_folder("onnx")
    ('out/mug', None)
    """
    folder = runtime.partition(":")[2]
    return expanded(folder) if folder else None


def load_networks(runtime: str, model: OMaMa | TinyMatch, proposer: str, device: str, name: str) -> OnnxNetworks:
    """The exported networks of a model, from the folder that a runtime names, or from this user's cache.

    Args:
        runtime: ``onnx`` or ``onnx:FOLDER``.
        model: that they were, or will be, exported from.
        proposer: name of the proposer in use.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        name: of the model.

    Raises:
        MissingExtraError: without ``[onnx]``.
        CheckpointError: a folder that is damaged, or exported from another model.
        ConfigError: a device that ONNX Runtime does not have, or a model without a head.
    """
    from counterview.deploy.models import OnnxNetworks

    return OnnxNetworks(model, runtime_folder(runtime), proposer=proposer, device=device, name=name)
