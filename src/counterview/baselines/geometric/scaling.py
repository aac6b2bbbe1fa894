"""Images scaled to the input of a matcher, and its points scaled back."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.baselines.geometric.base import F64
from counterview.types import RgbImage


def input_hw(
    size_hw: tuple[int, int], longest_side_px: int, *, multiple: int = 1, enlarge: bool = True
) -> tuple[int, int]:
    """The size of a matcher's input: the longer side at ``longest_side_px``, the aspect ratio kept.

    Args:
        size_hw: height and width of the image in pixels.
        longest_side_px: the longer side of the input.
        multiple: both sides are rounded to a multiple of it, at least one.
        enlarge: whether a smaller image is enlarged.

    >>> input_hw((540, 960), 640), input_hw((540, 960), 640, multiple=32), input_hw((54, 96), 640, enlarge=False)
    ((360, 640), (352, 640), (54, 96))
    """
    ratio = longest_side_px / max(size_hw)
    if ratio > 1 and not enlarge:
        ratio = 1.0
    height, width = (max(1, round(side * ratio / multiple)) * multiple for side in size_hw)
    return height, width


def resized(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """An image ``(H, W)`` or ``(H, W, 3)`` uint8 at another size, by area when it shrinks."""
    if image.shape[:2] == tuple(size_hw):
        return image
    smaller = size_hw[0] <= image.shape[0] and size_hw[1] <= image.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size_hw[1], size_hw[0]), interpolation=method), dtype=np.uint8)


def grey(image: RgbImage) -> NDArray[np.uint8]:
    """The luma ``(H, W)`` uint8 of an image ``(H, W, 3)`` uint8."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def to_image_px(points: F64, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> F64:
    """Points ``(N, 2)`` of a scaled image as points of the image; pixel centres at integers in both.

    Args:
        points: x and y in pixels of the scaled image.
        from_hw: its height and width.
        to_hw: height and width of the image.

    >>> to_image_px(np.array([[0.0, 0.0]]), (50, 100), (100, 200)).tolist()  # the centre of four pixels
    [[0.5, 0.5]]
    """
    ratio = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])
    scaled: F64 = (np.asarray(points, dtype=np.float64) + 0.5) * ratio - 0.5
    return scaled
