"""Predictions for a whole data set, in the official format (Ego-Exo4D Correspondence).

Every image goes through the backbone once, whatever the number of objects, cameras and directions. What is
done is kept beside the output, one line a frame and one file a take, so that a killed run goes on where it
was; memory holds the images of one frame.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from counterview.data.dataset import DIRECTIONS, Dataset, Direction, Take, check_direction
from counterview.data.pairs import FramePair, pairs_of_take
from counterview.errors import AnnotationError, CounterviewError, ImageError, InputError, MaskError, VideoError
from counterview.evaluation.scorer import LONGEST_SIDE_PX
from counterview.evaluation.submission import PredictionWriter, prediction_entry
from counterview.inference.encoded import EncodedView
from counterview.inference.predictor import Predictor
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.media.files import safe_join, write_json
from counterview.proposals import load_proposer
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask, RgbImage

logger = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True)
class Prediction:
    """The answer for one object, camera pair and frame.

    Attributes:
        direction: which way.
        pair: what was asked.
        mask: at the official size.
        confidence: probability that the object is visible; above 0.5 counts as visible.
        note: why the answer is empty, where it had to be.
    """

    direction: Direction
    pair: FramePair
    mask: ObjectMask
    confidence: float
    note: str | None = None


class TakePredictor(Protocol):
    """Predicts one take. :class:`FramePredictor` goes frame by frame; others may need the frames in order."""

    restartable: bool
    """Whether a take can go on in its middle; if not, an interrupted take is predicted from its beginning."""

    def settings(self) -> dict[str, Any]:
        """Everything that predictions depend on beside the data."""
        ...

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """Yield the predictions of each frame of ``wanted``, in order, one for each pair."""
        ...


class FramePredictor:
    """A per-frame method over a take: k-NN, O-MaMa.

    Args:
        predictor: encodes and matches.
    """

    restartable = True

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def settings(self) -> dict[str, Any]:
        """Settings of the predictor."""
        return self.predictor.settings()

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """See :class:`TakePredictor`."""
        for frame in sorted(wanted):
            views: dict[str, EncodedView | str] = {}
            groups: dict[tuple[Direction, str, str], list[FramePair]] = defaultdict(list)
            for direction, pair in wanted[frame]:
                groups[direction, pair.query_camera, pair.target_camera].append(pair)
            results: list[Prediction] = []
            for (direction, query_camera, target_camera), pairs in groups.items():
                for camera in (query_camera, target_camera):
                    if camera not in views:
                        views[camera] = self._encode(take, camera, frame)
                results += self._match(take, direction, pairs, views[query_camera], views[target_camera])
            yield frame, results

    def _encode(self, take: Take, camera: str, frame: int) -> EncodedView | str:
        try:
            image = take.frame(camera, frame)
            return self.predictor.encode(image, self._made_elsewhere(take, camera, frame, image))
        except (ImageError, VideoError) as error:
            logger.warning("%s", error)
            return f"the image of {camera} cannot be had"

    def _made_elsewhere(self, take: Take, camera: str, frame: int, image: RgbImage) -> Proposals | None:
        """Proposals of a folder lie below it as the prepared layout has images: ``take uid/camera/frame``."""
        proposer = self.predictor.proposer
        if proposer.name != "folder":
            return None
        folder = safe_join(proposer.settings()["path"], take.uid, camera)
        return load_proposer(f"folder:{folder}")(image, str(frame))

    def _match(
        self,
        take: Take,
        direction: Direction,
        pairs: Sequence[FramePair],
        query: EncodedView | str,
        target: EncodedView | str,
    ) -> list[Prediction]:
        size = prediction_size(take, pairs[0].target_camera, None if isinstance(target, str) else target.size_hw)
        results = []
        masks: list[ObjectMask] = []
        asked: list[FramePair] = []
        for pair in pairs:
            problem: str | None = None
            if isinstance(query, str):
                problem = query
            elif isinstance(target, str):
                problem = target
            elif not target.proposals.masks:
                problem = "the target image has no proposals"
            else:
                try:
                    masks.append(query_mask(take, pair, query.size_hw))
                    asked.append(pair)
                except MaskError as error:
                    problem = error.problem
            if problem is not None:
                results.append(Prediction(direction, pair, ObjectMask.empty(size), 0.0, problem))
        if asked and isinstance(query, EncodedView) and isinstance(target, EncodedView):
            names = [str(i) for i in range(len(asked))]
            for pair, match in zip(
                asked, self.predictor.match_encoded(query, masks, target, names=names, top_k=1), strict=True
            ):
                note = "; ".join(match.notes) or None
                results.append(Prediction(direction, pair, resize_mask(match.mask_rle, size), match.visibility, note))
        return results


def query_mask(take: Take, pair: FramePair, size_hw: tuple[int, int]) -> ObjectMask:
    """The query object's mask at the size of the image, which may be smaller than the annotation.

    A mask that vanishes when it is made smaller keeps one pixel, at its centroid.

    Raises:
        MaskError: there is none, it is malformed, or it has no pixel.
    """
    mask = take.mask(pair.object, pair.query_camera, pair.frame)
    if mask is None or mask.is_empty:
        raise MaskError("the query mask has no pixel")
    small = resize_mask(mask, size_hw)
    if not small.is_empty or mask.centroid_xy is None:
        return small
    x, y = mask.centroid_xy
    dense = np.zeros(size_hw, dtype=np.bool_)
    dense[int(y * size_hw[0] / mask.size_hw[0]), int(x * size_hw[1] / mask.size_hw[1])] = True
    return ObjectMask.from_array(dense)


def prediction_size(take: Take, camera: str, image_hw: tuple[int, int] | None) -> tuple[int, int]:
    """The official size of a prediction for a camera: its masks' size, or its image's, with longer side 480."""
    try:
        return fit_longest_side(take.native_size(camera), LONGEST_SIDE_PX)
    except AnnotationError:
        return fit_longest_side(image_hw or (LONGEST_SIDE_PX, LONGEST_SIDE_PX), LONGEST_SIDE_PX)


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
        dataset: what to predict; every frame with a query mask, as the official server asks, absent targets included.
        directions: one or both.
        out: the file; ``out.parts`` beside it holds what is done until the file is whole.
        progress: show a progress bar on standard error.

    Returns:
        Counts: takes, predictions, empty answers by reason, and takes that failed.

    Raises:
        InputError: no direction, nothing to predict, or parts of a run with other settings.
    """
    asked = [check_direction(d) for d in dict.fromkeys(directions)]
    if not asked:
        raise InputError("no direction was asked for", expected=" or ".join(DIRECTIONS))
    out = Path(out)
    if out.is_dir():
        raise InputError("is a folder", path=out, expected="a file to write, for example predictions.json")
    parts = out.with_name(out.name + ".parts")
    header = {"format": VERSION, "directions": asked, "settings": predictor.settings(), "data": _fingerprint(dataset)}
    _open_parts(parts, header)
    failed: dict[str, str] = {}
    with tqdm(total=len(dataset), unit="take", disable=None if progress else True, dynamic_ncols=True) as bar:
        for uid in dataset.uids:
            try:
                _predict_take(predictor, dataset.take(uid), asked, _part(parts, uid), bar)
            except CounterviewError as error:
                failed[uid] = str(error)
                logger.warning("take %s is left out: %s", uid, error)
            bar.update()
    counts = _merge(parts, out, dataset.uids, asked, header)
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
    # A take's identifier comes out of a file; its hash is a safe name for ours.
    return parts / f"{hashlib.sha256(uid.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}.jsonl"


