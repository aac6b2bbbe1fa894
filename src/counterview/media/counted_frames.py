"""Frames of a video whose packets have no times of their own, by their place in the order of decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av

from counterview.errors import FrameMissingError, ImageError, VideoError
from counterview.guard import reason
from counterview.media.video_source import VideoSource
from counterview.types import RgbImage


class CountedFrames:
    """Reads a file from its start, and on from the last frame that was read where that is enough.

    Args:
        path: the file.
        threads: decoder threads; one per core if 0.
        count: number of images.
        to_image: makes an image ``(H, W, 3)`` of a decoded frame.
    """

    def __init__(self, path: Path, threads: int, count: int, to_image: Callable[[av.VideoFrame], RgbImage]) -> None:
        self._path, self._threads, self._count, self._to_image = path, threads, count, to_image
        self._source: VideoSource | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._next = 0

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, RgbImage | VideoError]]:
        """Yield the images ``(H, W, 3)`` of ascending numbers, or why they cannot be read."""
        problem: str | None = None
        for number in numbers:
            if number >= self._count:
                yield (
                    number,
                    FrameMissingError(f"has no frame {number}", path=self._path, found=f"{self._count} frames"),
                )
                continue
            result: RgbImage | VideoError | None = None
            if problem is None:
                try:
                    result = self._read_one(number)
                except VideoError as error:
                    result = error
                except Exception as error:  # FFmpeg's errors; what comes after cannot be counted
                    problem = reason(error)
                    self.close()
            yield (
                number,
                result
                if result is not None
                else VideoError(f"frame {number} cannot be counted behind damage", path=self._path, found=problem),
            )

    def _read_one(self, number: int) -> RgbImage:
        if self._source is None or number < self._next:
            self.close()
            self._source = VideoSource(self._path, "AUTO", self._threads)
            self._frames, self._next = self._decode(self._source), 0
        for frame in self._frames:
            self._next += 1
            if self._next > number:
                if frame.is_corrupt:
                    raise ImageError("the decoder reports it as corrupt")
                return self._to_image(frame)
        self.close()
        raise FrameMissingError(f"has no frame {number}", path=self._path, found="the file ends before it")

    @staticmethod
    def _decode(source: VideoSource) -> Iterator[av.VideoFrame]:
        started = False
        for packet in source.container.demux(source.stream):
            started = started or packet.is_keyframe
            if started and packet.size:
                yield from source.context.decode(packet)
        yield from source.context.decode(None)

    def close(self) -> None:
        """Close the file."""
        if self._source is not None:
            self._source.close()
        self._source = None
