"""The nearest neighbour among a target image's proposals: O-MaMa's k-NN row, no training at all.

Matching is the cosine of object descriptors. Visibility comes from a two-way check: the answer is matched
back to the query image, where it should find the query object again.
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

# Constants of the visibility score: a logistic fit on 13 rendered table scenes in both directions, with `classical`
# features and `graph` proposals, half of the time with every proposal that touches the object taken away; rounded.
# On 12 further scenes the unrounded fit orders present before absent with an area under the curve of 0.75. Lift and
# margin do not depend on where a feature's cosines lie, so the order carries over, but these are NOT calibrated
# probabilities.
VISIBILITY_BIAS = -2.4
LIFT_WEIGHT = 3.6
MARGIN_WEIGHT = 0.4
CYCLE_WEIGHT = 1.0
SAME_OBJECT_IOU = 0.3
"""A candidate that overlaps the best one more than this is another outline of it, and no rival."""


@dataclass(frozen=True, eq=False)
class KnnResult:
    """Similarities of Q query objects with N candidates.

    Attributes:
        similarity: ``(Q, N)`` float64, cosine, in ``[-1, 1]``; 0 where a descriptor is all zeros.
        order: ``(Q, k)`` int64, the best candidates, best first; among equals the earlier one.
    """

    similarity: NDArray[np.float64]
    order: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CycleCheck:
    """How well each answer finds its query object again.

    Attributes:
        visibility: ``(Q,)`` float64 in ``[0, 1]``, see :func:`cycle_visibility`.
        returned: ``(Q,)`` int64, the proposal of the query image that is nearest to the answer; -1 where
            the query object itself is.
        consistency: ``(Q,)`` float64, IoU of what was returned with the query mask; 1 for the query itself.
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
        candidates: ``(N, D)``.
        top_k: how many of the best to name; at most N are.

    Raises:
        InputError: other shapes, numbers that are not finite, or ``top_k`` below 1.
        ProposalError: no candidates.
    """
    if top_k < 1:
        raise InputError("at least one candidate must be asked for", found=top_k)
    left, right = _unit(query, "query descriptors"), _unit(candidates, "candidate descriptors")
    if len(right) == 0:
        raise ProposalError("there are no candidates to match with")
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

    - *lift* ``(b - m) / (1 - m)``: how far the best stands above an ordinary candidate;
    - *margin* ``(b - r) / (1 - m)``, ``r`` the best candidate that overlaps the answer by an IoU of at most
      :data:`SAME_OBJECT_IOU` (with no such rival, ``r = m``);
    - *consistency*: the answer's nearest among the query image's proposals and the query object itself,
      as IoU with the query mask;
    - visibility = ``sigmoid(bias + a * lift + b * margin + c * consistency)`` with the constants of this module.

    Args:
        result: what :func:`match_descriptors` gave for ``query`` and ``candidates``.
        query: ``(Q, D)`` descriptors of the query objects.
        query_masks: their Q masks.
        query_proposals: ``(P, D)`` descriptors of the query image's proposals; P may be 0.
        query_proposal_masks: their P masks.
        candidates: ``(N, D)`` descriptors of the target's proposals.
        candidate_masks: their N masks.

    Raises:
        InputError: numbers of masks and descriptors that differ.
    """
    own, back, there = _unit(query, "query"), _unit(query_proposals, "query proposals"), _unit(candidates, "candidates")
    sizes = [(len(own), len(query_masks)), (len(back), len(query_proposal_masks)), (len(there), len(candidate_masks))]
    if any(a != b for a, b in sizes) or result.similarity.shape != (len(own), len(there)):
        raise InputError("descriptors and masks differ in number", found=sizes)
    count = len(own)
    best = result.order[:, 0] if count else np.zeros(0, dtype=np.int64)
    answers = there[best]
    to_self = np.einsum("qd,qd->q", answers, own)
    returned = np.full(count, -1, dtype=np.int64)
    consistency = np.ones(count)
    if len(back):
        to_back = answers @ back.T
        nearest = to_back.argmax(axis=1)
        away = to_back[np.arange(count), nearest] > to_self
        returned[away] = nearest[away]
        for q in np.flatnonzero(away):
            consistency[q] = iou(query_proposal_masks[int(returned[q])], query_masks[int(q)])
    median = np.median(result.similarity, axis=1)
    room = np.maximum(1.0 - median, 1e-6)
    top = result.similarity[np.arange(count), best]
    rival = np.array([_rival(row, candidate_masks) for row in result.similarity]).reshape(count)
    rival = np.where(np.isnan(rival), median, rival)
    lift = np.clip((top - median) / room, 0.0, 1.0)
    margin = np.clip((top - rival) / room, 0.0, 1.0)
    score = VISIBILITY_BIAS + LIFT_WEIGHT * lift + MARGIN_WEIGHT * margin + CYCLE_WEIGHT * consistency
    return CycleCheck(1.0 / (1.0 + np.exp(-score)), returned, consistency, lift, margin)


def _rival(similarity: NDArray[np.float64], masks: Sequence[ObjectMask]) -> float:
    """Similarity of the best candidate that is not another outline of the best one; NaN if there is none."""
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
        raise InputError(f"the {what} are no finite (N, D) numbers", found=f"shape {values.shape}")
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norm > 0, norm, 1.0)
