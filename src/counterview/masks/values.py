"""What the values of a mask's pixels mean: one object, one with soft edges, or the labels of several objects.

Files do not say it. What decides is how the values lie: those of a label image fill areas, those of a soft edge lie
in thin bands between the background and the object. What neither explains is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from counterview.errors import MaskError
from counterview.types import BoolImage

VOID = 255
"""The value that DAVIS, PASCAL VOC and Cityscapes give to pixels of no label, in 8 bits."""

MAX_ID = 32
"""Beside labels up to this one, 255 is void; Cityscapes counts to 33, PASCAL VOC to 20."""

_SMALL = 16  # a soft mask has more steps than this
_MANY = 32  # distinct values from which on the tails of a blur are told from labels
_TAIL = 0.05  # of the maximum
_MIN_AREA_PX = 9
_FIX = "Choose one with --label N, or with read_mask(path, label=N)."

Kind = Literal["binary", "soft", "labels"]


@dataclass(frozen=True)
class Values:
    """What the values of an image mean.

    Attributes:
        kind: ``binary`` (one object), ``soft`` (one object, to be thresholded at half of the maximum) or ``labels``.
        labels: values of objects, ascending, without background and void.
        void: whether :data:`VOID` is void.
        threshold: of a soft mask: what is greater is the object.
        note: what was decided and a reader may want to know, or empty.
    """

    kind: Kind
    labels: tuple[float, ...]
    void: bool = False
    threshold: float = 0.0
    note: str = ""


def object_mask(
    values: NDArray[Any], path: str | os.PathLike[str], label: int | None = None, *, ids: bool = False
) -> tuple[BoolImage, str]:
    """The mask of one object of an image, and a note on what was decided, or an empty one.

    Args:
        values: ``(H, W)`` of one band, of any dtype; 0 is background.
        path: for the messages.
        label: the value of the object, where there are several.
        ids: the values are known to be labels.

    Returns:
        ``(H, W)`` bool, and the note.

    Raises:
        MaskError: several objects and no label, no such label, or values that are neither a mask nor labels.
    """
    if label is not None:
        return _labelled(values, path, label), ""
    if values.dtype == np.bool_:
        return values.copy(), ""  # Pillow's own is read-only
    meaning = classify(values, path, ids=ids)
    if meaning.kind == "labels" and len(meaning.labels) > 1:
        raise MaskError(
            "holds several objects", path=path, found=f"labels {listed(meaning.labels)}", expected="one object",
            fix=_FIX,
        )  # fmt: skip
    if meaning.kind == "soft":
        return values > meaning.threshold, meaning.note
    return (values == meaning.labels[0] if meaning.labels else np.zeros(values.shape, dtype=bool)), meaning.note


def _labelled(values: NDArray[Any], path: str | os.PathLike[str], label: int) -> BoolImage:
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or label < 1:
        raise MaskError("a label is an integer of 1 or more", found=label, fix="0 is the background.")
    mask: BoolImage = values == label
    if not mask.any():
        present = distinct(values)[0]
        raise MaskError(f"has no label {label}", path=path, found=f"labels {listed(present[present > 0].tolist())}")
    return mask


def listed(labels: Sequence[float], limit: int = 12) -> str:
    """Labels for a message.

    >>> listed([1, 2, 2.5]), listed([])
    ('1, 2, 2.5', 'none')
    """
    texts = [f"{value:g}" for value in labels[:limit]]
    return ", ".join([*texts, f"… ({len(labels)} in all)"] if len(labels) > limit else texts) or "none"


def distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The values of an image, ascending, and how many pixels have each.

    Args:
        values: ``(H, W)``, of any dtype.
    """
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        counts = np.bincount(values.ravel())
        present = np.flatnonzero(counts)
        return present, counts[present]
    present, counts = np.unique(values, return_counts=True)
    return present, counts


