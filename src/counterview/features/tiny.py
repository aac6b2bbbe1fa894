"""``tiny``: Counterview's own small convolutional features, trained for ``tiny-match`` on rendered takes.

Three maps of an image: *colours* at half the input's size (learned channels of single pixels), *fine* features at a
quarter, and the *map* at an eighth, which attention and context read. An object is described by its object crop
(:mod:`counterview.features.object_crops`) if the network has them, as the bundled one does. Otherwise by

- the square roots of the means of its colour channels, which serve as a histogram,
- the means of fine features and map over the mask, and over a ring around it, a quarter of the object's size wide,
  which distinguishes a whole object from a part of one,
- six numbers of its shape,

normalised over the objects of training (batch normalisation), and computed from the mask at half the input's size, the
same way in training and at inference. A plain colour histogram of the image's pixels can be appended to either
(``histogram``); nothing of it is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from counterview.config import out_of_range
from counterview.errors import ConfigError, shown
from counterview.features import pooling
from counterview.features.base import Fallback, FeatureMap, PoolingKind
from counterview.features.colour import LENGTH, LabBins, histograms
from counterview.features.colour_transfer import recoloured
from counterview.features.object_crops import CropSource, ObjectCropNet, ObjectCrops
from counterview.features.tiny_pooling import MASK_STRIDE, SHAPE_FEATURES, TinyMaps, pool_masks, sample_masks
from counterview.nn.layers import ResidualBlock, conv
from counterview.nn.weights import weights_fingerprint
from counterview.types import ObjectMask, RgbImage, as_rgb

MAX_CHANNELS, MAX_BLOCKS = 4096, 64
"""Widths of layers, and blocks of a stage, at most."""
HISTOGRAM_PX = 800
"""Longer side down to which an image is halved, as often as it goes, before colours are counted: that of most images of
training. Twice as large an image has no other colours."""
STRIDE = 8
"""Pixels of the input from one cell of the map to the next."""


@dataclass(frozen=True)
class TinyConfig:
    """Architecture of :class:`TinyNet` and the size of its input.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    widths: tuple[int, int, int, int, int] = field(
        default=(32, 48, 96, 192, 256), metadata={"help": "channels at strides 2, 4, 8, 16 and 32"}
    )
    blocks: tuple[int, int, int, int] = field(
        default=(1, 2, 2, 1), metadata={"help": "residual blocks at strides 4, 8, 16 and 32"}
    )
    channels: int = field(default=128, metadata={"help": "channels of the map"})
    fine: int = field(default=64, metadata={"help": "channels of the fine features"})
    colours: int = field(default=64, metadata={"help": "learned colour channels"})
    histogram: float = field(
        default=0.0,
        metadata={"help": "weight of a plain colour histogram beside the learned descriptor; 0: no histogram"},
    )
    object_crops: int = field(
        default=0,
        metadata={
            "help": "channels of the object-crop descriptor, which replaces means over the maps; 0: no object crops",
            "formerly": ("close_ups",),
        },
    )
    crop_widths: tuple[int, int, int, int] = field(
        default=(24, 48, 96, 192),
        metadata={"help": "its channels at strides 2, 4, 8 and 16", "formerly": ("close_up_widths",)},
    )
    crop_blocks: tuple[int, int, int] = field(
        default=(1, 2, 2),
        metadata={"help": "its residual blocks at strides 4, 8 and 16", "formerly": ("close_up_blocks",)},
    )
    longest_side_px: int = field(default=800, metadata={"help": "larger images are scaled down to this longer side"})

    def __post_init__(self) -> None:
        problems = out_of_range(self, "channels", "fine", "colours", at_least=1, at_most=MAX_CHANNELS)
        for name, count, least, most in (
            ("widths", 5, 1, MAX_CHANNELS),
            ("blocks", 4, 0, MAX_BLOCKS),
            ("crop_widths", 4, 1, MAX_CHANNELS),
            ("crop_blocks", 3, 0, MAX_BLOCKS),
        ):
            numbers = getattr(self, name)
            if len(numbers) != count or not all(least <= number <= most for number in numbers):
                problems.append(f"{name} is {shown(numbers)}, expected {count} numbers from {least} to {most}")
        problems += out_of_range(self, "object_crops", at_least=0, at_most=MAX_CHANNELS)
        problems += out_of_range(self, "histogram", at_least=0, below=100)
        problems += out_of_range(self, "longest_side_px", at_least=32, at_most=16_384)
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def pooled_channels(self) -> int:
        """Channels of what :func:`pool_masks` returns."""
        return self.colours + 2 * (self.fine + self.channels) + SHAPE_FEATURES

    @property
    def learned_channels(self) -> int:
        """Channels of an object's descriptor without the histogram."""
        return self.object_crops or self.pooled_channels

    @property
    def object_channels(self) -> int:
        """Channels of an object's descriptor."""
        return self.learned_channels + (LENGTH if self.histogram else 0)


