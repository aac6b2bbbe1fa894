"""Write prediction files in the official format, and check what the challenge's server would check."""

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
        native_size_hw: size of the target camera's images; the mask's own if not given. The mask is written at
            longer side 480 of that shape.
    """
    size = fit_longest_side(native_size_hw or mask.size_hw, LONGEST_SIDE_PX)
    return {"pred_mask": rle.to_coco(resize_mask(mask, size)), "confidence": float(confidence)}


class PredictionWriter:
    """Writes a prediction file take by take; the file is there only when the block has ended without an error.

    >>> with PredictionWriter("predictions.json") as writer:
    ...     writer.begin("ego2exo")
    ...     writer.add(uid, {"cup_0": {"aria01_214-1_cam01": {"30": prediction_entry(mask, 0.9)}}}, [0, 30])

    Args:
        path: the file.
        version: written beside the results, as the official examples have it.
        challenge: written beside the results.
        settings: of the method that predicted, written beside the results as ``counterview``.
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
        self._begun: list[Direction] = []
        self._takes: set[str] = set()

    def __enter__(self) -> PredictionWriter:
        self._file = self._stack.enter_context(atomic_write(self._path, "w"))
        self._file.write("{")
        return self

    def __exit__(self, *error: Any) -> None:
        if self._file is not None and error[0] is None:
            self._file.write(("}}" if self._begun else "") + "}\n")
        self._stack.__exit__(*error)

    def begin(self, direction: Direction) -> None:
        """Start a direction. What is added afterwards belongs to it.

        Raises:
            ValueError: outside the block, or the direction was written already.
        """
        if self._file is None or direction in self._begun:
            raise ValueError(f"direction {direction} cannot be begun")
        head = ", ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in self._head.items())
        self._file.write(f'{"}}, " if self._begun else ""}"{KEY_OF[direction]}": {{{head}, "results": {{')
        self._begun.append(direction)
        self._takes.clear()

    def add(self, take: str, objects: Mapping[str, Any], subsample_idx: Iterable[int] = ()) -> None:
        """Write one take.

        Args:
            take: its uid.
            objects: object to ``"<query>_<target>"`` to frame (as text) to :func:`prediction_entry`.
            subsample_idx: the frame numbers that were sampled.

        Raises:
            ValueError: no direction was begun, the take was written already, or a number is NaN.
        """
        if self._file is None or not self._begun or take in self._takes:
            raise ValueError(f"take {take!r} cannot be added")
        content = {"masks": objects, "subsample_idx": sorted(subsample_idx)}
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        self._file.write(f"{', ' if self._takes else ''}{json.dumps(take)}: {text}")
        self._takes.add(take)


