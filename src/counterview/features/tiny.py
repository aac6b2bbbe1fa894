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
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from counterview.config import out_of_range
from counterview.errors import ConfigError, shown
from counterview.features import pooling
from counterview.features.base import Fallback, FeatureMap, PoolingKind
from counterview.features.colour import LENGTH, histograms, lab_bins
from counterview.features.object_crops import ObjectCropNet, crop_objects
from counterview.masks.lattice import lattice_runs, with_centres
from counterview.nn.layers import ResidualBlock, conv
from counterview.nn.weights import weights_fingerprint
from counterview.types import ObjectMask, RgbImage, as_rgb

MAX_CHANNELS, MAX_BLOCKS = 4096, 64
"""Widths of layers, and blocks of a stage, at most."""
STRIDE = 8
"""Pixels of the input from one cell of the map to the next."""
MASK_STRIDE = 2
"""Masks are sampled at the input's size divided by this."""
SHAPE_FEATURES = 6
"""Numbers that describe the shape of a mask."""
RING_WIDTH = 0.25
"""Width of the ring as a fraction of the square root of the mask's area; at least two pixels of the sampled mask."""


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


@dataclass(frozen=True, eq=False)
class TinyMaps:
    """Maps of B images from :class:`TinyNet`; of a single image the axis B is left out.

    Attributes:
        colours: ``(B, K, H / 2, W / 2)``, not negative.
        fine: ``(B, F, H / 4, W / 4)``.
        map: ``(B, C, H / 8, W / 8)``.
    """

    colours: Tensor
    fine: Tensor
    map: Tensor

    def each(self) -> list[TinyMaps]:
        """The maps of each image. Indexing them one by one would make the gradient of each a batch of zeros."""
        parts = (self.colours.unbind(), self.fine.unbind(), self.map.unbind())
        return [TinyMaps(*maps) for maps in zip(*parts, strict=True)]


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


def pool_masks(maps: TinyMaps, masks: NDArray[np.bool_]) -> Tensor:
    """Descriptors of N masks of one image, before :attr:`TinyNet.norm`.

    Args:
        maps: of the image, without the axis B.
        masks: ``(N, H / 2, W / 2)`` at half the input's size.

    Returns:
        ``(N, D)`` float32 of :attr:`TinyConfig.pooled_channels`. Gradients flow to the maps.
    """
    device = maps.map.device
    objects = torch.from_numpy(masks).to(device).float()
    rings = torch.from_numpy(_rings(masks)).to(device).float()
    # The gradient of a square root is infinite at 0; the summand bounds it.
    parts = [(_masked_mean(maps.colours, objects) + 0.01).sqrt()]
    for weights in (objects, rings):
        parts += [_masked_mean(maps.fine, weights), _masked_mean(maps.map, weights)]
    parts.append(torch.from_numpy(_shapes(masks)).to(device))
    return torch.cat(parts, dim=1)


def _masked_mean(tensor: Tensor, masks: Tensor) -> Tensor:
    """Mean of a ``(C, h, w)`` map over masks ``(N, H, W)`` of an integer multiple of its size: ``(N, C)``."""
    factor = masks.shape[-1] // tensor.shape[-1]
    weights = functional.avg_pool2d(masks[:, None], factor)[:, 0] if factor > 1 else masks
    weights = weights.flatten(1)
    total = weights.sum(1, keepdim=True).clamp(min=1e-6)
    return (weights / total) @ tensor.flatten(1).float().T


