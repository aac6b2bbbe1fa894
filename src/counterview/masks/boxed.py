"""Masks cut to their boxes: hundreds of masks of an image are drawn and measured without as many whole images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from counterview.mask_formats import dense_mask
from counterview.types import BoolImage, ObjectMask


@dataclass(frozen=True, eq=False)
class BoxedMask:
    """A mask cut to its box.

    Attributes:
        size_hw: height and width of the whole mask in pixels.
        x: left edge of the box.
        y: its top edge.
        pixels: ``(h, w)`` bool, what the box holds; ``(0, 0)`` of an empty mask.
    """

    size_hw: tuple[int, int]
    x: int
    y: int
    pixels: BoolImage

    @classmethod
    def of(cls, mask: BoolImage | ObjectMask | BoxedMask) -> BoxedMask:
        """Cut a mask ``(H, W)`` to its box.

        Args:
            mask: bool, or run lengths.

        >>> boxed = BoxedMask.of(ObjectMask.from_array([[0, 0, 0], [0, 1, 1]]))
        >>> boxed.x, boxed.y, boxed.pixels.tolist()
        (1, 1, [[True, True]])
        """
        if isinstance(mask, BoxedMask):
            return mask
        if isinstance(mask, ObjectMask):
            return cls._of_runs(mask)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        size_hw = mask.shape[0], mask.shape[1]
        if not len(rows):
            return cls(size_hw, 0, 0, np.zeros((0, 0), dtype=np.bool_))
        x, y = int(columns[0]), int(rows[0])
        return cls(size_hw, x, y, mask[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1])

    @classmethod
    def _of_runs(cls, mask: ObjectMask) -> BoxedMask:
        x, y, width, height = mask.box_xywh
        if not width:
            return cls(mask.size_hw, 0, 0, np.zeros((0, 0), dtype=np.bool_))
        # Runs go down the columns: those of the box's columns alone are decoded.
        runs, rows = mask.runs.copy(), mask.size_hw[0]
        runs[0] -= x * rows
        runs[-1] -= int(runs.sum()) - width * rows
        return cls(mask.size_hw, x, y, dense_mask((rows, width), runs)[y : y + height])

    @cached_property
    def area(self) -> int:
        """Number of pixels in the mask."""
        return int(np.count_nonzero(self.pixels))

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """The box ``x1, y1, x2, y2`` in pixels, its ends excluded."""
        return self.x, self.y, self.x + self.pixels.shape[1], self.y + self.pixels.shape[0]

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of the box in the whole image."""
        x1, y1, x2, y2 = self.box_xyxy
        return slice(y1, y2), slice(x1, x2)

    def at(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the mask has pixels, in the shape of ``x`` and ``y``.

        Args:
            x: of the pixels in the whole image, of any shape.
            y: likewise.
        """
        x1, y1, x2, y2 = self.box_xyxy
        inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        inside[inside] = self.pixels[y[inside] - y1, x[inside] - x1]
        return inside
