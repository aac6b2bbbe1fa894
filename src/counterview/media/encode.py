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
import av.container
import av.error
import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError
from counterview.media.files import output_error, part_path, write_errors
from counterview.types import ImageLike, as_rgb

AUDIO_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Samples a second that a sound track may have."""


class VideoWriter:
    """An MP4 video (H.264, yuv420p, its index first, so that browsers play it) that is written image by image.

    It is written aside, and takes its name in :meth:`close`; as a context manager it is closed at the end of the block,
    or thrown away if the block raises. The same images give the same bytes.

    Args:
        path: the file.
        fps: frames per second.
        crf: quality as a constant rate factor, 0 (best) to 51.
        audio: a sound track, as :func:`write_video` takes it.

    Attributes:
        path: the file.
        count: number of frames so far.

    Raises:
        InputError: a rate or quality out of range, or sound of another form.
        OutputError: the folder cannot be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: Fraction | float = 30,
        *,
        crf: int = 20,
        audio: tuple[NDArray[Any], int] | None = None,
    ) -> None:
        self._audio = None if audio is None else (_checked_audio(*audio), audio[1])
        self._sound: _SoundTrack | None = None
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
                if self._sound is not None:
                    self._sound.write_until((self.count + 1) / self._rate)
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
        # x264's macroblock tree reads memory that it has not set: half of all short clips came out in several versions.
        settings = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        self._stream.options = {"crf": str(self._crf), **settings}
        if self._audio is not None:
            self._sound = _SoundTrack(self._container, *self._audio)

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
            if self._sound is not None:
                self._sound.finish()
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
    path: str | os.PathLike[str],
    frames: Iterable[ImageLike],
    fps: Fraction | float = 30,
    *,
    crf: int = 20,
    audio: tuple[NDArray[Any], int] | None = None,
) -> int:
    """Write an MP4 video (H.264, yuv420p), atomically. The same input gives the same bytes.

    Args:
        path: the file.
        frames: ``(H, W, 3)`` uint8 RGB, or views, all of one size; consumed one by one. The format needs even sides,
            so an image with an odd side is padded with one white row or column.
        fps: frames per second.
        crf: quality as a constant rate factor, 0 (best) to 51.
        audio: a sound track (AAC) from the first image on: samples ``(N,)``, or ``(N, 2)`` for stereo, floating point
            within -1 to 1, and samples a second, one of :data:`AUDIO_RATES`.

    Returns:
        number of frames.

    Raises:
        InputError: no frame, frames of several sizes, a rate or quality out of range, or sound of another form.
        ImageError: a frame that is not an image.
        OutputError: the video cannot be written.
    """
    with VideoWriter(path, fps, crf=crf, audio=audio) as video:
        for frame in frames:
            video.add(frame)
    return video.count


def _checked_audio(samples: NDArray[Any], rate: int) -> NDArray[np.float32]:
    """Samples ``(N, C)`` of a sound track."""
    array = np.asarray(samples)
    form = array[:, None] if array.ndim == 1 else array
    is_sound = form.ndim == 2 and form.shape[1] in (1, 2) and len(form) > 0 and np.issubdtype(form.dtype, np.floating)
    if not is_sound or rate not in AUDIO_RATES or not np.isfinite(form).all():
        raise InputError(
            "the audio is not a sound track", found=f"{array.dtype} {array.shape} at {rate}/s",
            expected=f"finite floating point (N,) or (N, 2), at one of {AUDIO_RATES}",
        )  # fmt: skip
    return np.clip(form, -1, 1).astype(np.float32)


class _SoundTrack:
    """A track of AAC that is written along with the images, so that players need not seek.

    Args:
        out: the file.
        samples: ``(N, C)`` float32.
        rate: samples a second.
    """

    _BLOCK = 1024

    def __init__(self, out: av.container.OutputContainer, samples: NDArray[np.float32], rate: int) -> None:
        self._out, self._samples, self._rate, self._next = out, samples, rate, 0
        self._layout = "mono" if samples.shape[1] == 1 else "stereo"
        self._stream: Any = out.add_stream("aac", rate=rate, options={"flags": "+bitexact"})
        self._stream.codec_context.layout = self._layout
        self._stream.codec_context.thread_count = 1

    def write_until(self, seconds: Fraction | float) -> None:
        """Encode what comes before a time."""
        while self._next < min(len(self._samples), seconds * self._rate):
            block = np.ascontiguousarray(self._samples[self._next : self._next + self._BLOCK].T)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._next, Fraction(1, self._rate)
            self._out.mux(self._stream.encode(frame))
            self._next += self._BLOCK

    def finish(self) -> None:
        """Encode the rest; a track may be longer than the images."""
        self.write_until(len(self._samples) / self._rate + 1)
        self._out.mux(self._stream.encode(None))
