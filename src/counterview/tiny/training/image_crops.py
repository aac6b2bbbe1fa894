"""Augmented crops of the images of one moment, on which the network and the head of ``tiny-match`` are trained.

A sample is one moment of a take in two or more cameras. Every image is rotated, scaled, cropped and changed in colour
independently of the others, so that only the objects themselves relate the views. Candidates beside the true masks are
proposals where there are any, and otherwise what a proposer gets wrong: parts of objects, objects with some of their
surroundings, two neighbours as one, and unrelated shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.features.tiny_pooling import MASK_STRIDE
from counterview.types import RgbImage

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class CropConfig:
    """How an image is cropped and changed.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    size_px: int = field(default=224, metadata={"help": "side of a crop, a multiple of 32"})
    zoom_min: float = field(default=0.6, metadata={"help": "smallest scale of an image before it is cropped"})
    zoom_max: float = field(default=1.7, metadata={"help": "largest scale"})
    degrees: float = field(default=15.0, metadata={"help": "largest rotation either way"})
    flip: float = field(default=0.5, metadata={"help": "fraction of samples that are mirrored, all views together"})
    colour: float = field(default=1.0, metadata={"help": "strength of changes of light and colour; 0: none"})
    blur: float = field(default=0.3, metadata={"help": "fraction of crops that are blurred or noisy"})
    distractors: int = field(default=16, metadata={"help": "candidates of a crop beside the true masks"})
    keep: float = field(
        default=0.4, metadata={"help": "fraction of an object that must be in the crop for it to be learned"}
    )

    def __post_init__(self) -> None:
        problems = []
        if self.size_px < 64 or self.size_px % 32:
            problems.append(f"size_px is {self.size_px}, expected a multiple of 32 from 64")
        if not 0 < self.zoom_min <= self.zoom_max:
            problems.append(f"zoom_min is {self.zoom_min} and zoom_max {self.zoom_max}, expected 0 < min <= max")
        problems += out_of_range(self, "flip", "blur", "keep", at_least=0, at_most=1)
        problems += out_of_range(self, "degrees", "colour", "distractors", at_least=0)
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, eq=False)
class Crop:
    """One view of a sample: S pixels a side, K objects, N candidates of which the first K are the objects.

    Attributes:
        pixels: ``(3, S, S)`` uint8.
        names: of the K objects.
        masks: ``(N, S / 2, S / 2)`` bool, of all candidates.
        absent: names of objects that this crop certainly does not show.
    """

    pixels: NDArray[np.uint8]
    names: tuple[str, ...]
    masks: BoolArray
    absent: frozenset[str]


def draw_crop(
    config: CropConfig,
    image: RgbImage,
    masks: Mapping[str, BoolArray],
    absent: frozenset[str],
    proposals: Sequence[BoolArray],
    mirrored: bool,
    rng: np.random.Generator,
    anchor: str | None = None,
) -> Crop:
    """Crop and change one image.

    An object of which the crop holds less than ``config.keep`` is neither among the objects nor absent.

    Args:
        config: ranges of the changes.
        image: ``(H, W, 3)`` uint8.
        masks: visible objects by name, ``(H, W)`` bool each.
        absent: names of objects that the annotation calls absent.
        proposals: masks ``(H, W)`` bool from which distractors are drawn; where there are too few, they are made up.
        mirrored: mirror the image.
        rng: the only source of randomness.
        anchor: the object near which the crop is centred; a random one if not given, or not visible.
    """
    anchors = {anchor: masks[anchor]} if anchor is not None and anchor in masks else masks
    matrix, zoom = _placement(config, image.shape[:2], anchors, mirrored, rng)
    size = config.size_px
    pixels = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    pixels = change_colours(np.asarray(pixels, dtype=np.uint8), config.colour, config.blur, rng)
    mask_matrix, mask_size = _at_mask_stride(matrix), size // MASK_STRIDE
    names, objects, absent_here = [], [], set(absent)
    for name, mask in masks.items():
        warped = _warp(mask, mask_matrix, mask_size)
        full_area = float(np.count_nonzero(mask)) * (zoom / MASK_STRIDE) ** 2
        area = int(warped.sum())
        if area == 0:
            absent_here.add(name)
        elif area >= max(2.0, config.keep * full_area):
            names.append(name)
            objects.append(warped)
    distractors: list[BoolArray] = []
    if len(proposals) and config.distractors:
        order = rng.permutation(len(proposals))
        for index in order:
            warped = _warp(proposals[index], mask_matrix, mask_size)
            if warped.sum() >= 2:
                distractors.append(warped)
            if len(distractors) == config.distractors:
                break
    while len(distractors) < config.distractors:
        distractors.append(_made_up(objects, mask_size, rng))
    candidates = [*objects, *distractors]
    table = np.stack(candidates) if candidates else np.zeros((0, mask_size, mask_size), dtype=bool)
    return Crop(np.ascontiguousarray(pixels.transpose(2, 0, 1)), tuple(names), table, frozenset(absent_here))


