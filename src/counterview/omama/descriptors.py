"""Masks to descriptors, the same way in training and at inference (paper: Mask-Context Encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from counterview.errors import MaskError
from counterview.features import pooling
from counterview.masks.geometry import fit_mask, resize_mask, same_aspect
from counterview.omama.config import DescriptorConfig
from counterview.proposals.base import box_scale
from counterview.types import ObjectMask

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.features import Backbone, FeatureMap

VANISHED = "the query mask is smaller than a cell of the features; its centre's cell stands for it"


def describe_masks(
    config: DescriptorConfig,
    backbone: Backbone,
    features: FeatureMap,
    masks: Sequence[ObjectMask],
    boxes_xywh: NDArray[np.floating] | None = None,
) -> Tensor:
    """Descriptors ``[object; context]`` of N masks of one image.

    Args:
        config: how to pool.
        backbone: the one that encoded the image. Some describe objects themselves (``classical`` reads the image's
            pixels); the others pool their map.
        features: the map ``(C, h, w)`` of the image.
        masks: N masks, all of one size: the image's, or another resolution of it.
        boxes_xywh: ``(N, 4)`` in pixels of the masks, where they came with them; otherwise those of the masks.

    Returns:
        ``(N, 2C)``, or ``(N, object_channels + C)``; float32, or the map's dtype where that is wider.

    Raises:
        MaskError: masks of several sizes, or of another shape than the image.

    >>> import numpy as np
    >>> from counterview.features import load_backbone
    >>> backbone = load_backbone("classical")
    >>> features = backbone.encode(np.zeros((48, 64, 3), dtype=np.uint8))
    >>> masks = [ObjectMask.from_array(np.ones((48, 64), dtype=bool))] * 3
    >>> descriptors = describe_masks(DescriptorConfig(context_px=10), backbone, features, masks)
    >>> descriptors.shape[0], descriptors.shape[1] > backbone.channels
    (3, True)
    """
    features, masks, boxes_xywh = _sampled(config, features, masks, boxes_xywh)
    describe = backbone.describe if config.backbone_pooling and config.mask_size == "image" else pooling.describe
    objects = describe(features, masks, config.pooling, fallback=config.fallback)
    context = _context(config, features, masks, boxes_xywh)
    return torch.cat([objects.to(context.device), context], dim=1)


def describe_context(config: DescriptorConfig, features: FeatureMap, masks: Sequence[ObjectMask]) -> Tensor:
    """The context half of :func:`describe_masks`, ``(N, C)``.

    Args:
        config: as there.
        features: likewise, ``(C, h, w)``.
        masks: likewise, N masks.

    Raises:
        MaskError: masks of several sizes, or of another shape than the image.
    """
    features, masks, _ = _sampled(config, features, masks, None)
    return _context(config, features, masks, None)


def _context(
    config: DescriptorConfig,
    features: FeatureMap,
    masks: Sequence[ObjectMask],
    boxes_xywh: NDArray[np.floating] | None,
) -> Tensor:
    described = pooling.describe(features, masks, "box", context_px=config.context_px, boxes_xywh=boxes_xywh)
    return described[:, features.channels :]


def _sampled(
    config: DescriptorConfig,
    features: FeatureMap,
    masks: Sequence[ObjectMask],
    boxes_xywh: NDArray[np.floating] | None,
) -> tuple[FeatureMap, list[ObjectMask], NDArray[np.floating] | None]:
    """All three at the size at which masks are sampled."""
    size_hw = sampling_size(config, features)
    if config.mask_size == "input":
        features = replace(features, image_hw=size_hw)
    if boxes_xywh is not None and len(masks):
        boxes_xywh = np.asarray(boxes_xywh) * box_scale(masks[0].size_hw, size_hw)
    return features, [_at_size(config, mask, size_hw) for mask in masks], boxes_xywh


def describe_each(
    config: DescriptorConfig, backbone: Backbone, features: FeatureMap, masks: Sequence[ObjectMask]
) -> Tensor:
    """:func:`describe_masks` for N annotated masks, which may be of any sizes, and of another shape than the image.

    Raises:
        MaskError: a mask of size 0.
    """
    size_hw = sampling_size(config, features)
    fitted = [resize_mask(m, size_hw) if _may_vanish(config) else fit_mask(m, size_hw) for m in masks]
    return describe_masks(config, backbone, features, fitted)


def sampling_size(config: DescriptorConfig, features: FeatureMap) -> tuple[int, int]:
    """Height and width in pixels at which the masks of an image are sampled, and their boxes are measured.

    Args:
        config: the image's size, or that of the backbone's input.
        features: the map ``(C, h, w)`` of the image.
    """
    return features.input_hw if config.mask_size == "input" else features.image_hw


def _at_size(config: DescriptorConfig, mask: ObjectMask, size_hw: tuple[int, int]) -> ObjectMask:
    """A mask at the size of sampling. The released code resizes it by nearest neighbour, and it may vanish."""
    if mask.size_hw == size_hw:
        return mask
    if not same_aspect(mask.size_hw, size_hw):
        raise MaskError("the mask is of another shape than its image", found=mask.size_hw, expected=size_hw)
    return resize_mask(mask, size_hw) if _may_vanish(config) else fit_mask(mask, size_hw)


def _may_vanish(config: DescriptorConfig) -> bool:
    return config.mask_size == "input" and config.fallback == "zeros"


def notes_on(config: DescriptorConfig, features: FeatureMap, masks: Sequence[ObjectMask]) -> list[tuple[str, ...]]:
    """Notes on each of N query masks for the user: that it vanished at the resolution of the features.

    Args:
        config: how masks are pooled.
        features: the map ``(C, h, w)`` of the query image.
        masks: N masks of the image's size, or of another resolution of it.

    Returns:
        N tuples of sentences, most of them empty.

    Raises:
        MaskError: a mask of another shape than the image.
    """
    if config.pooling != "mask" or config.fallback != "centre" or not len(masks):
        return [()] * len(masks)
    size_hw = sampling_size(config, features)
    grid = replace(features.grid, image_hw=size_hw)
    missed = pooling.missed_masks(grid, [_at_size(config, mask, size_hw) for mask in masks])
    return [(VANISHED,) if is_missed else () for is_missed in missed]
