"""Counterview: point at an object in one camera; find it in the other camera, and follow it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "Candidate": "counterview.types",
    "Match": "counterview.types",
    "ObjectMask": "counterview.types",
    "Track": "counterview.types",
    "View": "counterview.types",
    "Visibility": "counterview.types",
    "CounterviewError": "counterview.errors",
    "Predictor": "counterview.pipeline.predictor",
    "load": "counterview.pipeline.predictor",
    "read_image": "counterview.media.images",
    "read_mask": "counterview.masks.png",
}

__all__ = [
    "Candidate",
    "CounterviewError",
    "Match",
    "ObjectMask",
    "Predictor",
    "Track",
    "View",
    "Visibility",
    "__version__",
    "load",
    "read_image",
    "read_mask",
]

if TYPE_CHECKING:
    from counterview.errors import CounterviewError
    from counterview.masks.png import read_mask
    from counterview.media.images import read_image
    from counterview.pipeline.predictor import Predictor, load
    from counterview.types import Candidate, Match, ObjectMask, Track, View, Visibility


def __getattr__(name: str) -> Any:
    # Names are imported when they are first used: `import counterview` takes milliseconds and loads no torch.
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'counterview' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
