"""Measures of one predicted mask against one ground-truth mask, from run lengths and crops.

They are those of the Ego-Exo4D correspondence benchmark: IoU, contour accuracy (the boundary F-measure of DAVIS) and
location error. None of them decodes more of a mask than its bounding box.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.masks.geometry import intersection, split_at_columns
from counterview.types import ObjectMask

IOU_EPSILON = 1e-7
"""Added to the union by the official evaluator, so that a perfect mask of 100 pixels scores 1 - 1e-9."""

CONTOUR_TOLERANCE = 0.008
"""Distance at which two contours still match, as a fraction of the image's diagonal."""


def official_iou(gt: ObjectMask, pred: ObjectMask) -> float:
    """Intersection over union as the official evaluator computes it; 1 if both masks are empty.

    Args:
        gt: ground truth.
        pred: prediction of the same size.

    Raises:
        MaskError: the sizes differ.

    >>> gt = ObjectMask.from_array(np.array([[True, True, False, False]]))
    >>> pred = ObjectMask.from_array(np.array([[False, True, True, False]]))
    >>> round(official_iou(gt, pred), 4)
    0.3333
    """
    inter = intersection(gt, pred)
    union = gt.area + pred.area - inter
    return 1.0 if union == 0 else inter / (union + IOU_EPSILON)


