"""Scores on validation pairs by the official protocol, with all proposals as candidates, as at test time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from counterview.data.dataset import Dataset, Direction, Take
from counterview.data.pairs import FramePair
from counterview.evaluation.scorer import CONFIDENCE_THRESHOLD, LONGEST_SIDE_PX, get_protocol, score_frame
from counterview.evaluation.table import FrameScore, FrameTable
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.omama.model import ImageInput, MatchOutput
from counterview.omama.training.image_store import ImageStore
from counterview.types import ObjectMask

MEASURES = ("iou", "location_error", "contour_accuracy")


class MatchingModel(Protocol):
    """What is validated: an O-MaMa, or a model around one."""

    @property
    def uses_proposal_scores(self) -> bool:
        """Whether :meth:`match` reads the proposer's scores."""
        ...

    @property
    def uses_query_proposals(self) -> bool:
        """Whether :meth:`match` reads the proposals of the query image."""
        ...

    def match(
        self,
        query_descriptors: torch.Tensor,
        query_boxes_xywh: NDArray[np.floating],
        query: ImageInput,
        target: ImageInput,
        context: ImageInput | None = None,
    ) -> MatchOutput:
        """See :meth:`counterview.omama.OMaMa.match`."""
        ...


@dataclass(frozen=True)
class ScoredMatch:
    """The scored match of one pair.

    Attributes:
        number: of the pair among all of the validation.
        visible: whether the object is in the target image.
        confidence: the model's probability that it is.
        logit: of that probability, before calibration; ``None`` where there was no candidate.
        scores: IoU, location error and contour accuracy; ``None`` where the object is not visible.
        possible: IoU of the best proposal, at the image's size; ``None`` likewise.
        proposal: index of the chosen one; -1 where there was no candidate.
    """

    number: int
    visible: bool
    confidence: float
    logit: float | None
    scores: tuple[float, float, float] | None
    possible: float | None
    proposal: int

    def to_json(self) -> list[Any]:
        """A list that JSON can hold, for :meth:`from_json`."""
        scores = None if self.scores is None else list(self.scores)
        return [self.number, self.visible, self.confidence, self.logit, scores, self.possible, self.proposal]

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> ScoredMatch:
        """The inverse of :meth:`to_json`."""
        number, visible, confidence, logit, scores, possible, proposal = values
        return cls(number, visible, confidence, logit, None if scores is None else tuple(scores), possible, proposal)


class OMaMaValidator:
    """Matches validation pairs with a model, and scores the matches.

    Pairs of one time and one pair of cameras go through the model together. Scores of a proposal are kept, so
    that later epochs mostly cost the model alone.

    Args:
        store: gives what the model reads of images.
        dataset: the takes.
        pairs: directions and pairs; those whose target image was not annotated are left out.
    """

    def __init__(self, store: ImageStore, dataset: Dataset, pairs: Sequence[tuple[Direction, FramePair]]) -> None:
        self.store, self.dataset = store, dataset
        self.pairs = [(d, p) for d, p in pairs if p.target_visible is not None]
        self.protocol = get_protocol("official")
        self.groups = by_image_pair([pair for _, pair in self.pairs])
        self._scores: dict[Any, tuple[float, float, float]] = {}

    def rows(self, model: MatchingModel, rank: int = 0, world_size: int = 1) -> Iterator[ScoredMatch]:
        """The scored matches of this process's part of the pairs.

        Args:
            model: in evaluation mode.
            rank: of this process.
            world_size: number of processes.
        """
        for numbers in self.groups[rank::world_size]:
            yield from self.match_pairs(model, numbers)

    @torch.no_grad()
    def match_pairs(self, model: MatchingModel, numbers: Sequence[int]) -> Iterator[ScoredMatch]:
        """The scored matches of pairs of one time and one pair of cameras.

        Args:
            model: in evaluation mode.
            numbers: of the pairs, one of :attr:`groups`.
        """
        pairs = [self.pairs[n][1] for n in numbers]
        first = pairs[0]
        take = self.dataset.take(first.take)
        queries = self.store.objects(take, first.query_camera, first.frame, overlap=False)
        target = self.store.record(take, first.target_camera, first.frame)
        query_rows = [queries.usable_row(p.object) for p in pairs]
        usable = [i for i, row in enumerate(query_rows) if row is not None]
        best = np.full(len(pairs), -1)
        confidence = np.zeros(len(pairs))
        logit = np.full(len(pairs), -math.inf)
        if usable and len(target.descriptors):
            rows = np.array([query_rows[i] for i in usable], dtype=np.int64)
            images = self.image_inputs(model, take, first)
            output = model.match(_tensor(queries.descriptors[rows]), queries.boxes_xywh[rows], *images)
            best[usable] = output.score.argmax(axis=1)
            confidence[usable], logit[usable] = output.visibility, output.visibility_logit
        objects = self.store.objects(take, first.target_camera, first.frame)
        for i, (number, pair) in enumerate(zip(numbers, pairs, strict=True)):
            scores, possible = None, None
            if pair.target_visible:
                row = objects.row(pair.object)
                possible = float(objects.overlap[row].max(initial=0.0)) if row is not None else 0.0
                scores = self._score(take, pair, int(best[i]))
            finite_logit = float(logit[i]) if math.isfinite(logit[i]) else None
            yield ScoredMatch(
                number, bool(pair.target_visible), float(confidence[i]), finite_logit, scores, possible, int(best[i])
            )

    def image_inputs(self, model: MatchingModel, take: Take, pair: FramePair) -> tuple[ImageInput, ImageInput]:
        """Query and target image, as :meth:`MatchingModel.match` takes them: with the proposals that it reads."""

        def image_input(camera: str) -> ImageInput:
            record = self.store.record(take, camera, pair.frame)
            scores = self.store.proposals(take, camera, pair.frame).scores if model.uses_proposal_scores else None
            return ImageInput(
                _tensor(record.descriptors), _tensor(record.map), record.boxes_xywh, record.size_hw, scores
            )

        target = image_input(pair.target_camera)
        if model.uses_query_proposals:
            return image_input(pair.query_camera), target
        features = _tensor(self.store.map(take, pair.query_camera, pair.frame))
        without = target.descriptors[:0]
        return ImageInput(without, features, np.zeros((0, 4), np.float32), target.size_hw), target

    def table(self, rows: Sequence[ScoredMatch]) -> FrameTable:
        """Matches as a table of :mod:`counterview.evaluation`, for intervals, break-downs and comparisons."""
        table = FrameTable()
        for row in rows:
            pair = self.pairs[row.number][1]
            iou, distance, contour = row.scores or (math.nan, math.nan, math.nan)
            table.append(
                FrameScore(
                    pair.take,
                    pair.object,
                    pair.query_camera,
                    pair.target_camera,
                    pair.frame,
                    gt_visible=row.scores is not None,
                    pred_visible=row.confidence > CONFIDENCE_THRESHOLD,
                    confidence=row.confidence,
                    iou=iou,
                    location_error=distance,
                    contour_accuracy=contour,
                )
            )
        return table

    def _score(self, take: Take, pair: FramePair, proposal: int) -> tuple[float, float, float] | None:
        """Scores of a proposal (-1: of an empty mask); ``None`` where the truth is missing."""
        key = (pair.take, pair.object, pair.target_camera, pair.frame, proposal)
        if key not in self._scores:
            truth = take.mask(pair.object, pair.target_camera, pair.frame)
            if truth is None:
                return None
            size = fit_longest_side(truth.size_hw, LONGEST_SIDE_PX)
            predicted = ObjectMask.empty(size)
            if proposal >= 0:
                masks = self.store.proposals(take, pair.target_camera, pair.frame).masks
                predicted = resize_mask(masks[proposal], size)
            values = score_frame(self.protocol, truth, predicted)
            if values is None:
                return None
            self._scores[key] = tuple(float(values[name]) for name in MEASURES)  # type: ignore[assignment]
        return self._scores[key]


