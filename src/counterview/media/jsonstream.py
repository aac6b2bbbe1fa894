"""Read large JSON files one member at a time: the annotation of the full data set has 2 GB, one take a few MB.

A file is split at the members of one object (the takes), by brackets and strings alone; each member is then
parsed by the standard library. Memory holds one member and one read buffer, for a file of any size.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError
from counterview.guard import library_errors, reason, regular_file
from counterview.media.files import decode_json

CHUNK_BYTES = 1 << 20
MAX_VALUE_BYTES = 1 << 27
"""Size of the largest member that is parsed, and of the longest text that is stepped over: a take has a few MB."""
MAX_DEPTH = 200
"""Deepest nesting that is accepted: annotations have 8 levels, and the parser's stack is limited."""

_QUOTE = ord('"')
_SPECIAL = np.zeros(256, dtype=np.bool_)
_SPECIAL[list(b'{}[]"')] = True
_NOT_SPACE = re.compile(rb"[^ \t\n\r]")
_SCALAR_END = re.compile(rb"[,}\] \t\n\r]")


class Span(NamedTuple):
    """Position of a value in its file, in bytes, end excluded."""

    start: int
    end: int


def iter_object(
    path: str | os.PathLike[str], keys: Sequence[str] = ("annotations",), *, error: type[InputError] = InputError
) -> Iterator[tuple[str, Any]]:
    """Read the members of one object of a JSON file, one after the other.

    Args:
        path: a UTF-8 JSON file whose root is an object.
        keys: the path from the root to the object; ``()`` for the root itself.
        error: the class of the errors.

    Yields:
        name and parsed value of each member, in the file's order.

    Raises:
        InputError: the file is missing or unreadable, is not JSON, is truncated, holds a name twice, or ``keys``
            do not lead to an object. Of the text after the object only the brackets are checked.
    """
    with _open(path, error) as handle:
        scanner = _Scanner(handle, path, error)
        for name, raw, _ in scanner.members_at(keys, keep=True):
            yield name, _parse(raw, path, name, error)


def index_object(
    path: str | os.PathLike[str], keys: Sequence[str] = ("annotations",), *, error: type[InputError] = InputError
) -> dict[str, Span]:
    """Position of each member of one object of a JSON file, without parsing the values. See :func:`iter_object`.

    Raises:
        InputError: as :func:`iter_object`, but values are not parsed, so some that are not JSON go unnoticed.
    """
    with _open(path, error) as handle:
        return {name: span for name, _, span in _Scanner(handle, path, error).members_at(keys, keep=False)}


def find_member(
    path: str | os.PathLike[str], keys: Sequence[str], name: str, *, error: type[InputError] = InputError
) -> Span | None:
    """Position of one member of an object; the file is read no farther than to its end. See :func:`index_object`.

    Args:
        path: a UTF-8 JSON file whose root is an object.
        keys: the path from the root to the object.
        name: the member's name.
        error: the class of the errors.

    Returns:
        the position, or ``None`` if there is no such member.

    Raises:
        InputError: as :func:`index_object`.
    """
    with _open(path, error) as handle:
        for found, _, span in _Scanner(handle, path, error).members_at(keys, keep=False):
            if found == name:
                return span
    return None


def read_span(path: str | os.PathLike[str], span: Span, name: str, *, error: type[InputError] = InputError) -> Any:
    """Parse one value at a position from :func:`index_object`.

    Args:
        path: the file.
        span: the value's position.
        name: the value's name, for the error message.
        error: the class of the errors.

    Raises:
        InputError: the file cannot be read, was changed since it was indexed, or the value is not JSON.
    """
    if span.end - span.start > MAX_VALUE_BYTES:
        raise error(
            f"the value of {name[:80]!r} is too large", path=path, found=f"{span.end - span.start} bytes",
            expected=f"at most {MAX_VALUE_BYTES}",
        )  # fmt: skip
    with _open(path, error) as handle:
        handle.seek(span.start)
        return _parse(handle.read(span.end - span.start), path, name, error)


def _open(path: str | os.PathLike[str], error: type[InputError]) -> IO[bytes]:
    path = regular_file(path, error)
    with library_errors(error, "cannot be read", path=path):
        return path.open("rb")


