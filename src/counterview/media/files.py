"""Files that are whole or not there, and paths that stay where they belong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from counterview.errors import CheckpointError, InputError, PathError

_RESERVED = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$", re.IGNORECASE)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", encoding: str | None = None) -> Iterator[IO[Any]]:
    """Write a file aside and rename it into place when the block ends without an error.

    A reader sees the old file or the new one, never half of it. Parent folders are made. If the block
    raises, or the process is killed, ``path`` is left as it was.

    Args:
        path: the file to write.
        mode: ``"wb"`` or ``"w"``.
        encoding: for text; UTF-8 if not given.

    Raises:
        ValueError: another mode.
        OSError: the disk is full, or the folder cannot be written.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"atomic_write takes mode 'wb' or 'w', not {mode!r}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    text: dict[str, Any] = {} if mode == "wb" else {"encoding": encoding or "utf-8", "newline": "\n"}
    try:
        with aside.open(mode, **text) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as UTF-8 JSON, whole or not at all. NaN and infinity are refused with ``ValueError``."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as handle:
        handle.write(text + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, cannot be read, or is not UTF-8 JSON.
    """
    try:
        with Path(path).open(encoding="utf-8") as handle:
            return json.load(handle)
    except FileNotFoundError:
        raise InputError("no such file", path=path) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path) from None
    except json.JSONDecodeError as error:
        raise InputError("is not JSON", path=path, found=f"line {error.lineno}: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError("is not JSON", path=path, found=type(error).__name__) from None


def check_name(name: str) -> str:
    """Check that a name out of a file can serve as one path component, and return it.

    Refused are empty names, ``.`` and ``..``, separators of any system, drive letters, NUL and other control
    characters, and the names that Windows reserves.

    Raises:
        PathError: the name is none of ours to use.
    """
    bad = (
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
    if bad:
        raise PathError(f"the name {name!r} cannot be used as a file name")
    return name


def safe_join(root: str | os.PathLike[str], *parts: str) -> Path:
    """Join names that come from outside below ``root``; the result never leaves it.

    Each part is one name, checked by :func:`check_name`, or several joined by ``/``. Links that
    already lie below ``root`` are resolved and must stay inside.

    Raises:
        PathError: a part is absolute, climbs with ``..``, or leads outside through a link.
    """
    base = Path(root)
    path = base
    for part in parts:
        if not isinstance(part, str) or PurePosixPath(part).is_absolute() or PureWindowsPath(part).drive:
            raise PathError(f"the name {part!r} cannot be used below {base}")
        for piece in part.split("/"):
            path = path / check_name(piece)
    if not path.resolve().is_relative_to(base.resolve()):
        raise PathError(f"{path} leads outside {base}")
    return path


HASHES = "hashes.json"
"""Beside files that come with the package: the SHA-256 of each, by its name."""
REINSTALL = (
    'Install the package again: pip install --force-reinstall --no-deps counterview (or "git checkout" the file).'
)


def read_shipped(root: Path, name: str, fix: str = REINSTALL) -> tuple[bytes, str]:
    """A file that comes with the package, once it was found to be what was shipped.

    Args:
        root: folder with the list of hashes.
        name: the file's name in that list, relative to ``root``.
        fix: what to do if it is not.

    Returns:
        its bytes and their SHA-256 in hex.

    Raises:
        CheckpointError: it or the list is missing, or it is another file.
    """
    path = safe_join(root, name)
    try:
        listed = read_json(root / HASHES)
        data = path.read_bytes()
    except (InputError, OSError) as error:
        raise CheckpointError(f"a shipped file cannot be read ({error})", path=path, fix=fix) from None
    digest = hashlib.sha256(data).hexdigest()
    wanted = listed.get(name) if isinstance(listed, dict) else None
    if digest != wanted:
        raise CheckpointError(
            "a shipped file is damaged or was replaced", path=path, found=f"SHA-256 {digest[:12]}…",
            expected=f"{str(wanted)[:12]}…", fix=fix,
        )  # fmt: skip
    return data, digest


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
