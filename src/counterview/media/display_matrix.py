"""The display matrix of a video, with which players turn or mirror its images (ISO/IEC 14496-12, ``tkhd``)."""

from __future__ import annotations

import struct

from counterview.errors import VideoError

_ORIENTATIONS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def matrix_orientation(matrix: bytes) -> int:
    """The EXIF orientation, 1 to 8, that a display matrix stands for.

    A pixel ``(x, y)`` is shown at ``(a x + c y, b x + d y)``, but for a shift; a scale is ignored, as by FFmpeg.

    Args:
        matrix: nine 32-bit integers ``a, b, u, c, d, v, x, y, w`` in the machine's order, as FFmpeg has it.

    Raises:
        VideoError: an angle that is no multiple of 90 degrees, or no matrix.

    >>> matrix_orientation(struct.pack("=9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    6
    """
    if len(matrix) < 36:
        raise VideoError("has a damaged display matrix", found=f"{len(matrix)} bytes")
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    largest = max(abs(a), abs(b), abs(c), abs(d))
    signs = tuple(0 if abs(v) * 1000 <= largest else (1 if v > 0 else -1) for v in (a, b, c, d))
    orientation = _ORIENTATIONS.get(signs)  # type: ignore[arg-type]
    if orientation is None:
        raise VideoError(
            "its display matrix turns the images by an angle that is no multiple of 90 degrees",
            found=f"[[{a / 65536:g}, {b / 65536:g}], [{c / 65536:g}, {d / 65536:g}]]",
            fix="Convert it: ffmpeg -i IN OUT applies the matrix.",
        )
    return orientation
