"""What a run is, so that it is not resumed as another one unnoticed."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from counterview import __version__
from counterview.training.recipe import FREE_TO_CHANGE


def identity(
    recipe: Mapping[str, Any], fingerprint: Mapping[str, Any], world_size: int, free: Iterable[str] = ()
) -> dict[str, Any]:
    """The recipe, the data set and the number of processes of a run, as flat JSON.

    Keys are ``recipe: training.lr``, ``data set: pairs``, ``world size``. Values that change no weight are left out:
    those of :data:`FREE_TO_CHANGE` below ``training``, and those named in ``free``.
    """
    left_out = {f"training.{name}" for name in FREE_TO_CHANGE} | set(free)
    result: dict[str, Any] = {f"recipe: {k}": value for k, value in _flat(recipe).items() if k not in left_out}
    result |= {f"data set: {key}": value for key, value in _flat(fingerprint).items()}
    return {**result, "world size": world_size}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One phrase for each value that changed, for instance ``recipe: training.lr was 0.1, now is 0.2``."""
    absent = object()
    phrases = []
    for key in [*before, *(k for k in now if k not in before)]:
        old, new = before.get(key, absent), now.get(key, absent)
        if old is absent:
            phrases.append(f"{key} is new ({_short(new)})")
        elif new is absent:
            phrases.append(f"{key} is gone (was {_short(old)})")
        elif old != new:
            phrases.append(f"{key} was {_short(old)}, now is {_short(new)}")
    return phrases


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Versions and devices on which equal bits depend beside the run's identity."""
    return {
        "counterview": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            result |= _flat(part, f"{prefix}{key}.")
        else:
            # Tuples come back from JSON as lists.
            result[f"{prefix}{key}"] = list(part) if isinstance(part, tuple) else part
    return result


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