def summarise(rows: Sequence[ScoredMatch]) -> dict[str, float]:
    """Metrics over all rows, as the official evaluation computes them; undefined ones are left out.

    Args:
        rows: scored matches.

    Returns:
        ``iou``, ``location_error`` and ``contour_accuracy`` over visible objects; ``balanced_accuracy``;
        ``possible_iou``, that of the best proposals; ``pairs``, the number of rows.
    """
    visible = [row for row in rows if row.scores is not None]
    metrics: dict[str, float] = {"pairs": float(len(rows))}
    for index, name in enumerate(MEASURES):
        if visible:
            metrics[name] = math.fsum(row.scores[index] for row in visible if row.scores) / len(visible)
    possible = [row.possible for row in visible if row.possible is not None]
    if possible:
        metrics["possible_iou"] = math.fsum(possible) / len(possible)
    recalls = [
        np.mean([(row.confidence > CONFIDENCE_THRESHOLD) == truth for row in rows if row.visible == truth])
        for truth in (False, True)
        if any(row.visible == truth for row in rows)
    ]
    if recalls:
        metrics["balanced_accuracy"] = float(np.mean(recalls))
    return metrics


def by_image_pair(pairs: Sequence[FramePair]) -> list[list[int]]:
    """Numbers of pairs, grouped by time and pair of cameras, in order of first appearance."""
    groups: dict[tuple[str, int, str, str], list[int]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault((pair.take, pair.frame, pair.query_camera, pair.target_camera), []).append(number)
    return list(groups.values())


@torch.no_grad()
def true_candidates(
    validator: OMaMaValidator, model: MatchingModel, rank: int = 0, world_size: int = 1
) -> tuple[int, int]:
    """How often the right one is chosen among the target image's true masks.

    Args:
        validator: of the validation pairs.
        model: in evaluation mode.
        rank: of this process.
        world_size: number of processes.

    Returns:
        Number of right choices and number of choices, over this process's part of the pairs.
    """
    right = total = 0
    for numbers in validator.groups[rank::world_size]:
        pairs = [validator.pairs[n][1] for n in numbers]
        first, take = pairs[0], validator.dataset.take(pairs[0].take)
        cameras = (first.query_camera, first.target_camera)
        objects = [validator.store.objects(take, camera, first.frame, overlap=False) for camera in cameras]
        rows = [(objects[0].row(p.object), objects[1].row(p.object)) for p in pairs if p.target_visible]
        usable = [(q, t) for q, t in rows if q is not None and t is not None]
        if not usable:
            continue
        query_rows = np.array([q for q, _ in usable], dtype=np.int64)
        query, context = validator.image_inputs(model, take, first)
        target = ImageInput(_tensor(objects[1].descriptors), context.map, objects[1].boxes_xywh, context.size_hw)
        boxes = objects[0].boxes_xywh[query_rows]
        output = model.match(_tensor(objects[0].descriptors[query_rows]), boxes, query, target, context)
        right += int((output.score.argmax(axis=1) == np.array([t for _, t in usable])).sum())
        total += len(usable)
    return right, total


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array).float()
