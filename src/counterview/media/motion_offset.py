"""An offset from what moves: how much changes from image to image, in two cameras, over time.

Two cameras see the same hands at the same times, so the energies of their frame differences rise and fall together,
whatever the standpoint. A camera that moves itself is put in place first, by the shift of the whole image. That is
coarse, and may be wrong where little moves or movements repeat; the confidence says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.media.frame_source import FrameSource, SourceFrame
from counterview.types import RgbImage

SAMPLES_PER_S = 10.0
"""Images a second at which motion is measured; those of a slower camera are taken as they come."""

MAX_MOTION_S = 600.0
"""Seconds of a camera that are looked at, from its start."""

MIN_COMMON_S = 8.0
"""Seconds that two cameras must have in common, and at least a third of the shorter one."""

_SIZE = (96, 64)  # width and height to which images are scaled down
_TREND_S = 5.0
_APART_S = 0.5
_CHANCE = 4.0  # standard deviations that unrelated series reach at some offset


@dataclass(frozen=True, eq=False)
class Motion:
    """How much moves in a camera over time.

    Attributes:
        energy: ``(N,)`` at :data:`SAMPLES_PER_S` from the first image on: logarithm of the change, less its trend, 1 on
            average; 0 where there is no image.
        is_known: ``(N,)`` whether there is a value.
    """

    energy: NDArray[np.float64]
    is_known: NDArray[np.bool_]


def measure_motion(source: FrameSource) -> Motion:
    """The motion in a camera's images, each of which is read once.

    Args:
        source: the camera.
    """
    duration = min(source.duration_s, MAX_MOTION_S)
    count = max(2, int(duration * SAMPLES_PER_S))
    grid = np.arange(count) / SAMPLES_PER_S
    window = np.asarray(cv2.createHanningWindow(_SIZE, cv2.CV_32F), dtype=np.float32)
    times, values = [], []
    before: tuple[float, NDArray[np.float32]] | None = None
    numbers = {number for time in grid if (number := source.number_at(float(time))) is not None}
    for _, frame in source.read_numbers(numbers):
        if not isinstance(frame, SourceFrame):
            before = None
            continue
        small = _small(frame.image)
        if before is not None and frame.time_s - before[0] < 3 / SAMPLES_PER_S + 1.5 / (source.fps or SAMPLES_PER_S):
            times.append((frame.time_s + before[0]) / 2)
            values.append(_change(before[1], small, window) / (SAMPLES_PER_S * (frame.time_s - before[0])))
        before = (frame.time_s, small)
    if len(times) < 2:
        return Motion(np.zeros(count), np.zeros(count, dtype=bool))
    energy = np.interp(grid, times, np.log(np.asarray(values) + 0.05))
    known = _distance(times, grid) <= 2 / SAMPLES_PER_S + 1 / (source.fps or SAMPLES_PER_S)
    return Motion(_normalised(energy, known), known)


def _distance(times: list[float], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """From each place of the grid to the nearest of ascending times, in seconds."""
    known = np.asarray(times)
    after = np.clip(np.searchsorted(known, grid), 1, len(known) - 1)
    return np.minimum(np.abs(known[after] - grid), np.abs(known[after - 1] - grid))


def _small(image: RgbImage) -> NDArray[np.float32]:
    grey = cv2.cvtColor(cv2.resize(image, _SIZE, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return cv2.GaussianBlur(grey, (0, 0), 1.0).astype(np.float32)


def _change(before: NDArray[np.float32], after: NDArray[np.float32], window: NDArray[np.float32]) -> float:
    """Mean difference of two images ``(H, W)`` in grey values, a shift of the whole taken out where that helps."""
    plain = float(np.abs(after - before).mean())
    # Copies: OpenCV 5 applies the window in place.
    (dx, dy), _ = cv2.phaseCorrelate(before.copy(), after.copy(), window)
    if max(abs(dx), abs(dy)) < 0.2 or abs(dx) > _SIZE[0] / 3 or abs(dy) > _SIZE[1] / 3:
        return plain
    shift = np.array([[1, 0, dx], [0, 1, dy]], dtype=np.float32)
    moved = cv2.warpAffine(before, shift, _SIZE, borderMode=cv2.BORDER_REPLICATE)
    return min(plain, float(np.abs(after - moved).mean()))


def _normalised(energy: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Without its trend over a few seconds, with a standard deviation of 1, and 0 where it is not known."""
    if known.sum() < 2:
        return np.zeros_like(energy)
    size = min(max(3, round(_TREND_S * SAMPLES_PER_S) | 1), len(known))  # of short videos, all of it
    ones = np.convolve(known.astype(float), np.ones(size), mode="same")
    trend = np.convolve(np.where(known, energy, 0.0), np.ones(size), mode="same") / np.maximum(ones, 1)
    rest = np.where(known, energy - trend, 0.0)
    deviation = float(np.sqrt((rest[known] ** 2).mean()))
    return np.clip(rest / deviation, -3, 3) if deviation > 1e-6 else np.zeros_like(energy)


def find_motion_offset(query: Motion, target: Motion) -> tuple[float, float]:
    """Offset of the target's clock in seconds, and how sure it is, in ``[0, 1]``.

    The confidence is the correlation at the best offset, times by how much it exceeds the best one elsewhere, measured
    against chance: what is left of two unrelated series of that length is near 0.

    Args:
        query: motion in the query camera.
        target: motion in the other one.
    """
    q, t = query.energy, target.energy
    common = np.rint(np.correlate(query.is_known.astype(float), target.is_known.astype(float), mode="full"))
    product = np.correlate(q, t, mode="full")
    power = np.correlate(q**2, target.is_known.astype(float), mode="full") * np.correlate(
        query.is_known.astype(float), t**2, mode="full"
    )
    least = max(MIN_COMMON_S * SAMPLES_PER_S, min(query.is_known.sum(), target.is_known.sum()) / 3)
    score = np.where((common >= least) & (power > 0), product / np.sqrt(np.maximum(power, 1e-12)), -np.inf)
    # In standard deviations of unrelated series: a correlation over few values is high more easily, and so is one of
    # series that change slowly.
    strength = np.where(np.isfinite(score), score * np.sqrt(np.maximum(common, 1) / _slowness(q, t)), -np.inf)
    best = int(np.argmax(strength))
    if not np.isfinite(strength[best]) or score[best] <= 0:
        return 0.0, 0.0
    apart = round(_APART_S * SAMPLES_PER_S)
    rest = strength.copy()
    rest[max(0, best - apart) : best + apart + 1] = -np.inf
    rival = float(max(rest.max(initial=0.0), _CHANCE))
    lag = best - (len(t) - 1) + _vertex(strength, best)
    confidence = float(score[best]) * max(0.0, 1 - rival / float(strength[best]))
    return lag / SAMPLES_PER_S, confidence


def _slowness(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """How many values of two series ``(N,)`` count as one, by how alike each is to itself a little later (Bartlett)."""
    total = 1.0
    for lag in range(1, round(_TREND_S * SAMPLES_PER_S)):
        if lag >= min(len(one), len(other)):
            break
        product = 1.0
        for series in (one, other):
            product *= float((series[lag:] * series[:-lag]).sum() / max(1e-12, float((series**2).sum())))
        total += 2 * product
    return max(1.0, total)


def _vertex(values: NDArray[np.float64], at: int) -> float:
    """Where between samples the parabola through a maximum and its neighbours has its top, from -0.5 to 0.5."""
    if not 0 < at < len(values) - 1 or not np.isfinite(values[at - 1 : at + 2]).all():
        return 0.0
    left, middle, right = values[at - 1 : at + 2]
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0
