"""Images and masks on their way into the model, and masks on their way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from counterview.errors import MaskError
from counterview.types import BoolImage, ObjectMask, RgbImage, as_rgb

MAX_RESIZED_PX = 16_000_000
"""Pixels of masks that are resized at a time, 64 MB of them."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_pixels(image: RgbImage, size: int) -> Tensor:
    """An image ``(H, W, 3)`` uint8 as SAM 2 takes it: ``(3, size, size)`` float32.

    It is stretched to the square with Pillow's antialiased bicubic filter on 8-bit values, then normalised with
    ImageNet's statistics, as the released code does.

    Raises:
        ImageError: not a uint8 RGB array.
    """
    return normalise(torch.from_numpy(np.array(to_square(image, size))).permute(2, 0, 1).float() / 255)


def to_square(image: RgbImage, size: int) -> RgbImage:
    """The first step of :func:`to_pixels`: an image ``(H, W, 3)`` uint8 stretched to ``(size, size, 3)``.

    Raises:
        ImageError: not a uint8 RGB array.
    """
    image = as_rgb(image)
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size)))


def normalise(values: Tensor) -> Tensor:
    """Values in 0..1 ``(..., 3, H, W)`` normalised with ImageNet's statistics."""
    mean, std = (torch.tensor(v, device=values.device)[:, None, None] for v in (MEAN, STD))
    return (values - mean) / std


def soft_mask(mask: BoolImage | Tensor, size: int) -> Tensor:
    """The fraction of each cell of a ``(size, size)`` grid that a mask ``(H, W)`` fills, float32.

    Bilinear with antialias.
    """
    values = torch.as_tensor(np.asarray(mask), dtype=torch.float32)[None, None]
    if values.shape[-2:] == (size, size):
        return values[0, 0]
    return functional.interpolate(values, size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0, 0]


def to_query_mask(mask: BoolImage | Tensor, size: int) -> Tensor:
    """A mask ``(H, W)`` as the model takes it: ``(size, size)`` float32, 1 in cells at least half full, else 0.

    A mask so thin that nothing would be left keeps the cells that are at least half as full as the fullest.
    """
    soft = soft_mask(mask, size)
    hard = soft >= 0.5
    if not hard.any() and soft.max() > 0:
        hard = soft >= soft.max() / 2
    return hard.float()


def as_mask(mask: Any, size_hw: tuple[int, int], name: str) -> BoolImage | None:
    """Check a query mask: ``(H, W)`` bool (or :class:`ObjectMask`) of its image's size.

    Args:
        mask: the mask, or None.
        size_hw: height and width of the image.
        name: of the object, for the error.

    Returns:
        ``(H, W)`` bool; None if there is no mask, or none of its pixels is set.

    Raises:
        MaskError: another type, shape or size.
    """
    if mask is None:
        return None
    if isinstance(mask, ObjectMask):
        mask = mask.to_array()
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
        found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise MaskError(f"the query mask of {name!r} is not a boolean mask", found=found, expected="bool (H, W)")
    if mask.shape != tuple(size_hw):
        raise MaskError(
            f"the query mask of {name!r} has another size than its image",
            found=f"{mask.shape[0]}x{mask.shape[1]}",
            expected=f"{size_hw[0]}x{size_hw[1]} (height x width)",
            fix="Resize the mask with counterview.masks.geometry.resize_nearest.",
        )
    return mask if mask.any() else None


def to_native(logits: Tensor, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask logits ``(h, w)`` as a mask ``(H, W)`` of size ``size_hw``: bilinear, then above 0."""
    return to_native_sizes(logits[None], [size_hw])[0]


def to_native_sizes(logits: Tensor, sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.bool_]]:
    """:func:`to_native` of several masks: those of one size are resized, and leave the device, together.

    Args:
        logits: ``(N, h, w)``.
        sizes: height and width of each mask.

    Returns:
        ``(H, W)`` bool each.
    """
    masks: dict[int, NDArray[np.bool_]] = {}
    for size_hw in dict.fromkeys(sizes):
        rows = [row for row, size in enumerate(sizes) if size == size_hw]
        most = max(1, MAX_RESIZED_PX // (size_hw[0] * size_hw[1]))
        for first in range(0, len(rows), most):
            part = rows[first : first + most]
            values = logits[None, part].float()
            full = functional.interpolate(values, size=tuple(size_hw), mode="bilinear", align_corners=False)[0]
            masks.update(zip(part, (full > 0).cpu().numpy(), strict=True))
    return [masks[row] for row in range(len(sizes))]
