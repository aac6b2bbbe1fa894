"""Write images as a video."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
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
    rate = Fraction(fps).limit_denominator(1001)
    if not 0 < rate <= 1000 or not 0 <= crf <= 51:
        raise InputError(
            "a setting of the video is out of range", found=f"fps {fps}, crf {crf}", expected="fps > 0, crf 0 to 51"
        )
    samples = None if audio is None else _checked_audio(*audio)
    path = Path(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_path(path)
    count = 0
    try:
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(os.path.abspath(temporary), "w", format="mp4", options=options) as out:  # noqa: PTH100
            stream = None
            sound: _SoundTrack | None = None
            size = (0, 0)
            for frame in frames:
                image = as_rgb(frame)
                if stream is None:
                    size = (image.shape[0], image.shape[1])
                    stream = out.add_stream("libx264", rate=rate)
                    stream.height, stream.width, stream.pix_fmt = (
                        size[0] + size[0] % 2,
                        size[1] + size[1] % 2,
                        "yuv420p",
                    )
                    stream.codec_context.thread_count = 1
                    stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
                    if audio is not None and samples is not None:
                        sound = _SoundTrack(out, samples, audio[1])
                if image.shape[:2] != size:
                    raise InputError("the frames of a video differ in size", found=image.shape[:2], expected=size)
                even = np.pad(image, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), constant_values=255)
                encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
                encoded.pts = count
                out.mux(stream.encode(encoded.reformat(format="yuv420p")))
                count += 1
                if sound is not None:
                    sound.write_until(count / rate)
            if stream is None:
                raise InputError("a video needs at least one frame", path=path)
            out.mux(stream.encode())
            if sound is not None:
                sound.finish()
        temporary.replace(path)
    except (av.error.FFmpegError, OSError) as error:
        raise output_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return count


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
