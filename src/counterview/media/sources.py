"""Sources of images by time: a video, a folder of images, or arrays.

A folder has no rate of its own, so one has to be given: ``frames@30`` on the command line, ``fps=30`` in a program. Its
images are taken in natural order (``2.png`` before ``10.png``), the first of them at time 0. If all names are numbers
behind one prefix, the numbers count frames, so that a missing number is a dropped frame; else each image is one frame
interval after the one before it.
"""

from __future__ import annotations

import logging
import math
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from counterview.errors import ImageError, InputError, VideoError, counted
from counterview.guard import expanded, is_folder, library_errors
from counterview.media.frame_source import FrameSource, TimedFrames, checked_rate
from counterview.media.images import image_size, read_image
from counterview.media.inputs import load_rgb
from counterview.media.video import VideoReader
from counterview.types import RgbImage

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pnm",
        ".avif",
        ".heic",
        ".heif",
    )
)
"""Endings of the names of images in a folder, in small letters; other files are passed over."""

MAX_IMAGES = 5_000_000
"""Images of a folder at most, as many as a video's."""

_NUMBERED = re.compile(r"^(?P<prefix>.*?)(?P<number>\d{1,15})$", re.ASCII)
_RATE = re.compile(r"^(?P<path>.+)@(?P<rate>\d+(?:\.\d+)?(?:/\d+)?)$", re.ASCII)


class VideoFrames(TimedFrames):
    """The frames of a video.

    Args:
        path: the file, or a reader of it, which is closed with the source.
        name: for messages and results; the file's name without its ending if not given.

    Attributes:
        reader: the video.

    Raises:
        VideoError: the file cannot be read as a video.
    """

    def __init__(self, path: str | os.PathLike[str] | VideoReader, name: str | None = None) -> None:
        self.reader = path if isinstance(path, VideoReader) else VideoReader(path)
        reader = self.reader
        super().__init__(
            name or reader.path.stem, reader.path, reader.size_hw, float(reader.fps), reader.frame_count,
            reader.duration_s,
        )  # fmt: skip

    @property
    def sound(self) -> tuple[Path, float] | None:
        """As :attr:`FrameSource.sound`; whether the file has sound is known when it is read."""
        return self.reader.path, self.reader.start_s

    def number_at(self, seconds: float) -> int | None:
        """As :meth:`FrameSource.number_at`."""
        return self.reader.number_at(seconds)

    def time_of(self, number: int) -> float:
        """As :meth:`FrameSource.time_of`."""
        return self.reader.time_of(number)

    def _images(self, numbers: Sequence[int]) -> Iterator[tuple[int, RgbImage | VideoError | ImageError]]:
        return self.reader.read(numbers)

    def close(self) -> None:
        """As :meth:`FrameSource.close`."""
        self.reader.close()


class GridFrames(TimedFrames):
    """Frames on the grid of a constant rate, some of which may be missing.

    Args:
        name: for messages and results.
        path: the folder or file; ``None`` for arrays.
        size_hw: height and width of the upright images, in pixels.
        fps: frames a second.
        numbers: of the frames that are there, ascending, at least one.
        within: how far from a frame a time may be, in frame intervals.
    """

    def __init__(
        self,
        name: str,
        path: Path | None,
        size_hw: tuple[int, int],
        fps: Fraction | float,
        numbers: Sequence[int],
        within: Fraction | float = Fraction(1, 2),
    ) -> None:
        self._rate = Fraction(fps).limit_denominator(100_000)
        self._numbers, self._within = numbers, Fraction(within)
        last = numbers[-1] + 1
        super().__init__(name, path, size_hw, float(self._rate), last, float(last / self._rate))

    @property
    def numbers(self) -> Sequence[int]:
        """As :attr:`FrameSource.numbers`."""
        return self._numbers

    def number_at(self, seconds: float) -> int | None:
        """As :meth:`FrameSource.number_at`."""
        place = Fraction(seconds) * self._rate
        after = bisect_left(self._numbers, place)
        near = [self._numbers[i] for i in (after - 1, after) if 0 <= i < len(self._numbers)]
        number = min(near, key=lambda n: (abs(n - place), n))
        return number if abs(number - place) <= self._within else None

    def time_of(self, number: int) -> float:
        """As :meth:`FrameSource.time_of`."""
        return float(number / self._rate)

    def _image(self, number: int) -> RgbImage:
        """The image ``(H, W, 3)`` of a frame that is there."""
        raise NotImplementedError

    def _images(self, numbers: Sequence[int]) -> Iterator[tuple[int, RgbImage | VideoError | ImageError]]:
        for number in numbers:
            try:
                image = self._image(number)
                if image.shape[:2] != self.size_hw:
                    raise ImageError(
                        f"image {number} of {self.name} has another size than the first", found=image.shape[:2],
                        expected=self.size_hw,
                    )  # fmt: skip
                yield number, image
            except (ImageError, VideoError) as error:
                yield number, error