def _open_parts(parts: Path, header: dict[str, Any]) -> None:
    marker = parts / "run.json"
    if marker.exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != json.loads(json.dumps(header)):
            raise InputError(
                "holds the beginning of a run with other settings or data",
                path=parts,
                fix="Finish that run with its own settings, or remove the folder to start anew.",
            )
        return
    write_json(marker, header)


def _predict_take(
    predictor: TakePredictor, take: Take, directions: Sequence[Direction], part: Path, bar: tqdm[Any]
) -> None:
    wanted: dict[int, list[tuple[Direction, FramePair]]] = defaultdict(list)
    for direction in directions:
        # Frames of which nothing is known in the target are not scored, but the challenge's server wants them too.
        for pair in pairs_of_take(take, direction, targets="official", need_images=False):
            wanted[pair.frame].append((direction, pair))
    done, length = _read_part(part)
    if done and not predictor.restartable and len(done) < len(wanted):
        done, length = {}, 0
    left = {frame: pairs for frame, pairs in sorted(wanted.items()) if frame not in done}
    if not left:
        return
    with part.open("r+b" if part.exists() else "wb") as handle:
        handle.truncate(length)  # a line that was cut off by a kill goes
        handle.seek(length)
        for frame, predictions in predictor.predict(take, left):
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
    """The whole lines of a part by frame, and how many bytes they take."""
    done: dict[int, list[Any]] = {}
    length = 0
    if not part.exists():
        return done, 0
    with part.open("rb") as handle:
        for line in handle:
            try:
                value: Any = json.loads(line) if line.endswith(b"\n") else None
                done[int(value["frame"])] = value["predictions"]
            except (ValueError, KeyError, TypeError):
                break
            length += len(line)
    return done, length


def _merge(
    parts: Path, out: Path, uids: Sequence[str], directions: Sequence[Direction], header: dict[str, Any]
) -> dict[str, Any]:
    """Write the official file, take by take, and count what is in it."""
    counts: dict[str, Any] = {"predictions": 0, "empty": defaultdict(int)}
    with PredictionWriter(out, settings=header["settings"]) as writer:
        for direction in directions:
            writer.begin(direction)
            for uid in uids:
                done, _ = _read_part(_part(parts, uid))
                masks: dict[str, Any] = {}
                for frame in sorted(done):
                    for way, name, query, target, entry in done[frame]:
                        if way == direction:
                            masks.setdefault(name, {}).setdefault(f"{query}_{target}", {})[str(frame)] = entry
                            counts["predictions"] += 1
                            if "note" in entry:
                                counts["empty"][entry["note"]] += 1
                if masks:
                    writer.add(uid, masks, sorted(done))
    counts["empty"] = dict(counts["empty"])
    return counts
