"""Frames of a video by number, exact by timestamp, read by group of pictures (GOP).

Frame ``n`` is the image shown ``n / fps`` seconds after the first one; with a variable frame rate it is the image
``n`` of all, counted from 0. For each GOP that holds a requested frame the reader seeks once and decodes from the
keyframe to the last requested frame; nothing else is read or decoded. A file with an index (MP4, MOV) is never read
through, unless its frame rate varies or an edit list cuts images off: only its packets have the times then. MPEG-PS
has times for some images alone; its frames are counted from the start, so reading back and forth is slow.

Images are turned and mirrored as the display matrix says, by multiples of 90 degrees.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray

from counterview.errors import FrameMissingError, ImageError, InputError, VideoError
from counterview.guard import library_errors, reason
from counterview.media.counted_frames import CountedFrames
from counterview.media.display_matrix import matrix_orientation
from counterview.media.frame_source import REORDERED, SourceFrame, finite
from counterview.media.frame_times import PacketTimes, VariableTimes, constant_rate, packet_times
from counterview.media.images import TURNS
from counterview.media.video_source import MAX_PIXELS, VideoSource
from counterview.types import RgbImage

logger = logging.getLogger(__name__)

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
        self._source = VideoSource(self.path, "AUTO", self._threads)
        self._careful: VideoSource | None = None
        self._unshown: VideoError | None = None
        self._shown: dict[int, int] = {}
        self._sent: set[int] = set()
        try:
            with library_errors(VideoError, "cannot be read", path=self.path):
                self._read_times()
        except BaseException:
            self.close()
            raise

    def _read_times(self) -> None:
        stream = self._source.stream
        self._time_base = Fraction(stream.time_base)
        self._counted: CountedFrames | None = None
        self._variable: VariableTimes | None = None
        entries = stream.index_entries if "mp4" in self._source.container.format.name else ()
        # The index of a file gives decoding times, a pass over the packets gives presentation times. Those are needed
        # where an edit list cuts images off.
        self._by_dts = len(entries) > 0 and len(entries) == stream.frames
        if self._by_dts:
            found = packet_times((entry.timestamp,) * 2 + (entry.is_keyframe, entry.is_discard) for entry in entries)
            self._by_dts = not found.hidden.any()
        if not self._by_dts:
            found = self._scan()
        times = self._take(found)
        first, last = (int(times[0]), int(times[-1])) if len(times) else (0, -1)
        self._origin = first
        if self._by_dts and stream.start_time is not None:
            self._origin = int(stream.start_time)
        self._last = self._origin + last - first
        self._delay = self._origin - first
        if not self._keys:
            raise VideoError("has no images", path=self.path, found="no keyframe")
        name = self._source.container.format.name
        if name == "mpeg" or (name == "mpegts" and found.is_incomplete):
            self._count(found)
        else:
            self.fps = self._frame_rate(times)
            self._read_rate(times.tolist())
        self.size_hw = (stream.codec_context.height, stream.codec_context.width)
        for _, image in self.read([0]):  # the rotation is a property of the images
            if self._unshown is not None:
                raise self._unshown
            if not isinstance(image, VideoError):
                self.size_hw = (image.shape[0], image.shape[1])

    def _scan(self) -> PacketTimes:
        """The presentation times of all packets."""
        stream = self._source.stream
        packets = self._source.container.demux(stream)
        return packet_times((p.pts, p.dts, p.is_keyframe, p.is_discard) for p in packets if p.size)

    def _take(self, found: PacketTimes) -> NDArray[np.int64]:
        """Keep the keyframes, and return the times of the images that are shown, ascending."""
        keys = found.is_key & found.has_pts
        order = np.argsort(found.pts[keys], kind="stable")
        self._keys: list[int] = found.pts[keys][order].tolist()
        self._key_dts: list[int] = np.where(found.has_dts, found.dts, found.pts)[keys][order].tolist()
        return np.sort(found.pts[found.has_pts & ~found.hidden])

    def _count(self, found: PacketTimes) -> None:
        """Number the images in the order in which they are decoded.

        MPEG-PS has times for some packets alone, and what FFmpeg guesses for the others is not always right.
        """
        logger.info("%s: not every image has a time of its own, so they are counted in their order", self.path)
        start = int(np.flatnonzero(found.is_key)[0])
        count = int((~found.hidden[start:]).sum())
        rate = self._source.coded_rate or 30
        self.fps, self.is_variable = Fraction(rate), False
        self._tolerance = Fraction(1, 2) / (self.fps * self._time_base)
        self._last = self._origin + round((count - 1) / (self.fps * self._time_base))
        self._counted = CountedFrames(self.path, self._threads, count, self._upright)

    def _frame_rate(self, times: NDArray[np.int64]) -> Fraction:
        """The nominal rate. The average rate is not usable: one dropped frame would shift every later number."""
        rate = self._source.stated_rate
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
        rate = constant_rate(times, self.fps, self._time_base)
        if rate is None:  # decoding times that vary may be those of images shown at a constant rate
            self._source.container.seek(int(times[0]), stream=self._source.stream, backward=True, any_frame=False)
            found = self._scan()
            shown: list[int] = self._take(found).tolist()
            if not shown:
                raise VideoError("has no images", path=self.path, found="no time")
            rate = constant_rate(shown, self.fps, self._time_base)
            self._by_dts, self._delay = False, 0
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

        Raises:
            InputError: the time is not a finite number.
        """
        finite(float(seconds))
        if self._variable is not None:
            return self._variable.number_at(seconds, within_s)
        number = math.ceil(Fraction(seconds) * self.fps - Fraction(1, 2))
        return number if number in self else None

    def time_of(self, number: int) -> float:
        """When frame ``number`` is shown, in seconds after the first image.

        Raises:
            FrameMissingError: the video has no such frame.
        """
        if number not in self:
            raise self._absent(number, f"{self.frame_count} frames")
        return float((self._time(number) - self._origin) * self._time_base)

    def frame_at(self, seconds: Fraction | float) -> SourceFrame | None:
        """The image shown nearest to a time, with its number and its own time.

        Args:
            seconds: after the first image.

        Returns:
            the frame, image ``(H, W, 3)``; ``None`` if none is within half an interval, or it was dropped.

        Raises:
            VideoError: the image is there and damaged.
        """
        with contextlib.suppress(FrameMissingError):
            if (number := self.number_at(seconds)) is not None:
                return SourceFrame(number, self.time_of(number), self.frame(number))
        return None

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
        ((_, image),) = self.read([number])
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
        if self._counted is not None:
            yield from self._counted.read(list(map(int, numbers)))
            return
        groups: dict[int, list[int]] = {}
        for number in map(int, numbers):
            if number in self:
                groups.setdefault(self._group(self._time(number) + self._tolerance), []).append(number)
            else:
                yield number, self._absent(number, f"{self.frame_count} frames")
        for group, members in sorted(groups.items()):
            yield from self._read_group(group, members)

    def _group(self, time: Fraction) -> int:
        """The group of the image that is shown at a time, or just before it, in units of the time base."""
        group = max(0, bisect_right(self._keys, time) - 1)
        if group == 0 or self._delay <= 0 or time - self._keys[group] > (REORDERED + 1) / (self.fps * self._time_base):
            return group
        # With B-frames, a keyframe's time in the index is too early: what is shown before it is of the group before.
        if group not in self._shown:
            self._shown[group] = self._keys[group]
            with contextlib.suppress(VideoError, av.error.FFmpegError):
                packets = self._source.packets(self._keys[group], self._seek_times(group), self._by_dts)
                self._shown[group] = next((p.pts for p in packets if p.pts is not None), self._keys[group])
        return group - 1 if time < self._shown[group] else group

    def _time(self, number: int) -> Fraction:
        if self._variable is not None:
            return Fraction(self._variable.times[number])
        return self._origin + number / (self.fps * self._time_base)

    def _number(self, pts: int) -> int:
        if self._variable is not None:
            return self._variable.number(pts)
        return round((pts - self._origin) * self._time_base * self.fps)

    def _absent(self, number: int, found: str) -> VideoError:
        if number in self._sent:
            return VideoError(f"frame {number} is damaged", path=self.path, found="no image comes of its data")
        return FrameMissingError(f"has no frame {number}", path=self.path, found=found)

    def _read_group(
        self, group: int, members: list[int], *, may_go_back: bool = True
    ) -> Iterator[tuple[int, RgbImage | VideoError]]:
        pending = dict.fromkeys(members)
        self._sent.clear()
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
        if pending and group > 0 and self._by_dts and may_go_back:  # reordered by more than `_group` allows for
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
            self._careful = self._careful or VideoSource(self.path, "SLICE", self._threads)
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

    def _decode(
        self, source: VideoSource, first: int, group: int, members: list[int]
    ) -> Iterator[tuple[int, RgbImage]]:
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
                self._sent |= {number} & pending
                pending.discard(number)
                if not pending:
                    break  # the images still inside the decoder need no further packet
        yield from self._select(source.context.decode(None), members)

    def _seek_times(self, group: int) -> list[int | None]:
        """Times to seek to, best first. Containers expect a keyframe's presentation time; else they go a group back.

        AVI seeks by decoding times, MPEG-TS and MPEG-PS have no index and may land behind the keyframe, unless asked
        for what lies before it. The start of the file is the last resort, where reading it through is no surprise.
        """
        key, first = self._keys[group], self._keys[0]
        times: list[int | None] = [key + self._delay, key, self._key_dts[group], first, self._key_dts[0]]
        times.append(first - round(10 / self._time_base))
        return list(dict.fromkeys(times if self._by_dts else [*times, None]))

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
        matrix = frame.side_data.get(SideData.DISPLAYMATRIX)  # type: ignore[call-overload]
        try:
            turn = TURNS.get(1 if matrix is None else matrix_orientation(bytes(matrix)))
        except VideoError as error:
            self._unshown = VideoError(error.problem, path=self.path, found=error.found, fix=error.fix)
            raise self._unshown from None
        image = frame.to_ndarray(format="rgb24")
        return np.require(image if turn is None else turn(image), requirements=["C", "W"])

    def close(self) -> None:
        """Close the file."""
        for source in (self._source, self._careful, self._counted):
            if source is not None:
                source.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"VideoReader({str(self.path)!r}, {self.frame_count} frames of {width}x{height} at {float(self.fps):g})"
