"""Where one sound lies in another: windows of a few seconds, each found by the phase of its spectrum (GCC-PHAT).

The generalized cross-correlation with phase transform (Knapp and Carter, IEEE Trans. ASSP 24(4), 1976) gives each
frequency the same weight, so that hum, echo and different microphones do not move its peak. A window is so short that
a drift of clocks does not blur the peak. First, windows of the shorter sound are looked for in all of the longer one;
a line through the places on which most of them agree is offset and drift; then windows over the whole length are
looked for near that line, with the drift taken out, and the line is fitted to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from counterview.media.sound import RATE, Sound

WINDOW_S = 4.0
"""Length of a window, in seconds; a sixth of the shorter sound if that is less."""

MIN_SOUND_S = 4.0
"""Length that a sound needs at least, in seconds."""

MAX_DRIFT_PPM = 500.0
"""Largest drift that is looked for, in millionths; clocks of cameras differ by less than 100."""

BAND_HZ = (100.0, 3600.0)
"""Frequencies that are used."""

SEARCH_WINDOWS, FIT_WINDOWS, CANDIDATES = 16, 48, 3
"""Windows that are looked for everywhere, windows that are fitted, and places that are kept of each of the former."""

TOLERANCE_S = 0.008
"""Windows agree if their offsets lie within this of a line, in seconds; sound travels 2.7 m meanwhile."""

_REACH_S = 0.5
_MIN_SPREAD_S, _MAX_DRIFT_ERROR_PPM = 8.0, 50.0
_SILENT = 2.0  # root mean square of int16 samples


@dataclass(frozen=True)
class SyncWindow:
    """What one window says.

    Attributes:
        time_s: its middle on the target's clock, in seconds.
        offset_s: the query camera's time less the target's time there, in seconds.
        peak_ratio: height of its peak over that of the highest one elsewhere.
        agrees: whether it lies on the line of the result.
    """

    time_s: float
    offset_s: float
    peak_ratio: float
    agrees: bool


@dataclass(frozen=True)
class OffsetLine:
    """Offset and drift, and what they rest on.

    Attributes:
        offset_s: as of :class:`counterview.media.timeline.Clock`.
        drift_ppm: likewise.
        confidence: the fraction of windows that agree, times how clearly they stand out, in ``[0, 1]``.
        windows: all that were looked at near the line.
    """

    offset_s: float
    drift_ppm: float
    confidence: float
    windows: tuple[SyncWindow, ...]


_NOTHING = OffsetLine(0.0, 0.0, 0.0, ())


def find_offset(query: Sound, target: Sound) -> OffsetLine:
    """Offset and drift between two sounds; a confidence of 0 if nothing agrees.

    Args:
        query: samples of the query camera.
        target: samples of the other one.
    """
    if min(query.duration_s, target.duration_s) < MIN_SOUND_S:
        return _NOTHING
    is_query_short = query.duration_s <= target.duration_s
    short, long = (query, target) if is_query_short else (target, query)
    size = round(RATE * max(1.0, min(WINDOW_S, short.duration_s / 6)))
    starts = _active_windows(short.samples, size, SEARCH_WINDOWS)
    found = _search(short.samples, long.samples, starts, size)
    # The place in the long sound is intercept + place in the short one * slope, in seconds after their first samples.
    line, rival = _consensus(found, size)
    if line is None:
        return _NOTHING
    windows = _fit_windows(short.samples, long.samples, size, line)
    points = np.array([(at, place) for at, place, _ in windows]).reshape(-1, 2)
    ratios = np.array([ratio for *_, ratio in windows])
    agree = np.abs(points[:, 1] - line[0] - points[:, 0] * line[1]) <= TOLERANCE_S
    if agree.sum() < 3:
        return _NOTHING
    intercept, slope, agree = _fit(points, agree)
    if is_query_short:  # the query camera's place as a function of the target's
        intercept, slope = -intercept / slope, 1 / slope
        points = points[:, ::-1]
    times, own = points[:, 1] + query.start_s, points[:, 0] + target.start_s
    offset = query.start_s + intercept - target.start_s * slope
    clarity = 1 - max(1 / max(1.0, float(np.median(ratios[agree]))), rival)
    listed = tuple(
        SyncWindow(float(t), float(q - t), float(r), bool(a))
        for t, q, r, a in zip(own, times, ratios, agree, strict=True)
    )
    return OffsetLine(offset, (slope - 1) * 1e6, float(agree.mean() * clarity), listed)


def _active_windows(samples: NDArray[np.int16], size: int, count: int) -> list[int]:
    """Where windows begin in which most happens, one in each of several parts of a sound."""
    hop = RATE // 50
    energy = np.add.reduceat(samples.astype(np.float64) ** 2, np.arange(0, len(samples) - hop + 1, hop)) / hop
    level = np.log(energy + max(float(np.median(energy)), _SILENT**2))
    rises = np.concatenate([[0.0], np.cumsum(np.maximum(0, np.diff(level)))])
    loud = np.concatenate([[0.0], np.cumsum(energy)])
    edges = np.linspace(0, len(samples), min(count, len(samples) // size) + 1).astype(int)
    starts = []
    for first, last in pairwise(edges):
        places = np.unique(np.append(np.arange(first, last - size, max(1, size // 4)), max(first, last - size)))
        ends = np.minimum((places + size) // hop, len(rises) - 1)
        best = int(np.argmax(rises[ends] - rises[places // hop]))
        if (loud[ends[best]] - loud[places[best] // hop]) * hop / size > _SILENT**2:
            starts.append(int(places[best]))
    return starts


def _spectrum(samples: NDArray[Any], length: int) -> NDArray[np.complex64]:
    """The phases ``(F,)`` within the band."""
    spectrum = scipy.fft.rfft(samples.astype(np.float32), length)
    low, high = (round(hz * length / RATE) for hz in BAND_HZ)
    phases = np.zeros_like(spectrum)
    kept = spectrum[low:high]
    phases[low:high] = kept / np.maximum(np.abs(kept), 1e-3)
    return phases


def _search(
    short: NDArray[np.int16], long: NDArray[np.int16], starts: list[int], size: int
) -> list[list[tuple[float, float, float]]]:
    """For each window its best places: middle in the short and the long sound, in seconds, and height."""
    spectra = [np.conj(_spectrum(short[start : start + size], 2 * size)) for start in starts]
    best: list[list[tuple[float, float]]] = [[] for _ in starts]  # height and place
    for block in range(0, max(1, len(long) - size // 2), size):
        phases = _spectrum(long[block : block + 2 * size], 2 * size)
        if not phases.any():
            continue
        for window, spectrum in enumerate(spectra):
            correlation = scipy.fft.irfft(phases * spectrum, 2 * size)[:size]
            best[window] += [(height, block + lag) for height, lag in _peaks(correlation, CANDIDATES)]
            best[window] = sorted(best[window], reverse=True)[:CANDIDATES]
    half = size / 2
    return [
        [((start + half) / RATE, (place + half) / RATE, height) for height, place in places]
        for start, places in zip(starts, best, strict=True)
    ]


def _peaks(correlation: NDArray[np.floating], count: int) -> list[tuple[float, float]]:
    """Height and place, between samples, of the highest peaks that are 20 ms apart."""
    values, apart, found = correlation.copy(), RATE // 50, []
    for _ in range(count):
        at = int(np.argmax(values))
        if not np.isfinite(values[at]):
            break
        found.append((float(values[at]), _between(correlation, at)))
        values[max(0, at - apart) : at + apart] = -np.inf
    return found


def _between(values: NDArray[np.floating], at: int) -> float:
    """Place of a maximum between samples, by a parabola through three."""
    if not 0 < at < len(values) - 1:
        return float(at)
    left, middle, right = (float(v) for v in values[at - 1 : at + 2])
    bend = left - 2 * middle + right
    return at + (0.5 * (left - right) / bend if bend < 0 else 0.0)


def _consensus(found: list[list[tuple[float, float, float]]], size: int) -> tuple[tuple[float, float] | None, float]:
    """The line on which most windows agree, and how near another line comes to it, in ``[0, 1]``."""
    rows = [(window, *place) for window, places in enumerate(found) for place in places]
    if not rows:
        return None, 1.0
    window, at, place, height = (np.array(column) for column in zip(*rows, strict=True))
    lines: list[tuple[float, float]] = [(float(p - a), 1.0) for a, p in zip(at, place, strict=True)]
    for i in range(len(rows)):
        for j in range(i + 1, len(rows)):
            if at[j] - at[i] > size / RATE:
                slope = (place[j] - place[i]) / (at[j] - at[i])
                if abs(slope - 1) <= MAX_DRIFT_PPM / 1e6:
                    lines.append((float(place[i] - slope * at[i]), float(slope)))
    intercepts, slopes = (np.array(column)[:, None] for column in zip(*lines, strict=True))
    near = np.abs(place - intercepts - slopes * at) <= TOLERANCE_S
    counts = np.zeros(len(lines))
    for number in range(len(found)):  # each window counts once, with its best place
        mine = window == number
        counts += (near[:, mine] * height[mine]).max(axis=1, initial=0.0) / max(
            float(height[mine].max(initial=0)), 1e-9
        )
    best = int(np.argmax(counts))
    if len(set(window[near[best]])) < min(3, len(found)) or len(found) < 2:
        return None, 1.0
    middle = float(np.mean(at))
    away = np.abs((intercepts - intercepts[best] + (slopes - slopes[best]) * middle)[:, 0]) > 3 * TOLERANCE_S
    rival = float(counts[away].max(initial=0.0) / counts[best])
    return _fit(np.stack([at, place], axis=1), near[best])[:2], rival


def _fit(points: NDArray[np.floating], agree: NDArray[np.bool_]) -> tuple[float, float, NDArray[np.bool_]]:
    """A line through the points ``(N, 2)`` that agree, those far off left out; intercept, slope and who agrees."""
    kept = agree.copy()
    for _ in range(5):
        x, y = points[kept].T
        spread = x - x.mean()
        power = float((spread**2).sum())
        shift = y - x
        drift = float((spread * (shift - shift.mean())).sum() / power) if power > 0 else 0.0
        residual = shift - shift.mean() - drift * spread
        error_ppm = 1e6 * np.sqrt((residual**2).sum() / max(1, len(x) - 2) / power) if power > 0 else np.inf
        if np.ptp(x) < _MIN_SPREAD_S or error_ppm > _MAX_DRIFT_ERROR_PPM or abs(drift) * 1e6 > MAX_DRIFT_PPM:
            drift = 0.0
        slope = 1 + drift
        intercept = float(y.mean() - slope * x.mean())
        distance = np.abs(points[:, 1] - intercept - slope * points[:, 0])
        limit = min(TOLERANCE_S, max(0.001, 4 * float(np.median(distance[kept]))))
        again = agree & (distance <= limit)
        if again.sum() < 3 or np.array_equal(again, kept):
            break
        kept = again
    return intercept, slope, kept


def _fit_windows(
    short: NDArray[np.int16], long: NDArray[np.int16], size: int, line: tuple[float, float]
) -> list[tuple[float, float, float]]:
    """Windows over the common length, looked for near a line: middles in seconds, and ratio of peaks."""
    intercept, slope = line
    first = max(0, int(np.ceil(-intercept / slope * RATE)))
    last = min(len(short) - size, int(((len(long) / RATE - intercept) / slope) * RATE) - size)
    if last < first:
        return []
    count = min(FIT_WINDOWS, 1 + 2 * (last - first) // size)
    reach, half = round(_REACH_S * RATE), size / 2
    length = scipy.fft.next_fast_len(size + 2 * reach, real=True)
    found = []
    for start in np.linspace(first, last, count).astype(int):
        window = short[start : start + size].astype(np.float32)
        if np.sqrt((window**2).mean()) <= _SILENT:
            continue
        # The samples of the long sound at the times of the short one, from before the window to after it.
        begin = intercept * RATE + slope * (start - reach)
        places = begin + slope * np.arange(size + 2 * reach)
        floor = int(np.floor(begin))
        piece = long[max(0, floor) : max(0, int(places[-1]) + 2)].astype(np.float32)
        around = np.interp(places, max(0, floor) + np.arange(len(piece)), piece, left=0, right=0) if len(piece) else []
        if not np.any(around):
            continue
        phases = _spectrum(np.asarray(around), length) * np.conj(_spectrum(window, length))
        correlation = scipy.fft.irfft(phases, length)[: 2 * reach + 1]
        peaks = _peaks(correlation, 2)
        shift = peaks[0][1] - reach
        ratio = peaks[0][0] / max(peaks[1][0], 1e-9)
        found.append(((start + half) / RATE, intercept + slope * (start + half + shift) / RATE, ratio))
    return found
