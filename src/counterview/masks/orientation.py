"""A mask beside an image that is stored turned or mirrored: was it drawn on the upright image, or on the stored pixels?

The sizes say it, unless both fit. Then only the mask's own EXIF orientation does, or the caller.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from counterview.errors import ConfigError, MaskError
from counterview.masks.png import open_mask
from counterview.media.images import TURNS, read_oriented
from counterview.types import BoolImage, RgbImage

MaskOrientation = Literal["auto", "upright", "raw"]
"""What a mask was drawn on: decided by its size and its EXIF orientation, the upright image, or the stored pixels."""

_FIX = (
    "Say which it was drawn on: --mask-orientation upright (as viewers show the image) or raw, in Python orientation=."
)
_log = logging.getLogger(__name__)


def read_image_and_mask(
    image: str | os.PathLike[str],
    mask: str | os.PathLike[str],
    *,
    label: int | None = None,
    orientation: MaskOrientation = "auto",
) -> tuple[RgbImage, BoolImage]:
    """Read an image and the mask of one of its objects, both upright. What was decided is logged (INFO).

    Args:
        image: path of the image.
        mask: path of the mask.
        label: the value of the object in a label image.
        orientation: what the mask was drawn on, for an image whose file has an EXIF orientation: ``upright``, the
            image as viewers show it, ``raw``, its stored pixels, or ``auto``: what its size and its own EXIF
            orientation say.

    Returns:
        ``(H, W, 3)`` uint8 and ``(H, W)`` bool, of one size.

    Raises:
        ImageError: a file that is missing or damaged.
        MaskError: no mask, of another size than the image, or one that fits both ways.
        ConfigError: an unknown ``orientation``.
    """
    pixels, turned = read_oriented(image)
    size_hw = (int(pixels.shape[0]), int(pixels.shape[1]))
    found, notes = read_mask_of(mask, size_hw, turned, label=label, orientation=orientation)
    for note in notes:
        _log.info("%s: %s", mask, note)
    if found.shape != size_hw:
        raise MaskError("the mask is of another size than the image", path=mask, found=found.shape, expected=size_hw)
    return pixels, found


def read_mask_of(
    path: str | os.PathLike[str],
    image_hw: tuple[int, int],
    image_orientation: int = 1,
    *,
    label: int | None = None,
    orientation: MaskOrientation = "auto",
) -> tuple[BoolImage, tuple[str, ...]]:
    """Read the mask of an object of an image that has been read, upright.

    Args:
        path: of the mask.
        image_hw: height and width of the upright image, in pixels.
        image_orientation: EXIF orientation of the image's file, as :func:`counterview.media.images.read_oriented`
            returns it.
        label: the value of the object in a label image.
        orientation: as for :func:`read_image_and_mask`.

    Returns:
        ``(H, W)`` bool, and notes on what was decided. A mask of another size than the image is returned as it is.

    Raises:
        ImageError: missing or damaged.
        MaskError: no mask of one object, or one that fits both ways.
        ConfigError: an unknown ``orientation``.
    """
    if orientation not in get_args(MaskOrientation):
        raise ConfigError("unknown orientation of a mask", found=orientation, expected="auto, upright or raw")
    file = open_mask(path, label=label)
    placed, note = place_mask(
        file.raw, file.orientation, image_hw, image_orientation, orientation=orientation, path=path
    )
    return placed, (*file.notes, note) if note else file.notes


def place_mask(
    raw: NDArray[Any],
    mask_orientation: int,
    image_hw: tuple[int, int],
    image_orientation: int,
    *,
    path: str | os.PathLike[str],
    orientation: MaskOrientation = "auto",
    fix: str = _FIX,
    fits: Callable[[tuple[int, int], tuple[int, int]], bool] = lambda size, other: size == other,
) -> tuple[NDArray[Any], str]:
    """Turn a mask as its image is turned, or not.

    Args:
        raw: ``(H, W)``, as stored.
        mask_orientation: EXIF orientation of the mask's file.
        image_hw: height and width of the upright image, in pixels.
        image_orientation: EXIF orientation of the image's file.
        path: of the mask, for the messages.
        orientation: as for :func:`read_image_and_mask`.
        fix: for the message: what to do where both fit.
        fits: whether a mask of one size belongs to an image of another.

    Returns:
        the mask upright, and a note, or an empty one.

    Raises:
        MaskError: the mask fits the upright image and the stored pixels.
    """
    own, images = _turned(raw, mask_orientation), _turned(raw, image_orientation)
    if orientation == "raw":
        return images, f"the mask is turned as the image is (EXIF orientation {image_orientation})"
    if orientation == "upright" or mask_orientation == image_orientation:
        return own, ""
    fits_own, fits_images = (fits((m.shape[0], m.shape[1]), image_hw) for m in (own, images))
    if image_orientation == 1:
        return own, f"the EXIF orientation {mask_orientation} of the mask is applied"
    if fits_own and fits_images and not np.array_equal(own, images):
        raise MaskError(
            "fits both the upright image and its stored pixels",
            path=path,
            found=f"EXIF orientation {image_orientation} of the image, {mask_orientation} of the mask",
            fix=fix,
        )
    if fits_images and not fits_own:
        note = f"turned as the image is (EXIF orientation {image_orientation})"
        return images, f"the mask has the size of the stored image, so it is {note}"
    return own, f"the EXIF orientation {mask_orientation} of the mask is applied" if mask_orientation != 1 else ""


def _turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    turn = TURNS.get(orientation)
    return array if turn is None else np.ascontiguousarray(turn(array))
