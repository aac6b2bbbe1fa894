"""Typed errors: one line with the problem, its place, what was expected and the fix.

Every error that Counterview raises on purpose derives from :class:`CounterviewError`. The command
line prints ``str(error)`` and exits with ``error.exit_code``: 2 for bad input, 1 for a failure that
is not the input's fault.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

MAX_LINE = 4000
"""Characters of the longest message; what a file says in it is cut much earlier."""


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is not one.

    >>> counted(1, "take"), counted(12, "take")
    ('1 take', '12 takes')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shown(value: object, limit: int = 120) -> str:
    """``repr(value)`` for a message: cut at ``limit`` characters, and never more work than that.

    Values out of a file may be integers that Python refuses to print, or lists whose ``repr`` would fill the memory.

    >>> shown([1, "two", {"three": (4,)}])
    "[1, 'two', {'three': (4,)}]"
    >>> shown("x" * 1000, limit=10)
    "'xxxxxxxxx…"
    >>> shown(10**5000)
    'an integer of about 5001 digits'
    """
    pieces: list[str] = []
    room = limit + 1

    def write(text: str) -> None:
        nonlocal room
        pieces.append(text)
        room -= len(text)

    def write_all(items: Iterable[Any], opening: str, closing: str, depth: int) -> None:
        write(opening)
        for number, item in enumerate(items):
            if room <= 0:
                return
            write(", " if number else "")
            visit(item, depth + 1)
        write(closing)

    def visit(item: Any, depth: int) -> None:
        if room <= 0:
            return
        if depth > 20:
            write("…")
        elif isinstance(item, (str, bytes)):
            write(repr(item[: room + 1]))
        elif isinstance(item, int) and item.bit_length() > 2000:
            write(f"an integer of about {int(item.bit_length() * 0.30103) + 1} digits")
        elif type(item) is list:
            write_all(item, "[", "]", depth)
        elif type(item) is tuple:
            write_all(item, "(", ",)" if len(item) == 1 else ")", depth)
        elif type(item) is set and item:
            write_all(item, "{", "}", depth)
        elif type(item) is dict:
            write("{")
            for number, (key, content) in enumerate(item.items()):
                if room <= 0:
                    return
                write(", " if number else "")
                visit(key, depth + 1)
                write(": ")
                visit(content, depth + 1)
            write("}")
        else:
            try:
                write(repr(item))
            except Exception:  # of a class that is not ours
                write(type(item).__name__)

    visit(value, 0)
    text = "".join(pieces)
    return text if len(text) <= limit else text[:limit] + "…"


class CounterviewError(Exception):
    """Base of all errors of this package.

    Args:
        problem: what went wrong, in a few words.
        path: the file or folder concerned.
        found: the value that caused it.
        expected: what was expected instead.
        fix: what the reader can do about it.

    Attributes:
        exit_code: the exit status of the command line after this error.

    >>> print(InputError("is not a mask", path="mug.jpg", found="RGB", expected="grey", fix="Save it as a grey PNG."))
    mug.jpg: is not a mask; found RGB; expected grey. Save it as a grey PNG.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        path: str | os.PathLike[str] | None = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.path = None if path is None else os.fspath(path)
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(problem)

    def __str__(self) -> str:
        line = self.problem if self.path is None else f"{self.path}: {self.problem}"
        if self.found is not None:
            line += f"; found {_text(self.found)}"
        if self.expected is not None:
            line += f"; expected {_text(self.expected)}"
        if self.fix is not None:
            line += f". {self.fix}"
        # A file's name or content may hold what moves a terminal's cursor, or half a character.
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(line.split()))
        return line if len(line) <= MAX_LINE else line[:MAX_LINE] + "…"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by Exception's own pickling, which worker processes rely on.
        return (_rebuild, (type(self), self.__dict__.copy(), self.problem))


def _text(value: object) -> str:
    return shown(value, MAX_LINE) if isinstance(value, (int, list, tuple, set, dict)) else str(value)


def _rebuild(cls: type[CounterviewError], state: dict[str, object], problem: str) -> CounterviewError:
    error = cls.__new__(cls)
    Exception.__init__(error, problem)
    for name, value in state.items():
        setattr(error, name, value)
    return error


class InputError(CounterviewError):
    """The input is at fault: a file, an argument, an annotation."""

    exit_code = 2


class ImageError(InputError):
    """An image file that is missing, damaged, too large or not an image, or an array that is not an image."""


class VideoError(InputError):
    """A video that is missing or damaged, or lacks the requested frame."""


class FrameMissingError(VideoError):
    """A frame that a video does not have: it was dropped, or the video ends before it."""


class MaskError(InputError):
    """A mask that is malformed, empty where it may not be, or of another size than its image."""


class ConfigError(InputError):
    """A configuration with unknown, missing or contradictory values."""


class AnnotationError(InputError):
    """An annotation file that does not follow its format."""


class PredictionError(InputError):
    """A prediction file that does not follow its format, or lacks what the protocol requires."""


class ProposalError(InputError):
    """Proposals that cannot be generated or read, or an image without proposals."""


class PathError(InputError):
    """A name from a file that would lead outside its folder."""


class TrustError(InputError):
    """Files of others that name something else to be opened, or can run code, without the user's word for it."""


class OutputError(InputError, OSError):
    """An output that cannot be written where the user asked for it, or that would replace what is not ours.

    It is an :class:`OSError` as well, with ``errno`` and ``filename``, so that code which handles a full disk or a
    folder without permission need not know where the error was found.

    Args:
        problem: what went wrong, in a few words.
        path: the file or folder that was to be written.
        found: the value that caused it.
        expected: what was expected instead.
        fix: what the reader can do about it.
        errno: number of the system's error; ``None`` if no system call failed.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: str | os.PathLike[str] | None = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(problem, path=path, found=found, expected=expected, fix=fix)
        self.errno, self.strerror, self.filename = errno, problem, self.path

    def __reduce__(self) -> tuple[object, ...]:
        # Not in __dict__: OSError keeps them elsewhere.
        state = {**self.__dict__, "errno": self.errno, "strerror": self.strerror, "filename": self.filename}
        return (_rebuild, (type(self), state, self.problem))


class CheckpointError(InputError):
    """A checkpoint that is damaged, incomplete, or of another architecture."""


class WeightsError(CounterviewError):
    """Weights that are not available: no network, no such repository, or access not granted."""


class MissingExtraError(CounterviewError):
    """An optional dependency that is not installed.

    Args:
        extra: name of the extra, as in ``pip install "counterview[extra]"``.
        what: the feature that needs it.
    """

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(
            f"{what} needs the extra [{extra}], which is not installed",
            fix=f'Run: pip install "counterview[{extra}]"',
        )
        self.extra = extra
