"""When the images of a video are shown: at a constant rate, possibly with gaps, or at any times."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterview.errors import VideoError
from counterview.media.mp4 import MAX_SAMPLES

MAX_OFFSET = 0.25
"""Largest distance of an image from the grid of a constant rate, as a fraction of the frame interval. Containers that
round times to milliseconds stay far below it."""


def is_constant(times: ArrayLike, frames_per_unit: Fraction | float) -> bool:
    """Whether images are shown at a constant rate, possibly with gaps: each at a multiple of the frame interval.

    Args:
        times: ``(N,)`` ascending integers, in any unit.
        frames_per_unit: frames of that rate per unit of time.

    >>> is_constant([0, 10, 20, 50], 0.1), is_constant([0, 10, 14, 20], 0.1), is_constant([0, 10, 23, 36], 0.1)
    (True, False, False)
    """
    values = np.asarray(times, dtype=np.int64)
    if len(values) < 2:
        return True
    positions = (values - values[0]).astype(np.float64) * float(frames_per_unit)
    numbers = np.rint(positions)
    return bool((np.diff(numbers) >= 1).all() and np.abs(positions - numbers).max() <= MAX_OFFSET)


def constant_rate(times: Sequence[int], stated: Fraction, time_base: Fraction) -> Fraction | None:
    """The rate at which images are shown, in frames per second; ``None`` if it varies.

    Args:
        times: ascending, in units of the time base.
        stated: the rate that the file states; that of the median interval is tried after it.
        time_base: seconds per unit.

    >>> constant_rate(range(0, 3300, 33), Fraction(30), Fraction(1, 1000))
    Fraction(1000, 33)
    """
    if is_constant(times, stated * time_base):
        return stated
    step = Fraction(float(np.median(np.diff(times))))
    return 1 / (step * time_base) if step > 0 and is_constant(times, 1 / step) else None


def nearest_index(times: Sequence[int], time: Fraction | int) -> int:
    """Index of the time nearest to ``time``, the earlier one of two.

    Args:
        times: ascending, at least one.
        time: in their unit.

    >>> nearest_index([0, 10, 30], 20), nearest_index([0, 10, 30], 21), nearest_index([0, 10, 30], -5)
    (1, 2, 0)
    """
    after = bisect_left(times, time)
    if after == 0:
        return 0
    if after == len(times) or time - times[after - 1] <= times[after] - time:
        return after - 1
    return after


class VariableTimes:
    """The images of a video with a variable frame rate, numbered in the order in which they are shown.

    Args:
        times: of the images, at least two different ones, in units of the time base.
        time_base: seconds per unit.

    Attributes:
        times: ascending, each once.
        fps: frames per second on average.
    """

    def __init__(self, times: Iterable[int], time_base: Fraction) -> None:
        self.times = sorted(set(times))
        self._time_base = time_base
        self._half_interval_s = Fraction(float(np.median(np.diff(self.times)))) * time_base / 2
        self.fps = ((len(self.times) - 1) / ((self.times[-1] - self.times[0]) * time_base)).limit_denominator(1001)

    def number(self, time: int) -> int:
        """Number of the image nearest to a time in units of the time base."""
        return nearest_index(self.times, time)

    def number_at(self, seconds: Fraction | float, within_s: Fraction | float) -> int | None:
        """Number of the image nearest to a time after the first image; ``None`` if none is near.

        Args:
            seconds: the time.
            within_s: the largest distance; half of the median interval if that is larger.
        """
        time = Fraction(seconds) / self._time_base + self.times[0]
        number = nearest_index(self.times, time)
        distance_s = abs(self.times[number] - time) * self._time_base
        return number if distance_s <= max(self._half_interval_s, within_s) else None


_MISSING = -(1 << 63)


@dataclass(frozen=True)
class PacketTimes:
    """The times of a video's packets, in their order in the file, each array ``(N,)``.

    Attributes:
        pts: presentation times, int64.
        dts: decoding times, int64.
        is_key: whether a packet is of a keyframe.
        hidden: whether its image is decoded and not shown, as those that an edit list cuts off.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    hidden: NDArray[np.bool_]

    @property
    def has_pts(self) -> NDArray[np.bool_]:
        """Whether a packet has a presentation time, ``(N,)``."""
        return self.pts != _MISSING

    @property
    def has_dts(self) -> NDArray[np.bool_]:
        """Whether a packet has a decoding time, ``(N,)``."""
        return self.dts != _MISSING

    @property
    def is_incomplete(self) -> bool:
        """Whether a packet has no presentation time, or that of another."""
        return not self.has_pts.all() or len(np.unique(self.pts)) < len(self.pts)


def packet_times(rows: Iterable[tuple[int | None, int | None, bool, bool]]) -> PacketTimes:
    """The times of packets.

    Args:
        rows: presentation time, decoding time, whether a keyframe, and whether hidden, of each packet.

    Raises:
        VideoError: more packets than a video can have.
    """
    limited = islice(rows, MAX_SAMPLES + 1)
    values = np.fromiter(
        (_MISSING if value is None else int(value) for row in limited for value in row), dtype=np.int64
    ).reshape(-1, 4)
    if len(values) > MAX_SAMPLES:
        raise VideoError("has too many images", expected=f"at most {MAX_SAMPLES}")
    return PacketTimes(values[:, 0], values[:, 1], values[:, 2] == 1, values[:, 3] == 1)