@dataclass
class SubmissionReport:
    """What was merged, and what was mended on the way.

    Attributes:
        path: the file that was written.
        takes: takes written for each direction.
        predictions: object-frames written for each direction.
        resized: masks that were brought to the required size.
        notes: what was changed or could not be checked, one line each.
    """

    path: Path
    takes: dict[Direction, int] = field(default_factory=dict)
    predictions: dict[Direction, int] = field(default_factory=dict)
    resized: int = 0
    notes: list[str] = field(default_factory=list)


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
    can be mended is mended and noted: surplus takes, objects, pairs and frames are left out, objects without pairs
    are listed, confidences in a list are unwrapped.

    Args:
        ego2exo: predictions from ego to exo, or ``None`` to leave the direction out.
        exo2ego: predictions from exo to ego, or ``None``.
        out: the file to write.
        gt: annotation to check against; only what is seen in the query cameras is needed.
        split: of a prepared folder.
        missing: ``"count-absent"`` writes an empty mask of confidence 0 for what is missing.
        version: written beside the results.
        challenge: written beside the results.

    Raises:
        IncompletePredictions: something is missing or malformed; the error lists all of it, nothing is written.
        PredictionError: a file that holds no predictions of its direction.
    """
    truth = gt if gt is None or isinstance(gt, GroundTruth) else GroundTruth(gt, split)
    report = SubmissionReport(Path(out))
    lines: list[str] = []
    with PredictionWriter(out, version=version, challenge=challenge) as writer:
        for direction, given in zip(DIRECTIONS, (ego2exo, exo2ego), strict=True):
            if given is None:
                continue
            source = open_predictions(given) if isinstance(given, (str, os.PathLike)) else given
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
            raise IncompletePredictions(
                f"{len(lines)} faults that the server would refuse",
                lines,
                path=out,
                fix="Mend the predictions" + ("." if missing != "error" else ", or fill gaps: --missing count-absent."),
            )
    return report


@dataclass
class _Counts:
    written: int = 0
    resized: int = 0
    unwrapped: int = 0
    filled: int = 0
    surplus: int = 0


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
    there = source.takes(direction)
    uids = there if truth is None else truth.takes
    for uid in uids:
        found = source.load(direction, uid)
        where = f"{direction}, take {uid}"
        if truth is None:
            if isinstance(found, JsonTake):
                objects = _copy_take(found, lines, counts, where)
                writer.add(uid, objects, _frames_of(found.subsample_idx, objects))
            else:
                raise PredictionError(
                    "a folder of masks needs the annotation to be merged", path=source.path, fix="Give --gt."
                )
            continue
        take = truth.load(uid)
        objects = _checked_take(take, found, direction, missing, lines, counts, where)
        writer.add(uid, objects, _frames_of(None, objects))
        if found is None and missing == "error":
            lines.append(f"{where}: missing")
    extra = sorted(set(there) - set(uids))
    report.takes[direction], report.predictions[direction] = len(uids), counts.written
    report.resized += counts.resized
    said = [
        (len(extra), f"takes that the annotation does not have were left out: {', '.join(extra[:5])}"),
        (counts.surplus, "predictions that nobody asks for were left out"),
        (counts.unwrapped, "confidences stood in a list and were unwrapped"),
        (counts.filled, "missing predictions were filled with an empty mask of confidence 0"),
        (int(truth is None), "direction was not checked against an annotation: give --gt"),
    ]
    report.notes += [f"{direction}: {number} {text}" for number, text in said if number]
    return lines


def _frames_of(subsample_idx: Any, objects: Mapping[str, Any]) -> list[int]:
    if isinstance(subsample_idx, list) and all(type(v) is int for v in subsample_idx):
        return subsample_idx
    return sorted({int(f) for pairs in objects.values() for frames in pairs.values() for f in frames})


def _entry(
    found: TakePredictions, key: tuple[str, str, str], frame: int, size: tuple[int, int] | None, counts: _Counts
) -> dict[str, Any] | None:
    prediction = found.get(*key, frame)
    if prediction is None:
        return None
    confidence = prediction.confidence()
    mask = prediction.mask()
    counts.unwrapped += isinstance(prediction.raw_confidence, list)
    wanted = size or fit_longest_side(mask.size_hw, LONGEST_SIDE_PX)
    counts.resized += mask.size_hw != wanted
    counts.written += 1
    return prediction_entry(mask, confidence, wanted)


def _copy_take(found: JsonTake, lines: list[str], counts: _Counts, where: str) -> dict[str, Any]:
    lines += [f"{where}: {problem}" for problem in found.problems]
    objects: dict[str, Any] = {}
    for name, pairs in found.objects.items():
        written = objects.setdefault(name, {})
        for pair in pairs:
            query, target = split_pair(pair)
            if not target:
                lines.append(f"{where}, object {name!r}: {pair!r} is no pair of cameras")
                continue
            frames = _frames(found, (name, query, target), pairs[pair], None, lines, counts, where)
            written[f"{query}_{target}"] = frames
    return objects


def split_pair(pair: str) -> tuple[str, str]:
    """Query and target camera of ``"<query>_<target>"``: camera names hold ``_`` too, but only one side is ego.

    Returns:
        two empty texts if the pair cannot be told apart.
    """
    if "__" in pair:
        query, _, target = pair.partition("__")
        return (query, target) if query and target else ("", "")
    parts = pair.split("_")
    ego = [i for i, part in enumerate(parts) if is_ego(part)]
    if len(ego) != 1 or len(parts) < 2:
        return "", ""
    # An ego camera's name is all up to the next part that begins another camera: aria01_214-1 has two parts.
    cut = ego[0] if ego[0] > 0 else min(2, len(parts) - 1)
    return "_".join(parts[:cut]), "_".join(parts[cut:])


def _frames(
    found: TakePredictions,
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
            entry = _entry(found, key, frame, size, counts)
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
    found: TakePredictions | None,
    direction: Direction,
    missing: Missing,
    lines: list[str],
    counts: _Counts,
    where: str,
) -> dict[str, Any]:
    objects: dict[str, Any] = {name: {} for name in take.listed}
    lines += [f"{where}: {p}" for p in (found.problems if found is not None else ())]
    sizes = dict(_camera_sizes(take))
    asked = 0
    for name, query, target in take.pairs(direction):
        frames = sorted(take.objects[name][query].masks)
        written: dict[str, Any] = {}
        if found is not None:
            written = _frames(found, (name, query, target), frames, sizes.get(target), lines, counts, where)
            present = set(found.frames(name, query, target))
            asked += len(present & set(frames))
            gaps = [f for f in frames if f not in present]
        else:
            gaps = frames
        if gaps and missing == "count-absent":
            size = sizes.get(target) or (LONGEST_SIDE_PX, LONGEST_SIDE_PX)
            written.update({str(f): prediction_entry(ObjectMask.empty(size), 0.0) for f in gaps})
            counts.filled += len(gaps)
            counts.written += len(gaps)
        elif gaps and found is not None:
            lines.append(f"{where}, object {name!r}, {query} -> {target}: frames {frame_ranges(gaps)} are missing")
        objects[name][f"{query}_{target}"] = dict(sorted(written.items(), key=lambda item: int(item[0])))
    if found is not None:
        counts.surplus += sum(n for _, _, n in found.pairs()) - asked
    return objects


def _camera_sizes(take: GroundTruthTake) -> Iterator[tuple[str, tuple[int, int]]]:
    """Height and width that predictions for each camera must have, from its first readable mask."""
    known: set[str] = set()
    for tracks in take.objects.values():
        for camera, track in tracks.items():
            for raw in track.masks.values():
                if camera in known:
                    break
                try:
                    size = decode_mask(raw).size_hw
                except MaskError:
                    continue
                known.add(camera)
                yield camera, fit_longest_side(size, LONGEST_SIDE_PX)
