"""Prepare one take: images of the annotated frames, masks, and a record of the progress.

Beside the prepared layout, ``<out>/.counterview/takes/<take_uid>.json`` records the source files of a take and,
once it is finished, its outcome. The record is written without the outcome before the first image and with it
after the last one. So a killed run continues where it stopped, and images of a video that was replaced since are
not mistaken for those of the new one.
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

_NOT_WRITABLE = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
logger = logging.getLogger(__name__)

STATE_FOLDER = ".counterview"
RECORD_VERSION = 1
EGO_SHORT_PX, EXO_SHORT_PX = 704, 540
"""Shorter sides of the official images: half of the ego's 1408 pixels, a quarter of the exo's 2160."""


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of an output folder, the same for all runs that write into it.

    Attributes:
        height: size of the videos.
        every_second: write also every 30th frame of the ego video, as the official preparation does.
        quality: of the JPEG files, 1 to 95.
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
        out: the output folder.
        source: the annotation file.
        span: position of the take in it.
        facts: its entry of ``takes.json``; ``None`` if it has none.
        listed: whether the release has a ``takes.json``.
        settings: of the output folder.
        threads: decoder threads; one per core if 0.
    """

    uid: str
    split: str
    release: Path
    out: Path
    source: Path
    span: Span
    facts: TakeFacts | None
    listed: bool
    settings: PrepareSettings
    threads: int = 0


class WriteError(CounterviewError):
    """The output folder cannot be written. The run stops, since every take would fail."""


def record_path(out: Path, uid: str) -> Path:
    """Path of the record of a take.

    Raises:
        PathError: the uid cannot be a file name.
    """
    return safe_join(out / STATE_FOLDER, "takes", f"{uid}.json")


def read_record(out: Path, uid: str) -> dict[str, Any] | None:
    """The record of a take; ``None`` if it is missing, damaged or of another version."""
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
        logger.warning("%s is not a valid record; take %s is prepared again", path, uid)
    return None


def prepare_take(job: TakeJob) -> tuple[TakeReport, bool]:
    """Prepare one take. Problems of the take itself do not raise: they are in the report.

    Returns:
        the report, and whether an earlier run had finished the take.

    Raises:
        WriteError: the output folder cannot be written.
    """
    try:
        return _prepare(job)
    except OSError as error:
        if error.errno in _NOT_WRITABLE or Path(error.filename or job.release).is_relative_to(job.out):
            raise WriteError(
                "the output folder cannot be written",
                path=getattr(error, "filename", None) or job.out,
                found=error.strerror,
                fix="Free space or grant access, then run again: finished takes are kept.",
            ) from error
        problem: Exception = error
    except CounterviewError as error:
        problem = error
    except Exception as error:  # a bug that one take of a thousand triggers must not lose the others
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
    recorded = record["videos"] if record is not None else {}
    current = {camera: _fingerprint(path) for camera, path in paths.items() if path is not None}
    # Images stay valid if their video was deleted since, to free space.
    videos = {c: current.get(c, recorded.get(c)) for c in paths if c in current or c in recorded}
    if record is not None and record["report"] is not None and record["annotation"] == digest and videos == recorded:
        earlier = TakeReport.from_dict(record["report"])
        if _is_valid(earlier, job.out):
            return earlier, True
    if not _has_both_sides(take, report, set(videos), job):
        return report, False

    folder = safe_join(job.out, job.uid)
    _clean(folder, [camera for camera in videos if videos[camera] != recorded.get(camera)])
    state = {"version": RECORD_VERSION, "annotation": digest, "videos": videos, "report": None}
    write_json(record_path(job.out, job.uid), state)
    frames = set(take.frames)
    if job.settings.every_second:
        frames.update(_frames_of_every_second(paths, take, job.threads))
    for camera, path in paths.items():
        report.cameras[camera] = _write_images(take, camera, path, sorted(frames), folder, job)
    ego_frames = _images(folder, take.ego_cameras)
    if ego_frames and _images(folder, take.exo_cameras):
        _write_annotation(take, report, folder, sorted(frames & ego_frames))
    else:
        report.status = "damaged"
        report.problems.append(f"no image of an {'exo' if ego_frames else 'ego'} camera can be read")
        (folder / ANNOTATION).unlink(missing_ok=True)
    _set_status(report)
    write_json(record_path(job.out, job.uid), {**state, "report": report.to_dict()})
    return report, False