def _rings(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The ring around each mask ``(N, h, w)``, of the same shape."""
    result = np.zeros_like(masks)
    height, width = masks.shape[1:]
    for mask, ring in zip(masks, result, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) == 0:
            continue
        reach = max(2, round(RING_WIDTH * float(np.sqrt(mask.sum()))))
        y0, y1 = max(0, rows[0] - reach), min(height, rows[-1] + 1 + reach)
        x0, x1 = max(0, columns[0] - reach), min(width, columns[-1] + 1 + reach)
        crop = mask[y0:y1, x0:x1]
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        ring[y0:y1, x0:x1] = cv2.dilate(crop.astype(np.uint8), kernel).astype(bool) & ~crop
    return result


def _shapes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shape features ``(N, 6)`` of masks ``(N, h, w)``.

    Logarithm of the area; elongation (logarithm of the ratio of the axes of the ellipse with the same second moments);
    area as a fraction of that ellipse and of the box; root of the fraction of the image; whether the mask touches the
    image's edge. Second moments as in :func:`counterview.proposals.ranking.ellipse_fill`: only the last depends on
    position. All are 0 for an empty mask.
    """
    count, height, width = masks.shape
    if count == 0:
        return np.zeros((0, SHAPE_FEATURES), dtype=np.float32)
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    row_sums, column_sums = masks.sum(2).astype(np.float64), masks.sum(1).astype(np.float64)
    area = np.maximum(row_sums.sum(1), 1e-9)
    mean_y, mean_x = row_sums @ y / area, column_sums @ x / area
    # A pixel is a square, not a point: its variance is 1 / 12 in each direction.
    var_y = row_sums @ (y * y) / area - mean_y**2 + 1 / 12
    var_x = column_sums @ (x * x) / area - mean_x**2 + 1 / 12
    covariance = ((masks @ x) * y).sum(1) / area - mean_x * mean_y
    mean_variance = (var_x + var_y) / 2
    difference = np.sqrt(np.maximum((var_x - var_y) ** 2 / 4 + covariance**2, 0))
    major, minor = mean_variance + difference, np.maximum(mean_variance - difference, 1 / 12)
    ellipse_fill = area / (4 * np.pi * np.sqrt(major * minor))
    box_area = (row_sums > 0).sum(1) * (column_sums > 0).sum(1)
    at_edge = masks[:, 0].any(1) | masks[:, -1].any(1) | masks[:, :, 0].any(1) | masks[:, :, -1].any(1)
    table = np.stack(
        [
            np.log(area) / 4 - 1,
            np.log(major / minor) / 2,
            np.minimum(ellipse_fill, 1.2),
            area / np.maximum(box_area, 1),
            np.sqrt(area / (height * width)),
            at_edge.astype(np.float64),
        ],
        axis=1,
    )
    return (table * (row_sums.sum(1) > 0)[:, None]).astype(np.float32)


def sample_masks(masks: Sequence[ObjectMask], image_hw: tuple[int, int], input_hw: tuple[int, int],
                 fallback: Fallback = "centre") -> NDArray[np.bool_]:  # fmt: skip
    """Masks of an image at half the size of the network's input.

    Args:
        masks: N masks of size ``image_hw``.
        image_hw: height and width of the image in pixels.
        input_hw: height and width ``(H, W)`` of the network's input.
        fallback: ``centre``: a mask that would have no pixel keeps the one nearest to its centroid; ``zeros``: it
            stays empty.

    Returns:
        ``(N, H / 2, W / 2)`` bool.

    Raises:
        MaskError: a mask of another size.
    """
    size = (input_hw[0] // MASK_STRIDE, input_hw[1] // MASK_STRIDE)
    runs = lattice_runs(masks, image_hw, size)
    if fallback == "centre":
        runs = with_centres(runs, masks, image_hw, size)
    steps = np.zeros((len(masks), size[0] + 1, size[1]), dtype=np.int8)
    np.add.at(steps, (runs.owner, runs.top, runs.column), 1)
    np.subtract.at(steps, (runs.owner, runs.bottom, runs.column), 1)
    return np.asarray(np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1], dtype=bool)


@dataclass(frozen=True, eq=False)
class _DescribeInputs:
    """What :meth:`Tiny.describe` reads of an image.

    Attributes:
        maps: without the axis B.
        image: ``(H, W, 3)`` uint8, where there are object crops.
        bins: ``(H * W,)`` of :func:`~counterview.features.colour.lab_bins`, where there is a histogram.
    """

    maps: TinyMaps
    image: RgbImage | None
    bins: NDArray[np.int16] | None


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
        extra = _DescribeInputs(
            maps, image if config.object_crops else None, lab_bins(image) if config.histogram else None
        )
        return FeatureMap(maps.map.float(), (image.shape[0], image.shape[1]), size, extra=extra)

    def recoloured(self, features: FeatureMap, change: Callable[[RgbImage], RgbImage]) -> FeatureMap:
        """Features whose object crops and colour histograms are of the image with its colours changed; the map stays.

        Args:
            features: of an image ``(H, W, 3)``, from :meth:`encode`.
            change: gives its new colours.

        Raises:
            ConfigError: objects are described from the maps.
        """
        image = change(self.image_of(features))
        bins = lab_bins(image) if self.net.config.histogram else None
        return replace(features, extra=replace(features.extra, image=image, bins=bins))

    def image_of(self, features: FeatureMap) -> RgbImage:
        """The image ``(H, W, 3)`` from whose pixels objects are described.

        Args:
            features: from :meth:`encode`.

        Raises:
            ConfigError: objects are described from the maps.
        """
        inputs = features.extra
        if not isinstance(inputs, _DescribeInputs) or inputs.image is None:
            raise ConfigError("the features have no object crops", fix="Set network.object_crops.")
        return inputs.image

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
        if inputs.image is not None:
            has_pixels = torch.tensor([not mask.is_empty for mask in masks], device=self.device)
            learned = self.net.object_crops.describe(crop_objects(inputs.image, masks)) * has_pixels[:, None]
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
