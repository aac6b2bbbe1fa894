"""Resumable checkpoints: folders that are complete or absent, that record it themselves, and hold no pickle.

step_00000120/
  config.json          what the model's from_pretrained needs
  model.safetensors    weights as validated (the running average if the recipe keeps one)
  README.md
  state/trainer.json state/optimizer.safetensors state/random.safetensors [state/weights.safetensors]
  COMPLETE             written last: size and SHA-256 of every other file
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from counterview.errors import CheckpointError, InputError, OutputError, PathError
from counterview.media.files import read_json, safe_join, sha256_file, write_json
from counterview.nn.checkpoint import CONFIG_NAME, WEIGHTS_NAME, write_model
from counterview.nn.weights import check_architecture, read_tensors, write_tensors

logger = logging.getLogger(__name__)

COMPLETE = "COMPLETE"
_NAME = re.compile(r"^step_(\d{8,})$")
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
Tensors = Mapping[str, torch.Tensor]


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, or one that cannot be written, into one clear line.

    Raises:
        OutputError: names ``path``, the reason and the free space.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = _free_bytes(path)
            raise OutputError(
                "the disk is full",
                path=path,
                found="no room" if free is None else f"{free / 2**20:.0f} MiB free",
                fix="Nothing half-written was left and earlier checkpoints are complete. Free space and use --resume.",
                errno=error.errno,
            ) from None
        named = error.filename
        ours = named is None or Path(os.fsdecode(named)).is_relative_to(path.parent)
        if ours and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError("cannot be written", path=path, found=str(error), errno=error.errno) from None
        raise


def _free_bytes(path: Path) -> int | None:
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def checkpoint_path(root: Path, step: int) -> Path:
    """Folder of the checkpoint after optimizer step ``step``."""
    return root / f"step_{step:08d}"


def step_of(path: Path) -> int:
    """Step number in a checkpoint folder's name; -1 if the folder is not a checkpoint."""
    match = _NAME.match(path.name)
    return int(match.group(1)) if match else -1