def _is_valid(report: TakeReport, out: Path) -> bool:
    """Whether an earlier report is still true."""
    # Damage may have been a temporary failure of a disk or network, so it is always tried again.
    if any(camera.status == "damaged" or camera.damaged_frames for camera in report.cameras.values()):
        return False
    folder = safe_join(out, report.take_uid)
    images = all(len(_images(folder, (name,))) == camera.frames for name, camera in report.cameras.items())
    return images and (folder / ANNOTATION).is_file() == (report.status in USABLE)


def _fingerprint(path: Path) -> dict[str, Any]:
    facts = path.stat()
    return {"bytes": facts.st_size, "changed_ns": facts.st_mtime_ns}


def _has_both_sides(take: ReleaseTake, report: TakeReport, available: set[str], job: TakeJob) -> bool:
    """Whether an ego and an exo camera are among ``available``, those with a video; if not, fills in the report."""
    folder = job.release / "takes" / take.name
    if any(take.is_ego(c) for c in available) and not all(take.is_ego(c) for c in available):
        return True
    for camera in take.cameras:
        report.cameras[camera] = CameraReport(side="ego" if take.is_ego(camera) else "exo")
        if camera not in available:
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
            if not available.intersection(cameras):
                reason = f"no video of {', '.join(cameras)}" if cameras else "none is annotated"
                report.problems.append(f"no {side} camera: {reason}")
    return False


def _missing_video(take: ReleaseTake, camera: str) -> str:
    try:
        take.video(camera)
    except VideoError as error:
        return f"{error.problem}. {error.fix}"
    return "the video was missing at first"


def _clean(folder: Path, changed: list[str]) -> None:
    """Remove partial files of a killed run, and images of the cameras whose video was replaced since."""
    for part in [*folder.glob(".*.part"), *folder.glob("*/.*.part")]:
        part.unlink()
    for camera in changed:
        for image in safe_join(folder, camera).glob("*.jpg"):
            image.unlink()


def _frames_of_every_second(paths: dict[str, Path | None], take: ReleaseTake, threads: int) -> range:
    """One frame per second of the first readable ego video."""
    for camera in take.ego_cameras:
        path = paths[camera]
        if path is not None:
            with suppress(VideoError), VideoReader(path, threads=threads) as video:
                return range(0, video.frame_count, 30)
    return range(0)


def _images(folder: Path, cameras: tuple[str, ...]) -> set[int]:
    """Frames with an image in any of the cameras."""
    return {int(p.stem) for camera in cameras for p in (folder / camera).glob("*.jpg")}


def image_size(size_hw: tuple[int, int], ego: bool) -> tuple[int, int]:
    """Height and width of the images that are written for a video, as in the official data.

    Ego 1408x1408 becomes 704x704, exo 2160x3840 becomes 540x960: the size is divided by the integer that brings the
    shorter side closest to the official 704 or 540 pixels. Videos of the 448p release and smaller ones keep their
    size.

    Args:
        size_hw: height and width of the video, in pixels.
        ego: whether the camera is worn.

    >>> image_size((2160, 3840), ego=False), image_size((448, 796), ego=False)
    ((540, 960), (448, 796))
    """
    divisor = max(1, round(min(size_hw) / (EGO_SHORT_PX if ego else EXO_SHORT_PX)))
    return size_hw[0] // divisor, size_hw[1] // divisor


