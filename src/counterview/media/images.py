"""Images from and to files, through Pillow. Files are untrusted: format, size and content are checked."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from counterview.errors import ImageError
from counterview.guard import discard_native_stderr, library_errors, regular_file
from counterview.media.files import atomic_write
from counterview.media.unidentified import unidentified
from counterview.types import ImageLike, RgbImage, as_rgb

_T = TypeVar("_T")
logger = logging.getLogger(__name__)

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "TIFF",
    "PPM",
    *(("AVIF",) if "avif" in features.modules and features.check("avif") else ()),
)
"""The formats that are opened, and HEIF once its plug-in is registered; never the Pillow plug-ins that run external
programs."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in the grey value (ITU-R BT.601)."""
MAX_PIXELS = 100_000_000
"""Size of the largest image that is decoded, in pixels; an 8K frame has 33 million."""

MAX_TILE_PIXELS = 1 << 24
"""Size of the largest tile of a TIFF file: libtiff allocates a whole one, however small the image."""

MAX_SCANS = 200
"""Scans of a progressive JPEG file at most: each of them goes over all pixels, and an empty one has ten bytes."""

_STRIP_PIXELS = 1 << 22
_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')

TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
"""What makes the pixels ``(H, W, ...)`` of an image upright, by its EXIF orientation; 1 is upright."""

_TIFF_ORIENTATION, _BITS, _LOST, _PATH = "tiff_orientation", "significant_bits", "low_bytes_lost", "path"
# Our keys of Image.info.


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
    path = None if isinstance(source, bytes) else regular_file(source, ImageError)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_warnings())
        with library_errors(ImageError, "cannot be opened", path=path):
            handle: IO[bytes]
            if isinstance(source, bytes):
                handle = io.BytesIO(source)
            else:
                handle = stack.enter_context(Path(source).open("rb"))
            try:
                image: Image.Image = Image.open(handle, formats=_formats())
            except UnidentifiedImageError:
                raise unidentified(handle, path, FORMATS) from None
            except Image.DecompressionBombError:
                raise _too_large(path, None, max_pixels) from None
        width, height = image.size
        if width * height > max_pixels:
            raise _too_large(path, f"{width} x {height} pixels", max_pixels)
        with library_errors(ImageError, "the image is damaged", path=path, fix="Save or copy it again."):
            _check_cost(image, handle, path)
            facts = _stored_facts(image, handle)
            if image.format == "TIFF":
                stack.enter_context(discard_native_stderr())
            image.load()
            image.info.update({**facts, _PATH: "an image" if path is None else str(path)})
    return image


def _formats() -> tuple[str, ...]:
    return (*FORMATS, "HEIF") if "HEIF" in Image.OPEN else FORMATS


def _stored_facts(image: Image.Image, handle: IO[bytes]) -> dict[str, Any]:
    """What the header of an image says, and Pillow drops when it loads the pixels."""
    facts: dict[str, Any] = {}
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        facts[_TIFF_ORIENTATION] = tags.get(_ORIENTATION, 1)
        bits, largest = tags.get(258, (16,)), tags.get(281, 65535)  # BitsPerSample, MaxSampleValue
        stated = [
            value for value in (*np.atleast_1d(bits), *np.atleast_1d(largest)) if isinstance(value, (int, np.integer))
        ]
        if len(stated) == 2 and _is_deep(image):
            facts[_BITS] = min(int(stated[0]), int(stated[1]).bit_length())
    elif image.format == "PNG" and image.mode.startswith("I"):
        facts[_BITS] = _png_significant_bits(handle)
    # Of colour images of 16 bits, Pillow keeps the high bytes.
    facts[_LOST] = len(image.getbands()) > 1 and ";16" in repr(getattr(image, "tile", ""))
    return facts


def _png_significant_bits(handle: IO[bytes]) -> int:
    """The first value of a PNG file's sBIT chunk; 16 if it has none."""
    position = handle.tell()
    at, bits = 8, 16
    try:
        for _ in range(1000):  # chunks before the pixels
            handle.seek(at)
            head = handle.read(9)
            if len(head) < 9 or head[4:8] == b"IDAT":
                break
            if head[4:8] == b"sBIT":
                bits = head[8] if 1 <= head[8] <= 16 else 16
                break
            at += struct.unpack(">I", head[:4])[0] + 12
    finally:
        handle.seek(position)
    return bits


