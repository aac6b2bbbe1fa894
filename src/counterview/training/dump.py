"""Keep the batch whose loss was not finite, in files that need no pickle."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterview.media.files import write_json
from counterview.nn.weights import write_tensors


def flatten(value: Any, name: str = "") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split a nested batch into tensors and other values, each under its path such as ``0/query/map``.

    Dicts, lists, tuples and dataclasses are descended into; arrays become tensors; what JSON cannot hold becomes
    its ``repr``.

    Returns:
        Tensors (copies on the CPU, shapes unchanged) and the other values, both by path.
    """
    if isinstance(value, torch.Tensor):
        return {name: value.detach().cpu().contiguous().clone()}, {}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {name: torch.from_numpy(np.ascontiguousarray(value).copy())}, {}
    parts: Mapping[Any, Any] | None = None
    if isinstance(value, Mapping):
        parts = value
    elif isinstance(value, (list, tuple)):
        parts = dict(enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if parts is None:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            value = repr(value)
        return {}, {name: value}
    tensors: dict[str, torch.Tensor] = {}
    others: dict[str, Any] = {}
    for key, part in parts.items():
        more, rest = flatten(part, f"{name}/{key}" if name else str(key))
        tensors |= more
        others |= rest
    return tensors, others


def save_batches(folder: Path, batches: list[Any], info: Mapping[str, Any]) -> Path:
    """Write batches to ``folder/batch.safetensors`` and the rest with ``info`` to ``folder/info.json``.

    Returns:
        ``folder``.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors, others = flatten(batches)
    write_tensors(folder / "batch.safetensors", tensors)
    write_json(folder / "info.json", {**_plain(info), "values": others})
    return folder


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    # JSON has no NaN and no infinity, which are what is to be recorded here.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def not_finite(model: torch.nn.Module) -> dict[str, list[str]]:
    """Names of at most twenty parameters whose weights, or gradients, hold a NaN or an infinity."""
    weights, gradients = [], []
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            weights.append(name)
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            gradients.append(name)
    return {"weights": weights[:20], "gradients": gradients[:20]}
