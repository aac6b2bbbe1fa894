"""Data order as a pure function of (seed, epoch, index), the same for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from counterview.errors import ConfigError, InputError
from counterview.training.task import Task

_ORDER, _SAMPLE = 0, 1


def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """Sample indices of an epoch in training order: ``(length,)`` int64."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(length)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator that :meth:`Task.sample` gets for a sample in an epoch."""
    return np.random.default_rng([seed, _SAMPLE, epoch, index])


def steps_in_epoch(task: Task, epoch: int, batch_size: int) -> int:
    """Optimizer steps of an epoch. An incomplete last batch is dropped; its samples are used in other epochs.

    Raises:
        InputError: there is no training sample.
        ConfigError: there are fewer samples than one batch holds.
    """
    length = task.train_length(epoch)
    if length < 1:
        raise InputError(
            "there are no training samples", found=f"0 in epoch {epoch}", fix="Check the data set and its filters."
        )
    if length < batch_size:
        raise ConfigError(
            "there are fewer training samples than one batch holds",
            found=length,
            expected=f"at least {batch_size}",
            fix="Lower training.batch_size or add data.",
        )
    return length // batch_size


class GlobalBatchSampler(Sampler[list[int]]):
    """Batches of one process: its part of every global batch, from a first step on.

    Global batch ``s`` is samples ``[s B, (s + 1) B)`` of the epoch's order. It is split into ``accumulate``
    batches, each of these into one part for each process, in rank order. So any number of processes trains on the
    same samples in the same step.

    Args:
        order: ``(N,)`` sample indices, from :func:`epoch_order`.
        batch_size: B, over all processes and accumulated batches.
        accumulate: batches of one optimizer step.
        rank: of this process.
        world_size: number of processes.
        first_step: first optimizer step of the epoch that is yielded.
        last_step: the step after the last; ``N // B`` by default.

    Yields:
        ``accumulate`` lists of ``B / (accumulate * world_size)`` indices for each step.

    Raises:
        ConfigError: ``batch_size`` cannot be split evenly.
    """

    def __init__(
        self,
        order: np.ndarray,
        *,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
        last_step: int | None = None,
    ) -> None:
        if batch_size % (accumulate * world_size):
            raise ConfigError(
                f"batch_size {batch_size} cannot be split among {world_size} processes and accumulate={accumulate}",
                fix=f"Make training.batch_size a multiple of {accumulate * world_size}.",
            )
        self.order, self.batch_size, self.accumulate = order, batch_size, accumulate
        self.rank, self.world_size = rank, world_size
        self.first_step = first_step
        self.last_step = len(order) // batch_size if last_step is None else last_step

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch_size // (self.accumulate * self.world_size)
        for step in range(self.first_step, self.last_step):
            for micro in range(self.accumulate):
                start = step * self.batch_size + (micro * self.world_size + self.rank) * part
                yield [int(i) for i in self.order[start : start + part]]


class _EpochSamples(Dataset[Any]):
    def __init__(self, task: Task, seed: int, epoch: int) -> None:
        self.task, self.seed, self.epoch = task, seed, epoch

    def __len__(self) -> int:
        return self.task.train_length(self.epoch)

    def __getitem__(self, index: int) -> Any:
        return self.task.sample(self.epoch, index, sample_rng(self.seed, self.epoch, index))


class _Collate:
    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, samples: list[Any]) -> Any:
        return self.task.collate(samples)


def batches(
    task: Task,
    seed: int,
    epoch: int,
    sampler: GlobalBatchSampler,
    num_workers: int = 0,
    *,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Batches of one process, as :meth:`Task.collate` makes them, in the order of ``sampler``.

    Args:
        task: that is trained.
        seed: of the run.
        epoch: from 0.
        sampler: of this process.
        num_workers: processes that load samples. They live for an epoch, so that they see the task as it is then.
        pin_memory: put tensors into page-locked memory, from which a GPU copies while it computes. A batch of a class
            of its own needs a method ``pin_memory`` for that.
    """
    loader = DataLoader(
        _EpochSamples(task, seed, epoch),
        batch_sampler=sampler,
        collate_fn=_Collate(task),
        num_workers=num_workers,
        pin_memory=pin_memory,
        # The loader draws a number when it starts; a separate generator leaves the global one untouched.
        generator=torch.Generator().manual_seed(seed),
    )
    return iter(loader)
