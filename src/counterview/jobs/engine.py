"""Where tasks are done: in this process, by processes of this machine, or by Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from counterview.errors import ConfigError

ENGINES = ("local", "ray")

TIMEOUT_S = 3600.0
"""Seconds without progress after which a task counts as hanging: longer than any task in one go should take."""


@dataclass(frozen=True)
class JobEngine:
    """Where tasks are done, and by how many processes.

    Attributes:
        kind: ``"local"``, or ``"ray"``.
        address: of the Ray cluster, such as ``10.0.0.1:6379`` or ``auto``; ``None`` for the one that ``RAY_ADDRESS``
            names, or one that is started on this machine and ends with the run.
        workers: number of processes. With one and the local engine the tasks are done in the calling process.
        timeout_s: seconds without progress after which a task is stopped, and tried again.
        worker_gpus: GPUs of a worker on Ray, in parts: with 0.5 two workers share one.

    Raises:
        ConfigError: a value out of range.
    """

    kind: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int = 1
    timeout_s: float = TIMEOUT_S
    worker_gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1 or not self.timeout_s > 0 or self.worker_gpus < 0:
            raise ConfigError(
                "the engine's settings are out of range",
                found=f"{self.workers} workers, a timeout of {self.timeout_s:g} s, {self.worker_gpus:g} GPUs a worker",
                expected="at least 1 worker, a timeout above 0, GPUs of 0 or more",
            )

    @classmethod
    def parse(cls, text: str, workers: int = 1, *, timeout_s: float = TIMEOUT_S, worker_gpus: float = 0.0) -> JobEngine:
        """The engine of the option ``--engine``.

        Args:
            text: ``local``, ``ray`` or ``ray:ADDRESS``.
            workers: number of processes.
            timeout_s: see :class:`JobEngine`.
            worker_gpus: likewise.

        Raises:
            ConfigError: another text, or a value out of range.

        >>> JobEngine.parse("ray:10.0.0.1:6379", workers=8).address
        '10.0.0.1:6379'
        """
        kind, colon, address = text.partition(":")
        if kind not in ENGINES or (colon and (kind == "local" or not address)):
            raise ConfigError("no such engine", found=repr(text), expected="local, ray or ray:ADDRESS")
        return cls(
            "ray" if kind == "ray" else "local", address or None, workers, timeout_s=timeout_s, worker_gpus=worker_gpus
        )

    @property
    def is_inline(self) -> bool:
        """Whether tasks are done in the calling process."""
        return self.kind == "local" and self.workers == 1
