"""An image at its own size and at halves of it, each made when it is first needed."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.types import RgbImage


class ImagePyramid:
    """Levels of an image: level 0 is the image itself, and a pixel of level k is the mean of ``2**k x 2**k`` of its.

    Where a side is odd, the last row or column stands for itself and a repetition of it.

    Args:
        image: ``(H, W, 3)`` uint8; kept, not copied.

    >>> pyramid = ImagePyramid(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    >>> pyramid.level(1).tolist()
    [[[8, 9, 10], [14, 15, 16]]]
    >>> pyramid.level_for(2.5), pyramid.level_for(4), pyramid.level_for(0.3)
    (1, 2, 0)
    """

    def __init__(self, image: RgbImage) -> None:
        self._levels: list[RgbImage] = [image]

    @property
    def image(self) -> RgbImage:
        """The image at its own size."""
        return self._levels[0]

    def level(self, number: int) -> RgbImage:
        """A level ``(ceil(H / 2**number), ceil(W / 2**number), 3)`` uint8."""
        while len(self._levels) <= number:
            self._levels.append(_halved(self._levels[-1]))
        return self._levels[number]

    @staticmethod
    def level_for(reduction: float) -> int:
        """The level for an image that is to be reduced ``reduction`` times: 1 from 2 on, 2 from 4 on."""
        return max(0, int(np.floor(np.log2(reduction)))) if reduction > 0 else 0

    def reduced(self, side_px: int) -> RgbImage:
        """The smallest level whose longer side is at least ``side_px``, or level 0."""
        return self.level(self.level_for(max(self.image.shape[:2]) / side_px))


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 x 2 pixels; the last of an odd number of rows or columns is repeated."""
    for axis in range(2):
        if image.shape[axis] % 2:  # halved apart, so that the whole image is not copied for it
            even, last = np.split(image, [-1], axis=axis)
            halves = [_halved(np.repeat(last, 2, axis=axis))]
            return np.concatenate([_halved(even), *halves] if even.shape[axis] else halves, axis=axis)
    size = (image.shape[1] // 2, image.shape[0] // 2)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
