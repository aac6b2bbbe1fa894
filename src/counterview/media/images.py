"""Images from and to files, through Pillow. Files are untrusted: format, size and content are checked."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from counterview.errors import ImageError
from counterview.media.files import atomic_write
from counterview.types import ImageLike, RgbImage, as_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""The formats that are opened; never the Pillow plug-ins that run external programs."""

MAX_PIXELS = 100_000_000
"""Size of the largest image that is decoded, in pixels; an 8K frame has 33 million."""


def open_image(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open and fully decode an image with Pillow; the mode is unchanged, EXIF rotation is not applied.

    Args:
        source: a path, or the bytes of an encoded image.
        max_pixels: larger images are refused before they are decoded.

    Returns:
        the decoded image, ``(width, height)`` in Pillow's order.

    Raises:
        ImageError: missing, not an image of :data:`FORMATS`, damaged, or too large.
    """
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise ImageError(
            "an image is read from a path or from bytes",
            found=type(source).__name__,
            fix="An array (H, W, 3) uint8 is an image already.",
        )
    path = None if isinstance(source, bytes) else Path(source)
    if path is not None and path.is_dir():
        raise ImageError("is a folder", path=path, expected="an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            handle: Any = io.BytesIO(source) if isinstance(source, bytes) else path
            image = Image.open(handle, formats=FORMATS)
    except FileNotFoundError:
        raise ImageError("no such file", path=path) from None
    except UnidentifiedImageError:
        raise ImageError("is not an image that can be read", path=path, expected=" or ".join(FORMATS)) from None
    except Image.DecompressionBombError:
        raise ImageError(
            "the image is too large",
            path=path,
            expected=f"at most {max_pixels} pixels",
            fix="Scale it down first.",
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError("cannot be opened", path=path, found=str(error) or type(error).__name__) from None
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise ImageError(
            "the image is too large",
            path=path,
            found=f"{width} x {height} pixels",
            expected=f"at most {max_pixels} pixels",
            fix="Scale it down first.",
        )
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        image.close()
        raise ImageError(
            "the image is damaged",
            path=path,
            found=str(error) or type(error).__name__,
            fix="Save or copy it again.",
        ) from None
    return image


def read_image(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> RgbImage:
    """Read an image as RGB, upright.

    EXIF rotation is applied; 16-bit, grey, palette and CMYK images are converted; transparent
    pixels are blended with white.

    Args:
        source: a path, or the bytes of an encoded image.
        max_pixels: larger images are refused before they are decoded.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ImageError: missing, not an image, damaged, or larger than ``max_pixels``.
    """
    return to_rgb(open_image(source, max_pixels=max_pixels))


def to_rgb(image: Image.Image) -> RgbImage:
    """Convert an opened image to ``(H, W, 3)`` uint8 RGB, upright. See :func:`read_image`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        deep = np.asarray(image).astype(np.float64)
        # 16-bit files use their full range; Pillow's own conversion would clip at 255.
        scale = 257.0 if image.mode.startswith("I;16") or deep.max(initial=0) > 255 else 1.0
        if image.mode == "F" and deep.max(initial=0) <= 1:
            scale = 1 / 255
        grey = np.clip(np.round(np.nan_to_num(deep) / scale), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


def write_image(path: str | os.PathLike[str], image: ImageLike, *, quality: int = 92) -> None:
    """Write an image as JPEG, PNG or WebP, atomically.

    Args:
        path: the file; its extension gives the format.
        image: ``(H, W, 3)`` uint8 RGB, or a view.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        ImageError: not an RGB array, or another extension.
    """
    formats: dict[str, Literal["JPEG", "PNG", "WEBP"]] = {
        ".jpg": "JPEG",
        ".jpeg": "JPEG",
        ".png": "PNG",
        ".webp": "WEBP",
    }
    kind = formats.get(Path(path).suffix.lower())
    if kind is None:
        raise ImageError("has no known image extension", path=path, expected=f"one of {', '.join(formats)}")
    encoded = Image.fromarray(as_rgb(image))
    options: dict[str, Any] = {} if kind == "PNG" else {"quality": quality}
    with atomic_write(path) as handle:
        encoded.save(handle, format=kind, **options)
