"""Recipes: one YAML file per run, with ``method``, ``training``, and the keys of the method.

method: omama
training: {epochs: 3, batch_size: 24, lr: 8.0e-5}
model: {context: true}          # this and what follows belongs to the method
data: {root: prepared/train}
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from counterview.config import MAX_PROBLEMS, joined, load_config, nearest, out_of_range, read_yaml, to_dict
from counterview.errors import ConfigError, shown
from counterview.guard import library_errors
from counterview.training.task import Task

logger = logging.getLogger(__name__)

_METHODS: dict[str, str] = {
    "omama": "counterview.omama.training.task:OMaMaTask",
    "tiny-match-maps": "counterview.tiny.training.maps_task:MapsTask",
    "tiny-match-crops": "counterview.tiny.training.crops_task:ObjectCropTask",
    "tiny-match-head": "counterview.tiny.training.head_task:TinyMatchHeadTask",
    "tiny-match-reranker": "counterview.tiny.training.reranker_task:RerankerTask",
    "lmeec": "counterview.lmeec.training.task:LMEECTask",
    "tiny-follow": "counterview.tiny.training.follow:TinyFollowTask",
    "tiny-window": "counterview.tiny.training.window_task:TinyWindowTask",
}
_UPGRADES = ("counterview.tiny.legacy:upgrade_recipe", "counterview.tiny.training.follow_legacy:upgrade_recipe")
"""What turns the values of an older recipe into those of a current one."""
_OTHERS: dict[str, type[Any]] = {}

FREE_TO_CHANGE = frozenset(
    {"checkpoint_every", "export", "keep_last", "log_every", "num_workers", "trackers", "project"}
)
"""Fields of :class:`TrainingConfig` that change no weight, and so may differ at resume."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train, independent of the method.

    Raises:
        ConfigError: values out of range; all of them in one error.
    """

    seed: int = field(default=42, metadata={"help": "Seed of initial weights, data order and augmentation."})
    epochs: int = field(default=3, metadata={"help": "Passes over the training samples."})
    max_steps: int | None = field(
        default=None, metadata={"help": "Stop at this step at the latest; the schedule ends there."}
    )
    batch_size: int = field(
        default=24, metadata={"help": "Samples per optimizer step, over all processes and accumulated batches."}
    )
    accumulate: int = field(default=1, metadata={"help": "Batches whose gradients are added up before a step."})
    lr: float = field(default=8e-5, metadata={"help": "Peak learning rate."})
    min_lr: float = field(default=1e-6, metadata={"help": "Learning rate at the end of the schedule."})
    schedule: Literal["cosine", "linear", "constant"] = field(
        default="cosine", metadata={"help": "Shape of the learning rate after warm-up, per step."}
    )
    warmup_steps: int = field(default=0, metadata={"help": "Steps of linear warm-up."})
    weight_decay: float = field(default=0.01, metadata={"help": "Decoupled weight decay of AdamW."})
    betas: tuple[float, float] = field(default=(0.9, 0.999), metadata={"help": "Decay rates of AdamW's moments."})
    eps: float = field(default=1e-8, metadata={"help": "AdamW's epsilon."})
    clip_norm: float | None = field(default=None, metadata={"help": "Largest gradient norm; null for no clipping."})
    ema_decay: float | None = field(
        default=None, metadata={"help": "Decay of the running average of the weights that is validated and exported."}
    )
    precision: Literal["no", "bf16", "fp16"] = field(
        default="no", metadata={"help": "Mixed precision; quote it in YAML, where a bare no is false."}
    )
    device: Literal["auto", "cpu"] = field(default="auto", metadata={"help": "auto uses CUDA or MPS if available."})
    find_unused_parameters: bool = field(
        default=False, metadata={"help": "Needed with several processes if some weights get no gradient in some steps."}
    )
    num_workers: int = field(default=0, metadata={"help": "Worker processes that load samples, per process."})
    validate_first: bool = field(default=False, metadata={"help": "Also validate the untrained model, as epoch 0."})
    checkpoint_every: int | None = field(
        default=None, metadata={"help": "Steps between checkpoints within an epoch; one is kept at each epoch's end."}
    )
    keep_last: int = field(default=2, metadata={"help": "Number of newest checkpoints to keep, besides the best."})
    export: Literal["best", "last"] = field(
        default="best",
        metadata={"help": "Which weights are exported to model/: those with the best validation IoU, or the last."},
    )
    log_every: int = field(default=1, metadata={"help": "Steps between log lines."})
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = field(
        default=("tensorboard",), metadata={"help": "Logs besides the CSV files, which are always written."}
    )
    project: str = field(default="counterview", metadata={"help": "Project name for wandb and trackio."})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "epochs", "batch_size", "accumulate", "keep_last", "log_every", at_least=1),
            *out_of_range(self, "max_steps", "checkpoint_every", at_least=1),
            *out_of_range(self, "seed", at_least=0, below=2**32),
            *out_of_range(self, "warmup_steps", "weight_decay", "num_workers", "min_lr", at_least=0),
            *out_of_range(self, "lr", "eps", above=0, below=float("inf")),
            *out_of_range(self, "clip_norm", above=0),
            *out_of_range(self, "ema_decay", above=0, below=1),
        ]
        if self.min_lr > self.lr:
            problems.append(f"min_lr is {self.min_lr}, expected at most lr, which is {self.lr}")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas are {self.betas}, expected each in [0, 1)")
        if self.batch_size > 0 and self.accumulate > 0 and self.batch_size % self.accumulate:
            problems.append(f"batch_size {self.batch_size} cannot be split into accumulate={self.accumulate} batches")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe: what to train and how."""

    method: str
    training: TrainingConfig
    config: Any
    """The method's configuration, an instance of its task's ``config_class``."""

    def to_dict(self) -> dict[str, Any]:
        """As in the file, with every value."""
        return {"method": self.method, "training": to_dict(self.training), **to_dict(self.config)}

    def build_task(self) -> Task:
        """Open the data set and build the task.

        Raises:
            InputError: the data set is missing or of the wrong kind.
        """
        task_class: Any = task_class_of(self.method)
        return cast(Task, task_class(self.config))


