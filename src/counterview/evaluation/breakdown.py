"""Where a system is good and where it is not: scores by object size, scenario, camera, visibility and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterview.evaluation.scorer import Protocol, Totals, get_protocol, totals
from counterview.evaluation.table import FrameTable

SIZE_EDGES = (0.0, 0.001, 0.005, 0.02, 0.1)
"""Lower edges of the size classes, as shares of the image: the first holds what vanished when it was resized."""
TIME_PARTS = 10
KINDS = ("size", "scenario", "camera", "visibility", "frame", "take")


@dataclass(frozen=True)
class Group:
    """Some of the rows.

    Attributes:
        label: what they have in common.
        totals: their scores.
        takes: how many takes they come from.
    """

    label: str
    totals: Totals
    takes: int


def breakdown(table: FrameTable, kind: str, protocol: str | Protocol = "official", direction: str = "") -> list[Group]:
    """Scores of parts of a table.

    Args:
        table: all rows.
        kind: ``size``: pixels of the ground truth as a share of the image, visible objects only;
            ``scenario``: of the take; ``camera``: the exo camera; ``visibility``: truth against prediction;
            ``frame``: ten equal parts of the frame numbers; ``take``.
        protocol: how each part is averaged.
        direction: which of the two cameras is the exo camera.

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"no break-down by {kind!r}")
    rules = get_protocol(protocol)
    labels, order = _labels(table, kind, direction)
    groups = []
    for label in order:
        part = table.select(labels == label)
        if len(part):
            groups.append(Group(label, totals(part, rules), len(np.unique(part.codes("take")))))
    return groups


def _labels(table: FrameTable, kind: str, direction: str) -> tuple[NDArray[np.object_], list[str]]:
    """A label for each row (an empty one leaves it out), and the labels in the order in which they are shown."""
    labels = np.full(len(table), "", dtype=object)
    if kind == "size":
        visible = table["gt_visible"]
        share = table["gt_area_px"][visible] / np.maximum(table["height"][visible] * table["width"][visible], 1)
        # Class 0 holds exactly nothing; class k all over edge k-1 up to and without edge k.
        classes = np.where(share == 0, 0, np.searchsorted(SIZE_EDGES[1:], share, side="right") + 1)
        names = ["vanished", *(_size_name(i) for i in range(1, len(SIZE_EDGES) + 1))]
        labels[visible] = np.array(names, dtype=object)[classes]
        return labels, names
    if kind == "visibility":
        truth, said = table["gt_visible"], table["pred_visible"]
        names = ["visible, found", "visible, denied", "absent, claimed", "absent, denied"]
        labels[:] = np.array(names, dtype=object)[np.where(truth, np.where(said, 0, 1), np.where(said, 2, 3))]
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
        labels[labels == ""] = "(none given)"
    return labels, sorted(set(labels.tolist()))


def _size_name(index: int) -> str:
    low = SIZE_EDGES[index - 1] * 100
    if index == len(SIZE_EDGES):
        return f"{low:g} % and more"
    return f"under {SIZE_EDGES[1] * 100:g} %" if index == 1 else f"{low:g} to {SIZE_EDGES[index] * 100:g} %"
