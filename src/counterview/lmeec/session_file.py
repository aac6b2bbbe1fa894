"""Sessions on disk: one safetensors file whose header holds the rest as JSON."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from counterview.config import load_config
from counterview.errors import CheckpointError, CounterviewError, InputError
from counterview.guard import library_errors, reason, regular_file
from counterview.lmeec.config import LMEECConfig
from counterview.lmeec.memory import MemoryBank, TrackMemory
from counterview.media.files import atomic_write

FORMAT = "counterview-lmeec-session"
MAX_TRACKS = 100_000

TrackKey = tuple[str, str]
"""Names of an object and of a target camera."""
Config = TypeVar("Config", bound=LMEECConfig)


def write_session(
    path: str | os.PathLike[str], values: Mapping[str, Any], tracks: Mapping[TrackKey, TrackMemory]
) -> None:
    """Write a session, whole or not at all.

    Args:
        path: a ``.safetensors`` file.
        values: plain values beside the tracks.
        tracks: the memories.

    Raises:
        InputError: the file cannot be written.
    """
    from safetensors.torch import save

    records, tensors = track_records(tracks)
    header = {"format": FORMAT, "version": 1, **values, "tracks": records}
    content = save(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"session": json.dumps(header, ensure_ascii=False)},
    )
    try:
        with atomic_write(path) as handle:
            handle.write(content)
    except OSError as error:
        if isinstance(error, CounterviewError):
            raise
        raise InputError("cannot be written", path=path, found=error.strerror, fix="Give another place.") from None


def track_records(tracks: Mapping[TrackKey, TrackMemory]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Memories as plain values, one record a track, and their tensors by name; :class:`SavedSession` has the inverse.

    Args:
        tracks: the memories.
    """
    tensors: dict[str, Tensor] = {}
    records = []
    for number, ((name, camera), track) in enumerate(tracks.items()):
        record: dict[str, Any] = {"object": name, "camera": camera, "last": track.last}
        for view, bank in (("query", track.query), ("target", track.target)):
            record[view] = _bank_record(bank, f"{number}.{view}", tensors)
        record["pointer_numbers"] = [n for n, _ in track.pointers.pointers]
        for i, (_, pointer) in enumerate(track.pointers.pointers):
            tensors[f"{number}.pointer.{i}"] = pointer
        records.append(record)
    return records, tensors


@dataclass(frozen=True)
class SavedSession:
    """What a file holds, read but not yet checked.

    Attributes:
        path: the file.
        values: what :func:`write_session` was given, and the records of the tracks.
        tensors: by name.
    """

    path: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @contextlib.contextmanager
    def damage_reported(self) -> Iterator[None]:
        """Turn what goes wrong while the values are used into one line.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            yield
        except CounterviewError as error:
            raise CheckpointError(f"the saved session is damaged: {error}", path=self.path) from None
        except Exception as error:
            raise CheckpointError("the saved session is damaged", path=self.path, found=reason(error)) from None

    @property
    def autocast(self) -> torch.dtype | None:
        """The precision of the session.

        Raises:
            InputError: not one that a session can have.
        """
        name = self.values["autocast"]
        if name not in (None, "bfloat16", "float16"):
            raise InputError("unknown precision", found=name)
        return None if name is None else getattr(torch, name)

    def frame_number(self, key: str) -> int | None:
        """The value of ``key``: a frame number, or ``None`` before the first frame."""
        value = self.values[key]
        return None if value is None else int(value)

    def tracks(
        self, new_track: Callable[[], TrackMemory], cells: int, channels: int, device: torch.device
    ) -> dict[TrackKey, TrackMemory]:
        """The memories.

        Args:
            new_track: makes an empty one.
            cells: of a memory, h * w.
            channels: C, of a pointer.
            device: where they are to be.

        Raises:
            InputError: records or tensors that cannot be such memories.
        """
        records = self.values["tracks"]
        if not isinstance(records, list) or len(records) > MAX_TRACKS:
            raise InputError("tracks is not a list", found=type(records).__name__)
        result: dict[TrackKey, TrackMemory] = {}
        for number, record in enumerate(records):
            key = (record["object"], record["camera"])
            if not all(isinstance(text, str) for text in key) or key in result:
                raise InputError("an object stands there twice, or without a name", found=key)
            track = new_track()
            for view, bank in (("query", track.query), ("target", track.target)):
                self._fill_bank(bank, record[view], f"{number}.{view}", cells, device)
            track.pointers.pointers = deque(
                (int(n), self._tensor(f"{number}.pointer.{i}", (channels,), device))
                for i, n in enumerate(record["pointer_numbers"])
            )
            track.last = int(record["last"])
            result[key] = track
        return result

    def _fill_bank(
        self, bank: MemoryBank, record: Mapping[str, Any], prefix: str, cells: int, device: torch.device
    ) -> None:
        numbers = [int(n) for n in record["numbers"]]
        if len(numbers) > bank.size:
            raise InputError("a bank is too long", found=len(numbers), expected=f"at most {bank.size}")
        bank.numbers = numbers
        bank.entries = [self._tensor(f"{prefix}.{i}", (cells, 64), device) for i in range(len(numbers))]
        bank.counts = [self._tensor(f"{prefix}.{i}.count", (cells,), device) for i in range(len(numbers))]
        bank.processed = int(record["processed"])
        if record["pending"] is not None:
            bank.pending = (int(record["pending"]), self._tensor(f"{prefix}.pending", (cells, 64), device))

    def _tensor(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        value = self.tensors[name]
        if tuple(value.shape) != shape or not torch.isfinite(value).all():
            raise InputError(f"{name} is not a memory", found=tuple(value.shape), expected=shape)
        return value.to(device)


def read_session(path: str | os.PathLike[str]) -> SavedSession:
    """Read what :func:`write_session` wrote.

    Raises:
        CheckpointError: missing, or not a saved session.
    """
    from safetensors import safe_open

    path = regular_file(path, CheckpointError)
    with library_errors(CheckpointError, "is not a saved session", path=path):
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        values = json.loads(metadata["session"])
    if not isinstance(values, dict) or values.get("format") != FORMAT or values.get("version") != 1:
        raise CheckpointError("is not a saved session", path=path, expected=f"{FORMAT}, version 1")
    return SavedSession(path, values, tensors)


def saved_config(path: str | os.PathLike[str], config_class: type[Config]) -> Config:
    """Configuration of the model that saved a session: which model to load for it.

    Args:
        path: the session.
        config_class: of the model: :class:`LMEECConfig`, or a subclass.

    Raises:
        CheckpointError: not a saved session, a damaged one, or one of another kind of model.
    """
    saved = read_session(path)
    with saved.damage_reported():
        return load_config(config_class, config_class.current_values(saved.values["config"]))


def _bank_record(bank: MemoryBank, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What is kept of a bank as plain values; its tensors go into ``tensors``."""
    for i, (entry, count) in enumerate(zip(bank.entries, bank.counts, strict=True)):
        tensors[f"{prefix}.{i}"], tensors[f"{prefix}.{i}.count"] = entry, count
    if bank.pending is not None:
        tensors[f"{prefix}.pending"] = bank.pending[1]
    return {
        "numbers": bank.numbers,
        "processed": bank.processed,
        "pending": None if bank.pending is None else bank.pending[0],
    }
