"""Sizes, boxes and overlaps of masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from counterview.errors import MaskError
from counterview.types import BoolImage, ObjectMask


def fit_longest_side(size_hw: tuple[int, int], longest_px: int = 480) -> tuple[int, int]:
    """Height and width scaled so that the longer side is ``longest_px``, truncated as the official scorer does.

    The scorer computes ``int(H * r), int(W * r)`` with ``r = 1. / max(H, W) * longest`` in floating point.
    A side never falls below one pixel.

    >>> fit_longest_side((2160, 3840))
    (270, 480)
    """
    height, width = size_hw
    ratio = 1.0 / max(height, width) * longest_px
    return max(1, int(height * ratio)), max(1, int(width * ratio))


def nearest_indices(source: int, target: int) -> NDArray[np.int64]:
    """For nearest-neighbour resizing, the source row of each target row: ``(i * source) // target`` in integers.

    ``floor(i * (source / target))`` in floating point is wrong for some sizes, 1408 to 480 among them.

    Args:
        source: number of rows (or columns) before.
        target: number of rows (or columns) after.

    Returns:
        ``(target,)`` int64, from 0 to ``source - 1``, ascending.

    Raises:
        MaskError: a size below 1.
    """
    if source < 1 or target < 1:
        raise MaskError("a size is at least 1", found=f"{source} to {target}")
    return np.arange(target, dtype=np.int64) * source // target


def resize_nearest(mask: NDArray[np.generic], size_hw: tuple[int, int]) -> NDArray[np.generic]:
    """Resize by nearest neighbour, exactly as the official scorer does.

    Args:
        mask: ``(H, W)`` or ``(H, W, C)``, any dtype.
        size_hw: height and width after, in pixels.

    Returns:
        ``(h, w)`` or ``(h, w, C)``, of the same dtype.

    Raises:
        MaskError: a size below 1.
    """
    rows = nearest_indices(mask.shape[0], int(size_hw[0]))
    columns = nearest_indices(mask.shape[1], int(size_hw[1]))
    return mask[rows[:, None], columns[None, :]]


def resize_mask(mask: ObjectMask, size_hw: tuple[int, int]) -> ObjectMask:
    """:func:`resize_nearest` for an :class:`ObjectMask`, on its run lengths, without decoding them.

    Raises:
        MaskError: a size below 1.

    >>> mask = ObjectMask.from_array([[0, 1], [1, 1]])
    >>> resize_mask(mask, (2, 4)).to_array().astype(int).tolist()
    [[0, 0, 1, 1], [1, 1, 1, 1]]
    """
    height, width = mask.size_hw
    rows, columns = int(size_hw[0]), int(size_hw[1])
    if (height, width) == (rows, columns):
        return mask
    if min(rows, columns) < 1:
        raise MaskError("a size is at least 1", found=f"{rows} x {columns}")

    # Row i of the result is row i * height // rows, so ceil(r * rows / height) of its rows come before row r.
    def rows_before(row: NDArray[np.int64]) -> NDArray[np.int64]:
        return -(-row * rows // height)

    def columns_before(column: NDArray[np.int64]) -> NDArray[np.int64]:
        return -(-column * columns // width)

    starts, ends = mask.intervals()
    if columns <= width:
        edges = np.stack([starts, ends])
        column, row = edges // height, edges % height
        before = columns_before(column)
        kept = columns_before(column + 1) > before
        starts, ends = before * rows + np.where(kept, rows_before(row), 0)
    else:  # columns are repeated: split the runs at the ends of the columns and repeat the pieces
        starts, ends = split_at_columns(starts, ends, height)
        column = starts // height
        before = columns_before(column)
        times = columns_before(column + 1) - before
        low, high = rows_before(starts - column * height), rows_before(ends - column * height)
        first = np.repeat(before - (np.cumsum(times) - times), times) + np.arange(int(times.sum()))
        starts, ends = first * rows + np.repeat(low, times), first * rows + np.repeat(high, times)
        order = np.argsort(starts, kind="stable")
        order = order[starts[order] < ends[order]]
        starts, ends = starts[order], ends[order]
    runs = np.diff(np.stack([starts, ends], axis=1).ravel(), prepend=0, append=rows * columns)
    return ObjectMask((rows, columns), runs)


def split_at_columns(
    starts: NDArray[np.int64], ends: NDArray[np.int64], height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split runs where a column ends.

    Args:
        starts: ``(K,)`` column-major pixel indices of :meth:`ObjectMask.intervals`.
        ends: ``(K,)``, excluded.
        height: pixels per column.

    Returns:
        starts and ends of the pieces, ``(P,)`` each with ``P >= K``, in the same order.
    """
    first, last = starts // height, (ends - 1) // height
    if (first == last).all():
        return starts, ends
    pieces = last - first + 1
    column = np.repeat(first - (np.cumsum(pieces) - pieces), pieces) + np.arange(int(pieces.sum()))
    return (
        np.maximum(np.repeat(starts, pieces), column * height),
        np.minimum(np.repeat(ends, pieces), (column + 1) * height),
    )


