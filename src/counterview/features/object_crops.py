"""Object crops: a square of the image around each mask, resized to one size, and a small network that describes it.

On a map of features a distant object covers a cell or two. An object crop shows every object equally large, from the
pixels of the image, with its mask and a margin around it, which distinguishes a whole object from a part of one. Ours;
neither paper has it.
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
from counterview.masks.coverage import Square, coverage
from counterview.media.pyramid import ImagePyramid
from counterview.nn.layers import ResidualBlock, conv
from counterview.types import ObjectMask, RgbImage

INPUT_PX = 64
"""Side of the network's input, in pixels."""
STORED_PX = 80
"""Side of a stored crop, in pixels. Training rotates, shifts and scales within it; inference takes its centre."""
CROP_SCALE = 1.6
"""Side of the square in the image, as a multiple of the longer side of the mask's box; four pixels are added."""
DETAIL = 4
"""Pixels of an image's level for one of a stored crop, at least, where the square has as many."""
SIZE_FEATURES = 2
"""Numbers beside the pixels: how large the object is in the image, and how much of its square it fills."""
_BATCH = 64


@dataclass(frozen=True, eq=False)
class ObjectCrops:
    """Crops around N masks of one image.

    Attributes:
        pixels: ``(N, STORED_PX, STORED_PX, 4)`` uint8: red, green, blue, and the mask from 0 to 255.
        sizes: ``(N, 2)`` float32, logarithms: the object's size in the image, and the fraction of its square that it
            fills.
    """

    pixels: NDArray[np.uint8]
    sizes: NDArray[np.float32]


def crop_objects(image: RgbImage | ImagePyramid, masks: Sequence[ObjectMask]) -> ObjectCrops:
    """Crop the squares around masks out of an image; beyond its edge the last pixels are repeated.

    A large square is cut from a level of the image's pyramid that has at least :data:`DETAIL` pixels for one of the
    crop, with its edges at whole pixels of that level, so that the cost does not depend on the size of the image.

    Args:
        image: ``(H, W, 3)`` uint8, or its pyramid.
        masks: N masks of its size. One without a pixel gives zeros.

    Raises:
        MaskError: a mask of another size.

    >>> mask = np.zeros((40, 60), dtype=bool)
    >>> mask[10:20, 30:50] = True
    >>> crops = crop_objects(np.full((40, 60, 3), 200, dtype=np.uint8), [ObjectMask.from_array(mask)])
    >>> crops.pixels.shape, crops.pixels[0, 40, 40].tolist(), crops.pixels[0, 0, 0].tolist()
    ((1, 80, 80, 4), [200, 200, 200, 255], [200, 200, 200, 0])
    """
    pyramid = image if isinstance(image, ImagePyramid) else ImagePyramid(image)
    pixels = np.zeros((len(masks), STORED_PX, STORED_PX, 4), dtype=np.uint8)
    sizes = np.zeros((len(masks), SIZE_FEATURES), dtype=np.float32)
    reduced: dict[int, Square] = {}
    for row, mask in enumerate(masks):
        size_hw = pyramid.image.shape[:2]
        if mask.size_hw != size_hw:
            raise MaskError("a mask is of another size than the image", found=mask.size_hw, expected=size_hw)
        if mask.is_empty:
            continue
        x, y, width, height = mask.box_xywh
        exact_side = CROP_SCALE * max(width, height) + 4
        side = int(np.ceil(exact_side))
        top, left = int(np.floor(y + height / 2 - exact_side / 2)), int(np.floor(x + width / 2 - exact_side / 2))
        size = side / CROP_SCALE
        sizes[row] = np.log(size) / 2 - 2, np.log(mask.area / size**2 + 1e-3) + 1.2
        level = pyramid.level_for(side / (DETAIL * STORED_PX))
        at_level = Square(*(round(px / 2**level) for px in (top, left, side)))
        square = Square(*(px * 2**level for px in (at_level.top, at_level.left, at_level.side)))
        pixels[row, ..., :3] = _image_square(pyramid.level(level), at_level)
        if side > STORED_PX:
            reduced[row] = square
        else:
            pixels[row, ..., 3] = _enlarged_mask(mask, square)
    if reduced:
        covered = coverage([masks[row] for row in reduced], list(reduced.values()), STORED_PX)
        pixels[list(reduced), ..., 3] = (covered * 255 + 0.5).astype(np.uint8)
    return ObjectCrops(pixels, sizes)


