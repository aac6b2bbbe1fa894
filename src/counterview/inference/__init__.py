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
    from counterview.inference.clips import ClipPredictor
    from counterview.inference.dataset import FramePredictor
    from counterview.inference.encoded import EncodedView
    from counterview.inference.predictor import Predictor, load

__getattr__, __dir__ = exports(
    __name__,
    {
        "ClipPredictor": "counterview.inference.clips",
        "EncodedView": "counterview.inference.encoded",
        "FramePredictor": "counterview.inference.dataset",
        "Predictor": "counterview.inference.predictor",
        "load": "counterview.inference.predictor",
    },
)
