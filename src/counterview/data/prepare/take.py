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
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterview.data.clock import TakeClock, VideoClock
from counterview.data.formats.prepared import ANNOTATION
from counterview.data.formats.release import ReleaseTake
from counterview.data.formats.takes_json import TakeFacts
from counterview.data.prepare.images import missing_video, write_images, written_frames
from counterview.data.prepare.report import USABLE, CameraReport, TakeReport
from counterview.data.prepare.settings import PrepareSettings
from counterview.errors import CounterviewError, InputError, MaskError, OutputError, VideoError
from counterview.masks import rle
from counterview.media.files import atomic_write, read_json, safe_join, write_json
from counterview.media.jsonstream import Span
from counterview.media.video import VideoReader
from counterview.types import ObjectMask

_NOT_WRITABLE = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
logger = logging.getLogger(__name__)

STATE_FOLDER = ".counterview"
RECORD_VERSION = 1
CLOCKS_VERSION = 1
"""Of records whose images were looked up with the cameras' clocks compared; earlier ones took the number alone."""


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


class WriteError(OutputError):
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
                errno=error.errno,
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


def is_finished(job: TakeJob) -> bool:
    """Whether an earlier run finished a take, told without reading its videos.

    Args:
        job: the take.
    """
    try:
        return _prepare(job, only_check=True)[1]
    except (CounterviewError, OSError):
        return False


def _prepare(job: TakeJob, *, only_check: bool = False) -> tuple[TakeReport, bool]:
    with job.source.open("rb") as handle:
        handle.seek(job.span.start)
        raw = handle.read(job.span.end - job.span.start)
    digest = hashlib.sha256(raw).hexdigest()
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the annotation of take {job.uid} is not JSON", path=job.source, found=error) from None
    settings = job.settings
    take = ReleaseTake(
        job.release, job.source, job.uid, content, job.facts, height=settings.height,
        annotation_fps=settings.annotation_fps,
    )  # fmt: skip
    report = TakeReport(job.uid, job.split, take_name=take.name, scenario=take.scenario)
    if _is_withdrawn(take, report, job):
        return report, False
    paths = {camera: take.video_path(camera) for camera in take.cameras}
    record = read_record(job.out, job.uid)
    recorded = record["videos"] if record is not None and take.conflict is None else {}
    current = {camera: _fingerprint(path) for camera, path in paths.items() if path is not None}
    # Images stay valid if their video was deleted since, to free space.
    videos = {c: current.get(c, recorded.get(c)) for c in paths if c in current or c in recorded}
    has_clocks = record is not None and record.get("clocks") == CLOCKS_VERSION
    earlier = TakeReport.from_dict(record["report"]) if record is not None and record["report"] is not None else None
    is_unchanged = record is not None and record["annotation"] == digest and videos == recorded
    if earlier is not None and has_clocks and is_unchanged and _is_valid(earlier, job):
        return earlier, True
    if only_check:
        return report, False
    if not _has_both_sides(take, report, set(videos), job):
        return report, False

    clock = _clock(take, earlier)
    folder = safe_join(job.out, job.uid)
    changed = [camera for camera in videos if videos[camera] != recorded.get(camera)]
    if not has_clocks:  # an earlier version wrote these images by number
        changed += [camera for camera in current if clock.lookup(camera) == "time"]
    _clean(folder, changed, settings.suffix)
    state = {
        "version": RECORD_VERSION, "annotation": digest, "videos": videos, "clocks": CLOCKS_VERSION, "report": None
    }  # fmt: skip
    write_json(record_path(job.out, job.uid), state)
    frames = set(take.frames)
    if settings.every_second:
        frames.update(_frames_of_every_second(paths, take, clock, job.threads))
    for camera, path in paths.items():
        facts = write_images(take, camera, path, sorted(frames), folder, settings, clock, job.threads)
        report.cameras[camera] = _with_clock(facts, clock, camera)
    ego_frames = written_frames(folder, take.ego_cameras, settings.suffix)
    if ego_frames and written_frames(folder, take.exo_cameras, settings.suffix):
        _write_annotation(take, report, folder, sorted(frames & ego_frames))
    else:
        report.status = "damaged"
        report.problems += [f"no image of an {'exo' if ego_frames else 'ego'} camera can be read", *take.problems]
        (folder / ANNOTATION).unlink(missing_ok=True)
    _set_status(report)
    write_json(record_path(job.out, job.uid), {**state, "report": report.to_dict()})
    return report, False


