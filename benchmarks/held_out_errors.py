"""Why answers of :mod:`benchmarks.held_out` are wrong: what a chosen proposal shows, and what visibility ranks."""

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
"""IoU from which a mask is that of an object, and from which it shows some of it."""


def kind(chosen: ObjectMask, name: str, truth: Mapping[str, ObjectMask], possible: float) -> str:
    """What a proposal shows that was chosen for an object which can be seen.

    Args:
        chosen: the proposal.
        name: the object.
        truth: masks of the annotated objects of the target image, the object among them.
        possible: largest IoU of any proposal with the object.
    """
    own = iou(chosen, truth[name])
    if own > GOOD:
        return RIGHT
    if possible <= GOOD:
        return IMPOSSIBLE
    if own > TOUCHED:
        return PART
    others = max((iou(chosen, mask) for other, mask in truth.items() if other != name), default=0.0)
    return OTHER if others > GOOD else OTHER_PART if others > TOUCHED else BACKGROUND


def ranked(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """How well visibility ranks visible objects before absent ones, whatever its threshold.

    Args:
        rows: scored answers with ``gt_visible``, ``confidence`` and ``iou``.

    Returns:
        area under the ROC curve of all visible objects, and of those alone whose answer is right; None where there is
        only one kind.
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
