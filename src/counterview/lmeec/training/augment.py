"""Training clips as arrays, with an augmentation that is the same for every frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.lmeec.training.recipe import AugmentConfig

BACKGROUND = (124, 116, 104)
"""Colour outside a turned image: ImageNet's mean, which is 0 once normalised."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Geometry:
    """A change of all frames of a view.

    Attributes:
        matrix: ``(2, 3)``, from a pixel ``(x, y, 1)`` of the square image to where it goes; ``None`` for no change.
    """

    matrix: NDArray[np.float64] | None

    def images(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames ``(T, S, S, 3)`` uint8, changed."""
        if self.matrix is None:
            return frames
        size = (frames.shape[2], frames.shape[1])
        return np.stack(
            [cv2.warpAffine(f, self.matrix, size, flags=cv2.INTER_LINEAR, borderValue=BACKGROUND) for f in frames]
        )

    def masks(self, masks: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Masks ``(..., S, S)`` float, changed, and cut at one half (of the largest value, where none reaches it)."""
        flat = masks.reshape(-1, *masks.shape[-2:])
        if self.matrix is not None:
            size = (flat.shape[2], flat.shape[1])
            flat = np.stack([cv2.warpAffine(m, self.matrix, size, flags=cv2.INTER_LINEAR) for m in flat])
        largest = flat.max(axis=(1, 2), keepdims=True)
        cut = np.minimum(0.5, np.maximum(largest, 1e-3) / 2)
        cut = np.where(largest >= 0.5, 0.5, cut)
        return (flat >= cut).reshape(masks.shape)


def draw_geometry(config: AugmentConfig, size: int, native_hw: tuple[int, int], rng: np.random.Generator) -> Geometry:
    """Flip, rotation and shear about the middle, as they would act on the image before it was made square.

    Args:
        config: how much of each.
        size: side of the square images.
        native_hw: height and width of the images before.
        rng: what is drawn from.
    """
    numbers = rng.random(4)
    flip = bool(numbers[0] < config.flip)
    angle = math.radians(config.degrees * (2 * numbers[1] - 1))
    shear_x, shear_y = (math.tan(math.radians(config.shear * (2 * n - 1))) for n in numbers[2:])
    if not flip and not config.degrees and not config.shear:
        return Geometry(None)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    change = turn @ np.array([[1, shear_x], [0, 1]]) @ np.array([[1, 0], [shear_y / 2, 1]])
    if flip:
        change = change @ np.diag([-1.0, 1.0])
    native_to_square = np.diag([size / native_hw[1], size / native_hw[0]])
    linear = native_to_square @ change @ np.linalg.inv(native_to_square)
    middle = np.full(2, (size - 1) / 2)
    return Geometry(np.hstack([linear, (middle - linear @ middle)[:, None]]))


def draw_colour(config: AugmentConfig, rng: np.random.Generator) -> tuple[float, float, float, bool]:
    """Factors of brightness, contrast and saturation, and whether the clip is grey."""
    numbers = rng.random(4)
    factors = [
        1 + spread * (2 * n - 1)
        for spread, n in zip((config.brightness, config.contrast, config.saturation), numbers[:3], strict=True)
    ]
    return factors[0], factors[1], factors[2], bool(numbers[3] < config.grey)


def change_colour(frames: NDArray[np.uint8], factors: tuple[float, float, float, bool]) -> NDArray[np.uint8]:
    """Apply :func:`draw_colour` to ``(T, S, S, 3)`` uint8; contrast is about the mean grey of each frame."""
    brightness, contrast, saturation, grey = factors
    if (brightness, contrast, saturation) == (1, 1, 1) and not grey:
        return frames
    values = frames.astype(np.float32) * brightness
    mean = (values @ _LUMA).mean(axis=(1, 2), keepdims=True)[..., None]
    values = mean + contrast * (values - mean)
    luma = (values @ _LUMA)[..., None]
    values = luma + (0.0 if grey else saturation) * (values - luma)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
