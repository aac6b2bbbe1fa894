"""The run lengths of Label Studio's brush, which are not COCO's.

A stream of bits, the most significant of each byte first, over the values of an RGBA image, row by row: 32 bits with
the number of values, 5 with the bits of a value less one, four times 4 with the bits of a length less one; then blocks:
one bit (1: a value repeated, 0: single values), two that choose one of the four widths, a length less one of that
width, and the value or values. It is the format of the package rle-pack of thi.ng. The mask is where the alpha channel
is not 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.errors import MaskError, shown
from counterview.exchange.shapes import check_size
from counterview.types import ObjectMask

MAX_BYTES = 1 << 23
"""Bytes of one mask at most."""
_WIDTHS = (3, 4, 8, 16)
_HEADER_BITS = 32 + 5 + 4 * 4


def encode_brush(mask: ObjectMask) -> list[int]:
    """The bytes of a mask ``(H, W)``; inside it all four channels are 255, outside 0.

    >>> encode_brush(ObjectMask.from_array([[0, 1]]))
    [0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128]
    """
    flat = mask.to_array().ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(edges, prepend=0, append=flat.size) * 4
    bits = [f"{4 * flat.size:032b}", f"{7:05b}", *(f"{width - 1:04b}" for width in _WIDTHS)]
    bits = ["".join(bits)]
    value = bool(flat[0])
    for length in lengths.tolist():
        word = "11111111" if value else "00000000"
        while length > 0:
            part = min(length, 1 << _WIDTHS[-1])
            chosen = next(k for k, width in enumerate(_WIDTHS) if part <= 1 << width)
            bits.append(f"1{chosen:02b}{part - 1:0{_WIDTHS[chosen]}b}{word}")
            length -= part
        value = not value
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return np.packbits(np.frombuffer(text.encode(), dtype=np.uint8) - 48).tolist()


class _Bits:
    """Reads numbers from a stream of bits."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.end = data, 0, 8 * len(data)

    def take(self, count: int) -> int:
        stop = self.at + count
        if stop > self.end:
            raise MaskError("brush run lengths end too early", fix="They were truncated.")
        last = (stop + 7) // 8
        value = int.from_bytes(self.data[self.at // 8 : last], "big") >> (8 * last - stop)
        self.at = stop
        return value & ((1 << count) - 1)


def decode_brush(rle: Any, height: Any, width: Any) -> ObjectMask:
    """The mask ``(H, W)`` of Label Studio's run lengths.

    Args:
        rle: the list of bytes.
        height: of the image in pixels.
        width: likewise.

    Raises:
        MaskError: malformed, or another number of pixels than the image's.

    >>> decode_brush([0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128], 1, 2).to_array().tolist()
    [[False, True]]
    """
    size = check_size(height, width)
    if not isinstance(rle, list) or len(rle) > MAX_BYTES or not all(type(b) is int and 0 <= b <= 255 for b in rle):
        raise MaskError("brush run lengths are not a list of bytes", found=shown(rle, 40))
    bits = _Bits(bytes(rle))
    total = bits.take(32)
    if total != 4 * size[0] * size[1]:
        raise MaskError("brush run lengths are of another size", found=f"{total} values", expected=f"4 x {size}")
    word = bits.take(5) + 1
    widths = [bits.take(4) + 1 for _ in range(4)]
    ends, values = _blocks(bits, total, word, widths)
    # The alpha values are every fourth; how many of them a block has.
    alphas = ends // 4
    lengths = np.diff(alphas, prepend=0)
    return ObjectMask.from_array(np.repeat(values != 0, lengths).reshape(size))


def _blocks(bits: _Bits, total: int, word: int, widths: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """End and value of each block of equal values, ``(K,)`` each."""
    ends: list[int] = []
    values: list[int] = []
    place = 0
    while place < total:
        is_run = bits.take(1)
        length = bits.take(widths[bits.take(2)]) + 1
        if place + length > total:
            raise MaskError("brush run lengths hold more values than they state", found=place + length, expected=total)
        if is_run:
            place += length
            ends.append(place)
            values.append(bits.take(word))
        else:
            for _ in range(length):
                place += 1
                ends.append(place)
                values.append(bits.take(word))
    return np.array(ends, dtype=np.int64), np.array(values, dtype=np.int64)
