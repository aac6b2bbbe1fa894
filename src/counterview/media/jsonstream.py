"""Large JSON files one member at a time: the annotation of the full data set has 2 GB, one take of it a few MB.

A file is split at the members of one object (the takes), found by brackets and strings alone; each member is
then parsed by the standard library. Memory holds one member and one read buffer, whatever the file's size.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from counterview.errors import InputError

CHUNK_BYTES = 1 << 20
MAX_DEPTH = 200
"""Deepest nesting that is accepted: annotations have 8 levels, and the parser's stack is not endless."""

_SPACE = b" \t\n\r"
# Either a bracket, or a whole string; a string that the buffer cuts off matches up to its end, without group 1.
_TOKEN = re.compile(rb'[{}\[\]]|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:(")|\\?\Z)', re.DOTALL)
_NOT_SPACE = re.compile(rb"[^ \t\n\r]")
_SCALAR_END = re.compile(rb"[,}\] \t\n\r]")


class Span(NamedTuple):
    """Where a value lies in its file, in bytes, end excluded."""

    start: int
    end: int


def iter_object(
    path: str | os.PathLike[str], keys: Sequence[str] = ("annotations",), *, error: type[InputError] = InputError
) -> Iterator[tuple[str, Any]]:
    """Read the members of one object of a JSON file, one after the other.

    Args:
        path: a UTF-8 JSON file whose root is an object.
        keys: the way from the root to the object; ``()`` for the root itself.
        error: the class that is raised.

    Yields:
        name and parsed value of each member, in the file's order.

    Raises:
        InputError: the file is missing or unreadable, is not JSON, is cut off, holds a name twice, or ``keys``
            do not lead to an object. What follows the object is checked too, but only for its brackets.
    """
    with _open(path, error) as handle:
        scanner = _Scanner(handle, path, error)
        for name, raw, _ in scanner.members_at(keys, keep=True):
            yield name, _parse(raw, path, name, error)


def index_object(
    path: str | os.PathLike[str], keys: Sequence[str] = ("annotations",), *, error: type[InputError] = InputError
) -> dict[str, Span]:
    """Where each member of one object of a JSON file lies; nothing is parsed or kept. See :func:`iter_object`."""
    with _open(path, error) as handle:
        return {name: span for name, _, span in _Scanner(handle, path, error).members_at(keys, keep=False)}


def read_span(path: str | os.PathLike[str], span: Span, name: str, *, error: type[InputError] = InputError) -> Any:
    """Parse the value that :func:`index_object` found.

    Raises:
        InputError: the file was changed in between, or the value is not JSON.
    """
    with _open(path, error) as handle:
        handle.seek(span.start)
        return _parse(handle.read(span.end - span.start), path, name, error)


def _open(path: str | os.PathLike[str], error: type[InputError]) -> IO[bytes]:
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise error("no such file", path=path) from None
    except (OSError, ValueError) as problem:
        raise error("cannot be read", path=path, found=getattr(problem, "strerror", None) or problem) from None


def _parse(raw: bytes, path: str | os.PathLike[str], name: str, error: type[InputError]) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        detail = problem.msg if isinstance(problem, json.JSONDecodeError) else type(problem).__name__
        raise error(f"the value of {name[:80]!r} is not JSON", path=path, found=detail) from None