ASPECT_TOLERANCE = 0.03
"""Largest relative difference of two aspect ratios that count as the same. 952x532 px, to which O-MaMa resizes images
of 960x540 px, differs by 0.7 %; a turned or cropped image by far more."""


def same_aspect(a_hw: tuple[int, int], b_hw: tuple[int, int]) -> bool:
    """Whether two sizes are those of one image at two resolutions, to :data:`ASPECT_TOLERANCE`.

    Args:
        a_hw: height and width in pixels, at least 1.
        b_hw: likewise.

    >>> same_aspect((540, 960), (532, 952)), same_aspect((540, 960), (960, 540)), same_aspect((10**400, 1), (2, 2))
    (True, False, False)
    """
    # In integers: sizes out of files may be too large for a float.
    left, right = int(a_hw[0]) * int(b_hw[1]), int(a_hw[1]) * int(b_hw[0])
    return 1000 * abs(left - right) <= int(1000 * ASPECT_TOLERANCE) * right


def fit_mask(mask: ObjectMask, size_hw: tuple[int, int]) -> ObjectMask:
    """A mask at the size of its image, which may be smaller than the annotation; a small object never vanishes.

    Args:
        mask: at any size.
        size_hw: height and width of the image in pixels.

    Returns:
        :func:`resize_mask`, or the pixel at the mask's centroid where that would be empty. An empty mask stays empty.

    Raises:
        MaskError: a size below 1.

    >>> mask = ObjectMask.from_array([[0] * 8, [0, 0, 0, 0, 0, 1, 0, 0], [0] * 8, [0] * 8])
    >>> resize_mask(mask, (2, 4)).is_empty
    True
    >>> fit_mask(mask, (2, 4)).to_array().astype(int).tolist()
    [[0, 0, 1, 0], [0, 0, 0, 0]]
    """
    resized = resize_mask(mask, size_hw)
    if mask.centroid_xy is None or not resized.is_empty:
        return resized
    x, y = mask.centroid_xy
    dense = np.zeros(size_hw, dtype=bool)
    dense[int(y * size_hw[0] / mask.size_hw[0]), int(x * size_hw[1] / mask.size_hw[1])] = True
    return ObjectMask.from_array(dense)


def iou(a: ObjectMask | BoolImage, b: ObjectMask | BoolImage) -> float:
    """Intersection over union of two masks of the same size; 1 if both are empty.

    Args:
        a: ``(H, W)`` bool, or run lengths.
        b: likewise.

    Raises:
        MaskError: the sizes differ, or an array is not a mask.

    >>> iou(np.array([[True, True, False]]), np.array([[False, True, True]]))
    0.3333333333333333
    """
    left = a if isinstance(a, ObjectMask) else ObjectMask.from_array(a)
    right = b if isinstance(b, ObjectMask) else ObjectMask.from_array(b)
    inter = intersection(left, right)
    union = left.area + right.area - inter
    return 1.0 if union == 0 else inter / union


def intersection(a: ObjectMask, b: ObjectMask) -> int:
    """Number of pixels in both masks, from the run lengths alone.

    Raises:
        MaskError: the sizes differ.
    """
    if a.size_hw != b.size_hw:
        raise MaskError("masks of different size cannot be compared", found=f"{a.size_hw} and {b.size_hw}")
    if len(a.runs) == 1 or len(b.runs) == 1:  # empty
        return 0
    # The pixels of b before a position grow with it by 1 in its runs and by 0 between them: exact in float64.
    inside = b.runs.copy()
    inside[::2] = 0
    before = np.interp(np.cumsum(a.runs), np.cumsum(b.runs), np.cumsum(inside))
    last = len(before) // 2 * 2
    return int(np.add.reduce(before[1::2] - before[:last:2]))


def box_iou(a_xywh: NDArray[np.floating], b_xywh: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of boxes.

    Args:
        a_xywh: ``(N, 4)`` boxes ``x, y, width, height`` in pixels.
        b_xywh: ``(M, 4)``.

    Returns:
        ``(N, M)`` float64; 0 where both boxes are empty.
    """
    a = np.asarray(a_xywh, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(b_xywh, dtype=np.float64).reshape(1, -1, 4)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=-1)
    union = np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
