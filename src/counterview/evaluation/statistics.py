"""Confidence intervals of scores and of differences between two systems: bootstrap over takes.

Frames of one take are correlated, so takes are resampled and not frames. Each resample draws as many takes as there
are, with replacement, and averages over their object-frames as the protocol does.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from counterview.errors import InputError
from counterview.evaluation.scorer import MEASURES, Protocol, frame_groups, get_protocol, totals
from counterview.evaluation.table import KEY, FrameTable

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: lower end; NaN with fewer than two takes.
        high: upper end; likewise.
        level: confidence level, such as 0.95.
    """

    low: float
    high: float
    level: float = LEVEL


@dataclass(frozen=True)
class Difference:
    """Second system minus first, on the frames that both were scored on.

    Attributes:
        value: the difference of the two scores.
        interval: of the difference, with the same takes drawn for both systems.
        p_value: two-sided: twice the smaller of the fractions of draws at or below zero and at or above it, at least
            ``1 / (draws + 1)``.
    """

    value: float
    interval: Interval
    p_value: float


def intervals(
    table: FrameTable,
    protocol: str | Protocol = "official",
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of each measure in :data:`counterview.evaluation.scorer.MEASURES`.

    Args:
        table: rows of at least two takes; of one take all intervals are NaN.
        protocol: how rows are averaged.
        resamples: number of draws.
        level: confidence level.
        seed: of the draws; equal seeds give equal intervals.

    >>> from counterview.evaluation.table import FrameScore
    >>> table = FrameTable()
    >>> for take, iou in (("a", 0.2), ("b", 0.4), ("c", 0.9)):
    ...     table.append(FrameScore(take, "cup", "aria01", "cam01", 0, True, True, 0.9, iou=iou))
    >>> interval = intervals(table, seed=0)["iou"]
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.2, 0.9)
    """
    rules = get_protocol(protocol)
    result = {}
    for measure in MEASURES:
        draws = _draws([_by_take(table, measure, rules)], measure, resamples, seed)
        result[measure] = _interval(draws, level)
    return result


def differences(
    first: FrameTable,
    second: FrameTable,
    protocol: str | Protocol = "official",
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[dict[str, Difference], int]:
    """Compare two systems on the frames that both have.

    Args:
        first: rows of one system.
        second: rows of the other.
        protocol: how rows are averaged.
        resamples: number of draws.
        level: confidence level.
        seed: of the draws.

    Returns:
        A difference, second minus first, for each measure, and the number of common rows.

    Raises:
        InputError: they have no row in common.

    >>> from counterview.evaluation.table import FrameScore
    >>> first, second = FrameTable(), FrameTable()
    >>> for take, iou in (("a", 0.25), ("b", 0.5), ("c", 0.75)):
    ...     first.append(FrameScore(take, "cup", "aria01", "cam01", 0, True, True, 0.9, iou=iou))
    ...     second.append(FrameScore(take, "cup", "aria01", "cam01", 0, True, True, 0.9, iou=iou + 0.125))
    >>> by_measure, frames = differences(first, second)
    >>> by_measure["iou"].value, round(by_measure["iou"].interval.low, 6), frames
    (0.125, 0.125, 3)
    """
    rules = get_protocol(protocol)
    a, b = _common(first, second)
    if not len(a):
        raise InputError("the two predictions have no scored frame in common")
    left, right = totals(a, rules), totals(b, rules)
    result = {}
    for measure in MEASURES:
        pair = [_by_take(a, measure, rules), _by_take(b, measure, rules)]
        draws = _draws(pair, measure, resamples, seed)
        finite = draws[np.isfinite(draws)]
        tail = min((finite <= 0).mean(), (finite >= 0).mean()) if len(finite) else math.nan
        p_value = math.nan if math.isnan(tail) else min(1.0, max(2 * float(tail), 1 / (len(finite) + 1)))
        value = getattr(right, measure) - getattr(left, measure)
        result[measure] = Difference(value, _interval(draws, level), p_value)
    return result, len(a)


def _common(first: FrameTable, second: FrameTable) -> tuple[FrameTable, FrameTable]:
    """The rows that both tables have, in the same order."""

    def keys(table: FrameTable) -> dict[tuple[object, ...], int]:
        return {key: i for i, key in enumerate(zip(*(table[name].tolist() for name in KEY), strict=True))}

    left, right = keys(first), keys(second)
    shared = [key for key in left if key in right]
    return first.select([left[k] for k in shared]), second.select([right[k] for k in shared])


def _by_take(table: FrameTable, measure: str, rules: Protocol) -> NDArray[np.float64]:
    """``(4, T)``: per take the sum and count of a measure, then zeros.

    For balanced accuracy: hits and count of the visible rows, then of the others.
    """
    takes, index = np.unique(table.codes("take"), return_inverse=True)
    index = index.reshape(-1)

    def add(values: NDArray[np.float64], take: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(take, weights=values, minlength=len(takes)), dtype=np.float64)

    visible = table["gt_visible"]
    zeros = np.zeros(len(takes))
    if measure == "balanced_accuracy":
        hit = (table["pred_visible"] == visible).astype(np.float64)
        return np.stack([
            add(hit * visible, index), add(visible * 1.0, index), add(hit * ~visible, index), add(~visible * 1.0, index)
        ])  # fmt: skip
    values, index = table[measure][visible], index[visible]
    if rules.frame_average and len(values):
        _, first, group, count = np.unique(
            frame_groups(table)[visible], return_index=True, return_inverse=True, return_counts=True
        )
        values = np.bincount(group.reshape(-1), weights=values) / count
        index = index[first]
    return np.stack([add(values, index), add(np.ones(len(values)), index), zeros, zeros])


def _score(sums: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The measure of a draw from the sums of its takes: the mean of the ratios that have a denominator."""
    total = sums.sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.stack([total[0] / total[1], total[2] / total[3]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw without rows of either class is NaN
        return np.nanmean(ratios, axis=0)


def _draws(systems: list[NDArray[np.float64]], measure: str, resamples: int, seed: int) -> NDArray[np.float64]:
    """``(resamples,)`` scores of draws of takes; for two systems the differences, second minus first."""
    if systems[0].shape[1] < 2:
        return np.full(1, math.nan)

    def statistic(*columns: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        scores = [_score(np.stack(columns[i : i + 4]), axis) for i in range(0, len(columns), 4)]
        return scores[0] if len(scores) == 1 else scores[1] - scores[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of constant or undefined draws; both are handled here
        result = bootstrap(
            tuple(row for system in systems for row in system),
            statistic,
            n_resamples=resamples,
            paired=True,
            vectorized=True,
            axis=-1,
            method="percentile",
            batch=256,
            random_state=np.random.default_rng([seed, MEASURES.index(measure)]),
        )
    return np.asarray(result.bootstrap_distribution)


def _interval(draws: NDArray[np.float64], level: float) -> Interval:
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Interval(math.nan, math.nan, level)
    tail = (1 - level) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return Interval(float(low), float(high), level)
