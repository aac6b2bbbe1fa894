"""The cameras of a visitor's work with videos: their files, their clocks, and their images."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from counterview.app.limits import PageLimits
from counterview.errors import InputError, VideoError, counted
from counterview.media.files import check_name, write_errors
from counterview.media.sources import VideoFrames
from counterview.media.sync import SyncResult, synchronise
from counterview.media.timeline import Clock
from counterview.types import RgbImage

MAX_CAMERAS = 6

KEPT_IMAGES = 8
"""Images that are kept so that the next click is answered at once."""


class VideoCameras:
    """Videos in one folder, the time of the first of which counts. Safe to use from several threads.

    Args:
        folder: of the videos; it is made if need be.
        limits: of each video.

    Attributes:
        folder: likewise.
        limits: likewise.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, limits: PageLimits) -> None:
        self.folder, self.limits = folder, limits
        self._clocks: dict[str, Clock] = {}
        self._sources: dict[str, VideoFrames] = {}
        self._images: OrderedDict[tuple[str, int], RgbImage] = OrderedDict()
        self._lock = threading.RLock()
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def names(self) -> list[str]:
        """Names of the cameras; the time of the first one counts."""
        return list(self._sources)

    def paths(self) -> dict[str, Path]:
        """The files by the names of their cameras."""
        return {name: source.reader.path for name, source in self._sources.items()}

    def add(self, path: Path, name: str) -> str:
        """Take a video into the folder.

        Args:
            path: where it lies; it is moved from there.
            name: as its owner calls it.

        Returns:
            the name of its camera.

        Raises:
            InputError: too many videos, or one that is there already.
            VideoError: not a video, or a longer or larger one than may be.
        """
        with self._lock:
            if len(self._sources) >= MAX_CAMERAS:
                raise InputError(f"{name}: there are {counted(MAX_CAMERAS, 'video')} already", expected="no more")
            check_video(path, name, self.limits)
            camera = self._free_name(Path(name).stem)
            place = self.folder / f"{camera}{path.suffix.lower()}"
            with write_errors(place):
                shutil.move(path, place)
            try:
                self.open_video(camera, place)
            except BaseException:
                place.unlink(missing_ok=True)
                raise
            return camera

    def open_video(self, camera: str, path: Path) -> None:
        """Open a video that lies in the folder.

        Args:
            camera: its name.
            path: the file.

        Raises:
            VideoError: not a video, or a longer or larger one than may be.
        """
        check_video(path, path.name, self.limits)
        self._sources[camera] = VideoFrames(path, camera)

    def _free_name(self, stem: str) -> str:
        text = "".join(c if c.isalnum() or c in " -_.()" else "_" for c in stem)[:60].strip(" .")
        with suppress(InputError):
            text = check_name(text or "camera")
        name, count = text, 2
        while name in self._sources or not _is_name(name):
            name, count = f"{text if _is_name(text) else 'camera'}-{count}", count + 1
        return name

    def source(self, camera: str) -> VideoFrames:
        """A camera.

        Args:
            camera: its name.

        Raises:
            InputError: there is none.
        """
        if camera not in self._sources:
            raise InputError("there is no such camera", found=camera, expected=", ".join(self._sources) or "a video")
        return self._sources[camera]

    @property
    def duration_s(self) -> float:
        """Length of the first video in seconds; 0 without one."""
        return next((source.duration_s for source in self._sources.values()), 0.0)

    def clock(self, camera: str) -> Clock:
        """The clock of a camera against the first one's.

        Args:
            camera: its name.
        """
        return self._clocks.get(camera, Clock())

    def clocks(self) -> dict[str, Clock]:
        """The clocks that are not the first camera's, by the names of their cameras."""
        return dict(self._clocks)

    def set_clock(self, camera: str, clock: Clock) -> None:
        """Say when a camera began.

        Args:
            camera: not the first one.
            clock: against the first one's.

        Raises:
            InputError: no such camera, or the first one.
        """
        self.source(camera)
        if camera == self.names[0]:
            raise InputError("the time of the first video counts", found=camera, expected="another camera")
        self._clocks[camera] = clock

    def find_clock(self, camera: str, method: str) -> SyncResult:
        """Find when a camera began from sounds or motions, without keeping it.

        Args:
            camera: not the first one.
            method: of :func:`counterview.media.sync.synchronise`.

        Raises:
            InputError: no sound, or sounds or motions that do not belong together.
            VideoError: a video cannot be read.
        """
        paths = self.paths()
        first = self.names[0]
        with VideoFrames(paths[first], first) as query, VideoFrames(self.source(camera).reader.path, camera) as other:
            return synchronise(query, other, method)

    def number_at(self, camera: str, time_s: float) -> int | None:
        """The frame that a camera shows at a time of the first one; ``None`` where it has none.

        Args:
            camera: its name.
            time_s: in seconds.
        """
        return self.source(camera).number_at(self.clock(camera).own_time(time_s))

    def time_of(self, camera: str, number: int) -> float:
        """The time of a frame on the first camera's clock, in seconds.

        Args:
            camera: its name.
            number: of its frame.
        """
        return self.clock(camera).query_time(self.source(camera).time_of(number))

    def image(self, camera: str, number: int) -> RgbImage:
        """A frame, ``(H, W, 3)`` uint8.

        Args:
            camera: its name.
            number: of its frame.

        Raises:
            VideoError: it cannot be read.
        """
        with self._lock:
            key = camera, number
            if key not in self._images:
                ((_, frame),) = self.source(camera).read_numbers([number])
                if isinstance(frame, Exception):
                    raise frame
                if frame is None:
                    raise InputError(f"{camera} has no frame {number}")
                self._images[key] = frame.image
                if len(self._images) > KEPT_IMAGES:
                    self._images.popitem(last=False)
            self._images.move_to_end(key)
            return self._images[key]

    def close(self) -> None:
        """Close all videos."""
        with self._lock:
            for source in self._sources.values():
                source.close()


def check_video(path: Path, name: str, limits: PageLimits) -> None:
    """Check that a file is a video within the limits.

    Args:
        path: where it lies.
        name: as its owner calls it.
        limits: of videos.

    Raises:
        VideoError: not a video, or a longer or larger one.
    """
    try:
        source = VideoFrames(path, name)
    except VideoError as error:
        error.path = name  # its owner knows no other
        raise
    with source:
        height, width = source.size_hw
        if source.duration_s > limits.video_s:
            raise VideoError(
                f"{name}: the video is too long", found=length(source.duration_s),
                expected=f"at most {length(limits.video_s)}", fix="Cut it into parts.",
            )  # fmt: skip
        if height * width > limits.video_megapixels * 1e6:
            raise VideoError(
                f"{name}: the images of the video are too large", found=f"{width}x{height}",
                expected=f"at most {limits.video_megapixels:g} megapixels",
            )  # fmt: skip


def length(seconds: float) -> str:
    """A length of time in words.

    >>> length(42.4), length(600), length(3725)
    ('42 seconds', '10 minutes', '1 hour 2 minutes')
    """
    whole = round(seconds)
    if whole < 120:
        return counted(whole, "second")
    minutes, rest = divmod(whole, 60)
    if whole < 3600:
        return counted(minutes, "minute") + (f" {counted(rest, 'second')}" if rest else "")
    hours, minutes = divmod(whole // 60, 60)
    return counted(hours, "hour") + (f" {counted(minutes, 'minute')}" if minutes else "")


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except InputError:
        return False
    return True