def classify(values: NDArray[Any], path: str | os.PathLike[str], *, ids: bool = False) -> Values:
    """Decide what the values of an image mean.

    Args:
        values: ``(H, W)`` of one band, of any dtype.
        path: for the messages.
        ids: the values are known to be labels, as those of a palette are.

    Raises:
        MaskError: negative or not finite values, or values that are neither a mask nor labels.
    """
    present, counts = distinct(values)
    if present.dtype.kind == "f" and not np.isfinite(present).all():
        raise MaskError("holds values that are not numbers", path=path, expected="white on black")
    if present[0] < 0:
        raise MaskError("holds negative values", path=path, found=f"{present[0]:g}", expected="0 is background")
    areas = dict(zip(present.tolist(), counts.tolist(), strict=True))
    labels = tuple(value for value in areas if value > 0)
    if len(labels) < 2:
        return Values("binary", labels)
    if 0 in areas and labels[-1] == VOID and labels[-2] <= MAX_ID and values.dtype.itemsize == 1:
        rest = labels[:-1]
        if len(rest) > 1 or ids or areas[VOID] <= areas[rest[0]]:
            return Values("labels", rest, void=True, note="the value 255 is taken as void, as in DAVIS")
        return Values("labels", labels)
    if ids or (labels[-1] <= _SMALL and all(v == int(v) for v in labels)) or _fills_areas(values, areas, labels):
        return Values("labels", labels)
    if 0 in areas and len(labels) == 2 and _stands_alone(values, labels[0]):
        return Values("labels", labels)
    top = float(labels[-1])
    near_zero = sum(count for value, count in areas.items() if value <= 0.1 * top)
    near_top = sum(count for value, count in areas.items() if value >= 0.9 * top)
    if near_zero < 0.05 * values.size or values.size - near_zero - near_top > 4 * near_top:
        raise MaskError(
            "is neither a mask nor a label image",
            path=path,
            found=f"{len(areas)} grey values from {present[0]:g} to {top:g}, spread over the image",
            expected="white on black",
            fix="Save the mask with two values.",
        )
    half = top / 2
    steps = f"{len(areas)} grey values"
    return Values(
        "soft", (labels[-1],), threshold=half,
        note=f"the mask has soft edges ({steps}): pixels above half of its maximum, {half:g}, are taken",
    )  # fmt: skip


def _fills_areas(values: NDArray[Any], areas: dict[Any, int], labels: tuple[Any, ...]) -> bool:
    """Whether a value between background and maximum fills areas, so that it is a label and no edge."""
    top = labels[-1]
    if min(values.shape) < 3:
        return False
    middle = values[1:-1, 1:-1]
    flat = (values[1:-1, :-2] == middle) & (values[1:-1, 2:] == middle)
    for rows in (slice(None, -2), slice(2, None)):
        for columns in (slice(None, -2), slice(1, -1), slice(2, None)):
            flat &= values[rows, columns] == middle
    flat &= (middle > 0) & (middle < top)
    if len(labels) >= _MANY:  # the tails of a wide blur, and the noise of JPEG, are flat too
        flat &= (middle > _TAIL * top) & (middle < (1 - _TAIL) * top)
    inside, counts = distinct(middle[flat])
    return any(
        areas[value] >= _MIN_AREA_PX and count >= 0.25 * areas[value] - 1
        for value, count in zip(inside.tolist(), counts.tolist(), strict=True)
    )


def _stands_alone(values: NDArray[Any], low: float) -> bool:
    """Whether a region of the lower of two values touches nothing of the higher one: an object, not an edge."""
    import cv2

    number, regions = cv2.connectedComponents((values > 0).astype(np.uint8), connectivity=8)
    highest = np.zeros(number, dtype=bool)
    highest[np.unique(regions[values > low])] = True
    return bool((~highest[1:]).any() and (np.bincount(regions.ravel())[1:][~highest[1:]] >= _MIN_AREA_PX).any())
