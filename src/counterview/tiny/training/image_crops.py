"""Crops of the images of one moment, changed each in its own way: what end-to-end training of O-MaMa looks at.

A sample is one moment of a take, seen by two or more cameras. Every image is turned, scaled and cut on its own, and
its light and colours are changed on their own, so that nothing but the objects themselves ties the views together.
Candidates beside the true masks are proposals where there are any, and otherwise what a proposer gets wrong: parts
of objects, objects with some of what is around them, neighbours taken for one, and anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.features.tiny import HALF
from counterview.types import RgbImage

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class CropConfig:
    """How an image is cut and changed.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    size_px: int = field(default=224, metadata={"help": "side of a crop, a multiple of 32"})
    zoom_min: float = field(default=0.6, metadata={"help": "smallest scale of an image before it is cut"})
    zoom_max: float = field(default=1.7, metadata={"help": "largest scale"})
    degrees: float = field(default=15.0, metadata={"help": "largest turn either way"})
    flip: float = field(default=0.5, metadata={"help": "share of samples that are mirrored, all views together"})
    colour: float = field(default=1.0, metadata={"help": "strength of changes of light and colour; 0: none"})
    blur: float = field(default=0.3, metadata={"help": "share of crops that are blurred or noisy"})
    distractors: int = field(default=16, metadata={"help": "candidates of a crop beside the true masks"})
    keep: float = field(default=0.4, metadata={"help": "share of an object that must be in the crop to be learned"})

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
    """One view of a sample. S is the side, K objects, N candidates of which the first K are the objects.

    Attributes:
        pixels: ``(3, S, S)`` uint8.
        names: of the K objects.
        points: ``(N, S / 2, S / 2)`` bool, all candidates.
        gone: names of objects that this crop does not show for certain.
    """

    pixels: NDArray[np.uint8]
    names: tuple[str, ...]
    points: BoolArray
    gone: frozenset[str]


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
    """Cut and change one image.

    Args:
        image: ``(H, W, 3)``.
        masks: objects that can be seen in it, ``(H, W)`` each.
        absent: objects that an annotator looked for in it and did not find.
        proposals: masks ``(H, W)`` to choose distractors among; none: they are made up.
        mirrored: mirror it.
        anchor: the object about which the crop is made, one that another view shows too; any if not given.
    """
    about = {anchor: masks[anchor]} if anchor is not None and anchor in masks else masks
    matrix, zoom = _placement(config, image.shape[:2], about, mirrored, rng)
    size = config.size_px
    pixels = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    pixels = change_colours(np.asarray(pixels, dtype=np.uint8), config.colour, config.blur, rng)
    small = _halved(matrix)
    names, points, gone = [], [], set(absent)
    for name, mask in masks.items():
        here = _warp(mask, small, size // HALF)
        whole = float(np.count_nonzero(mask)) * (zoom / HALF) ** 2
        seen = int(here.sum())
        if seen == 0:
            gone.add(name)
        elif seen >= max(2.0, config.keep * whole):
            names.append(name)
            points.append(here)
    wanted = config.distractors
    others: list[BoolArray] = []
    if len(proposals) and wanted:
        order = rng.permutation(len(proposals))
        for index in order:
            here = _warp(proposals[index], small, size // HALF)
            if here.sum() >= 2:
                others.append(here)
            if len(others) == wanted:
                break
    while len(others) < wanted:
        others.append(_made_up(points, size // HALF, rng))
    table = np.stack([*points, *others]) if points or others else np.zeros((0, size // HALF, size // HALF), dtype=bool)
    return Crop(np.ascontiguousarray(pixels.transpose(2, 0, 1)), tuple(names), table, frozenset(gone))


def _placement(
    config: CropConfig,
    size_hw: tuple[int, ...],
    masks: Mapping[str, BoolArray],
    mirrored: bool,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], float]:
    """The affine map from image to crop, ``(2, 3)``, and its scale."""
    zoom = float(np.exp(rng.uniform(np.log(config.zoom_min), np.log(config.zoom_max))))
    window = config.size_px / zoom
    seen = [m for m in masks.values() if m.any()]
    if seen:
        mask = seen[int(rng.integers(len(seen)))]
        middle_y, middle_x = (float(v.mean()) for v in np.nonzero(mask))
    else:
        middle_y, middle_x = size_hw[0] / 2, size_hw[1] / 2
    centre = np.array([middle_x, middle_y]) + rng.uniform(-0.35, 0.35, 2) * window
    # A crop that hangs over the image's rim is pushed inside as far as the image goes.
    for axis, side in enumerate((size_hw[1], size_hw[0])):
        half = window / 2
        centre[axis] = side / 2 if side <= window else float(np.clip(centre[axis], half, side - half))
    angle = np.deg2rad(rng.uniform(-config.degrees, config.degrees))
    return affine(angle, zoom, mirrored, centre, config.size_px), zoom


def affine(angle: float, zoom: float, mirrored: bool, centre_xy: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The map ``(2, 3)`` that turns (radians), scales and mirrors about a point, and puts it in the middle of a square.

    Args:
        centre_xy: the point, in pixels.
        side: of the square, in pixels.
    """
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        turn = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ turn
    shift = np.array([side / 2 - 0.5] * 2) - turn @ centre_xy
    return np.concatenate([turn, shift[:, None]], axis=1)


def _halved(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map to a crop of half the size, pixel centres on pixel centres."""
    result = matrix / HALF
    result[:, 2] = (matrix[:, 2] + 0.5) / HALF - 0.5
    return result


def _warp(mask: BoolArray, matrix: NDArray[np.float64], size: int) -> BoolArray:
    return cv2.warpAffine(mask.view(np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST).astype(bool)


def change_colours(
    pixels: NDArray[np.uint8], strength: float, blur: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Another exposure, gamma, white balance and saturation; now and then blur and noise. ``(H, W, 3)`` each.

    Args:
        strength: 0 changes nothing.
        blur: share of images that are blurred or noisy.
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
    if rng.random() < 0.15 * strength:  # another lamp: hues turn a little, all together
        mix = np.eye(3) + rng.normal(0, 0.06 * strength, (3, 3))
        values = values @ mix.astype(np.float32).T
    if rng.random() < blur:
        if rng.random() < 0.5:
            values = cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.4, 1.3)))
        else:
            values = values + rng.normal(0, rng.uniform(0.01, 0.04), values.shape).astype(np.float32)
    return np.asarray(np.clip(values * 255 + 0.5, 0, 255), dtype=np.uint8)


def _made_up(objects: Sequence[BoolArray], size: int, rng: np.random.Generator) -> BoolArray:
    """A mask such as a proposer makes: a part, too much, two for one, or something else."""
    way = rng.random()
    if objects and way < 0.75:
        mask = objects[int(rng.integers(len(objects)))]
        if way < 0.35:
            return _part(mask, rng)
        if way < 0.55:
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
    inside: BoolArray = result.astype(bool)
    return inside if inside.any() else np.ones((size, size), dtype=bool)


def _part(mask: BoolArray, rng: np.random.Generator) -> BoolArray:
    """What lies on one side of a line through a mask; never nothing."""
    y, x = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    place = x * np.cos(angle) + y * np.sin(angle)
    result = np.zeros_like(mask)
    chosen = place <= np.quantile(place, rng.uniform(0.25, 0.8))
    result[y[chosen], x[chosen]] = True
    return result