class FolderFrames(GridFrames):
    """The images of a folder. How they are numbered: see :mod:`counterview.media.sources`.

    Args:
        folder: the folder.
        fps: images a second.
        name: for messages and results; the folder's name if not given.

    Raises:
        InputError: no such folder, no rate, or two images of one number.
        ImageError: no image in it, or none that can be read.
    """

    def __init__(self, folder: str | os.PathLike[str], fps: float | None, name: str | None = None) -> None:
        place = Path(folder)
        if not is_folder(place):
            raise InputError("no such folder", path=place, expected="a folder of images")
        images = image_files(place)
        if not images:
            raise ImageError("has no images", path=place, expected=", ".join(sorted(IMAGE_SUFFIXES)))
        rate = checked_rate(fps, str(place))
        self._files = numbered(place, images)
        numbers = sorted(self._files)
        if len(numbers) <= numbers[-1]:
            logger.warning(
                "%s: %s numbered from %s to %s; numbers without an image count as dropped frames, so it lasts %.3f s",
                place, counted(len(numbers), "image"), images[0].name, images[-1].name, (numbers[-1] + 1) / rate,
            )  # fmt: skip
        super().__init__(name or place.resolve().name, place, _first_size(images, place), rate, numbers)

    def image_path(self, number: int) -> Path:
        """The file of a frame.

        Args:
            number: of a frame that is there.
        """
        return self._files[number]

    def _image(self, number: int) -> RgbImage:
        return read_image(self._files[number])

    def _images(self, numbers: Sequence[int]) -> Iterator[tuple[int, RgbImage | VideoError | ImageError]]:
        return super()._images([number for number in numbers if number in self._files])


class ArrayFrames(GridFrames):
    """Images that a program holds.

    Args:
        images: ``(H, W, 3)`` uint8 RGB each, or whatever :func:`counterview.media.inputs.load_rgb` takes; an array
            ``(T, H, W, 3)`` as well. What has no length is read into a list.
        fps: images a second.
        name: for messages and results.

    Raises:
        InputError: no image, or no rate.
        ImageError: the first is not an image.
    """

    def __init__(self, images: Iterable[Any], fps: float | None, name: str = "images") -> None:
        rate = checked_rate(fps, name)
        has_places = hasattr(images, "__len__") and hasattr(images, "__getitem__") and not isinstance(images, Mapping)
        items: Any = images if has_places else list(images)
        if len(items) == 0:
            raise InputError("a source of images is empty", path=name)
        self._items = items
        height, width = load_rgb(items[0]).shape[:2]
        super().__init__(name, None, (height, width), rate, range(len(items)))

    def _image(self, number: int) -> RgbImage:
        return load_rgb(self._items[number], what=f"image {number} of {self.name}")


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order; hidden files and files of other kinds are passed over.

    Args:
        folder: the folder; those below it are not looked at.

    Raises:
        InputError: it cannot be read, or has more than :data:`MAX_IMAGES`.
    """
    with library_errors(InputError, "the folder cannot be read", path=folder):
        found = [
            Path(entry.path)
            for entry in os.scandir(folder)
            if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and entry.is_file()
        ]
    if len(found) > MAX_IMAGES:
        raise InputError("has too many images", path=folder, found=len(found), expected=f"at most {MAX_IMAGES}")
    return sorted(found, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key of names in which numbers are compared as numbers.

    >>> sorted(["b10.png", "b2.png", "a.png"], key=natural_key)
    ['a.png', 'b2.png', 'b10.png']
    """
    pieces = re.split(r"([0-9]{1,18})", name)
    return tuple((0, int(text), text) if place % 2 else (1, 0, text) for place, text in enumerate(pieces))


def numbered(folder: Path, images: Sequence[Path]) -> dict[int, Path]:
    """Number the images of a folder from 0: by the numbers in their names if all have one, else by their order.

    Args:
        folder: for messages.
        images: in natural order, at least one.

    Raises:
        InputError: two images of one number.
    """
    matches = [_NUMBERED.match(path.stem) for path in images]
    if len({None if match is None else match["prefix"] for match in matches}) > 1 or matches[0] is None:
        return dict(enumerate(images))
    values = [int(match["number"]) for match in matches if match is not None]
    if len(set(values)) < len(values):
        twice = next(place for place in range(1, len(values)) if values[place] == values[place - 1])
        raise InputError(
            "two images have the same number", path=folder, found=f"{images[twice - 1].name} and {images[twice].name}",
            fix="Keep one of them.",
        )  # fmt: skip
    return {value - values[0]: path for value, path in zip(values, images, strict=True)}


def _first_size(images: Sequence[Path], folder: Path) -> tuple[int, int]:
    """Height and width in pixels of the first image that can be read."""
    problem: ImageError | None = None
    for path in images[:100]:
        try:
            return image_size(path)
        except ImageError as error:
            problem = problem or error
    raise ImageError("none of its images can be read", path=folder, found=problem)


def split_rate(text: str) -> tuple[str, float | None]:
    """A path and the rate behind it.

    Args:
        text: such as ``frames@30`` or ``frames@30000/1001``; a path without a rate comes back as it is.

    >>> split_rate("frames@30"), split_rate("me@home/frames")
    (('frames', 30.0), ('me@home/frames', None))
    """
    match = _RATE.match(text)
    if match is None or os.path.lexists(text):
        return text, None
    above, _, below = match["rate"].partition("/")
    rate = float(above) / float(below or 1) if float(below or 1) else math.inf
    return match["path"], rate


def media_source(path: str | os.PathLike[str], *, fps: float | None = None, name: str | None = None) -> FrameSource:
    """Open a video, or a folder of images.

    Args:
        path: the file or folder; ``FOLDER@RATE`` gives a folder's rate.
        fps: images a second of a folder. A video has its own.
        name: for messages and results; from the path if not given.

    Raises:
        InputError: there is nothing, a folder has no rate, or a video is given one.
        VideoError: a file that is not a video.
        ImageError: a folder without images.
    """
    text, stated = split_rate(os.fspath(path))
    place, rate = expanded(text), stated if fps is None else fps
    if is_folder(place):
        return FolderFrames(place, rate, name)
    if rate is not None and place.is_file():
        raise InputError("a video has a rate of its own", path=place, found=f"{rate:g} frames/s beside it")
    return VideoFrames(place, name)
