"""A video file opened with its decoder, and the packets from one of its keyframes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import av.error
from av.sidedata.sidedata import Type as SideData

from counterview.errors import VideoError
from counterview.guard import library_errors, regular_file
from counterview.media.display_matrix import matrix_orientation
from counterview.media.mp4 import check_index

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg"
"""Containers that are opened; never playlists, which name other files and addresses."""

MAX_PIXELS = 40_000_000
"""Size of the largest image of a video, in pixels, at any time; an 8K frame has 33 million. A decoder holds many."""

_KEYFRAME_MISSING = "a keyframe of its index is missing"


def open_container(path: Path) -> Any:
    """Open a file with FFmpeg's demuxer, by :data:`FORMATS` alone, its index bounded.

    Args:
        path: the file.

    Raises:
        VideoError: no such file, not of these formats, or an index without bounds.
    """
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
            return av.open(place, options=options, metadata_errors="replace")
        except TypeError:
            return av.open(place, options=options)


def stored_orientation(path: Path) -> int:
    """The EXIF orientation, 1 to 8, of the images that a video stores; its first image says it.

    Args:
        path: the video.

    Raises:
        VideoError: it cannot be read, or is turned by an angle that is no multiple of 90 degrees.
    """
    with open_container(path) as container, library_errors(VideoError, "cannot be decoded", path=path):
        for frame in container.decode(video=0):
            matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
            return 1 if matrix is None else matrix_orientation(bytes(matrix))
    return 1


class VideoSource:
    """An opened file with its decoder."""

    def __init__(self, path: Path, thread_type: str, threads: int) -> None:
        self.path = path
        self._threading = (thread_type, threads)
        self._open()

    def _open(self) -> None:
        path = self.path
        self.container = open_container(path)
        try:
            with library_errors(VideoError, "is in a format that cannot be decoded", path=path):
                problem = self._open_decoder(*self._threading)
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
        self.stated_rate: Any = self.stream.guessed_rate or self.stream.average_rate
        # Of the images' own headers: where packets lack times, a guess from these may be half the rate.
        self.coded_rate: Any = self.context.framerate or self.stream.average_rate
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

    def packets(self, key: int, seek_times: Iterable[int | None], by_dts: bool) -> Iterator[Any]:
        """The packets from the keyframe at time ``key`` on, in decoding order, for a flushed decoder.

        Seeks to one of ``seek_times`` after the other until the container is at that keyframe or before it; ``None``
        stands for the start of the file, opened anew.

        Raises:
            VideoError: the keyframe is in the index but not in the file.
        """
        self.context.flush_buffers()
        for seek_time in seek_times:
            try:
                if seek_time is None:
                    self.close()
                    self._open()
                else:
                    self.container.seek(seek_time, stream=self.stream, backward=True, any_frame=False)
            except (av.error.FFmpegError, OverflowError):
                continue  # before the first image, or by an index that is damaged
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
        """Close the file."""
        with contextlib.suppress(av.error.FFmpegError):
            self.container.close()
