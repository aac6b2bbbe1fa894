"""Scores by object size, scenario, camera, visibility and time: where a system is good and where it is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterview.evaluation.scorer import Protocol, Totals, get_protocol, totals
from counterview.evaluation.table import FrameTable

SIZE_EDGES = (0.0, 0.001, 0.005, 0.02, 0.1)
"""Lower edges of the size classes, as fractions of the image; exactly zero is what vanished at the size of scoring."""
TIME_PARTS = 10
KINDS = ("size", "scenario", "camera", "visibility", "frame", "take")


@dataclass(frozen=True)
class Group:
    """Some of the rows.

    Attributes:
        label: what they have in common.
        totals: their scores.
        takes: number of takes they come from.
    """

    label: str
    totals: Totals
    takes: int


def breakdown(table: FrameTable, kind: str, protocol: str | Protocol = "official", direction: str = "") -> list[Group]:
    """Scores of parts of a table.

    Args:
        table: all rows.
        kind: ``size``: pixels of the ground truth as a fraction of the image, visible objects only;
            ``scenario``: of the take; ``camera``: the exo camera; ``visibility``: ground truth against prediction;
            ``frame``: ten equal parts of the frame numbers; ``take``.
        protocol: how each part is averaged.
        direction: ``ego2exo`` or ``exo2ego``, which determines the exo camera.

    Returns:
        The groups that have rows, in the order of display.

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    rules = get_protocol(protocol)
    labels, order = _labels(table, kind, direction)
    groups = []
    for label in order:
        part = table.select(labels == label)
        if len(part):
            groups.append(Group(label, totals(part, rules), len(np.unique(part.codes("take")))))
    return groups


def _labels(table: FrameTable, kind: str, direction: str) -> tuple[NDArray[np.object_], list[str]]:
    """``(N,)`` labels (an empty one leaves the row out), and the different labels in the order of display."""
    labels = np.full(len(table), "", dtype=object)
    if kind == "size":
        visible = table["gt_visible"]
        fraction = table["gt_area_px"][visible] / np.maximum(table["height"][visible] * table["width"][visible], 1)
        # Class 0 is exactly zero; class k is [edge k-1, edge k), and class 1 excludes zero.
        classes = np.where(fraction == 0, 0, np.searchsorted(SIZE_EDGES[1:], fraction, side="right") + 1)
        names = ["vanished", *(_size_name(i) for i in range(1, len(SIZE_EDGES) + 1))]
        labels[visible] = np.array(names, dtype=object)[classes]
        return labels, names
    if kind == "visibility":
        truth, predicted = table["gt_visible"], table["pred_visible"]
        names = [f"{a}, predicted {b}" for a in ("visible", "absent") for b in ("visible", "absent")]
        labels[:] = np.array(names, dtype=object)[2 * ~truth + ~predicted]
        return labels, names
    if kind == "frame":
        frame = table["frame"]
        if not len(frame):
            return labels, []
        width = int(frame.max()) // TIME_PARTS + 1
        part = frame // width
        names = [f"{k * width} to {(k + 1) * width - 1}" for k in range(TIME_PARTS)]
        labels[:] = np.array(names, dtype=object)[part]
        return labels, names
    column = {"scenario": "group", "take": "take"}.get(kind)
    if column is None:
        column = "query_camera" if direction == "exo2ego" else "target_camera"
    labels[:] = table[column]
    if kind == "scenario":
        labels[labels == ""] = "(not stated)"
    return labels, sorted(set(labels.tolist()))


def _size_name(index: int) -> str:
    low = SIZE_EDGES[index - 1] * 100
    if index == len(SIZE_EDGES):
        return f"{low:g} % and more"
    return f"under {SIZE_EDGES[1] * 100:g} %" if index == 1 else f"{low:g} to {SIZE_EDGES[index] * 100:g} %"
