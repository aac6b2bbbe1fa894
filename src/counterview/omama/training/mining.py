"""Which candidates a training example offers beside the right one (paper: Hard Negative Adjacent Mining)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError

Mining = Literal["adjacent", "random", "released"]
"""``adjacent``: neighbours of the positive first, then others at random; ``random``: others alone (the paper's row
without adjacent negatives); ``released``: as the released code chooses, the positive's own proposal among them."""

TRUTH = -1
"""Stands in a draw for the ground-truth mask itself."""


@dataclass(frozen=True)
class Draw:
    """The candidates of one training example.

    Attributes:
        proposals: ``(M,)`` int64, index among the image's proposals, or :data:`TRUTH`.
        positive: place of the right one in ``proposals``; 0 where ``visible`` is false.
        visible: whether there is a right one.
    """

    proposals: NDArray[np.int64]
    positive: int
    visible: bool


def best_box(boxes_xywh: NDArray[np.floating], truth_xywh: NDArray[np.floating]) -> int:
    """The proposal that the released code takes for the truth: that of the highest IoU of boxes.

    As there, boxes are ``x, y, xmax - xmin, ymax - ymin``; a truth of one pixel or line has no area, so the first
    proposal is chosen, or the first one without area (0/0).
    """
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    truth = np.asarray(truth_xywh, dtype=np.float64).reshape(4)
    low = np.maximum(boxes[:, :2], truth[:2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:2] + truth[2:])
    inter = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(boxes[:, 2:], axis=1) + np.prod(truth[2:]) - inter
    with np.errstate(invalid="ignore", divide="ignore"):
        return int(np.argmax(inter / union))


def representatives(overlap: NDArray[np.floating], threshold: float = 0.95) -> NDArray[np.int64]:
    """For each of N masks the first one that it repeats, itself if none.

    Args:
        overlap: ``(N, N)`` IoU of the masks with one another.
        threshold: IoU from which two masks count as one.
    """
    result = np.arange(len(overlap))
    for index in range(len(overlap)):
        if result[index] == index:
            same = np.flatnonzero(overlap[index, index + 1 :] >= threshold) + index + 1
            result[same[result[same] == same]] = index
    return result


def draw_candidates(
    rng: np.random.Generator,
    *,
    neighbours: NDArray[np.bool_],
    overlap: NDArray[np.floating] | None,
    same: NDArray[np.integer] | None = None,
    best: int | None = None,
    count: int = 32,
    mining: Mining = "adjacent",
    positive: Literal["gt", "proposal"] = "gt",
    overlap_threshold: float = 0.5,
) -> Draw:
    """Draw the candidates of one example.

    In the modes ``adjacent`` and ``random`` no candidate comes twice, none overlaps the truth by
    ``overlap_threshold`` or more except the positive, and of masks that repeat one another one comes at most;
    where the image has too few proposals for that, there are fewer candidates.

    Args:
        rng: the only source of randomness.
        neighbours: ``(N, N)`` bool, :func:`counterview.omama.adjacency` of the proposals.
        overlap: ``(N,)`` IoU of each proposal with the ground truth; ``None`` if the object is not visible.
        same: ``(N,)`` from :func:`representatives`; every proposal for itself if not given.
        best: the proposal that stands for the truth; that of the largest overlap if not given
            (``released``: see :func:`best_box`).
        count: number of candidates, the positive among them.
        mining: see :data:`Mining`.
        positive: the ground-truth mask itself, or the proposal that overlaps it best (the truth where no
            proposal overlaps it at all).
        overlap_threshold: IoU with the truth from which a proposal is no negative.

    Raises:
        InputError: shapes that do not fit, or a count below 1.
    """
    number = len(neighbours)
    for what, array, shape in (("neighbours", neighbours, (number, number)), ("overlap", overlap, (number,))):
        if array is not None and array.shape != shape:
            raise InputError(f"{what} does not fit the proposals", found=array.shape, expected=shape)
    if count < 1:
        raise InputError("an example has at least one candidate", found=count)
    visible = overlap is not None
    if mining == "released":
        return _released(rng, neighbours, visible, best if best is not None else _argmax(overlap), count)
    same = np.arange(number) if same is None else np.asarray(same)
    if not visible:
        return Draw(_distinct(rng, rng.permutation(number), same, count), 0, False)
    best = _argmax(overlap) if best is None else best
    right = TRUTH if positive == "gt" or number == 0 or overlap[best] <= 0 else best  # type: ignore[index]
    allowed = np.asarray(overlap) < overlap_threshold
    if number:
        allowed &= np.arange(number) != best
        allowed &= same != same[best]
    order = rng.permutation(number)
    if mining == "adjacent" and number:
        near = neighbours[best][order]
        order = np.concatenate([order[near], order[~near]])
    negatives = _distinct(rng, order[allowed[order]], same, count - 1)
    place = int(rng.integers(len(negatives) + 1))
    return Draw(np.insert(negatives, place, right), place, True)


def _argmax(overlap: NDArray[np.floating] | None) -> int:
    return int(np.argmax(overlap)) if overlap is not None and len(overlap) else 0


def _distinct(
    rng: np.random.Generator, order: NDArray[np.int64], same: NDArray[np.integer], count: int
) -> NDArray[np.int64]:
    """The first ``count`` of ``order`` that do not repeat one another, in random order."""
    first = np.sort(np.unique(same[order], return_index=True)[1]) if len(order) else np.zeros(0, np.int64)
    return rng.permutation(order[first[:count]]).astype(np.int64)


def _released(rng: np.random.Generator, neighbours: NDArray[np.bool_], visible: bool, best: int, count: int) -> Draw:
    number = len(neighbours)
    if number == 0:
        return Draw(np.full(1 if visible else 0, TRUTH, dtype=np.int64), 0, visible)
    if not visible:
        return Draw(rng.choice(number, count, replace=number < count).astype(np.int64), 0, False)
    near = np.flatnonzero(neighbours[best])
    near = near[near != best]
    wanted = count - 1
    if len(near) > wanted:
        chosen = rng.choice(near, wanted, replace=False)
    else:
        missing = wanted - len(near)
        chosen = np.concatenate([near, rng.choice(number, missing, replace=number < missing)])
    place = int(rng.integers(count))
    return Draw(np.insert(chosen.astype(np.int64), place, TRUTH), place, True)
