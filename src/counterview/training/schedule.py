"""Learning rate as a pure function of the step, so that a checkpoint need not hold it."""

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
        total_steps: number of optimizer steps of the run.

    Returns:
        A factor in ``[0, 1]``.

    >>> config = TrainingConfig(lr=1.0, min_lr=0.0, warmup_steps=1)
    >>> [round(lr_factor(config, step, total_steps=5), 2) for step in range(6)]
    [0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
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
    """Set every parameter group's ``lr`` to its peak (``peak_lr``) times ``factor``.

    >>> groups = [{"peak_lr": 2.0}, {"peak_lr": 0.5}]
    >>> set_lr(groups, 0.5)
    >>> [group["lr"] for group in groups]
    [1.0, 0.25]
    """
    for group in groups:
        group["lr"] = group["peak_lr"] * factor


def check_groups(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check a task's parameter groups and add each one's peak rate and the names of its parameters.

    Returns:
        Groups with ``params`` (list), ``param_names``, ``name``, ``lr``, ``peak_lr``, ``weight_decay``; empty
        ones are left out.

    Raises:
        ConfigError: a trainable parameter is in two groups or in none, a group holds a frozen parameter or one of
            another model, or there is no trainable parameter.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    missing = {name for name, p in model.named_parameters() if p.requires_grad}
    grouped: set[int] = set()
    result = []
    for number, group in enumerate(groups):
        params = list(group["params"])
        label = str(group.get("name", number))
        for p in params:
            if id(p) not in names:
                raise ConfigError(f"parameter group {label!r} holds a tensor that is not a parameter of the model")
            if not p.requires_grad:
                raise ConfigError(f"parameter group {label!r} holds the frozen parameter {names[id(p)]!r}")
            if id(p) in grouped:
                raise ConfigError(f"the parameter {names[id(p)]!r} is in two parameter groups")
            grouped.add(id(p))
            missing.discard(names[id(p)])
        if params:
            extra = {"params": params, "param_names": [names[id(p)] for p in params], "name": label}
            result.append({**group, **extra, "peak_lr": float(group["lr"])})
    if missing:
        raise ConfigError(
            f"{len(missing)} trainable parameters are in no parameter group",
            found=", ".join(sorted(missing)[:5]),
            fix="Freeze them or add them to a group.",
        )
    if not result:
        raise ConfigError("the model has no trainable parameter")
    return result
