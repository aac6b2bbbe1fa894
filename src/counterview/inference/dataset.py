"""Predictions for a data set, in the official format (Ego-Exo4D Correspondence).

Every image goes through the backbone once, whatever the number of objects, cameras and directions. Finished frames are
written beside the output, one line a frame and one file a take, so that a run that was killed can be resumed; memory
holds the images of one frame.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from counterview.data.dataset import DIRECTIONS, Dataset, Direction, Take, check_direction
from counterview.data.pairs import FramePair, pairs_of_take
from counterview.errors import CounterviewError, InputError
from counterview.evaluation.submission import PredictionWriter, prediction_entry
from counterview.inference.takes import Prediction, TakePredictor
from counterview.media.files import read_json, write_json

logger = logging.getLogger(__name__)

VERSION = 1


def predict(
    predictor: TakePredictor,
    dataset: Dataset,
    directions: Sequence[Direction],
    out: str | os.PathLike[str],
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Predict a data set and write one prediction file.

    Args:
        predictor: the method.
        dataset: the takes. Every frame with a query mask is predicted, also where the target is absent, as the official
            server expects.
        directions: one or both.
        out: the file. Finished frames are kept in ``out.parts`` beside it until the file is complete.
        progress: show a progress bar on standard error.

    Returns:
        Counts: ``predictions``, ``takes``, ``empty`` (number of empty predictions by reason) and ``failed`` (uid to
        problem of each take that was left out).

    Raises:
        InputError: no direction, nothing to predict, or an unfinished run with other settings or data.
    """
    directions = [check_direction(d) for d in dict.fromkeys(directions)]
    if not directions:
        raise InputError("no direction was given", expected=" or ".join(DIRECTIONS))
    out = Path(out)
    if out.is_dir():
        raise InputError("is a folder", path=out, expected="a file to write, for example predictions.json")
    parts = out.with_name(out.name + ".parts")
    header = {
        "format": VERSION,
        "directions": directions,
        "settings": predictor.settings(),
        "data": _fingerprint(dataset),
    }
    _open_parts(parts, header)
    failed: dict[str, str] = {}
    with tqdm(total=len(dataset), unit="take", disable=None if progress else True, dynamic_ncols=True) as bar:
        for uid in dataset.uids:
            try:
                _predict_take(predictor, dataset.take(uid), directions, _part(parts, uid), bar)
            except CounterviewError as error:
                failed[uid] = str(error)
                logger.warning("take %s is left out: %s", uid, error)
            bar.update()
    counts = _merge(parts, out, dataset.uids, directions, header)
    if not counts["predictions"]:
        raise InputError(
            "there is nothing to predict", path=dataset.root, found=f"{len(dataset)} takes, {len(failed)} unreadable",
            expected="query masks in frames of which the target is annotated",
        )  # fmt: skip
    shutil.rmtree(parts)
    return {**counts, "takes": len(dataset), "failed": failed}


def _fingerprint(dataset: Dataset) -> dict[str, Any]:
    text = "\n".join(dataset.uids).encode("utf-8", "surrogatepass")
    return {"kind": dataset.kind, "split": dataset.split, "takes": hashlib.sha256(text).hexdigest()[:16]}


def _part(parts: Path, uid: str) -> Path:
    # The uid of a take is read from a file; its hash is a safe file name.
    return parts / f"{hashlib.sha256(uid.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}.jsonl"


def _open_parts(parts: Path, header: dict[str, Any]) -> None:
    marker = parts / "run.json"
    if marker.exists():
        try:
            earlier = read_json(marker)
        except InputError:
            earlier = None
        if earlier != json.loads(json.dumps(header)):
            raise InputError(
                "holds an unfinished run with other settings or data",
                path=parts,
                fix="Finish that run with its own settings, or remove the folder to start again.",
            )
        return
    write_json(marker, header)


def _predict_take(
    predictor: TakePredictor, take: Take, directions: Sequence[Direction], part: Path, bar: tqdm[Any]
) -> None:
    wanted: dict[int, list[tuple[Direction, FramePair]]] = defaultdict(list)
    for direction in directions:
        # Frames whose target is not annotated are not scored, but the challenge's server expects them as well.
        for pair in pairs_of_take(take, direction, targets="official", need_images=False):
            wanted[pair.frame].append((direction, pair))
    done, length = _read_part(part)
    if done and not predictor.restartable and len(done) < len(wanted):
        done, length = {}, 0
    remaining = {frame: pairs for frame, pairs in sorted(wanted.items()) if frame not in done}
    if not remaining:
        return
    with part.open("r+b" if part.exists() else "wb") as handle:
        handle.truncate(length)  # drops a line that a kill cut off
        handle.seek(length)
        for frame, predictions in predictor.predict(take, remaining):
            line = json.dumps({"frame": frame, "predictions": [_to_json(p) for p in predictions]}, ensure_ascii=True)
            handle.write(line.encode("ascii") + b"\n")
            handle.flush()
            bar.set_postfix_str(f"{take.name} frame {frame}", refresh=False)


def _to_json(prediction: Prediction) -> list[Any]:
    pair = prediction.pair
    entry = prediction_entry(prediction.mask, prediction.confidence)
    if prediction.note:
        entry["note"] = prediction.note
    return [prediction.direction, pair.object, pair.query_camera, pair.target_camera, entry]


def _read_part(part: Path) -> tuple[dict[int, list[Any]], int]:
    """The complete lines of a part by frame, and their length in bytes."""
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


def _merge(
    parts: Path, out: Path, uids: Sequence[str], directions: Sequence[Direction], header: dict[str, Any]
) -> dict[str, Any]:
    """Write the official file take by take, and count its predictions."""
    counts: dict[str, Any] = {"predictions": 0, "empty": defaultdict(int)}
    with PredictionWriter(out, settings=header["settings"]) as writer:
        for direction in directions:
            writer.begin(direction)
            for uid in uids:
                done, _ = _read_part(_part(parts, uid))
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
    counts["empty"] = dict(counts["empty"])
    return counts
