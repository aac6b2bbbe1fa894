"""Errors in :mod:`benchmarks.held_out`: what a wrong proposal shows, and how well visibility separates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from counterview.masks.geometry import iou
from counterview.types import ObjectMask

RIGHT, IMPOSSIBLE, PART, OTHER, OTHER_PART, BACKGROUND = (
    "right",
    "no proposal",
    "part or surplus",
    "another object",
    "part of another",
    "background",
)
KINDS = (RIGHT, IMPOSSIBLE, PART, OTHER, OTHER_PART, BACKGROUND)
GOOD, TOUCHED = 0.5, 0.05
"""A mask shows an object if their IoU is above the first value, and a part of it if above the second."""


def kind(chosen: ObjectMask, name: str, truth: Mapping[str, ObjectMask], possible: float) -> str:
    """What the chosen proposal of a visible object shows.

    Args:
        chosen: the proposal, ``(H, W)``.
        name: the object.
        truth: masks ``(H, W)`` of all annotated objects of the target image, including this one.
        possible: the largest IoU of any proposal with the object.

    Returns:
        one of :data:`KINDS`.
    """
    overlap = iou(chosen, truth[name])
    if overlap > GOOD:
        return RIGHT
    if possible <= GOOD:
        return IMPOSSIBLE
    if overlap > TOUCHED:
        return PART
    others = max((iou(chosen, mask) for other, mask in truth.items() if other != name), default=0.0)
    return OTHER if others > GOOD else OTHER_PART if others > TOUCHED else BACKGROUND


def ranked(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """How well the visibility separates visible from absent objects, for any threshold.

    Args:
        rows: scored predictions with ``gt_visible``, ``confidence`` and, of visible objects, ``iou``.

    Returns:
        area under the ROC curve for all visible objects (``auc``) and for those with the right match
        (``auc_where_right``); ``None`` without visible or without absent objects.
    """
    absent = [r["confidence"] for r in rows if not r["gt_visible"]]
    visible = [r["confidence"] for r in rows if r["gt_visible"]]
    right = [r["confidence"] for r in rows if r["gt_visible"] and r.get("iou", math.nan) > GOOD]
    return {"auc": _auc(visible, absent), "auc_where_right": _auc(right, absent)}


def _auc(above: Sequence[float], below: Sequence[float]) -> float | None:
    from sklearn.metrics import roc_auc_score

    if not above or not below:
        return None
    return float(roc_auc_score([1] * len(above) + [0] * len(below), [*above, *below]))
