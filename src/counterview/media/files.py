"""Atomic writes, JSON, hashes, and paths that stay inside their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from counterview.errors import CheckpointError, InputError, OutputError, PathError, shown
from counterview.guard import read_file, reason

MAX_JSON_BYTES = 1 << 30
"""Size of the largest JSON file that is read as a whole."""
MAX_JSON_MEMORY = 4 << 30
"""Memory, in bytes, that the values of a JSON text may take: brackets alone become twenty times their size."""

_HALVES = re.compile("[\ud800-\udfff]")
_RESERVED = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$", re.IGNORECASE)

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_WRONG_KIND = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY}
_OTHER = {errno.EIO, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY, errno.EINVAL}
PART = re.compile(r"^\.(?P<name>.+)\.(?P<pid>\d+)\.(?P<host>[0-9a-f]{4})[0-9a-f]{4}\.part$")
"""Names of the temporary files of :func:`atomic_write`; a process that is killed leaves one behind."""


def part_path(path: Path) -> Path:
    """A new temporary name beside ``path``, of the form :data:`PART`."""
    return path.with_name(f".{path.name[:100]}.{os.getpid()}.{host_tag()}{secrets.token_hex(2)}.part")


def host_tag() -> str:
    """Four hex digits that tell this machine from others that write in the same folder."""
    return hashlib.sha256(socket.gethostname().encode("utf-8", "surrogatepass")).hexdigest()[:4]


@contextlib.contextmanager
def write_errors(path: str | os.PathLike[str], *, only: bool = False) -> Iterator[None]:
    """Turn an error of the system while ``path`` is written into one clear line.

    Args:
        path: what is written, a file or a folder.
        only: leave errors alone that name a file which is neither ``path``, nor above it, nor a temporary file
            beside it: the block reads other files as well.

    Raises:
        OutputError: names the file, the reason and what to do.
    """
    path = Path(path)
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        named = error.filename
        place = path if named is None else Path(os.fsdecode(named))
        ours = place == path or place in path.parents or place.parent == path.parent
        if error.errno not in _FULL | _REFUSED | _WRONG_KIND | _OTHER or (only and not ours):
            raise
        raise output_error(path if place.parent == path.parent or only else place, error) from None


def output_error(path: Path, error: Exception) -> OutputError:
    """The :class:`OutputError` of an error of the system, or of FFmpeg, while ``path`` was written."""
    number = getattr(error, "errno", None)
    reason = str(getattr(error, "strerror", None) or type(error).__name__)[:120]
    if number in _FULL:
        problem, fix = "cannot be written, the disk is full", "Free space, then run again."
    elif number in _REFUSED:
        problem, fix = "cannot be written, access is refused", "Grant access, or give another place."
    elif number in _WRONG_KIND:
        problem, fix = "cannot be written, a file is where a folder should be, or the reverse", "Give another place."
    else:
        problem, fix = "cannot be written", "Give another place."
    return OutputError(problem, path=path, found=reason, fix=fix, errno=number)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", encoding: str | None = None) -> Iterator[IO[Any]]:
    """Write to a temporary file and rename it into place when the block ends without an error.

    A reader sees the old file or the new one, never a part. Parent folders are created. If the block
    raises, or the process is killed, ``path`` is unchanged.

    Args:
        path: the file to write.
        mode: ``"wb"`` or ``"w"``.
        encoding: for text; UTF-8 if not given.

    Yields:
        the open file.

    Raises:
        ValueError: another mode.
        OutputError: the disk is full, or the folder is not writable.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"atomic_write takes mode 'wb' or 'w', not {mode!r}")
    path = Path(path)
    temporary = part_path(path)
    text: dict[str, Any] = {} if mode == "wb" else {"encoding": encoding or "utf-8", "newline": "\n"}
    with write_errors(path, only=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open(mode, **text) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as UTF-8 JSON, atomically.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON does not have.
        OutputError: the disk is full, or the folder is not writable.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    text = _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)  # a file name that is not UTF-8
    with atomic_write(path, "w") as handle:
        handle.write(text + "\n")


