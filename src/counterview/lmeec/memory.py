"""The memory of one track: two banks of past frames that never grow beyond their size, and past object pointers.

All tensors here belong to one object in one target camera; the session batches tracks of equal length. N is the
number of cells of a stored memory, one for every 16 x 16 px of the model's square image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from counterview.errors import InputError

Compression = Literal["merge", "drop", "fifo", "weighted"]


def compress(
    memory: Tensor, how: Compression = "merge", counts: Tensor | None = None, protected: int = 0
) -> tuple[Tensor, Tensor]:
    """Shorten a bank by one frame (LM-EEC, key design 2).

    At each position by itself, the neighbouring frames with the smallest Euclidean distance are found (the first
    such pair on ties). ``merge`` replaces them by their mean, as the paper has it; ``drop`` keeps the earlier one, as
    the released code does; ``weighted`` (ours) takes the mean weighted by the number of frames that each stands for.
    ``fifo`` drops the oldest frame everywhere.

    Args:
        memory: ``(T, N, ..., C)``, oldest frame first, T at least 2.
        how: see above.
        counts: ``(T, N, ...)`` number of frames that each entry stands for; ones if not given.
        protected: number of leading frames that ``merge``, ``drop`` and ``weighted`` leave alone.

    Returns:
        memory ``(T - 1, N, ..., C)`` and counts ``(T - 1, N, ...)``.

    Raises:
        InputError: fewer than two frames.
    """
    if memory.shape[0] < 2:
        raise InputError("a bank needs two frames to be compressed", found=memory.shape[0])
    if counts is None:
        counts = torch.ones(memory.shape[:-1], device=memory.device)
    if how == "fifo":
        return memory[1:], counts[1:]
    distance = torch.linalg.vector_norm(memory[1:] - memory[:-1], dim=-1)
    if protected:
        # At least one pair stays free, or nothing could be merged.
        distance[: min(protected, distance.shape[0] - 1)] = torch.inf
    first = distance.argmin(dim=0)  # the earlier frame of the closest pair
    index = torch.arange(memory.shape[0] - 1, device=memory.device).view(-1, *(1,) * first.dim())
    source = torch.where(index > first, index + 1, index.expand(-1, *first.shape))
    kept = memory.gather(0, source[..., None].expand(*source.shape, memory.shape[-1]))
    kept_counts = counts.gather(0, source)
    if how == "drop":
        return kept, kept_counts
    count_index = first[None]
    entry_index = first[None, ..., None].expand(1, *first.shape, memory.shape[-1])
    earlier, later = memory.gather(0, entry_index), memory.gather(0, entry_index + 1)
    earlier_count, later_count = counts.gather(0, count_index), counts.gather(0, count_index + 1)
    total = earlier_count + later_count
    if how == "merge":
        merged = (earlier + later) / 2
    else:
        merged = earlier * (earlier_count / total)[..., None] + later * (later_count / total)[..., None]
    return (
        kept.scatter(0, entry_index, merged.to(kept.dtype)),
        kept_counts.scatter(0, count_index, total.to(kept_counts.dtype)),
    )


@dataclass
class MemoryBank:
    """Past frames of one view of one track.

    Two ways to handle gaps in the frame numbers. ``keep``: every processed frame enters the bank when it is done.
    ``released``: while fewer than ``size + 1`` frames have been processed, the bank is what was processed among the
    last ``size`` frame numbers; from then on it is the bank as last used plus the frame before this one, if that was
    processed, compressed to the length it had.

    Attributes:
        size: most frames that the bank holds.
        how: how it is shortened, see :func:`compress`.
        protected: leading frames that weighted compression leaves alone.
        gaps: see above.
        entries: ``(N, C)`` each, oldest first.
        counts: ``(N,)`` each, the number of frames that each cell of the entry stands for.
        numbers: frame numbers, as many as entries; after a compression, those of the newest frames.
        processed: number of frames that were added.
        pending: number and memory of the frame that waits to be banked, with ``released``.
    """

    size: int
    how: Compression
    protected: int = 0
    gaps: Literal["keep", "released"] = "keep"
    entries: list[Tensor] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    processed: int = 0
    pending: tuple[int, Tensor] | None = None

    def add(self, number: int, memory: Tensor) -> None:
        """Put the memory ``(N, C)`` of frame ``number`` into the bank."""
        if self.put(number, memory):
            shorten([self])

    def put(self, number: int, memory: Tensor) -> bool:
        """:meth:`add` without shortening the bank.

        Args:
            number: of the frame.
            memory: ``(N, C)``.

        Returns:
            whether it is now one frame too long, and has to be shortened.
        """
        self.processed += 1
        if self.gaps == "released" and self.processed > self.size:
            self.pending = (number, memory)
            return False
        self._append(number, memory)
        return len(self.entries) > self.size

    def read(self, number: int) -> list[Tensor]:
        """The entries ``(N, C)`` that frame ``number`` may attend to, oldest first."""
        if self.gaps == "released":
            if self.processed <= self.size:
                while self.numbers and self.numbers[0] < number - self.size:
                    del self.numbers[0], self.entries[0], self.counts[0]
            elif self.pending is not None:
                before, memory = self.pending
                self.pending = None
                if before == number - 1:
                    was_empty = not self.entries
                    self._append(before, memory)
                    if not was_empty:
                        shorten([self])
        return list(self.entries)

    def _append(self, number: int, memory: Tensor) -> None:
        self.entries.append(memory)
        self.counts.append(torch.ones(memory.shape[0], device=memory.device))
        self.numbers.append(number)


def shorten(banks: Sequence[MemoryBank]) -> None:
    """Shorten banks by one frame each, those of equal length as one batch; see :func:`compress`.

    Args:
        banks: of at least two entries ``(N, C)`` each.
    """
    groups: dict[Hashable, list[MemoryBank]] = {}
    for bank in banks:
        kind = bank.how, bank.protected, len(bank.entries), bank.entries[0].shape, bank.entries[0].dtype
        groups.setdefault(kind, []).append(bank)
    for group in groups.values():
        how, is_weighted = group[0].how, group[0].how == "weighted"
        # (T, B, N, C): frames first, then banks.
        stack = torch.stack([torch.stack([bank.entries[t] for bank in group]) for t in range(len(group[0].entries))])
        number = torch.stack([torch.stack(bank.counts) for bank in group], 1) if is_weighted else None
        memory, counts = compress(stack, how, number, group[0].protected if is_weighted else 0)
        for row, bank in enumerate(group):
            # One copy a bank: all of its entries leave it together, and no bank keeps the memory of another one alive.
            bank.entries = list(memory[:, row].clone().unbind())
            bank.counts = list(counts[:, row].clone().unbind())
            bank.numbers = bank.numbers[1:]


@dataclass
class PointerBank:
    """Object pointers of a track as far back as they are used (SAM 2, section 4).

    Attributes:
        reach: number of frames, the present one counted, that pointers reach back.
        pointers: frame numbers and pointers ``(C,)``, newest last.
    """

    reach: int
    pointers: deque[tuple[int, Tensor]] = field(default_factory=deque)

    def add(self, number: int, pointer: Tensor) -> None:
        """Store the pointer ``(C,)`` of frame ``number``."""
        self.pointers.append((number, pointer))

    def read(self, number: int) -> tuple[list[int], list[Tensor]]:
        """Distances in frames and pointers ``(C,)`` for frame ``number``, newest first."""
        while self.pointers and number - self.pointers[0][0] > self.reach - 1:
            self.pointers.popleft()
        near = [(number - n, p) for n, p in reversed(self.pointers)]
        return [distance for distance, _ in near], [pointer for _, pointer in near]


@dataclass
class TrackMemory:
    """All that is remembered of one object in one target camera.

    Attributes:
        query: past frames of the query view.
        target: past frames of the target view.
        pointers: past object pointers.
        last: index of the last frame that was predicted; -1 before the first.
    """

    query: MemoryBank
    target: MemoryBank
    pointers: PointerBank
    last: int = -1

    def add(self, index: int, query: Tensor | None, target: Tensor, pointer: Tensor) -> None:
        """Remember a frame.

        Args:
            index: of the frame.
            query: memory of the query view, ``(N, C)``; ``None`` where nothing new was seen of it.
            target: memory of the target view, ``(N, C)``.
            pointer: object pointer.
        """
        remember([self], index, [query], [target], [pointer])


def remember(
    tracks: Sequence[TrackMemory],
    index: int,
    queries: Sequence[Tensor | None],
    targets: Sequence[Tensor],
    pointers: Sequence[Tensor],
) -> None:
    """Remember a frame of several tracks, whose banks are shortened together.

    Args:
        tracks: different ones.
        index: of the frame.
        queries: of each track, the memory of the query view, ``(N, C)``; ``None`` where nothing new was seen of it.
        targets: the memory of the target view, ``(N, C)`` each.
        pointers: the object pointer, ``(C,)`` each.
    """
    full = []
    for track, query, target, pointer in zip(tracks, queries, targets, pointers, strict=True):
        if query is not None and track.query.put(index, query):
            full.append(track.query)
        # Clones, or one object's memory would keep a whole batch alive.
        if track.target.put(index, target.clone()):
            full.append(track.target)
        track.pointers.add(index, pointer.clone())
        track.last = index
    shorten(full)
