"""Where an image of a camera that stands still changed since an earlier one.

Both images are reduced, and compared in squares. What light does to the whole image, and what sensors and codecs do to
every square, is no change; nor are single pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.types import BoolImage, RgbImage

REDUCED_PX = 640
"""Longer side of the images that are compared; smaller ones are compared as they are."""
SQUARE_PX = 8
"""Side of a square, in pixels of the reduced images."""
_AVERAGED_PX = 4
"""Differences are averaged over so many pixels, so that noise cancels out."""
_LEAST, _TIMES_NOISE = 8.0, 6.0
"""A square changed if its largest averaged difference is above this many levels (of 255), and above so many times that
of the median pixel."""
_MOST_NOISE = 2.5
"""Levels of the median pixel above which it is no noise any more: the camera moved."""
_LIGHT = 5.0
"""Levels by which the whole image may become lighter or darker."""


def reduced(image: RgbImage) -> RgbImage:
    """An image ``(H, W, 3)`` uint8 as :func:`changed_squares` compares it, ``(h, w, 3)``."""
    height, width = image.shape[:2]
    scale = REDUCED_PX / max(height, width)
    if scale >= 1:
        return image
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def changed_squares(earlier: RgbImage, later: RgbImage) -> BoolImage:
    """The squares in which two images differ.

    Args:
        earlier: ``(h, w, 3)`` uint8, see :func:`reduced`.
        later: likewise. All squares changed if it is of another size, or if the light or the camera did.

    Returns:
        ``(ceil(h / 8), ceil(w / 8))`` bool.

    >>> before = np.full((32, 48, 3), 90, dtype=np.uint8)
    >>> after = before.copy()
    >>> after[10:20, 30:40] = 200
    >>> changed_squares(before, after + np.uint8(2)).astype(int).tolist()
    [[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]]
    """
    height, width = later.shape[:2]
    shape = -(-height // SQUARE_PX), -(-width // SQUARE_PX)
    if earlier.shape != later.shape:
        return np.ones(shape, dtype=np.bool_)
    difference = later.astype(np.float32) - earlier
    light = np.median(difference[::2, ::2].reshape(-1, 3), axis=0)
    if float(np.abs(light).max()) > _LIGHT:
        return np.ones(shape, dtype=np.bool_)
    averaged = np.abs(cv2.blur(difference - light, (_AVERAGED_PX, _AVERAGED_PX))).max(-1)
    noise = float(np.median(averaged[::2, ::2]))
    if noise > _MOST_NOISE:
        return np.ones(shape, dtype=np.bool_)
    limit = max(_LEAST, _TIMES_NOISE * noise)
    padded = np.zeros((shape[0] * SQUARE_PX, shape[1] * SQUARE_PX), dtype=np.float32)
    padded[:height, :width] = averaged
    largest = padded.reshape(shape[0], SQUARE_PX, shape[1], SQUARE_PX).max((1, 3))
    return _without_single(largest > limit, largest > 2 * limit)


def _without_single(squares: BoolImage, certain: BoolImage) -> BoolImage:
    """Squares ``(h, w)`` without those that have no neighbour, which codecs make; certain ones stay."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(squares.astype(np.uint8), connectivity=8)
    keeps = stats[:, cv2.CC_STAT_AREA] > 1
    keeps[np.unique(labels[certain])] = True
    keeps[0] = False
    return np.asarray(keeps[labels], dtype=np.bool_)


def grown(squares: BoolImage, by: int = 1) -> BoolImage:
    """Squares ``(h, w)`` with so many around them.

    Args:
        squares: bool.
        by: how many on each side.
    """
    kernel = np.ones((2 * by + 1, 2 * by + 1), dtype=np.uint8)
    return np.asarray(cv2.dilate(squares.astype(np.uint8), kernel), dtype=np.bool_)


def at_pixels(squares: BoolImage, reduced_hw: tuple[int, int], size_hw: tuple[int, int]) -> BoolImage:
    """Squares as the pixels that they cover.

    Args:
        squares: ``(h, w)`` bool, see :func:`changed_squares`.
        reduced_hw: size of the images that were compared.
        size_hw: of the image wanted.

    Returns:
        ``(H, W)`` bool.
    """
    rows, columns = (
        np.minimum((np.arange(side) + 0.5) * small / side, small - 1).astype(np.int64) // SQUARE_PX
        for side, small in zip(size_hw, reduced_hw, strict=True)
    )
    return np.asarray(squares[rows][:, columns], dtype=np.bool_)


def windows_around(changed: BoolImage, margin_px: int, grow: float) -> NDArray[np.int64]:
    """Boxes that together hold all changed pixels with what is around them, none touching another.

    Args:
        changed: ``(H, W)`` bool.
        margin_px: least margin on each side, in pixels.
        grow: margin as a fraction of the changed part's longer side, if that is more.

    Returns:
        ``(K, 4)`` half-open boxes: x0, y0, x1, y1, from top to bottom.
    """
    height, width = changed.shape
    count, _, stats, _ = cv2.connectedComponentsWithStats(changed.astype(np.uint8), connectivity=8)
    boxes: list[tuple[int, int, int, int]] = []
    for x, y, w, h, _ in stats[1:count].tolist():
        margin = max(margin_px, round(grow * max(w, h)))
        boxes.append((max(0, x - margin), max(0, y - margin), min(width, x + w + margin), min(height, y + h + margin)))
    joined = True
    while joined:
        joined = False
        separate: list[tuple[int, int, int, int]] = []
        for box in boxes:
            other = next((o for o in separate if _touch(box, o)), None)
            if other is None:
                separate.append(box)
            else:
                separate.remove(other)
                separate.append(
                    (min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3]))
                )
                joined = True
        boxes = separate
    boxes.sort(key=lambda box: (box[1], box[0]))
    return np.array(boxes, dtype=np.int64).reshape(-1, 4)


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
