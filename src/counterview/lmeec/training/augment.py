"""Changes of training clips: one of geometry and one of colour for all frames, and one of colour for each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from counterview.lmeec.training.recipe import AugmentConfig
from counterview.media.images import LUMA

BACKGROUND = (124, 116, 104)
"""Colour outside a turned image: ImageNet's mean, which is 0 once normalised."""
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


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
    """Flip, then shear, then rotation about the middle, as they would act on the image before it was made square.

    With ``config.shear_y == 0`` it is torchvision's ``RandomAffine(degrees, shear)``, which shears along x alone.

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
    change = turn @ np.array([[1, shear_x], [0, 1]]) @ np.array([[1, 0], [shear_y * config.shear_y, 1]])
    if flip:
        change = change @ np.diag([-1.0, 1.0])
    native_to_square = np.diag([size / native_hw[1], size / native_hw[0]])
    linear = native_to_square @ change @ np.linalg.inv(native_to_square)
    middle = np.full(2, (size - 1) / 2)
    return Geometry(np.hstack([linear, (middle - linear @ middle)[:, None]]))


@dataclass(frozen=True)
class ColourChange:
    """A change of colour.

    Attributes:
        factors: of brightness, contrast and saturation.
        order: in which these three are applied, each to 8-bit values as torchvision's ``ColorJitter`` does on images of
            Pillow; ``None`` for all at once, rounded once.
        grey: whether colour is taken away, after that.
    """

    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: tuple[int, ...] | None = None
    grey: bool = False


def draw_colour(config: AugmentConfig, rng: np.random.Generator) -> ColourChange:
    """The change of colour that all frames of a clip have."""
    numbers = rng.random(4)
    spreads = (config.brightness, config.contrast, config.saturation)
    return ColourChange(_factors(spreads, numbers), _order(config, rng), bool(numbers[3] < config.grey))


def draw_frame_colours(config: AugmentConfig, count: int, rng: np.random.Generator) -> list[ColourChange]:
    """The change of colour that each of ``count`` frames has by itself; nothing is drawn where there is none."""
    spreads = (config.frame_brightness, config.frame_contrast, config.frame_saturation)
    if not any(spreads):
        return []
    return [ColourChange(_factors(spreads, rng.random(3)), _order(config, rng)) for _ in range(count)]


def _factors(spreads: tuple[float, float, float], numbers: NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (1 + s * (2 * float(n) - 1) for s, n in zip(spreads, numbers[:3], strict=True))
    return first, second, third


def _order(config: AugmentConfig, rng: np.random.Generator) -> tuple[int, ...] | None:
    return tuple(int(i) for i in rng.permutation(3)) if config.colour_order == "random" else None


def change_colour(frames: NDArray[np.uint8], change: ColourChange) -> NDArray[np.uint8]:
    """Apply a change of colour to ``(T, S, S, 3)`` uint8; contrast is about the mean grey of each frame."""
    if change.factors == (1, 1, 1) and not change.grey:
        return frames
    if change.order is not None:
        return np.stack([_enhanced(frame, change) for frame in frames])
    brightness, contrast, saturation = change.factors
    values = frames.astype(np.float64) * brightness
    mean = (values @ LUMA).mean(axis=(1, 2), keepdims=True)[..., None]
    values = mean + contrast * (values - mean)
    luma = (values @ LUMA)[..., None]
    values = luma + (0.0 if change.grey else saturation) * (values - luma)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _enhanced(frame: NDArray[np.uint8], change: ColourChange) -> NDArray[np.uint8]:
    """One frame ``(S, S, 3)`` uint8 by Pillow's enhancers, which are what torchvision's ``ColorJitter`` calls."""
    image = Image.fromarray(frame)
    for part in change.order or ():
        image = _ENHANCERS[part](image).enhance(change.factors[part])
    if change.grey:
        image = image.convert("L").convert("RGB")
    return np.asarray(image)
