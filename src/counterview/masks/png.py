"""Masks as PNG files: one object in black and white, or several as an index image with the DAVIS palette."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from counterview.errors import MaskError
from counterview.guard import library_errors
from counterview.mask_formats import PNG_COMPRESSION
from counterview.masks.values import classify, object_mask
from counterview.media.files import atomic_write
from counterview.media.images import TURNS, open_image, remaining_orientation, strips
from counterview.types import BoolImage, ObjectMask

_log = logging.getLogger(__name__)
_SAVE = "Save the mask as a grey or 1-bit PNG, white on black."


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


def read_mask(path: str | os.PathLike[str], *, label: int | None = None) -> BoolImage:
    """Read the mask of one object, upright: an EXIF orientation of the file is applied.

    Black is background. Two values are one object, a soft edge is thresholded at half of the maximum, 255 beside small
    labels is void, and an image of two colours, one of them black, is its other colour. Of a cut-out, the alpha channel
    is the mask. Several labels need ``label``; what is ambiguous is refused. What was decided is logged (INFO).

    Args:
        path: the file.
        label: the value of the object in a label image, or its index in a palette image.

    Returns:
        ``(H, W)`` bool.

    Raises:
        ImageError: missing or damaged.
        MaskError: several objects and no label, no such label, or an image that is not a mask.
    """
    found = open_mask(path, label=label)
    for note in found.notes:
        _log.info("%s: %s", path, note)
    turn = TURNS.get(found.orientation)
    return found.raw if turn is None else np.ascontiguousarray(turn(found.raw))


@dataclass(frozen=True)
class MaskFile:
    """The mask of a file as its pixels are stored.

    Attributes:
        raw: ``(H, W)`` bool, before any orientation is applied.
        orientation: EXIF orientation of the file, 1 if it has none.
        notes: what was decided on the values of the pixels.
    """

    raw: BoolImage
    orientation: int
    notes: tuple[str, ...]


def open_mask(path: str | os.PathLike[str], *, label: int | None = None) -> MaskFile:
    """Read the mask of one object as it is stored. Arguments and errors as for :func:`read_mask`."""
    image = open_image(path)
    with library_errors(MaskError, "is not a mask", path=path), np.errstate(all="ignore"):
        if label is not None and image.format == "JPEG":
            raise MaskError("JPEG changes labels", path=path, fix="Save the label image as PNG.")
        values, note, are_ids = _one_band(image, path, label)
        mask, decided = object_mask(values, path, label, ids=are_ids)
    return MaskFile(mask, remaining_orientation(image), tuple(text for text in (note, decided) if text))


def _one_band(image: Image.Image, path: str | os.PathLike[str], label: int | None) -> tuple[NDArray[Any], str, bool]:
    """The values ``(H, W)`` of an image, a note on where they come from, and whether they are labels."""
    if image.mode == "P":
        return _palette_indices(image, path, label)
    if len(image.getbands()) == 1:
        return np.asarray(image), "", False
    if label is not None and image.mode not in ("LA", "RGB", "RGBA"):
        raise MaskError("is a colour image, which has no labels", path=path, fix="Save it as a grey or palette PNG.")
    if "A" in image.getbands() and (alpha := _alpha(image, path)) is not None:
        # 255 is opaque there, never void: that rule is for 8 bits.
        return alpha.astype(np.uint16), "the alpha channel is taken as the mask", False
    grey = _grey(image)
    if grey is not None:
        return grey, "", False
    if label is not None or image.mode not in ("RGB", "RGBA"):
        raise _colour_error(path, None)
    return _of_two_colours(image, path)


def _palette_indices(
    image: Image.Image, path: str | os.PathLike[str], label: int | None
) -> tuple[NDArray[Any], str, bool]:
    """The indices of a palette image. A ramp of greys is a grey image; black of two colours is the background."""
    indices = np.asarray(image)
    used = np.flatnonzero(image.histogram()[:256]).tolist()
    palette = np.zeros((256, 3), dtype=np.uint8)
    stored = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)[:256]
    palette[: len(stored)] = stored
    if len(used) > 2 and all((palette[index] == index).all() for index in used):
        return indices, "", False
    if label is None and len(used) == 2:
        black = [index for index in used if not palette[index].any()]
        if used[0] != 0 or (black and black != [0]) or not black:
            raise MaskError(
                "does not say which of its two colours is the object",
                path=path,
                found=", ".join(f"index {index}: RGB {tuple(palette[index].tolist())}" for index in used),
                expected="index 0 black, the background",
                fix="Choose the object with --label N, or with read_mask(path, label=N), or save it white on black.",
            )
    return indices, "", True


def _grey(image: Image.Image) -> NDArray[np.uint8] | None:
    """The equal colours ``(H, W)`` of an image of several bands; ``None`` if they differ anywhere."""
    width, height = image.size
    if image.mode == "CMYK" or image.mode not in ("LA", "RGB", "RGBA"):
        return None
    result = np.empty((height, width), dtype=np.uint8)
    for top, strip in strips(image):
        values = np.asarray(strip)
        colour = values[..., :3] if image.mode in ("RGB", "RGBA") else values[..., :1]
        if not (colour == colour[..., :1]).all():
            return None
        result[top : top + strip.size[1]] = values[..., 0]
    return result


def _alpha(image: Image.Image, path: str | os.PathLike[str]) -> NDArray[np.uint8] | None:
    """The alpha channel ``(H, W)`` of a cut-out; ``None`` if the image is opaque.

    Raises:
        MaskError: fully transparent, nowhere transparent but not opaque, or with another mask in its colours.
    """
    alpha = np.asarray(image.getchannel("A"))
    low, high = int(alpha.min()), int(alpha.max())
    if low == high == 255:
        return None
    if low == high:
        raise MaskError("has the same transparency everywhere", path=path, found=f"alpha {low}", fix=_SAVE)
    if low > 0:
        raise MaskError("is nowhere transparent, so its alpha channel is no mask", path=path, fix=_SAVE)
    colours = _colours(image, visible=True)
    if colours is not None and len(colours) == 2 and all(r == g == b for r, g, b in colours):
        low_grey, high_grey = sorted(colour[0] for colour in colours)
        drawn = np.asarray(image.getchannel(0)) > (low_grey + high_grey) // 2
        if not np.array_equal(drawn & (alpha > high // 2), alpha > high // 2):
            raise MaskError("its colours and its alpha channel are two different masks", path=path, fix=_SAVE)
    return alpha


def _colours(image: Image.Image, *, visible: bool = False) -> list[tuple[int, int, int]] | None:
    """The colours of an image, at most three of them; of pixels that are not transparent only, if ``visible``."""
    found: set[int] = set()
    for _, strip in strips(image):
        values = np.asarray(strip.convert("RGBA"))
        packed = values[..., 0].astype(np.int64) << 16 | values[..., 1].astype(np.int64) << 8 | values[..., 2]
        packed = packed[values[..., 3] > 0] if visible else packed
        found.update(np.unique(packed)[:3].tolist())
    return [(c >> 16, c >> 8 & 255, c & 255) for c in sorted(found)[:3]]


def _of_two_colours(image: Image.Image, path: str | os.PathLike[str]) -> tuple[NDArray[Any], str, bool]:
    colours = _colours(image) or []
    if len(colours) != 2 or colours[0] != (0, 0, 0):
        raise _colour_error(path, colours)
    mask = np.asarray(np.asarray(image.convert("RGB")).any(axis=2))
    return mask, f"the colour RGB {colours[1]} is taken as the object, black as background", False


def _colour_error(path: str | os.PathLike[str], colours: list[tuple[int, int, int]] | None) -> MaskError:
    found = None
    if colours is not None:
        found = f"RGB {colours[0]} and {colours[1]}" if len(colours) == 2 else "more than two colours"
    return MaskError(
        "is a colour image, not a mask", path=path, found=found, expected="white on black, or one colour on black",
        fix=_SAVE,
    )  # fmt: skip


def read_index_png(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an image of object indices as DAVIS stores them.

    Returns:
        ``(H, W)`` uint8; 0 is background, and 255 is void (of no object) beside indices up to 32.

    Raises:
        ImageError: missing or damaged.
        MaskError: not a palette or grey image of 8 bits, or one whose values are those of a soft edge.
    """
    indices, is_soft, _ = _indices(path)
    if is_soft:
        raise MaskError(
            "is the mask of one object with soft edges, not an index image", path=path, fix="Read it with read_mask."
        )
    return indices