def box_centre(mask: ObjectMask, *, swap_if_empty: bool = True) -> tuple[int, int]:
    """Centre ``(x, y)`` of the mask's bounding box in integer pixels, ``(min + max) // 2``.

    Args:
        mask: the mask.
        swap_if_empty: give an empty mask the centre ``(H // 2, W // 2)``, x and y swapped, as the official
            evaluator does; else ``(W // 2, H // 2)``.

    >>> box_centre(ObjectMask.from_array(np.array([[False, True, True, True]])))
    (2, 0)
    >>> box_centre(ObjectMask.empty((270, 480)))
    (135, 240)
    """
    if mask.is_empty:
        height, width = mask.size_hw
        return (height // 2, width // 2) if swap_if_empty else (width // 2, height // 2)
    x, y, width, height = mask.box_xywh
    return (2 * x + width - 1) // 2, (2 * y + height - 1) // 2


def mass_centre(mask: ObjectMask) -> tuple[float, float]:
    """Mean pixel position ``(x, y)`` in pixels; the middle of the image for an empty mask.

    >>> mass_centre(ObjectMask.from_array(np.array([[True, False, False, True, True]])))
    (2.3333333333333335, 0.0)
    """
    if mask.is_empty:
        return (mask.size_hw[1] - 1) / 2, (mask.size_hw[0] - 1) / 2
    height = mask.size_hw[0]
    starts, ends = mask.intervals()
    starts, ends = split_at_columns(starts, ends, height)
    first = starts // height
    count = ends - starts
    x = int((first * count).sum()) / mask.area
    y = int(((starts + ends - 1 - 2 * first * height) * count).sum()) / (2 * mask.area)
    return x, y


def location_error(
    gt: ObjectMask, pred: ObjectMask, *, diagonal_px: float, by_mass: bool = False, swap_if_empty: bool = True
) -> float:
    """Distance between the centres of two masks as a fraction of ``diagonal_px``.

    Args:
        gt: ground truth.
        pred: prediction of the same size.
        diagonal_px: divisor of the distance; ``hypot(480, 480)`` for every image in the official evaluator.
        by_mass: centres of mass instead of centres of bounding boxes.
        swap_if_empty: see :func:`box_centre`.

    >>> gt = ObjectMask.from_array(np.array([[True, False, False, False]]))
    >>> pred = ObjectMask.from_array(np.array([[False, False, False, True]]))
    >>> location_error(gt, pred, diagonal_px=10)
    0.3
    """
    if by_mass:
        a, b = mass_centre(gt), mass_centre(pred)
        return math.hypot(a[0] - b[0], a[1] - b[1]) / diagonal_px
    left, right = box_centre(gt, swap_if_empty=swap_if_empty), box_centre(pred, swap_if_empty=swap_if_empty)
    return math.hypot(left[0] - right[0], left[1] - right[1]) / diagonal_px


def contour_radius_px(size_hw: tuple[int, int], tolerance: float = CONTOUR_TOLERANCE) -> int:
    """Distance at which contours still match: ``ceil(tolerance * diagonal)``, 5 at 270x480 and 6 at 480x480."""
    return math.ceil(tolerance * math.hypot(*size_hw))


def contour_accuracy(
    gt: ObjectMask, pred: ObjectMask, *, tolerance: float = CONTOUR_TOLERANCE, register: bool = False
) -> float:
    """Boundary F-measure of DAVIS (Perazzi et al., 2016), which the official evaluator uses as contour accuracy.

    A pixel is on the contour if it differs from its right, lower or lower-right neighbour within the image.

    Args:
        gt: ground truth.
        pred: prediction of the same size.
        tolerance: distance within which contours match, as a fraction of the diagonal.
        register: first shift the prediction by integer pixels so that the centres of mass coincide (rounded half
            up), both masks on an unbounded canvas, as the benchmark's page describes the measure.

    Returns:
        F in ``[0, 1]``: 1 if neither mask has a contour, 0 if only one has.

    >>> array = np.zeros((2, 100, 100), dtype=bool)
    >>> array[0, 20:60, 20:60] = array[1, 20:60, 24:64] = True
    >>> gt, shifted = ObjectMask.from_array(array[0]), ObjectMask.from_array(array[1])
    >>> round(contour_accuracy(gt, shifted), 3)
    0.512
    >>> contour_accuracy(gt, shifted, register=True)
    1.0
    """
    radius = contour_radius_px(gt.size_hw, tolerance)
    if gt == pred:
        return 1.0  # whatever the contour is, both have the same
    a, b = _Contour(gt, closed=register), _Contour(pred, closed=register)
    if a.count == 0 or b.count == 0:
        return 1.0 if a.count == b.count else 0.0
    if register:
        (ax, ay), (bx, by) = mass_centre(gt), mass_centre(pred)
        b.x += math.floor(ax - bx + 0.5)
        b.y += math.floor(ay - by + 0.5)
    matched_b, matched_a = _matched(a, b, radius)
    precision, recall = matched_b / b.count, matched_a / a.count
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


class _Contour:
    """The contour of a mask as ``(w, h)`` uint8 of 0 and 1, columns first, with its upper left corner at x, y."""

    def __init__(self, mask: ObjectMask, *, closed: bool) -> None:
        self.x = self.y = self.count = 0
        self.pixels: NDArray[np.uint8] = np.zeros((0, 0), dtype=np.uint8)
        if mask.is_empty:
            return
        height, width = mask.size_hw
        x, y, w, h = mask.box_xywh
        inside = crop(mask, x, y, w, h)
        # One column and row before the box are on the contour too; beyond the image's last row and column, pixels
        # count as equal (the official code compares only within the image) or as background (closed).
        before_x, before_y = int(closed or x > 0), int(closed or y > 0)
        field = np.zeros((w + before_x + 1, h + before_y + 1), dtype=np.uint8)
        field[before_x : before_x + w, before_y : before_y + h] = inside
        if not closed and x + w == width:
            field[-1] = field[-2]
        if not closed and y + h == height:
            field[:, -1] = field[:, -2]
        here = field[:-1, :-1]
        self.pixels = (here ^ field[1:, :-1]) | (here ^ field[:-1, 1:]) | (here ^ field[1:, 1:])
        self.count = int(np.count_nonzero(self.pixels))
        self.x, self.y = x - before_x, y - before_y

    def window(self, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """The part ``[x0, x1) x [y0, y1)`` as ``(x1 - x0, y1 - y0)`` uint8, zero beyond the box."""
        result = np.zeros((x1 - x0, y1 - y0), dtype=np.uint8)
        w, h = self.pixels.shape
        left, top = max(x0, self.x), max(y0, self.y)
        right, bottom = min(x1, self.x + w), min(y1, self.y + h)
        if left < right and top < bottom:
            result[left - x0 : right - x0, top - y0 : bottom - y0] = self.pixels[
                left - self.x : right - self.x, top - self.y : bottom - self.y
            ]
        return result

    @property
    def box(self) -> tuple[int, int, int, int]:
        w, h = self.pixels.shape
        return self.x, self.y, self.x + w, self.y + h


_DISKS: dict[int, NDArray[np.uint8]] = {}


def _disk(radius: int) -> NDArray[np.uint8]:
    if radius not in _DISKS:
        offset = np.arange(-radius, radius + 1)
        _DISKS[radius] = (offset[:, None] ** 2 + offset[None, :] ** 2 <= radius * radius).astype(np.uint8)
    return _DISKS[radius]


def _matched(a: _Contour, b: _Contour, radius: int) -> tuple[int, int]:
    """Number of pixels of ``b`` within ``radius`` of one of ``a``, and of ``a`` within ``radius`` of one of ``b``."""
    low_x, low_y = max(a.box[0], b.box[0]) - radius, max(a.box[1], b.box[1]) - radius
    high_x, high_y = min(a.box[2], b.box[2]) + radius, min(a.box[3], b.box[3]) + radius
    if low_x >= high_x or low_y >= high_y:
        return 0, 0
    # Both pixels of a match are in both boxes grown by the radius; pixels outside need no check.
    pa, pb = a.window(low_x, low_y, high_x, high_y), b.window(low_x, low_y, high_x, high_y)
    disk = _disk(radius)
    near_a = cv2.dilate(pa, disk, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    near_b = cv2.dilate(pb, disk, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return int(np.count_nonzero(np.logical_and(near_a, pb))), int(np.count_nonzero(np.logical_and(near_b, pa)))


def crop(mask: ObjectMask, x: int, y: int, width: int, height: int) -> NDArray[np.bool_]:
    """Decode a part of a mask as ``(width, height)`` bool, columns first, without decoding other columns.

    Args:
        mask: the mask.
        x: left edge in pixels; the part is within the image.
        y: upper edge.
        width: of the part.
        height: of the part.
    """
    rows = mask.size_hw[0]
    low, high = x * rows, (x + width) * rows
    edges = np.cumsum(mask.runs)
    first, last = np.searchsorted(edges, low, side="right"), np.searchsorted(edges, high, side="left")
    lengths = np.diff(np.concatenate(([low], np.clip(edges[first : last + 1], low, high))))
    values = np.arange(first, last + 1) % 2 == 1
    return np.repeat(values, lengths).reshape(width, rows)[:, y : y + height]
