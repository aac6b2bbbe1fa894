"""Prepare one take: images at the annotated times, masks, and a record of how far it got.

Beside the prepared layout, ``<out>/.counterview/takes/<take_uid>.json`` says from which files a take was made
and, once it is whole, what became of it. The record without the outcome is written before the first image and
the one with it after the last, so a run that was killed anywhere goes on where it stopped, and images of a
video that was since replaced are not mistaken for those of the new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from counterview.data.formats.prepared import ANNOTATION
from counterview.data.formats.release import Height, ReleaseTake, TakeFacts
from counterview.data.prepare.report import USABLE, CameraReport, TakeReport
from counterview.errors import CounterviewError, InputError, MaskError, VideoError
from counterview.masks import rle
from counterview.media.files import atomic_write, read_json, safe_join, write_json
from counterview.media.images import write_image
from counterview.media.jsonstream import Span
from counterview.media.video import VideoReader
from counterview.types import ObjectMask, RgbImage

_FULL = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
logger = logging.getLogger(__name__)

STATE_FOLDER = ".counterview"
RECORD_VERSION = 1
EGO_SHORT_PX, EXO_SHORT_PX = 704, 540
"""Shorter sides of the official images: half of the ego's 1408 pixels, a quarter of the exo's 2160."""


@dataclass(frozen=True)
class Settings:
    """What must not change between the runs that fill one folder.

    Attributes:
        height: which videos are read.
        every_second: also every 30th frame of the ego video, as the official preparation takes them.
        quality: of the JPEG files.
    """

    height: Height = "full"
    every_second: bool = False
    quality: int = 95


@dataclass(frozen=True)
class TakeJob:
    """One take to prepare.

    Attributes:
        uid: its identifier.
        split: its split.
        release: the release's folder.
        out: the prepared folder.
        source: the annotation file.
        span: where the take lies in it.
        facts: its entry of ``takes.json``; ``None`` if it has none.
        listed: whether the release has a ``takes.json`` at all.
        settings: for the whole folder.
        threads: decoder threads.
    """

    uid: str
    split: str
    release: Path
    out: Path
    source: Path
    span: Span
    facts: TakeFacts | None
    listed: bool
    settings: Settings
    threads: int = 0


class WriteError(CounterviewError):
    """The prepared folder cannot be written: the run stops, since every take would fail."""


def record_path(out: Path, uid: str) -> Path:
    """Where the record of a take lies."""
    return safe_join(out / STATE_FOLDER, "takes", f"{uid}.json")


def read_record(out: Path, uid: str) -> dict[str, Any] | None:
    """The record of a take; ``None`` if there is none, or none that can be used."""
    path = record_path(out, uid)
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        if record["version"] == RECORD_VERSION and isinstance(record["videos"], dict):
            if record["report"] is not None:
                TakeReport.from_dict(record["report"])
            return record
    except (InputError, KeyError, TypeError, AttributeError):
        logger.warning("%s cannot be used; take %s is prepared anew", path, uid)
    return None


def prepare_take(job: TakeJob) -> tuple[TakeReport, bool]:
    """Prepare one take. Never raises for what is wrong with it: the report says that.

    Returns:
        the report, and whether an earlier run had finished the take.

    Raises:
        WriteError: the prepared folder cannot be written.
    """
    try:
        return _prepare(job)
    except OSError as error:
        if error.errno in _FULL or Path(error.filename or job.release).is_relative_to(job.out):
            raise WriteError(
                "the prepared folder cannot be written",
                path=getattr(error, "filename", None) or job.out,
                found=error.strerror,
                fix="Make room or grant access, then run again: finished takes stay.",
            ) from error
        problem: Exception = error
    except CounterviewError as error:
        problem = error
    except Exception as error:  # a fault of our own in one take of a thousand must not cost the others
        logger.exception("take %s", job.uid)
        problem = error
    text = str(problem) if isinstance(problem, CounterviewError) else f"{type(problem).__name__}: {problem}"
    name = job.facts.name if job.facts else ""
    return TakeReport(job.uid, job.split, "damaged", name, problems=[text]), False


def _prepare(job: TakeJob) -> tuple[TakeReport, bool]:
    with job.source.open("rb") as handle:
        handle.seek(job.span.start)
        raw = handle.read(job.span.end - job.span.start)
    digest = hashlib.sha256(raw).hexdigest()
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the annotation of take {job.uid} is not JSON", path=job.source, found=error) from None
    take = ReleaseTake(job.release, job.source, job.uid, content, job.facts, height=job.settings.height)
    report = TakeReport(job.uid, job.split, take_name=take.name, scenario=take.scenario)
    paths = {camera: take.video_path(camera) for camera in take.cameras}
    record = read_record(job.out, job.uid)
    known = record["videos"] if record is not None else {}
    found = {camera: _fingerprint(path) for camera, path in paths.items() if path is not None}
    # What was prepared stays, even if its video was deleted since to make room.
    videos = {camera: found.get(camera, known.get(camera)) for camera in paths if camera in found or camera in known}
    if record is not None and record["report"] is not None and record["annotation"] == digest and videos == known:
        before = TakeReport.from_dict(record["report"])
        if _stands(before, job.out):
            return before, True
    if not _enough(take, report, set(videos), job):
        return report, False

    folder = safe_join(job.out, job.uid)
    _clean(folder, [camera for camera in videos if videos[camera] != known.get(camera)])
    state = {"version": RECORD_VERSION, "annotation": digest, "videos": videos, "report": None}
    write_json(record_path(job.out, job.uid), state)
    frames = set(take.frames)
    if job.settings.every_second:
        frames.update(_every_second(paths, take, job.threads))
    for camera, path in paths.items():
        report.cameras[camera] = _camera(take, camera, path, sorted(frames), folder, job)
    ego_frames = _images(folder, take.ego_cameras)
    if ego_frames and _images(folder, take.exo_cameras):
        _annotate(take, report, folder, sorted(frames & ego_frames))
    else:
        report.status = "damaged"
        report.problems.append(f"no image of an {'exo' if ego_frames else 'ego'} camera can be read")
        (folder / ANNOTATION).unlink(missing_ok=True)
    _conclude(report)
    write_json(record_path(job.out, job.uid), {**state, "report": report.to_dict()})
    return report, False


def _stands(report: TakeReport, out: Path) -> bool:
    """Whether an earlier report still holds."""
    # What looked damaged may have been a disk or a network that failed for a moment: it is tried again.
    if any(camera.status == "damaged" or camera.damaged_frames for camera in report.cameras.values()):
        return False
    folder = safe_join(out, report.take_uid)
    images = all(len(_images(folder, (name,))) == camera.frames for name, camera in report.cameras.items())
    return images and (folder / ANNOTATION).is_file() == (report.status in USABLE)


def _fingerprint(path: Path) -> dict[str, Any]:
    facts = path.stat()
    return {"bytes": facts.st_size, "changed_ns": facts.st_mtime_ns}


def _enough(take: ReleaseTake, report: TakeReport, there: set[str], job: TakeJob) -> bool:
    """Whether there is something to prepare; the report says why if not."""
    folder = job.release / "takes" / take.name
    if any(take.is_ego(c) for c in there) and not all(take.is_ego(c) for c in there):
        return True
    for camera in take.cameras:
        report.cameras[camera] = CameraReport(side="ego" if take.is_ego(camera) else "exo")
        if camera not in there:
            report.cameras[camera].status = "missing"
            report.cameras[camera].problems.append(_missing_video(take, camera))
        else:
            report.cameras[camera].status = "skipped"
    report.status = "missing"
    if job.listed and job.facts is None:
        report.status = "redacted"
        report.problems.append("annotated, but no longer in takes.json")
    elif not folder.is_dir():
        report.problems.append(f"annotated, but not on disk: no folder takes/{take.name}")
    elif not take.cameras:
        report.status = "skipped"
        report.problems.append("no object is annotated in any camera")
    else:
        sides = {"ego": take.ego_cameras, "exo": take.exo_cameras}
        for side, cameras in sides.items():
            if not there.intersection(cameras):
                why = f"no video of {', '.join(cameras)}" if cameras else "none is annotated"
                report.problems.append(f"no {side} camera: {why}")
    return False


def _missing_video(take: ReleaseTake, camera: str) -> str:
    try:
        take.video(camera)
    except VideoError as error:
        return f"{error.problem}. {error.fix}"
    return "the video was not there at first"


def _clean(folder: Path, changed: list[str]) -> None:
    """Remove what a killed run left half-written, and images of videos that were replaced since."""
    for part in [*folder.glob(".*.part"), *folder.glob("*/.*.part")]:
        part.unlink()
    for camera in changed:
        for old in safe_join(folder, camera).glob("*.jpg"):
            old.unlink()


def _every_second(paths: dict[str, Path | None], take: ReleaseTake, threads: int) -> range:
    for camera in take.ego_cameras:
        path = paths[camera]
        if path is not None:
            with suppress(VideoError), VideoReader(path, threads=threads) as video:
                return range(0, video.frame_count, 30)
    return range(0)


def _images(folder: Path, cameras: tuple[str, ...]) -> set[int]:
    return {int(p.stem) for camera in cameras for p in (folder / camera).glob("*.jpg")}


def image_size(size_hw: tuple[int, int], ego: bool) -> tuple[int, int]:
    """Height and width of the images made from a video: ego 1408x1408 to 704x704, exo 2160x3840 to 540x960.

    Videos are divided by the whole number that brings their shorter side nearest to the official 704 or 540 pixels;
    so those of the 448p release, and any smaller, stay as they are.
    """
    divisor = max(1, round(min(size_hw) / (EGO_SHORT_PX if ego else EXO_SHORT_PX)))
    return size_hw[0] // divisor, size_hw[1] // divisor


def _shrink(image: RgbImage, size_hw: tuple[int, int]) -> RgbImage:
    if image.shape[:2] == size_hw:
        return image
    # Bilinear without antialiasing, as the official images are made, on which published models were trained.
    return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _camera(
    take: ReleaseTake, camera: str, path: Path | None, frames: list[int], folder: Path, job: TakeJob
) -> CameraReport:
    ego = take.is_ego(camera)
    report = CameraReport(side="ego" if ego else "exo", wanted=len(frames))
    target = safe_join(folder, camera)
    for old in target.glob("*.jpg"):
        if old.stem not in {str(f) for f in frames}:
            old.unlink()
    there = {p.stem for p in target.glob("*.jpg")}
    report.frames = len(there)
    if path is None:
        if not there:
            report.status = "missing"
            report.problems.append(_missing_video(take, camera))
        elif len(there) < len(frames):
            report.status = "partial"
            report.problems.append(f"{len(frames) - len(there)} frames are wanting, and the video is gone")
        return report
    try:
        with VideoReader(path, threads=job.threads) as video:
            size = image_size(video.size_hw, ego)
            report.video_hw, report.image_hw = list(video.size_hw), list(size)
            _check_shape(take, camera, video.size_hw, report)
            for frame, image in video.read(f for f in frames if str(f) not in there):
                if isinstance(image, VideoError):
                    (report.damaged_frames if frame in video else report.beyond_end).append(frame)
                    continue
                write_image(target / f"{frame}.jpg", _shrink(image, size), quality=job.settings.quality)
                report.frames += 1
            last = video.frame_count - 1
    except VideoError as error:
        report.status = "damaged"
        report.problems.append(f"{error.problem}" + (f"; found {error.found}" if error.found else ""))
        return report
    if report.beyond_end:
        report.beyond_end.sort()
        report.problems.append(
            f"the video ends at frame {last}: {len(report.beyond_end)} of {report.wanted} frames are beyond it"
        )
    if report.damaged_frames:
        report.damaged_frames.sort()
        report.problems.append(f"{len(report.damaged_frames)} of {report.wanted} frames are damaged")
    if report.problems:
        report.status = "partial" if report.frames else "damaged"
    return report


def _check_shape(take: ReleaseTake, camera: str, size_hw: tuple[int, int], report: CameraReport) -> None:
    with suppress(InputError):  # no mask of this camera tells
        masks_hw = take.native_size(camera)
        if abs(size_hw[0] / size_hw[1] / (masks_hw[0] / masks_hw[1]) - 1) > 0.02:
            report.problems.append(
                f"the video is {size_hw[0]} high and {size_hw[1]} wide, its masks are {masks_hw[0]} and {masks_hw[1]}"
            )


def _annotate(take: ReleaseTake, report: TakeReport, folder: Path, subsample: list[int]) -> None:
    """Decode and write the masks. A bad one is left out, and its frame with it: nothing is known of that frame."""
    masks: dict[str, Any] = {}
    looked: dict[str, Any] = {}
    for name in take.objects:
        masks[name], looked[name] = {}, {}
        for camera in take.cameras_of(name):
            track = take.track(name, camera)
            masks[name][camera] = {str(frame): _to_coco(mask) for frame, mask in track.masks.items()}
            looked[name][camera] = sorted(track.annotated_frames)
            report.masks += len(track.masks)
            report.masks_left_out += take.mask_count(name, camera) - len(track.masks)
        egos = [camera for camera in masks[name] if take.is_ego(camera)]
        if len(egos) > 1:
            report.notes.append(f"object {name!r} has {len(egos)} ego cameras ({', '.join(egos)}): all are prepared")
    if len(take.ego_cameras) > 1:
        report.notes.append(f"{len(take.ego_cameras)} ego cameras: {', '.join(take.ego_cameras)}")
    report.problems += take.problems
    content = {"masks": masks, "subsample_idx": subsample, "annotated_frames": looked}
    with atomic_write(folder / ANNOTATION, "w") as handle:
        json.dump(content, handle, allow_nan=False)


def _to_coco(mask: ObjectMask) -> dict[str, Any]:
    try:
        return rle.to_coco(mask)
    except ValueError as error:  # pycocotools on something that our own checks let pass
        raise MaskError("a mask cannot be written", found=error) from None


def _conclude(report: TakeReport) -> None:
    for camera, facts in report.cameras.items():
        report.problems += [f"camera {camera}: {problem}" for problem in facts.problems]
        if facts.video_hw and facts.side == "exo" and facts.video_hw[0] > facts.video_hw[1]:
            report.notes.append(f"camera {camera} is portrait ({facts.video_hw[0]} high, {facts.video_hw[1]} wide)")
    if report.status in USABLE:
        report.status = "partial" if report.problems else "prepared"
