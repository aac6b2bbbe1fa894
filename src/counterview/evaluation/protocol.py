"""Score a prediction file against a ground truth, take by take and on several cores."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from counterview.data.dataset import DIRECTIONS, Direction, check_direction
from counterview.data.pairs import FramePair, PairFraction
from counterview.errors import InputError, MaskError, PredictionError, counted
from counterview.evaluation import scorer
from counterview.evaluation.diagnosis import Lookalikes, confidence_notes
from counterview.evaluation.groundtruth import GroundTruth, GroundTruthTake
from counterview.evaluation.layout import (
    EVERY_FRAME,
    Contents,
    Layout,
    check_record,
    chosen_part,
    read_record,
)
from counterview.evaluation.open import open_predictions
from counterview.evaluation.predictions import PredictedMask, PredictionSource, TakePredictions
from counterview.evaluation.provenance import predicted_from
from counterview.evaluation.scorer import Scorer, Totals, get_protocol
from counterview.evaluation.table import FrameTable
from counterview.jobs.run import map_ordered
from counterview.types import ObjectMask

logger = logging.getLogger(__name__)

Missing = Literal["error", "count-absent"]
_KEPT_LINES = 200


class IncompletePredictions(PredictionError):
    """Predictions that the protocol needs are missing or cannot be read.

    Attributes:
        lines: one for each object and pair of cameras, with the frames.
    """

    def __init__(self, problem: str, lines: list[str], *, path: os.PathLike[str] | str, fix: str) -> None:
        shown = "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more lines" if len(lines) > 3 else "")
        super().__init__(problem, path=path, found=shown, fix=fix)
        self.lines = lines


@dataclass
class Report:
    """The scores of one prediction file in one direction.

    Attributes:
        protocol: name of the protocol.
        direction: ``ego2exo`` or ``exo2ego``.
        predictions: the file or folder.
        ground_truth: the file or folder.
        table: every object in every frame.
        totals: of the table.
        notes: what was skipped or left out, one line each, with counts.
        contents: the frames and sizes of the predictions.
    """

    protocol: str
    direction: Direction
    predictions: Path
    ground_truth: Path
    table: FrameTable
    totals: Totals
    notes: list[str] = field(default_factory=list)
    contents: Contents = field(default_factory=Contents)

    def to_json(self) -> dict[str, object]:
        """The values that ``counterview evaluate --json`` prints."""
        return {"protocol": self.protocol, "direction": self.direction, **self.totals.to_json()}


@dataclass
class _TakeResult:
    table: FrameTable
    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing_frames: int = 0
    unscored_missing: int = 0
    surplus: int = 0
    surplus_frames: int = 0
    assumed_annotated: bool = False
    contents: Contents = field(default_factory=Contents)
    lookalikes: Lookalikes = field(default_factory=Lookalikes)


def evaluate(
    gt: GroundTruth | str | os.PathLike[str],
    predictions: PredictionSource | str | os.PathLike[str],
    direction: str | None = None,
    *,
    protocol: str = "official",
    missing: Missing = "error",
    split: str | None = None,
    allow_missing_takes: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    part: PairFraction | None = None,
) -> Report:
    """Score one prediction file in one direction.

    Args:
        gt: a :class:`GroundTruth`, or a path that it opens.
        predictions: an opened source, or a path for :func:`counterview.evaluation.open_predictions`.
        direction: ``ego2exo`` or ``exo2ego``; may be left out if the file holds only one.
        protocol: a name among :data:`counterview.evaluation.scorer.PROTOCOLS`.
        missing: ``"error"``, or ``"count-absent"`` to count a missing prediction as "not visible, empty mask".
        split: of a prepared folder.
        allow_missing_takes: score the takes that were prepared and that the file was asked for, where it records them;
            by default every take of the ground truth has to be there.
        workers: processes; the result does not depend on it.
        progress: called with the number of takes done and of all takes.
        part: of the pairs, to score no others; by default the fraction that the file records, or all.

    Returns:
        Totals, the table of every object in every frame, and notes.

    Raises:
        IncompletePredictions: predictions are missing or malformed; the error lists all of them.
        PredictionError: the file records that it lacks what the protocol needs, or holds another thing than it records.
        InputError: a file that cannot be read, or an unknown name.
    """
    rules = get_protocol(protocol)
    truth = gt if isinstance(gt, GroundTruth) else GroundTruth(gt, split)
    source = open_predictions(predictions) if isinstance(predictions, (str, os.PathLike)) else predictions
    way = _direction(source, direction)
    if missing not in ("error", "count-absent"):
        raise InputError("no such treatment of missing predictions", found=missing, expected="error or count-absent")
    if truth.missing_takes and not allow_missing_takes:
        raise InputError(
            f"{counted(len(truth.missing_takes), 'take')} of the split not prepared",
            path=truth.path,
            found=", ".join(truth.missing_takes[:5]),
            fix="Prepare them, or score the others with --allow-missing-takes.",
        )
    record = read_record(source)
    part = chosen_part(record, part, way, source)
    notes = [*source.notes]
    if record is not None:
        _refuse_layout(record.layout, rules, missing, source)
        if allow_missing_takes and record.takes is not None:
            restricted = truth.only(record.takes)
            if len(restricted) < len(truth):
                notes.append(
                    f"scored of {counted(len(truth), 'take')}: the {len(restricted)} that the file was asked for"
                )
            truth = restricted
    if part is not None:
        notes.append(f"only {part.fraction:.4g} of the pairs are scored, selected with seed {part.seed}")
    job = _ScoreTake(truth, source, way, rules.name, missing, part)
    # LM-EEC's script walks the predictions, so takes without any are not even opened.
    predicted = set(source.takes(way))
    takes = [uid for uid in truth.takes if uid in predicted] if rules.walks == "prediction" else list(truth.takes)
    table, lines, contents = FrameTable(), _Lines(), Contents()
    for done, result in enumerate(map_ordered(job, takes, workers, "evaluate"), start=1):
        table.extend(result.table)
        lines.add(result)
        contents.add(result.contents)
        if progress is not None:
            progress(done, len(takes))
    lines.raise_if_incomplete(source.path, missing)
    check_record(record, contents, source)
    images = predicted_from(source, way)
    notes += [f"predicted from {images} images"] if images else []
    notes += confidence_notes(table["confidence"][~table["missing"]])
    notes += lines.notes(truth, sorted(predicted - set(truth.takes)), missing)
    return Report(rules.name, way, source.path, truth.path, table, scorer.totals(table, rules), notes, contents)


def _refuse_layout(layout: Layout, rules: scorer.Protocol, missing: Missing, source: PredictionSource) -> None:
    """Say at once why a file lacks frames, instead of listing them all."""
    if rules.walks == "query" and missing == "error" and layout.frames != EVERY_FRAME:
        raise PredictionError(
            f"cannot be scored by the protocol {rules.name}, which needs every frame with a query mask",
            path=source.path, found=layout,
            fix="Predict again with --layout official, or score it by --protocol lmeec.",
        )  # fmt: skip


def _direction(source: PredictionSource, direction: str | None) -> Direction:
    if direction is not None:
        way = check_direction(direction)
        if way not in source.directions:
            raise PredictionError(
                f"holds no {way} predictions", path=source.path, found=" and ".join(source.directions) or "none"
            )
        return way
    if len(source.directions) != 1:
        raise InputError(
            "holds several directions", path=source.path, expected=" or ".join(DIRECTIONS), fix="Choose one."
        )
    return source.directions[0]


@dataclass
class _ScoreTake:
    """Scores one take; sent to the worker processes once for each take."""

    truth: GroundTruth
    source: PredictionSource
    direction: Direction
    protocol: str
    missing: Missing
    part: PairFraction | None = None

    def __call__(self, uid: str) -> _TakeResult:
        take = self.truth.load(uid)
        predictions = self.source.load(self.direction, uid)
        accumulator = Scorer(self.protocol)
        result = _TakeResult(accumulator.table, skipped=[f"take {uid}: {p}" for p in take.problems])
        result.assumed_annotated = not take.has_annotated_frames
        scored: set[tuple[str, str]] = set()
        for name, query, target in take.pairs(self.direction):
            scored.update({(name, f"{query}_{target}"), (name, f"{query}__{target}")})
            result.contents.add_pair(take, predictions, (name, query, target), self.part)
            _score_pair(result, accumulator, take, predictions, (name, query, target), self.missing, self.part)
        if predictions is not None:
            result.skipped += [f"take {uid}: prediction: {p}" for p in predictions.problems]
            result.surplus = sum(n for name, pair, n in predictions.pairs() if (name, pair) not in scored)
        else:
            predicted = self.source.takes(self.direction)
            result.lookalikes.add_take(uid, take.name, result.missing_frames, predicted)
        return result


def _score_pair(
    result: _TakeResult,
    accumulator: Scorer,
    take: GroundTruthTake,
    predictions: TakePredictions | None,
    key: tuple[str, str, str],
    missing: Missing,
    part: PairFraction | None,
) -> None:
    name, query, target = key
    where = f"take {take.uid}, object {name!r}, {query} -> {target}"
    absent: list[int] = []
    broken: dict[str, list[int]] = {}
    for frame, counts in scored_frames(accumulator.protocol.walks, take, predictions, name, query, target):
        if part is not None and FramePair(take.uid, name, query, target, frame, None) not in part:
            continue
        prediction = None if predictions is None else predictions.get(name, query, target, frame)
        if not counts:
            result.unscored_missing += prediction is None
            continue
        try:
            gt = take.mask(name, target, frame)
            if accumulator.protocol.walks == "both" and not visible_in_both(take, name, query, frame, gt):
                continue
        except MaskError as error:
            result.skipped.append(f"{where}, frame {frame}: ground truth: {error}")
            continue
        if prediction is None:
            absent.append(frame)
            if missing == "error":
                continue
        try:
            _add(accumulator, take, name, query, target, frame, gt, prediction)
        except PredictionError as error:
            broken.setdefault(str(error), []).append(frame)
    asked = take.objects[name][query].masks
    if predictions is not None and accumulator.protocol.walks == "query":
        result.surplus_frames += sum(frame not in asked for frame in predictions.frames(name, query, target))
    if absent:
        result.lookalikes.add(predictions, (name, query, target), absent, asked)
        result.missing_frames += len(absent)
        result.missing.append(f"{where}: frames {frame_ranges(absent)}")
    result.broken += [f"{where}: frames {frame_ranges(frames)}: {problem}" for problem, frames in broken.items()]


def scored_frames(
    walks: str, take: GroundTruthTake, predictions: TakePredictions | None, name: str, query: str, target: str
) -> Iterator[tuple[int, bool]]:
    """Frames of an object in a pair of cameras, and whether each is scored.

    Args:
        walks: see :class:`counterview.evaluation.scorer.Protocol`.
        take: the ground truth.
        predictions: needed for ``walks="prediction"`` only.
        name: of the object.
        query: camera.
        target: camera.
    """
    if walks == "prediction":
        frames = () if predictions is None else predictions.frames(name, query, target)
        yield from ((frame, True) for frame in frames)
        return
    tracks = take.objects[name]
    annotated_frames = tracks[target].annotated_frames
    for frame in tracks[query].masks:
        if walks == "both":
            # This protocol needs a mask in both views, whether or not the frame is listed as annotated.
            if frame in tracks[target].masks:
                yield frame, True
        else:
            yield frame, annotated_frames is None or frame in annotated_frames


def visible_in_both(take: GroundTruthTake, name: str, query: str, frame: int, gt: ObjectMask | None) -> bool:
    """Whether an object has pixels in the query camera and in the target camera (``gt``)."""
    source = take.mask(name, query, frame)
    return gt is not None and source is not None and not gt.is_empty and not source.is_empty


def _add(
    accumulator: Scorer,
    take: GroundTruthTake,
    name: str,
    query: str,
    target: str,
    frame: int,
    gt: ObjectMask | None,
    prediction: PredictedMask | None,
) -> None:
    if prediction is None:
        mask, confidence = None, 0.0
    else:
        confidence = prediction.confidence()
        # Where the object is absent, the mask is not scored and may be anything.
        mask = prediction.mask() if gt is not None else None
    accumulator.add(
        take.uid,
        name,
        query,
        target,
        frame,
        gt=gt,
        pred=mask,
        confidence=confidence,
        scenario=take.scenario,
        missing=prediction is None,
    )


def frame_ranges(frames: list[int]) -> str:
    """Frame numbers as text, sorted; the first twelve and the count of longer lists."""
    shown = ", ".join(map(str, sorted(frames)[:12]))
    return f"{shown}, … ({len(frames)} in all)" if len(frames) > 12 else shown


class _Lines:
    """What was left out of all takes: a bounded number of lines of each kind, and their total count."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.broken: list[str] = []
        self.skipped: list[str] = []
        self.frames = self.unscored = self.surplus = self.surplus_frames = self.skipped_count = 0
        self.assumed = False
        self.lookalikes = Lookalikes()

    def add(self, result: _TakeResult) -> None:
        self.missing += result.missing
        self.broken += result.broken
        self.skipped_count += len(result.skipped)
        self.skipped += result.skipped[: max(0, _KEPT_LINES - len(self.skipped))]
        self.frames += result.missing_frames
        self.unscored += result.unscored_missing
        self.surplus += result.surplus
        self.surplus_frames += result.surplus_frames
        self.lookalikes.merge(result.lookalikes)
        self.assumed |= result.assumed_annotated

    def raise_if_incomplete(self, path: Path, missing: Missing) -> None:
        lost = self.missing if missing == "error" else []
        if not lost and not self.broken:
            return
        parts = []
        if lost:
            parts.append(f"{self.frames} predictions are missing")
        if self.broken:
            parts.append(f"{len(self.broken)} groups of predictions cannot be read")
        hint = f"{self.lookalikes}. " if lost and str(self.lookalikes) else ""
        fix = f"{hint}Correct the file" + (", or count them as absent: --missing count-absent" if lost else "")
        raise IncompletePredictions(" and ".join(parts), [*lost, *self.broken], path=path, fix=fix + ".")

    def notes(self, truth: GroundTruth, extra_takes: list[str], missing: Missing) -> list[str]:
        notes = []
        if self.frames and missing == "count-absent":
            notes.append(f"{self.frames} missing predictions were counted as not visible, with an empty mask")
            if str(self.lookalikes):
                notes.append(f"of the missing predictions: {self.lookalikes}")
        if self.unscored:
            notes.append(
                f"{self.unscored} query frames that are not scored have no prediction; the server would refuse the file"
            )
        if extra_takes:
            notes.append(
                f"{len(extra_takes)} predicted takes are not in the ground truth: {', '.join(extra_takes[:5])}"
            )
        if self.surplus:
            notes.append(f"{self.surplus} predictions belong to no object and pair of cameras of the ground truth")
        if self.surplus_frames:
            notes.append(f"{self.surplus_frames} predictions are of frames without a query mask and are not scored")
        if truth.missing_takes:
            notes.append(f"{counted(len(truth.missing_takes), 'take')} of the split not prepared, and not scored")
        if self.assumed:
            notes.append(
                "the ground truth does not state which frames were annotated: every query frame counts as annotated"
            )
        if self.skipped_count:
            notes.append(f"{self.skipped_count} entries were left out:")
            notes += [f"  {line}" for line in self.skipped]
        return notes