def write_checkpoint(
    target: Path,
    *,
    weights: Tensors,
    config: Mapping[str, Any],
    card: str,
    state: Mapping[str, Tensors] | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder aside and rename it into place.

    Args:
        target: the folder; an older one of that name is replaced once the new one is complete.
        weights: content of ``model.safetensors``, of any shapes ``(...)`` and on any device.
        config: content of ``config.json``.
        card: content of ``README.md``.
        state: files ``state/<name>.safetensors`` and their tensors, likewise.
        values: content of ``state/trainer.json``.

    Raises:
        OutputError: the disk is full or cannot be written; an older checkpoint of that name is untouched.
    """
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with disk_errors(target):
        try:
            aside.mkdir(parents=True)
            write_model(aside, config, card, weights)
            if values is not None:
                (aside / "state").mkdir()
                write_json(aside / "state" / "trainer.json", dict(values))
                for name, tensors in (state or {}).items():
                    write_tensors(aside / "state" / f"{name}.safetensors", tensors)
            files = {}
            for path in sorted(p for p in aside.rglob("*") if p.is_file()):
                _sync(path)
                name = path.relative_to(aside).as_posix()
                files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            write_json(aside / COMPLETE, {"format": 1, "files": files})
            _sync(aside)
            if target.exists():
                old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
                target.rename(old)
                aside.rename(target)
                shutil.rmtree(old, ignore_errors=True)
            else:
                aside.rename(target)
            _sync(target.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify_checkpoint(path: Path) -> None:
    """Check that a checkpoint is complete: every file that ``COMPLETE`` names, with its size and hash.

    Raises:
        CheckpointError: names the file that is missing or differs.
    """
    if not path.is_dir():
        raise CheckpointError("no such checkpoint", path=path)
    if not (path / COMPLETE).is_file():
        raise CheckpointError("the checkpoint was never finished", path=path, expected=f"a file {COMPLETE}")
    try:
        record = read_json(path / COMPLETE)
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in record["files"].items()}
        paths = {name: safe_join(path, name) for name in files}
    except (InputError, PathError, KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"the file {COMPLETE} is damaged", path=path) from None
    for needed in (CONFIG_NAME, WEIGHTS_NAME):
        if needed not in files:
            raise CheckpointError("the checkpoint is damaged", path=path, found=f"no record of {needed}")
    for name, (size, digest) in files.items():
        file = paths[name]
        if not file.is_file():
            raise CheckpointError("the checkpoint is damaged", path=path, found=f"{name} is missing")
        if file.stat().st_size != size:
            raise CheckpointError(
                "the checkpoint is damaged",
                path=path,
                found=f"{name} has {file.stat().st_size} bytes",
                expected=f"{size} bytes",
            )
        if sha256_file(file) != digest:
            raise CheckpointError("the checkpoint is damaged", path=path, found=f"{name} has other content")


def list_checkpoints(root: Path) -> list[Path]:
    """Checkpoint folders below ``root``, newest first, complete or not."""
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if p.is_dir() and step_of(p) >= 0), key=step_of, reverse=True)


def latest_checkpoint(root: Path) -> tuple[Path | None, list[CheckpointError]]:
    """The newest complete checkpoint, and the error of each newer one that is passed over."""
    passed_over: list[CheckpointError] = []
    for path in list_checkpoints(root):
        try:
            verify_checkpoint(path)
            return path, passed_over
        except CheckpointError as error:
            passed_over.append(error)
            logger.warning("passed over a damaged checkpoint: %s", error)
    return None, passed_over


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint to ``….damaged``, so that it is neither used nor counted again."""
    aside = path.with_name(path.name + ".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def clean_up(root: Path) -> None:
    """Remove what killed processes left half-written below ``root``."""
    if root.is_dir():
        for path in root.iterdir():
            if path.is_dir() and re.match(r"^\.(step_\d{8,}|model)\.[0-9a-f]{8}\.(part|old)$", path.name):
                shutil.rmtree(path, ignore_errors=True)


def prune(root: Path, keep_last: int, keep: set[str]) -> None:
    """Remove all checkpoints but the newest ``keep_last`` and those named in ``keep``."""
    for path in list_checkpoints(root)[keep_last:]:
        if path.name not in keep:
            # COMPLETE goes first: an interrupted removal leaves nothing that looks complete.
            (path / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def read_values(path: Path) -> dict[str, Any]:
    """``state/trainer.json`` of a checkpoint.

    Raises:
        CheckpointError: the checkpoint holds no training state.
    """
    try:
        values = read_json(path / "state" / "trainer.json")
    except InputError as error:
        raise CheckpointError("holds no training state", path=path, found=error.problem) from None
    if not isinstance(values, dict) or values.get("format") != 1:
        raise CheckpointError(
            "was written by another version", path=path, found=json.dumps(values)[:60], expected="format 1"
        )
    return values


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load ``model.safetensors`` of a checkpoint of any version into ``model``, strictly.

    Raises:
        CheckpointError: the file is missing or damaged, or a weight is missing, unknown, or of another shape.
    """
    file = path / WEIGHTS_NAME
    weights = current_names(model, read_tensors(file))
    check_architecture(model, weights, file)
    model.load_state_dict(weights, strict=True)


def current_names(model: torch.nn.Module, weights: Tensors) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint of any version under the model's present names.

    A model whose weights were renamed has a class method ``current_names``
    (:class:`counterview.nn.checkpoint.Pretrained`); the names of any other model are taken as they are.

    Returns:
        The same tensors, shapes ``(...)`` unchanged.
    """
    rename = getattr(model, "current_names", None)
    return dict(weights) if rename is None else dict(rename(weights))


def current_optimizer_names(model: torch.nn.Module, tensors: Tensors) -> dict[str, torch.Tensor]:
    """What :func:`optimizer_tensors` returned in any version, ``<key>/<parameter name>``, under present names.

    Returns:
        The same tensors, shapes ``(...)`` unchanged.
    """
    by_key: dict[str, dict[str, torch.Tensor]] = {}
    for full, tensor in tensors.items():
        key, _, name = full.partition("/")
        by_key.setdefault(key, {})[name] = tensor
    return {
        f"{key}/{name}": tensor
        for key, weights in by_key.items()
        for name, tensor in current_names(model, weights).items()
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, torch.Tensor]:
    """State of an optimizer as tensors named ``<key>/<parameter name>``, for instance ``exp_avg/head.weight``.

    Args:
        optimizer: whose state.
        names: of its parameters, in the order of its groups.

    Returns:
        For AdamW: ``step`` ``()``, ``exp_avg`` and ``exp_avg_sq`` of the parameter's shape ``(...)``.
    """
    state = optimizer.state_dict()["state"]
    result = {}
    for index, entries in state.items():
        for key, value in entries.items():
            result[f"{key}/{names[index]}"] = (
                value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)
            )
    return result


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: Tensors) -> None:
    """Restore what :func:`optimizer_tensors` returned; learning rates and decay stay as configured.

    Args:
        optimizer: that gets the state.
        names: of its parameters, in the order of its groups.
        tensors: of the parameters' shapes ``(...)``; ``step`` is ``()``.

    Raises:
        CheckpointError: a tensor belongs to a parameter that the optimizer does not have.
    """
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for full, tensor in tensors.items():
        key, _, name = full.partition("/")
        if name not in index:
            raise CheckpointError(f"the optimizer's state holds {name!r}, which the model does not train")
        state.setdefault(index[name], {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
