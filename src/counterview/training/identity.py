"""The identity of a run: recipe, data set and number of processes, so that none of them changes unnoticed at resume."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from counterview import __version__
from counterview.config import load_config, to_dict
from counterview.errors import ConfigError
from counterview.training.recipe import FREE_TO_CHANGE, TrainingConfig

_RECIPE, _DATA, _PROCESSES = "recipe: ", "data set: ", "world size"
_LATER = (f"{_DATA}train_annotation", f"{_DATA}validation_annotation")
"""What runs of earlier versions did not record, and so is not compared with them."""


def identity(
    recipe: Mapping[str, Any], fingerprint: Mapping[str, Any], world_size: int, free: Iterable[str] = ()
) -> dict[str, Any]:
    """The recipe, the data set and the number of processes of a run, as flat JSON.

    Keys are ``recipe: training.lr``, ``data set: pairs``, ``world size``. Values that change no weight are left out:
    those of :data:`FREE_TO_CHANGE` below ``training``, and those named in ``free``.
    """
    left_out = {f"training.{name}" for name in FREE_TO_CHANGE} | set(free)
    result: dict[str, Any] = {f"{_RECIPE}{k}": value for k, value in flat(recipe).items() if k not in left_out}
    result |= {f"{_DATA}{key}": value for key, value in flat(fingerprint).items()}
    return {**result, _PROCESSES: world_size}


def current_recipe(recipe: Mapping[str, Any], config_class: type[Any]) -> dict[str, Any]:
    """A recipe that an earlier version wrote, under present keys; keys that it did not have get their defaults.

    Args:
        recipe: ``training`` and the method's own keys, nested.
        config_class: the dataclass of the method's own keys.

    Returns:
        The values, nested; ``recipe`` itself where this version cannot read it, so that the differences name its keys.
    """
    rest = {key: value for key, value in recipe.items() if key not in ("method", "training")}
    try:
        training = to_dict(load_config(TrainingConfig, recipe.get("training") or {}))
        return {"training": training, **to_dict(load_config(config_class, rest))}
    except (ConfigError, NameError, TypeError):  # the last two: type hints that only their author can resolve
        return dict(recipe)


def with_recipe(before: Mapping[str, Any], recipe: Mapping[str, Any], free: Iterable[str] = ()) -> dict[str, Any]:
    """An identity with another recipe and its own data set and number of processes."""
    rest = {key: value for key, value in before.items() if not key.startswith(_RECIPE)}
    renewed = {k: value for k, value in identity(recipe, {}, 0, free).items() if k.startswith(_RECIPE)}
    return {**renewed, **rest}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One phrase for each value that changed, for instance ``recipe: training.lr was 0.1, now is 0.2``."""
    absent = object()
    phrases = []
    for key in [*before, *(k for k in now if k not in before)]:
        old, new = before.get(key, absent), now.get(key, absent)
        if old is absent and key in _LATER:
            continue
        if old is absent:
            phrases.append(f"{key} is new ({_short(new)})")
        elif new is absent:
            phrases.append(f"{key} is gone (was {_short(old)})")
        elif old != new:
            phrases.append(f"{key} was {_short(old)}, now is {_short(new)}")
    return phrases


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Versions and devices on which equal bits depend, besides the run's identity."""
    return {
        "counterview": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted keys; tuples become lists, as JSON reads them back."""
    result: dict[str, Any] = {}
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            result |= flat(part, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = list(part) if isinstance(part, tuple) else part
    return result


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
