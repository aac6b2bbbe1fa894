"""Masks as PNG files: one object in black and white, or several as an index image with the DAVIS palette."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from counterview.errors import MaskError
from counterview.guard import library_errors
from counterview.media.files import atomic_write
from counterview.media.images import open_image, strips
from counterview.types import BoolImage, ObjectMask


@cache
def davis_palette() -> tuple[int, ...]:
    """The PASCAL VOC colour map that DAVIS uses, 768 values ``r, g, b, r, …`` made of the bits of each index."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index in range(256):
        rest = index
        for bit in range(7, -1, -1):
            for channel in range(3):
                colours[index, channel] |= ((rest >> channel) & 1) << bit
            rest >>= 3
    return tuple(colours.ravel().tolist())


def read_mask(path: str | os.PathLike[str]) -> BoolImage:
    """Read the mask of one object.

    Black is background. A grey image is thresholded at half its range; an image with two values, between them; an
    image with an alpha channel but one colour, by its alpha.

    Returns:
        ``(H, W)`` bool.

    Raises:
        ImageError: missing or damaged.
        MaskError: a colour image, or an index image of several objects.
    """
    image = open_image(path)
    with library_errors(MaskError, "is not a mask", path=path), np.errstate(all="ignore"):
        if image.mode == "P":
            index = np.asarray(image)
            values = np.flatnonzero(image.histogram()[:256])
            if len(values[values > 0]) > 1:
                raise MaskError(
                    "holds several objects",
                    path=path,
                    found=f"indices {values.tolist()[:8]}",
                    expected="one object",
                    fix="Save one object per file.",
                )
            return index > 0
        bands = _one_band(image, path)
        if bands.dtype == np.bool_:
            return bands
        low, high = bands.min(), bands.max()
        if not low <= high:  # NaN
            raise MaskError("holds values that are not numbers", path=path, expected="white on black")
        if low == high:
            return bands > 0
        if not ((bands > low) & (bands < high)).any():
            return bands > low
        top = 65535 if bands.dtype.itemsize > 1 and high > 255 else 255
        return bands > top // 2


def _one_band(image: Image.Image, path: str | os.PathLike[str]) -> NDArray[Any]:
    """The grey values ``(H, W)`` of an image, bool, uint8 or wider: its only band, its equal colours, or its alpha."""
    if len(image.getbands()) == 1:
        return np.asarray(image)
    width, height = image.size
    result = np.empty((height, width), dtype=np.uint8)
    first = np.asarray(image.crop((0, 0, 1, 1)))[0, 0]
    by_alpha = image.mode in ("LA", "RGBA") and all(
        bool((np.asarray(strip)[..., :-1] == first[:-1]).all()) for _, strip in strips(image)
    )
    for top, strip in strips(image):
        values = np.asarray(strip)
        colour = values[..., :3] if image.mode in ("RGB", "RGBA") else values[..., :1]
        if not by_alpha and not (colour == colour[..., :1]).all():
            raise MaskError(
                "is a colour image, not a mask",
                path=path,
                expected="white on black",
                fix="Save the mask as a grey or 1-bit PNG.",
            )
        result[top : top + strip.size[1]] = values[..., -1] if by_alpha else values[..., 0]
    return result


def read_index_png(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an image of object indices as DAVIS stores them.

    Returns:
        ``(H, W)`` uint8; 0 is background.

    Raises:
        ImageError: missing or damaged.
        MaskError: not a palette or grey image of 8 bits.
    """
    image = open_image(path)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode not in ("P", "L"):
        raise MaskError(
            "is not an index image",
            path=path,
            found=f"mode {image.mode}",
            expected="palette or 8-bit grey",
        )
    return np.array(image, dtype=np.uint8)


def read_index_masks(path: str | os.PathLike[str]) -> dict[int, ObjectMask]:
    """The masks of an index image, by object index.

    Raises:
        ImageError: missing or damaged.
        MaskError: not a palette or grey image of 8 bits.
    """
    labels = read_index_png(path)
    return {int(i): ObjectMask.from_array(labels == i) for i in np.unique(labels) if i > 0}


def write_mask_png(path: str | os.PathLike[str], mask: BoolImage | ObjectMask) -> None:
    """Write the mask of one object, 255 inside and 0 outside, atomically.

    Args:
        path: the file, with the extension ``.png``.
        mask: ``(H, W)`` bool, or run lengths.

    Raises:
        MaskError: another extension, or an array that is not a mask.
    """
    array = mask.to_array() if isinstance(mask, ObjectMask) else ObjectMask.from_array(mask).to_array()
    _save(path, Image.fromarray(array.astype(np.uint8) * 255))


def write_index_png(path: str | os.PathLike[str], labels: NDArray[np.integer] | Sequence[ObjectMask]) -> None:
    """Write an index image with the DAVIS palette, atomically.

    Args:
        path: the file, with the extension ``.png``.
        labels: ``(H, W)`` integers from 0 to 255, or masks of one size, which get the indices 1, 2, …; where they
            overlap, the later one wins.

    Raises:
        MaskError: an index out of range, masks of several sizes, or another extension.
    """
    if not isinstance(labels, np.ndarray):
        masks = list(labels)
        if not masks or len(masks) > 255 or len({m.size_hw for m in masks}) > 1:
            raise MaskError("an index image takes 1 to 255 masks of one size", found=f"{len(masks)} masks")
        index = np.zeros(masks[0].size_hw, dtype=np.uint8)
        for number, mask in enumerate(masks, start=1):
            index[mask.to_array()] = number
        labels = index
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() > 255:
        raise MaskError("an index image is 2-D, of integers from 0 to 255", found=f"{labels.dtype} {labels.shape}")
    image = Image.fromarray(labels.astype(np.uint8), mode=None).convert("L")
    image.putpalette(davis_palette())
    _save(path, image)


def _save(path: str | os.PathLike[str], image: Image.Image) -> None:
    if Path(path).suffix.lower() != ".png":
        raise MaskError("masks are written as PNG", path=path)
    with atomic_write(path) as handle:
        image.save(handle, format="PNG", optimize=False)
