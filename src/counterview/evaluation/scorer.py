"""Protocols of scoring, and the accumulator that applies one; validation in training uses it as well.

>>> scorer = Scorer("official")
>>> mask = ObjectMask.from_array(np.ones((540, 960), dtype=bool))
>>> row = scorer.add("take", "cup", "aria01", "cam01", 30, gt=mask, pred=mask, confidence=0.9, resize=True)
>>> round(scorer.totals().iou, 4)
1.0
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError, PredictionError
from counterview.evaluation.metrics import contour_accuracy, location_error, official_iou
from counterview.evaluation.table import FrameScore, FrameTable
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.types import ObjectMask

LONGEST_SIDE_PX = 480
CONFIDENCE_THRESHOLD = 0.5
"""An object is predicted visible if the confidence is above this; at exactly one half it is not."""

OFFICIAL_DIAGONAL_PX = math.hypot(480, 480)


@dataclass(frozen=True)
class Protocol:
    """Rules of scoring. Numbers of different protocols are not comparable and never share a table.

    Attributes:
        name: as on the command line.
        title: one line.
        official_size: masks are compared at longer side 480; else at the prediction's size.
        own_diagonal: location error is a fraction of the image's diagonal; else of ``hypot(480, 480)``.
        walks: frames that are scored. ``"query"``: those with a query mask that were annotated in the target camera;
            ``"prediction"``: those that were predicted; ``"both"``: those with pixels in both cameras.
        empty_is_absent: a ground truth without a pixel, at the size of scoring, counts as not visible.
        by_mass: location error between centres of mass, without swapped axes for empty masks.
        register: contour accuracy after aligning the centres of mass.
        frame_average: average over the objects of a frame first, then over frames; else over all at once.
    """

    name: str
    title: str
    official_size: bool = True
    own_diagonal: bool = False
    walks: Literal["query", "prediction", "both"] = "query"
    empty_is_absent: bool = False
    by_mass: bool = False
    register: bool = False
    frame_average: bool = False


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("official", "Ego-Exo4D benchmark (A): all object-frames weigh the same"),
        Protocol(
            "omama", "O-MaMa's repository: masks at the prediction's size", official_size=False, own_diagonal=True
        ),
        Protocol(
            "lmeec",
            "LM-EEC's script (C): only what was predicted counts",
            official_size=False,
            walks="prediction",
            empty_is_absent=True,
        ),
        Protocol("macro", "frame-level macro average (B): objects of a frame first, then frames", frame_average=True),
        Protocol("visible", "only frames visible in both views (D)", walks="both"),
        Protocol(
            "corrected",
            "benchmark (A) with mass centres, registered contours and each image's own diagonal",
            own_diagonal=True,
            by_mass=True,
            register=True,
        ),
    )
}


def get_protocol(name: str | Protocol) -> Protocol:
    """The protocol of that name.

    Raises:
        InputError: no such protocol.
    """
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise InputError(f"no such protocol: {name!r}", expected=" or ".join(PROTOCOLS))
    return PROTOCOLS[name]


@dataclass(frozen=True)
class Totals:
    """Means over the rows of a table. A measure without rows to average is NaN.

    Attributes:
        iou: mean over the visible object-frames.
        location_error: likewise; smaller is better.
        contour_accuracy: likewise.
        balanced_accuracy: mean of the recalls of "visible" and "not visible"; of one class if only one occurs.
        frames: number of object-frames that were scored.
        visible: of these, with a visible object.
        absent: of these, without.
        missing: of these, without a prediction, counted as "not visible, empty mask".
    """

    iou: float
    location_error: float
    contour_accuracy: float
    balanced_accuracy: float
    frames: int
    visible: int
    absent: int
    missing: int

    def to_json(self) -> dict[str, object]:
        """Ready for JSON; NaN becomes ``null``."""
        scores = {name: getattr(self, name) for name in MEASURES}
        counts = {name: getattr(self, name) for name in ("frames", "visible", "absent", "missing")}
        return {**{k: None if math.isnan(v) else v for k, v in scores.items()}, "counts": counts}


MEASURES = ("iou", "location_error", "contour_accuracy", "balanced_accuracy")


def scored_size(gt_size_hw: tuple[int, int], protocol: str | Protocol = "official") -> tuple[int, int] | None:
    """``(H, W)`` that predictions must have for an image of that size, in pixels; ``None`` if any size is accepted."""
    return fit_longest_side(gt_size_hw, LONGEST_SIDE_PX) if get_protocol(protocol).official_size else None


def score_frame(protocol: Protocol, gt: ObjectMask | None, pred: ObjectMask | None) -> dict[str, float | int] | None:
    """Compare one pair of masks.

    Args:
        protocol: the rules.
        gt: ground truth at its native size; ``None`` if the object is not visible.
        pred: the prediction; ``None`` counts as an empty mask.

    Returns:
        values for the columns of :class:`FrameScore`, or ``None`` if the object counts as not visible.

    Raises:
        PredictionError: the prediction's size is not the one that the protocol asks for.
    """
    if gt is None:
        return None
    size = fit_longest_side(gt.size_hw, LONGEST_SIDE_PX)
    if not protocol.official_size and pred is not None:
        size = pred.size_hw
    if pred is None:
        pred = ObjectMask.empty(size)
    if pred.size_hw != size:
        raise PredictionError(
            "the predicted mask has the wrong size",
            found=f"{pred.size_hw[0]} x {pred.size_hw[1]}",
            expected=f"{size[0]} x {size[1]} (height x width)",
            fix="Resize with `counterview submit`, or score at its own size with --protocol omama.",
        )
    gt = resize_mask(gt, size)
    if protocol.empty_is_absent and gt.is_empty:
        return None
    diagonal = math.hypot(*size) if protocol.own_diagonal else OFFICIAL_DIAGONAL_PX
    values: dict[str, float | int] = {
        "iou": official_iou(gt, pred),
        "contour_accuracy": contour_accuracy(gt, pred, register=protocol.register),
        "location_error": location_error(gt, pred, diagonal_px=diagonal, by_mass=protocol.by_mass),
        "gt_area_px": gt.area,
        "pred_area_px": pred.area,
        "height": size[0],
        "width": size[1],
    }
    if protocol.register:
        values["contour_accuracy_unregistered"] = contour_accuracy(gt, pred)
    return values


class Scorer:
    """Scores predictions one at a time and keeps the scores.

    Args:
        protocol: a name among :data:`PROTOCOLS`, or a protocol.

    Attributes:
        protocol: the rules.
        table: the scores so far, a :class:`FrameTable`.

    Raises:
        InputError: no such protocol.
    """

    def __init__(self, protocol: str | Protocol = "official") -> None:
        self.protocol = get_protocol(protocol)
        self.table = FrameTable()

    def add(
        self,
        take: str,
        object: str,
        query_camera: str,
        target_camera: str,
        frame: int,
        *,
        gt: ObjectMask | None,
        pred: ObjectMask | None,
        confidence: float,
        scenario: str = "",
        resize: bool = False,
        missing: bool = False,
    ) -> FrameScore:
        """Score one object in one frame.

        Args:
            take: uid of the take.
            object: name of the object.
            query_camera: in which the object is given.
            target_camera: in which it is searched.
            frame: frame number.
            gt: its mask in the target camera at native size; ``None`` if it is not visible there.
            pred: the prediction; ``None`` counts as an empty mask. Ignored if ``gt`` is ``None``.
            confidence: predicted probability that the object is visible; above one half counts as visible.
            scenario: of the take, for breakdowns.
            resize: resize the prediction to the size that the protocol requires (nearest neighbour) instead of
                refusing another size.
            missing: record that there was no prediction.

        Returns:
            The row that was added to :attr:`table`.

        Raises:
            PredictionError: the mask has the wrong size, or the confidence is not a finite number.
        """
        if not missing and not math.isfinite(confidence):
            raise PredictionError("the confidence is not a finite number", found=confidence)
        if resize and gt is not None and pred is not None and self.protocol.official_size:
            pred = resize_mask(pred, fit_longest_side(gt.size_hw, LONGEST_SIDE_PX))
        values = score_frame(self.protocol, gt, pred)
        row = FrameScore(
            take,
            object,
            query_camera,
            target_camera,
            frame,
            gt_visible=values is not None,
            pred_visible=not missing and confidence > CONFIDENCE_THRESHOLD,
            confidence=math.nan if missing else float(confidence),
            missing=missing,
            group=scenario,
            **(values or {}),  # type: ignore[arg-type]
        )
        self.table.append(row)
        return row

    def totals(self) -> Totals:
        """Means over the scores so far."""
        return totals(self.table, self.protocol)


def totals(table: FrameTable, protocol: str | Protocol = "official") -> Totals:
    """Means over a table, averaged as the protocol does. Sums are exact, so the order of the rows does not matter."""
    rules = get_protocol(protocol)
    visible = table["gt_visible"]
    means = {}
    for name in ("iou", "location_error", "contour_accuracy"):
        values = table[name][visible]
        means[name] = _mean(_by_frame(table, values, visible) if rules.frame_average else values.tolist())
    return Totals(
        **means,
        balanced_accuracy=balanced_accuracy(visible, table["pred_visible"]),
        frames=len(table),
        visible=int(visible.sum()),
        absent=int((~visible).sum()),
        missing=int(table["missing"].sum()),
    )


def balanced_accuracy(gt_visible: NDArray[np.bool_], pred_visible: NDArray[np.bool_]) -> float:
    """Mean of the recalls of the classes that occur in ``gt_visible``; NaN for N = 0.

    Args:
        gt_visible: ``(N,)`` bool.
        pred_visible: ``(N,)`` bool.

    >>> balanced_accuracy(np.array([True, True, True, False]), np.array([True, True, False, False]))
    0.8333333333333333
    """
    recalls = [
        float((pred_visible == gt_visible)[gt_visible == k].mean()) for k in (False, True) if (gt_visible == k).any()
    ]
    return _mean(recalls)


def frame_groups(table: FrameTable) -> NDArray[np.int64]:
    """``(N,)`` int64, equal for the rows of one frame of one pair of cameras of one take."""
    keys = np.stack([table.codes("take"), table.codes("query_camera"), table.codes("target_camera"), table["frame"]])
    return np.unique(keys, axis=1, return_inverse=True)[1].reshape(-1) if len(table) else np.empty(0, dtype=np.int64)


def _by_frame(table: FrameTable, values: NDArray[np.float64], keep: NDArray[np.bool_]) -> list[float]:
    groups: dict[int, list[float]] = {}
    for group, value in zip(frame_groups(table)[keep].tolist(), values.tolist(), strict=True):
        groups.setdefault(group, []).append(value)
    return [_mean(sorted(members)) for members in groups.values()]


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan
