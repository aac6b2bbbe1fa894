"""Write the images of one camera of a take: each annotated frame at its time, in the size of the official images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from counterview.data.clock import TakeClock
from counterview.data.formats.release import ReleaseTake
from counterview.data.prepare.report import CameraReport
from counterview.data.prepare.settings import PrepareSettings
from counterview.errors import VideoError
from counterview.media.files import safe_join
from counterview.media.images import write_image
from counterview.media.video import VideoReader
from counterview.types import RgbImage

EGO_SHORT_PX, EXO_SHORT_PX = 704, 540
"""Shorter sides of the official images: half of the ego's 1408 pixels, a quarter of the exo's 2160."""


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


def written_frames(folder: Path, cameras: Iterable[str], suffix: str) -> set[int]:
    """Frames of which any of the cameras has an image in the folder of a take.

    Args:
        folder: of the take.
        cameras: names of their folders.
        suffix: of the images.
    """
    return {int(p.stem) for camera in cameras for p in (folder / camera).glob(f"*{suffix}")}


def missing_video(take: ReleaseTake, camera: str) -> str:
    """Why a camera has no video, in one line."""
    try:
        take.video(camera)
    except VideoError as error:
        return error.problem + (f". {error.fix}" if error.fix else "")
    return "the video was missing at first"


def write_images(
    take: ReleaseTake,
    camera: str,
    path: Path | None,
    frames: list[int],
    folder: Path,
    settings: PrepareSettings,
    clock: TakeClock,
    threads: int,
) -> CameraReport:
    """Write the images of one camera that are not written yet.

    Args:
        take: the take.
        camera: the camera.
        path: its video; ``None`` if it is missing.
        frames: annotated frames, ascending.
        folder: of the take in the output.
        settings: of the output folder.
        clock: how frames are found in the videos.
        threads: decoder threads; one per core if 0.
    """
    report = CameraReport(side="ego" if take.is_ego(camera) else "exo", wanted=len(frames))
    report.found_by = clock.lookup(camera)
    report.notes += [clock.notes[camera]] if camera in clock.notes else []
    if camera in take.video_sizes:
        report.video_hw = list(take.video_sizes[camera])
    target = safe_join(folder, camera)
    unusable = clock.problems.get(camera)
    if unusable is None and not take.fits(camera):
        unusable = "none of its masks fits the video"
    wanted = set() if unusable else set(frames)
    for frame in written_frames(folder, (camera,), settings.suffix) - wanted:
        (target / f"{frame}{settings.suffix}").unlink()
    if unusable:
        report.status = "skipped"
        report.problems.append(f"{unusable}; its images are left out")
        return report
    written = written_frames(folder, (camera,), settings.suffix)
    report.frames = len(written)
    if path is None:
        if not written:
            report.status = "missing"
            report.problems.append(missing_video(take, camera))
        elif len(written) < len(frames):
            report.status = "partial"
            report.problems.append(f"{len(frames) - len(written)} frames are missing, and so is the video now")
        return report
    try:
        with VideoReader(path, threads=threads) as video:
            _write_missing(video, camera, sorted(wanted - written), target, settings, clock, report)
            last = clock.frame_count(camera, video) - 1
    except VideoError as error:
        report.status = "damaged"
        report.problems.append(f"{error.problem}" + (f"; found {error.found}" if error.found else ""))
        return report
    if report.beyond_end:
        report.problems.append(
            f"the video ends at frame {last}: {len(report.beyond_end)} of {report.wanted} frames are after it"
        )
    if report.damaged_frames:
        report.damaged_frames.sort()
        report.problems.append(f"{len(report.damaged_frames)} of {report.wanted} frames are damaged")
    if report.problems:
        report.status = "partial" if report.frames else "damaged"
    return report


def _write_missing(
    video: VideoReader,
    camera: str,
    frames: list[int],
    target: Path,
    settings: PrepareSettings,
    clock: TakeClock,
    report: CameraReport,
) -> None:
    size = image_size(video.size_hw, report.side == "ego")
    report.video_hw, report.image_hw = list(video.size_hw), list(size)
    frames_of: dict[int, list[int]] = {}  # at a low frame rate, one image may be the nearest to several frames
    for frame in frames:
        number = clock.number(camera, video, frame)
        if number is not None:
            frames_of.setdefault(number, []).append(frame)
        elif frame < clock.frame_count(camera, video):
            report.damaged_frames.append(frame)
        else:
            report.beyond_end.append(frame)
    for number, image in video.read(frames_of):
        if isinstance(image, VideoError):
            report.damaged_frames += frames_of[number]
            continue
        pixels = _downscale(image, size)
        for frame in frames_of[number]:
            write_image(target / f"{frame}{settings.suffix}", pixels, quality=settings.quality, lossless=True)
            report.frames += 1


def _downscale(image: RgbImage, size_hw: tuple[int, int]) -> RgbImage:
    if image.shape[:2] == size_hw:
        return image
    # Bilinear without antialiasing, like the official images on which published models were trained.
    return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
