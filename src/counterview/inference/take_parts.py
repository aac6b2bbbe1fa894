"""The predictions of one take on disk, one line a frame, and the worker that writes them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterview.data.dataset import Dataset, Direction, Take
from counterview.data.pairs import FramePair, PairFraction, pairs_of_take
from counterview.errors import InputError, counted
from counterview.evaluation.submission import PredictionWriter, prediction_entry
from counterview.inference.takes import Prediction, TakePredictor
from counterview.jobs.worker import report_steps
from counterview.media.files import write_errors

VERSION = 1
"""Of the files of an unfinished run."""

Wanted = dict[int, list[tuple[Direction, FramePair]]]
"""Frame number to the pairs to predict, each with its direction."""

Step = Callable[[int, str], None]
"""Is told, after each frame, of its number of images and which frame it was."""


def part_path(parts: Path, uid: str) -> Path:
    """The file of a take's finished frames.

    Args:
        parts: folder of an unfinished run.
        uid: of the take.
    """
    # The uid of a take is read from a file; its hash is a safe file name.
    return parts / f"{hashlib.sha256(uid.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}.jsonl"


def wanted_of(
    predictor: TakePredictor, take: Take, directions: Sequence[Direction], fractions: Mapping[Direction, PairFraction]
) -> Wanted:
    """What is to be predicted of a take.

    Args:
        predictor: whose layout says which frames.
        take: the take.
        directions: one or both.
        fractions: of the pairs, by direction; all pairs of a direction that is not there.
    """
    wanted: Wanted = defaultdict(list)
    for direction in directions:
        # Frames whose target is not annotated are not scored, but the challenge's server expects them as well.
        for pair in pairs_of_take(take, direction, targets=predictor.layout.targets, need_images=False):
            chosen = fractions.get(direction)
            if chosen is None or (pair.target_visible is not None and pair in chosen):
                wanted[pair.frame].append((direction, pair))
    return wanted


def remaining_of(predictor: TakePredictor, wanted: Wanted, part: Path) -> tuple[Wanted, int]:
    """What is not predicted yet, in order, and the length in bytes of what is.

    Args:
        predictor: which may have to begin a take anew.
        wanted: of the take.
        part: its file.
    """
    done, length = read_part(part)
    if done and not predictor.restartable and len(done) < len(wanted):
        done, length = {}, 0
    return {frame: pairs for frame, pairs in sorted(wanted.items()) if frame not in done}, length


def image_count(pairs: Sequence[tuple[Direction, FramePair]]) -> int:
    """Number of images of a frame that the pairs need.

    Args:
        pairs: of the frame.
    """
    return len({camera for _, pair in pairs for camera in (pair.query_camera, pair.target_camera)})


def predict_take(predictor: TakePredictor, take: Take, wanted: Wanted, part: Path, step: Step) -> None:
    """Predict the frames of a take that are not done, and append each to its file.

    Args:
        predictor: the method.
        take: the take.
        wanted: what is to be predicted.
        part: the file.
        step: is told of each frame.

    Raises:
        OutputError: the file cannot be written.
        CounterviewError: the take cannot be predicted.
    """
    remaining, length = remaining_of(predictor, wanted, part)
    if not remaining:
        return
    with write_errors(part, only=True), part.open("r+b" if part.exists() else "wb") as handle:
        handle.truncate(length)  # drops a line that a kill cut off
        handle.seek(length)
        for frame, predictions in predictor.predict(take, remaining):
            line = json.dumps({"frame": frame, "predictions": [_to_json(p) for p in predictions]}, ensure_ascii=True)
            handle.write(line.encode("ascii") + b"\n")
            handle.flush()
            step(image_count(remaining[frame]), f"{take.name} frame {frame}")


@dataclass(frozen=True)
class TakeWork:
    """What a worker needs to predict takes of a data set.

    Attributes:
        make_predictor: loads the method, once in each process.
        settings: of the method, which it must have in each process.
        dataset: the takes.
        directions: one or both.
        fractions: of the pairs, by direction.
        parts: folder of the finished frames.
    """

    make_predictor: Callable[[], TakePredictor]
    settings: Mapping[str, Any]
    dataset: Dataset
    directions: Sequence[Direction]
    fractions: Mapping[Direction, PairFraction]
    parts: Path


def make_take_worker(work: TakeWork, step: Step | None = None) -> Callable[[str], None]:
    """A worker that predicts the takes whose uids it is given.

    Args:
        work: what it needs.
        step: is told of each frame; the bar of the run if not given.

    Raises:
        InputError: the method of this process is not that of the run.
    """
    predictor = work.make_predictor()
    found = json.loads(json.dumps(predictor.settings()))
    if found != json.loads(json.dumps(work.settings)):
        changed = sorted(k for k in {*found, *work.settings} if found.get(k) != work.settings.get(k))
        raise InputError(
            "the model of a worker is not that of the run", found="other " + ", ".join(changed),
            fix="Give the model by a path or name that leads to the same files on every machine.",
        )  # fmt: skip

    def predict(uid: str) -> None:
        take = work.dataset.take(uid)
        wanted = wanted_of(predictor, take, work.directions, work.fractions)
        predict_take(predictor, take, wanted, part_path(work.parts, uid), step or (lambda images, text: report_steps()))

    return predict


def _to_json(prediction: Prediction) -> list[Any]:
    pair = prediction.pair
    entry = prediction_entry(prediction.mask, prediction.confidence)
    if prediction.note:
        entry["note"] = prediction.note
    return [prediction.direction, pair.object, pair.query_camera, pair.target_camera, entry]


def read_part(part: Path) -> tuple[dict[int, list[Any]], int]:
    """The complete lines of a part by frame, and their length in bytes.

    Args:
        part: the file; it may be missing.
    """
    done: dict[int, list[Any]] = {}
    length = 0
    if not part.exists():
        return done, 0
    with part.open("rb") as handle:
        for line in handle:
            try:
                value: Any = json.loads(line) if line.endswith(b"\n") else None
                frame, entries = int(value["frame"]), value["predictions"]
                if not all(len(entry) == 5 and isinstance(entry[4], dict) for entry in entries):
                    break
                done[frame] = entries
            except Exception:  # damaged: this frame and those after it are predicted again
                break
            length += len(line)
    return done, length


def merge_parts(
    parts: Path,
    out: Path,
    dataset: Dataset,
    directions: Sequence[Direction],
    settings: Mapping[str, Any],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """Write the official file take by take, and count its predictions. Without any, ``out`` stays as it is.

    Args:
        parts: folder of the finished frames.
        out: the file.
        dataset: the takes.
        directions: one or both.
        settings: that the file records.
        failed: uid to problem of each take that was left out.

    Raises:
        InputError: there is no prediction.
        OutputError: the file cannot be written.
    """
    counts: dict[str, Any] = {"predictions": 0, "empty": defaultdict(int)}
    with PredictionWriter(out, settings=settings) as writer:
        for direction in directions:
            writer.begin(direction)
            for uid in dataset.uids:
                done, _ = read_part(part_path(parts, uid))
                masks: dict[str, Any] = {}
                for frame in sorted(done):
                    for entry_direction, name, query, target, entry in done[frame]:
                        if entry_direction == direction:
                            masks.setdefault(name, {}).setdefault(f"{query}_{target}", {})[str(frame)] = entry
                            counts["predictions"] += 1
                            if "note" in entry:
                                counts["empty"][entry["note"]] += 1
                if masks:
                    writer.add(uid, masks, sorted(done))
        if not counts["predictions"]:
            first = next(iter(failed.values()), None)
            raise InputError(
                "there is nothing to predict", path=dataset.root,
                found=counted(len(dataset), "take") + (f", {len(failed)} unreadable: {first}" if first else ""),
                expected="query masks in frames of which the target is annotated",
            )  # fmt: skip
    counts["empty"] = dict(counts["empty"])
    return counts


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """What tells a data set from others in an unfinished run: kind, split, uids, and how images are stored.

    Args:
        dataset: the data set.
    """
    text = "\n".join(dataset.uids).encode("utf-8", "surrogatepass")
    data = {"kind": dataset.kind, "split": dataset.split, "takes": hashlib.sha256(text).hexdigest()[:16]}
    images = dataset.image_source()["images"]
    return {**data, "images": images} if images in ("png", "webp") else data  # runs of earlier versions are resumed
