"""Object crops: each mask's own square of the image, brought to one size, and a small network that describes it.

A map of features sees a far object as a cell or two. An object crop shows every object equally large, in the image's
own pixels, together with its mask and a margin around it, which tells a whole object from a part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from counterview.errors import MaskError
from counterview.nn.layers import ResidualBlock, conv
from counterview.types import ObjectMask, RgbImage

SIZE = 64
"""Side of what the network sees, in pixels."""
CUT = 80
"""Side of what is cut out of an image; training turns, shifts and scales within it, use takes its middle."""
REACH = 1.6
"""Side of the cut as a multiple of the longer side of the mask's box, and four pixels more."""
NUMBERS = 2
"""Numbers beside the pixels: how large the object is in the image, and how much of its square it fills."""
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Cuts:
    """Squares around N masks of one image.

    Attributes:
        pixels: ``(N, CUT, CUT, 4)`` uint8: red, green, blue, and the mask from 0 to 255.
        numbers: ``(N, 2)`` float32.
    """

    pixels: NDArray[np.uint8]
    numbers: NDArray[np.float32]


def cut(image: RgbImage, masks: Sequence[ObjectMask]) -> Cuts:
    """Cut the squares around masks out of an image; beyond its rim the last pixels are repeated.

    Args:
        image: ``(H, W, 3)`` uint8.
        masks: N masks of its size. One without a pixel gives zeros.

    Raises:
        MaskError: a mask of another size.
    """
    pixels = np.zeros((len(masks), CUT, CUT, 4), dtype=np.uint8)
    numbers = np.zeros((len(masks), NUMBERS), dtype=np.float32)
    for row, mask in enumerate(masks):
        if mask.size_hw != image.shape[:2]:
            raise MaskError("a mask is of another size than the image", found=mask.size_hw, expected=image.shape[:2])
        if mask.is_empty:
            continue
        x, y, width, height = mask.box_xywh
        reach = REACH * max(width, height) + 4
        side = int(np.ceil(reach))
        top, left = int(np.floor(y + height / 2 - reach / 2)), int(np.floor(x + width / 2 - reach / 2))
        pixels[row, ..., :3] = _square(image, top, left, side)
        inside = (_part(mask, x, width) * np.uint8(255))[y : y + height]
        whole = np.zeros((side, side), dtype=np.uint8)
        whole[y - top : y - top + height, x - left : x - left + width] = inside
        pixels[row, ..., 3] = _to_cut(whole)
        numbers[row] = np.log(side / REACH) / 2 - 2, np.log(mask.area / (side / REACH) ** 2 + 1e-3) + 1.2
    return Cuts(pixels, numbers)


def _part(mask: ObjectMask, x: int, width: int) -> NDArray[np.uint8]:
    """Columns ``x`` to ``x + width`` of a mask, ``(H, width)``; the others are never unfolded."""
    height = mask.size_hw[0]
    steps = np.zeros(width * height + 1, dtype=np.int8)
    starts, ends = mask.intervals()
    np.add.at(steps, np.clip(starts - x * height, 0, width * height), 1)
    np.subtract.at(steps, np.clip(ends - x * height, 0, width * height), 1)
    return np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8).reshape(width, height).T


def _square(image: NDArray[np.uint8], top: int, left: int, side: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(height, top + side), min(width, left + side)
    part = image[y0:y1, x0:x1]
    if part.shape[:2] != (side, side):
        rims = (y0 - top, top + side - y1, x0 - left, left + side - x1)
        part = np.asarray(cv2.copyMakeBorder(part, *rims, cv2.BORDER_REPLICATE), dtype=np.uint8)
    return _to_cut(part)


def _to_cut(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    method = cv2.INTER_AREA if square.shape[0] > CUT else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (CUT, CUT), interpolation=method), dtype=np.uint8)