def _too_large(path: Path | None, found: str | None, max_pixels: int) -> ImageError:
    expected = f"at most {max_pixels} pixels"
    return ImageError("the image is too large", path=path, found=found, expected=expected, fix="Scale it down first.")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # Pillow's alone: of several threads, one may leave these filters behind.
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def _check_cost(image: Image.Image, handle: IO[bytes], path: Path | None) -> None:
    """Refuse an opened image that takes much more time or memory than its pixels do."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        tile = [tags.get(tag, 0) for tag in (322, 323)]  # width and length of a tile
        if not all(isinstance(side, int) for side in tile) or tile[0] * tile[1] > MAX_TILE_PIXELS:
            raise ImageError("the tiles of the image are too large", path=path, found=tile)
    elif image.format in ("JPEG", "MPO"):
        position = handle.tell()
        handle.seek(0)
        scans = handle.read().count(b"\xff\xda")  # a byte FF of compressed data is followed by 00
        handle.seek(position)
        if scans > MAX_SCANS:
            raise ImageError("the image has too many scans", path=path, found=scans, expected=f"at most {MAX_SCANS}")


def read_image(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> RgbImage:
    """Read an image as RGB, upright.

    EXIF rotation is applied; 16-bit, grey, palette and CMYK images are converted; transparent
    pixels are blended with white. A damaged EXIF block counts as none, as in any viewer. Values of 10 or 12 bits in a
    16-bit file are scaled by what the file says, or by their maximum, with a warning.

    Args:
        source: a path, or the bytes of an encoded image.
        max_pixels: larger images are refused before they are decoded.

    Returns:
        ``(H, W, 3)`` uint8, writable and C-contiguous.

    Raises:
        ImageError: missing, not an image, damaged, colours of at most 12 bits in 16, or larger than ``max_pixels``.
    """
    return read_oriented(source, max_pixels=max_pixels)[0]


def read_oriented(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[RgbImage, int]:
    """Read an image as RGB, upright, and the EXIF orientation of its file. Arguments and errors: :func:`read_image`.

    Returns:
        ``(H, W, 3)`` uint8, and the orientation, 1 to 8, that the pixels of the file have; 1 is upright.
    """
    image = open_image(source, max_pixels=max_pixels)
    try:
        return to_rgb(image), stored_orientation(image)
    except ImageError as error:
        place = None if isinstance(source, bytes) else source
        raise ImageError(error.problem, path=place, found=error.found, fix=error.fix) from None


def to_rgb(image: Image.Image) -> RgbImage:
    """Convert an opened image to ``(H, W, 3)`` uint8 RGB, upright. See :func:`read_image`."""
    with library_errors(ImageError, "the image cannot be converted to RGB"), np.errstate(all="ignore"):
        width, height = image.size
        scale = _scale(image)
        rgb = np.empty((height, width, 3), dtype=np.uint8)
        for top, strip in strips(image):
            rgb[top : top + strip.size[1]] = _strip_to_rgb(strip, scale)
        if image.info.get(_LOST) and not (rgb > 15).any():
            raise ImageError(
                "the colours use at most 12 of 16 bits",
                fix="Scale the values to 16 bits, or save it with 8 bits a channel.",
            )
        turn = TURNS.get(remaining_orientation(image))
        return rgb if turn is None else np.ascontiguousarray(turn(rgb))


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image in strips of a few million pixels, each with its first row: conversions take several times its memory.

    Args:
        image: decoded, of any mode.
    """
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        whole = top == 0 and rows >= height
        yield top, image if whole else image.crop((0, top, width, min(height, top + rows)))


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _scale(image: Image.Image) -> float:
    """Divisor that brings the values of an image of more than 8 bits to 0 to 255.

    Files of 16 bits may hold 10 or 12 bits. Where the file says so, that counts; else what the largest value needs, if
    it is at most 12 bits. Pillow's own conversion would clip at 255.
    """
    if not _is_deep(image):
        return 257.0
    top = max(float(np.fmax.reduce(np.asarray(strip), axis=None, initial=0)) for _, strip in strips(image))
    if image.mode == "F":
        return 1 / 255 if top <= 1 else 257.0 if top > 255 else 1.0
    stated, name = image.info.get(_BITS, 16), image.info.get(_PATH, "an image")
    if top >= 65536 or top < 1 or image.format == "PPM":  # Pillow scales the latter by the file's own maximum
        return 257.0
    if 1 <= stated < 16 and top < 1 << stated and not _fills_16_bits(image, stated):
        return ((1 << stated) - 1) / 255
    needed = int(top).bit_length()
    if stated < 16 or needed > 14:
        return 257.0
    if needed > 12:
        logger.info("%s: the values use %d of 16 bits and are read as 16 bits", name, needed)
        return 257.0
    bits = max(8, needed + needed % 2)
    if image.mode.startswith("I;16") or bits > 8:
        logger.warning("%s: the values end at %d, so they are read as %d of 16 bits", name, top, bits)
    return ((1 << bits) - 1) / 255


def _fills_16_bits(image: Image.Image, bits: int) -> bool:
    """Whether values of fewer bits are scaled to 16, as PNG wants it: shifted, with zeros or their high bits below."""
    shift = 16 - bits
    for _, strip in strips(image):
        values = np.asarray(strip).astype(np.int64)
        samples = values >> shift
        low = samples >> (bits - shift) if bits >= shift else samples
        if (values & ((1 << shift) - 1)).any() and not np.array_equal(samples << shift | low, values):
            return False
    return True


