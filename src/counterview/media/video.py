"""Frames of a video by number, exact by timestamp, read by group of images.

Frame ``n`` is the image shown ``n / fps`` seconds after the first one. For each group of images that holds a
wanted frame the reader seeks once and decodes from its keyframe to the last wanted frame; nothing else is
read or decoded. A file with an index of its own (MP4, MOV) is not read through even once.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from counterview.errors import ImageError, InputError, VideoError
from counterview.media.images import MAX_PIXELS
from counterview.types import RgbImage

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg"
"""Containers that are opened. Playlists, which name other files and addresses, are not among them."""


class VideoReader:
    """One video file.

    Args:
        path: the file.
        threads: decoder threads; as many as there are cores if 0.

    Attributes:
        path: the file.
        fps: frames per second.
        size_hw: height and width of the images as they are shown, in pixels.

    Raises:
        VideoError: missing, no video, damaged beyond opening, or larger than
            :data:`counterview.media.images.MAX_PIXELS` an image.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 0) -> None:
        self.path = Path(path)
        self._threads = max(0, threads)
        self._source = _Source(self.path, "AUTO", self._threads)
        self._careful: _Source | None = None
        try:
            self._read_times()
        except (av.error.FFmpegError, OSError, ValueError, ZeroDivisionError) as error:
            self.close()
            raise VideoError("cannot be read", path=self.path, found=_text(error)) from None
        except VideoError:
            self.close()
            raise

    def _read_times(self) -> None:
        stream = self._source.stream
        self._time_base = Fraction(stream.time_base)
        entries = list(stream.index_entries) if "mp4" in self._source.container.format.name else []
        # An index in the file gives decoding times, a reading of the packets presentation times.
        self._by_dts = len(entries) > 0 and len(entries) == stream.frames
        if self._by_dts:
            times = sorted(entry.timestamp for entry in entries)
            self._keys = sorted(entry.timestamp for entry in entries if entry.is_keyframe)
            self._origin = stream.start_time if stream.start_time is not None else times[0]
            self._last = self._origin + times[-1] - times[0]
            self._delay = self._origin - times[0]
        else:
            packets = [
                (p.pts, p.is_keyframe) for p in self._source.container.demux(stream) if p.pts is not None and p.size
            ]
            times = sorted(pts for pts, _ in packets)
            self._keys = sorted(pts for pts, key in packets if key)
            self._origin, self._last = (times[0], times[-1]) if times else (0, -1)
            self._delay = 0
        if not self._keys:
            raise VideoError("holds no image", path=self.path, found="no keyframe")
        self.fps = self._frame_rate(times)
        self._tolerance = Fraction(1, 2) / (self.fps * self._time_base)
        self.size_hw = (stream.codec_context.height, stream.codec_context.width)
        for _, image in self.read([0]):  # how it is turned stands in the images
            if not isinstance(image, VideoError):
                self.size_hw = (image.shape[0], image.shape[1])

    def _frame_rate(self, times: list[int]) -> Fraction:
        """The nominal rate. The average rate will not do: one dropped frame shifts everything behind it."""
        rate = self._source.stream.guessed_rate or self._source.stream.average_rate
        if len(times) < 2:
            return Fraction(rate) if rate else Fraction(30)
        step = Fraction(float(np.median(np.diff(times)))).limit_denominator(1000) * self._time_base
        if rate and step > 0 and abs(Fraction(rate) * step - 1) < Fraction(1, 25):
            return Fraction(rate)
        if step <= 0:
            raise VideoError("its images have no increasing times", path=self.path)
        return (1 / step).limit_denominator(1001)

    @property
    def frame_count(self) -> int:
        """One more than the number of the last frame."""
        return round((self._last - self._origin) * self._time_base * self.fps) + 1

    def __contains__(self, frame: object) -> bool:
        """Whether the video reaches as far as ``frame``. A frame dropped on the way shows only when it is read."""
        return isinstance(frame, (int, np.integer)) and 0 <= int(frame) < self.frame_count

    def frame(self, number: int) -> RgbImage:
        """Frame ``number``: ``(H, W, 3)`` uint8 RGB, upright.

        Raises:
            VideoError: the video has no such frame, or it is damaged.
        """
        _, image = next(iter(self.read([number])))
        if isinstance(image, VideoError):
            raise image
        return image

    def read(self, frames: Iterable[int]) -> Iterator[tuple[int, RgbImage | VideoError]]:
        """Read several frames, each group of images once.

        Args:
            frames: frame numbers, in any order.

        Yields:
            every number once with its image, or with the error that stands in its way; nearly ascending.

        Raises:
            InputError: a number that is no whole number from 0.
        """
        wanted = sorted(set(frames))
        if any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0 for n in wanted):
            raise InputError("frame numbers are whole numbers from 0", path=self.path)
        groups: dict[int, list[int]] = {}
        for number in map(int, wanted):
            if number in self:
                group = bisect_right(self._keys, self._time(number) + self._tolerance) - 1
                groups.setdefault(max(0, group), []).append(number)
            else:
                yield number, self._absent(number, f"{self.frame_count} frames")
        for group, members in sorted(groups.items()):
            yield from self._read_group(group, members)

    def _time(self, number: int) -> Fraction:
        return self._origin + number / (self.fps * self._time_base)

    def _number(self, pts: int) -> int:
        return round((pts - self._origin) * self._time_base * self.fps)

    def _absent(self, number: int, found: str) -> VideoError:
        return VideoError(f"has no frame {number}", path=self.path, found=found)

    def _read_group(self, group: int, members: list[int]) -> Iterator[tuple[int, RgbImage | VideoError]]:
        left = dict.fromkeys(members)
        try:
            for number, image in self._decode(self._source, group, group, members):
                if left.pop(number, number) is None:
                    yield number, image
        except (av.error.FFmpegError, EOFError, ImageError):
            # What lies before the damage can still be had, each frame decoded no farther than itself.
            for number in left:
                yield number, self._read_carefully(group, number)
            return
        if left and group > 0 and self._by_dts:
            # With images that are shown before they are decoded, a keyframe's time in the file's index lies
            # before what it shows: these frames may belong to the group before.
            yield from self._read_group(group - 1, list(left))
        else:
            for number in left:
                yield number, self._absent(number, "no image at its time")

    def _read_carefully(self, group: int, number: int) -> RgbImage | VideoError:
        """One frame, with what its group may build on decoded as well.

        Where groups are open, decoders complain of references that only the group before would have set up. So
        errors count from the keyframe of the frame's own group on, and one thread tells where they come from.
        """
        problem = self._absent(number, "no image at its time")
        try:
            self._careful = self._careful or _Source(self.path, "SLICE", self._threads)
            for first in dict.fromkeys((group, max(0, group - 1))):
                try:
                    for _, image in self._decode(self._careful, first, group, [number]):
                        return image
                    problem = self._absent(number, "no image at its time")
                except (av.error.FFmpegError, EOFError, ImageError) as error:
                    problem = VideoError(f"frame {number} is damaged", path=self.path, found=_text(error))
        except VideoError as error:
            return error
        return problem

    def _decode(self, source: _Source, first: int, group: int, members: list[int]) -> Iterator[tuple[int, RgbImage]]:
        """Decode from the keyframe of ``first`` to the last of ``members``, who are in ``group``; yields them."""
        last = self._time(members[-1])
        to_come = set(members)
        shown: int | None = None
        strict = first == group
        for packet in source.packets(self._keys[first], self._seek_places(first), self._by_dts):
            pts = packet.pts
            strict = strict or (packet.dts if self._by_dts else pts) == self._keys[group]
            if shown is None and pts is not None:
                shown = pts
                if shown > last + self._tolerance:
                    return
            if packet.dts is not None and packet.dts > last + self._tolerance:
                break
            if shown is not None and pts is not None and pts < shown:
                continue  # shown before the keyframe and built on the group before: not to be had from here
            number = None if pts is None else self._number(pts)
            if source.can_skip:
                # Images that no other builds on need not be decoded if nobody wants them.
                source.context.skip_frame = "DEFAULT" if number is None or number in to_come else "NONREF"
            try:
                yield from self._wanted(source.context.decode(packet), members)
            except av.error.FFmpegError:
                if strict:
                    raise
            if number is not None:
                to_come.discard(number)
                if not to_come:
                    break  # what is still inside the decoder needs no further packet
        yield from self._wanted(source.context.decode(None), members)

    def _seek_places(self, group: int) -> list[int]:
        """Times to send the container to. It wants the time at which the keyframe is shown, or goes a group back."""
        key = self._keys[group]
        return [key + self._delay, key, self._keys[0]]

    def _wanted(self, frames: Iterable[av.VideoFrame], members: list[int]) -> Iterator[tuple[int, RgbImage]]:
        for frame in frames:
            if frame.pts is None:
                continue
            number = self._number(frame.pts)
            if number in members and abs(frame.pts - self._time(number)) <= self._tolerance:
                if frame.is_corrupt:
                    raise ImageError("the decoder calls it corrupt")
                yield number, self._upright(frame)

    def _upright(self, frame: av.VideoFrame) -> RgbImage:
        image = frame.to_ndarray(format="rgb24")
        quarter_turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, quarter_turns))

    def close(self) -> None:
        """Close the file."""
        for source in (self._source, self._careful):
            if source is not None:
                source.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"VideoReader({str(self.path)!r}, {self.frame_count} frames of {width}x{height} at {float(self.fps):g})"