def read_object_values(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], int, tuple[str, ...]]:
    """Read an index image, or a mask of one object, as stored; of soft edges, what is above half becomes 255.

    Returns:
        ``(H, W)`` uint8 as of :func:`read_index_png`, the EXIF orientation of the file, and notes.

    Raises:
        ImageError: missing or damaged.
        MaskError: not a palette or grey image of 8 bits, or neither a mask nor labels.
    """
    indices, is_soft, orientation = _indices(path)
    if not is_soft:
        return indices, orientation, ()
    mask, note = object_mask(indices, path)
    return np.where(mask, np.uint8(255), np.uint8(0)), orientation, (note,)


def _indices(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], bool, int]:
    """The values of an index image, whether they are those of soft edges, and the orientation that is left to apply."""
    image = open_image(path)
    if image.mode not in ("P", "L", "1"):
        raise MaskError(
            "is not an index image",
            path=path,
            found=f"mode {image.mode}",
            expected="palette or 8-bit grey",
        )
    indices = np.array(image, dtype=np.uint8)
    is_soft = image.mode == "L" and classify(indices, path).kind == "soft"
    return indices, is_soft, remaining_orientation(image)


def read_index_masks(path: str | os.PathLike[str]) -> dict[int, ObjectMask]:
    """The masks of an index image, by object index. Void, 255 beside small indices, is no object.

    Raises:
        ImageError: missing or damaged.
        MaskError: as for :func:`read_index_png`.
    """
    labels = read_index_png(path)
    return {int(i): ObjectMask.from_array(labels == i) for i in object_values(labels, path)}


def object_values(indices: NDArray[np.uint8], path: str | os.PathLike[str]) -> tuple[int, ...]:
    """The indices of objects in an index image, ascending, without background and void.

    Args:
        indices: ``(H, W)`` as :func:`read_index_png` returns them.
        path: for the messages.
    """
    return tuple(int(value) for value in classify(indices, path, ids=True).labels)


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
        image.save(handle, format="PNG", compress_type=PNG_COMPRESSION)
