"""Frames of a video by number, exact by timestamp, read by group of pictures (GOP).

Frame ``n`` is the image shown ``n / fps`` seconds after the first one; with a variable frame rate it is the image
``n`` of all, counted from 0. For each GOP that holds a requested frame the reader seeks once and decodes from the
keyframe to the last requested frame; nothing else is read or decoded. A file with an index (MP4, MOV) is never read
through, unless its frame rate varies: only its packets have the times of the images then.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from counterview.errors import ImageError, InputError, VideoError
from counterview.guard import library_errors, reason, regular_file
from counterview.media.frame_times import VariableTimes, constant_rate
from counterview.media.mp4 import MAX_SAMPLES, check_index
from counterview.types import RgbImage

logger = logging.getLogger(__name__)

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg"
"""Containers that are opened; never playlists, which name other files and addresses."""

MAX_PIXELS = 40_000_000
"""Size of the largest image of a video, in pixels, at any time; an 8K frame has 33 million. A decoder holds many."""

_KEYFRAME_MISSING = "a keyframe of its index is missing"

MAX_FAILURES = 64
"""Frames of a group that are found damaged one after the other before the others are not tried any more."""


class VideoReader:
    """One video file.

    Args:
        path: the file.
        threads: decoder threads; one per core if 0.

    Attributes:
        path: the file.
        fps: frames per second; the average if the rate is variable.
        is_variable: whether the frame rate is variable.
        size_hw: height and width of the upright images, in pixels.

    Raises:
        VideoError: the file is missing, not a video, too damaged to open, or has images larger than
            :data:`MAX_PIXELS` or an index of more than :data:`counterview.media.mp4.MAX_SAMPLES`.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 0) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise VideoError("is a folder", path=self.path, expected="a video")
        self._threads = max(0, threads)
        self._source = _Source(self.path, "AUTO", self._threads)
        self._careful: _Source | None = None
        try:
            with library_errors(VideoError, "cannot be read", path=self.path):
                self._read_times()
        except BaseException:
            self.close()
            raise

    def _read_times(self) -> None:
        stream = self._source.stream
        self._time_base = Fraction(stream.time_base)
        entries = stream.index_entries if "mp4" in self._source.container.format.name else ()
        # The index of a file gives decoding times, a pass over the packets gives presentation times.
        self._by_dts = len(entries) > 0 and len(entries) == stream.frames
        if self._by_dts:
            pairs = _times_and_keys((entry.timestamp, entry.is_keyframe) for entry in entries)
        else:
            packets = self._source.container.demux(stream)
            pairs = _times_and_keys((p.pts, p.is_keyframe) for p in packets if p.pts is not None and p.size)
        times = np.sort(pairs[:, 0])
        self._keys: list[int] = np.sort(pairs[pairs[:, 1] == 1, 0]).tolist()
        first, last = (int(times[0]), int(times[-1])) if len(times) else (0, -1)
        self._origin = first
        if self._by_dts and stream.start_time is not None:
            self._origin = int(stream.start_time)
        self._last = self._origin + last - first
        self._delay = self._origin - first
        if not self._keys:
            raise VideoError("has no images", path=self.path, found="no keyframe")
        self.fps = self._frame_rate(times)
        self._read_rate(times.tolist())
        self.size_hw = (stream.codec_context.height, stream.codec_context.width)
        for _, image in self.read([0]):  # the rotation is a property of the images
            if not isinstance(image, VideoError):
                self.size_hw = (image.shape[0], image.shape[1])
            elif image.found == _KEYFRAME_MISSING:
                raise VideoError(_KEYFRAME_MISSING, path=self.path)

    def _frame_rate(self, times: NDArray[np.int64]) -> Fraction:
        """The nominal rate. The average rate is not usable: one dropped frame would shift every later number."""
        rate = self._source.stream.guessed_rate or self._source.stream.average_rate
        if len(times) < 2:
            return Fraction(rate) if rate else Fraction(30)
        middle = float(np.median(np.diff(times.astype(np.float64))))
        step = Fraction(middle).limit_denominator(1000) * self._time_base
        if rate and step > 0 and abs(Fraction(rate) * step - 1) < Fraction(1, 25):
            return Fraction(rate)
        if step <= 0:
            raise VideoError("the times of its images do not increase", path=self.path)
        return (1 / step).limit_denominator(1001)

    def _read_rate(self, times: list[int]) -> None:
        """Take the rate at which the images are shown. If it varies, they are numbered one by one."""
        self._variable: VariableTimes | None = None
        rate = constant_rate(times, self.fps, self._time_base)
        if rate is None:  # decoding times that vary may be those of images shown at a constant rate
            stream = self._source.stream
            self._source.container.seek(int(times[0]), stream=stream, backward=True, any_frame=False)
            packets = self._source.container.demux(stream)
            found = _times_and_keys((p.pts, p.is_keyframe) for p in packets if p.pts is not None and p.size)
            shown: list[int] = np.sort(found[:, 0]).tolist()
            if not shown:
                raise VideoError("has no images", path=self.path, found="no time")
            rate = constant_rate(shown, self.fps, self._time_base)
            self._keys, self._by_dts, self._delay = np.sort(found[found[:, 1] == 1, 0]).tolist(), False, 0
            self._origin, self._last = shown[0], shown[-1]
            if rate is None:
                self._variable = VariableTimes(shown, self._time_base)
                if len(self._variable.times) < len(shown):
                    lost = len(shown) - len(self._variable.times)
                    logger.warning("%s: %d images are shown at the time of another", self.path, lost)
        self.is_variable = self._variable is not None
        self.fps = rate or self._variable.fps  # type: ignore[union-attr]
        # A number stands for one time exactly where the rate varies.
        self._tolerance = Fraction(1, 2) / (self.fps * self._time_base) if rate else Fraction(0)

    @property
    def start_s(self) -> float:
        """Time of the first image on the file's clock, in seconds."""
        return float(self._origin * self._time_base)

    @property
    def duration_s(self) -> float:
        """Time from the first image to the end of the last one, in seconds."""
        return float((self._last - self._origin) * self._time_base + 1 / self.fps)

    def number_at(self, seconds: Fraction | float, within_s: Fraction | float = 0) -> int | None:
        """Number of the image nearest to a time, the earlier one of two.

        Args:
            seconds: after the first image.
            within_s: with a variable rate, largest distance in seconds; half of the median frame interval if that is
                larger.

        Returns:
            the number, or ``None`` if no image is within half a frame interval. At a constant rate, an image that is
            missing inside the video is noticed only when it is read.
        """
        if self._variable is not None:
            return self._variable.number_at(seconds, within_s)
        number = math.ceil(Fraction(seconds) * self.fps - Fraction(1, 2))
        return number if number in self else None

    @property
    def frame_count(self) -> int:
        """Number of the last frame plus one."""
        if self._variable is not None:
            return len(self._variable.times)
        return round((self._last - self._origin) * self._time_base * self.fps) + 1

    def __contains__(self, frame: object) -> bool:
        """Whether the video is long enough for ``frame``. A dropped frame is noticed only when it is read."""
        return isinstance(frame, (int, np.integer)) and 0 <= int(frame) < self.frame_count

    def frame(self, number: int) -> RgbImage:
        """Frame ``number``: ``(H, W, 3)`` uint8 RGB, upright.

        Raises:
            VideoError: the video has no such frame, or it is damaged.
            InputError: the number is not an integer of 0 or more.
        """
        _, image = next(iter(self.read([number])))
        if isinstance(image, VideoError):
            raise image
        return image

    def read(self, frames: Iterable[int]) -> Iterator[tuple[int, RgbImage | VideoError]]:
        """Read several frames; each GOP is decoded once.

        Args:
            frames: frame numbers, in any order.

        Yields:
            each number once, with its image, ``(H, W, 3)`` uint8 RGB, or with the error why it cannot be read, in
            nearly ascending order.

        Raises:
            InputError: a number is not an integer of 0 or more.
        """
        numbers = sorted(set(frames))
        if any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0 for n in numbers):
            raise InputError("frame numbers are integers of 0 or more", path=self.path)
        groups: dict[int, list[int]] = {}
        for number in map(int, numbers):
            if number in self:
                group = bisect_right(self._keys, self._time(number) + self._tolerance) - 1
                groups.setdefault(max(0, group), []).append(number)
            else:
                yield number, self._absent(number, f"{self.frame_count} frames")
        for group, members in sorted(groups.items()):
            yield from self._read_group(group, members)

    def _time(self, number: int) -> Fraction:
        if self._variable is not None:
            return Fraction(self._variable.times[number])
        return self._origin + number / (self.fps * self._time_base)

    def _number(self, pts: int) -> int:
        if self._variable is not None:
            return self._variable.number(pts)
        return round((pts - self._origin) * self._time_base * self.fps)

    def _absent(self, number: int, found: str) -> VideoError:
        return VideoError(f"has no frame {number}", path=self.path, found=found)

    def _read_group(
        self, group: int, members: list[int], *, may_go_back: bool = True
    ) -> Iterator[tuple[int, RgbImage | VideoError]]:
        pending = dict.fromkeys(members)
        try:
            for number, image in self._decode(self._source, group, group, members):
                if pending.pop(number, number) is None:
                    yield number, image
        except VideoError as error:  # the group cannot be found
            for number in pending:
                yield number, VideoError(f"frame {number} cannot be read", path=self.path, found=error.problem)
            return
        except Exception:  # FFmpeg's errors, and whatever PyAV raises on its way
            # Frames before the damage are still readable, if each is decoded no farther than itself.
            failures = 0
            for number in pending:
                result: RgbImage | VideoError
                if failures < MAX_FAILURES:
                    result = self._read_carefully(group, number)
                else:
                    result = VideoError(f"frame {number} is damaged", path=self.path, found=f"{failures} before it")
                failures = failures + 1 if isinstance(result, VideoError) else 0
                yield number, result
            return
        if pending and group > 0 and self._by_dts and may_go_back:
            # With reordered images (B-frames), a keyframe's time in the index is earlier than its presentation
            # time: these frames may belong to the previous group.
            yield from self._read_group(group - 1, list(pending), may_go_back=False)
        else:
            for number in pending:
                yield number, self._absent(number, "no image at its time")

    def _read_carefully(self, group: int, number: int) -> RgbImage | VideoError:
        """Read one frame, decoding the previous group too, which an open GOP refers to.

        In an open GOP the decoder reports missing references to the previous group. So errors count only from the
        keyframe of the frame's own group on, and a single thread (slices) attributes each error to its packet.
        """
        problem = self._absent(number, "no image at its time")
        try:
            self._careful = self._careful or _Source(self.path, "SLICE", self._threads)
            for first in dict.fromkeys((group, max(0, group - 1))):
                try:
                    for _, image in self._decode(self._careful, first, group, [number]):
                        return image
                    problem = self._absent(number, "no image at its time")
                except Exception as error:
                    problem = VideoError(f"frame {number} is damaged", path=self.path, found=reason(error))
        except VideoError as error:
            return error
        return problem

    def _decode(self, source: _Source, first: int, group: int, members: list[int]) -> Iterator[tuple[int, RgbImage]]:
        """Decode from the keyframe of group ``first`` to the last of ``members``, frames of ``group``; yields them."""
        last = self._time(members[-1])
        pending = set(members)
        first_pts: int | None = None
        strict = first == group
        for packet in source.packets(self._keys[first], self._seek_times(first), self._by_dts):
            pts = packet.pts
            strict = strict or (packet.dts if self._by_dts else pts) == self._keys[group]
            if first_pts is None and pts is not None:
                first_pts = pts
                if first_pts > last + self._tolerance:
                    return
            if packet.dts is not None and packet.dts > last + self._tolerance:
                break
            if first_pts is not None and pts is not None and pts < first_pts:
                continue  # shown before the keyframe, so it refers to the previous group: not decodable from here
            number = None if pts is None else self._number(pts)
            if source.can_skip:
                # An image that no other refers to need not be decoded unless it is requested.
                source.context.skip_frame = "DEFAULT" if number is None or number in pending else "NONREF"
            try:
                yield from self._select(source.context.decode(packet), members)
            except av.error.FFmpegError:
                if strict:
                    raise
            if number is not None:
                pending.discard(number)
                if not pending:
                    break  # the images still inside the decoder need no further packet
        yield from self._select(source.context.decode(None), members)

    def _seek_times(self, group: int) -> list[int]:
        """Times to seek to, best first. Containers expect a keyframe's presentation time; else they go a group back.

        MPEG-TS has no index and may land behind the first keyframe, unless asked for what lies before it.
        """
        key, first = self._keys[group], self._keys[0]
        return [key + self._delay, key, first, first - round(10 / self._time_base)]

    def _select(self, frames: Iterable[av.VideoFrame], members: list[int]) -> Iterator[tuple[int, RgbImage]]:
        """Those of the decoded frames whose numbers are among ``members``."""
        for frame in frames:
            if frame.pts is None:
                continue
            number = self._number(frame.pts)
            if number in members and abs(frame.pts - self._time(number)) <= self._tolerance:
                if frame.is_corrupt:
                    raise ImageError("the decoder reports it as corrupt")
                yield number, self._upright(frame)

    def _upright(self, frame: av.VideoFrame) -> RgbImage:
        if frame.width * frame.height > MAX_PIXELS:
            raise ImageError("the image is too large", found=f"{frame.width}x{frame.height}")
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
            if path.exists() and not path.is_dir():
                regular_file(path, VideoError)
            raise VideoError("no such file", path=path)
        check_index(path)
        with library_errors(VideoError, "cannot be opened as a video", path=path):
            # The whole path: "http:x" must not be read as an address. PyAV from 19 on replaces by itself.
            options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
            place = os.path.abspath(path)  # noqa: PTH100
            try:
                self.container = av.open(place, options=options, metadata_errors="replace")
            except TypeError:
                self.container = av.open(place, options=options)
        try:
            with library_errors(VideoError, "is in a format that cannot be decoded", path=path):
                problem = self._open_decoder(thread_type, threads)
            if problem is not None:
                raise problem
        except BaseException:
            self.close()
            raise

    def _open_decoder(self, thread_type: str, threads: int) -> VideoError | None:
        if not self.container.streams.video:
            return VideoError("has no images", path=self.path, expected="a video stream")
        self.stream: Any = self.container.streams.video[0]
        self.context: Any = self.stream.codec_context
        if self.context is None or self.stream.time_base is None:
            return VideoError("is in a format that cannot be decoded", path=self.path)
        width, height = self.context.width, self.context.height
        if width * height > MAX_PIXELS:
            return VideoError("the images are too large", path=self.path, found=f"{width}x{height}")
        self.context.thread_type = thread_type
        self.context.thread_count = threads
        # A damaged image must become an error, not grey blocks.
        self.context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        # An H.264 header states whether any other image refers to this one. HEVC's does not: an image that none of
        # its own temporal layer refers to may still be the reference of a higher layer.
        self.can_skip = self.context.name == "h264"
        return None

    def packets(self, key: int, seek_times: Iterable[int], by_dts: bool) -> Iterator[Any]:
        """The packets from the keyframe at time ``key`` on, in decoding order, for a flushed decoder.

        Seeks to one of ``seek_times`` after the other until the container is at that keyframe or before it.

        Raises:
            VideoError: the keyframe is in the index but not in the file.
        """
        self.context.flush_buffers()
        for seek_time in seek_times:
            self.container.seek(seek_time, stream=self.stream, backward=True, any_frame=False)
            started = False
            for packet in self.container.demux(self.stream):
                time = packet.dts if by_dts else packet.pts
                if not packet.size or (time is None and not started):
                    continue
                if not started and not (packet.is_keyframe and time >= key):
                    continue
                if not started and time > key:
                    break  # the container's seek went too far
                started = True
                yield packet
            if started:
                return
        raise VideoError(_KEYFRAME_MISSING, path=self.path)

    def close(self) -> None:
        with contextlib.suppress(av.error.FFmpegError):
            self.container.close()


def _times_and_keys(entries: Iterable[tuple[int, bool]]) -> NDArray[np.int64]:
    """Times and whether they are of keyframes, ``(N, 2)``.

    Raises:
        VideoError: more than a video can have.
    """
    limited = islice(entries, MAX_SAMPLES + 1)
    values = np.fromiter((value for time, key in limited for value in (time, int(key))), dtype=np.int64)
    if len(values) > 2 * MAX_SAMPLES:
        raise VideoError("has too many images", expected=f"at most {MAX_SAMPLES}")
    return values.reshape(-1, 2)