class CropSource:
    """The object crops of one image: each mask is cropped once, however often it is asked for.

    Args:
        image: ``(H, W, 3)`` uint8.
    """

    def __init__(self, image: RgbImage) -> None:
        self.pyramid = ImagePyramid(image)
        self._known: dict[int, tuple[ObjectMask, NDArray[np.uint8], NDArray[np.float32]]] = {}

    def crops(self, masks: Sequence[ObjectMask]) -> ObjectCrops:
        """:func:`crop_objects` of N masks ``(H, W)`` of the image.

        Args:
            masks: the masks; those that are the same objects in memory as in an earlier call are not cropped again.

        Raises:
            MaskError: a mask of another size.
        """
        new = [mask for mask in masks if id(mask) not in self._known]
        made = crop_objects(self.pyramid, new)
        for mask, pixels, sizes in zip(new, made.pixels, made.sizes, strict=True):
            # A mask that is kept keeps its identity.
            self._known[id(mask)] = mask, pixels, sizes
        if len(new) == len(masks):
            return made
        rows = [self._known[id(mask)] for mask in masks]
        return ObjectCrops(np.stack([row[1] for row in rows]), np.stack([row[2] for row in rows]))


def _enlarged_mask(mask: ObjectMask, square: Square) -> NDArray[np.uint8]:
    """A mask from 0 to 255 in a square that is no larger than the stored size, at the stored size."""
    x, y, width, height = mask.box_xywh
    in_square = np.zeros((square.side, square.side), dtype=np.uint8)
    rows, columns = (
        slice(first, first + count) for first, count in ((y - square.top, height), (x - square.left, width))
    )
    in_square[rows, columns] = (_mask_columns(mask, x, width) * np.uint8(255))[y : y + height]
    return _to_stored_size(in_square)


def _mask_columns(mask: ObjectMask, x: int, width: int) -> NDArray[np.uint8]:
    """Columns ``x`` to ``x + width`` of a mask, ``(H, width)`` of 0 and 1; the others are not decoded."""
    height = mask.size_hw[0]
    steps = np.zeros(width * height + 1, dtype=np.int8)
    starts, ends = mask.intervals()
    np.add.at(steps, np.clip(starts - x * height, 0, width * height), 1)
    np.subtract.at(steps, np.clip(ends - x * height, 0, width * height), 1)
    return np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8).reshape(width, height).T


def _image_square(image: NDArray[np.uint8], at: Square) -> NDArray[np.uint8]:
    """A square of an image ``(H, W, 3)`` at the stored size."""
    height, width = image.shape[:2]
    y0, x0 = max(0, at.top), max(0, at.left)
    y1, x1 = min(height, at.top + at.side), min(width, at.left + at.side)
    square = image[y0:y1, x0:x1]
    if square.shape[:2] != (at.side, at.side):
        borders = (y0 - at.top, at.top + at.side - y1, x0 - at.left, at.left + at.side - x1)
        square = np.asarray(cv2.copyMakeBorder(square, *borders, cv2.BORDER_REPLICATE), dtype=np.uint8)
    return _to_stored_size(square)


