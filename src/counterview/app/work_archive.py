"""A folder of work as one file: what a visitor takes away, and opens again."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from counterview.errors import AnnotationError, InputError
from counterview.guard import library_errors
from counterview.media.files import atomic_write, safe_join, write_errors
from counterview.media.outputs import LOCK, STAGED

ENDINGS = frozenset(
    (".json", ".jsonl", ".bin", ".csv", ".jpg", ".png", ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".xml", ".txt",
     ".yaml", ".rrd")
)  # fmt: skip
"""Endings of the files of a work."""

MAX_FILES = 50_000

STORED = frozenset((".jpg", ".png", ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"))
"""Endings of files that are compressed already."""

_PIECE = 1 << 20


def write_archive(path: Path, folder: Path, files: Iterable[Path]) -> Path:
    """Write files as a ZIP archive, aside and renamed.

    Args:
        path: the archive.
        folder: of the files; names in the archive are relative to it.
        files: below the folder.

    Returns:
        the path.

    Raises:
        OutputError: the disk is full.
    """
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w", allowZip64=True) as archive:
        for file in files:
            how = zipfile.ZIP_STORED if file.suffix.lower() in STORED else zipfile.ZIP_DEFLATED
            archive.write(file, file.relative_to(folder).as_posix(), how)
    return path


def work_files(folder: Path) -> list[Path]:
    """The files of a folder of work, without locks and what is half written.

    Args:
        folder: of the work.
    """
    return sorted(
        path for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name != LOCK and STAGED not in path.parts
        and path.suffix.lower() in ENDINGS
    )  # fmt: skip


def read_archive(path: Path, folder: Path, max_bytes: int) -> None:
    """Unpack a folder of work.

    Args:
        path: the archive.
        folder: where it goes; new or empty.
        max_bytes: of all files together, unpacked.

    Raises:
        AnnotationError: not an archive of work, or a damaged one.
        InputError: too many or too large files, or one of a kind that no work has.
        PathError: a name that leads outside the folder.
        OutputError: the disk is full.
    """
    if not zipfile.is_zipfile(path):
        raise AnnotationError("is not a ZIP archive", path=path, fix="Give the file that the page offered as work.zip.")
    with library_errors(AnnotationError, "is a damaged ZIP archive", path=path), zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _check(entries, path, max_bytes)
        left = max_bytes
        for entry in entries:
            place = safe_join(folder, entry.filename)
            with write_errors(place):
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with archive.open(entry) as source, place.open("xb") as target:
                    left -= _copy(source, target, left, path)


def _check(entries: list[zipfile.ZipInfo], path: Path, max_bytes: int) -> None:
    names = {entry.filename for entry in entries}
    if "work.json" not in names:
        raise AnnotationError(
            "is not a folder of work", path=path, expected="work.json and videos/ in it",
            fix="Give the file that the page offered as work.zip.",
        )  # fmt: skip
    if len(entries) > MAX_FILES or len(names) < len(entries):
        raise InputError("has too many files, or two of one name", path=path, found=len(entries))
    for entry in entries:
        is_link = stat.S_ISLNK(entry.external_attr >> 16)
        if is_link or entry.flag_bits & 1 or PurePosixPath(entry.filename).suffix.lower() not in ENDINGS:
            raise InputError("holds a file that no work has", path=path, found=entry.filename[:120])
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise InputError(
            "is too large unpacked",
            path=path,
            found=f"{total / 1e6:.0f} MB",
            expected=f"at most {max_bytes / 1e6:.0f} MB",
        )


def _copy(source: IO[bytes], target: IO[bytes], left: int, path: Path) -> int:
    """Copy a file piece by piece: what an archive says of its size is not trusted."""
    size = 0
    while piece := source.read(_PIECE):
        size += len(piece)
        if size > left:
            raise InputError("is too large unpacked", path=path, expected="the size that it says")
        target.write(piece)
    return size
