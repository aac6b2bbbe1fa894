"""A complete task on synthetic data: a head that learns which of several candidates a query means.

A candidate is a fixed random rotation of its query plus noise; the head has to find the rotation. Dropout and noise
draw from the random generators that a resumed run has to restore.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from counterview.errors import InputError

SIZE, CANDIDATES = 8, 6


@dataclass(frozen=True)
class ToyModelConfig:
    width: int = 16
    dropout: float = 0.1


@dataclass(frozen=True)
class ToyDataConfig:
    samples: int = 40
    seed: int = 0
    poisoned_sample: int | None = None


@dataclass(frozen=True)
class ToyConfig:
    model: ToyModelConfig = field(default_factory=ToyModelConfig)
    data: ToyDataConfig = field(default_factory=ToyDataConfig)


class ToyModel(nn.Module):
    def __init__(self, config: ToyModelConfig) -> None:
        super().__init__()
        self.frozen = nn.Linear(SIZE, SIZE).requires_grad_(False)
        self.inner = nn.Linear(SIZE, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.outer = nn.Linear(config.width, SIZE)
        self.register_buffer("temperature", torch.ones(()))

    def describe(self, query: torch.Tensor) -> torch.Tensor:
        return self.outer(self.dropout(torch.relu(self.inner(query)))) + 0 * self.frozen(query)

    def forward(self, query: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bc,bnc->bn", self.describe(query), candidates) / self.temperature


class ToyTask:
    config_class = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        if config.data.samples < 0:
            raise InputError("no such data set")
        self.config = config
        rng = np.random.default_rng(config.data.seed)
        self.rotation = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
        self.queries = rng.normal(size=(config.data.samples, SIZE))
        self.held_out = [self._make(rng.normal(size=SIZE), rng) for _ in range(30)]
        self.kill_after: int | None = None
        self.loss_calls = 0
        self.drawn: list[tuple[int, int]] = []

    def _make(self, query: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        candidates = rng.normal(size=(CANDIDATES, SIZE))
        position = int(rng.integers(CANDIDATES))
        candidates[position] = self.rotation @ query + 0.05 * rng.normal(size=SIZE)
        return {"query": query, "candidates": candidates, "position": position}

    def build_model(self) -> nn.Module:
        return ToyModel(self.config.model)

    def parameter_groups(self, model: nn.Module, base_lr: float, weight_decay: float) -> list[dict[str, Any]]:
        assert isinstance(model, ToyModel)
        weights, biases = [model.inner.weight, model.outer.weight], [model.inner.bias, model.outer.bias]
        return [
            {"name": "weights", "params": weights, "lr": base_lr, "weight_decay": weight_decay},
            {"name": "biases", "params": biases, "lr": 2 * base_lr, "weight_decay": 0.0},
        ]

    def train_length(self, epoch: int) -> int:
        return self.config.data.samples

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> dict[str, Any]:
        self.drawn.append((epoch, index))
        sample = self._make(self.queries[index], rng)
        if index == self.config.data.poisoned_sample:
            sample["candidates"] = sample["candidates"] * np.nan
        return {**sample, "index": index}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "query": torch.tensor(np.stack([s["query"] for s in samples]), dtype=torch.float32),
            "candidates": torch.tensor(np.stack([s["candidates"] for s in samples]), dtype=torch.float32),
            "position": torch.tensor([s["position"] for s in samples]),
            "note": [str(s.get("index")) for s in samples],
        }

    def loss(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        if self.kill_after is not None and self.loss_calls >= self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.loss_calls += 1
        # A part of the model, not its forward pass: the engine must synchronise that as well.
        described = model.describe(batch["query"])
        logits = torch.einsum("bc,bnc->bn", described, batch["candidates"])
        matching = nn.functional.cross_entropy(logits, batch["position"])
        size = described.square().mean()
        return matching + 0.01 * size, {"matching": matching, "size": size}

    def validate(self, model: nn.Module, device: torch.device, rank: int = 0, world_size: int = 1) -> Any:
        assert not model.training
        torch.rand(3), np.random.rand(3)  # noqa: NPY002 - validation may disturb the random state
        batch = self.collate(self.held_out[rank::world_size])
        right = model(batch["query"].to(device), batch["candidates"].to(device)).argmax(1).cpu() == batch["position"]
        return [int(right.sum()), len(right)]

    def summarise(self, parts: Sequence[Any]) -> dict[str, float]:
        return {"iou": sum(p[0] for p in parts) / sum(p[1] for p in parts)}

    def sample_sheet(self, model: nn.Module, device: torch.device) -> np.ndarray:
        return np.full((4, 6, 3), 128, dtype=np.uint8)

    def fingerprint(self) -> dict[str, Any]:
        return {"samples": self.config.data.samples, "queries": float(np.round(self.queries.sum(), 6))}

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        model.temperature.fill_(2.0)
        return {"temperature": 2.0}

    def model_config(self, model: nn.Module) -> dict[str, Any]:
        return {"width": self.config.model.width, "dropout": self.config.model.dropout}

    def model_card(self, model: nn.Module, metrics: Mapping[str, float]) -> str:
        return f"# Toy\n\n{dict(metrics)}\n"
