"""Sessions on disk: one safetensors file whose header holds the rest as JSON."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from counterview.config import load_config, to_dict
from counterview.errors import CheckpointError, CounterviewError, InputError
from counterview.lmeec.memory import MemoryBank
from counterview.lmeec.session import Session
from counterview.media.files import atomic_write

if TYPE_CHECKING:
    from counterview.lmeec.model import LMEEC

FORMAT = "counterview-lmeec-session"
MAX_TRACKS = 100_000


def save_session(session: Session, path: str | os.PathLike[str]) -> None:
    """Write a session whole or not at all. See :meth:`Session.save`."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    tracks = []
    for number, ((name, camera), track) in enumerate(session.tracks.items()):
        record: dict[str, Any] = {"object": name, "camera": camera, "last": track.last}
        for view, bank in (("query", track.query), ("target", track.target)):
            record[view] = _bank_record(bank, f"{number}.{view}", tensors)
        record["pointer_numbers"] = [n for n, _ in track.pointers.pointers]
        for i, (_, pointer) in enumerate(track.pointers.pointers):
            tensors[f"{number}.pointer.{i}"] = pointer
        tracks.append(record)
    header = {
        "format": FORMAT,
        "version": 1,
        "model": session.model.fingerprint(),
        "config": to_dict(session.model.config),
        "frames": session.frames,
        "stride": session.stride,
        "autocast": None if session.autocast is None else str(session.autocast).removeprefix("torch."),
        "frame": session.frame,
        "start": session.start,
        "tracks": tracks,
    }
    content = save(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"session": json.dumps(header, ensure_ascii=False)},
    )
    with atomic_write(path) as handle:
        handle.write(content)


def load_session(model: LMEEC, path: str | os.PathLike[str]) -> Session:
    """Read a session back. See :meth:`Session.load`."""
    header, tensors = _read(Path(path))
    if header.get("model") != model.fingerprint():
        raise CheckpointError(
            "the session was saved by another model",
            path=path,
            found=f"weights and settings {str(header.get('model'))[:12]}",
            expected=model.fingerprint()[:12],
            fix="Load the model that made it, with the same settings.",
        )
    try:
        return _rebuild(model, header, tensors)
    except CounterviewError as error:
        raise CheckpointError(f"the saved session is damaged: {error}", path=path) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "the saved session is damaged", path=path, found=f"{type(error).__name__}: {str(error)[:80]}"
        ) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError("no such file", path=path)
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        header = json.loads(metadata["session"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError("is no saved session", path=path, found=type(error).__name__) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != 1:
        raise CheckpointError("is no saved session", path=path, expected=f"{FORMAT}, version 1")
    return header, tensors


def _rebuild(model: LMEEC, header: dict[str, Any], tensors: dict[str, Tensor]) -> Session:
    name = header["autocast"]
    if name not in (None, "bfloat16", "float16"):
        raise InputError("unknown precision", found=name)
    session = Session(model, header["frames"], header["stride"], None if name is None else getattr(torch, name))
    session.frame, session.start = _whole(header["frame"]), _whole(header["start"])
    records = header["tracks"]
    if not isinstance(records, list) or len(records) > MAX_TRACKS:
        raise InputError("tracks is no list", found=type(records).__name__)
    for number, record in enumerate(records):
        key = (record["object"], record["camera"])
        if not all(isinstance(text, str) for text in key) or key in session.tracks:
            raise InputError("an object stands there twice, or without a name", found=key)
        track = session._new_track()
        for view, bank in (("query", track.query), ("target", track.target)):
            _fill_bank(bank, record[view], f"{number}.{view}", tensors, model)
        track.pointers.pointers = deque(
            (int(n), _tensor(tensors, f"{number}.pointer.{i}", (model.config.channels,), model))
            for i, n in enumerate(record["pointer_numbers"])
        )
        track.last = int(record["last"])
        session.tracks[key] = track
    return session


def _bank_record(bank: MemoryBank, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for i, (entry, count) in enumerate(zip(bank.entries, bank.counts, strict=True)):
        tensors[f"{prefix}.{i}"], tensors[f"{prefix}.{i}.count"] = entry, count
    if bank.pending is not None:
        tensors[f"{prefix}.pending"] = bank.pending[1]
    return {
        "numbers": bank.numbers,
        "processed": bank.processed,
        "pending": None if bank.pending is None else bank.pending[0],
    }


def _fill_bank(bank: MemoryBank, record: dict[str, Any], prefix: str, tensors: dict[str, Tensor], model: LMEEC) -> None:
    cells = model.config.grid**2
    numbers = [int(n) for n in record["numbers"]]
    if len(numbers) > bank.size:
        raise InputError("a bank is too long", found=len(numbers), expected=f"at most {bank.size}")
    bank.numbers = numbers
    bank.entries = [_tensor(tensors, f"{prefix}.{i}", (cells, 64), model) for i in range(len(numbers))]
    bank.counts = [_tensor(tensors, f"{prefix}.{i}.count", (cells,), model) for i in range(len(numbers))]
    bank.processed = int(record["processed"])
    if record["pending"] is not None:
        bank.pending = (int(record["pending"]), _tensor(tensors, f"{prefix}.pending", (cells, 64), model))


def _tensor(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], model: LMEEC) -> Tensor:
    value = tensors[name]
    if tuple(value.shape) != shape or not torch.isfinite(value).all():
        raise InputError(f"{name} is no memory", found=tuple(value.shape), expected=shape)
    return value.to(model.device)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def saved_config(path: str | os.PathLike[str]) -> Any:
    """Configuration of the model that saved a session: which model to load for it.

    Raises:
        CheckpointError: no saved session.
    """
    from counterview.lmeec.config import LMEECConfig

    header, _ = _read(Path(path))
    try:
        return load_config(LMEECConfig, header["config"])
    except (CounterviewError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError("the saved session is damaged", path=path, found=str(error)[:120]) from None
