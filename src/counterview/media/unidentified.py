"""What a file is that is not an image, and what to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from counterview.errors import ImageError


def unidentified(handle: IO[bytes], path: Path | None, formats: Sequence[str]) -> ImageError:
    """The error that a file is not an image, with what it may be instead.

    Args:
        handle: the file, open for reading.
        path: its path, for the message.
        formats: names of the formats that are read.
    """
    handle.seek(0)
    head = handle.read(32)
    brands = {head[at : at + 4] for at in range(8, 32, 4)} if head[4:8] == b"ftyp" else set()
    fix = None
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1"} and b"avif" not in brands:
        fix = (
            "It is HEIC: install pillow-heif and call pillow_heif.register_heif_opener() first, or convert it to JPEG."
        )
    elif b"avif" in brands:
        fix = "It is AVIF, which this build of Pillow does not read: convert it to PNG."
    elif head[4:8] == b"ftyp" or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF"):
        fix = "It may be a video: follow objects with counterview follow, or match VideoReader(path).frame_at(seconds)."
    return ImageError("is not an image that can be read", path=path, expected=" or ".join(formats), fix=fix)
