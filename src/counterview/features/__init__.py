"""Image features: networks and weight-free descriptors behind one protocol, and exact pooling over masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = [
    "Backbone",
    "FeatureMap",
    "PoolGrid",
    "describe",
    "load_backbone",
]

if TYPE_CHECKING:
    from counterview.features.backbone import load_backbone
    from counterview.features.base import Backbone, FeatureMap, PoolGrid
    from counterview.features.pooling import describe

__getattr__, __dir__ = exports(
    __name__,
    {
        "Backbone": "counterview.features.base",
        "FeatureMap": "counterview.features.base",
        "PoolGrid": "counterview.features.base",
        "describe": "counterview.features.pooling",
        "load_backbone": "counterview.features.backbone",
    },
)