def read_json(
    path: str | os.PathLike[str], *, error: type[InputError] = InputError, max_bytes: int = MAX_JSON_BYTES
) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        error: class of the error.
        max_bytes: larger files are refused.

    Raises:
        InputError: of the class ``error``: the file is missing, no regular file, too large, or not UTF-8 JSON.
    """
    return decode_json(read_file(path, error, max_bytes=max_bytes), path, error=error)


def decode_json(
    data: bytes, path: str | os.PathLike[str], problem: str = "is not JSON", *, error: type[InputError] = InputError
) -> Any:
    """The value of a JSON text.

    Args:
        data: the text in UTF-8.
        path: where it is from, for messages.
        problem: the message if it is not JSON.
        error: class of the error.

    Raises:
        InputError: of the class ``error``: not JSON, or its values would take more than :data:`MAX_JSON_MEMORY`.
    """
    if len(data) > MAX_JSON_MEMORY // 64:  # each byte is at most a third of an empty list of 64 bytes
        lists, texts, others = data.count(b"[") + data.count(b"{"), data.count(b'"') // 2, data.count(b",")
        if 64 * lists + 56 * texts + 32 * others > MAX_JSON_MEMORY:
            raise error("its values would take too much memory", path=path, found=f"{lists} lists, {texts} texts")
    try:
        return json.loads(data.decode("utf-8"))
    except json.JSONDecodeError as failure:
        raise error(problem, path=path, found=f"line {failure.lineno}: {failure.msg}") from None
    except (UnicodeDecodeError, RecursionError) as failure:
        raise error(problem, path=path, found=type(failure).__name__) from None
    except (ValueError, MemoryError) as failure:  # an integer of more digits than Python converts
        raise error(problem, path=path, found=reason(failure)) from None


def check_name(name: str) -> str:
    """Check that a name from a file can serve as one path component, and return it.

    Refused are empty names, ``.`` and ``..``, separators of any system, drive letters, NUL and other control
    characters, and the names that Windows reserves.

    Raises:
        PathError: the name is refused.
    """
    invalid = (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or len(name.encode("utf-8", "surrogatepass")) > 255
        or "/" in name
        or "\\" in name
        or ":" in name
        or any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in name)
        or name != name.rstrip(" .")
        or _RESERVED.match(name) is not None
    )
    if invalid:
        raise PathError(f"the name {shown(name)} cannot be used as a file name")
    return name


def safe_join(root: str | os.PathLike[str], *parts: str, follow_links: bool = False) -> Path:
    """Join untrusted names below ``root``; the result is always inside ``root``.

    Args:
        root: the folder.
        parts: each is one name, checked by :func:`check_name`, or several joined by ``/``.
        follow_links: accept links below ``root`` that lead elsewhere. For reading a folder that a user gave: data sets
            are spread over several disks that way. Never for writing.

    Raises:
        PathError: a part is absolute, climbs with ``..``, or leads outside through a link.

    >>> safe_join("out", "take", "cam01/0.jpg").as_posix()
    'out/take/cam01/0.jpg'
    >>> safe_join("out", "../secret.txt")
    Traceback (most recent call last):
    counterview.errors.PathError: the name '..' cannot be used as a file name
    """
    base = Path(root)
    path = base
    for part in parts:
        if not isinstance(part, str) or PurePosixPath(part).is_absolute() or PureWindowsPath(part).drive:
            raise PathError(f"the name {shown(part)} cannot be used below {base}")
        for piece in part.split("/"):
            path = path / check_name(piece)
    if follow_links:
        return path
    try:
        inside = path.resolve().is_relative_to(base.resolve())
    except (OSError, RuntimeError):  # links in a circle, or a name that is too long
        inside = False
    if not inside:
        raise PathError(f"{path} leads outside {base}")
    return path


HASHES = "hashes.json"
"""Name of the list beside files that are part of the package: file name to SHA-256."""
REINSTALL = (
    'Install the package again: pip install --force-reinstall --no-deps counterview (or "git checkout" the file).'
)


def read_bundled(root: Path, name: str, fix: str = REINSTALL) -> tuple[bytes, str]:
    """Read a file that is part of the package, and check it against the list of hashes.

    Args:
        root: folder with the list of hashes, :data:`HASHES`.
        name: the file's name in that list, relative to ``root``.
        fix: the fix in the error message.

    Returns:
        the file's bytes and their SHA-256 in hex.

    Raises:
        CheckpointError: the file or the list is missing, or the hash differs.
    """
    path = safe_join(root, name)
    try:
        listed = read_json(root / HASHES)
        data = path.read_bytes()
    except (InputError, OSError) as error:
        raise CheckpointError(f"a bundled file cannot be read ({error})", path=path, fix=fix) from None
    digest = hashlib.sha256(data).hexdigest()
    expected = listed.get(name) if isinstance(listed, dict) else None
    if digest != expected:
        raise CheckpointError(
            "a bundled file is damaged or was replaced", path=path, found=f"SHA-256 {digest[:12]}…",
            expected=f"{str(expected)[:12]}…", fix=fix,
        )  # fmt: skip
    return data, digest


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hex.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
