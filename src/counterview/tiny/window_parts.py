"""How tiny-window draws, and how it judges whether what it drew is the query's object.

SAM 2's mask decoder enlarges its maps without looking at neighbours, which features that were trained on a billion
masks allow. Features from a few thousand windows need convolutions on the way to the outline (Ronneberger et al. 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterview.tiny.conv_encoder import ConvLayer

HINTS = 4
"""Maps beside the features: two of the comparison with the query, the proposed mask, and whether there is one."""

EVIDENCE = 4
"""Numbers beside the features from which the object's presence is judged."""


class OutlineDecoder(nn.Module):
    """Mask logits from maps of three resolutions.

    Args:
        channels: C of the model.
        width: channels of the maps in which is drawn.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.at_top = nn.Sequential(ConvLayer(channels + HINTS, 2 * width, 1), ConvLayer(2 * width, 2 * width, 3))
        self.at_half = nn.Sequential(
            ConvLayer(2 * width + channels // 4 + HINTS, 2 * width, 3), ConvLayer(2 * width, width, 1)
        )
        self.at_quarter = nn.Sequential(
            ConvLayer(width + channels // 8 + HINTS, width, 3), ConvLayer(width, width, 3), nn.Conv2d(width, 1, 1)
        )

    def forward(self, top: Tensor, half: Tensor, quarter: Tensor, hints: Tensor) -> Tensor:
        """Draw.

        Args:
            top: ``(N, C, h, w)``.
            half: ``(N, C / 4, 2h, 2w)``.
            quarter: ``(N, C / 8, 4h, 4w)``.
            hints: ``(N, HINTS, 4h, 4w)``.

        Returns:
            ``(N, 1, 4h, 4w)`` logits.
        """
        hints = hints.to(quarter.dtype)
        values = self.at_top(torch.cat([top, functional.avg_pool2d(hints, 4)], dim=1))
        values = self.at_half(torch.cat([_twice(values), half, functional.avg_pool2d(hints, 2)], dim=1))
        logits: Tensor = self.at_quarter(torch.cat([_twice(values), quarter, hints], dim=1))
        return logits

    @torch.no_grad()
    def initialise(self) -> None:
        """The first logits are small: masks begin as what the model draws without this decoder."""
        last = self.at_quarter[-1]
        nn.init.normal_(last.weight, std=0.05)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]


class PresenceHead(nn.Module):
    """What the drawn mask says of the object's presence, as a number to be added to its score.

    Args:
        channels: C of the model.
        width: channels of the fine features.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels + width + EVIDENCE, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, feature: Tensor, query: Tensor, target: Tensor, drawn: Tensor) -> Tensor:
        """Judge.

        Args:
            feature: F_tar, ``(N, C, h, w)``.
            query: mean fine feature of the query object, ``(N, width)`` of length 1.
            target: that of what was drawn, ``(N, width)`` of length 1.
            drawn: probability of the mask, ``(N, 1, 4h, 4w)``, in which no gradient is wanted.

        Returns:
            ``(N,)``.
        """
        small = functional.avg_pool2d(drawn, drawn.shape[-1] // feature.shape[-1])
        pooled = (feature.float() * small).sum(dim=(2, 3)) / small.sum(dim=(2, 3)).clamp(min=1e-3)
        area = drawn.mean(dim=(1, 2, 3))
        inside = (drawn * drawn).sum(dim=(1, 2, 3)) / drawn.sum(dim=(1, 2, 3)).clamp(min=1e-3)
        cosine = (query * target).sum(dim=1)
        numbers = torch.stack([cosine, area.clamp(min=1e-4).log() / 4, inside, drawn.amax(dim=(1, 2, 3))], dim=1)
        # Products of two features of length 1 are small numbers; times the root of their number they are about 1.
        likeness = query * target * query.shape[1] ** 0.5
        score: Tensor = self.layers(torch.cat([pooled, likeness, numbers], dim=1))[:, 0]
        return score

    @torch.no_grad()
    def initialise(self) -> None:
        """It begins by saying nothing."""
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]


def _twice(values: Tensor) -> Tensor:
    """Maps ``(N, C, h, w)`` at ``(N, C, 2h, 2w)``."""
    return functional.interpolate(values, scale_factor=2.0, mode="bilinear", align_corners=False)
