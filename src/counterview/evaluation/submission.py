"""Write prediction files in the official format, with the checks of the challenge's server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from counterview.data.dataset import DIRECTIONS, Direction, is_ego
from counterview.errors import MaskError, PredictionError
from counterview.evaluation.diagnosis import Lookalikes, confidence_notes
from counterview.evaluation.groundtruth import GroundTruth, GroundTruthTake, decode_mask
from counterview.evaluation.open import open_predictions
from counterview.evaluation.predictions import KEY_OF, JsonTake, PredictionSource, TakePredictions
from counterview.evaluation.protocol import IncompletePredictions, Missing, frame_ranges
from counterview.evaluation.scorer import LONGEST_SIDE_PX
from counterview.masks import rle
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.media.files import atomic_write
from counterview.types import ObjectMask


def prediction_entry(
    mask: ObjectMask, confidence: float, native_size_hw: tuple[int, int] | None = None
) -> dict[str, Any]:
    """One frame of a prediction file.

    Args:
        mask: the predicted mask at any size.
        confidence: probability that the object is visible.
        native_size_hw: ``(H, W)`` of the target camera's images in pixels; the mask's size by default. The mask is
            written at longer side 480 of that shape.

    Returns:
        ``{"pred_mask": {"size": [H, W], "counts": COCO run lengths}, "confidence": number}``.

    >>> entry = prediction_entry(ObjectMask.empty((540, 960)), confidence=0.25)
    >>> entry["pred_mask"]["size"], entry["confidence"]
    ([270, 480], 0.25)
    """
    size = fit_longest_side(native_size_hw or mask.size_hw, LONGEST_SIDE_PX)
    return {"pred_mask": rle.to_coco(resize_mask(mask, size)), "confidence": float(confidence)}


class PredictionWriter:
    """Writes a prediction file take by take; the file appears only if the block ends without an error.

    .. code-block:: python

        with PredictionWriter("predictions.json") as writer:
            writer.begin("ego2exo")
            writer.add(uid, {"cup_0": {"aria01_214-1_cam01": {"30": prediction_entry(mask, 0.9)}}}, [0, 30])

    Args:
        path: the file.
        version: written beside the results, as in the official examples.
        challenge: written beside the results.
        settings: of the method, written beside the results as ``counterview``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        version: str = "xx",
        challenge: str = "xx",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = path
        self._head: dict[str, Any] = {"version": version, "challenge": challenge}
        if settings is not None:
            self._head["counterview"] = dict(settings)
        self._stack = ExitStack()
        self._file: IO[str] | None = None
        self._directions: list[Direction] = []
        self._takes: set[str] = set()

    def __enter__(self) -> PredictionWriter:
        self._file = self._stack.enter_context(atomic_write(self._path, "w"))
        self._file.write("{")
        return self

    def __exit__(self, *error: Any) -> None:
        if self._file is not None and error[0] is None:
            self._file.write(("}}" if self._directions else "") + "}\n")
        self._stack.__exit__(*error)

    def begin(self, direction: Direction) -> None:
        """Start a direction, to which all following takes belong.

        Raises:
            ValueError: outside the block, or the direction was already written.
        """
        if self._file is None or direction in self._directions:
            raise ValueError(f"direction {direction} cannot be started")
        head = ", ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in self._head.items())
        self._file.write(f'{"}}, " if self._directions else ""}"{KEY_OF[direction]}": {{{head}, "results": {{')
        self._directions.append(direction)
        self._takes.clear()

    def add(self, take: str, objects: Mapping[str, Any], subsample_idx: Iterable[int] = ()) -> None:
        """Write one take.

        Args:
            take: its uid.
            objects: object to ``"<query>_<target>"`` to frame (as text) to :func:`prediction_entry`'s result.
            subsample_idx: the frame numbers that were sampled.

        Raises:
            ValueError: no direction was started, the take was already written, or a number is NaN.
        """
        if self._file is None or not self._directions or take in self._takes:
            raise ValueError(f"take {take!r} cannot be added")
        content = {"masks": objects, "subsample_idx": sorted(subsample_idx)}
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        self._file.write(f"{', ' if self._takes else ''}{json.dumps(take)}: {text}")
        self._takes.add(take)


@dataclass
class SubmissionReport:
    """What was merged and corrected.

    Attributes:
        path: the file that was written.
        takes: number of takes written for each direction.
        predictions: number of object-frames written for each direction.
        resized: number of masks that were resized to the required size.
        notes: what was changed or could not be checked, one line each.
        lookalikes: entries of the files that look like missing ones.
    """

    path: Path
    takes: dict[Direction, int] = field(default_factory=dict)
    predictions: dict[Direction, int] = field(default_factory=dict)
    resized: int = 0
    notes: list[str] = field(default_factory=list)
    lookalikes: Lookalikes = field(default_factory=Lookalikes)


