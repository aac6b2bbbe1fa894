"""Masks as text: COCO run lengths (RLE), and Ego-Exo4D's LZString around them.

Text from files is decoded here, not by pycocotools, which returns uninitialised memory for counts that are too
short and crashes the process for sizes that are too large. Masks are encoded by pycocotools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lzstring import LZString
from numpy.typing import NDArray

from counterview.errors import MaskError, shown
from counterview.mask_formats import coco_counts
from counterview.masks.lz import decompress_uri
from counterview.types import ObjectMask

MAX_PIXELS = 100_000_000
"""Size of the largest mask that is decoded, in pixels, as of an image; COCO's 32-bit counts end at 2 ** 31."""
MAX_SIDE = 65_535
"""Height and width at most, as of a JPEG image: what is computed for each column of a mask stays small."""
MAX_COUNTS = 1 << 24
"""Characters of compressed counts at most."""


def _check_size(size_hw: Any) -> tuple[int, int]:
    valid = (
        isinstance(size_hw, (list, tuple, np.ndarray))
        and len(size_hw) == 2
        and all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= 1 for v in size_hw)
    )
    if not valid:
        raise MaskError("a mask's size is [height, width]", found=shown(size_hw, 60))
    height, width = (int(v) for v in size_hw)
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise MaskError(
            "a mask's size is too large",
            found=shown([height, width], 60),
            expected=f"at most {MAX_PIXELS} pixels, and {MAX_SIDE} a side",
        )
    return height, width


def _counts_to_runs(counts: str | bytes) -> NDArray[np.int64]:
    """Run lengths ``(R,)`` from COCO's compressed counts: 5 bits per character, differences from the fourth on."""
    try:
        data = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else bytes(counts), dtype=np.uint8)
    except UnicodeEncodeError:
        raise MaskError("run-length counts hold an invalid character") from None
    if data.size > MAX_COUNTS:
        raise MaskError("run-length counts are too long", found=data.size, expected=f"at most {MAX_COUNTS} characters")
    if data.size == 0:
        raise MaskError("run-length counts are empty")
    groups = data.astype(np.int64) - 48
    if groups.min() < 0 or groups.max() > 63:
        raise MaskError("run-length counts hold an invalid character")
    last = (groups & 32) == 0
    if not last[-1]:
        raise MaskError("run-length counts end within a number", fix="The text was truncated.")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise MaskError("run-length counts hold a number of more than 35 bits")
    position = np.arange(data.size) - np.repeat(starts, lengths)  # of a character within its number
    values = np.add.reduceat((groups & 31) << (5 * position), starts)
    values -= np.where(groups[ends] & 16, np.int64(1) << (5 * lengths), 0)  # sign of the last group
    # values[i] is relative to values[i-2] for i > 2: cumulative sums of the odd and of the even entries.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def decode_counts(counts: str | bytes, size_hw: Any) -> ObjectMask:
    """Decode COCO compressed counts.

    Args:
        counts: the text of ``{"size": …, "counts": …}``.
        size_hw: height and width in pixels.

    Raises:
        MaskError: malformed text, run lengths that are negative or do not fill the size, or an invalid size.
    """
    size = _check_size(size_hw)
    if not isinstance(counts, (str, bytes)):
        raise MaskError("run-length counts are text", found=type(counts).__name__)
    return ObjectMask(size, _counts_to_runs(counts))


def encode_counts(mask: ObjectMask) -> str:
    """COCO compressed counts of a mask, by pycocotools' encoder.

    Raises:
        MaskError: the mask has more than :data:`MAX_PIXELS` pixels.
    """
    height, width = mask.size_hw
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise MaskError("the mask is too large for COCO counts", found=f"{height} x {width}")
    return coco_counts(mask.size_hw, mask.runs)


def from_coco(rle: Any) -> ObjectMask:
    """Decode ``{"size": [h, w], "counts": …}`` with compressed (text) or plain (list) counts.

    Raises:
        MaskError: another type, or malformed contents.

    >>> from_coco({"size": [2, 3], "counts": [2, 3, 1]}).to_array().astype(int).tolist()
    [[0, 1, 1], [0, 1, 0]]
    >>> from_coco({"size": [2, 3], "counts": "231"}).area
    3
    """
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        raise MaskError("a COCO mask has 'size' and 'counts'", found=f"{type(rle).__name__} {shown(rle, 40)}")
    size = _check_size(rle["size"])
    counts = rle["counts"]
    if isinstance(counts, (str, bytes)):
        return decode_counts(counts, size)
    if isinstance(counts, list) and len(counts) <= MAX_COUNTS and all(type(c) is int for c in counts):
        if any(abs(c) > MAX_PIXELS for c in counts):
            raise MaskError("run-length counts hold a number that is too large for a mask")
        return ObjectMask(size, np.array(counts, dtype=np.int64))
    raise MaskError(
        f"run-length counts are text or a list of at most {MAX_COUNTS} integers", found=_unlike_counts(counts)
    )


def _unlike_counts(counts: Any) -> str:
    """What is wrong with counts, for a message."""
    if not isinstance(counts, list):
        return type(counts).__name__
    if len(counts) > MAX_COUNTS:
        return f"{len(counts)} numbers"
    at = next(index for index, value in enumerate(counts) if type(value) is not int)
    return f"{type(counts[at]).__name__} {shown(counts[at], 40)} at position {at}"


def to_coco(mask: ObjectMask) -> dict[str, Any]:
    """``{"size": [h, w], "counts": text}``, as pycocotools encodes it, ready for JSON.

    Raises:
        MaskError: the mask has more than :data:`MAX_PIXELS` pixels.

    >>> to_coco(ObjectMask.from_array([[0, 1, 1], [0, 1, 0]]))
    {'size': [2, 3], 'counts': '231'}
    """
    return mask.to_coco()


def from_lzstring(text: str, size_hw: Any) -> ObjectMask:
    """Decode an ``encodedMask`` of Ego-Exo4D: LZString (URI component) over COCO compressed counts.

    Raises:
        MaskError: not LZString text, or the decoded text is not COCO compressed counts of that size.
    """
    size = _check_size(size_hw)
    if not isinstance(text, str):
        raise MaskError("an encoded mask is text", found=type(text).__name__)
    try:
        counts = decompress_uri(text)
    except ValueError as error:
        raise MaskError("an encoded mask is not LZString text", found=str(error)) from None
    if not counts:
        raise MaskError("an encoded mask is empty")
    return ObjectMask(size, _counts_to_runs(counts))


def to_lzstring(mask: ObjectMask) -> str:
    """Encode a mask as an ``encodedMask`` of Ego-Exo4D, the inverse of :func:`from_lzstring`.

    Raises:
        MaskError: the mask has more than :data:`MAX_PIXELS` pixels.
    """
    return LZString().compressToEncodedURIComponent(encode_counts(mask))
