"""The sound of a video as samples at one rate, placed by the times of its packets.

All channels are averaged. Memory is 16 kB a second: 58 MB an hour, and at most :data:`MAX_SOUND_S` are read, 346 MB.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from counterview.errors import VideoError
from counterview.guard import library_errors
from counterview.media.video_source import open_container

logger = logging.getLogger(__name__)

RATE = 8000
"""Samples a second: what tells sounds apart lies below 4 kHz, and a sample is an eighth of a millisecond."""

MAX_SOUND_S = 6 * 3600
"""Seconds of sound that are read at most; what comes after is left out, and that is logged."""

MAX_CHANNELS, SOURCE_RATES = 64, (1000, 768_000)
"""Channels, and samples a second, that a sound track may have."""

_GAP_S = 0.02
"""Difference between where a block of sound is and where it should be, in seconds, from which on it is moved there."""

_MAX_FAILURES = 1000
"""Blocks of sound that do not decode, one after the other, before the rest is given up."""


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound track.

    Attributes:
        samples: ``(N,)`` int16, :data:`RATE` a second; silence where there is none.
        start_s: time of the first sample after the first image, in seconds.
    """

    samples: NDArray[np.int16]
    start_s: float

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / RATE


def read_sound(path: str | os.PathLike[str], origin_s: float = 0.0) -> Sound | None:
    """The sound track of a video.

    Args:
        path: the file.
        origin_s: time in the file at which the first image is shown, in seconds.

    Returns:
        the sound; ``None`` if the file has none.

    Raises:
        VideoError: the file cannot be read, or its sound is in a form that is not decoded.
    """
    place = Path(path)
    container = open_container(place)
    with contextlib.closing(container), library_errors(VideoError, "its sound cannot be read", path=place):
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        context = stream.codec_context
        if context is None:
            raise VideoError("its sound is in a format that cannot be decoded", path=place)
        low, high = SOURCE_RATES
        if not (low <= context.sample_rate <= high and 1 <= context.layout.nb_channels <= MAX_CHANNELS):
            raise VideoError(
                "its sound has a form that is not read", path=place,
                found=f"{context.layout.nb_channels} channels at {context.sample_rate}/s",
                expected=f"1 to {MAX_CHANNELS} channels at {low} to {high}/s",
            )  # fmt: skip
        track = _Track(place)
        for frame in _decoded(container, stream):
            if not track.add(frame):
                break
        return track.sound(origin_s)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Blocks of sound, those that are damaged left out."""
    for other in container.streams:
        if other is not stream:
            with contextlib.suppress(AttributeError, ValueError, TypeError):
                other.discard = "all"
    failures = 0
    packets = container.demux(stream)
    while failures < _MAX_FAILURES:
        try:
            packet = next(packets)
            yield from packet.decode()
            failures = 0
        except StopIteration:
            return
        except av.error.FFmpegError:
            failures += 1


class _Track:
    """Collects blocks of sound at their times.

    Args:
        path: the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._samples = path, bytearray()
        self._start: float | None = None
        self._resampler: AudioResampler | None = None
        self._form: tuple[Any, ...] = ()
        self._end = 0.0

    def add(self, frame: Any) -> bool:
        """Take a decoded block; whether there is room for more."""
        time = self._end if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        if not math.isfinite(time) or frame.sample_rate < SOURCE_RATES[0]:
            return True
        if self._start is None:
            self._start = self._end = time
        if time - self._start + frame.samples / frame.sample_rate > MAX_SOUND_S:
            logger.warning("%s: of its sound the first %.0f s are used", self._path, self._end - self._start)
            return False
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form or abs(time - self._end) > _GAP_S:
            self._flush()
            self._form, self._end = form, max(time, self._start)
            self._resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
            self._move_to(time)
        frame.pts = None  # the place is known: the resampler must not correct it once more
        assert self._resampler is not None
        for block in self._resampler.resample(frame):
            self._samples += block.to_ndarray().astype(np.int16).tobytes()
        self._end = time + frame.samples / frame.sample_rate
        return True

    def _flush(self) -> None:
        if self._resampler is not None:
            for block in self._resampler.resample(None):
                self._samples += block.to_ndarray().astype(np.int16).tobytes()
        self._resampler = None

    def _move_to(self, time: float) -> None:
        """Fill with silence up to a time, or drop what was heard after it."""
        wanted = 2 * max(0, round((time - (self._start or 0.0)) * RATE))
        del self._samples[wanted:]
        self._samples += bytes(wanted - len(self._samples))

    def sound(self, origin_s: float) -> Sound | None:
        """What was collected."""
        self._flush()
        if self._start is None or not self._samples:
            return None
        return Sound(np.frombuffer(bytes(self._samples), np.int16), self._start - origin_s)
