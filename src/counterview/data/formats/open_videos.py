"""The videos of a data set that are open, and frames that are asked for in order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

from counterview.errors import VideoError
from counterview.media.video import VideoReader
from counterview.types import RgbImage

OPEN_VIDEOS = 12
"""Number of videos that a data set keeps open, of all its takes: a decoder of 4K video has 50 MB and six threads."""


class OpenVideos:
    """The videos of a data set that are open: the last :data:`OPEN_VIDEOS`, whichever takes they are of."""

    def __init__(self) -> None:
        self._readers: OrderedDict[Path, VideoReader] = OrderedDict()

    def __len__(self) -> int:
        return len(self._readers)

    def __reduce__(self) -> tuple[object, ...]:
        return OpenVideos, ()  # another process opens its own

    def get(self, path: Path) -> VideoReader:
        """The reader of a video, opened if it is not.

        Raises:
            VideoError: the video is missing or damaged.
        """
        if path not in self._readers:
            self._readers[path] = VideoReader(path)
        self._readers.move_to_end(path)
        while len(self._readers) > OPEN_VIDEOS:
            self._readers.popitem(last=False)[1].close()
        return self._readers[path]

    def close(self, paths: Iterable[Path]) -> None:
        """Close those of these videos that are open."""
        for path in paths:
            if path in self._readers:
                self._readers.pop(path).close()


class OrderedReads:
    """Frames of one video that were announced, and are then asked for one after the other.

    A frame that is asked for alone costs the decoding of its group of pictures up to it; frames in order cost it once
    for all of them. The images are the same.

    Args:
        reader: the video.
        numbers: its frames that will be asked for, in any order.
    """

    def __init__(self, reader: VideoReader, numbers: Iterable[int]) -> None:
        self.reader = reader
        self._left = sorted(set(numbers), reverse=True)
        self._read: Iterator[tuple[int, RgbImage | VideoError]] | None = reader.read(tuple(self._left))
        self._held: dict[int, RgbImage | VideoError] = {}
        self._last: tuple[int, RgbImage | VideoError] | None = None

    def take(self, number: int) -> RgbImage | VideoError | None:
        """The image ``(H, W, 3)`` of a frame, or the error why it cannot be read.

        ``None`` if it was not announced, or was asked for out of order; then nothing is read ahead any more, since
        reading it alone moves the decoder.

        Args:
            number: of the frame.
        """
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        while self._left and self._left[-1] < number:  # announced, and not asked for
            self._held.pop(self._left.pop(), None)
        if self._read is None or not self._left or self._left.pop() != number:
            self._read = self._last = None
            self._held.clear()
            return None
        while number not in self._held:
            found = next(self._read, None)
            if found is None:
                self._read = None
                return None
            if found[0] >= number:
                self._held[found[0]] = found[1]
        self._last = number, self._held.pop(number)
        return self._last[1]
