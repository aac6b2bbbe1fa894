"""A running average of the weights, which is validated and exported in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of the parameters that learn.

    After step ``t`` (from 1) the average moves by ``1 - min(decay, (1 + t) / (10 + t))`` towards the weights, so that
    the initial weights are soon forgotten. Buffers and frozen parameters are those of the model.

    Args:
        model: its present parameters are the initial average.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the weights after optimizer step ``step`` (the first is 1)."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        parameters = dict(model.named_parameters())
        for name, average in self.weights.items():
            average.lerp_(parameters[name].detach(), rate)

    @contextlib.contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model has the averaged weights; after it the trained ones again, bit for bit."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.weights:
                # Contents move, not storage: optimizers and wrappers keep references to the parameters' tensors.
                trained = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name].copy_(trained)