class _Scanner:
    """A window on the file that slides forward: ``buffer`` holds the bytes from ``base`` on."""

    def __init__(self, handle: IO[bytes], path: str | os.PathLike[str], error: type[InputError]) -> None:
        self.handle, self.path, self.error = handle, path, error
        self.buffer, self.base, self.pos = b"", 0, 0
        if not self._fill():
            raise error("is empty", path=path, expected="a JSON object")
        if self.buffer.startswith(b"\xef\xbb\xbf"):
            self.pos = 3

    def _fail(self, problem: str) -> InputError:
        return self.error("is not JSON", path=self.path, found=f"{problem} at byte {self.base + self.pos}")

    def _fill(self, keep_from: int | None = None) -> bool:
        """Read on, dropping what lies before ``keep_from``. What is kept at least doubles, so strings cost O(n)."""
        keep_from = self.pos if keep_from is None else keep_from
        kept = self.buffer[keep_from:]
        try:
            more = self.handle.read(max(CHUNK_BYTES, len(kept)))
        except OSError as problem:
            raise self.error("cannot be read", path=self.path, found=problem.strerror) from None
        self.buffer, self.base, self.pos = kept + more, self.base + keep_from, self.pos - keep_from
        return bool(more)

    def _peek(self) -> bytes:
        """The next byte that is no space, which stays where it is; empty at the end of the file."""
        while True:
            match = _NOT_SPACE.search(self.buffer, self.pos)
            if match:
                self.pos = match.start()
                return match.group()
            self.pos = len(self.buffer)
            if not self._fill():
                return b""

    def _expect(self, byte: bytes) -> None:
        found = self._peek()
        if found != byte:
            what = f"{found.decode('latin-1')!r}" if found else "the end of the file"
            raise self._fail(f"{what} instead of {byte.decode()!r}")
        self.pos += 1

    def _value(self, keep: bool) -> tuple[bytes, Span]:
        """Step over one value. Returns its bytes (empty unless ``keep``) and where it lies."""
        first = self._peek()
        start = self.base + self.pos
        if first in (b"{", b"[", b'"'):
            self._step_over_nested(start, keep)
        elif first and first not in b",}]:":
            while not (match := _SCALAR_END.search(self.buffer, self.pos)):
                if len(self.buffer) - self.pos > 100_000:
                    raise self._fail("a number without end")
                if not self._fill():
                    raise self._fail("the end of the file")
            self.pos = match.start()
            return self.buffer[start - self.base : self.pos] if keep else b"", Span(start, self.base + self.pos)
        else:
            raise self._fail("no value")
        raw = self.buffer[start - self.base : self.pos] if keep else b""
        return raw, Span(start, self.base + self.pos)

    def _step_over_nested(self, start: int, keep: bool) -> None:
        depth = 0
        while True:
            cut = len(self.buffer)  # where to go on once more has been read
            for match in _TOKEN.finditer(self.buffer, self.pos):
                token = self.buffer[match.start()]
                if token in b"{[":
                    depth += 1
                    if depth > MAX_DEPTH:
                        self.pos = match.start()
                        raise self._fail(f"nesting deeper than {MAX_DEPTH}")
                elif token in b"}]":
                    depth -= 1
                elif match.group(1) is None:
                    cut = match.start()
                    break
                if depth == 0:
                    self.pos = match.end()
                    return
            self.pos = cut
            if not self._fill(start - self.base if keep else None):
                raise self._fail("the end of the file")

    def _members(self, keep: bool) -> Iterator[tuple[str, bytes, Span]]:
        """The members of the object that begins here. Whoever takes one must not move the window."""
        self._expect(b"{")
        if self._peek() == b"}":
            self.pos += 1
            return
        seen: set[str] = set()
        while True:
            name = self._name()
            if name in seen:
                raise self.error(f"holds {name[:80]!r} twice", path=self.path, fix="Keep one of them.")
            seen.add(name)
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
        """Descend along ``keys``, hand out the members there, then step over the rest of the file."""
        yield from self._descend(list(keys), [], keep)
        if self._peek():
            raise self._fail("more after the end of the object")

    def _descend(self, keys: list[str], way: list[str], keep: bool) -> Iterator[tuple[str, bytes, Span]]:
        if self._peek() != b"{":
            where = f"the value of {way[-1]!r}" if way else "the file"
            raise self.error(f"{where} is no JSON object", path=self.path, expected="{…}")
        if not keys:
            yield from self._members(keep)
            return
        self._expect(b"{")
        found: set[str] = set()
        more = self._peek() != b"}"
        while more:
            name = self._name()
            if name == keys[0] and name in found:
                raise self.error(f"holds {name[:80]!r} twice", path=self.path, fix="Keep one of them.")
            found.add(name)
            if name == keys[0]:
                yield from self._descend(keys[1:], [*way, name], keep)
            else:
                self._value(keep=False)
            more = self._peek() == b","
            self.pos += more
        self._expect(b"}")
        if keys[0] not in found:
            names = ", ".join(repr(n[:40]) for n in sorted(found)[:6]) or "nothing"
            raise self.error(f"has no {'.'.join([*way, keys[0]])!r}", path=self.path, found=names)