def _to_stored_size(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(S, S)`` or ``(S, S, 3)`` at the stored size."""
    method = cv2.INTER_AREA if square.shape[0] > STORED_PX else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (STORED_PX, STORED_PX), interpolation=method), dtype=np.uint8)


def centre_crop(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The network's input outside training: the centre of stored crops.

    Args:
        pixels: ``(N, STORED_PX, STORED_PX, 4)``.

    Returns:
        ``(N, INPUT_PX, INPUT_PX, 4)``, a view.
    """
    margin = (STORED_PX - INPUT_PX) // 2
    return pixels[:, margin : margin + INPUT_PX, margin : margin + INPUT_PX]


class ObjectCropNet(nn.Module):
    """Describes objects by their object crops.

    It pools each stage over the mask, and the last two stages over the whole crop (mean and maximum) as well.

    Args:
        channels: D of a descriptor.
        widths: channels at strides 2, 4, 8 and 16.
        blocks: residual blocks at strides 4, 8 and 16.
        colours: learned channels of single pixels, whose means over the mask serve as a colour histogram.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: Sequence[int], colours: int) -> None:
        super().__init__()
        first, *later = widths
        self.stem = conv(4, first, 2, 5)
        stages, before = [], first
        for width, number in zip(later, blocks, strict=True):
            stages.append(nn.Sequential(conv(before, width, 2), *(ResidualBlock(width) for _ in range(number))))
            before = width
        self.stages = nn.ModuleList(stages)
        self.colours = nn.Sequential(nn.Conv2d(3, 48, 1), nn.ReLU(), nn.Conv2d(48, colours, 1))
        # Initial channels that cover the colour cube: the usual small weights would make them nearly linear.
        nn.init.normal_(self.colours[0].weight, std=1.5)  # type: ignore[arg-type]
        nn.init.normal_(self.colours[2].weight, std=0.25)  # type: ignore[arg-type]
        pooled = colours + later[0] + 2 * later[1] + 2 * later[2] + SIZE_FEATURES
        self.norm = nn.BatchNorm1d(pooled)
        self.out = nn.Linear(pooled, channels)
        self.channels = channels

    def forward(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """Describe objects.

        Args:
            pixels: ``(N, 4, INPUT_PX, INPUT_PX)`` from 0 to 1, the mask last.
            sizes: ``(N, 2)``; see :class:`ObjectCrops`.

        Returns:
            ``(N, D)`` float32 of length ``sqrt(D)``.
        """
        rgb, mask = (pixels[:, :3] - 0.45) / 0.25, pixels[:, 3:]
        colours = functional.relu(self.colours(functional.avg_pool2d(rgb, 4)))
        # The gradient of a square root is infinite at 0; the summand bounds it.
        pooled = [(_masked_mean(colours, functional.avg_pool2d(mask, 4)) + 0.01).sqrt()]
        x = self.stem(torch.cat([rgb, mask * 2 - 1], dim=1))
        weights = functional.avg_pool2d(mask, 2)
        for number, stage in enumerate(self.stages):
            x, weights = stage(x), functional.avg_pool2d(weights, 2)
            pooled.append(_masked_mean(x, weights))
            if number == 1:
                pooled.append(x.float().mean((2, 3)))
            elif number == 2:
                pooled.append(x.float().amax((2, 3)))
        features = self.norm(torch.cat([*pooled, sizes], dim=1))
        return functional.normalize(self.out(features).float(), dim=1) * self.channels**0.5

    @torch.no_grad()
    def describe(self, crops: ObjectCrops) -> Tensor:
        """Descriptors ``(N, D)`` of N stored crops, computed in batches of 64."""
        device = self.out.weight.device
        pixels = torch.from_numpy(np.ascontiguousarray(centre_crop(crops.pixels).transpose(0, 3, 1, 2)))
        sizes = torch.from_numpy(crops.sizes)
        batches = [
            self(batch.to(device).float() / 255, batch_sizes.to(device))
            for batch, batch_sizes in zip(pixels.split(_BATCH), sizes.split(_BATCH), strict=True)
        ]
        return torch.cat(batches) if len(crops.pixels) else torch.zeros((0, self.channels), device=device)


def _masked_mean(tensor: Tensor, weights: Tensor) -> Tensor:
    """Mean of ``(N, C, h, w)`` weighted by ``(N, 1, h, w)``: ``(N, C)`` float32."""
    tensor = tensor.float()
    return (tensor * weights).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1e-3)
