"""Write images as a video."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np

from counterview.errors import InputError
from counterview.media.files import output_error, part_path, write_errors
from counterview.types import ImageLike, as_rgb


class VideoWriter:
    """An MP4 video (H.264, yuv420p, its index first, so that browsers play it) that is written image by image.

    It is written aside, and takes its name in :meth:`close`; as a context manager it is closed at the end of the block,
    or thrown away if the block raises. The same images give the same bytes.

    Args:
        path: the file.
        fps: frames per second.
        crf: quality as a constant rate factor, 0 (best) to 51.

    Attributes:
        path: the file.
        count: number of frames so far.

    Raises:
        InputError: a rate or quality out of range.
        OutputError: the folder cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], fps: Fraction | float = 30, *, crf: int = 20) -> None:
        self._rate, self._crf = Fraction(fps).limit_denominator(1001), crf
        if not 0 < self._rate <= 1000 or not 0 <= crf <= 51:
            raise InputError(
                "a setting of the video is out of range", found=f"fps {fps}, crf {crf}", expected="fps > 0, crf 0 to 51"
            )
        self.path, self.count = Path(path), 0
        with write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = part_path(self.path)
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)

    def add(self, frame: ImageLike, times: int = 1) -> None:
        """Write the next image.

        Args:
            frame: ``(H, W, 3)`` uint8 RGB, or a view, of the size of the first one. The format needs even sides, so an
                image with an odd side is padded with one white row or column.
            times: for how many frames it stands.

        Raises:
            InputError: a frame of another size.
            ImageError: not an image.
            OutputError: the video cannot be written.
        """
        image = as_rgb(frame)
        try:
            if self._stream is None:
                self._open(image.shape[0], image.shape[1])
            if image.shape[:2] != self._size:
                raise InputError("the frames of a video differ in size", found=image.shape[:2], expected=self._size)
            even = np.pad(image, ((0, self._size[0] % 2), (0, self._size[1] % 2), (0, 0)), constant_values=255)
            encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            encoded = encoded.reformat(format="yuv420p")
            for _ in range(times):
                encoded.pts = self.count
                self._container.mux(self._stream.encode(encoded))
                self.count += 1
        except (av.error.FFmpegError, OSError) as error:
            raise output_error(self.path, error) from None

    def _open(self, height: int, width: int) -> None:
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        path = os.path.abspath(self._temporary)  # noqa: PTH100
        self._container = av.open(path, "w", format="mp4", options=options)
        self._stream = self._container.add_stream("libx264", rate=self._rate)
        self._size = (height, width)
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1
        self._stream.options = {"crf": str(self._crf), "preset": "veryfast", "threads": "1"}

    def close(self) -> None:
        """End the video and give it its name.

        Raises:
            InputError: there was no frame.
            OutputError: the video cannot be written.
        """
        try:
            if self._stream is None:
                raise InputError("a video needs at least one frame", path=self.path)
            self._container.mux(self._stream.encode())
            self._container.close()
            self._temporary.replace(self.path)
        except (av.error.FFmpegError, OSError) as error:
            raise output_error(self.path, error) from None
        finally:
            self.discard()

    def discard(self) -> None:
        """Throw away what was written; nothing is left at the video's place that was not there before."""
        if self._container is not None:
            with contextlib.suppress(av.error.FFmpegError, OSError):
                self._container.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def write_video(
    path: str | os.PathLike[str], frames: Iterable[ImageLike], fps: Fraction | float = 30, *, crf: int = 20
) -> int:
    """Write an MP4 video (H.264, yuv420p), atomically. The same images give the same bytes.

    Args:
        path: the file.
        frames: ``(H, W, 3)`` uint8 RGB, or views, all of one size; consumed one by one. The format needs even sides,
            so an image with an odd side is padded with one white row or column.
        fps: frames per second.
        crf: quality as a constant rate factor, 0 (best) to 51.

    Returns:
        number of frames.

    Raises:
        InputError: no frame, frames of several sizes, or a rate or quality out of range.
        ImageError: a frame that is not an image.
        OutputError: the video cannot be written.
    """
    with VideoWriter(path, fps, crf=crf) as video:
        for frame in frames:
            video.add(frame)
    return video.count
