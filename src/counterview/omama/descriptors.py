"""Masks to descriptors, the same way in training and at inference (paper: Mask-Context Encoder)."""

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
        backbone: the one that encoded the image. Some describe objects themselves (``classical`` reads the image's
            pixels); the others pool their map.
        features: the map ``(C, h, w)`` of the image.
        masks: N masks at the image's size.

    Returns:
        ``(N, 2C)``, or ``(N, object_channels + C)``; float32, or the map's dtype where that is wider.

    Raises:
        MaskError: a mask of another size than the image.

    >>> import numpy as np
    >>> from counterview.features import load_backbone
    >>> backbone = load_backbone("classical")
    >>> features = backbone.encode(np.zeros((48, 64, 3), dtype=np.uint8))
    >>> masks = [ObjectMask.from_array(np.ones((48, 64), dtype=bool))] * 3
    >>> descriptors = describe_masks(DescriptorConfig(context_px=10), backbone, features, masks)
    >>> descriptors.shape[0], descriptors.shape[1] > backbone.channels
    (3, True)
    """
    describe = backbone.describe if config.backbone_pooling else pooling.describe
    objects = describe(features, masks, config.pooling, fallback=config.fallback)
    context = pooling.describe(features, masks, "box", context_px=config.context_px)[:, features.channels :]
    return torch.cat([objects.to(context.device), context], dim=1)


def notes_on(config: DescriptorConfig, features: FeatureMap, masks: Sequence[ObjectMask]) -> list[tuple[str, ...]]:
    """Notes on each of N query masks for the user: that it vanished at the resolution of the features.

    Args:
        config: how masks are pooled.
        features: the map ``(C, h, w)`` of the query image.
        masks: N masks at the image's size.

    Returns:
        N tuples of sentences, most of them empty.

    Raises:
        MaskError: a mask of another size than the image.
    """
    if config.pooling != "mask" or config.fallback != "centre" or not len(masks):
        return [()] * len(masks)
    return [(VANISHED,) if is_missed else () for is_missed in pooling.missed_masks(features.grid, masks)]
