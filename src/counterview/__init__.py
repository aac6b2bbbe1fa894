"""Counterview: point at an object in one camera; find it in the other camera, and follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__version__ = "0.1.0"

__all__ = [
    "Box",
    "Candidate",
    "CounterviewError",
    "Match",
    "ObjectMask",
    "Point",
    "Predictor",
    "Prompt",
    "TimedPrompt",
    "Track",
    "VideoReader",
    "View",
    "Visibility",
    "__version__",
    "load",
    "read_image",
    "read_mask",
]

if TYPE_CHECKING:
    from counterview.errors import CounterviewError
    from counterview.inference.loading import load
    from counterview.inference.predictor import Predictor
    from counterview.inference.prompts import Box, Point, Prompt
    from counterview.inference.shown import TimedPrompt
    from counterview.masks.png import read_mask
    from counterview.media.images import read_image
    from counterview.media.video import VideoReader
    from counterview.types import Candidate, Match, ObjectMask, Track, View, Visibility

__getattr__, __dir__ = exports(
    __name__,
    {
        "Box": "counterview.inference.prompts",
        "Candidate": "counterview.types",
        "CounterviewError": "counterview.errors",
        "Match": "counterview.types",
        "ObjectMask": "counterview.types",
        "Point": "counterview.inference.prompts",
        "Predictor": "counterview.inference.predictor",
        "Prompt": "counterview.inference.prompts",
        "TimedPrompt": "counterview.inference.shown",
        "Track": "counterview.types",
        "VideoReader": "counterview.media.video",
        "View": "counterview.types",
        "Visibility": "counterview.types",
        "load": "counterview.inference.loading",
        "read_image": "counterview.media.images",
        "read_mask": "counterview.masks.png",
    },
)