def middle(cuts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the network sees of cuts ``(N, CUT, CUT, 4)`` outside training: their middle, ``(N, SIZE, SIZE, 4)``."""
    rim = (CUT - SIZE) // 2
    return cuts[:, rim : rim + SIZE, rim : rim + SIZE]


class ObjectCropNet(nn.Module):
    """Describes objects by their object crops: means of each stage over the mask, and of the last two over everything.

    Args:
        channels: of a description.
        widths: channels at strides 2, 4, 8 and 16.
        blocks: residual blocks at strides 4, 8 and 16.
        colours: learned channels of each pixel's own colour, whose means play the part of a histogram.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: Sequence[int], colours: int) -> None:
        super().__init__()
        first, *rest = widths
        self.stem = conv(4, first, 2, 5)
        stages, before = [], first
        for width, number in zip(rest, blocks, strict=True):
            stages.append(nn.Sequential(conv(before, width, 2), *(ResidualBlock(width) for _ in range(number))))
            before = width
        self.stages = nn.ModuleList(stages)
        self.colours = nn.Sequential(nn.Conv2d(3, 48, 1), nn.ReLU(), nn.Conv2d(48, colours, 1))
        # Channels that begin by covering the colour cube: the usual small weights would make them nearly linear.
        nn.init.normal_(self.colours[0].weight, std=1.5)  # type: ignore[arg-type]
        nn.init.normal_(self.colours[2].weight, std=0.25)  # type: ignore[arg-type]
        known = colours + rest[0] + 2 * rest[1] + 2 * rest[2] + NUMBERS
        self.norm = nn.BatchNorm1d(known)
        self.out = nn.Linear(known, channels)
        self.channels = channels

    def forward(self, pixels: Tensor, numbers: Tensor) -> Tensor:
        """Descriptions ``(N, channels)`` float32 of length ``sqrt(channels)``.

        Args:
            pixels: ``(N, 4, SIZE, SIZE)`` from 0 to 1, the mask last.
            numbers: ``(N, 2)``.
        """
        colours, mask = (pixels[:, :3] - 0.45) / 0.25, pixels[:, 3:]
        quarter = functional.avg_pool2d(mask, 4)
        own = functional.relu(self.colours(functional.avg_pool2d(colours, 4)))
        # The root of what may be 0 has no gradient there; the summand keeps it from growing without bounds.
        parts = [(_mean(own, quarter) + 0.01).sqrt()]
        x = self.stem(torch.cat([colours, mask * 2 - 1], dim=1))
        inside = functional.avg_pool2d(mask, 2)
        for number, stage in enumerate(self.stages):
            x, inside = stage(x), functional.avg_pool2d(inside, 2)
            parts.append(_mean(x, inside))
            if number == 1:
                parts.append(x.float().mean((2, 3)))
            elif number == 2:
                parts.append(x.float().amax((2, 3)))
        known = self.norm(torch.cat([*parts, numbers], dim=1))
        return functional.normalize(self.out(known).float(), dim=1) * self.channels**0.5

    @torch.no_grad()
    def describe(self, cuts: Cuts) -> Tensor:
        """Descriptions of cuts, ``(N, channels)``, a few dozen at a time."""
        device = self.out.weight.device
        seen = torch.from_numpy(np.ascontiguousarray(middle(cuts.pixels).transpose(0, 3, 1, 2)))
        numbers = torch.from_numpy(cuts.numbers)
        parts = [
            self(pixels.to(device).float() / 255, sizes.to(device))
            for pixels, sizes in zip(seen.split(_BATCH), numbers.split(_BATCH), strict=True)
        ]
        return torch.cat(parts) if len(cuts.pixels) else torch.zeros((0, self.channels), device=device)


def _mean(tensor: Tensor, weights: Tensor) -> Tensor:
    """Mean of ``(N, C, h, w)`` weighted by ``(N, 1, h, w)``: ``(N, C)`` float32."""
    tensor = tensor.float()
    return (tensor * weights).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1e-3)