class _Source:
    """An opened file with its decoder."""

    def __init__(self, path: Path, thread_type: str, threads: int) -> None:
        self.path = path
        if not path.is_file():
            raise VideoError("no such file", path=path)
        try:
            self.container = av.open(
                os.path.abspath(path),  # noqa: PTH100  # "http:x" must not be taken for an address
                options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
                metadata_errors="replace",
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError("cannot be opened as a video", path=path, found=_text(error)) from None
        problem = self._open_decoder(thread_type, threads)
        if problem is not None:
            self.close()
            raise problem

    def _open_decoder(self, thread_type: str, threads: int) -> VideoError | None:
        if not self.container.streams.video:
            return VideoError("holds no images", path=self.path, expected="a video stream")
        self.stream: Any = self.container.streams.video[0]
        self.context: Any = self.stream.codec_context
        if self.context is None or self.stream.time_base is None:
            return VideoError("is in a format that cannot be decoded", path=self.path)
        width, height = self.context.width, self.context.height
        if width * height > MAX_PIXELS:
            return VideoError("the images are too large", path=self.path, found=f"{width}x{height}")
        self.context.thread_type = thread_type
        self.context.thread_count = threads
        # A damaged image must come as an error and not as grey blocks.
        self.context.options = {"err_detect": "explode"}
        # In H.264 an image says in its header whether any other builds on it. HEVC says less: one that none of its
        # own temporal layer builds on may still carry a higher layer.
        self.can_skip = self.context.name == "h264"
        return None

    def packets(self, key: int, places: Iterable[int], by_dts: bool) -> Iterator[Any]:
        """The packets from the keyframe at time ``key`` on, in decoding order, for a decoder that begins anew.

        The container is sent to one of ``places`` after the other until it arrives at that keyframe or before it.
        """
        self.context.flush_buffers()
        for place in places:
            self.container.seek(place, stream=self.stream, backward=True, any_frame=False)
            begun = False
            for packet in self.container.demux(self.stream):
                time = packet.dts if by_dts else packet.pts
                if not packet.size or (time is None and not begun):
                    continue
                if not begun and not (packet.is_keyframe and time >= key):
                    continue
                if not begun and time > key:
                    break  # the container's seek went too far
                begun = True
                yield packet
            if begun:
                return
        raise VideoError("a keyframe of its index is not there", path=self.path)

    def close(self) -> None:
        with contextlib.suppress(av.error.FFmpegError):
            self.container.close()


def _text(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