def _placement(
    config: CropConfig,
    size_hw: tuple[int, ...],
    masks: Mapping[str, BoolArray],
    mirrored: bool,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], float]:
    """The affine map from pixels of the image to pixels of the crop, ``(2, 3)``, and its scale.

    The crop lies within 0.35 of its side around the centroid of one of the masks ``(H, W)``.
    """
    zoom = float(np.exp(rng.uniform(np.log(config.zoom_min), np.log(config.zoom_max))))
    window = config.size_px / zoom
    visible = [m for m in masks.values() if m.any()]
    if visible:
        mask = visible[int(rng.integers(len(visible)))]
        centre_y, centre_x = (float(v.mean()) for v in np.nonzero(mask))
    else:
        centre_y, centre_x = size_hw[0] / 2, size_hw[1] / 2
    centre = np.array([centre_x, centre_y]) + rng.uniform(-0.35, 0.35, 2) * window
    # A crop that reaches beyond the image's edge is moved inside as far as possible.
    for axis, side in enumerate((size_hw[1], size_hw[0])):
        half = window / 2
        centre[axis] = side / 2 if side <= window else float(np.clip(centre[axis], half, side - half))
    angle = np.deg2rad(rng.uniform(-config.degrees, config.degrees))
    return affine(angle, zoom, mirrored, centre, config.size_px), zoom


def affine(angle: float, zoom: float, mirrored: bool, centre_xy: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Rotate, scale and mirror about a point, and move it to the centre of a square.

    Args:
        angle: of the rotation from the x to the y axis, in radians.
        zoom: scale.
        mirrored: mirror left to right, after the rotation.
        centre_xy: the point ``(2,)``, in pixels.
        side: of the square, in pixels.

    Returns:
        ``(2, 3)``, which maps x and y of pixel centres, as ``cv2.warpAffine`` takes it.

    >>> affine(0.0, 2.0, True, np.array([10.0, 20.0]), 5) @ np.array([11.0, 20.5, 1.0])
    array([0., 3.])
    """
    linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        linear = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ linear
    shift = np.array([side / 2 - 0.5] * 2) - linear @ centre_xy
    return np.concatenate([linear, shift[:, None]], axis=1)


def _at_mask_stride(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map ``(2, 3)`` to a crop at the size of its masks, pixel centres on pixel centres."""
    result = matrix / MASK_STRIDE
    result[:, 2] = (matrix[:, 2] + 0.5) / MASK_STRIDE - 0.5
    return result


def _warp(mask: BoolArray, matrix: NDArray[np.float64], size: int) -> BoolArray:
    """A mask ``(H, W)`` under an affine map, ``(size, size)``."""
    return cv2.warpAffine(mask.view(np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST).astype(bool)


def change_colours(
    pixels: NDArray[np.uint8], strength: float, blur: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change exposure, white balance, gamma, saturation and contrast; of some images also hue, blur or noise.

    Args:
        pixels: ``(H, W, 3)`` uint8.
        strength: of the changes of colour; 0 changes nothing.
        blur: fraction of images that are blurred or noisy.
        rng: the only source of randomness.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    if strength == 0:
        return pixels
    values = pixels.astype(np.float32) / 255
    exposure = np.exp(rng.normal(0, 0.25 * strength))
    balance = np.exp(rng.normal(0, 0.08 * strength, 3)).astype(np.float32)
    gamma = np.exp(rng.normal(0, 0.15 * strength))
    values = np.clip(values * (exposure * balance), 0, 1) ** np.float32(gamma)
    grey = values.mean(2, keepdims=True)
    values = grey + (values - grey) * np.float32(np.exp(rng.normal(0, 0.2 * strength)))
    contrast = np.float32(np.exp(rng.normal(0, 0.12 * strength)))
    values = (values - values.mean()) * contrast + values.mean()
    if rng.random() < 0.15 * strength:  # another lamp: all hues shift a little
        mix = np.eye(3) + rng.normal(0, 0.06 * strength, (3, 3))
        values = values @ mix.astype(np.float32).T
    if rng.random() < blur:
        if rng.random() < 0.5:
            values = cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.4, 1.3)))
        else:
            values = values + rng.normal(0, rng.uniform(0.01, 0.04), values.shape).astype(np.float32)
    return np.asarray(np.clip(values * 255 + 0.5, 0, 255), dtype=np.uint8)


def _made_up(objects: Sequence[BoolArray], size: int, rng: np.random.Generator) -> BoolArray:
    """A mask as a proposer may give it: a part of an object, more than it, two as one, or something else.

    Args:
        objects: ``(size, size)`` each.
        size: of the mask.
        rng: the only source of randomness.

    Returns:
        ``(size, size)``, never empty.
    """
    kind = rng.random()
    if objects and kind < 0.75:
        mask = objects[int(rng.integers(len(objects)))]
        if kind < 0.35:
            return _part(mask, rng)
        if kind < 0.55:
            reach = max(1, round(float(rng.uniform(0.15, 0.6)) * float(np.sqrt(mask.sum()))))
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
            grown = cv2.dilate(mask.view(np.uint8), kernel).astype(bool)
            return mask | _part(grown, rng) if rng.random() < 0.7 else grown
        other = objects[int(rng.integers(len(objects)))]
        if other is not mask:
            return mask | other
    result = np.zeros((size, size), dtype=np.uint8)
    centre = tuple(int(v) for v in rng.integers(0, size, 2))
    axes = tuple(int(v) for v in np.exp(rng.uniform(np.log(2), np.log(size / 4), 2)))
    cv2.ellipse(result, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    ellipse: BoolArray = result.astype(bool)
    return ellipse if ellipse.any() else np.ones((size, size), dtype=bool)


def _part(mask: BoolArray, rng: np.random.Generator) -> BoolArray:
    """The part of a mask ``(h, w)`` on one side of a line through it; never empty."""
    y, x = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    distance = x * np.cos(angle) + y * np.sin(angle)
    result = np.zeros_like(mask)
    chosen = distance <= np.quantile(distance, rng.uniform(0.25, 0.8))
    result[y[chosen], x[chosen]] = True
    return result
