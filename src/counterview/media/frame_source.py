"""A camera's images by time: what every source of them offers, and what all sources share.

A source numbers its images and knows when each is shown, in seconds after the first one. An image stands for the time
from half a frame interval before to half an interval after it; elsewhere there is none.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

from counterview.errors import FrameMissingError, ImageError, InputError, VideoError, counted
from counterview.types import RgbImage

logger = logging.getLogger(__name__)

REORDERED = 16
"""Images that are held back at most until those before them have been read; H.264 reorders as many."""


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One image of a camera.

    Attributes:
        number: of the frame in its video, or of the image in its folder, from 0.
        time_s: when it is shown, in seconds after the first image.
        image: ``(H, W, 3)`` uint8 RGB, upright.
    """

    number: int
    time_s: float
    image: RgbImage


FrameResult = SourceFrame | VideoError | ImageError | None
"""A frame, the reason why it cannot be read, or ``None`` where there is none: outside the span, or dropped."""


class FrameSource(Protocol):
    """A camera's images by time.

    Attributes:
        name: for messages and results.
        path: the video or folder; ``None`` for arrays.
        size_hw: height and width of the upright images, in pixels.
        fps: frames a second; the average if the rate varies, ``None`` if there is no rate.
        frame_count: number of the last frame plus one.
        duration_s: from the first image to the end of the last one, in seconds.
    """

    name: str
    path: Path | None
    size_hw: tuple[int, int]
    fps: float | None
    frame_count: int
    duration_s: float

    @property
    def numbers(self) -> Sequence[int]:
        """Numbers of the frames, ascending. A dropped frame of a video may be among them: it is noticed when read."""
        ...

    @property
    def unreadable(self) -> int:
        """Number of frames so far that are there and could not be read."""
        ...

    @property
    def sound(self) -> tuple[Path, float] | None:
        """The file with the camera's sound and the time in it, in seconds, at which the first image is shown."""
        ...

    def number_at(self, seconds: float) -> int | None:
        """Number of the image shown nearest to a time, the earlier one of two; ``None`` where there is none.

        Args:
            seconds: after the first image.
        """
        ...

    def time_of(self, number: int) -> float:
        """When a frame is shown, in seconds after the first image.

        Args:
            number: the frame.
        """
        ...

    def frame_at(self, seconds: float) -> SourceFrame | None:
        """The image shown nearest to a time, within half an interval; ``None`` where there is none.

        Args:
            seconds: after the first image.

        Raises:
            VideoError: it is there and cannot be read.
            ImageError: likewise, of an image file.
        """
        ...

    def read(self, times: Iterable[float]) -> Iterator[tuple[float, FrameResult]]:
        """The images shown at several times, in ascending order; each is decoded once, and so is each part of a video.

        Args:
            times: in seconds after the first image.
        """
        ...

    def read_numbers(self, numbers: Iterable[int]) -> Iterator[tuple[int, FrameResult]]:
        """The frames of several numbers, in ascending order, each once.

        Args:
            numbers: of frames.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...

    def __enter__(self) -> FrameSource: ...

    def __exit__(self, *unused: object) -> None: ...


class TimedFrames(ABC):
    """A :class:`FrameSource` but for how one finds and reads frames. Frames that cannot be read are counted and logged.

    Args:
        name: for messages and results.
        path: the video or folder; ``None`` for arrays.
        size_hw: height and width of the upright images, in pixels.
        fps: frames a second; ``None`` if there is no rate.
        frame_count: number of the last frame plus one.
        duration_s: from the first image to the end of the last one, in seconds.
    """

    def __init__(
        self,
        name: str,
        path: Path | None,
        size_hw: tuple[int, int],
        fps: float | None,
        frame_count: int,
        duration_s: float,
    ) -> None:
        self.name, self.path, self.size_hw = name, path, size_hw
        self.fps, self.frame_count, self.duration_s = fps, frame_count, duration_s
        self._unreadable: set[int] = set()

    @property
    def numbers(self) -> Sequence[int]:
        """As :attr:`FrameSource.numbers`."""
        return range(self.frame_count)

    @property
    def unreadable(self) -> int:
        """As :attr:`FrameSource.unreadable`."""
        return len(self._unreadable)

    @property
    def sound(self) -> tuple[Path, float] | None:
        """As :attr:`FrameSource.sound`."""
        return None

    @abstractmethod
    def number_at(self, seconds: float) -> int | None:
        """As :meth:`FrameSource.number_at`."""

    @abstractmethod
    def time_of(self, number: int) -> float:
        """As :meth:`FrameSource.time_of`."""

    @abstractmethod
    def _images(self, numbers: Sequence[int]) -> Iterator[tuple[int, RgbImage | VideoError | ImageError]]:
        """Each of ascending numbers once, in nearly ascending order, with its image ``(H, W, 3)`` or the reason."""

    def frame_at(self, seconds: float) -> SourceFrame | None:
        """As :meth:`FrameSource.frame_at`."""
        ((_, result),) = self.read([seconds])
        if isinstance(result, Exception):
            raise result
        return result

    def read(self, times: Iterable[float]) -> Iterator[tuple[float, FrameResult]]:
        """As :meth:`FrameSource.read`."""
        wanted = [(time, self.number_at(time)) for time in sorted(map(finite, times))]
        frames = self.read_numbers(sorted({number for _, number in wanted if number is not None}))
        for number, group in groupby(wanted, key=lambda pair: pair[1]):
            result = None if number is None else next(frames)[1]
            for time, _ in group:
                yield time, result

    def read_numbers(self, numbers: Iterable[int]) -> Iterator[tuple[int, FrameResult]]:
        """As :meth:`FrameSource.read_numbers`."""
        wanted = sorted(set(numbers))
        stretch: list[int] = []  # first and last of frames in succession that cannot be read
        for number, image in _ascending(wanted, self._images(wanted)):
            if image is None or isinstance(image, FrameMissingError):
                yield number, None
                continue
            if isinstance(image, Exception):
                self._unreadable.add(number)
                if not stretch:
                    time_s = self.time_of(number)
                    logger.warning("%s: frame %d at %.3f s is skipped: %s", self.name, number, time_s, image)
                stretch = [stretch[0] if stretch else number, number]
                yield number, image
                continue
            self._end_stretch(stretch)
            stretch = []
            yield number, SourceFrame(number, self.time_of(number), image)
        self._end_stretch(stretch)

    def _end_stretch(self, stretch: list[int]) -> None:
        if stretch and stretch[1] > stretch[0]:
            logger.warning("%s: frames %d to %d cannot be read and are skipped", self.name, *stretch)

    def skipped(self) -> str | None:
        """One line on the frames that could not be read so far; ``None`` if there is none."""
        if not self._unreadable:
            return None
        first, last = self.time_of(min(self._unreadable)), self.time_of(max(self._unreadable))
        return f"{self.name}: {counted(self.unreadable, 'frame')} between {first:.3f} and {last:.3f} s cannot be read"

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """As :meth:`FrameSource.close`."""

    def __enter__(self) -> TimedFrames:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"{type(self).__name__}({self.name!r}, {self.frame_count} frames of {width}x{height})"


def _ascending(
    numbers: Sequence[int], images: Iterable[tuple[int, RgbImage | VideoError | ImageError]]
) -> Iterator[tuple[int, RgbImage | VideoError | ImageError | None]]:
    """Each number in order with its image ``(H, W, 3)``; ``None`` if it has not come :data:`REORDERED` images later."""
    results: dict[int, RgbImage | VideoError | ImageError] = {}
    place = 0
    for number, image in images:
        if place < len(numbers) and number >= numbers[place]:
            results[number] = image
        while place < len(numbers) and (numbers[place] in results or len(results) > REORDERED):
            yield numbers[place], results.pop(numbers[place], None)
            place += 1
    for number in numbers[place:]:
        yield number, results.pop(number, None)


def finite(seconds: float) -> float:
    """A time.

    Args:
        seconds: the time.

    Raises:
        InputError: it is not a finite number.
    """
    if not math.isfinite(seconds):
        raise InputError("is not a time", found=seconds, expected="seconds, a finite number")
    return seconds


def checked_rate(fps: float | None, what: str) -> float:
    """A rate in frames a second.

    Args:
        fps: the rate.
        what: has it, for the message.

    Raises:
        InputError: it is missing, not positive, or above 1,000.
    """
    if fps is None:
        raise InputError(
            "images have no times of their own", path=what, expected="a rate in frames a second",
            fix="Write it behind the folder, as in frames@30, or give fps=30.",
        )  # fmt: skip
    if not 0 < fps <= 1000:
        raise InputError("the rate is not positive, or too high", path=what, found=fps, expected="0 to 1000 frames/s")
    return float(fps)
