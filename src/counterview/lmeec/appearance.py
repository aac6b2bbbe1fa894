"""The appearance prompt: where in the target it looks like the object that the query shows. Ours, off by default.

LM-EEC hands the query's object on in cells of 16 pixels, in which a small object is mixed with what lies around it. SAM
2's pretrained features survive that; features learned from a few hundred takes do not. With this prompt the mean fine
feature under the query mask is compared with every fine cell (4 pixels) of the target, and the comparison is added to
what the mask decoder sees at all three of its resolutions, as SAM 2 adds a mask prompt at one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SHARPNESS = 5.0
"""Cosines are multiplied by it."""

REACH = 10.0
"""A cosine counts ten times as much as a logit of objectness."""


class AppearancePrompt(nn.Module):
    """Fine features, their comparison, and its way into the mask decoder.

    Args:
        channels: C, of the model.
        width: channels of the fine features.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(channels, width + 1, 1)
        self.coarse = nn.Conv2d(channels, width + 1, 1)
        self.to_top = nn.Conv2d(4, channels, 3, padding=1)
        self.to_half = nn.Conv2d(4, channels // 4, 1)
        self.to_quarter = nn.Conv2d(2, channels // 8, 1)
        self.to_mask = nn.Conv2d(2, 1, 1)

    def features(self, fine: Tensor, top: Tensor) -> Tensor:
        """Fine features ``(B, width + 1, 4h, 4w)`` from the finest and the coarsest map of the neck.

        The first ``width`` channels have unit length and say what a cell looks like; the last says how far it looks
        like an object at all. Apart, they need not make all objects alike to tell them from the rest.
        """
        context = functional.interpolate(self.coarse(top), scale_factor=4.0, mode="bilinear", align_corners=False)
        values = (self.fine(fine) + context).float()
        return torch.cat([functional.normalize(values[:, :-1], dim=1), values[:, -1:]], dim=1)

    def compare(self, query: Tensor, masks: Tensor, target: Tensor) -> Tensor:
        """Compare objects with pictures.

        Args:
            query: fine features of the query pictures ``(N, width + 1, s, s)``.
            masks: query masks ``(N, S, S)`` of 0 and 1.
            target: fine features of the target pictures ``(N, width + 1, s, s)``.

        Returns:
            ``(N, 2, s, s)``: how alike, and how far below the best cell by likeness and objectness together.
        """
        alike, score = _against(mean_under(query, masks), target, (0.0, 1 / REACH)).unbind(dim=1)
        best = score.amax(dim=(1, 2), keepdim=True)
        return torch.stack([SHARPNESS * alike, REACH * (score - best)], dim=1)

    def prompts(self, comparison: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is added at 1/16, 1/8 and 1/4 of the picture: ``(N, C, h, w)``, ``(N, C/4, ...)``, ``(N, C/8, ...)``."""
        return (
            self.to_top(_pooled(comparison, 4)),
            self.to_half(_pooled(comparison, 2)),
            self.to_quarter(comparison),
        )


def likeness(query: Tensor, masks: Tensor, target: Tensor) -> Tensor:
    """How likely every cell of the target shows the object under each query mask, ``(N, s, s)`` float32.

    The cosine of the query's mean feature with the cell's, and a tenth of the cell's objectness.
    """
    return _against(mean_under(query, masks), target, (1 / REACH,))[:, 0]


def mean_under(features: Tensor, masks: Tensor) -> Tensor:
    """Mean feature under each mask without objectness, at unit length, ``(N, width)``; zero under an empty mask.

    Only the cells count that the mask fills at least half as much as the fullest one.
    """
    share = functional.adaptive_avg_pool2d(masks[:, None].float(), features.shape[-1])
    share = share * (share >= share.amax(dim=(2, 3), keepdim=True) / 2)
    return functional.normalize(torch.einsum("nchw,nhw->nc", features.float(), share[:, 0])[:, :-1], dim=1)


def _against(means: Tensor, target: Tensor, objectness: tuple[float, ...]) -> Tensor:
    """Cosines of means ``(N, width)`` with every cell, plus K shares of its objectness: ``(N, K, s, s)``.

    One product with all channels: cutting off the last would cost a copy of the map, and a map of zeros backwards.
    """
    ends = means.new_tensor(objectness).expand(len(means), -1)
    ways = torch.cat([means[:, None].expand(-1, len(objectness), -1), ends[..., None]], dim=2)
    return torch.einsum("nkc,nchw->nkhw", ways, target.float())


def _pooled(comparison: Tensor, side: int) -> Tensor:
    return torch.cat([functional.max_pool2d(comparison, side), functional.avg_pool2d(comparison, side)], dim=1)
