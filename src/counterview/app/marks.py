"""What a visitor does to an image to show an object, and the mask that it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from counterview.app.canvas import Tool
from counterview.errors import InputError, shown
from counterview.inference.prompts import AnyPrompt, Box, Point, Prompt
from counterview.inference.selection import Selection
from counterview.types import ObjectMask

if TYPE_CHECKING:
    from counterview.inference.prompted import PromptedPredictor

MAX_POINTS = 5000
"""Points of one mark at most; a brush stroke across an image has a few hundred."""

_COUNTS: dict[Tool, tuple[int, int]] = {
    "point": (1, 1), "away": (1, 1), "box": (2, 2), "brush": (1, MAX_POINTS), "erase": (1, MAX_POINTS),
}  # fmt: skip

AGAIN = 0.012
"""A point this near to an earlier one takes that one away, as a fraction of the image's longer side."""


@dataclass(frozen=True)
class Mark:
    """One click, box or brush stroke.

    Attributes:
        tool: what it was made with.
        points: ``x, y`` in pixels of the image: one, the two corners of a box, or along a stroke.
        radius_px: of a brush.
    """

    tool: Tool
    points: tuple[tuple[float, float], ...]
    radius_px: float = 0.0


def read_mark(data: Any, size_hw: tuple[int, int]) -> Mark:
    """A mark as a browser sent it.

    Args:
        data: with ``kind``, ``points`` and ``radius``.
        size_hw: height and width of the image in pixels.

    Raises:
        InputError: of another form, or outside the image.
    """
    given, points, radius = (getattr(data, name, None) for name in ("kind", "points", "radius"))
    tool = next((name for name in _COUNTS if name == given), None)
    height, width = size_hw
    if tool is None or not isinstance(points, list):
        raise InputError("a mark is of an unknown kind", found=shown(given))
    low, high = _COUNTS[tool]
    try:
        pairs = tuple((float(x), float(y)) for x, y in points[: high + 1])
        radius_px = float(radius or 0)
    except (TypeError, ValueError):
        raise InputError("a mark has no points", found=shown(points)) from None
    inside = all(0 <= x < width and 0 <= y < height for x, y in pairs)  # false for NaN
    if not low <= len(pairs) <= high or not inside or not 0 <= radius_px <= max(size_hw):
        raise InputError("a mark is outside the image", found=shown(points), expected=f"within {width} x {height}")
    return Mark(tool, pairs, radius_px)


def with_mark(marks: Sequence[Mark], mark: Mark, size_hw: tuple[int, int]) -> list[Mark]:
    """Marks with a further one; a point on an earlier point takes that one away, and a box replaces an earlier box.

    Args:
        marks: so far.
        mark: the further one.
        size_hw: height and width of the image in pixels.

    >>> first = Mark("point", ((10.0, 10.0),))
    >>> with_mark([first], Mark("point", ((11.0, 10.0),)), (480, 640))
    []
    """
    if mark.tool in ("point", "away"):
        (x, y), reach = mark.points[0], AGAIN * max(size_hw)
        for earlier in reversed(marks):
            is_near = np.hypot(earlier.points[0][0] - x, earlier.points[0][1] - y) <= reach
            if earlier.tool == mark.tool and is_near:
                return [other for other in marks if other is not earlier]
    if mark.tool == "box":
        return [*(other for other in marks if other.tool != "box"), mark]
    return [*marks, mark]


def prompt_of(marks: Sequence[Mark]) -> AnyPrompt | None:
    """The points and the box of marks as a prompt; ``None`` without any of the object.

    Args:
        marks: of one object.
    """
    points = [Point(*mark.points[0]) for mark in marks if mark.tool == "point"]
    background = [Point(*mark.points[0]) for mark in marks if mark.tool == "away"]
    box = next((_box(mark) for mark in reversed(marks) if mark.tool == "box"), None)
    if not points and box is None:
        return None
    return Prompt(points=points, background=background, box=box)


def _box(mark: Mark) -> Box:
    (x1, y1), (x2, y2) = mark.points
    return Box(np.floor(min(x1, x2)), np.floor(min(y1, y2)), np.ceil(max(x1, x2)), np.ceil(max(y1, y2)))


def mask_of(
    marks: Sequence[Mark],
    predictor: PromptedPredictor[Any],
    encoding: Any,
    name: str,
    base: ObjectMask | None = None,
) -> Selection | None:
    """The mask that marks mean: points and a box choose among the image's proposals, brushes change the result.

    Args:
        marks: of one object.
        predictor: the model.
        encoding: of the image.
        name: of the object, for error messages.
        base: the mask ``(H, W)`` that brushes change where no point or box is given; an empty one by default.

    Returns:
        the mask ``(H, W)``, which may be empty after an eraser; ``None`` without a mark of the object.

    Raises:
        InputError: a box that is empty.
        ProposalError: no proposal at a point or in the box.
    """
    prompt = prompt_of(marks)
    strokes = [mark for mark in marks if mark.tool in ("brush", "erase")]
    chosen = None if prompt is None else predictor.select(encoding, prompt, name)
    if not any(mark.tool == "brush" for mark in strokes) and chosen is None and (base is None or not strokes):
        if any(mark.tool in ("away", "erase") for mark in marks):
            raise InputError("nothing is marked yet that could be taken away", fix="Click the object first.")
        return None
    if not strokes:
        return chosen
    start = base if chosen is None else chosen.mask_rle
    dense = np.zeros(encoding.size_hw, dtype=bool) if start is None else start.to_array()
    for stroke in strokes:
        dense[_painted(stroke, encoding.size_hw)] = stroke.tool == "brush"
    return Selection(ObjectMask.from_array(dense), () if chosen is None else chosen.notes)


def _painted(stroke: Mark, size_hw: tuple[int, int]) -> Any:
    """The pixels of a stroke, ``(H, W)`` bool."""
    import cv2

    canvas = np.zeros(size_hw, dtype=np.uint8)
    points = np.array([[int(x), int(y)] for x, y in stroke.points], dtype=np.int32)
    radius = max(1, round(stroke.radius_px))
    cv2.polylines(canvas, [points[:, None]], False, 1, 2 * radius)
    for x, y in (points[0], points[-1]):
        cv2.circle(canvas, (int(x), int(y)), radius, 1, -1)
    return canvas.astype(bool)
