"""Windows: squares of an image with sub-pixel place and side, resampled to a few pixels, and masks pasted back.

Coordinates are continuous: pixel ``(x, y)`` covers ``x`` to ``x + 1`` and ``y`` to ``y + 1``, its centre is at
``(x + 0.5, y + 0.5)``. Whatever is read or written of an image is the part under the window, so that the cost does not
depend on the size of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError, MaskError
from counterview.types import BoolImage, ObjectMask, RgbImage, as_rgb

F32 = NDArray[np.float32]

MARGIN = 2.0
"""Side of a query window in longer sides of the object's box."""

MIN_SIDE_PX = 24.0
"""Smallest side of a window. What is smaller has too few pixels to be worth more enlargement."""

MAX_SIZE_RATIO = 6.0
"""How much larger or smaller an object is taken to be in the other view, at most."""

LARGEST_PX = 1e6
"""Largest coordinate and side of a window."""


@dataclass(frozen=True)
class ImageWindow:
    """A square of an image, in pixels of the image. It may extend beyond it.

    Attributes:
        centre_xy: of the square.
        side: of the square.
        size: pixels a side that it is resampled to.

    Raises:
        InputError: numbers that are not finite, a side that is not above 0, or a size below 1.
    """

    centre_xy: tuple[float, float]
    side: float
    size: int

    def __post_init__(self) -> None:
        numbers = (*self.centre_xy, self.side)
        if len(self.centre_xy) != 2 or not all(math.isfinite(v) and abs(v) <= LARGEST_PX for v in numbers):
            raise InputError(
                "a window has a centre and a side", found=numbers, expected=f"x, y and side up to {LARGEST_PX:g}"
            )
        if not self.side > 0 or self.size < 1:
            raise InputError("a window has a side above 0 and at least one pixel", found=(self.side, self.size))

    @property
    def left_top(self) -> tuple[float, float]:
        """x and y of its upper left corner."""
        return self.centre_xy[0] - self.side / 2, self.centre_xy[1] - self.side / 2

    @property
    def enlargement(self) -> float:
        """Pixels of the window for each pixel of the image, along a side; below 1 where the window is reduced."""
        return self.size / self.side

    def moved(self, dx: float, dy: float) -> ImageWindow:
        """The window elsewhere, by ``dx`` and ``dy`` pixels of the image."""
        return ImageWindow((self.centre_xy[0] + dx, self.centre_xy[1] + dy), self.side, self.size)

    def place(self, image_hw: tuple[int, int]) -> tuple[float, float]:
        """Its centre in the image: x and y from -1 to 1, 0 in the middle.

        Args:
            image_hw: height and width of the image in pixels.
        """
        height, width = image_hw
        return 2 * self.centre_xy[0] / width - 1, 2 * self.centre_xy[1] / height - 1


def object_size(mask: ObjectMask) -> float:
    """Longer side of a mask's box in pixels; 0 if it is empty."""
    return float(max(mask.box_xywh[2:]))


def box_centre(mask: ObjectMask) -> tuple[float, float]:
    """Centre of a mask's box, x and y in pixels."""
    x, y, width, height = mask.box_xywh
    return x + width / 2, y + height / 2


def query_window(mask: ObjectMask, size: int, margin: float = MARGIN, min_side: float = MIN_SIDE_PX) -> ImageWindow:
    """A square around an object.

    Args:
        mask: of the object.
        size: pixels a side that it is resampled to.
        margin: side of the square in longer sides of the mask's box.
        min_side: smallest side in pixels.

    Raises:
        MaskError: the mask is empty.

    >>> query_window(ObjectMask.from_array(np.pad(np.ones((20, 40), bool), 10)), 128)
    ImageWindow(centre_xy=(30.0, 20.0), side=80.0, size=128)
    """
    if mask.is_empty:
        raise MaskError("there is no window around an empty mask", fix="Leave the object out of this frame.")
    return ImageWindow(box_centre(mask), max(min_side, margin * object_size(mask)), size)


def target_window(
    centre_xy: tuple[float, float],
    expected_px: float,
    query_px: float,
    query: ImageWindow,
    min_side: float = MIN_SIDE_PX,
    max_ratio: float = MAX_SIZE_RATIO,
) -> ImageWindow:
    """A square around the place where an object is expected, with the field of view of its query window.

    Args:
        centre_xy: where it is expected, x and y in pixels.
        expected_px: size that it is expected to have there, as :func:`object_size` measures it.
        query_px: size in the query view.
        query: window there.
        min_side: smallest side in pixels.
        max_ratio: largest ratio of the two sizes that is believed.

    Raises:
        InputError: a size in the query that is not above 0.

    >>> target_window((50.0, 40.0), 10.0, 40.0, ImageWindow((30.0, 20.0), 80.0, 128), min_side=16)
    ImageWindow(centre_xy=(50.0, 40.0), side=20.0, size=128)
    """
    if not query_px > 0:
        raise InputError("the object has no size in the query view", found=query_px, expected="pixels above 0")
    ratio = min(max(expected_px / query_px, 1 / max_ratio), max_ratio)
    return ImageWindow((float(centre_xy[0]), float(centre_xy[1])), max(min_side, query.side * ratio), query.size)


