"""Load a model by name, match images, predict takes and data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = [
    "Box",
    "ClipPredictor",
    "FollowStep",
    "FramePredictor",
    "ImageEncoding",
    "LiveTracker",
    "MaskTracker",
    "Point",
    "Predictor",
    "Prompt",
    "ProposalMatcher",
    "TimedPrompt",
    "load",
    "load_take_predictor",
    "to_supervision",
]

if TYPE_CHECKING:
    from counterview.inference.drawing import to_supervision
    from counterview.inference.encoded import ImageEncoding
    from counterview.inference.follow_step import FollowStep
    from counterview.inference.live_tracker import LiveTracker
    from counterview.inference.loading import load, load_take_predictor
    from counterview.inference.mask_tracker import MaskTracker
    from counterview.inference.predictor import Predictor
    from counterview.inference.prompts import Box, Point, Prompt
    from counterview.inference.proposal_matcher import ProposalMatcher
    from counterview.inference.shown import TimedPrompt
    from counterview.inference.takes import ClipPredictor, FramePredictor

__getattr__, __dir__ = exports(
    __name__,
    {
        "Box": "counterview.inference.prompts",
        "ClipPredictor": "counterview.inference.takes",
        "FollowStep": "counterview.inference.follow_step",
        "FramePredictor": "counterview.inference.takes",
        "ImageEncoding": "counterview.inference.encoded",
        "LiveTracker": "counterview.inference.live_tracker",
        "MaskTracker": "counterview.inference.mask_tracker",
        "Point": "counterview.inference.prompts",
        "Predictor": "counterview.inference.predictor",
        "Prompt": "counterview.inference.prompts",
        "ProposalMatcher": "counterview.inference.proposal_matcher",
        "TimedPrompt": "counterview.inference.shown",
        "load": "counterview.inference.loading",
        "load_take_predictor": "counterview.inference.loading",
        "to_supervision": "counterview.inference.drawing",
    },
)
