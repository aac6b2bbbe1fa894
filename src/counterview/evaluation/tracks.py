"""Score tracks against annotations of any format that :mod:`counterview.exchange` reads, camera by camera.

Objects and cameras are matched by name, frames by number. Every frame of a camera in which the ground truth states
whether the object is visible is scored, by the official measures. The official benchmark scores a target's frame only
where the query camera has a mask at the same moment; annotation files do not say which moments those are, so that here
a frame counts whether or not the object is visible in the query camera. In the query camera itself, frames whose mask
was given are left out, if the file tells them from others; that camera is reported, and is no part of the totals.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from counterview.data.formats.release import is_release
from counterview.errors import AnnotationError, InputError, PredictionError, counted
from counterview.evaluation.protocol import IncompletePredictions, Missing, frame_ranges
from counterview.evaluation.scorer import PROTOCOLS, Scorer, Totals, get_protocol, totals
from counterview.evaluation.table import FrameTable
from counterview.exchange.formats import detect_format, read
from counterview.exchange.tracks import TrackedMask, Tracks
from counterview.guard import is_folder
from counterview.masks.geometry import same_aspect
from counterview.media.jsonstream import index_object

TRACKED_PROTOCOLS = tuple(name for name, protocol in PROTOCOLS.items() if protocol.walks == "query")
"""Protocols that need no mask of the query camera in the frame."""

_FIRST_KEY = re.compile(rb'^\s*\{\s*"([^"\\]*)"\s*:\s*(\S)')


def is_annotations(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder holds tracks or annotations of a tool, and not a data set or predictions of takes.

    Args:
        path: of it. Large files of the benchmark are known by their beginning.
    """
    place = Path(path)
    try:
        if is_folder(place):
            if is_release(place) or any((place / name).is_file() for name in ("split.json", "processed/split.json")):
                return False
        elif place.is_file():
            with place.open("rb") as handle:
                head = handle.read(4096)
            first = _FIRST_KEY.match(head)
            if first is not None:
                if first[1] in (b"ego-exo", b"exo-ego") or (first[1], first[2]) == (b"annotations", b"{"):
                    return False
                keys = set(index_object(place, (), error=AnnotationError))
                return {"images", "annotations"} <= keys or {"cameras", "objects"} <= keys or "shapes" in keys
        detect_format(place)
    except (InputError, OSError):
        return False
    return True


@dataclass
class TracksReport:
    """The scores of tracks.

    Attributes:
        protocol: name of the protocol.
        predictions: what was scored.
        ground_truth: against what.
        query_camera: of the predictions.
        table: every object in every frame.
        totals: over the target cameras, or over the query camera if there is no other.
        pairs: query and target camera to their totals.
        notes: what was left out or counted otherwise, one line each.
    """

    protocol: str
    predictions: Path
    ground_truth: Path
    query_camera: str
    table: FrameTable
    totals: Totals
    pairs: dict[tuple[str, str], Totals]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """The values that ``counterview evaluate --json`` prints."""
        pairs = [
            {"query_camera": query, "target_camera": target, **values.to_json()}
            for (query, target), values in self.pairs.items()
        ]
        return {"protocol": self.protocol, **self.totals.to_json(), "pairs": pairs}


def evaluate_tracks(
    gt: Tracks | str | os.PathLike[str],
    predictions: Tracks | str | os.PathLike[str],
    *,
    protocol: str = "official",
    missing: Missing = "error",
) -> TracksReport:
    """Score tracks against annotations.

    Args:
        gt: the ground truth, or a path that :func:`counterview.exchange.read` reads.
        predictions: likewise; usually ``tracks.json`` of ``counterview follow``.
        protocol: one of :data:`TRACKED_PROTOCOLS`.
        missing: ``"error"``, or ``"count-absent"`` to count a frame that the predictions lack as "not visible".

    Returns:
        totals, those of each pair of cameras, the table of every object in every frame, and notes.

    Raises:
        IncompletePredictions: objects, cameras or frames are missing; the error lists them.
        PredictionError: masks of another aspect ratio than the ground truth's.
        InputError: files that cannot be read, nothing in common, or a protocol that needs more than tracks.
    """
    rules = get_protocol(protocol)
    if rules.name not in TRACKED_PROTOCOLS:
        raise InputError(
            f"tracks cannot be scored by the protocol {rules.name}, which needs the query camera's masks",
            expected=" or ".join(TRACKED_PROTOCOLS),
        )
    if missing not in ("error", "count-absent"):
        raise InputError("no such treatment of missing predictions", found=missing, expected="error or count-absent")
    truth, truth_path = _opened(gt)
    found, found_path = _opened(predictions)
    if not set(truth.cameras) & set(found.cameras) or not set(truth.objects) & set(found.objects):
        raise PredictionError(
            "has no camera, or no object, of the ground truth", path=found_path,
            found=f"cameras {', '.join(found.cameras)}; objects {', '.join(found.objects)}",
            expected=f"cameras {', '.join(truth.cameras)}; objects {', '.join(truth.objects)}",
            fix="Rename them: they are matched by name.",
        )  # fmt: skip
    job = _Scoring(truth, found, Scorer(rules), str(truth_path), found_path)
    for camera in truth.cameras:
        for name in truth.objects:
            job.add(name, camera)
    if job.lines and missing == "error":
        raise IncompletePredictions(
            f"{counted(job.missing, 'prediction')} missing", job.lines, path=found_path,
            fix="Follow the same frames, or count them as absent: --missing count-absent.",
        )  # fmt: skip
    table = job.scorer.table
    query = found.query_camera
    cameras = [camera for camera in truth.cameras if camera in job.cameras]
    pairs = {(query, camera): totals(_rows(table, [camera]), rules) for camera in cameras}
    targets = [camera for camera in cameras if camera != query] or cameras
    return TracksReport(
        rules.name, found_path, truth_path, query, table, totals(_rows(table, targets), rules), pairs, job.notes()
    )