def cut_image(image: RgbImage, window: ImageWindow) -> tuple[RgbImage, BoolImage]:
    """The window's part of an image, from the original pixels and antialiased.

    A window of more than twice its size in pixels is first reduced by a power of two (area), then resampled by a
    triangle filter. Beyond the image its edge is repeated.

    Args:
        image: ``(H, W, 3)`` uint8.
        window: which part.

    Returns:
        ``(size, size, 3)`` uint8; and ``(size, size)`` bool, whether the centre of each pixel lies in the image.

    Raises:
        ImageError: not such an image.
    """
    image = as_rgb(image)
    scale = window.side / window.size
    factor = 2 ** int(math.log2(scale)) if scale >= 2 else 1
    ranges = [_needed(start, window.side, factor, n) for start, n in zip(window.left_top, _wh(image), strict=True)]
    (x0, x1), (y0, y1) = ranges
    part = _reduced(image[y0:y1, x0:x1], factor)
    left, top = window.left_top
    columns = _triangle((left - x0) / factor, scale / factor, window.size, part.shape[1])
    rows = _triangle((top - y0) / factor, scale / factor, window.size, part.shape[0])
    stripes = (rows @ part.astype(np.float32).reshape(len(part), -1)).reshape(window.size, -1, 3)
    values = np.einsum("uj,vjc->vuc", columns, stripes, optimize=True)
    inside = [_inside(start, scale, window.size, n) for start, n in zip(window.left_top, _wh(image), strict=True)]
    return (values + 0.5).clip(0, 255).astype(np.uint8), inside[1][:, None] & inside[0][None]


def cut_mask(mask: ObjectMask | BoolImage, window: ImageWindow) -> F32:
    """The fraction of each of the window's pixels that a mask fills; 0 beyond the image.

    Args:
        mask: ``(H, W)`` bool, or its runs, of which only those under the window are decoded.
        window: which part.

    Returns:
        ``(size, size)`` float32 in 0..1.
    """
    height, width = mask.size_hw if isinstance(mask, ObjectMask) else mask.shape
    left, top = window.left_top
    x0, x1 = _needed(left, window.side, 1, width)
    y0, y1 = _needed(top, window.side, 1, height)
    part = _decoded(mask, x0, x1, y0, y1) if isinstance(mask, ObjectMask) else mask[y0:y1, x0:x1]
    scale = window.side / window.size
    columns = _coverage(left - x0, scale, window.size, x1 - x0)
    rows = _coverage(top - y0, scale, window.size, y1 - y0)
    return np.asarray(rows @ part.astype(np.float32) @ columns.T, dtype=np.float32).clip(0, 1)


def paste_logits(logits: NDArray[np.floating], window: ImageWindow, image_hw: tuple[int, int]) -> ObjectMask:
    """A mask drawn in a window, as a mask of the image: bilinear at the centres of the image's pixels, then above 0.

    Args:
        logits: ``(h, w)``, spread evenly over the window; h and w need not be its size.
        window: where they were drawn.
        image_hw: height and width of the image in pixels.

    Returns:
        The mask; no pixel is set whose centre lies outside the window.

    Raises:
        MaskError: not a map of finite numbers.
    """
    if logits.ndim != 2 or 0 in logits.shape or not np.isfinite(logits).all():
        raise MaskError(
            "mask logits are a map of finite numbers", found=f"{logits.dtype} {logits.shape}", expected="(h, w)"
        )
    left, top = window.left_top
    (x0, x1), (y0, y1) = (
        _centres_inside(start, window.side, n) for start, n in ((left, image_hw[1]), (top, image_hw[0]))
    )
    if x1 <= x0 or y1 <= y0:
        return ObjectMask.empty(image_hw)
    columns = _bilinear(np.arange(x0, x1) + 0.5 - left, window.side / logits.shape[1], logits.shape[1])
    rows = _bilinear(np.arange(y0, y1) + 0.5 - top, window.side / logits.shape[0], logits.shape[0])
    return _encoded(rows @ logits.astype(np.float32) @ columns.T > 0, x0, y0, image_hw)


def paste_mask(mask: BoolImage, window: ImageWindow, image_hw: tuple[int, int]) -> ObjectMask:
    """:func:`paste_logits` of a mask ``(h, w)`` bool: its outline runs halfway between pixels of the window."""
    return paste_logits(np.where(mask, np.float32(1), np.float32(-1)), window, image_hw)


# ------------------------------------------------------------------------------------------------------ inside


