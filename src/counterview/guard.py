"""The boundary to libraries that read files of others: Pillow, FFmpeg, PyYAML, NumPy, torch, transformers.

Given a damaged or hostile file, such a library may raise anything, read without end, or write to the terminal. Every
reader of this package calls it through here, so that all of that becomes one typed line which names the file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from counterview.errors import CounterviewError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextlib.contextmanager
def library_errors(
    error: type[CounterviewError],
    problem: str,
    *,
    path: str | os.PathLike[str] | None = None,
    expected: object = None,
    fix: str | None = None,
) -> Iterator[None]:
    """Turn whatever goes wrong in the block into ``error``. Errors of this package pass, and so does Ctrl-C.

    Args:
        error: its class.
        problem: what cannot be done, for example "is not an image that can be read".
        path: the file that the block reads.
        expected: what was expected instead.
        fix: what the reader of the message can do.

    Raises:
        CounterviewError: of the class ``error``; ``MemoryError`` too, since the file's content asked for the memory.

    >>> from counterview.errors import InputError
    >>> with library_errors(InputError, "is not a number", path="count.txt"):
    ...     int("three")
    Traceback (most recent call last):
    counterview.errors.InputError: count.txt: is not a number; found invalid literal for int() with base 10: 'three'
    """
    try:
        yield
    except CounterviewError:
        raise
    except Exception as failure:
        raise error(problem, path=path, found=reason(failure), expected=expected, fix=fix) from failure


def reason(failure: BaseException, limit: int = 120) -> str:
    """The first line of an exception's text, at most ``limit`` characters; its type if it has none.

    >>> reason(KeyError("size")), reason(AssertionError()), reason(MemoryError())
    ("KeyError 'size'", 'AssertionError', 'more memory than there is')
    """
    if isinstance(failure, MemoryError):
        return "more memory than there is"
    name = type(failure).__name__
    if name == "InvalidDataError":  # FFmpeg's, which would say "Invalid data found when processing input"
        return "content that is damaged, or not of this kind"
    strerror = getattr(failure, "strerror", None)  # of OSError, and of FFmpeg's errors
    if isinstance(strerror, str) and strerror:
        return strerror[:limit]
    try:
        text = str(failure).strip()
    except Exception:  # of a class that is not ours
        return name
    line = text.partition("\n")[0].strip()
    if isinstance(failure, (LookupError, AttributeError)) or not line:
        line = f"{name} {line}".strip()  # str(KeyError("size")) is "'size'"
    return line if len(line) <= limit else line[:limit] + "…"


def regular_file(path: str | os.PathLike[str], error: type[CounterviewError], *, max_bytes: int | None = None) -> Path:
    """Check that a path leads to a plain file, which can be read to its end, and return it.

    Args:
        path: the file; links are followed.
        error: class of the error.
        max_bytes: larger files are refused.

    Raises:
        CounterviewError: of the class ``error``: missing, a folder, a named pipe or a device, or too large.
    """
    path = Path(path)
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise error("no such file", path=path) from None
    except (OSError, ValueError) as failure:  # a name that is too long, or with a NUL in it
        raise error("cannot be read", path=path, found=reason(failure)) from None
    if stat.S_ISDIR(facts.st_mode):
        raise error("is a folder", path=path, expected="a file")
    if not stat.S_ISREG(facts.st_mode):
        kind = next((name for test, name in _KINDS if test(facts.st_mode)), "of another kind")
        raise error("is not a regular file", path=path, found=kind)
    if max_bytes is not None and facts.st_size > max_bytes:
        raise error("is too large", path=path, found=f"{facts.st_size} bytes", expected=f"at most {max_bytes}")
    return path


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a folder; a text that cannot be a path, such as a very long one, does not."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with ``~`` replaced, as it is if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_file(path: str | os.PathLike[str], error: type[CounterviewError], *, max_bytes: int | None = None) -> bytes:
    """The bytes of a regular file. Arguments and errors as for :func:`regular_file`."""
    path = regular_file(path, error, max_bytes=max_bytes)
    with library_errors(error, "cannot be read", path=path):
        return path.read_bytes()


_lock = threading.Lock()
_users = 0
_saved = -1


@contextlib.contextmanager
def discard_native_stderr() -> Iterator[None]:
    """Within the block, what is written to the process's standard error is dropped, that of C libraries too.

    libtiff reports damage there, to the user's terminal, beside the error that it returns. Other threads lose what they
    write in the meantime, so the block should be one call of such a library.
    """
    global _users, _saved
    with _lock:
        if _users == 0:
            with contextlib.suppress(OSError):  # there is no standard error
                _saved = os.dup(2)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 2)
                os.close(null)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _saved >= 0:
                with contextlib.suppress(OSError):
                    os.dup2(_saved, 2)
                    os.close(_saved)
                _saved = -1
