"""Typed errors: one line with the problem, its place, what was expected and the fix.

Every error that Counterview raises on purpose derives from :class:`CounterviewError`. The command
line prints ``str(error)`` and exits with ``error.exit_code``: 2 for bad input, 1 for a failure that
is not the input's fault.
"""

from __future__ import annotations

import os


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
            line += f"; found {self.found}"
        if self.expected is not None:
            line += f"; expected {self.expected}"
        if self.fix is not None:
            line += f". {self.fix}"
        return " ".join(line.split())

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by Exception's own pickling, which worker processes rely on.
        return (_rebuild, (type(self), self.__dict__.copy(), self.problem))


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
