"""What a model answers over a whole take, scored object by object, and drawn frame by frame."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from counterview.data.dataset import DIRECTIONS, Direction, Take
from counterview.data.pairs import FramePair, pairs_of_take
from counterview.evaluation.scorer import CONFIDENCE_THRESHOLD, Scorer, Totals
from counterview.inference.takes import Prediction, TakePredictor
from counterview.masks.draw import FAINT, PALETTE, overlay, side_by_side
from counterview.masks.geometry import resize_mask
from counterview.types import ObjectMask, RgbImage

TRUTH = "#ffffff"
"""Colour of the outline of what was annotated."""


@dataclass(frozen=True)
class TakeAnswers:
    """A model's answers over one ego and one exo camera of a take.

    Attributes:
        take: where images and masks come from.
        ego: the ego camera.
        exo: the exo camera.
        frames: answers by frame number, both directions.
        scorer: the answers, scored by the official protocol, of both directions.
    """

    take: Take
    ego: str
    exo: str
    frames: dict[int, list[Prediction]]
    scorers: dict[Direction, Scorer]

    def by_object(self, direction: Direction) -> dict[str, float]:
        """Mean IoU of each object over the frames in which it can be seen; objects that never can are left out."""
        table = self.scorers[direction].table
        seen = table["gt_visible"]
        names = table["object"]
        return {
            name: float(np.mean(table["iou"][seen & (names == name)]))
            for name in self.take.objects
            if (seen & (names == name)).any()
        }

    def totals(self, direction: Direction) -> Totals:
        """The official scores over all frames."""
        return self.scorers[direction].totals()


def answer_take(predictor: TakePredictor, take: Take, exo: str | None = None) -> TakeAnswers:
    """Ask a model for every annotated object of a take, in both directions between two cameras.

    Args:
        predictor: the model.
        take: the take.
        exo: which exo camera; the first if not given.
    """
    ego, other = take.ego_cameras[0], exo or take.exo_cameras[0]
    wanted: dict[int, list[tuple[Direction, FramePair]]] = defaultdict(list)
    for direction in DIRECTIONS:
        for pair in pairs_of_take(take, direction, targets="annotated"):
            if {pair.query_camera, pair.target_camera} == {ego, other}:
                wanted[pair.frame].append((direction, pair))
    scorers = {direction: Scorer("official") for direction in DIRECTIONS}
    frames: dict[int, list[Prediction]] = {}
    for number, answers in predictor.predict(take, dict(sorted(wanted.items()))):
        frames[number] = answers
        for answer in answers:
            pair = answer.pair
            truth = take.mask(pair.object, pair.target_camera, number)
            scorers[answer.direction].add(
                take.uid, pair.object, pair.query_camera, pair.target_camera, number,
                gt=truth, pred=answer.mask, confidence=answer.confidence,
            )  # fmt: skip
    return TakeAnswers(take, ego, other, frames, scorers)


def draw_answers(
    answers: TakeAnswers, direction: Direction, numbers: Sequence[int] | None = None
) -> Iterator[RgbImage]:
    """Frame by frame, the query with the objects that were given, and the target with what was found.

    Every object keeps its colour. White lines are the annotation; a grey line is an answer that the model itself
    holds for not visible.
    """
    take = answers.take
    cameras = (answers.ego, answers.exo) if direction == "ego2exo" else (answers.exo, answers.ego)
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(take.objects)}
    for number in answers.frames if numbers is None else numbers:
        found = [a for a in answers.frames[number] if a.direction == direction]
        query, target = (take.frame(camera, number) for camera in cameras)
        given = {a.pair.object: take.mask(a.pair.object, cameras[0], number) for a in found}
        shown = {name: _fit(mask, query) for name, mask in given.items() if mask is not None}
        left = overlay(query, list(shown.values()), labels=list(shown), colors=[colours[n] for n in shown])
        sure = [a for a in found if a.confidence > CONFIDENCE_THRESHOLD]
        unsure = [_fit(a.mask, target) for a in found if a.confidence <= CONFIDENCE_THRESHOLD]
        right = overlay(
            target,
            [_fit(a.mask, target) for a in sure],
            labels=[_label(take, a) for a in sure],
            colors=[colours[a.pair.object] for a in sure],
        )
        right = overlay(right, unsure, colors=[FAINT] * len(unsure), opacity=0.0, thickness_px=1)
        truths = [take.mask(a.pair.object, cameras[1], number) for a in found]
        lines = [_fit(mask, target) for mask in truths if mask is not None]
        right = overlay(right, lines, colors=[TRUTH] * len(lines), opacity=0.0, thickness_px=1)
        yield side_by_side(left, right)


def _fit(mask: ObjectMask, image: RgbImage) -> ObjectMask:
    return resize_mask(mask, (image.shape[0], image.shape[1]))


def _label(take: Take, answer: Prediction) -> str:
    truth = take.mask(answer.pair.object, answer.pair.target_camera, answer.pair.frame)
    if truth is None:
        return f"{answer.pair.object} absent"
    from counterview.masks.geometry import iou

    value = iou(resize_mask(truth, answer.mask.size_hw), answer.mask)
    return f"{answer.pair.object} {0.0 if math.isnan(value) else value:.2f}"
