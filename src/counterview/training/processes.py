"""A thin layer over Accelerate: the processes of a run connect and exchange numbers without pickle."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from counterview.errors import ConfigError, MissingExtraError
from counterview.training.recipe import TrainingConfig
from counterview.training.task import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


# PyTorch raises the first from a signal handler, that is anywhere in the program.
_LOADER_KILLED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: \w+|exited unexpectedly)"
)
_PEER_LOST = re.compile(r"Connection (?:closed|reset) by peer|Broken pipe|remote process (?:exited|has)|Socket closed")


@contextlib.contextmanager
def process_errors() -> Iterator[None]:
    """Name what happened where another process of a run was killed: one that loads data, or one of torchrun.

    Raises:
        TrainingError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        loader, peer = (pattern.search(str(error)) for pattern in (_LOADER_KILLED, _PEER_LOST))
        if loader is not None:
            raise TrainingError(
                "a process that loads data was killed", found=loader[0],
                fix="Often the memory was full: try fewer training.num_workers. Continue with --resume.",
            ) from error  # fmt: skip
        if peer is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise TrainingError(
                "another process of this run has ended", found=peer[0],
                fix="Its own output says why; without any it was killed, often since the memory was full. "
                "Continue with --resume.",
            ) from error  # fmt: skip
        raise


def open_accelerator(config: TrainingConfig) -> Accelerator:
    """Accelerate's handle on device, precision and processes; torchrun's variables give the number of processes.

    Raises:
        MissingExtraError: Accelerate is not installed.
        ConfigError: the device does not support the precision.
        TrainingError: fewer processes connected than were started.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState, GradientState
    except ImportError:
        raise MissingExtraError("train", "training") from None
    on_cpu = config.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if on_cpu and config.precision == "fp16":
        raise ConfigError("training.precision 'fp16' needs a GPU", expected="'bf16' or 'no' on a CPU")
    # A second run in the same Python process may want another precision; the process group stays.
    AcceleratorState._reset_state(False)
    GradientState._reset_state()
    try:
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=config.precision,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=config.find_unused_parameters),
                # One process may write a checkpoint or calibrate while the others wait.
                InitProcessGroupKwargs(timeout=timedelta(hours=3)),
            ],
        )
    except ValueError as error:
        raise ConfigError(f"training.precision {config.precision!r} cannot be used here", found=str(error)) from None
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise TrainingError(
            "the processes did not connect",
            found=f"{accelerator.num_processes} of {started}",
            fix="Start them with python -m torch.distributed.run, which sets every variable that is needed.",
        )
    return accelerator


def gather_tensors(accelerator: Accelerator, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stack each process's tensors to ``(world_size, ...)``, in every process.

    Args:
        accelerator: of the run.
        tensors: on the CPU, of equal names and shapes ``(...)`` in every process.

    Returns:
        ``(world_size, ...)`` on the CPU, in rank order.
    """
    result = {}
    for name, tensor in tensors.items():
        if accelerator.num_processes == 1:
            result[name] = tensor[None]
        else:
            result[name] = accelerator.gather(tensor[None].to(accelerator.device)).cpu()
    return result


def gather_json(accelerator: Accelerator, value: Any) -> list[Any]:
    """Every process's ``value``, in rank order, in every process; a single process passes it through JSON as well.

    Raises:
        TrainingError: JSON cannot hold ``value``.
    """
    try:
        text = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TrainingError("a process's validation result cannot be passed on", found=str(error)) from None
    if accelerator.num_processes == 1:
        return [json.loads(text)]
    sizes = accelerator.gather(torch.tensor([len(text)], device=accelerator.device)).tolist()
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    rows = gather_tensors(accelerator, {"rows": padded})["rows"]
    return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]


def mean_and_flags(
    accelerator: Accelerator, values: torch.Tensor, flags: list[bool]
) -> tuple[torch.Tensor, list[bool]]:
    """Mean of ``values`` over processes, and for each flag whether any process set it.

    Args:
        accelerator: of the run.
        values: ``(n,)`` on the run's device; with one process, on any.
        flags: any number, the same in every process.

    Returns:
        ``(n,)`` on the CPU, and the flags.
    """
    if accelerator.num_processes == 1:
        return values.cpu(), flags
    up = torch.tensor([float(flag) for flag in flags], device=values.device, dtype=values.dtype)
    # Reduced apart from the values: a NaN among those must not hide a flag.
    means = accelerator.reduce(values, reduction="mean").cpu()
    return means, [bool(f > 0) for f in accelerator.reduce(up, reduction="sum").tolist()]


def broadcast_weights(accelerator: Accelerator, model: torch.nn.Module) -> None:
    """Give every process the main process's parameters and buffers."""
    if accelerator.num_processes > 1:
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)


def leave_processes() -> None:
    """Leave the process group at the end of a program; without a group, do nothing."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
