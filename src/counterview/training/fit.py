"""The training loop: one for every method, from one CPU core to many machines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from counterview.config import to_dict
from counterview.errors import CheckpointError, InputError
from counterview.media.files import write_json
from counterview.media.images import write_image
from counterview.training import checkpoint as ckpt
from counterview.training.ema import WeightAverage
from counterview.training.identity import differences, environment, identity
from counterview.training.interrupt import StopSignals
from counterview.training.processes import (
    broadcast_weights,
    gather_json,
    gather_tensors,
    open_accelerator,
)
from counterview.training.randomness import preserved_random_state, random_state, seed_everything, set_random_state
from counterview.training.recipe import TrainingConfig
from counterview.training.sampler import GlobalBatchSampler, batches, epoch_order, steps_in_epoch
from counterview.training.schedule import check_groups
from counterview.training.step import LossModule, Stepper
from counterview.training.task import SELECTION_METRIC, Task, TrainingError, TrainingInterrupted
from counterview.training.trackers import Tracker, open_trackers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """Outcome of a run.

    Attributes:
        model_dir: folder with the best weights, finished, for the model's ``from_pretrained``.
        metrics: validation metrics of these weights after :meth:`Task.finish`.
        best_step: optimizer step that they come from.
        steps: optimizer steps of the whole run.
        is_main: whether this process is the one that reports.
    """

    model_dir: Path
    metrics: dict[str, float]
    best_step: int
    steps: int
    is_main: bool = True


def fit(
    task: Task,
    config: TrainingConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    allow_changes: bool = False,
    progress: bool = True,
) -> FitResult:
    """Train a task from its first weights, or from where an earlier run stopped, to an exported model.

    Folder ``out`` (seen by all machines of the run) gets ``checkpoints/``, ``train.csv``, ``validation.csv``,
    ``sheets/``, ``tensorboard/``, ``best.json`` and at the end ``model/`` and ``result.json``.

    On the CPU, with equal versions and thread counts, a run that was killed at any moment and resumed gives the
    same bytes of weights as one that was not.

    Args:
        task: the method on its data.
        config: how to train.
        out: folder of the run.
        resume: go on from the newest whole checkpoint in ``out``; start anew if there is none.
        allow_changes: resume though recipe, data set or number of processes changed; the changes are logged.
        progress: show a bar with the time left on stderr.

    Raises:
        InputError: ``out`` holds a run and ``resume`` is false, or there are no training samples.
        CheckpointError: the run was of another recipe, data set or number of processes; all of it is named.
        TrainingError: the loss is no number (the batch is saved in ``out``), or the disk is full.
        TrainingInterrupted: the run got SIGINT or SIGTERM, and saved itself.
    """
    root = Path(out)
    with ckpt.disk_errors(root):
        return _Run(task, config, root, progress).run(resume, allow_changes)


class _Run:
    def __init__(self, task: Task, config: TrainingConfig, out: Path, progress: bool) -> None:
        self.task, self.config, self.out, self.progress = task, config, out, progress
        self.checkpoints = out / "checkpoints"
        self.accelerator = open_accelerator(config)
        self.device: torch.device = self.accelerator.device
        self.main: bool = self.accelerator.is_main_process
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        values = to_dict(task.config) if dataclasses.is_dataclass(task.config) else {}
        self.recipe = {"training": to_dict(config), **values}
        self.identity = _as_json(
            identity(self.recipe, task.fingerprint(), self.world_size, getattr(task, "free_to_change", ()))
        )
        self.epoch_steps = [steps_in_epoch(task, epoch, config.batch_size) for epoch in range(config.epochs)]
        total = sum(self.epoch_steps)
        self.total_steps = total if config.max_steps is None else min(total, config.max_steps)
        # Where the run stands; all of it goes into every checkpoint.
        self.step, self.epoch, self.samples_in_epoch = 0, 0, 0
        self.best: dict[str, Any] | None = None
        self.trackers: list[Tracker] = []

    def run(self, resume: bool, allow_changes: bool) -> FitResult:
        found = self._find(resume)
        self._build(found, allow_changes)
        if self.main:
            self.trackers = open_trackers(self.out, self.config, self.recipe, self.step)
        try:
            with StopSignals() as signals:
                if found is None and self.config.validate_first:
                    self._validate(epoch=0)
                self._train(signals)
            return self._export()
        finally:
            for tracker in self.trackers:
                tracker.close()

    # ---------------------------------------------------------------------------------------------- start

    def _find(self, resume: bool) -> Path | None:
        """The checkpoint to go on from, the same in every process, chosen by the main one."""
        number, problem = -1, None
        if self.main:
            existing = ckpt.list_checkpoints(self.checkpoints)
            if existing and not resume:
                problem = "holds a run already"
            elif resume:
                found, passed_over = ckpt.latest_checkpoint(self.checkpoints)
                for error in passed_over:
                    ckpt.set_aside(Path(str(error.path)))
                number = -1 if found is None else ckpt.step_of(found)
                if found is None:
                    logger.warning("%s: nothing to resume from; the run starts at its beginning", self.out)
            ckpt.clean_up(self.checkpoints)
            ckpt.clean_up(self.out)
        answers = gather_json(self.accelerator, [number, problem])
        number, problem = answers[0]
        if problem:
            raise InputError(problem, path=self.out, fix="Use --resume to go on with it, or another --out.")
        if number < 0:
            return None
        path = ckpt.checkpoint_path(self.checkpoints, number)
        seen = gather_json(self.accelerator, path.is_dir())
        if not all(seen):
            raise CheckpointError(
                "the checkpoint is not seen by all processes",
                path=path,
                found=f"not by process {seen.index(False)}",
                fix="All machines of a run need one shared folder.",
            )
        return path

    def _build(self, found: Path | None, allow_changes: bool) -> None:
        config = self.config
        seed_everything(config.seed)
        self.model: nn.Module = self.task.build_model()
        values: dict[str, Any] = {}
        if found is not None:
            values = ckpt.read_values(found)
            self._check_identity(found, values, allow_changes)
            ckpt.load_weights(self.model, found)
        self.model.to(self.device)
        groups = check_groups(self.model, self.task.parameter_groups(self.model, config.lr, config.weight_decay))
        self.names = [name for group in groups for name in group.pop("param_names")]
        self.optimizer: Any = self.accelerator.prepare(
            torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
        )
        self.average = WeightAverage(self.model, config.ema_decay) if config.ema_decay is not None else None
        if found is not None and (found / "state" / "weights.safetensors").is_file():
            own = ckpt.read_tensors(found / "state" / "weights.safetensors")
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    if name in own:
                        parameter.copy_(own[name])
        self.wrapped = self.accelerator.prepare(LossModule(self.task, self.model))
        self.stepper = Stepper(self.accelerator, self.wrapped, self.optimizer, config, self.out)
        # Each process draws its own dropout, the same in every run.
        seed_everything(config.seed + 7919 * (self.rank + 1))
        if found is not None:
            self._restore(found, values)

    def _check_identity(self, found: Path, values: Mapping[str, Any], allow_changes: bool) -> None:
        changes = differences(values["identity"], self.identity)
        if changes and not allow_changes:
            raise CheckpointError(
                "the run was started otherwise",
                path=found,
                found="; ".join(changes),
                fix="Undo the change, start a new run, or resume with --allow-changes.",
            )
        if not self.main:
            return
        for phrase in changes:
            logger.warning("resumed with a change: %s", phrase)
        for phrase in differences(values["environment"], environment(self.device, self.config.precision)):
            logger.warning("resumed elsewhere, so that bits may differ: %s", phrase)

    def _restore(self, found: Path, values: Mapping[str, Any]) -> None:
        ckpt.load_optimizer(self.optimizer, self.names, ckpt.read_tensors(found / "state" / "optimizer.safetensors"))
        if values["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        states = ckpt.read_tensors(found / "state" / "random.safetensors")
        self.step, self.epoch = values["step"], values["epoch"]
        self.samples_in_epoch, self.best = values["samples_in_epoch"], values["best"]
        if len(states["torch"]) == self.world_size:
            set_random_state({name: state[self.rank] for name, state in states.items()}, self.device)
        else:  # as many states as there were processes fit no other number
            seed_everything(self.config.seed + 7919 * (self.rank + 1) + self.step)

    # ---------------------------------------------------------------------------------------------- loop

    def _train(self, signals: StopSignals) -> None:
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            desc="training",
            unit="step",
            dynamic_ncols=True,
            disable=not (self.progress and self.main),
        )
        with contextlib.closing(bar):
            while self.epoch < self.config.epochs and self.step < self.total_steps:
                self._train_epoch(bar, signals)

    def _train_epoch(self, bar: Any, signals: StopSignals) -> None:
        config, epoch = self.config, self.epoch
        first = self.samples_in_epoch // config.batch_size
        last = min(self.epoch_steps[epoch], first + self.total_steps - self.step)
        sampler = GlobalBatchSampler(
            epoch_order(config.seed, epoch, self.task.train_length(epoch)),
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            rank=self.rank,
            world_size=self.world_size,
            first_step=first,
            last_step=last,
        )
        loaded = batches(self.task, config.seed, epoch, sampler, config.num_workers)
        indices = iter(sampler)
        self.wrapped.train()
        for number in range(first, last):
            start = time.perf_counter()
            group = [next(loaded) for _ in range(config.accumulate)]
            row, stop = self.stepper.step(
                group,
                number=self.step,
                total_steps=self.total_steps,
                asked_to_stop=lambda: signals.asked,
                where={"epoch": epoch, "seed": config.seed, "indices": [next(indices) for _ in group]},
            )
            if self.average is not None:
                self.average.update(self.model, self.step + 1)
            row["seconds"] = time.perf_counter() - start
            self.step += 1
            self.samples_in_epoch = (number + 1) * config.batch_size
            bar.update()
            bar.set_description(f"epoch {epoch + 1}/{config.epochs}", refresh=False)
            best = f"{self.best['metrics'][SELECTION_METRIC]:.4g}" if self.best else "-"
            bar.set_postfix_str(f"loss {row['loss']:.4g}, best {SELECTION_METRIC} {best}", refresh=False)
            if self.step % config.log_every == 0 or number + 1 == last:
                self._log("train", {"epoch": epoch + 1, **row})
            if number + 1 == last:
                self.epoch, self.samples_in_epoch = epoch + 1, 0
                metrics = self._validate(epoch + 1)
                if self.best is None or metrics[SELECTION_METRIC] > self.best["metrics"][SELECTION_METRIC]:
                    self.best = {"step": self.step, "epoch": epoch + 1, "metrics": metrics}
                self._save(metrics)
            elif stop or (config.checkpoint_every and self.step % config.checkpoint_every == 0):
                self._save(self.best["metrics"] if self.best else {})
            if stop:
                raise TrainingInterrupted(
                    f"stopped after step {self.step} of {self.total_steps}",
                    path=self.out,
                    fix="All work is saved; go on with --resume.",
                )

    # ---------------------------------------------------------------------------------------------- ends of epochs

    @contextlib.contextmanager
    def _evaluating(self, averaged: bool = True) -> Iterator[None]:
        self.model.eval()
        weights = self.average.applied_to(self.model) if averaged and self.average else contextlib.nullcontext()
        with preserved_random_state(self.device), weights, torch.no_grad(), self.accelerator.autocast():
            yield
        self.wrapped.train()

    def _metrics(self) -> dict[str, float]:
        share = self.task.validate(self.model, self.device, self.rank, self.world_size)
        metrics = {k: float(v) for k, v in self.task.summarise(gather_json(self.accelerator, share)).items()}
        if not math.isfinite(metrics.get(SELECTION_METRIC, math.nan)):
            raise TrainingError(
                f"validation gave no {SELECTION_METRIC!r}", found=metrics or "nothing", fix="Check the validation data."
            )
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _validate(self, epoch: int) -> dict[str, float]:
        with self._evaluating():
            start = time.perf_counter()
            metrics = self._metrics()
            seconds = time.perf_counter() - start
            if self.main and (sheet := self.task.sample_sheet(self.model, self.device)) is not None:
                write_image(self.out / "sheets" / f"epoch_{epoch:04d}.png", sheet)
                for tracker in self.trackers:
                    tracker.image("sheet", self.step, sheet)
        self._log("validation", {"epoch": epoch, **metrics, "seconds": seconds})
        return metrics

    def _log(self, kind: str, row: Mapping[str, float | int]) -> None:
        for tracker in self.trackers:
            tracker.log(kind, self.step, row)

    def _save(self, metrics: Mapping[str, float]) -> None:
        states = gather_tensors(self.accelerator, random_state(self.device))
        if self.main:
            state: dict[str, Any] = {
                "optimizer": ckpt.optimizer_tensors(self.optimizer, self.names),
                "random": states,
            }
            if self.average is not None:
                own = self.average.weights
                state["weights"] = {n: p.detach().clone() for n, p in self.model.named_parameters() if n in own}
            scaler = self.accelerator.scaler
            values = {
                "format": 1,
                "step": self.step,
                "epoch": self.epoch,
                "samples_in_epoch": self.samples_in_epoch,
                "total_steps": self.total_steps,
                "best": self.best,
                "scaler": None if scaler is None else scaler.state_dict(),
                "identity": self.identity,
                "environment": environment(self.device, self.config.precision),
                "recipe": self.recipe,
            }
            average = self.average.applied_to(self.model) if self.average else contextlib.nullcontext()
            with average:
                ckpt.write_checkpoint(
                    ckpt.checkpoint_path(self.checkpoints, self.step),
                    weights=self.model.state_dict(),
                    config=self.task.model_config(self.model),
                    card=self.task.model_card(self.model, metrics),
                    state=state,
                    values=values,
                )
            best = set()
            if self.best is not None:
                best = {ckpt.checkpoint_path(self.checkpoints, self.best["step"]).name}
                write_json(self.out / "best.json", {"checkpoint": f"checkpoints/{min(best)}", **self.best})
            ckpt.prune(self.checkpoints, self.config.keep_last, best)
        self.accelerator.wait_for_everyone()

    def _export(self) -> FitResult:
        """Finish the weights that ``export`` names and write them to ``model/``."""
        target, result = self.out / "model", self.out / "result.json"
        best_step = self.best["step"] if self.best and self.config.export == "best" else self.step
        if self.main:
            source = ckpt.checkpoint_path(self.checkpoints, best_step)
            try:
                ckpt.verify_checkpoint(source)
            except CheckpointError as error:
                found, _ = ckpt.latest_checkpoint(self.checkpoints)
                if found is None:
                    raise
                logger.warning("the best checkpoint is damaged, the newest is exported: %s", error)
                source = found
            best_step = ckpt.step_of(source)
            ckpt.load_weights(self.model, source)
        extra: dict[str, float] = {}
        with self._evaluating(averaged=False):
            if self.main:
                extra = {k: float(v) for k, v in self.task.finish(self.model, self.device).items()}
            self.accelerator.wait_for_everyone()
            broadcast_weights(self.accelerator, self.model)
            metrics = self._metrics()
        [best_step, extra, *_], *_ = gather_json(self.accelerator, [best_step, extra])
        if self.main:
            ckpt.write_checkpoint(
                target,
                weights=self.model.state_dict(),
                config=self.task.model_config(self.model),
                card=self.task.model_card(self.model, metrics),
            )
            write_json(result, {"best_step": best_step, "steps": self.step, "metrics": metrics, "finish": extra})
        self.accelerator.wait_for_everyone()
        return FitResult(target, metrics, best_step, self.step, self.main)


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """What JSON makes of ``value``, so that it can be compared with what was read; told now, not at the first save."""
    try:
        return dict(json.loads(json.dumps(value, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise TrainingError("the recipe or the data set's fingerprint cannot be noted", found=str(error)) from None