def register_method(name: str, task_class: type[Any]) -> None:
    """Make a task class trainable by recipes with ``method: name``.

    Raises:
        ConfigError: the name is one of Counterview's methods.
    """
    if name in _METHODS:
        raise ConfigError(f"the method name {name!r} is taken", fix="Choose another.")
    _OTHERS[name] = task_class


def methods() -> list[str]:
    """Names that a recipe's ``method`` may have, sorted."""
    return sorted({*_METHODS, *_OTHERS})


def task_class_of(method: str) -> type[Any]:
    """The task class of a method, imported at the first call.

    Raises:
        ConfigError: no such method.
    """
    if not isinstance(method, str):
        raise ConfigError(f"method is {shown(method)}", expected=" or ".join(methods()))
    if method in _OTHERS:
        return _OTHERS[method]
    if method not in _METHODS:
        raise ConfigError(f"method is {shown(method)} ({nearest(method, methods())})")
    return cast("type[Any]", _imported(_METHODS[method]))


def load_recipe(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and lay overrides over it.

    Args:
        source: a YAML file, or its values.
        overrides: ``key=value`` texts, for instance ``training.lr=1e-4`` or ``model.context=false``.

    Raises:
        ConfigError: one error that lists every problem of the file and the overrides.
    """
    path = None if isinstance(source, Mapping) else source
    values = copy.deepcopy(dict(source) if isinstance(source, Mapping) else read_yaml(source))
    written = values.get("method")
    for text in overrides:  # a recipe without first weights may be an earlier version's, unless they are given here
        key, _, value = text.partition("=")
        if key == "init_from" and value:
            values["init_from"] = value
    for place in _UPGRADES:
        with library_errors(ConfigError, "is not a recipe", path=path):
            values = _imported(place)(values)
    if values.get("method") != written:
        logger.warning(
            "%s: method %s of an earlier version, read as %s", path or "the recipe", written, values["method"]
        )
    groups: dict[str, list[str]] = {"method": [], "training": [], "": []}
    for text in overrides:
        key = text.partition("=")[0].partition(".")[0]
        groups[key if key in groups else ""].append(text)
    method = groups["method"][-1].partition("=")[2] if groups["method"] else values.get("method")
    if method is None:
        raise ConfigError("method is missing", path=path, expected=" or ".join(methods()))
    try:
        task_class = task_class_of(method)
    except ConfigError as error:
        raise ConfigError(str(error), path=path) from None
    known = [f.name for f in dataclasses.fields(task_class.config_class) if f.init]
    own = {key: values[key] for key in ("training",) if values.get(key) is not None}
    rest = {key: value for key, value in values.items() if key not in ("method", "training")}
    problems: list[str] = []
    for key in [key for key in rest if key not in known]:
        del rest[key]
        if len(problems) < MAX_PROBLEMS:
            name = key if isinstance(key, str) else shown(key)
            problems.append(f"unknown key {shown(key)} ({nearest(name, ['method', 'training', *known])})")
    parts: list[Any] = []
    for cls, part, texts in ((_Own, own, groups["training"]), (task_class.config_class, rest, groups[""])):
        try:
            parts.append(load_config(cls, part, texts))
        except ConfigError as error:
            problems.append(re.sub(r"^\d+ problems: ", "", str(error)))
    if problems:
        raise ConfigError(joined(problems), path=path)
    return Recipe(str(method), parts[0].training, parts[1])


def _imported(place: str) -> Any:
    """The object at ``module:name``."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass
class _Own:
    training: TrainingConfig = field(default_factory=TrainingConfig)