class TinyNet(nn.Module):
    """A residual convolutional network with a feature pyramid.

    Args:
        config: its architecture.
    """

    def __init__(self, config: TinyConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TinyConfig()
        first, *widths = config.widths
        self.stem = conv(3, first, 2)
        stages, before = [], first
        for width, blocks in zip(widths, config.blocks, strict=True):
            stages.append(nn.Sequential(conv(before, width, 2), *(ResidualBlock(width) for _ in range(blocks))))
            before = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Conv2d(width, config.channels, 1) for width in widths[1:])
        self.smooth = conv(config.channels, config.channels)
        self.fine_lateral = nn.Conv2d(widths[0], config.fine, 1)
        self.fine_above = nn.Conv2d(config.channels, config.fine, 1)
        self.fine_smooth = conv(config.fine, config.fine)
        self.colours = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, config.colours, 1))
        # Means of positive channels are all similar; without their common part, cosines distinguish objects.
        self.norm = nn.BatchNorm1d(config.pooled_channels)
        ring, shape = config.fine + config.channels, SHAPE_FEATURES
        with torch.no_grad():
            self.norm.weight[-ring - shape : -shape] = 0.4
        if config.object_crops:
            self.object_crops = ObjectCropNet(
                config.object_crops, config.crop_widths, config.crop_blocks, config.colours
            )
        # Initial channels that cover the colour cube: the usual small weights would make them nearly linear.
        nn.init.normal_(self.colours[0].weight, std=1.5)  # type: ignore[arg-type]
        nn.init.normal_(self.colours[2].weight, std=0.25)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor) -> TinyMaps:
        """Maps of images ``(B, 3, H, W)`` with values from 0 to 1; sides are multiples of 32."""
        centred = (pixels - 0.45) / 0.25
        # Not normalised by a softmax, which over so many pixels would cost as much as everything else.
        colours = functional.relu(self.colours(functional.avg_pool2d(centred, MASK_STRIDE)))
        first, features = self._pyramid(centred)
        fine = self.fine_lateral(first)
        fine = self.fine_smooth(fine + _upsample(self.fine_above(features), fine))
        return TinyMaps(colours, fine, features)

    def map_alone(self, pixels: Tensor) -> TinyMaps:
        """The map of images as :meth:`forward` has it, with empty colours and fine features: crops read neither."""
        features = self._pyramid((pixels - 0.45) / 0.25)[1]
        empty = features.new_zeros((len(features), 0, 0, 0))
        return TinyMaps(empty, empty, features)

    def _pyramid(self, centred: Tensor) -> tuple[Tensor, Tensor]:
        """The first stage's output at a quarter of the size, and the map at an eighth."""
        x = self.stem(centred)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        above: Tensor | None = None
        for lateral, level in zip(reversed(self.lateral), reversed(levels[1:]), strict=True):
            current = lateral(level)
            above = current if above is None else current + _upsample(above, current)
        return levels[0], self.smooth(above)


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    """``(B, C, h, w)`` at the height and width of ``like``."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True, eq=False)
class _DescribeInputs:
    """What :meth:`Tiny.describe` reads of an image.

    Attributes:
        maps: without the axis B.
        source: of object crops, where there are any.
        change: of their colours.
        bins: of the image, reduced where it is large, where there is a histogram.
    """

    maps: TinyMaps
    source: CropSource | None
    change: Callable[[RgbImage], RgbImage] | None
    bins: LabBins | None

    def crops(self, masks: Sequence[ObjectMask]) -> ObjectCrops | None:
        """Crops of N masks in the changed colours; ``None`` where there are no object crops."""
        if self.source is None:
            return None
        crops = self.source.crops(masks)
        return crops if self.change is None else recoloured(crops, self.change)


class Tiny:
    """:class:`TinyNet` as a :class:`~counterview.features.base.Backbone`.

    Args:
        net: the network; it is put in evaluation mode and moved to ``device``.
        device: where to compute.
        name: by which it was loaded.
    """

    stride = STRIDE

    def __init__(self, net: TinyNet, device: torch.device | str = "cpu", name: str = "tiny") -> None:
        self.name, self.net, self.device = name, net.to(device).eval(), torch.device(device)
        self.channels = net.config.channels

    def settings(self) -> dict[str, Any]:
        """A fingerprint of the weights, and whatever else maps and descriptors depend on."""
        config = self.net.config
        return {"features": "tiny", "version": 1, "weights": self.fingerprint,
                "histogram": config.histogram, "longest_side_px": config.longest_side_px}  # fmt: skip

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights, in hex."""
        return weights_fingerprint(self.net)

    def input_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Size of the network's input for an image: at most the longest side, sides multiples of 32."""
        ratio = min(1.0, self.net.config.longest_side_px / max(image_hw))
        return tuple(max(32, round(side * ratio / 32) * 32) for side in image_hw)  # type: ignore[return-value]

    @torch.no_grad()
    def encode(self, image: RgbImage) -> FeatureMap:
        """The maps of one image ``(H, W, 3)``. See :class:`~counterview.features.base.Backbone`.

        Raises:
            ImageError: not such an image.
        """
        image = as_rgb(image)
        size = self.input_hw(image.shape[:2])
        if size != image.shape[:2]:
            smaller = size[0] <= image.shape[0] and size[1] <= image.shape[1]
            method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            scaled = np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=method), dtype=np.uint8)
        else:
            scaled = image
        pixels = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1))).to(self.device).float() / 255
        config = self.net.config
        maps = (self.net.map_alone if config.object_crops else self.net)(pixels[None]).each()[0]
        source = CropSource(image)
        bins = LabBins.of(source.pyramid.reduced(HISTOGRAM_PX)) if config.histogram else None
        extra = _DescribeInputs(maps, source if config.object_crops else None, None, bins)
        return FeatureMap(maps.map.float(), (image.shape[0], image.shape[1]), size, extra=extra)

    def recoloured(self, features: FeatureMap, change: Callable[[RgbImage], RgbImage]) -> FeatureMap:
        """Features whose object crops and colour histograms are of the image with its colours changed; the map stays.

        Args:
            features: of an image ``(H, W, 3)``, from :meth:`encode`, with colours as they were taken.
            change: gives new colours of pixels ``(..., 3)`` uint8.

        Raises:
            ConfigError: objects are described from the maps.
        """
        small = self.crop_source(features).pyramid.reduced(HISTOGRAM_PX)
        bins = LabBins.of(change(small)) if self.net.config.histogram else None
        return replace(features, extra=replace(features.extra, change=change, bins=bins))

    def crop_source(self, features: FeatureMap) -> CropSource:
        """The image's object crops, with colours as they were taken.

        Args:
            features: from :meth:`encode`.

        Raises:
            ConfigError: objects are described from the maps.
        """
        inputs = features.extra
        if not isinstance(inputs, _DescribeInputs) or inputs.source is None:
            raise ConfigError("the features have no object crops", fix="Set network.object_crops.")
        return inputs.source

    def __call__(self, images: Sequence[RgbImage]) -> list[FeatureMap]:
        """The maps of several images, one after the other: they may differ in size."""
        return [self.encode(image) for image in images]

    @torch.no_grad()
    def describe(
        self,
        features: FeatureMap,
        masks: Sequence[ObjectMask],
        kind: PoolingKind = "mask",
        *,
        context_px: int | None = None,
        fallback: Fallback = "centre",
    ) -> Tensor:
        """Describe masks. Kinds other than ``mask``, and a context, pool the map alone.

        Args:
            features: of the image, from :meth:`encode`.
            masks: N masks at the image's size.
            kind: see :class:`~counterview.features.base.Backbone`.
            context_px: likewise.
            fallback: likewise.

        Returns:
            ``(N, D)`` float32.

        Raises:
            MaskError: a mask of another size than the image.
        """
        inputs, config = features.extra, self.net.config
        if kind != "mask" or context_px is not None or not isinstance(inputs, _DescribeInputs):
            return pooling.describe(features, masks, kind, context_px=context_px, fallback=fallback)
        if not len(masks):
            return torch.zeros((0, config.object_channels))
        crops = inputs.crops(masks)
        if crops is not None:
            has_pixels = torch.tensor([not mask.is_empty for mask in masks], device=self.device)
            learned = self.net.object_crops.describe(crops) * has_pixels[:, None]
        else:
            sampled = sample_masks(masks, features.image_hw, features.input_hw, fallback)
            has_pixels = torch.from_numpy(sampled.any((1, 2))).to(self.device)
            learned = self.net.norm(pool_masks(inputs.maps, sampled)) * has_pixels[:, None]
        if inputs.bins is None:
            return learned
        # The learned descriptor is about sqrt(channels) long, a histogram 1.
        weight = config.histogram**0.5 * config.learned_channels**0.5
        histogram = torch.from_numpy(histograms(inputs.bins, masks)).to(self.device)
        return torch.cat([learned, weight * histogram], dim=1)