def _opened(source: Tracks | str | os.PathLike[str]) -> tuple[Tracks, Path]:
    return (source, Path("tracks")) if isinstance(source, Tracks) else (read(source), Path(source))


def _rows(table: FrameTable, cameras: Iterable[str]) -> FrameTable:
    """The rows of some target cameras."""
    chosen = set(cameras)
    return table.select([index for index, row in enumerate(table.rows()) if row.target_camera in chosen])


@dataclass
class _Scoring:
    """Adds the frames of one object in one camera after the other."""

    truth: Tracks
    found: Tracks
    scorer: Scorer
    take: str
    path: Path
    lines: list[str] = field(default_factory=list)
    cameras: set[str] = field(default_factory=set)
    missing: int = 0
    given: int = 0
    unknown: int = 0
    surplus: int = 0
    prompted: str | None = None

    def __post_init__(self) -> None:
        # Files of other tools have no source but this one, and nothing of them was a prompt.
        sources = {item.source for cameras in self.found.objects.values() for c in cameras.values() for item in c}
        self.prompted = self.found.query_camera if sources - {"given"} else None

    def add(self, name: str, camera: str) -> None:
        stated = [item for item in self.truth.objects[name].get(camera, ()) if item.visibility is not None]
        own = {item.frame: item for item in self.found.objects.get(name, {}).get(camera, ())}
        self.surplus += len(set(own) - {item.frame for item in stated})
        absent: list[int] = []
        for item in stated:
            prediction = own.get(item.frame)
            if prediction is not None and prediction.source == "given" and camera == self.prompted:
                self.given += 1
                continue
            if prediction is None:
                absent.append(item.frame)
            elif prediction.visibility is None:
                self.unknown += 1
            self.cameras.add(camera)
            self._score(name, camera, item, prediction)
        if absent:
            self.missing += len(absent)
            self.lines.append(f"object {name!r}, camera {camera!r}: frames {frame_ranges(absent)}")

    def _score(self, name: str, camera: str, item: TrackedMask, prediction: TrackedMask | None) -> None:
        mask = None if prediction is None else prediction.mask_rle
        if mask is not None and item.mask_rle is not None and not same_aspect(mask.size_hw, item.mask_rle.size_hw):
            raise PredictionError(
                f"the masks of camera {camera} have another aspect ratio than the ground truth's", path=self.path,
                found=mask.size_hw, expected=item.mask_rle.size_hw,
            )  # fmt: skip
        confidence = 0.0 if prediction is None or prediction.visibility is None else prediction.visibility
        self.scorer.add(
            self.take, name, self.found.query_camera, camera, item.frame, gt=item.mask_rle, pred=mask,
            confidence=confidence, resize=True, missing=prediction is None,
        )  # fmt: skip

    def notes(self) -> list[str]:
        """What was left out, or counted otherwise."""
        others = [name for name in self.found.objects if name not in self.truth.objects]
        cameras = [name for name in self.found.cameras if name not in self.truth.cameras]
        lines = [
            (self.missing, f"{counted(self.missing, 'missing prediction')} counted as not visible"),
            (self.unknown, f"{counted(self.unknown, 'frame')} of which the tracks know nothing counted as not visible"),
            (self.given, f"{counted(self.given, 'frame')} of the query camera whose mask was given, and not scored"),
            (self.surplus, f"{counted(self.surplus, 'predicted frame')} of which the ground truth states nothing"),
            (len(others), f"objects that the ground truth does not have: {', '.join(others[:5])}"),
            (len(cameras), f"cameras that the ground truth does not have: {', '.join(cameras[:5])}"),
        ]
        return [line for count, line in lines if count]
