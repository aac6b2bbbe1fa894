"""NumPy's files from elsewhere: what a header or a zip directory announces is checked before anything is allocated."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from counterview.errors import CounterviewError
from counterview.guard import library_errors, regular_file

MAX_HEADER = 10_000
"""Bytes of the longest header of an array, as NumPy reads it."""
MAX_DIRECTORY = 1 << 22
"""Bytes of the largest directory of a zip archive: 40,000 members, each of which takes a kilobyte of memory."""


@contextlib.contextmanager
def open_archive(
    path: Path, error: type[CounterviewError], problem: str = "not a readable NumPy archive"
) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive. What goes wrong with it in the block becomes ``error``.

    Args:
        path: the file.
        error: class of the errors.
        problem: what they say.

    Raises:
        CounterviewError: of the class ``error``: missing, no zip archive, damaged, with too many members, or with one
            that is encrypted or neither stored nor deflated, as NumPy and torch write them.
    """
    with library_errors(error, problem, path=path):
        size = _directory_bytes(regular_file(path, error))
        if size > MAX_DIRECTORY:
            raise error("the archive has too many members", path=path, found=f"a directory of {size} bytes")
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise error(problem, path=path, found=f"encryption or compression {member.compress_type}")
            yield archive


def _directory_bytes(path: Path) -> int:
    """Size of a zip archive's directory as its end record states it; 0 without such a record."""
    with path.open("rb") as handle:
        length = handle.seek(0, 2)
        handle.seek(max(0, length - 66_000))
        tail = handle.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        return 0
    (size,) = struct.unpack_from("<I", tail, at + 12)
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\6\7":  # a zip64 record lies before it
        return int(struct.unpack_from("<Q", tail, at - 76 + 40)[0])
    return int(size)


def read_header(
    stream: IO[bytes], path: Path, error: type[CounterviewError]
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array of numbers.

    Args:
        stream: an ``.npy`` file; left where the values begin.
        path: where it is from, for messages.
        error: class of the errors.

    Returns:
        the array's shape, whether it is in Fortran order, and its dtype.

    Raises:
        CounterviewError: of the class ``error``: not such a file, or an array of objects, records or sub-arrays.
    """
    with library_errors(error, "not a readable NumPy array", path=path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=SyntaxWarning)  # of a header that is not Python
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="Reading `.npy`", category=UserWarning)  # of Python 2's files
        magic = stream.read(8)
        form, read = {b"\1\0": ("<H", npy.read_array_header_1_0), b"\2\0": ("<I", npy.read_array_header_2_0)}[magic[6:]]
        if not magic.startswith(npy.MAGIC_PREFIX):
            raise ValueError("another first byte")
        start = stream.read(struct.calcsize(form))
        (length,) = struct.unpack(form, start)
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        shape, fortran, dtype = read(io.BytesIO(start + stream.read(length)))
        if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
            raise error(
                "the array holds objects, which are not loaded", path=path, found=dtype, expected="an array of numbers"
            )
        if not all(type(side) is int and 0 <= side < 2**62 for side in shape):
            raise ValueError(f"shape {shape}")
        return tuple(shape), bool(fortran), dtype