def _parse(raw: bytes, path: str | os.PathLike[str], name: str, error: type[InputError]) -> Any:
    return decode_json(raw, path, f"the value of {name[:80]!r} is not JSON", error=error)


class _Marks(NamedTuple):
    position: NDArray[np.int64]
    """``(M,)`` offsets of the buffer's brackets and unescaped quotes."""
    quote: NDArray[np.bool_]
    """``(M,)`` which of them are quotes."""
    depth: NDArray[np.int64]
    """``(M,)`` open brackets after each mark, counted from the start of the buffer; those in strings do not count."""
    complete_until: int
    """Offset of the string that the buffer cuts off, or the buffer's end."""


class _Scanner:
    """A window that slides over the file: ``buffer`` holds the bytes from ``base`` on, ``pos`` is an offset in it."""

    def __init__(self, handle: IO[bytes], path: str | os.PathLike[str], error: type[InputError]) -> None:
        self.handle, self.path, self.error = handle, path, error
        self.buffer, self.base, self.pos = b"", 0, 0
        self._marks: _Marks | None = None
        if not self._fill():
            raise error("is empty", path=path, expected="a JSON object")
        if self.buffer.startswith(b"\xef\xbb\xbf"):
            self.pos = 3

    def _fail(self, problem: str) -> InputError:
        return self.error("is not JSON", path=self.path, found=f"{problem} at byte {self.base + self.pos}")

    def _fill(self) -> bool:
        """Read on, dropping the bytes before ``pos``. The rest at least doubles, so long values cost O(n)."""
        rest = self.buffer[self.pos :]
        if len(rest) > MAX_VALUE_BYTES // 2:
            raise self.error(
                "holds a value that is too large", path=self.path, found=f"one of more than {len(rest)} bytes",
                expected=f"takes of at most {MAX_VALUE_BYTES}",
            )  # fmt: skip
        try:
            more = self.handle.read(max(CHUNK_BYTES, len(rest)))
        except OSError as problem:
            raise self.error("cannot be read", path=self.path, found=reason(problem)) from None
        self.buffer, self.base, self.pos = rest + more, self.base + self.pos, 0
        self._marks = None
        return bool(more)

    def _peek(self) -> bytes:
        """The next byte that is not white space, without consuming it; empty at the end of the file."""
        while True:
            match = _NOT_SPACE.search(self.buffer, self.pos)
            if match:
                self.pos = match.start()
                return match.group()
            self.pos = len(self.buffer)
            if not self._fill():
                return b""

    def _expect(self, byte: bytes) -> None:
        actual = self._peek()
        if actual != byte:
            what = f"{actual.decode('latin-1')!r}" if actual else "the end of the file"
            raise self._fail(f"{what} instead of {byte.decode()!r}")
        self.pos += 1

    def _value(self, keep: bool) -> tuple[bytes, Span]:
        """Step over one value. Returns its bytes (empty unless ``keep``) and its position."""
        first = self._peek()
        start = self.base + self.pos
        if first in (b"{", b"[", b'"'):
            self._step_over(start, keep)
        elif first and first not in b",}]:":
            while not (match := _SCALAR_END.search(self.buffer, self.pos)):
                if len(self.buffer) - self.pos > CHUNK_BYTES + 100_000:
                    raise self._fail("a number without end")
                if not self._fill():
                    raise self._fail("the end of the file")
            self.pos = match.start()
            return self.buffer[start - self.base : self.pos] if keep else b"", Span(start, self.base + self.pos)
        else:
            raise self._fail("no value")
        raw = self.buffer[start - self.base : self.pos] if keep else b""
        return raw, Span(start, self.base + self.pos)

    def _step_over(self, start: int, keep: bool) -> None:
        """Step over a string, list or object."""
        if self.buffer[self.pos] == _QUOTE:
            while True:
                marks = self._marked()
                i = int(np.searchsorted(marks.position, self.pos))
                after = np.flatnonzero(marks.quote[i + 1 : i + 1 + 64])
                if not len(after):  # a string that holds many brackets, or is cut off
                    after = np.flatnonzero(marks.quote[i + 1 :])
                if len(after):
                    self.pos = int(marks.position[i + 1 + after[0]]) + 1
                    return
                if not self._fill():
                    raise self._fail("the end of the file")
        depth = 0
        while True:
            marks = self._marked()
            i = int(np.searchsorted(marks.position, self.pos))
            outside = depth - (int(marks.depth[i - 1]) if i else 0)  # depth at the start of the buffer
            width = 64
            while i < len(marks.depth):
                level = marks.depth[i : i + width] + outside
                ends = np.flatnonzero(level <= 0)
                # A quote does not change the depth, so the first mark at 0 is the bracket that closes the value.
                if (level[: ends[0] if len(ends) else None] > MAX_DEPTH).any():
                    raise self._fail(f"nesting deeper than {MAX_DEPTH}")
                if len(ends):
                    self.pos = int(marks.position[i + ends[0]]) + 1
                    return
                i, width = i + width, width * 2
            if keep:
                self.pos, depth = start - self.base, 0
            else:
                depth, self.pos = outside + (int(marks.depth[-1]) if len(marks.depth) else 0), marks.complete_until
            if not self._fill():
                raise self._fail("the end of the file")

    def _marked(self) -> _Marks:
        """Brackets and quotes of the buffer, which always starts outside a string."""
        if self._marks is None:
            plain = self.buffer
            if b"\\" in plain:
                plain = plain.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
            data = np.frombuffer(plain, dtype=np.uint8)
            position = np.flatnonzero(_SPECIAL[data])
            kind = data[position]
            quote = kind == _QUOTE
            inside = (np.cumsum(quote) - quote) % 2 == 1
            change = np.where((kind == ord("{")) | (kind == ord("[")), 1, -1)
            depth = np.cumsum(np.where(quote | inside, 0, change))
            quotes = np.flatnonzero(quote)
            complete_until = len(data) if len(quotes) % 2 == 0 else int(position[quotes[-1]])
            self._marks = _Marks(position, quote, depth, complete_until)
        return self._marks

    def _members(self, keep: bool) -> Iterator[tuple[str, bytes, Span]]:
        """The members of the object that starts here. The caller must not move the window between two of them."""
        self._expect(b"{")
        if self._peek() == b"}":
            self.pos += 1
            return
        names: set[str] = set()
        while True:
            name = self._name()
            if name in names:
                raise self.error(f"holds {name[:80]!r} twice", path=self.path, fix="Keep one of them.")
            names.add(name)
            raw, span = self._value(keep)
            yield name, raw, span
            if self._peek() == b",":
                self.pos += 1
            else:
                self._expect(b"}")
                return

    def _name(self) -> str:
        if self._peek() != b'"':
            raise self._fail("no name")
        raw, _ = self._value(keep=True)
        name = _parse(raw, self.path, "a name", self.error)
        self._expect(b":")
        self._peek()
        return name

    def members_at(self, keys: Sequence[str], keep: bool) -> Iterator[tuple[str, bytes, Span]]:
        """Descend along ``keys``, yield the members there, then step over the rest of the file."""
        yield from self._descend(list(keys), [], keep)
        if self._peek():
            raise self._fail("more after the end of the object")

    def _descend(self, keys: list[str], path: list[str], keep: bool) -> Iterator[tuple[str, bytes, Span]]:
        if self._peek() != b"{":
            where = f"the value of {path[-1]!r}" if path else "the file"
            raise self.error(f"{where} is not a JSON object", path=self.path, expected="{…}")
        if not keys:
            yield from self._members(keep)
            return
        self._expect(b"{")
        names: set[str] = set()
        more = self._peek() != b"}"
        while more:
            name = self._name()
            if name == keys[0] and name in names:
                raise self.error(f"holds {name[:80]!r} twice", path=self.path, fix="Keep one of them.")
            names.add(name)
            if name == keys[0]:
                yield from self._descend(keys[1:], [*path, name], keep)
            else:
                self._value(keep=False)
            more = self._peek() == b","
            self.pos += more
        self._expect(b"}")
        if keys[0] not in names:
            listed = ", ".join(repr(n[:40]) for n in sorted(names)[:6]) or "nothing"
            raise self.error(f"has no {'.'.join([*path, keys[0]])!r}", path=self.path, found=listed)
