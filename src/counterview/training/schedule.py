"""Learning rate as a pure function of the step: nothing to save, nothing to restore wrongly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

from counterview.errors import ConfigError
from counterview.training.recipe import TrainingConfig


def lr_factor(config: TrainingConfig, step: int, total_steps: int) -> float:
    """Learning rate of a step divided by the peak rate.

    Warm-up is linear from ``1 / (warmup_steps + 1)``. After it, with ``T`` the remaining steps, ``cosine`` is
    ``min + (peak - min) (1 + cos(pi t / T)) / 2``, the closed form of torch's ``CosineAnnealingLR`` with
    ``T_max = T``, ``linear`` falls in a straight line from peak to min, and ``constant`` stays.

    Args:
        config: gives ``lr``, ``min_lr``, ``schedule`` and ``warmup_steps``.
        step: optimizer step, from 0.
        total_steps: number of optimizer steps of the whole run.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    remaining = max(1, total_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / remaining)
    shape = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    floor = config.min_lr / config.lr
    return floor + (1 - floor) * shape


def set_lr(groups: Iterable[dict[str, Any]], factor: float) -> None:
    """Set every parameter group's ``lr`` to its peak (``peak_lr``) times ``factor``."""
    for group in groups:
        group["lr"] = group["peak_lr"] * factor


def check_groups(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check a task's parameter groups and note each one's peak rate and the names of its parameters.

    Returns:
        groups with ``params`` (list), ``param_names``, ``name``, ``lr``, ``peak_lr``, ``weight_decay``; empty
        ones are left out.

    Raises:
        ConfigError: a parameter stands in two groups, one that learns stands in none, a foreign or frozen
            one stands in some, or there is nothing to learn.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    missing = {name for name, p in model.named_parameters() if p.requires_grad}
    seen: set[int] = set()
    result = []
    for number, group in enumerate(groups):
        params = list(group["params"])
        label = str(group.get("name", number))
        for p in params:
            if id(p) not in names:
                raise ConfigError(f"parameter group {label!r} holds a tensor that is no parameter of the model")
            if not p.requires_grad:
                raise ConfigError(f"parameter group {label!r} holds the frozen parameter {names[id(p)]!r}")
            if id(p) in seen:
                raise ConfigError(f"the parameter {names[id(p)]!r} stands in two parameter groups")
            seen.add(id(p))
            missing.discard(names[id(p)])
        if params:
            extra = {"params": params, "param_names": [names[id(p)] for p in params], "name": label}
            result.append({**group, **extra, "peak_lr": float(group["lr"])})
    if missing:
        raise ConfigError(
            f"{len(missing)} parameters learn but stand in no parameter group",
            found=", ".join(sorted(missing)[:5]),
            fix="Freeze them or add them to a group.",
        )
    if not result:
        raise ConfigError("the model has no parameter that learns")
    return result
