"""What a user calls: propose, describe, match; for images, and for whole data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = [
    "ClipPredictor",
    "EncodedView",
    "FramePredictor",
    "Predictor",
    "load",
]

if TYPE_CHECKING:
    from counterview.pipeline.clips import ClipPredictor
    from counterview.pipeline.encoded import EncodedView
    from counterview.pipeline.predict import FramePredictor
    from counterview.pipeline.predictor import Predictor, load

__getattr__, __dir__ = exports(
    __name__,
    {
        "ClipPredictor": "counterview.pipeline.clips",
        "EncodedView": "counterview.pipeline.encoded",
        "FramePredictor": "counterview.pipeline.predict",
        "Predictor": "counterview.pipeline.predictor",
        "load": "counterview.pipeline.predictor",
    },
)
