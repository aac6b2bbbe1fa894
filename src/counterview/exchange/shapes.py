"""Masks from the shapes of annotation tools: polygons, boxes, ellipses, and masks of a part of the image.

Coordinates come from files: numbers that are not finite, sizes and polygons beyond any image are refused before
anything is allocated for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.errors import MaskError, shown
from counterview.masks.rle import MAX_PIXELS, MAX_SIDE, from_coco
from counterview.types import BoolImage, ObjectMask

MAX_VERTICES = 200_000
"""Vertices of one polygon at most."""
MAX_PERIMETER_PX = 2_000_000
"""Length of the outline of one polygon at most, in pixels: what filling it takes grows with it."""


def check_size(height: Any, width: Any) -> tuple[int, int]:
    """Height and width of an image out of a file, in pixels.

    Raises:
        MaskError: not positive integers, or larger than an image may be.
    """
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise MaskError("a size is not of positive integers", found=shown([height, width], 60))
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise MaskError(
            "a size is too large", found=shown([height, width], 60),
            expected=f"at most {MAX_PIXELS} pixels, and {MAX_SIDE} a side",
        )  # fmt: skip
    return height, width


def numbers(values: Any, count: int | None = None, what: str = "coordinates") -> NDArray[np.float64]:
    """Finite numbers out of a file, ``(N,)`` float64.

    Args:
        values: a list or tuple of numbers.
        count: how many they have to be; any number of them if ``None``.
        what: they are, for the message.

    Raises:
        MaskError: another type, number, or a value that is not a finite number.
    """
    if not isinstance(values, (list, tuple)) or (count is not None and len(values) != count):
        raise MaskError(
            f"{what} are malformed",
            found=shown(values, 60),
            expected=f"{'a list of' if count is None else count} numbers",
        )
    if len(values) > 2 * MAX_VERTICES:
        raise MaskError(f"too many {what}", found=len(values), expected=f"at most {2 * MAX_VERTICES}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12:
            raise MaskError(f"{what} hold a value that is not a finite number", found=shown(value, 60))
    return np.array(values, dtype=np.float64)


def vertices(values: Any) -> NDArray[np.float64]:
    """The vertices of a polygon, ``(N, 2)`` float64 of ``x, y`` with N >= 3.

    Args:
        values: ``[x1, y1, x2, y2, …]``, or ``[[x1, y1], …]``.

    Raises:
        MaskError: fewer than three vertices, or malformed ones.
    """
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], (list, tuple)):
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in values):
            raise MaskError("the vertices of a polygon are not pairs of x and y", found=shown(values, 60))
        values = [value for pair in values for value in pair]
    flat = numbers(values, what="the vertices of a polygon")
    if flat.size % 2 or flat.size < 6:
        raise MaskError("a polygon has fewer than three vertices, or half of one", found=f"{flat.size} numbers")
    return flat.reshape(-1, 2)


def _inside(points_xy: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Vertices ``(N, 2)`` moved to the nearest place in the image: tools let them lie a little outside."""
    clipped = np.clip(points_xy, 0.0, (size_hw[1], size_hw[0]))
    perimeter = float(np.abs(np.diff(clipped, axis=0, append=clipped[:1])).sum())
    if perimeter > MAX_PERIMETER_PX:
        raise MaskError(
            "a polygon is too long", found=f"{perimeter:.0f} pixels around", expected=f"at most {MAX_PERIMETER_PX}"
        )
    return clipped


def polygon_mask(points_xy: NDArray[np.float64], size_hw: tuple[int, int]) -> ObjectMask:
    """The mask ``(H, W)`` of a polygon, filled as COCO's own tools fill it.

    Args:
        points_xy: ``(N, 2)`` vertices in pixels; the first pixel reaches from 0 to 1. Those outside the image are
            moved to its edge.
        size_hw: height and width of the image in pixels.

    Raises:
        MaskError: a polygon that is too long.
    """
    from pycocotools import mask as coco

    height, width = size_hw
    (encoded,) = coco.frPyObjects([_inside(points_xy, size_hw).ravel().tolist()], height, width)
    return from_coco({"size": [height, width], "counts": encoded["counts"]})


def drawn_polygon(points_xy: NDArray[np.float64], size_hw: tuple[int, int]) -> ObjectMask:
    """The mask ``(H, W)`` of a polygon, filled as Pillow fills it, its outline included: so does LabelMe.

    Arguments and errors as for :func:`polygon_mask`.
    """
    from PIL import Image, ImageDraw

    points = _inside(points_xy, size_hw)
    (x0, y0), (x1, y1) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int) + 1
    canvas = Image.new("1", (int(x1 - x0), int(y1 - y0)))
    ImageDraw.Draw(canvas).polygon([(float(x - x0), float(y - y0)) for x, y in points], fill=1, outline=1)
    return place_mask(np.asarray(canvas, dtype=bool), (int(x0), int(y0)), size_hw)


