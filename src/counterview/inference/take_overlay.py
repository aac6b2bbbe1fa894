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
    cameras = (scored.ego, scored.exo) if direction == "ego2exo" else (scored.exo, scored.ego)
    for number in scored.frames if numbers is None else numbers:
        predictions = [p for p in scored.frames[number] if p.direction == direction]
        names = [p.pair.object for p in predictions]
        left = draw_annotation(scored.take, cameras[0], number, names)
        right = draw_against_annotation(scored.take, cameras[1], number, predictions)
        yield with_legend(side_by_side(left, right), LEGEND)


def take_colors(take: Take) -> dict[str, str]:
    """A hex colour for each object of a take, the same in all its frames and cameras."""
    return dict(zip(take.objects, object_colors(len(take.objects)), strict=True))


def draw_annotation(
    take: Take, camera: str, number: int, names: Sequence[str], letters_px: int | None = None
) -> RgbImage:
    """Draw a frame with the annotated masks of objects.

    Args:
        take: the take.
        camera: one of its cameras.
        number: of the frame.
        names: of the objects.
        letters_px: height of their letters; proportional to the image's size if not given.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ImageError, VideoError: the image cannot be read.
        MaskError: a mask is malformed.
    """
    image, colors = take.frame(camera, number), take_colors(take)
    masks = {name: _fit(mask, image) for name in names if (mask := take.mask(name, camera, number)) is not None}
    chosen = [colors[name] for name in masks]
    return overlay(image, list(masks.values()), labels=list(masks), colors=chosen, letters_px=letters_px)


def draw_against_annotation(
    take: Take, camera: str, number: int, predictions: Sequence[Prediction], letters_px: int | None = None
) -> RgbImage:
    """Draw a frame with predictions, filled with their IoU beside the name, and the annotation as white lines.

    Args:
        take: the take.
        camera: one of its cameras.
        number: of the frame.
        predictions: for objects in it; of those that are not visible a thin line is drawn.
        letters_px: height of the letters; proportional to the image's size if not given.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ImageError, VideoError: the image cannot be read.
        MaskError: a mask of the annotation is malformed.
    """
    image, colors = take.frame(camera, number), take_colors(take)
    visible = [p for p in predictions if p.confidence > CONFIDENCE_THRESHOLD]
    unsure = [p for p in predictions if p.confidence <= CONFIDENCE_THRESHOLD]
    hidden = [_fit(p.mask, image) for p in unsure]
    truths = [take.mask(p.pair.object, camera, number) for p in predictions]
    outlines = [_fit(mask, image) for mask in truths if mask is not None]
    drawn = overlay(
        image,
        [_fit(p.mask, image) for p in visible],
        labels=[_label(take, p) for p in visible],
        colors=[colors[p.pair.object] for p in visible],
        avoid=[*hidden, *outlines],
        letters_px=letters_px,
    )
    drawn = overlay(drawn, hidden, colors=[colors[p.pair.object] for p in unsure], opacity=0.0, thickness_px=1)
    return overlay(drawn, outlines, colors=[TRUTH] * len(outlines), opacity=0.0, thickness_px=1)


def _fit(mask: ObjectMask, image: RgbImage) -> ObjectMask:
    return resize_mask(mask, (image.shape[0], image.shape[1]))


def _label(take: Take, prediction: Prediction) -> str:
    """The name of the object with the IoU of its prediction, or ``absent`` if the annotation has no mask."""
    pair = prediction.pair
    truth = take.mask(pair.object, pair.target_camera, pair.frame)
    if truth is None:
        return f"{pair.object} absent"
    return f"{pair.object} {iou(resize_mask(truth, prediction.mask.size_hw), prediction.mask):.2f}"
