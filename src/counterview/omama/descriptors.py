"""Masks to descriptors, the same way in training and in use (paper: Mask-Context Encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from counterview.features import pooling
from counterview.omama.config import DescriptorConfig
from counterview.types import ObjectMask

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.features import Backbone, FeatureMap

VANISHED = "the query mask is smaller than a cell of the features; its centre's cell stands for it"


def describe_masks(
    config: DescriptorConfig, backbone: Backbone, features: FeatureMap, masks: Sequence[ObjectMask]
) -> Tensor:
    """Descriptors ``[object; context]`` of N masks of one image.

    Args:
        config: how to pool.
        backbone: what made the map; it describes objects its own way if it has one (``classical`` looks at the
            image's pixels), and pools its map otherwise.
        features: the map of the image, ``(C, h, w)``.
        masks: N masks at the image's size.

    Returns:
        ``(N, 2C)``, or ``(N, object channels + C)``; float32 or the map's own wider type.

    Raises:
        MaskError: a mask of another size than the image.
    """
    describe = backbone.describe if config.backbone_pooling else pooling.describe
    objects = describe(features, masks, config.pooling, fallback=config.fallback)
    context = pooling.describe(features, masks, "box", context_px=config.context_px)[:, features.channels :]
    return torch.cat([objects.to(context.device), context], dim=1)


def notes_on(config: DescriptorConfig, features: FeatureMap, masks: Sequence[ObjectMask]) -> list[tuple[str, ...]]:
    """For each query mask, what a reader should know: that it vanished at the features' size."""
    if config.pooling != "mask" or config.fallback != "centre" or not len(masks):
        return [()] * len(masks)
    return [(VANISHED,) if missed else () for missed in pooling.missed_masks(features.grid, masks)]