def outlined_pixels(points_xy: NDArray[np.integer], size_hw: tuple[int, int]) -> ObjectMask:
    """The mask ``(H, W)`` whose outline runs through the middle of pixels, as of ``ObjectMask.to_polygons``.

    Args:
        points_xy: ``(N, 2)`` pixels ``x, y``.
        size_hw: height and width of the image in pixels.

    Raises:
        MaskError: a polygon that is too long.
    """
    import cv2

    height, width = size_hw
    points = np.minimum(_inside(points_xy.astype(np.float64), size_hw), (width - 1, height - 1)).astype(np.int32)
    corner = points.min(0)
    extent = points.max(0) - corner + 1
    canvas = np.zeros((extent[1], extent[0]), dtype=np.uint8)
    cv2.fillPoly(canvas, [points - corner], 1)
    return place_mask(canvas > 0, (int(corner[0]), int(corner[1])), size_hw)


def ellipse_mask(
    center_xy: tuple[float, float], radii_xy: tuple[float, float], size_hw: tuple[int, int], *, degrees: float = 0.0
) -> ObjectMask:
    """The mask ``(H, W)`` of an ellipse, as a polygon of 128 vertices.

    Args:
        center_xy: its centre in pixels.
        radii_xy: half its width and height in pixels, before it is turned.
        size_hw: height and width of the image in pixels.
        degrees: by which it is turned clockwise about its centre.

    Raises:
        MaskError: a polygon that is too long.
    """
    turns = np.linspace(0, 2 * math.pi, 128, endpoint=False)
    offsets = np.stack([radii_xy[0] * np.cos(turns), radii_xy[1] * np.sin(turns)], axis=1)
    return polygon_mask(center_xy + rotated(offsets, degrees), size_hw)


def box_mask(box_xyxy: Sequence[float], size_hw: tuple[int, int]) -> ObjectMask:
    """The mask ``(H, W)`` of the pixels whose centres are in a box.

    Args:
        box_xyxy: left, top, right and bottom edge in pixels, in any order of each two.
        size_hw: height and width of the image in pixels.
    """
    x0, x1 = sorted((float(box_xyxy[0]), float(box_xyxy[2])))
    y0, y1 = sorted((float(box_xyxy[1]), float(box_xyxy[3])))
    height, width = size_hw
    left, right = (min(max(math.ceil(x - 0.5), 0), width) for x in (x0, x1))
    top, bottom = (min(max(math.ceil(y - 0.5), 0), height) for y in (y0, y1))
    if right <= left or bottom <= top:
        return ObjectMask.empty(size_hw)
    columns = np.arange(left, right, dtype=np.int64) * height
    return from_intervals(columns + top, columns + bottom, size_hw)


def rotated(offsets_xy: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """Offsets ``(N, 2)`` from a centre, turned clockwise as it looks on an image, whose y points down."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return offsets_xy @ turn


def place_mask(crop: BoolImage, left_top_xy: tuple[int, int], size_hw: tuple[int, int]) -> ObjectMask:
    """A mask of a part of the image, in the whole; what reaches outside is cut off.

    Args:
        crop: ``(h, w)`` bool.
        left_top_xy: column and row of its first pixel, which may be negative.
        size_hw: height and width of the image in pixels.
    """
    (height, width), (x, y) = size_hw, left_top_xy
    left, top = max(0, -x), max(0, -y)
    crop = crop[top : max(top, height - y), left : max(left, width - x)]
    if crop.size == 0 or not crop.any():
        return ObjectMask.empty(size_hw)
    x, y = x + left, y + top
    framed = np.zeros((crop.shape[1], crop.shape[0] + 2), dtype=np.int8)
    framed[:, 1:-1] = crop.T
    steps = np.diff(framed, axis=1)
    columns, rows = np.nonzero(steps == 1)
    starts = (columns + x) * height + rows + y
    columns, rows = np.nonzero(steps == -1)
    return from_intervals(starts, (columns + x) * height + rows + y, size_hw)


def from_intervals(starts: NDArray[np.int64], ends: NDArray[np.int64], size_hw: tuple[int, int]) -> ObjectMask:
    """The mask of intervals of column-major pixel indices, as :meth:`ObjectMask.intervals` returns them.

    Args:
        starts: ``(K,)`` ascending.
        ends: ``(K,)``, excluded; none is beyond the next start.
        size_hw: height and width of the image in pixels.
    """
    edges = np.stack([starts, ends], axis=1).ravel().astype(np.int64)
    return ObjectMask(size_hw, np.diff(edges, prepend=0, append=size_hw[0] * size_hw[1]))


def union(masks: Sequence[ObjectMask]) -> ObjectMask:
    """The pixels of any of one or more masks ``(H, W)`` of one size, from their run lengths alone."""
    if len(masks) == 1:
        return masks[0]
    starts, ends = (np.concatenate(each) for each in zip(*(mask.intervals() for mask in masks), strict=True))
    if starts.size == 0:
        return masks[0]
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate(([True], starts[1:] > ends[:-1]))
    last = np.concatenate((first[1:], [True]))
    return from_intervals(starts[first], ends[last], masks[0].size_hw)
