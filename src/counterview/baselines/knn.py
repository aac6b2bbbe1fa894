"""The nearest neighbour among a target image's proposals: the k-NN row of O-MaMa (ICCV 2025), without training.

Matching is by the cosine of object descriptors. Visibility comes from a cycle check: the best candidate is matched
back to the query image, where the query object should be its nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError, ProposalError
from counterview.masks.geometry import iou
from counterview.types import ObjectMask

# Constants of the visibility score: a logistic fit on 13 rendered tabletop scenes in both directions, with `classical`
# features and `graph` proposals, half of the time with every proposal that touches the object removed; rounded.
# On 12 further scenes the unrounded fit separates present from absent with an area under the ROC curve of 0.75. Lift
# and margin do not depend on the range of a feature's cosines, so the order carries over, but these are NOT calibrated
# probabilities.
VISIBILITY_BIAS = -2.4
LIFT_WEIGHT = 3.6
MARGIN_WEIGHT = 0.4
CYCLE_WEIGHT = 1.0
SAME_OBJECT_IOU = 0.3
"""A candidate that overlaps the best one more than this is another outline of it, not a rival."""


@dataclass(frozen=True, eq=False)
class KnnResult:
    """Similarities of Q query objects with N candidates.

    Attributes:
        similarity: ``(Q, N)`` float64, cosine, in ``[-1, 1]``; 0 where a descriptor is all zeros.
        order: ``(Q, min(k, N))`` int64, indices of the best candidates, best first; of equal ones the earlier.
    """

    similarity: NDArray[np.float64]
    order: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CycleCheck:
    """Whether each best candidate leads back to its query object.

    Attributes:
        visibility: ``(Q,)`` float64 in ``[0, 1]``, see :func:`cycle_visibility`.
        returned: ``(Q,)`` int64, the proposal of the query image that is nearest to the best candidate; -1 where
            the query object itself is nearest.
        consistency: ``(Q,)`` float64, IoU of the returned mask with the query mask; 1 for the query itself.
        lift: ``(Q,)`` float64 in ``[0, 1]``.
        margin: ``(Q,)`` float64 in ``[0, 1]``.
    """

    visibility: NDArray[np.float64]
    returned: NDArray[np.int64]
    consistency: NDArray[np.float64]
    lift: NDArray[np.float64]
    margin: NDArray[np.float64]


def match_descriptors(query: Any, candidates: Any, top_k: int = 5) -> KnnResult:
    """Find the nearest candidates of many query objects at once.

    Args:
        query: ``(Q, D)`` descriptors, tensor or array.
        candidates: ``(N, D)`` descriptors.
        top_k: number of best candidates; at most N are returned.

    Returns:
        All ``(Q, N)`` similarities and the ``(Q, min(top_k, N))`` best candidates.

    Raises:
        InputError: other shapes, numbers that are not finite, or ``top_k`` below 1.
        ProposalError: no candidates.

    >>> result = match_descriptors([[1.0, 0.0]], [[0.0, 2.0], [3.0, 4.0], [5.0, 0.0]], top_k=2)
    >>> result.similarity.tolist(), result.order.tolist()
    ([[0.0, 0.6, 1.0]], [[2, 1]])
    """
    if top_k < 1:
        raise InputError("top_k is too small", found=top_k, expected="1 or more")
    left, right = _unit(query, "query descriptors"), _unit(candidates, "candidate descriptors")
    if len(right) == 0:
        raise ProposalError("there are no candidates to match")
    if left.shape[1] != right.shape[1]:
        raise InputError("descriptors differ in length", found=f"{left.shape[1]} and {right.shape[1]}")
    similarity = np.clip(left @ right.T, -1.0, 1.0)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :top_k]
    return KnnResult(similarity, order)


def cycle_visibility(
    result: KnnResult,
    query: Any,
    query_masks: Sequence[ObjectMask],
    query_proposals: Any,
    query_proposal_masks: Sequence[ObjectMask],
    candidates: Any,
    candidate_masks: Sequence[ObjectMask],
) -> CycleCheck:
    """A first visibility score: how distinct each best candidate is, and whether it leads back to its query.

    With ``s`` the similarities of one query object, ``m`` their median and ``b`` the best:

    - *lift* ``(b - m) / (1 - m)``: how far the best is above an ordinary candidate;
    - *margin* ``(b - r) / (1 - m)``, ``r`` the best candidate whose IoU with the best one is at most
      :data:`SAME_OBJECT_IOU` (without such a rival, ``r = m``);
    - *consistency*: IoU with the query mask of the best candidate's nearest neighbour among the query object (IoU 1)
      and the query image's proposals;
    - visibility = ``sigmoid(bias + a * lift + b * margin + c * consistency)`` with the constants of this module.

    Args:
        result: of :func:`match_descriptors` for ``query`` and ``candidates``.
        query: ``(Q, D)`` descriptors of the query objects.
        query_masks: their Q masks.
        query_proposals: ``(P, D)`` descriptors of the query image's proposals; P may be 0.
        query_proposal_masks: their P masks.
        candidates: ``(N, D)`` descriptors of the target's proposals.
        candidate_masks: their N masks.

    Raises:
        InputError: numbers of masks and descriptors that differ.
    """
    objects, proposals = _unit(query, "query descriptors"), _unit(query_proposals, "query proposals' descriptors")
    targets = _unit(candidates, "candidate descriptors")
    sizes = [
        (len(objects), len(query_masks)),
        (len(proposals), len(query_proposal_masks)),
        (len(targets), len(candidate_masks)),
    ]
    if any(a != b for a, b in sizes) or result.similarity.shape != (len(objects), len(targets)):
        raise InputError("descriptors and masks differ in number", found=sizes)
    count = len(objects)
    best = result.order[:, 0] if count else np.zeros(0, dtype=np.int64)
    matched = targets[best]
    to_self = np.einsum("qd,qd->q", matched, objects)
    returned = np.full(count, -1, dtype=np.int64)
    consistency = np.ones(count)
    if len(proposals):
        to_proposals = matched @ proposals.T
        nearest = to_proposals.argmax(axis=1)
        away = to_proposals[np.arange(count), nearest] > to_self
        returned[away] = nearest[away]
        for q in np.flatnonzero(away):
            consistency[q] = iou(query_proposal_masks[int(returned[q])], query_masks[int(q)])
    median = np.median(result.similarity, axis=1)
    scale = np.maximum(1.0 - median, 1e-6)
    top = result.similarity[np.arange(count), best]
    rival = np.array([_rival(row, candidate_masks) for row in result.similarity]).reshape(count)
    rival = np.where(np.isnan(rival), median, rival)
    lift = np.clip((top - median) / scale, 0.0, 1.0)
    margin = np.clip((top - rival) / scale, 0.0, 1.0)
    score = VISIBILITY_BIAS + LIFT_WEIGHT * lift + MARGIN_WEIGHT * margin + CYCLE_WEIGHT * consistency
    return CycleCheck(1.0 / (1.0 + np.exp(-score)), returned, consistency, lift, margin)


def _rival(similarity: NDArray[np.float64], masks: Sequence[ObjectMask]) -> float:
    """Similarity of the best candidate that is not another outline of the best one; NaN without such a rival."""
    order = np.argsort(-similarity, kind="stable")
    best = masks[int(order[0])]
    for index in order[1:]:
        if iou(best, masks[int(index)]) <= SAME_OBJECT_IOU:
            return float(similarity[index])
    return float("nan")


def _unit(descriptors: Any, what: str) -> NDArray[np.float64]:
    """``(N, D)`` float64 of unit length; a row of zeros stays as it is."""
    if hasattr(descriptors, "detach"):
        descriptors = descriptors.detach().cpu().double().numpy()
    values = np.asarray(descriptors, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(f"the {what} are not finite (N, D) numbers", found=f"shape {values.shape}")
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norm > 0, norm, 1.0)