def submit(
    ego2exo: PredictionSource | str | os.PathLike[str] | None,
    exo2ego: PredictionSource | str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    gt: GroundTruth | str | os.PathLike[str] | None = None,
    split: str | None = None,
    missing: Missing = "error",
    version: str = "xx",
    challenge: str = "xx",
) -> SubmissionReport:
    """Merge two directions into one file that the challenge accepts.

    Masks are resized (nearest neighbour) to longer side 480 of the target camera's shape. With ``gt`` everything
    that the server checks is checked: takes, objects, pairs of cameras, frames, sizes, masks and confidences. What
    can be corrected is corrected and noted: surplus takes, objects, pairs and frames are left out, objects without
    pairs are listed, confidences in a list are unwrapped.

    Args:
        ego2exo: predictions from ego to exo, or ``None`` to leave the direction out.
        exo2ego: predictions from exo to ego, or ``None``.
        out: the file to write.
        gt: annotation to check against; only the query cameras' part is needed.
        split: of a prepared folder.
        missing: ``"count-absent"`` writes an empty mask of confidence 0 for a missing prediction.
        version: written beside the results.
        challenge: written beside the results.

    Returns:
        Counts, and notes of what was corrected.

    Raises:
        IncompletePredictions: predictions are missing or malformed; the error lists all of them, nothing is written.
        PredictionError: a file that holds no predictions of its direction.
    """
    truth = gt if gt is None or isinstance(gt, GroundTruth) else GroundTruth(gt, split)
    report = SubmissionReport(Path(out))
    lines: list[str] = []
    with PredictionWriter(out, version=version, challenge=challenge) as writer:
        for direction, predictions in zip(DIRECTIONS, (ego2exo, exo2ego), strict=True):
            if predictions is None:
                continue
            source = open_predictions(predictions) if isinstance(predictions, (str, os.PathLike)) else predictions
            if direction not in source.directions:
                raise PredictionError(
                    f"holds no {direction} predictions",
                    path=source.path,
                    found=" and ".join(source.directions) or "none",
                    fix="Give the ego2exo file first.",
                )
            report.notes += [f"{direction}: {note}" for note in source.notes]
            writer.begin(direction)
            lines += _merge(writer, source, direction, truth, missing, report)
        if lines:
            hint = f"{report.lookalikes}. " if str(report.lookalikes) else ""
            raise IncompletePredictions(
                f"{len(lines)} faults that the server would refuse",
                lines,
                path=out,
                fix=f"{hint}Correct the predictions"
                + ("." if missing != "error" else ", or fill gaps: --missing count-absent."),
            )
    return report


@dataclass
class _Counts:
    written: int = 0
    resized: int = 0
    unwrapped: int = 0
    filled: int = 0
    surplus: int = 0
    confidences: list[float] = field(default_factory=list)
    lookalikes: Lookalikes = field(default_factory=Lookalikes)


def _merge(
    writer: PredictionWriter,
    source: PredictionSource,
    direction: Direction,
    truth: GroundTruth | None,
    missing: Missing,
    report: SubmissionReport,
) -> list[str]:
    lines: list[str] = []
    counts = _Counts()
    predicted = source.takes(direction)
    uids = predicted if truth is None else truth.takes
    for uid in uids:
        predictions = source.load(direction, uid)
        where = f"{direction}, take {uid}"
        if truth is None:
            if isinstance(predictions, JsonTake):
                objects = _copy_take(predictions, lines, counts, where)
                writer.add(uid, objects, _frames_of(predictions.subsample_idx, objects))
            else:
                raise PredictionError(
                    "a folder of masks needs the annotation to be merged", path=source.path, fix="Give --gt."
                )
            continue
        take = truth.load(uid)
        objects = _checked_take(take, predictions, direction, missing, lines, counts, where)
        writer.add(uid, objects, _frames_of(None, objects))
        if predictions is None:
            frames = sum(len(take.objects[name][query].masks) for name, query, _ in take.pairs(direction))
            counts.lookalikes.add_take(uid, take.name, frames, predicted)
            if missing == "error":
                lines.append(f"{where}: missing")
    extra = sorted(set(predicted) - set(uids))
    report.takes[direction], report.predictions[direction] = len(uids), counts.written
    report.resized += counts.resized
    numbers = [
        (len(extra), f"takes that the annotation does not have were left out: {', '.join(extra[:5])}"),
        (counts.surplus, "surplus predictions were left out"),
        (counts.unwrapped, "confidences stood in a list and were unwrapped"),
        (counts.filled, "missing predictions were filled with an empty mask of confidence 0"),
        (int(truth is None), "direction was not checked against an annotation: give --gt"),
    ]
    report.notes += [f"{direction}: {number} {text}" for number, text in numbers if number]
    report.notes += [f"{direction}: {note}" for note in confidence_notes(counts.confidences)]
    report.lookalikes.merge(counts.lookalikes)
    if missing != "error" and str(counts.lookalikes):
        report.notes.append(f"{direction}: of the missing predictions: {counts.lookalikes}")
    return lines


def _frames_of(subsample_idx: Any, objects: Mapping[str, Any]) -> list[int]:
    if isinstance(subsample_idx, list) and all(type(v) is int for v in subsample_idx):
        return subsample_idx
    return sorted({int(f) for pairs in objects.values() for frames in pairs.values() for f in frames})


