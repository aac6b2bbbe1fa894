"""Features: networks and weight-free descriptors behind one protocol, and exact pooling over masks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Backbone": "counterview.features.base",
    "FeatureMap": "counterview.features.base",
    "PoolGrid": "counterview.features.base",
    "describe": "counterview.features.pooling",
    "load_backbone": "counterview.features.backbone",
}

__all__ = ["Backbone", "FeatureMap", "PoolGrid", "describe", "load_backbone"]

if TYPE_CHECKING:
    from counterview.features.backbone import load_backbone
    from counterview.features.base import Backbone, FeatureMap, PoolGrid
    from counterview.features.pooling import describe


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'counterview.features' has no attribute {name!r}")