def _wh(image: RgbImage) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _reduced(part: RgbImage, factor: int) -> RgbImage:
    """Pixels ``(h, w, 3)`` reduced by ``factor`` (area); the edge is repeated where they do not fill a multiple."""
    if factor == 1:
        return part
    padding = (0, -len(part) % factor, 0, -part.shape[1] % factor)
    padded = cv2.copyMakeBorder(part, *padding, cv2.BORDER_REPLICATE) if any(padding) else part
    size = (padded.shape[1] // factor, padded.shape[0] // factor)
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _needed(start: float, side: float, factor: int, length: int) -> tuple[int, int]:
    """Pixels ``first`` to ``end`` of an axis that resampling reads, ``first`` a multiple of ``factor``; at least one.

    A filter reaches up to two (reduced) pixels beyond the window.
    """
    reach = 2 * factor
    first = min(max(math.floor(start) - reach, 0), length - 1) // factor * factor
    end = max(min(math.ceil(start + side) + reach, length), first + 1)
    return first, end


def _inside(start: float, scale: float, size: int, length: int) -> NDArray[np.bool_]:
    """Whether the centres of a window's pixels lie in the image, along one axis: ``(size,)``."""
    centres = start + (np.arange(size) + 0.5) * scale
    return np.asarray((centres >= 0) & (centres < length))


def _centres_inside(start: float, side: float, length: int) -> tuple[int, int]:
    """Pixels ``first`` to ``end`` of an axis whose centres lie in a window."""
    return max(0, math.ceil(start - 0.5)), min(length, math.floor(start + side - 0.5) + 1)


def _triangle(start: float, scale: float, size: int, length: int) -> F32:
    """Weights ``(size, length)`` of a triangle filter as wide as two pixels of the coarser grid; edges are repeated."""
    half = max(scale, 1.0)
    centres = start + (np.arange(size) + 0.5) * scale
    first = np.floor(centres - half - 0.5).astype(np.int64)
    taps = first[:, None] + np.arange(math.ceil(2 * half) + 2)
    weights = np.maximum(0, 1 - np.abs(taps + 0.5 - centres[:, None]) / half)
    weights /= weights.sum(axis=1, keepdims=True)
    return _scattered(taps.clip(0, length - 1), weights, length)


def _coverage(start: float, scale: float, size: int, length: int) -> F32:
    """Fraction ``(size, length)`` of each window pixel that each image pixel fills; nothing beyond the image."""
    edges = start + np.arange(size + 1) * scale
    pixels = np.arange(length)
    low = np.maximum(edges[:-1, None], pixels)
    high = np.minimum(edges[1:, None], pixels + 1)
    return (np.maximum(high - low, 0) / scale).astype(np.float32)


def _bilinear(positions: NDArray[np.floating], cell: float, length: int) -> F32:
    """Weights ``(P, length)`` by which values of cells ``cell`` wide are read at ``positions`` ``(P,)``."""
    at = (positions / cell - 0.5).clip(0, length - 1)
    first = np.floor(at).astype(np.int64)
    second = np.minimum(first + 1, length - 1)
    fraction = at - first
    return _scattered(np.stack([first, second], axis=1), np.stack([1 - fraction, fraction], axis=1), length)


def _scattered(indices: NDArray[np.int64], weights: NDArray[np.floating], length: int) -> F32:
    """Weights ``(N, K)`` of the indices ``(N, K)``, as ``(N, length)``; those of one index are added up."""
    matrix = np.zeros((len(indices), length), dtype=np.float32)
    np.add.at(matrix, (np.arange(len(indices))[:, None], indices), weights.astype(np.float32))
    return matrix


def _decoded(mask: ObjectMask, x0: int, x1: int, y0: int, y1: int) -> BoolImage:
    """Rows y0 to y1 and columns x0 to x1 of a mask ``(H, W)``, bool."""
    height = mask.size_hw[0]
    low, high = x0 * height, x1 * height
    starts, ends = mask.intervals()
    first, last = int(np.searchsorted(ends, low, side="right")), int(np.searchsorted(starts, high, side="left"))
    pixels = np.zeros(high - low + 1, dtype=np.int8)
    np.add.at(pixels, starts[first:last].clip(low, high) - low, 1)
    np.add.at(pixels, ends[first:last].clip(low, high) - low, -1)
    columns = np.cumsum(pixels[:-1], dtype=np.int8).reshape(x1 - x0, height)
    return np.asarray(columns[:, y0:y1].T > 0)


def _encoded(part: BoolImage, x0: int, y0: int, image_hw: tuple[int, int]) -> ObjectMask:
    """A mask of an image of which only ``part`` ``(h, w)`` at column ``x0`` and row ``y0`` may be set."""
    height, width = image_hw
    steps = np.diff(np.pad(part.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    columns, rows = np.nonzero(steps == 1)
    starts = (columns + x0) * height + rows + y0
    columns, rows = np.nonzero(steps == -1)
    ends = (columns + x0) * height + rows + y0
    edges = np.stack([starts, ends], axis=1).reshape(-1).astype(np.int64)
    return ObjectMask(image_hw, np.diff(np.concatenate([[0], edges, [height * width]])))
