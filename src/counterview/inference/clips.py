"""LM-EEC over a take, for :func:`counterview.inference.dataset.predict`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from counterview.data.dataset import Direction, Take
from counterview.data.pairs import FramePair
from counterview.inference.dataset import Prediction, prediction_size
from counterview.masks.geometry import resize_mask
from counterview.types import ObjectMask

if TYPE_CHECKING:
    import torch

    from counterview.lmeec.model import LMEEC


class ClipPredictor:
    """Follows all objects of a take through both directions, every image encoded once.

    Args:
        model: in eval mode.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.
    """

    restartable = False  # a frame's answer depends on all frames before it

    def __init__(self, model: LMEEC, autocast: torch.dtype | None = None) -> None:
        self.model = model.eval()
        self.autocast = autocast

    def settings(self) -> dict[str, Any]:
        """The model's configuration, a hash of its weights, and the precision."""
        from counterview.config import to_dict

        return {
            "method": "lmeec",
            "model": to_dict(self.model.config),
            "weights": self.model.fingerprint(),
            "autocast": None if self.autocast is None else str(self.autocast),
        }

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """See :class:`counterview.inference.dataset.TakePredictor`."""
        from counterview.lmeec.inference import predict_take

        for frame, answers in predict_take(self.model, take, wanted, autocast=self.autocast):
            results = []
            for answer in answers:
                result = answer.result
                found = None if result is None else result.mask_rle.size_hw
                size = prediction_size(take, answer.pair.target_camera, found)
                mask = ObjectMask.empty(size) if result is None else resize_mask(result.mask_rle, size)
                confidence = 0.0 if result is None else result.visibility
                results.append(Prediction(answer.direction, answer.pair, mask, confidence, answer.note))
            yield frame, results
