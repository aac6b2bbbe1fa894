"""The candidates of a training example: the positive and its negatives (paper: Hard Negative Adjacent Mining)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError

Mining = Literal["adjacent", "random", "released"]
"""``adjacent``: neighbours of the positive first, then others at random; ``random``: all at random (the paper's row
without adjacent negatives); ``released``: as the released code draws, the best proposal of the object among them."""

TRUTH = -1
"""Stands in a draw for the ground-truth mask itself."""


@dataclass(frozen=True)
class Draw:
    """The candidates of one training example.

    Attributes:
        proposals: ``(M,)`` int64, indices of the image's proposals, or :data:`TRUTH`.
        positive: index of the right one in ``proposals``; 0 where ``visible`` is false.
        visible: whether there is a right one.
    """

    proposals: NDArray[np.int64]
    positive: int
    visible: bool


def best_box(boxes_xywh: NDArray[np.floating], truth_xywh: NDArray[np.floating]) -> int:
    """The proposal that the released code takes for the truth: the one with the highest IoU of boxes.

    Args:
        boxes_xywh: ``(N, 4)`` boxes of the proposals, ``x, y, xmax - xmin, ymax - ymin`` as in the released code.
        truth_xywh: ``(4,)`` box of the object. One of a single pixel or line has no area; the first proposal is
            chosen then, or the first one without area (0/0).

    Returns:
        Its index.

    >>> best_box(np.array([[0, 0, 9, 9], [5, 5, 9, 9]]), np.array([6, 6, 8, 8]))
    1
    """
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    truth = np.asarray(truth_xywh, dtype=np.float64).reshape(4)
    low = np.maximum(boxes[:, :2], truth[:2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:2] + truth[2:])
    intersection = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(boxes[:, 2:], axis=1) + np.prod(truth[2:]) - intersection
    with np.errstate(invalid="ignore", divide="ignore"):
        return int(np.argmax(intersection / union))


def representatives(overlap: NDArray[np.floating], threshold: float = 0.95) -> NDArray[np.int64]:
    """For each of N masks the first one that it duplicates, or itself.

    Args:
        overlap: ``(N, N)`` IoU of the masks with one another.
        threshold: IoU from which two masks count as one.

    Returns:
        ``(N,)`` indices.

    >>> representatives(np.array([[1.0, 0.1, 0.97], [0.1, 1.0, 0.2], [0.97, 0.2, 1.0]])).tolist()
    [0, 1, 0]
    """
    result = np.arange(len(overlap))
    for index in range(len(overlap)):
        if result[index] == index:
            duplicates = np.flatnonzero(overlap[index, index + 1 :] >= threshold) + index + 1
            result[duplicates[result[duplicates] == duplicates]] = index
    return result


def draw_candidates(
    rng: np.random.Generator,
    *,
    neighbours: NDArray[np.bool_],
    overlap: NDArray[np.floating] | None,
    representative: NDArray[np.integer] | None = None,
    best: int | None = None,
    count: int = 32,
    mining: Mining = "adjacent",
    positive: Literal["gt", "proposal"] = "gt",
    overlap_threshold: float = 0.5,
) -> Draw:
    """Draw the candidates of one example.

    With the minings ``adjacent`` and ``random`` no candidate comes twice, only the positive overlaps the truth by
    ``overlap_threshold`` or more, and at most one of several duplicates is drawn. Where the image has too few
    proposals for that, there are fewer candidates.

    Args:
        rng: the only source of randomness.
        neighbours: ``(N, N)`` bool, :func:`counterview.omama.adjacency` of the proposals.
        overlap: ``(N,)`` IoU of each proposal with the ground truth; ``None`` if the object is not visible.
        representative: ``(N,)`` from :func:`representatives`; no duplicates if not given.
        best: index of the proposal that stands for the truth; that of the largest overlap if not given
            (``released``: see :func:`best_box`).
        count: number of candidates, the positive among them.
        mining: see :data:`Mining`.
        positive: the ground-truth mask itself, or the proposal that overlaps it best (the truth where no
            proposal overlaps it at all).
        overlap_threshold: IoU with the truth from which a proposal is not a negative.

    Returns:
        The candidates, the positive at a random place.

    Raises:
        InputError: shapes that do not fit, or a count below 1.

    >>> overlap = np.array([0.9, 0.0, 0.6, 0.1])  # the first shows the object; the third is half right, so never drawn
    >>> everything = ~np.eye(4, dtype=bool)
    >>> draw = draw_candidates(np.random.default_rng(0), neighbours=everything, overlap=overlap, count=3)
    >>> sorted(draw.proposals.tolist()), int(draw.proposals[draw.positive])  # -1: the ground-truth mask itself
    ([-1, 1, 3], -1)
    """
    number = len(neighbours)
    for name, array, shape in (("neighbours", neighbours, (number, number)), ("overlap", overlap, (number,))):
        if array is not None and array.shape != shape:
            raise InputError(f"{name} does not fit the proposals", found=array.shape, expected=shape)
    if count < 1:
        raise InputError("an example has at least one candidate", found=count)
    visible = overlap is not None
    if mining == "released":
        return _released(rng, neighbours, visible, best if best is not None else _argmax(overlap), count)
    representative = np.arange(number) if representative is None else np.asarray(representative)
    if not visible:
        return Draw(_distinct(rng, rng.permutation(number), representative, count), 0, False)
    best = _argmax(overlap) if best is None else best
    use_truth = positive == "gt" or number == 0 or overlap[best] <= 0  # type: ignore[index]
    is_negative = np.asarray(overlap) < overlap_threshold
    if number:
        is_negative &= np.arange(number) != best
        is_negative &= representative != representative[best]
    order = rng.permutation(number)
    if mining == "adjacent" and number:
        is_neighbour = neighbours[best][order]
        order = np.concatenate([order[is_neighbour], order[~is_neighbour]])
    negatives = _distinct(rng, order[is_negative[order]], representative, count - 1)
    place = int(rng.integers(len(negatives) + 1))
    return Draw(np.insert(negatives, place, TRUTH if use_truth else best), place, True)


def _argmax(overlap: NDArray[np.floating] | None) -> int:
    return int(np.argmax(overlap)) if overlap is not None and len(overlap) else 0


def _distinct(
    rng: np.random.Generator, order: NDArray[np.int64], representative: NDArray[np.integer], count: int
) -> NDArray[np.int64]:
    """The first ``count`` of ``order`` that are not duplicates of one another, in random order."""
    first = np.sort(np.unique(representative[order], return_index=True)[1]) if len(order) else np.zeros(0, np.int64)
    return rng.permutation(order[first[:count]]).astype(np.int64)


def _released(rng: np.random.Generator, neighbours: NDArray[np.bool_], visible: bool, best: int, count: int) -> Draw:
    """As the released code draws: neighbours, topped up by any proposals, which may repeat them or be the object's."""
    number = len(neighbours)
    if number == 0:
        return Draw(np.full(1 if visible else 0, TRUTH, dtype=np.int64), 0, visible)
    if not visible:
        return Draw(rng.choice(number, count, replace=number < count).astype(np.int64), 0, False)
    adjacent = np.flatnonzero(neighbours[best])
    adjacent = adjacent[adjacent != best]
    missing = count - 1 - len(adjacent)
    if missing < 0:
        negatives = rng.choice(adjacent, count - 1, replace=False)
    else:
        negatives = np.concatenate([adjacent, rng.choice(number, missing, replace=number < missing)])
    place = int(rng.integers(count))
    return Draw(np.insert(negatives.astype(np.int64), place, TRUTH), place, True)
