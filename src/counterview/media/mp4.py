"""The size of an MP4 file's index, before FFmpeg builds it: a few bytes may announce a billion samples.

FFmpeg indexes all tracks when it opens a file, 32 bytes a sample. Where the samples of a track have one size, the file
holds their number alone (ISO/IEC 14496-12: ``stsz``, ``trun``), and an edit list may repeat them (``elst``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from counterview.errors import VideoError
from counterview.guard import library_errors

MAX_SAMPLES = 5_000_000
"""Entries of a file's index at most: 46 hours at 30 frames per second."""

_MAX_DEPTH, _MAX_BOXES = 24, 500_000
_CONTAINERS = frozenset(
    b"moov hoov trak mdia minf stbl edts dinf udta mvex moof traf tref wave clip iprp ipco gmhd sinf schi".split()
)
_PCM_SAMPLES = 1024
"""Samples of uncompressed sound in one entry of FFmpeg's index."""


@dataclass
class _IndexSize:
    """What decides on the size of one track's index."""

    samples: int = 0
    edits: int = 0
    chunks: int = 0
    per_chunk: int = 0
    durations: list[tuple[int, int]] = field(default_factory=list)
    handlers: set[bytes] = field(default_factory=set)

    @property
    def entries(self) -> int:
        """Entries of the index. Of uncompressed sound, FFmpeg makes few entries for each chunk."""
        is_pcm = b"soun" in self.handlers and b"vide" not in self.handlers and self.durations == [(1, 1)]
        count = self.chunks * (self.per_chunk // _PCM_SAMPLES + 1) if is_pcm else self.samples
        return count * max(1, self.edits // 4)


def check_index(path: Path) -> None:
    """Refuse an MP4 or MOV file with more samples than a video can have. Files of other formats pass.

    Raises:
        VideoError: more than :data:`MAX_SAMPLES`, an index that is compressed, or boxes without end.
    """
    with library_errors(VideoError, "cannot be opened as a video", path=path), path.open("rb") as handle:
        _Boxes(handle, path).walk(0, handle.seek(0, 2), 0, _IndexSize())


class _Boxes:
    """A walk over the boxes of a file, as FFmpeg goes: a box counts wherever it lies."""

    def __init__(self, handle: IO[bytes], path: Path) -> None:
        self.handle, self.path, self.seen, self.total = handle, path, 0, 0

    def _read(self, start: int, length: int) -> bytes:
        self.handle.seek(start)
        return self.handle.read(length)

    def _numbers(self, start: int, count: int) -> tuple[int, ...]:
        data = self._read(start, 4 * count)
        return struct.unpack(f">{len(data) // 4}I", data[: len(data) // 4 * 4])

    def walk(self, start: int, end: int, depth: int, track: _IndexSize) -> None:
        """Go over the boxes between two offsets, and add up what they say in ``track``."""
        while end - start >= 8:
            self.seen += 1
            if depth > _MAX_DEPTH or self.seen > _MAX_BOXES:
                raise VideoError("has too many boxes, or boxes that are nested too deeply", path=self.path)
            length, kind = struct.unpack(">I4s", self._read(start, 8))
            content = start + 8
            if length == 1 and end - start >= 16:
                (length,) = struct.unpack(">Q", self._read(content, 8))
                content += 8
            after = end if length == 0 else min(end, start + length)
            if after < content:
                return
            if kind == b"trak" or (kind == b"traf" and depth < 2):
                own = _IndexSize()
                self.walk(content, after, depth + 1, own)
                self._count(own.entries)
            else:
                self._box(kind, content, after, depth, track)
            start = after

    def _count(self, entries: int) -> None:
        self.total += entries
        if self.total > MAX_SAMPLES:
            raise VideoError(
                "has too many samples", path=self.path, found=self.total, expected=f"at most {MAX_SAMPLES}"
            )

    def _box(self, kind: bytes, start: int, end: int, depth: int, track: _IndexSize) -> None:
        if kind in _CONTAINERS or (kind == b"free" and self._read(start + 4, 4) == b"hoov"):
            self.walk(start, end, depth + 1, track)
        elif kind == b"meta":
            at = self._read(start, min(end - start, 1 << 24)).find(b"hdlr")
            if at >= 4:
                self.walk(start + at - 4, end, depth + 1, track)
        elif kind == b"cmov":
            raise VideoError("has a compressed index, which is not read", path=self.path, fix="Convert it to MP4.")
        elif kind == b"stsd":
            hidden = self._read(start, min(end - start, 1 << 24))
            if any(name in hidden for name in (b"stsz", b"stz2", b"trun", b"elst")):
                raise VideoError("has an index where none belongs", path=self.path)
        elif kind == b"hdlr":
            track.handlers.add(self._read(start + 8, 4))
        elif kind in (b"stsz", b"stz2"):
            track.samples += max(self._numbers(start + 8, 1), default=0)
        elif kind == b"trun":
            self._count(max(self._numbers(start + 4, 1), default=0))
        elif kind == b"elst":
            track.edits += max(self._numbers(start + 4, 1), default=0)
        elif kind in (b"stco", b"co64"):
            track.chunks += max(self._numbers(start + 4, 1), default=0)
        elif kind == b"stts":
            count = max(self._numbers(start + 4, 1), default=0)
            track.durations.append((count, (*self._numbers(start + 8, 2), 0, 0)[1]))
        elif kind == b"stsc":
            numbers = self._numbers(start + 8, min((end - start - 8) // 4, 3 * 1_000_000))
            track.per_chunk = max(track.per_chunk, *numbers[1::3], 0)
