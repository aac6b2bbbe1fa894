"""Folders in object storage: ``s3://`` and whatever else fsspec opens. Files are fetched and stored whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from counterview.errors import InputError, MissingExtraError, OutputError, shown
from counterview.media.files import part_path, safe_join

_URL = re.compile(r"^(?P<scheme>[a-z][a-z0-9+.-]+)://")
_S3 = ("s3", "s3a")


def is_url(text: object) -> bool:
    """Whether a path is an address in object storage.

    >>> is_url("s3://bucket/egoexo"), is_url("C:/egoexo"), is_url("egoexo")
    (True, False, False)
    """
    return _URL.match(os.fspath(text) if isinstance(text, (str, os.PathLike)) else "") is not None


class ObjectFolder:
    """A folder in object storage. It can be sent to another process, which opens a connection of its own.

    Keys, secrets and other endpoints come from the environment, as the library of the storage reads them
    (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, …), never from the address.

    Args:
        url: such as ``s3://bucket/egoexo``.

    Raises:
        InputError: not an address, or of a storage that fsspec does not know.
        MissingExtraError: the extra ``[s3]`` is not installed.
    """

    def __init__(self, url: str) -> None:
        match = _URL.match(url)
        if match is None:
            raise InputError("is not an address in object storage", path=url, expected="such as s3://bucket/folder")
        self.url = url.rstrip("/")
        try:
            import fsspec

            filesystem, root = fsspec.core.url_to_fs(self.url)
        except ImportError:
            raise MissingExtraError("s3", f"reading {match['scheme']}:// addresses") from None
        except ValueError as error:
            raise InputError("is in a storage that fsspec does not know", path=url, found=str(error)) from None
        self._filesystem: Any = filesystem
        self._root: str = root.rstrip("/")

    def __reduce__(self) -> tuple[Callable[[str], ObjectFolder], tuple[str]]:
        return ObjectFolder, (self.url,)

    def __repr__(self) -> str:
        return f"ObjectFolder({self.url!r})"

    def _place(self, name: str) -> str:
        if not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise InputError(f"the name {shown(name)} cannot be used below {self.url}")
        return f"{self._root}/{name}"

    def files(self, folder: str = "") -> dict[str, tuple[int, float]]:
        """Name, relative to this folder, of every file below a folder, with its size in bytes and its time in seconds.

        Args:
            folder: below this one; all if empty.

        Raises:
            InputError: the storage cannot be listed.
        """
        place = self._place(folder) if folder else self._root
        try:
            self._filesystem.invalidate_cache()
            found = self._filesystem.find(place, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # of the storage's library
            raise self._unreadable(place, error) from None
        return {
            path[len(self._root) + 1 :]: (int(facts.get("size") or 0), _time(facts))
            for path, facts in sorted(found.items())
            if facts.get("type", "file") == "file"
        }

    def names(self, folder: str = "") -> list[str]:
        """Names, without a path, of the files and folders in a folder.

        Args:
            folder: below this one; this one if empty.

        Raises:
            InputError: the storage cannot be listed.
        """
        place = self._place(folder) if folder else self._root
        try:
            self._filesystem.invalidate_cache()
            return sorted(PurePosixPath(path).name for path in self._filesystem.ls(place, detail=False))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._unreadable(place, error) from None

    def has(self, name: str) -> bool:
        """Whether there is a file of this name.

        Args:
            name: relative to this folder.
        """
        try:
            self._filesystem.invalidate_cache()
            return bool(self._filesystem.isfile(self._place(name)))
        except Exception as error:
            raise self._unreadable(name, error) from None

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or a part of them.

        Args:
            name: relative to this folder.
            start: first byte.
            end: the byte after the last.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return bytes(self._filesystem.cat_file(self._place(name), start=start, end=end))
        except Exception as error:
            raise self._unreadable(name, error) from None

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to this machine; a reader sees it complete or not at all. It keeps its time.

        Args:
            name: relative to this folder.
            path: where to.

        Raises:
            InputError: it cannot be read.
            OutputError: the disk is full.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = part_path(path)
        try:
            facts = self._filesystem.info(self._place(name))
            self._filesystem.get_file(self._place(name), str(temporary))
            os.utime(temporary, (_time(facts), _time(facts)))
            temporary.replace(path)
        except Exception as error:
            with suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError) and error.filename == str(temporary):
                raise OutputError("cannot be written", path=path, found=error.strerror, errno=error.errno) from None
            raise self._unreadable(name, error) from None

    def fetch_all(self, names: Iterable[str], folder: Path) -> None:
        """Copy files below a folder of this machine, under their names here.

        Args:
            names: relative to this folder.
            folder: where to.

        Raises:
            InputError: one cannot be read.
            OutputError: the disk is full.
        """
        for name in names:
            self.fetch(name, safe_join(folder, name))

    def store(self, path: Path, name: str) -> None:
        """Copy a file from this machine. Object storage shows it when all of it is there; elsewhere it is renamed.

        Args:
            path: the file.
            name: relative to this folder.

        Raises:
            OutputError: the storage refuses it.
        """
        place = self._place(name)
        try:
            if self._filesystem.protocol in _S3 or set(_S3) & set(self._filesystem.protocol):
                self._filesystem.put_file(str(path), place)
                return
            self._filesystem.makedirs(place.rpartition("/")[0], exist_ok=True)
            aside = f"{place}.{os.getpid()}.part"
            self._filesystem.put_file(str(path), aside)
            self._filesystem.mv(aside, place)
        except Exception as error:
            raise OutputError(
                "cannot be stored", path=f"{self.url}/{name}", found=f"{type(error).__name__}: {error}"[:300],
                fix="Check the address and the credentials in the environment.",
            ) from None  # fmt: skip

    def remove(self, names: Iterable[str]) -> None:
        """Remove files.

        Args:
            names: relative to this folder; one that is not there is passed over.

        Raises:
            OutputError: the storage refuses it.
        """
        for name in names:
            try:
                self._filesystem.rm_file(self._place(name))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise OutputError(
                    "cannot be removed", path=f"{self.url}/{name}", found=f"{type(error).__name__}: {error}"[:300]
                ) from None

    def _unreadable(self, name: str, error: Exception) -> InputError:
        found = f"{type(error).__name__}: {error}"[:300]
        return InputError(
            "cannot be read", path=f"{self.url}/{name.removeprefix(self._root + '/')}", found=found,
            fix="Check the address and the credentials in the environment.",
        )  # fmt: skip


def split_url(url: str) -> tuple[ObjectFolder, str]:
    """The folder of a file in object storage, and the file's name.

    Args:
        url: of the file.

    Raises:
        InputError: it names no file in a folder.
    """
    folder, slash, name = url.rpartition("/")
    if not slash or not name or folder.endswith(":/"):
        raise InputError("is not the address of a file", path=url, expected="such as s3://bucket/folder/file.json")
    return ObjectFolder(folder), name


def _time(facts: dict[str, Any]) -> float:
    for key in ("LastModified", "mtime", "last_modified", "created"):
        value = facts.get(key)
        if value is not None:
            return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)
    return 0.0
