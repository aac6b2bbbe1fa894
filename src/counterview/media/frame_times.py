"""Whether the images of a video are shown at a constant rate, and which of them is nearest to a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

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
