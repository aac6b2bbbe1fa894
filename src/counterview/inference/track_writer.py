"""Write what people look at after objects were followed: an overlay, a contact sheet, and what to check."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from counterview.errors import InputError
from counterview.exchange.tracks import TrackedCamera, Tracks
from counterview.inference.track_drawing import TrackDrawing
from counterview.inference.track_sheets import ContactSheet, FrameOf, review_sheet
from counterview.media.encode import VideoWriter
from counterview.media.images import write_image
from counterview.tracking.base import Observations
from counterview.tracking.review import Review, write_review_csv
from counterview.types import RgbImage

FILES = ("overlay.mp4", "contact.jpg", "review.csv", "review.jpg")
"""Names of the files of :class:`TrackWriter`."""

SMOOTH_FPS = 10
"""Frames a second of an overlay at least: players stumble over fewer, so images of slower runs are repeated."""

LONGEST_STILL_S = 5.0
"""For how long an image is repeated at most, where the next one is far."""


class TrackWriter:
    """Takes the steps of a run one by one, and writes its overlay, contact sheet and list of what to check.

    Nothing is kept of the steps but a few small images and rows. Everything is written aside, and gets its name in
    :meth:`close`; as a context manager it is closed at the end of the block, or leaves nothing if the block raises.

    Args:
        folder: where the files go; it is made if need be.
        cameras: by name, the query camera first.
        objects: names of all objects.
        span_s: first and last time of the run on the query camera's clock, in seconds.
        fps: steps a second.
        frame_of: reads an image ``(H, W, 3)`` again, for ``review.jpg``.
        tracks: all tracks, if they are known before the first step; the time line of the overlay then shows them from
            its first image on.
        review: what to check, if it was collected already; otherwise the steps are reviewed as they come.
        camera_height_px: largest height of a camera in the overlay.
        width_px: largest width of the overlay.

    Attributes:
        review: what to check.

    Raises:
        InputError: no camera, no object, times that do not ascend, or a rate out of range.
        OutputError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        cameras: Mapping[str, TrackedCamera],
        objects: Sequence[str],
        span_s: tuple[float, float],
        *,
        fps: float,
        frame_of: FrameOf,
        tracks: Tracks | None = None,
        review: Review | None = None,
        camera_height_px: int = 480,
        width_px: int = 1920,
    ) -> None:
        if not 0 < fps <= 1000:
            raise InputError("a rate is out of range", found=f"{fps} steps a second", expected="0 to 1000")
        self.review = Review() if review is None else review
        self._is_reviewed = review is not None
        self._drawing = TrackDrawing(
            cameras, objects, span_s, 1 / fps, tracks=tracks, camera_height_px=camera_height_px, width_px=width_px
        )
        self._contact = ContactSheet(cameras, self._drawing.colors, span_s, 1 / fps)
        self._cameras, self._frame_of, self._folder = dict(cameras), frame_of, Path(folder)
        self._repeats = max(1, math.ceil(SMOOTH_FPS / fps - 1e-9))
        self._video_fps = fps * self._repeats
        self._video = VideoWriter(self._folder / FILES[0], self._video_fps, crf=22)
        self._last: tuple[float, RgbImage] | None = None

    def add(
        self,
        time_s: float,
        images: Mapping[str, RgbImage | None],
        observations: Observations,
        frames: Mapping[str, tuple[int, float]],
    ) -> None:
        """Take the next step.

        Args:
            time_s: on the query camera's clock, in seconds; later than the step before.
            images: ``(H, W, 3)`` uint8 by camera; ``None``, or no entry, where a camera has no image.
            observations: of each camera and object.
            frames: number and own time, in seconds, of each camera's image; no entry where it has none.

        Raises:
            InputError: a doubt of an unknown name, or a time that is not later.
            MaskError: a mask that does not fit.
            OutputError: the disk is full.
        """
        if self._last is not None and time_s <= self._last[0]:
            raise InputError("the times of a run do not ascend", found=f"{time_s} s after {self._last[0]} s")
        if not self._is_reviewed:
            for camera, by_object in observations.items():
                about = self._cameras[camera]
                frame, own_s = frames.get(camera, (None, about.own_time(time_s)))
                self.review.add(camera, time_s, by_object, frame=frame, camera_time_s=own_s)
        own_times = {camera: own_s for camera, (_, own_s) in frames.items()}
        drawn = self._drawing.draw(time_s, images, observations, own_times)
        self._contact.add(time_s, images, observations)
        if self._last is not None:
            seconds = min(time_s - self._last[0], LONGEST_STILL_S)
            self._write(max(1, round(seconds * self._video_fps)))
        self._last = time_s, drawn

    def _write(self, times: int) -> None:
        if self._last is not None:
            self._video.add(self._last[1], times)

    def close(self) -> list[Path]:
        """Write all files, also of a run that was cut short.

        Returns:
            their paths.

        Raises:
            InputError: there was no step.
            OutputError: a file cannot be written.
        """
        try:
            self._write(self._repeats)
            rows = self.review.rows()
            video, contact, table, crops = (self._folder / name for name in FILES)
            if self._last is None:
                raise InputError("a run needs at least one step", path=video)
            write_image(contact, self._contact.sheet())
            write_review_csv(table, rows)
            write_image(crops, review_sheet(rows, self._frame_of, self._drawing.colors))
            self._video.close()
        finally:
            self._video.discard()
        return [video, contact, table, crops]

    def discard(self) -> None:
        """Throw away what was written so far."""
        self._video.discard()

    def __enter__(self) -> TrackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
