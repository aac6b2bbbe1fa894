"""The appearance prompt: which cells of the target look like the object under the query mask.

LM-EEC hands the query's object on in cells of 16 pixels, in which a small object is mixed with its surroundings. SAM
2's pretrained features survive that; features learned from a few hundred takes do not. With this prompt the mean fine
feature under the query mask is compared with every fine cell (4 pixels) of the target, and the comparison is added to
what the mask decoder sees at all three of its resolutions, as SAM 2 adds a mask prompt at one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SHARPNESS = 5.0
"""Cosines are multiplied by it."""

REACH = 10.0
"""A cosine counts ten times as much as a logit of objectness."""


@dataclass(frozen=True)
class FineMaps:
    """Fine features of B images, read by N tracks.

    A map is many times larger than what is read of it, so it is not copied for each of its tracks: they are all read
    in one product.

    Attributes:
        maps: ``(B, width + 1, s, s)``.
        rows: ``(N,)`` int64, the image of each track.
    """

    maps: Tensor
    rows: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> FineMaps:
        """One track for each of the images of ``maps`` ``(B, width + 1, s, s)``."""
        return cls(maps, torch.arange(len(maps), device=maps.device))

    @classmethod
    def join(cls, parts: Sequence[FineMaps]) -> FineMaps:
        """The tracks of all ``parts``, one after the other."""
        before = [sum(len(part.maps) for part in parts[:index]) for index in range(len(parts))]
        return cls(
            torch.cat([part.maps for part in parts]),
            torch.cat([part.rows + first for part, first in zip(parts, before, strict=True)]),
        )

    def pick(self, index: Tensor | Sequence[int]) -> FineMaps:
        """The tracks of ``index`` ``(M,)``, repeated as it says."""
        return FineMaps(self.maps, self.rows[torch.as_tensor(index, device=self.rows.device)])

    @property
    def side(self) -> int:
        """s, in cells."""
        return self.maps.shape[-1]

    def under(self, weights: Tensor) -> Tensor:
        """Sums ``(N, width + 1)`` over the cells of each track's image, weighted by ``weights`` ``(N, s, s)``."""
        slots = self._slots()
        return self._spread(weights.flatten(1), slots).bmm(self.maps.float().flatten(2).transpose(1, 2))[slots]

    def along(self, directions: Tensor) -> Tensor:
        """Products of ``directions`` ``(N, K, width + 1)`` with every cell of each track's image: ``(N, K, s, s)``."""
        slots, count = self._slots(), directions.shape[1]
        spread = self._spread(directions, slots)
        products = spread.flatten(1, 2).bmm(self.maps.float().flatten(2))
        return products.unflatten(1, (-1, count))[slots].unflatten(2, (self.side, self.side))

    def _slots(self) -> tuple[Tensor, Tensor]:
        """Image of each track, and its number among the tracks of this image: ``(N,)`` both."""
        same = self.rows[:, None] == self.rows
        return self.rows, same.tril(-1).sum(dim=1)

    def _spread(self, values: Tensor, slots: tuple[Tensor, Tensor]) -> Tensor:
        """``(N, ...)`` as ``(B, most tracks of an image, ...)``, filled up with zeros."""
        most = int(slots[1].max()) + 1 if len(slots[1]) else 0
        return values.new_zeros(len(self.maps), most, *values.shape[1:]).index_put(slots, values)


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
        """Fine features of images.

        The first ``width`` channels have unit length and describe the appearance of a cell; the last is its
        objectness. Apart from each other, they need not make all objects alike to set them off from the rest.

        Args:
            fine: the neck's map of highest resolution, ``(B, C, 4h, 4w)``.
            top: its map of lowest resolution, ``(B, C, h, w)``.

        Returns:
            ``(B, width + 1, 4h, 4w)`` float32.
        """
        context = functional.interpolate(self.coarse(top), scale_factor=4.0, mode="bilinear", align_corners=False)
        values = (self.fine(fine) + context).float()
        return torch.cat([functional.normalize(values[:, :-1], dim=1), values[:, -1:]], dim=1)

    def compare(self, query: FineMaps, masks: Tensor, target: FineMaps) -> Tensor:
        """Compare objects with images.

        Args:
            query: fine features of the N tracks' query images.
            masks: query masks ``(N, S, S)`` of 0 and 1.
            target: fine features of their target images.

        Returns:
            ``(N, 2, s, s)``: the scaled cosine, and how far the cell is below the best one by cosine and objectness
            together.
        """
        alike, score = _against(mean_under(query, masks), target, (0.0, 1 / REACH)).unbind(dim=1)
        best = score.amax(dim=(1, 2), keepdim=True)
        return torch.stack([SHARPNESS * alike, REACH * (score - best)], dim=1)

    def prompts(self, comparison: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is added to the decoder's inputs, from a comparison ``(N, 2, 4h, 4w)``.

        Returns:
            ``(N, C, h, w)``, ``(N, C / 4, 2h, 2w)`` and ``(N, C / 8, 4h, 4w)``.
        """
        return (
            self.to_top(_pooled(comparison, 4)),
            self.to_half(_pooled(comparison, 2)),
            self.to_quarter(comparison),
        )


def likeness(query: FineMaps, masks: Tensor, target: FineMaps) -> Tensor:
    """How much each cell of the target looks like the object under each query mask.

    The cosine of the query's mean feature with the cell's, and a tenth of the cell's objectness.

    Args:
        query: fine features of the N tracks' query images.
        masks: query masks ``(N, S, S)`` of 0 and 1.
        target: fine features of their target images.

    Returns:
        ``(N, s, s)`` float32.
    """
    return _against(mean_under(query, masks), target, (1 / REACH,))[:, 0]


def mean_under(features: FineMaps, masks: Tensor) -> Tensor:
    """Mean feature under each mask ``(N, S, S)``, without objectness.

    Only the cells count that the mask fills at least half as much as the fullest one.

    Returns:
        ``(N, width)`` at unit length; zero under an empty mask.
    """
    coverage = functional.adaptive_avg_pool2d(masks[:, None].float(), features.side)[:, 0]
    coverage = coverage * (coverage >= coverage.amax(dim=(1, 2), keepdim=True) / 2)
    return functional.normalize(features.under(coverage)[:, :-1].float(), dim=1)


def _against(means: Tensor, target: FineMaps, objectness: tuple[float, ...]) -> Tensor:
    """Cosines of means ``(N, width)`` with every cell, plus its objectness times each of K weights: ``(N, K, s, s)``.

    One product with all channels: cutting off the last would cost a copy of the map, and a map of zeros backwards.
    """
    ends = means.new_tensor(objectness).expand(len(means), -1)
    return target.along(torch.cat([means[:, None].expand(-1, len(objectness), -1), ends[..., None]], dim=2))


def _pooled(comparison: Tensor, side: int) -> Tensor:
    """Maximum and mean over squares of ``side`` cells: ``(N, 2, s, s)`` to ``(N, 4, s / side, s / side)``."""
    return torch.cat([functional.max_pool2d(comparison, side), functional.avg_pool2d(comparison, side)], dim=1)
