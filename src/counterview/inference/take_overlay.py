"""Predictions for a take, scored by object and drawn frame by frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from counterview.data.dataset import DIRECTIONS, Direction, Take
from counterview.data.pairs import FramePair, pairs_of_take
from counterview.evaluation.scorer import CONFIDENCE_THRESHOLD, Scorer, Totals
from counterview.inference.takes import Prediction, TakePredictor
from counterview.masks.draw import TRUTH, object_colors, overlay, side_by_side, with_legend
from counterview.masks.geometry import iou, resize_mask
from counterview.types import ObjectMask, RgbImage

LEGEND = "filled: prediction, with its IoU; thin line: predicted, but not visible; white line: annotation"


@dataclass(frozen=True)
class ScoredTake:
    """Predictions between one ego and one exo camera of a take, with their scores.

    Attributes:
        take: the take.
        ego: the ego camera.
        exo: the exo camera.
        frames: frame number to predictions, both directions.
        scorers: direction to scores by the official protocol.
    """

    take: Take
    ego: str
    exo: str
    frames: dict[int, list[Prediction]]
    scorers: dict[Direction, Scorer]

    def by_object(self, direction: Direction) -> dict[str, float]:
        """Mean IoU of each object over the frames in which it is visible; without objects that never are."""
        table = self.scorers[direction].table
        visible = table["gt_visible"]
        names = table["object"]
        return {
            name: float(np.mean(table["iou"][visible & (names == name)]))
            for name in self.take.objects
            if (visible & (names == name)).any()
        }

    def totals(self, direction: Direction) -> Totals:
        """The official scores over all frames."""
        return self.scorers[direction].totals()


def predict_take(predictor: TakePredictor, take: Take, exo: str | None = None) -> ScoredTake:
    """Predict every annotated object of a take in both directions between two cameras, and score the predictions.

    Args:
        predictor: the model.
        take: the take.
        exo: the exo camera; the first one by default.
    """
    ego, exo = take.ego_cameras[0], exo or take.exo_cameras[0]
    wanted: dict[int, list[tuple[Direction, FramePair]]] = defaultdict(list)
    for direction in DIRECTIONS:
        for pair in pairs_of_take(take, direction, targets="annotated"):
            if {pair.query_camera, pair.target_camera} == {ego, exo}:
                wanted[pair.frame].append((direction, pair))
    scorers = {direction: Scorer("official") for direction in DIRECTIONS}
    frames: dict[int, list[Prediction]] = {}
    for number, predictions in predictor.predict(take, dict(sorted(wanted.items()))):
        frames[number] = predictions
        for prediction in predictions:
            pair = prediction.pair
            truth = take.mask(pair.object, pair.target_camera, number)
            scorers[prediction.direction].add(
                take.uid, pair.object, pair.query_camera, pair.target_camera, number,
                gt=truth, pred=prediction.mask, confidence=prediction.confidence,
            )  # fmt: skip
    return ScoredTake(take, ego, exo, frames, scorers)


def draw_predictions(
    scored: ScoredTake, direction: Direction, numbers: Sequence[int] | None = None
) -> Iterator[RgbImage]:
    """Draw each frame: the query image with the query masks, and beside it the target image with the predictions.

    Every object has one colour in all frames. White outlines are the annotation; a thin line is a prediction with a
    confidence of at most 0.5, that is, not visible.

    Args:
        scored: the predictions.
        direction: which of the two.
        numbers: frame numbers; all frames by default.

    Yields:
        one image a frame, ``(h, w, 3)`` uint8.
    """
    take = scored.take
    cameras = (scored.ego, scored.exo) if direction == "ego2exo" else (scored.exo, scored.ego)
    colours = dict(zip(take.objects, object_colors(len(take.objects)), strict=True))
    for number in scored.frames if numbers is None else numbers:
        predictions = [p for p in scored.frames[number] if p.direction == direction]
        query, target = (take.frame(camera, number) for camera in cameras)
        annotated = {p.pair.object: take.mask(p.pair.object, cameras[0], number) for p in predictions}
        query_masks = {name: _fit(mask, query) for name, mask in annotated.items() if mask is not None}
        left = overlay(
            query, list(query_masks.values()), labels=list(query_masks), colors=[colours[n] for n in query_masks]
        )
        visible = [p for p in predictions if p.confidence > CONFIDENCE_THRESHOLD]
        unsure = [p for p in predictions if p.confidence <= CONFIDENCE_THRESHOLD]
        hidden = [_fit(p.mask, target) for p in unsure]
        truths = [take.mask(p.pair.object, cameras[1], number) for p in predictions]
        outlines = [_fit(mask, target) for mask in truths if mask is not None]
        right = overlay(
            target,
            [_fit(p.mask, target) for p in visible],
            labels=[_label(take, p) for p in visible],
            colors=[colours[p.pair.object] for p in visible],
            avoid=[*hidden, *outlines],
        )
        right = overlay(right, hidden, colors=[colours[p.pair.object] for p in unsure], opacity=0.0, thickness_px=1)
        right = overlay(right, outlines, colors=[TRUTH] * len(outlines), opacity=0.0, thickness_px=1)
        yield with_legend(side_by_side(left, right), LEGEND)


def _fit(mask: ObjectMask, image: RgbImage) -> ObjectMask:
    return resize_mask(mask, (image.shape[0], image.shape[1]))


def _label(take: Take, prediction: Prediction) -> str:
    """The name of the object with the IoU of its prediction, or ``absent`` if the annotation has no mask."""
    pair = prediction.pair
    truth = take.mask(pair.object, pair.target_camera, pair.frame)
    if truth is None:
        return f"{pair.object} absent"
    return f"{pair.object} {iou(resize_mask(truth, prediction.mask.size_hw), prediction.mask):.2f}"
