"""Scores of validation takes by the official protocol, in sessions over whole takes as at test time."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from counterview.data.dataset import Dataset, Direction, Take
from counterview.data.pairs import pairs_of_take
from counterview.evaluation.scorer import CONFIDENCE_THRESHOLD, LONGEST_SIDE_PX, get_protocol, score_frame
from counterview.lmeec.inference import DirectedPair, TakePrediction, predict_take
from counterview.lmeec.network import LMEECNetwork
from counterview.masks.draw import PALETTE, contact_sheet, overlay, side_by_side
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.types import ObjectMask, RgbImage

MEASURES = ("iou", "location_error", "contour_accuracy")
SHEET_TILES, SHEET_FRAMES = 12, 5


@dataclass(frozen=True)
class LMEECScore:
    """One prediction, scored by the official protocol.

    Attributes:
        direction: which way.
        key: identity of the pair.
        visible: whether the object is in the target image.
        score: object score, a logit; ``None`` where nothing was predicted.
        visibility: predicted probability that it is visible.
        iou: in 0..1. All three are ``None`` where the object is not visible.
        location_error: distance of the boxes' centres as a fraction of the image's diagonal.
        contour_accuracy: in 0..1.
    """

    direction: str
    key: str
    visible: bool
    score: float | None
    visibility: float
    iou: float | None = None
    location_error: float | None = None
    contour_accuracy: float | None = None

    def to_json(self) -> list[Any]:
        """For :meth:`from_json`."""
        return list(astuple(self))

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> LMEECScore:
        """Back from :meth:`to_json`."""
        return cls(*values)


class LMEECValidator:
    """Predicts validation takes and scores the predictions.

    Args:
        dataset: the takes.
        directions: which ways.
        takes: number of takes, evenly spread over the data set; all if not given.
        frames: number of frames of each, from its first; all if not given.
    """

    def __init__(
        self, dataset: Dataset, directions: Sequence[Direction], takes: int | None = None, frames: int | None = None
    ) -> None:
        self.dataset, self.directions, self.frames = dataset, tuple(directions), frames
        count = len(dataset.uids)
        indices = range(count) if takes is None or takes >= count else np.linspace(0, count - 1, takes).astype(int)
        self.uids = [dataset.uids[int(i)] for i in dict.fromkeys(indices)]
        self.protocol = get_protocol("official")

    def pairs_by_frame(self, take: Take) -> dict[int, list[DirectedPair]]:
        """The pairs of a take whose truth is known, absent targets included, by frame number."""
        pairs: dict[int, list[DirectedPair]] = defaultdict(list)
        for direction in self.directions:
            for pair in pairs_of_take(take, direction, targets="annotated"):
                pairs[pair.frame].append((direction, pair))
        return {frame: pairs[frame] for frame in sorted(pairs)[: self.frames]}

    def scores(self, model: LMEECNetwork, rank: int = 0, world_size: int = 1) -> Iterator[LMEECScore]:
        """Scores of the predictions for this process's part of the takes."""
        for uid in self.uids[rank::world_size]:
            take = self.dataset.take(uid)
            for _, predictions in predict_take(model, take, self.pairs_by_frame(take)):
                for prediction in predictions:
                    yield self._score(take, prediction)

    def identity(self) -> dict[str, Any]:
        """What is validated on, as flat JSON."""
        digest = hashlib.sha256()
        count = 0
        for uid in self.uids:
            for pairs in self.pairs_by_frame(self.dataset.take(uid)).values():
                for direction, pair in pairs:
                    count += 1
                    digest.update(f"{direction}\0{pair.key}\0{pair.target_visible}\n".encode("utf-8", "surrogatepass"))
        return {"validation_questions": count, "validation_hash": digest.hexdigest()[:16]}

    def sheet(self, model: LMEECNetwork, count: int = SHEET_TILES) -> RgbImage | None:
        """Query, prediction (red) and truth (green) of one object a take, as one image ``(H, W, 3)`` uint8."""
        tiles, captions = [], []
        for uid in self.uids[:count]:
            take = self.dataset.take(uid)
            pairs = self.pairs_by_frame(take)
            numbers = list(pairs)[:SHEET_FRAMES]
            last: list[TakePrediction] = []
            for _, predictions in predict_take(model, take, {n: pairs[n] for n in numbers}):
                last = predictions
            shown = next((p for p in last if p.pair.target_visible), last[0] if last else None)
            if shown is not None:
                tile, caption = self._tile(take, shown)
                tiles.append(tile)
                captions.append(caption)
        return contact_sheet(tiles, columns=3, captions=captions, tile_height_px=200) if tiles else None

    def _score(self, take: Take, prediction: TakePrediction) -> LMEECScore:
        pair, result = prediction.pair, prediction.result
        truth = take.mask(pair.object, pair.target_camera, pair.frame) if pair.target_visible else None
        scores: tuple[float, ...] = ()
        if truth is not None:
            size = fit_longest_side(truth.size_hw, LONGEST_SIDE_PX)
            mask = ObjectMask.empty(size) if result is None else resize_mask(result.mask_rle, size)
            values = score_frame(self.protocol, truth, mask)
            if values is not None:
                scores = tuple(float(values[name]) for name in MEASURES)
        visibility = 0.0 if result is None else result.visibility
        score = None if result is None else result.object_score
        return LMEECScore(prediction.direction, pair.key, bool(pair.target_visible), score, visibility, *scores)

    def _tile(self, take: Take, prediction: TakePrediction) -> tuple[RgbImage, str]:
        pair = prediction.pair
        images = []
        for camera, colours in ((pair.query_camera, (PALETTE[0],)), (pair.target_camera, (PALETTE[2], PALETTE[1]))):
            image = take.frame(camera, pair.frame)
            masks = [take.mask(pair.object, camera, pair.frame)]
            if camera == pair.target_camera and prediction.result is not None:
                masks.append(prediction.result.mask_rle)
            drawn = [(m, c) for m, c in zip(masks, colours, strict=False) if m is not None]
            fitted = [resize_mask(m, image.shape[:2]) for m, _ in drawn]
            images.append(overlay(image, fitted, colors=[c for _, c in drawn]))
        score = self._score(take, prediction)
        iou = f"IoU {score.iou:.2f}" if score.iou is not None else "absent"
        return side_by_side(*images), f"{pair.object}: {iou}, visible {score.visibility:.2f}"


def summarise(scores: Sequence[LMEECScore]) -> dict[str, float]:
    """Means over all scores, as the official evaluation has them; undefined ones are left out."""
    visible = [score for score in scores if score.iou is not None]
    metrics: dict[str, float] = {"questions": float(len(scores))}
    for name in MEASURES:
        if visible:
            metrics[name] = math.fsum(getattr(score, name) for score in visible) / len(visible)
    recalls = [
        np.mean([(score.visibility > CONFIDENCE_THRESHOLD) == truth for score in scores if score.visible == truth])
        for truth in (False, True)
        if any(score.visible == truth for score in scores)
    ]
    if recalls:
        metrics["balanced_accuracy"] = float(np.mean(recalls))
    return metrics
