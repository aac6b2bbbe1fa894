"""Score prediction files. Needs no method and no torch, so that anybody's predictions can be scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = [
    "GroundTruth",
    "PredictionWriter",
    "Report",
    "Scorer",
    "evaluate",
    "open_predictions",
    "prediction_entry",
    "submit",
]

if TYPE_CHECKING:
    from counterview.evaluation.groundtruth import GroundTruth
    from counterview.evaluation.open import open_predictions
    from counterview.evaluation.protocol import Report, evaluate
    from counterview.evaluation.scorer import Scorer
    from counterview.evaluation.submission import PredictionWriter, prediction_entry, submit

__getattr__, __dir__ = exports(
    __name__,
    {
        "GroundTruth": "counterview.evaluation.groundtruth",
        "PredictionWriter": "counterview.evaluation.submission",
        "Report": "counterview.evaluation.protocol",
        "Scorer": "counterview.evaluation.scorer",
        "evaluate": "counterview.evaluation.protocol",
        "open_predictions": "counterview.evaluation.open",
        "prediction_entry": "counterview.evaluation.submission",
        "submit": "counterview.evaluation.submission",
    },
)
