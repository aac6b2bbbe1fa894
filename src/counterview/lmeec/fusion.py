"""Joining memory features and cross-view features: the Memory-View Mixture of Experts, and its ablations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterview.errors import InputError


class MVMoE(nn.Module):
    """Memory-View Mixture of Experts (LM-EEC, key design 1): two routings, each a residual gate per expert.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The names are those of the released weights.
        self.mlp1, self.mlp2 = _channel_gate(channels), _channel_gate(channels)
        self.conv1, self.conv2 = _spatial_gate(channels), _spatial_gate(channels)

    def forward(self, memory: Tensor, view: Tensor) -> Tensor:
        """Join the two experts.

        Args:
            memory: F_mem, ``(B, C, H, W)``.
            view: F_view, ``(B, C, H, W)``.

        Returns:
            F_tar, ``(B, C, H, W)``.
        """
        _, _, memory, view = self._channel_routing(memory, view)
        spatial = torch.cat([memory, view], dim=1)
        return memory + memory * self.conv1(spatial) + view + view * self.conv2(spatial)

    def gates(self, memory: Tensor, view: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four gates, of memory then view: two of the channel routing, two of the spatial routing.

        ``(B, C)`` and ``(B, 1, H, W)``. Arguments as for :meth:`forward`.
        """
        channel_memory, channel_view, memory, view = self._channel_routing(memory, view)
        spatial = torch.cat([memory, view], dim=1)
        return channel_memory, channel_view, self.conv1(spatial), self.conv2(spatial)

    def _channel_routing(self, memory: Tensor, view: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pooled = torch.cat([memory.mean(dim=(2, 3)), view.mean(dim=(2, 3))], dim=1)
        for_memory, for_view = self.mlp1(pooled), self.mlp2(pooled)
        return (
            for_memory,
            for_view,
            memory + memory * for_memory[:, :, None, None],
            view + view * for_view[:, :, None, None],
        )


class Sum(nn.Module):
    """The ablation's "simple addition" (LM-EEC, ablation)."""

    def forward(self, memory: Tensor, view: Tensor) -> Tensor:
        """``memory + view``: all three ``(B, C, H, W)``."""
        return memory + view


class Concat(nn.Module):
    """A 1x1 convolution of both maps, which starts as their sum.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(2 * channels, channels, 1)
        with torch.no_grad():
            eye = torch.eye(channels)[:, :, None, None]
            self.projection.weight.copy_(torch.cat([eye, eye], dim=1))
            self.projection.bias.zero_()  # type: ignore[union-attr]

    def forward(self, memory: Tensor, view: Tensor) -> Tensor:
        """Join two maps ``(B, C, H, W)`` to one of the same shape."""
        return self.projection(torch.cat([memory, view], dim=1))


def build_fusion(kind: str, channels: int) -> nn.Module:
    """The fusion that a configuration names: ``moe``, ``add`` or ``concat``.

    Raises:
        InputError: another name.
    """
    if kind == "moe":
        return MVMoE(channels)
    if kind == "add":
        return Sum()
    if kind == "concat":
        return Concat(channels)
    raise InputError("unknown fusion", found=kind, expected="moe, add or concat")


def _channel_gate(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.Sigmoid())


def _spatial_gate(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels, 1, 1, bias=False),
        nn.Sigmoid(),
    )
