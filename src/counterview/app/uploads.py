"""Files that visitors upload, while they come and afterwards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from counterview.app.limits import Kind
from counterview.errors import InputError


@dataclass(frozen=True)
class Upload:
    """A file that a visitor uploaded.

    Attributes:
        name: as the visitor's machine calls it, without folders; only shown.
        path: where it lies; its name there is ours.
        kind: what it was uploaded as.
        size: in bytes.
    """

    name: str
    path: Path
    kind: Kind
    size: int


@dataclass
class Incoming:
    """An upload that is under way.

    Attributes:
        key: the id that it will have.
        name: as the visitor's machine calls it.
        handle: the open file.
        limit: bytes of the largest file of its kind.
        room: bytes that the session may still hold.
        size: bytes that came so far.
    """

    key: str
    name: str
    handle: IO[bytes]
    limit: int
    room: int
    size: int = 0

    def write(self, piece: bytes) -> None:
        """Take the next piece.

        Args:
            piece: of the file.

        Raises:
            InputError: the file is too large, or the session has no room for it.
        """
        self.size += len(piece)
        self.check(self.size)
        self.handle.write(piece)

    def check(self, size: int) -> None:
        """Check a size in bytes against what is allowed.

        Args:
            size: so far, or in all as a request says.

        Raises:
            InputError: it is too large.
        """
        if size > self.limit:
            most = f"{self.limit / 1e6:g} MB"
            raise InputError(f"{self.name}: is too large", found=f"more than {most}", expected=f"at most {most}")
        if size > self.room:
            raise InputError(
                f"{self.name}: the session has no room for it", found=f"{max(0, self.room) / 1e6:.0f} MB left",
                fix="Load the page again to begin a new session.",
            )  # fmt: skip


def plain_name(name: str) -> str:
    r"""The name of an uploaded file without its folders and without what cannot be shown.

    >>> plain_name("../../etc/mug.jpg"), plain_name("C:\\images\\mug.jpg"), plain_name("..")
    ('mug.jpg', 'mug.jpg', 'file')
    """
    last = re.split(r"[/\\]", name)[-1]
    text = "".join(c for c in last if c.isprintable()).strip(" .")
    ending = Path(text).suffix[:10]
    return (text if len(text) <= 80 else text[: 80 - len(ending)] + ending) or "file"