def _is_withdrawn(take: ReleaseTake, report: TakeReport, job: TakeJob) -> bool:
    """Whether a take is no longer in ``takes.json``; if so, fills in the report. It may still be on disk."""
    if not job.listed or job.facts is not None:
        return False
    report.status = "redacted"
    report.problems.append("annotated, but no longer in takes.json")
    if (job.release / "takes" / take.name).is_dir():
        report.problems.append(f"its folder takes/{take.name} is still there: it was withdrawn, so delete it")
    if (job.out / job.uid).is_dir():
        report.problems.append(f"it was prepared before it was withdrawn: delete {job.out / job.uid}")
    return True


def _clock(take: ReleaseTake, earlier: TakeReport | None) -> TakeClock:
    """The clocks of the take's videos; of those that were deleted since, as an earlier run found them."""
    clocks = dict(take.video_clocks)
    for camera, facts in earlier.cameras.items() if earlier is not None else ():
        if camera not in clocks and None not in (facts.fps, facts.start_s, facts.duration_s):
            clocks[camera] = VideoClock(
                float(facts.fps or 0),
                float(facts.start_s or 0),
                float(facts.duration_s or 0),
                bool(facts.variable_rate),
            )
        if facts.video_hw is not None:
            take.video_sizes.setdefault(camera, (facts.video_hw[0], facts.video_hw[1]))
    take.close()
    return TakeClock({camera: clocks[camera] for camera in take.cameras if camera in clocks}, take.annotation_fps)


def _with_clock(report: CameraReport, clock: TakeClock, camera: str) -> CameraReport:
    facts = clock.clocks.get(camera)
    if facts is not None:
        report.fps, report.start_s, report.duration_s = (
            round(value, 4) for value in (facts.fps, facts.start_s, facts.duration_s)
        )
        report.variable_rate = facts.is_variable or None
    return report


def _is_valid(report: TakeReport, job: TakeJob) -> bool:
    """Whether an earlier report is still true."""
    # Damage may have been a temporary failure of a disk or network, so it is always tried again.
    if any(camera.status == "damaged" or camera.damaged_frames for camera in report.cameras.values()):
        return False
    folder = safe_join(job.out, report.take_uid, follow_links=True)
    images = all(
        len(written_frames(folder, (name,), job.settings.suffix)) == camera.frames
        for name, camera in report.cameras.items()
    )
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
            report.cameras[camera].problems.append(missing_video(take, camera))
        else:
            report.cameras[camera].status = "skipped"
    report.status = "missing"
    if take.conflict is not None:
        report.status = "skipped"
        report.problems.append(f"{take.conflict}: which videos are its own is not known")
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


def _clean(folder: Path, changed: Iterable[str], suffix: str) -> None:
    """Remove partial files of a killed run, and images of the cameras whose video was replaced since."""
    for part in [*folder.glob(".*.part"), *folder.glob("*/.*.part")]:
        part.unlink()
    for camera in changed:
        for image in safe_join(folder, camera).glob(f"*{suffix}"):
            image.unlink()


def _frames_of_every_second(paths: dict[str, Path | None], take: ReleaseTake, clock: TakeClock, threads: int) -> range:
    """One frame per second of the first readable ego video."""
    for camera in take.ego_cameras:
        path = paths[camera]
        if path is not None and clock.lookup(camera) is not None:
            with suppress(VideoError), VideoReader(path, threads=threads) as video:
                return range(0, clock.frame_count(camera, video), round(clock.fps))
    return range(0)


def _write_annotation(take: ReleaseTake, report: TakeReport, folder: Path, subsample: list[int]) -> None:
    """Decode and write the masks. A malformed one is skipped with its frame, which then counts as not annotated."""
    masks: dict[str, Any] = {}
    annotated: dict[str, Any] = {}
    sizes: dict[str, list[int]] = {}
    for name in take.objects:
        masks[name], annotated[name] = {}, {}
        for camera in take.cameras_of(name):
            if not take.fits(camera):  # nothing is known of images that are not those of the annotation
                masks[name][camera], annotated[name][camera] = {}, []
                sizes[camera] = list(take.native_size(camera))
                report.masks_left_out += take.mask_count(name, camera)
                continue
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
    if sizes:
        content["mask_sizes"] = sizes  # predictions for these cameras still have a size
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
        report.notes += [f"camera {camera}: {note}" for note in facts.notes]
        if facts.video_hw and facts.side == "exo" and facts.video_hw[0] > facts.video_hw[1]:
            report.notes.append(f"camera {camera} is portrait ({facts.video_hw[0]} high, {facts.video_hw[1]} wide)")
    if report.status in USABLE:
        report.status = "partial" if report.problems else "prepared"
