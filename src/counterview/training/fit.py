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
from counterview.errors import CheckpointError, OutputError
from counterview.media.files import write_json
from counterview.media.images import write_image
from counterview.nn.weights import read_tensors
from counterview.training import checkpoint as ckpt
from counterview.training.ema import WeightAverage
from counterview.training.identity import current_recipe, differences, environment, identity, with_recipe
from counterview.training.interrupt import StopSignals
from counterview.training.processes import (
    broadcast_weights,
    gather_json,
    gather_tensors,
    open_accelerator,
    process_errors,
)
from counterview.training.randomness import preserved_random_state, random_state, seed_everything, set_random_state
from counterview.training.recipe import TrainingConfig
from counterview.training.run_folder import RunFolder
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
        is_main: whether this is the main process, which reports.
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
    overwrite: bool = False,
    progress: bool = True,
) -> FitResult:
    """Train a task from its initial weights, or from where an earlier run stopped, to an exported model.

    Folder ``out`` (visible to all machines of the run) gets ``checkpoints/``, ``train.csv``, ``validation.csv``,
    ``sheets/``, ``tensorboard/``, ``best.json`` and at the end ``model/`` and ``result.json``.

    On the CPU, with equal versions and thread counts, a run that was killed at any moment and resumed gives the
    same weights, to the bit, as one that was not.

    Args:
        task: the method on its data.
        config: how to train.
        out: folder of the run.
        resume: continue from the newest complete checkpoint in ``out``; start from the beginning if there is none.
        allow_changes: resume although recipe, data set or number of processes changed; the changes are logged.
        overwrite: remove a run that ``out`` holds and start again, or start in a folder with other files, which stay.
        progress: show a bar with the time left on stderr.

    Returns:
        Where the exported model is, and its validation metrics.

    Raises:
        InputError: ``out`` holds a run and ``resume`` is false, or there are no training samples.
        OutputError: ``out`` holds other files, cannot be written, or another run writes there.
        CheckpointError: the run was of another recipe, data set or number of processes; every change is named.
        TrainingError: the loss is not finite, and the batch is saved in ``out``; or another process was killed.
        OutputError: the disk is full, or ``out`` cannot be written.
        TrainingInterrupted: the run got SIGINT or SIGTERM, and saved a checkpoint.
    """
    root = Path(out)
    with ckpt.disk_errors(root), process_errors():
        run = _Run(task, config, root, progress)
        with RunFolder(root, resume=resume, overwrite=overwrite) as folder:
            return run.run(folder, allow_changes)


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
        # The state of the loop; all of it goes into every checkpoint.
        self.step, self.epoch, self.samples_in_epoch = 0, 0, 0
        self.best: dict[str, Any] | None = None
        self.trackers: list[Tracker] = []

    def run(self, folder: RunFolder, allow_changes: bool) -> FitResult:
        checkpoint = self._find(folder)
        prepare = getattr(self.task, "prepare", None)
        if prepare is not None:
            prepare(self.progress)
        self._build(checkpoint, allow_changes)
        if self.main:
            self.trackers = open_trackers(self.out, self.config, self.recipe, self.step)
        try:
            with StopSignals() as signals:
                if checkpoint is None and self.config.validate_first:
                    self._validate(epoch=0)
                self._train(signals)
            return self._export()
        finally:
            for tracker in self.trackers:
                tracker.close()

    # ---------------------------------------------------------------------------------------------- start

    def _find(self, folder: RunFolder) -> Path | None:
        """The checkpoint to resume from, the same in every process, chosen by the main one."""
        number, problem, refusal = -1, None, None
        if self.main:
            try:
                number = folder.open()
            except OutputError as error:
                problem, refusal = str(error), error
        number, problem = gather_json(self.accelerator, [number, problem])[0]
        if refusal is not None:
            raise refusal
        if problem:
            raise OutputError(problem)
        if number < 0:
            return None
        path = ckpt.checkpoint_path(self.checkpoints, number)
        visible = gather_json(self.accelerator, path.is_dir())
        if not all(visible):
            raise CheckpointError(
                "the checkpoint is not visible to all processes",
                path=path,
                found=f"not visible to process {visible.index(False)}",
                fix="All machines of a run need one shared folder.",
            )
        return path

    def _build(self, checkpoint: Path | None, allow_changes: bool) -> None:
        config = self.config
        seed_everything(config.seed)
        self.model: nn.Module = self.task.build_model()
        values: dict[str, Any] = {}
        if checkpoint is not None:
            values = ckpt.read_values(checkpoint)
            self._check_identity(checkpoint, values, allow_changes)
            ckpt.load_weights(self.model, checkpoint)
        self.model.to(self.device)
        groups = check_groups(self.model, self.task.parameter_groups(self.model, config.lr, config.weight_decay))
        self.names = [name for group in groups for name in group.pop("param_names")]
        self.optimizer: Any = self.accelerator.prepare(
            torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
        )
        self.average = WeightAverage(self.model, config.ema_decay) if config.ema_decay is not None else None
        if checkpoint is not None and (checkpoint / "state" / "weights.safetensors").is_file():
            weights = ckpt.current_names(self.model, read_tensors(checkpoint / "state" / "weights.safetensors"))
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    if name in weights:
                        parameter.copy_(weights[name])
        self.wrapped = self.accelerator.prepare(LossModule(self.task, self.model))
        self.stepper = Stepper(self.accelerator, self.wrapped, self.optimizer, config, self.out)
        # Each process draws its own dropout, the same in every run.
        seed_everything(config.seed + 7919 * (self.rank + 1))
        if checkpoint is not None:
            self._restore(checkpoint, values)

    def _check_identity(self, checkpoint: Path, values: Mapping[str, Any], allow_changes: bool) -> None:
        changes = differences(values["identity"], self.identity)
        if changes and dataclasses.is_dataclass(self.task.config):
            # Keys that were renamed since are no change.
            recipe = current_recipe(values.get("recipe", {}), type(self.task.config))
            before = with_recipe(values["identity"], recipe, getattr(self.task, "free_to_change", ()))
            changes = differences(before, self.identity)
        if changes and not allow_changes:
            raise CheckpointError(
                "the run was started with other settings or data",
                path=checkpoint,
                found="; ".join(changes),
                fix="Undo the change, start a new run, or resume with --allow-changes.",
            )
        if not self.main:
            return
        for phrase in changes:
            logger.warning("resumed with a change: %s", phrase)
        for phrase in differences(values["environment"], environment(self.device, self.config.precision)):
            logger.warning("resumed elsewhere, so that bits may differ: %s", phrase)

    def _restore(self, checkpoint: Path, values: Mapping[str, Any]) -> None:
        tensors = read_tensors(checkpoint / "state" / "optimizer.safetensors")
        ckpt.load_optimizer(self.optimizer, self.names, ckpt.current_optimizer_names(self.model, tensors))
        if values["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        states = read_tensors(checkpoint / "state" / "random.safetensors")
        self.step, self.epoch = values["step"], values["epoch"]
        self.samples_in_epoch, self.best = values["samples_in_epoch"], values["best"]
        if len(states["torch"]) == self.world_size:
            set_random_state({name: state[self.rank] for name, state in states.items()}, self.device)
        else:  # saved by another number of processes
            seed_everything(self.config.seed + 7919 * (self.rank + 1) + self.step)
        if self.main:  # a run that was killed after it wrote this checkpoint has not come to that
            self._note_best()

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
        on_gpu = self.accelerator.device.type == "cuda"
        loaded = batches(self.task, config.seed, epoch, sampler, config.num_workers, pin_memory=on_gpu)
        indices = iter(sampler)
        self.wrapped.train()
        for number in range(first, last):
            start = time.perf_counter()
            group = [next(loaded) for _ in range(config.accumulate)]
            row, stop = self.stepper.step(
                group,
                number=self.step,
                total_steps=self.total_steps,
                stop_requested=lambda: signals.requested,
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
                    fix="All work is saved; continue with --resume.",
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
        result = self.task.validate(self.model, self.device, self.rank, self.world_size)
        metrics = {k: float(v) for k, v in self.task.summarise(gather_json(self.accelerator, result)).items()}
        if not math.isfinite(metrics.get(SELECTION_METRIC, math.nan)):
            raise TrainingError(
                f"validation gave no {SELECTION_METRIC!r}",
                found=metrics or "no metrics",
                fix="Check the validation data.",
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
                averaged = self.average.weights
                state["weights"] = {n: p.detach().clone() for n, p in self.model.named_parameters() if n in averaged}
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
            with self.average.applied_to(self.model) if self.average else contextlib.nullcontext():
                ckpt.write_checkpoint(
                    ckpt.checkpoint_path(self.checkpoints, self.step),
                    weights=self.model.state_dict(),
                    config=self.task.model_config(self.model),
                    card=self.task.model_card(self.model, metrics),
                    state=state,
                    values=values,
                )
            self._note_best()
        self.accelerator.wait_for_everyone()

    def _note_best(self) -> None:
        """Write ``best.json`` and remove the checkpoints that are no longer needed."""
        best = set()
        if self.best is not None:
            best = {ckpt.checkpoint_path(self.checkpoints, self.best["step"]).name}
            write_json(self.out / "best.json", {"checkpoint": f"checkpoints/{min(best)}", **self.best})
        ckpt.prune(self.checkpoints, self.config.keep_last, best)

    def _export(self) -> FitResult:
        """Finish the weights that ``training.export`` chooses and write them to ``model/``."""
        target, result = self.out / "model", self.out / "result.json"
        best_step = self.best["step"] if self.best and self.config.export == "best" else self.step
        if self.main:
            source = ckpt.checkpoint_path(self.checkpoints, best_step)
            try:
                ckpt.verify_checkpoint(source)
            except CheckpointError as error:
                newest, _ = ckpt.latest_checkpoint(self.checkpoints)
                if newest is None:
                    raise
                logger.warning("the best checkpoint is damaged, the newest is exported: %s", error)
                source = newest
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
            trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            values = {"best_step": best_step, "steps": self.step, "metrics": metrics, "finish": extra}
            write_json(result, {**values, "trainable_parameters": trainable})
        self.accelerator.wait_for_everyone()
        return FitResult(target, metrics, best_step, self.step, self.main)


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` as JSON reads it back, for comparison with a file; refused now rather than at the first save."""
    try:
        return dict(json.loads(json.dumps(value, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise TrainingError(
            "the recipe or the data set's fingerprint cannot be written as JSON", found=str(error)
        ) from None
