"""How sure a score is, and whether two systems differ: bootstrap over takes.

Frames of one take resemble each other, so takes are drawn and not frames. Each draw takes as many takes as there
are, with repetition, and averages over their object-frames as the protocol does.
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
        low: lower end, NaN if there are fewer than two takes.
        high: upper end.
        level: probability that it stands for, such as 0.95.
    """

    low: float
    high: float
    level: float = LEVEL


@dataclass(frozen=True)
class Difference:
    """Second system minus first, on the frames that both were scored on.

    Attributes:
        value: the difference of the two scores.
        interval: of the difference, takes drawn for both systems alike.
        p_value: two-sided: twice the smaller share of draws on the other side of zero, at least 1 / (draws + 1).
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
    """Percentile intervals of each measure in :data:`counterview.evaluation.scorer.MEASURES`."""
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
    """Compare two systems on the same frames.

    Returns:
        a difference for each measure, and the number of frames that both have.

    Raises:
        InputError: they have no frame in common.
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
        good = draws[np.isfinite(draws)]
        share = min((good <= 0).mean(), (good >= 0).mean()) if len(good) else math.nan
        p_value = math.nan if math.isnan(share) else min(1.0, max(2 * float(share), 1 / (len(good) + 1)))
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
    """``(4, T)``: sum and number for each take; for balanced accuracy hits and number of each class."""
    takes, place = np.unique(table.codes("take"), return_inverse=True)
    place = place.reshape(-1)

    def add(values: NDArray[np.float64], where: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(where, weights=values, minlength=len(takes)), dtype=np.float64)

    visible = table["gt_visible"]
    zeros = np.zeros(len(takes))
    if measure == "balanced_accuracy":
        hit = (table["pred_visible"] == visible).astype(np.float64)
        return np.stack([
            add(hit * visible, place), add(visible * 1.0, place), add(hit * ~visible, place), add(~visible * 1.0, place)
        ])  # fmt: skip
    values, place = table[measure][visible], place[visible]
    if rules.frame_average and len(values):
        _, first, group, count = np.unique(
            frame_groups(table)[visible], return_index=True, return_inverse=True, return_counts=True
        )
        values = np.bincount(group.reshape(-1), weights=values) / count
        place = place[first]
    return np.stack([add(values, place), add(np.ones(len(values)), place), zeros, zeros])


def _score(sums: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The measure from sums that were added over takes: the mean of the ratios that have a denominator."""
    total = sums.sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.stack([total[0] / total[1], total[2] / total[3]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw without any frame of either class is NaN
        return np.nanmean(ratios, axis=0)


def _draws(systems: list[NDArray[np.float64]], measure: str, resamples: int, seed: int) -> NDArray[np.float64]:
    """``(resamples,)`` scores of drawn takes; the difference second minus first if there are two systems."""
    if systems[0].shape[1] < 2:
        return np.full(1, math.nan)

    def statistic(*columns: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        scores = [_score(np.stack(columns[i : i + 4]), axis) for i in range(0, len(columns), 4)]
        return scores[0] if len(scores) == 1 else scores[1] - scores[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of equal or undefined draws; both are handled here
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
    good = draws[np.isfinite(draws)]
    if not len(good):
        return Interval(math.nan, math.nan, level)
    tail = (1 - level) / 2
    low, high = np.quantile(good, [tail, 1 - tail])
    return Interval(float(low), float(high), level)