def _entry(
    predictions: TakePredictions, key: tuple[str, str, str], frame: int, size: tuple[int, int] | None, counts: _Counts
) -> dict[str, Any] | None:
    prediction = predictions.get(*key, frame)
    if prediction is None:
        return None
    confidence = prediction.confidence()
    mask = prediction.mask()
    counts.confidences.append(confidence)
    counts.unwrapped += isinstance(prediction.raw_confidence, list)
    required = size or fit_longest_side(mask.size_hw, LONGEST_SIDE_PX)
    counts.resized += mask.size_hw != required
    counts.written += 1
    return prediction_entry(mask, confidence, required)


def _copy_take(predictions: JsonTake, lines: list[str], counts: _Counts, where: str) -> dict[str, Any]:
    lines += [f"{where}: {problem}" for problem in predictions.problems]
    objects: dict[str, Any] = {}
    for name, pairs in predictions.objects.items():
        written = objects.setdefault(name, {})
        for pair in pairs:
            query, target = split_pair(pair)
            if not target:
                lines.append(f"{where}, object {name!r}: {pair!r} is not a pair of cameras")
                continue
            frames = _frames(predictions, (name, query, target), pairs[pair], None, lines, counts, where)
            written[f"{query}_{target}"] = frames
    return objects


def split_pair(pair: str) -> tuple[str, str]:
    """Query and target camera of ``"<query>_<target>"``: camera names hold ``_`` too, but only one of the two is ego.

    Returns:
        Query and target; two empty texts if the pair is ambiguous.

    >>> split_pair("aria01_214-1_cam01")
    ('aria01_214-1', 'cam01')
    """
    if "__" in pair:
        query, _, target = pair.partition("__")
        return (query, target) if query and target else ("", "")
    parts = pair.split("_")
    ego = [i for i, part in enumerate(parts) if is_ego(part)]
    if len(ego) != 1 or len(parts) < 2:
        return "", ""
    # An ego camera's name has two parts, as in aria01_214-1, where the exo camera leaves it two.
    split = ego[0] if ego[0] > 0 else min(2, len(parts) - 1)
    return "_".join(parts[:split]), "_".join(parts[split:])


def _frames(
    predictions: TakePredictions,
    key: tuple[str, str, str],
    frames: Iterable[int],
    size: tuple[int, int] | None,
    lines: list[str],
    counts: _Counts,
    where: str,
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    broken: dict[str, list[int]] = {}
    for frame in frames:
        try:
            entry = _entry(predictions, key, frame, size, counts)
        except PredictionError as error:
            broken.setdefault(str(error), []).append(frame)
            continue
        if entry is not None:
            result[str(frame)] = entry
    pair = f"object {key[0]!r}, {key[1]} -> {key[2]}"
    lines += [f"{where}, {pair}: frames {frame_ranges(bad)}: {problem}" for problem, bad in broken.items()]
    return result


def _checked_take(
    take: GroundTruthTake,
    predictions: TakePredictions | None,
    direction: Direction,
    missing: Missing,
    lines: list[str],
    counts: _Counts,
    where: str,
) -> dict[str, Any]:
    objects: dict[str, Any] = {name: {} for name in take.listed}
    lines += [f"{where}: {p}" for p in (predictions.problems if predictions is not None else ())]
    sizes = dict(_camera_sizes(take))
    wanted = 0
    for name, query, target in take.pairs(direction):
        frames = sorted(take.objects[name][query].masks)
        written: dict[str, Any] = {}
        if predictions is not None:
            written = _frames(predictions, (name, query, target), frames, sizes.get(target), lines, counts, where)
            present = set(predictions.frames(name, query, target))
            wanted += len(present & set(frames))
            gaps = [f for f in frames if f not in present]
        else:
            gaps = frames
        if gaps:
            counts.lookalikes.add(predictions, (name, query, target), gaps, frames)
        if gaps and missing == "count-absent":
            size = sizes.get(target) or (LONGEST_SIDE_PX, LONGEST_SIDE_PX)
            written.update({str(f): prediction_entry(ObjectMask.empty(size), 0.0) for f in gaps})
            counts.filled += len(gaps)
            counts.written += len(gaps)
        elif gaps and predictions is not None:
            lines.append(f"{where}, object {name!r}, {query} -> {target}: frames {frame_ranges(gaps)} are missing")
        objects[name][f"{query}_{target}"] = dict(sorted(written.items(), key=lambda item: int(item[0])))
    if predictions is not None:
        counts.surplus += sum(n for _, _, n in predictions.pairs()) - wanted
    return objects


def _camera_sizes(take: GroundTruthTake) -> Iterator[tuple[str, tuple[int, int]]]:
    """``(H, W)`` that predictions for each camera must have, from its first readable mask."""
    sized: set[str] = set()
    for tracks in take.objects.values():
        for camera, track in tracks.items():
            for raw in track.masks.values():
                if camera in sized:
                    break
                try:
                    size = decode_mask(raw).size_hw
                except MaskError:
                    continue
                sized.add(camera)
                yield camera, fit_longest_side(size, LONGEST_SIDE_PX)
