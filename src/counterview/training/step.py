"""One optimizer step: forward, backward, reduction over processes, and an error when loss or gradient is not finite."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from counterview.training.dump import not_finite, save_batches
from counterview.training.processes import mean_and_flags
from counterview.training.recipe import TrainingConfig
from counterview.training.schedule import lr_factor, set_lr
from counterview.training.task import Task, TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


class LossModule(nn.Module):
    """The task's loss as a forward pass, so that every part of the model it calls is synchronised and cast alike."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """``(loss, parts)`` of one batch; see :meth:`Task.loss`."""
        loss, parts = self.task.loss(self.model, batch)
        return loss, dict(parts)


class Stepper:
    """Takes optimizer steps.

    Args:
        accelerator: of the run.
        wrapped: a prepared :class:`LossModule`.
        optimizer: prepared; its groups have ``peak_lr``.
        config: how to train.
        out: folder in which a batch is kept whose loss or gradient is not finite.
    """

    def __init__(
        self, accelerator: Accelerator, wrapped: nn.Module, optimizer: Any, config: TrainingConfig, out: Path
    ) -> None:
        self.accelerator, self.wrapped, self.optimizer = accelerator, wrapped, optimizer
        self.config, self.out = config, out

    def step(
        self,
        group: list[Any],
        *,
        number: int,
        total_steps: int,
        stop_requested: Callable[[], bool],
        where: Mapping[str, Any],
    ) -> tuple[dict[str, float], bool]:
        """Train on this process's part of one global batch.

        Args:
            group: ``accumulate`` collated batches on the CPU.
            number: of the step, from 0.
            total_steps: of the run.
            stop_requested: whether this process got a signal.
            where: epoch and sample indices, written beside the batch if it is kept.

        Returns:
            Means over processes (``loss``, its parts) with ``lr`` and ``gradient_norm`` (before clipping; -1 where
            fp16 overflowed and the step was skipped), and whether any process was requested to stop.

        Raises:
            TrainingError: in all processes, if the loss or the gradient of one is not finite; or if, with several
                processes, some weights got no gradient and ``find_unused_parameters`` is false.
        """
        from accelerate.utils import send_to_device

        accelerator = self.accelerator
        factor = lr_factor(self.config, number, total_steps)
        set_lr(self.optimizer.param_groups, factor)
        self.optimizer.zero_grad(set_to_none=True)
        sums: list[torch.Tensor] = []
        names: list[str] = []
        for index, batch in enumerate(group):
            last = index + 1 == len(group)
            with contextlib.nullcontext() if last else accelerator.no_sync(self.wrapped):
                # What is pinned is copied while the device computes; anything else is copied at once, as by default.
                loss, parts = self._forward(send_to_device(batch, accelerator.device, non_blocking=True))
                accelerator.backward(loss / len(group))
            names = sorted(parts)
            sums.append(torch.stack([loss.detach().float(), *(parts[name].detach().float() for name in names)]))
        local = torch.stack(sums).mean(0)  # of this process: loss and its parts
        limit = math.inf if self.config.clip_norm is None else self.config.clip_norm
        gradient = torch.as_tensor(accelerator.clip_grad_norm_(self.wrapped.parameters(), limit), device=local.device)
        own = torch.cat([local, gradient.detach().float().reshape(1)]).cpu()  # the step's one wait for the device
        local_loss, norm = float(own[0]), float(own[-1])
        scaled = accelerator.scaler is not None  # fp16: the scaler skips overflowing steps by itself
        bad = not math.isfinite(local_loss) or not (math.isfinite(norm) or scaled)
        reduced = local if accelerator.num_processes > 1 else own[:-1]
        means, (any_bad, stop) = mean_and_flags(accelerator, reduced, [bad, stop_requested()])
        row = dict(zip(["loss", *names], means.tolist(), strict=True))
        if any_bad:
            self._stop(group, {"step": number + 1, **where}, row, local_loss, norm)
        self.optimizer.step()
        return {**row, "lr": self.config.lr * factor, "gradient_norm": norm if math.isfinite(norm) else -1.0}, stop

    def _forward(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        try:
            loss, parts = self.wrapped(batch)
        except RuntimeError as error:
            if "finished reduction in the prior iteration" not in str(error):
                raise
            raise TrainingError(
                "some weights got no gradient in the last step, and the processes wait for it",
                fix="Set training.find_unused_parameters to true.",
            ) from error
        return loss, parts

    def _stop(
        self, group: list[Any], where: Mapping[str, Any], row: Mapping[str, float], local_loss: float, norm: float
    ) -> None:
        accelerator = self.accelerator
        numbers = {**row, "loss_of_this_process": local_loss, "gradient_norm": norm}
        step = where["step"]
        folder = self.out / f"nan_step_{step:08d}_process_{accelerator.process_index}"
        info = {**where, "numbers": numbers, "not_finite": not_finite(accelerator.unwrap_model(self.wrapped).model)}
        save_batches(folder, group, info)
        accelerator.wait_for_everyone()
        raise TrainingError(
            f"the {'loss' if not math.isfinite(row['loss']) else 'gradient'} of step {step} is not a finite number",
            path=folder,
            found=", ".join(f"{name} {value:.4g}" for name, value in numbers.items()),
            fix="The weights were not changed. The batch is in this folder, and the last checkpoint is complete.",
        )
