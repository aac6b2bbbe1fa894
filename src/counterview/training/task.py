"""The interface between the training engine and a method.

The engine (:func:`counterview.training.fit.fit`) does not know masks or cameras. A method provides a *task*: any
object with the attributes and methods of :class:`Task`. Nothing is inherited, so that a method's package need not
import this one. ``tests/training/training_toy.py`` is a complete task in about a hundred lines.

What a task may rely on:

* Before :meth:`Task.build_model` the engine seeds the random generators of Python, NumPy and torch.
* :meth:`Task.sample` gets a generator that is a pure function of ``(seed, epoch, index)``. A sample that draws all its
  randomness from it is the same in every process, worker, and after every resume.
* :meth:`Task.loss` gets the bare model, never a wrapper: any method or part of it may be called. Forward and loss run
  under the precision of the recipe; gradients are averaged over processes whichever part of the model was called.
* Validation, sheets and :meth:`Task.finish` run with ``model.eval()`` and without gradients, on the averaged weights
  where the recipe keeps an average; the random state of training is restored afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from counterview.errors import CounterviewError
from counterview.types import RgbImage

SELECTION_METRIC = "iou"
"""The validation metric, in 0..1 or percent, whose largest value marks the best checkpoint."""


class TrainingError(CounterviewError):
    """A run that cannot continue: a loss that is not finite, a changed data set."""


class TrainingInterrupted(TrainingError):
    """A run that was stopped by SIGINT or SIGTERM and has saved a checkpoint."""

    exit_code = 130


@runtime_checkable
class Task(Protocol):
    """One method on one data set, ready to be trained.

    Build it by ``TaskClass(config)``, with ``config`` an instance of ``TaskClass.config_class``: a dataclass whose
    fields are the top-level keys of a recipe besides ``method`` and ``training`` (say ``model``, ``data``, ``loss``).
    The data set is opened in the constructor, which raises ``InputError`` where it is missing or of the wrong kind.
    With ``training.num_workers`` above 0 the task is sent to worker processes; on systems that do not fork it must
    then be picklable.

    A task may have a method ``prepare(progress)`` for long computations, such as features of all images. It is called
    once, after everything that can be checked before, and before :meth:`build_model`.

    A task may have an attribute ``free_to_change``: dotted names of configuration values that change no weight, such as
    ``"data.cache"``, and so may differ at resume.
    """

    config_class: ClassVar[type]
    config: Any

    def build_model(self) -> nn.Module:
        """The model with its initial weights, on the CPU, in float32. Frozen parts have ``requires_grad=False``.

        A model whose weights were renamed since an earlier version has a class method ``current_names(weights)``
        (:class:`counterview.nn.checkpoint.Pretrained`), by which checkpoints of that version are resumed.
        """

    def parameter_groups(self, model: nn.Module, base_lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups as ``torch.optim`` takes them, each with ``params``, ``lr``, ``weight_decay`` and ``name`` (text).

        ``lr`` is the peak of the group, for instance ``base_lr * 0.1``; the schedule scales all groups by one
        factor. Every parameter that requires a gradient is in exactly one group; the engine checks it.
        The usual split: weights of two or more dimensions decay; biases, norms and embeddings do not.
        """

    def train_length(self, epoch: int) -> int:
        """Number of training samples of an epoch, from 0. It may differ from epoch to epoch."""

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> Any:
        """Training sample ``index`` in ``[0, train_length(epoch))``; a pure function of its arguments.

        Called in shuffled order, in worker processes if the recipe has them. It uses no random generator but ``rng``.
        """

    def collate(self, samples: Sequence[Any]) -> Any:
        """A batch of one process from ``B`` samples: CPU tensors ``(B, ...)``.

        In nested dicts, lists, tuples, or objects with ``.to(device)``.
        """

    def loss(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """``(loss, parts)``: a scalar ``()`` with gradient, and scalars to be logged, the same names in every step.

        The loss is a *mean over the samples of the batch*: each sample counts ``1 / B``, also for a term that is
        zero for some (an absent target). Then the mean over processes and accumulated batches, which all have
        the same number of samples, is that of one large batch. A mean over, say, the visible targets only would
        break this. The batch is on the model's device.
        """

    def validate(self, model: nn.Module, device: torch.device, rank: int = 0, world_size: int = 1) -> Any:
        """Score this process's part of the validation data by the official protocol.

        Args:
            model: in eval mode, on ``device``, the same weights in every process.
            device: of the model.
            rank: of this process; it scores, for instance, ``items[rank::world_size]``.
            world_size: number of processes.

        Returns:
            A value that JSON can hold (no NaN), for :meth:`summarise`: rows or totals, not means.
        """

    def summarise(self, parts: Sequence[Any]) -> dict[str, float]:
        """Metrics of all validation data from the ``world_size`` results of :meth:`validate`, in rank order.

        They contain ``"iou"``, by which the best checkpoint is chosen. Undefined values are left out.
        """

    def sample_sheet(self, model: nn.Module, device: torch.device) -> RgbImage | None:
        """An image ``(H, W, 3)`` uint8 of a few validation matches, always the same ones; ``None`` for no image."""

    def fingerprint(self) -> dict[str, Any]:
        """Identity of the data set as flat JSON: counts, hashes of indices. Equal data gives equal values.

        No absolute paths and no times: a data set that was moved is the same. At resume the differences are named.
        """

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Finish the best weights before export, for instance by calibration on validation data.

        It changes ``model`` in place (buffers such as a temperature) and returns values for ``result.json``.
        Called once, in the main process only.
        """

    def model_config(self, model: nn.Module) -> dict[str, Any]:
        """Content of ``config.json``.

        With ``model.state_dict()`` in ``model.safetensors`` it is all that the model's ``from_pretrained(folder)``
        needs.
        """

    def model_card(self, model: nn.Module, metrics: Mapping[str, float]) -> str:
        """Text of ``README.md`` in the checkpoint, Markdown: what it is, how to load it, validation scores."""
