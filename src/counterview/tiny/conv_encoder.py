"""A small convolutional image encoder in the place of Hiera, for training from scratch on a CPU.

SAM 2's Hiera learns little from a few thousand images and its windows are slow on a CPU. This is a residual network
(He et al. 2016) that normalises each position by itself (Ba et al. 2016), so that images do not depend on each other
and the same surface has the same features in both views, whatever else is in the image. Beside it runs a palette:
soft histograms of colour, which distinguish objects from the first step on and from which the rest learns. It gives
the four maps that SAM 2's neck takes. No weights of SAM 2 fit it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterview.lmeec.preprocess import MEAN, STD
from counterview.tiny.follow_config import ConvConfig

OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1.6, -1.6, 0.0), (0.9, 0.9, -1.8))
"""Lightness, red against green and yellow against blue, from normalised RGB: hue counts for more than lightness."""

PALETTE_WIDTH = 0.5
"""How far a colour of the palette reaches at the start, in opponent colours."""

STRONGEST = 0.6
"""Saturation of the strongest colour of the palette, over that of pure red, green or blue: surfaces have no more."""

CANDIDATES = 4000
"""Colours from which the palette's first ones are chosen."""


@dataclass
class Maps:
    """What SAM 2's vision encoder reads of its backbone: maps ``(B, side, side, C)``, the highest resolution first."""

    last_hidden_state: Tensor
    intermediate_hidden_states: tuple[Tensor, ...]
    hidden_states: Any = None
    attentions: Any = None


class ConvBackbone(nn.Module):
    """Four stages at 1/4, 1/8, 1/16 and 1/32 of the image, each map with the palette's channels behind its own.

    With a stride of 2 they are at 1/2, 1/4, 1/8 and 1/16.

    Args:
        config: channels and blocks of the stages.
        further: channels of the input behind red, green and blue, of which the palette knows nothing.
    """

    def __init__(self, config: ConvConfig, further: int = 0) -> None:
        super().__init__()
        self.stride = config.stride
        first = config.channels[0]
        self.palette = _Palette(config.palette)
        self.mix = nn.Conv2d(config.palette, first, 1)
        self.stem = ConvLayer(3 + further, first, 7, stride=config.stride)
        self.blocks = nn.ModuleList()
        self.ends: list[int] = []
        before = first
        for channels, count in zip(config.channels, config.blocks, strict=True):
            for index in range(count):
                self.blocks.append(_EncoderBlock(before, channels, 2 if self.ends and index == 0 else 1))
                before = channels
            self.ends.append(len(self.blocks) - 1)

    def forward(self, pixel_values: Tensor, **_: Any) -> Maps:
        """Encode normalised images ``(B, 3, S, S)``, with their further channels; S is a multiple of 32.

        Returns:
            four maps ``(B, S / 4, S / 4, C)`` to ``(B, S / 32, S / 32, C)``, or twice as large.
        """
        # Convolutions on a CPU are fastest with the channels last, which is also how the neck wants the maps.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        palette = self.palette(functional.avg_pool2d(pixel_values[:, :3], 2))
        if self.stride > 2:
            palette = functional.avg_pool2d(palette, self.stride // 2)
        values = self.stem(pixel_values) + self.mix(_root(palette))
        maps = []
        for index, block in enumerate(self.blocks):
            values = block(values)
            if index in self.ends:
                maps.append(torch.cat([values, _root(palette)], dim=1).permute(0, 2, 3, 1))
                palette = functional.avg_pool2d(palette, 2)
        return Maps(maps[-1], tuple(maps))


class _Palette(nn.Module):
    """Which of a number of colours each position has, as fractions that add up to 1."""

    def __init__(self, colours: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, colours, 1)

    @torch.no_grad()
    def initialise(self) -> None:
        """Spread the colours over all that surfaces have, pale ones more densely, each far from the others."""
        opponent = torch.tensor(OPPONENT)
        grey, rgb = torch.rand(CANDIDATES, 1), torch.rand(CANDIDATES, 3)
        saturation = STRONGEST * torch.rand(CANDIDATES, 1)
        rgb = (rgb * saturation + grey * (1 - saturation) - torch.tensor(MEAN)) / torch.tensor(STD)
        candidates = rgb @ opponent.T
        distance = torch.full((CANDIDATES,), torch.inf)
        chosen = [0]
        for _ in range(self.conv.out_channels - 1):
            distance = torch.minimum(distance, (candidates - candidates[chosen[-1]]).norm(dim=1))
            chosen.append(int(distance.argmax()))
        # Minus half the squared distance, less what is the same for all colours, is linear.
        centres = candidates[chosen] / PALETTE_WIDTH**2
        self.conv.weight.copy_((centres @ opponent)[:, :, None, None])
        self.conv.bias.copy_(-(candidates[chosen] * centres).sum(dim=1) / 2)  # type: ignore[union-attr]

    def forward(self, values: Tensor) -> Tensor:
        """``(B, 3, h, w)`` normalised RGB to ``(B, colours, h, w)``."""
        return functional.softmax(self.conv(values), dim=1)


def _root(fractions: Tensor) -> Tensor:
    """Square roots: their products compare histograms as Bhattacharyya's coefficient does."""
    return (fractions + 1e-4).sqrt()


class ConvLayer(nn.Module):
    """A convolution, normalised over the channels of each position, rectified where it is active.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: its side, odd.
        stride: ``(B, inputs, H, W)`` becomes ``(B, outputs, ceil(H / stride), ceil(W / stride))``.
        active: whether it is rectified.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, active: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.LayerNorm(outputs)
        self.active = active

    def forward(self, values: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` to ``(B, outputs, H / stride, W / stride)``."""
        values = self.norm(self.conv(values).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return functional.relu(values) if self.active else values


class _EncoderBlock(nn.Module):
    """Two layers beside a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvLayer(inputs, outputs, 3, stride)
        self.second = ConvLayer(outputs, outputs, 3, active=False)
        self.shortcut = ConvLayer(inputs, outputs, 1, active=False) if (inputs, stride) != (outputs, 1) else None
        self.stride = stride

    def forward(self, values: Tensor) -> Tensor:
        identity = values
        if self.shortcut is not None:
            identity = self.shortcut(functional.avg_pool2d(values, self.stride) if self.stride > 1 else values)
        return functional.relu(identity + self.second(self.first(values)))
