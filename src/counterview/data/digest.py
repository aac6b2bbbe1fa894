"""A hash of annotation files, by which masks that were replaced under the same names are noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from counterview.data.dataset import Dataset
from counterview.data.formats.prepared import ANNOTATION
from counterview.media.files import sha256_file


def annotation_digest(dataset: Dataset, uids: Iterable[str]) -> str:
    """A hash of the annotation of some takes: of the bytes of its files, and of no path or date.

    Of a release it is the hash of the whole annotation file. Of a take whose annotation is a folder (HANDAL), names
    and sizes of the files count.

    Args:
        dataset: with the takes.
        uids: of the takes, all of which can be opened.

    Returns:
        16 hex digits.
    """
    digest = hashlib.sha256()
    for uid in sorted(set(uids)):
        path = dataset.root / uid / ANNOTATION
        if dataset.kind != "prepared" or not path.is_file():  # elsewhere, which the take knows
            path = dataset.take(uid).path
        digest.update(f"{uid}\0{_of_files(path)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _of_files(path: Path) -> str:
    if not path.exists():  # takes in memory
        return ""
    if not path.is_dir():
        facts = path.stat()
        return _of_file(path, facts.st_size, facts.st_mtime_ns)
    files = sorted((p.relative_to(path).as_posix(), p.stat().st_size) for p in path.rglob("*") if p.is_file())
    return hashlib.sha256(repr(files).encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache(maxsize=8)  # all takes of a release have one file
def _of_file(path: Path, _size: int, _changed_ns: int) -> str:
    return sha256_file(path)