def _strip_to_rgb(image: Image.Image, scale: float) -> NDArray[np.uint8]:
    if _is_deep(image):
        deep = np.asarray(image).astype(np.float64)
        grey = np.clip(np.round(np.nan_to_num(deep) / scale), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def stored_orientation(image: Image.Image) -> int:
    """EXIF orientation of an image as its file holds it, 1 to 8; 1 if there is none that can be read.

    Pillow's own reader decodes every tag, and fails if any is damaged.

    Args:
        image: as :func:`open_image` returns it.
    """
    if image.format == "TIFF":
        value = image.info.get(_TIFF_ORIENTATION, 1)
        return value if value in TURNS else 1
    block: Any = image.info.get("exif")
    if block is None and "Raw profile type exif" in image.info:
        with contextlib.suppress(ValueError):
            block = bytes.fromhex("".join(str(image.info["Raw profile type exif"]).split("\n")[3:]))
    value = None
    if isinstance(block, bytes):
        with contextlib.suppress(struct.error):
            value = exif_orientation(block)
    if value is None:
        xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
        xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
        found = _XMP_ORIENTATION.search(xmp) if isinstance(xmp, bytes) else None
        value = int(found[1]) if found else 1
    return value if value in TURNS else 1


def remaining_orientation(image: Image.Image) -> int:
    """The orientation that is still to be applied to the pixels: TIFF files are turned when Pillow loads them."""
    return 1 if image.format == "TIFF" else stored_orientation(image)


def exif_orientation(block: bytes) -> int | None:
    """The orientation in an EXIF block, a TIFF file of tags alone; ``None`` if it holds none.

    Args:
        block: with or without ``Exif`` and two zero bytes in front.

    Raises:
        struct.error: the block ends within its list of tags.
    """
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return None
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    value = None
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", block, at)
        form = {1: "B", 3: "H", 4: "I"}.get(kind)
        if tag == _ORIENTATION and values == 1 and form is not None:
            (value,) = struct.unpack_from(order + form, block, at + 8)
    return value


_WRITTEN: dict[str, Literal["JPEG", "PNG", "WEBP"]] = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
}


def check_image_name(path: str | os.PathLike[str]) -> Literal["JPEG", "PNG", "WEBP"]:
    """The format that :func:`write_image` writes under a name.

    Raises:
        ImageError: another extension.
    """
    kind = _WRITTEN.get(Path(path).suffix.lower())
    if kind is None:
        raise ImageError("has no known image extension", path=path, expected=f"one of {', '.join(_WRITTEN)}")
    return kind


def write_image(path: str | os.PathLike[str], image: ImageLike, *, quality: int = 92, lossless: bool = False) -> None:
    """Write an image as JPEG, PNG or WebP, atomically.

    Args:
        path: the file; its extension gives the format.
        image: ``(H, W, 3)`` uint8 RGB, or a view.
        quality: of JPEG and WebP, 1 to 100.
        lossless: write WebP without loss; JPEG always has some, PNG never.

    Raises:
        ImageError: not an RGB array, or another extension.
        OutputError: the file cannot be written.
    """
    kind = check_image_name(path)
    encoded = Image.fromarray(as_rgb(image))
    options: dict[str, Any] = {} if kind == "PNG" else {"quality": quality}
    if kind == "WEBP" and lossless:
        options = {"lossless": True, "exact": True}
    # Encoded in memory: an encoder that writes to a full disk reports a number of its own instead of the reason.
    buffer = io.BytesIO()
    encoded.save(buffer, format=kind, **options)
    with atomic_write(path) as handle:
        handle.write(buffer.getvalue())


def image_orientation(path: str | os.PathLike[str]) -> int:
    """EXIF orientation of the pixels of a file, 1 to 8, from its header. Errors as for :func:`image_size`."""
    return _from_header(path, stored_orientation)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of the upright image in a file, in pixels, from its header alone.

    Raises:
        ImageError: missing, or not an image of :data:`FORMATS`.
    """

    def upright(image: Image.Image) -> tuple[int, int]:
        width, height = image.size
        return (width, height) if stored_orientation(image) in (5, 6, 7, 8) else (height, width)

    return _from_header(path, upright)


def _from_header(path: str | os.PathLike[str], read: Callable[[Image.Image], _T]) -> _T:
    try:
        with _without_warnings(), Image.open(path, formats=_formats()) as image:
            if image.format == "TIFF":
                image.info[_TIFF_ORIENTATION] = image.tag_v2.get(_ORIENTATION, 1)  # type: ignore[attr-defined]
            elif image.format == "PNG":
                image.getexif()  # may lie behind the pixels
            return read(image)
    except Exception as error:  # Pillow's readers of headers raise many kinds
        raise ImageError("is not an image that can be read", path=path, found=type(error).__name__) from None