def _downscale(image: RgbImage, size_hw: tuple[int, int]) -> RgbImage:
    if image.shape[:2] == size_hw:
        return image
    # Bilinear without antialiasing, like the official images on which published models were trained.
    return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _write_images(
    take: ReleaseTake, camera: str, path: Path | None, frames: list[int], folder: Path, job: TakeJob
) -> CameraReport:
    """Write the images of one camera that are not written yet."""
    ego = take.is_ego(camera)
    report = CameraReport(side="ego" if ego else "exo", wanted=len(frames))
    target = safe_join(folder, camera)
    for image_path in target.glob("*.jpg"):
        if image_path.stem not in {str(f) for f in frames}:
            image_path.unlink()
    written = {p.stem for p in target.glob("*.jpg")}
    report.frames = len(written)
    if path is None:
        if not written:
            report.status = "missing"
            report.problems.append(_missing_video(take, camera))
        elif len(written) < len(frames):
            report.status = "partial"
            report.problems.append(f"{len(frames) - len(written)} frames are missing, and so is the video now")
        return report
    try:
        with VideoReader(path, threads=job.threads) as video:
            size = image_size(video.size_hw, ego)
            report.video_hw, report.image_hw = list(video.size_hw), list(size)
            _check_aspect(take, camera, video.size_hw, report)
            for frame, image in video.read(f for f in frames if str(f) not in written):
                if isinstance(image, VideoError):
                    (report.damaged_frames if frame in video else report.beyond_end).append(frame)
                    continue
                write_image(target / f"{frame}.jpg", _downscale(image, size), quality=job.settings.quality)
                report.frames += 1
            last = video.frame_count - 1
    except VideoError as error:
        report.status = "damaged"
        report.problems.append(f"{error.problem}" + (f"; found {error.found}" if error.found else ""))
        return report
    if report.beyond_end:
        report.beyond_end.sort()
        report.problems.append(
            f"the video ends at frame {last}: {len(report.beyond_end)} of {report.wanted} frames are after it"
        )
    if report.damaged_frames:
        report.damaged_frames.sort()
        report.problems.append(f"{len(report.damaged_frames)} of {report.wanted} frames are damaged")
    if report.problems:
        report.status = "partial" if report.frames else "damaged"
    return report


def _check_aspect(take: ReleaseTake, camera: str, size_hw: tuple[int, int], report: CameraReport) -> None:
    """Note a video whose aspect ratio differs from that of its masks by more than 2 %."""
    with suppress(InputError):  # the camera has no readable mask
        masks_hw = take.native_size(camera)
        if abs(size_hw[0] / size_hw[1] / (masks_hw[0] / masks_hw[1]) - 1) > 0.02:
            report.problems.append(
                f"the video is {size_hw[0]} high and {size_hw[1]} wide, its masks are {masks_hw[0]} and {masks_hw[1]}"
            )


def _write_annotation(take: ReleaseTake, report: TakeReport, folder: Path, subsample: list[int]) -> None:
    """Decode and write the masks. A malformed one is skipped with its frame, which then counts as not annotated."""
    masks: dict[str, Any] = {}
    annotated: dict[str, Any] = {}
    for name in take.objects:
        masks[name], annotated[name] = {}, {}
        for camera in take.cameras_of(name):
            track = take.track(name, camera)
            masks[name][camera] = {str(frame): _to_coco(mask) for frame, mask in track.masks.items()}
            annotated[name][camera] = sorted(track.annotated_frames)
            report.masks += len(track.masks)
            report.masks_left_out += take.mask_count(name, camera) - len(track.masks)
        egos = [camera for camera in masks[name] if take.is_ego(camera)]
        if len(egos) > 1:
            report.notes.append(f"object {name!r} has {len(egos)} ego cameras ({', '.join(egos)}): all are prepared")
    if len(take.ego_cameras) > 1:
        report.notes.append(f"{len(take.ego_cameras)} ego cameras: {', '.join(take.ego_cameras)}")
    report.problems += take.problems
    content = {"masks": masks, "subsample_idx": subsample, "annotated_frames": annotated}
    with atomic_write(folder / ANNOTATION, "w") as handle:
        json.dump(content, handle, allow_nan=False)


def _to_coco(mask: ObjectMask) -> dict[str, Any]:
    try:
        return rle.to_coco(mask)
    except ValueError as error:  # raised by pycocotools for a mask that passed our checks
        raise MaskError("a mask cannot be encoded", found=error) from None


def _set_status(report: TakeReport) -> None:
    for camera, facts in report.cameras.items():
        report.problems += [f"camera {camera}: {problem}" for problem in facts.problems]
        if facts.video_hw and facts.side == "exo" and facts.video_hw[0] > facts.video_hw[1]:
            report.notes.append(f"camera {camera} is portrait ({facts.video_hw[0]} high, {facts.video_hw[1]} wide)")
    if report.status in USABLE:
        report.status = "partial" if report.problems else "prepared"
