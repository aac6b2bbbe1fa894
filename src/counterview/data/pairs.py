"""Pairs of frames: one object, seen in the query camera, to be found in the target camera at the same time.

The official enumeration (``create_pairs`` of the Ego-Exo4D correspondence baselines) takes, for each object,
ego camera and exo camera, every frame in which the object has a mask in the *query* camera, whatever is known
of the target.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from counterview.data.dataset import Dataset, Direction, Take, check_direction
from counterview.errors import AnnotationError, InputError
from counterview.media.files import read_json

Targets = Literal["official", "annotated", "visible", "absent"]
"""Which pairs are wanted, by what is known of the object in the target frame.

``official``: all of them, those about which nothing is known among them; ``annotated``: the target frame was
looked at (what the official evaluation scores); ``visible``: it has a mask; ``absent``: it was looked at and the
object was not seen.
"""

SETTINGS: dict[Direction, str] = {"ego2exo": "egoexo", "exo2ego": "exoego"}


@dataclass(frozen=True)
class FramePair:
    """One object at one time in two cameras.

    Attributes:
        take: the take's uid.
        object: the object's name.
        query_camera: where its mask is given.
        target_camera: where it is to be found.
        frame: frame number, the same in both.
        target_visible: whether it has a mask in the target; ``None`` if nobody looked.
    """

    take: str
    object: str
    query_camera: str
    target_camera: str
    frame: int
    target_visible: bool | None

    @property
    def key(self) -> str:
        """A text that no other pair has, in whichever order pairs are listed."""
        return "\0".join((self.take, self.object, self.query_camera, self.target_camera, str(self.frame)))


class PairTable(Sequence[FramePair]):
    """Many pairs in little memory: 13 bytes each, and each name once."""

    _ROW = np.dtype([("group", "<i4"), ("frame", "<i8"), ("seen", "i1")])

    def __init__(self, groups: Sequence[tuple[str, str, str, str]], rows: NDArray[Any]) -> None:
        self._groups = groups
        self._rows = rows

    @classmethod
    def from_pairs(cls, pairs: Iterable[FramePair]) -> PairTable:
        """Collect pairs in the order in which they come."""
        groups: dict[tuple[str, str, str, str], int] = {}
        blocks: list[NDArray[Any]] = []
        rows: list[tuple[int, int, int]] = []
        for pair in pairs:
            group = (pair.take, pair.object, pair.query_camera, pair.target_camera)
            seen = -1 if pair.target_visible is None else int(pair.target_visible)
            rows.append((groups.setdefault(group, len(groups)), pair.frame, seen))
            if len(rows) == 65536:
                blocks.append(np.array(rows, dtype=cls._ROW))
                rows = []
        return cls(list(groups), np.concatenate([*blocks, np.array(rows, dtype=cls._ROW)]))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> FramePair: ...
    @overload
    def __getitem__(self, index: slice) -> PairTable: ...
    def __getitem__(self, index: int | slice) -> FramePair | PairTable:
        if isinstance(index, slice):
            return PairTable(self._groups, self._rows[index])
        group, frame, seen = self._rows[index].item()
        take, name, query, target = self._groups[group]
        return FramePair(take, name, query, target, frame, None if seen < 0 else bool(seen))

    def __iter__(self) -> Iterator[FramePair]:
        return (self[i] for i in range(len(self)))

    def select(self, indices: NDArray[np.integer] | Sequence[int]) -> PairTable:
        """The pairs at ``indices``, in that order."""
        return PairTable(self._groups, self._rows[np.asarray(indices, dtype=np.int64)])

    def __repr__(self) -> str:
        return f"PairTable({len(self)} pairs)"


def pairs_of_take(
    take: Take, direction: Direction, *, targets: Targets = "official", need_images: bool = True
) -> Iterator[FramePair]:
    """The pairs of one take: objects and cameras in the file's order, frames ascending. See :func:`enumerate_pairs`."""
    check_direction(direction)
    if targets not in get_args(Targets):
        raise InputError("no such choice of targets", found=repr(targets), expected=" or ".join(get_args(Targets)))
    for name in take.objects:
        cameras = take.cameras_of(name)
        masked = {camera: frozenset(take.mask_frames(name, camera)) for camera in cameras}
        looked = {camera: take.annotated_frames(name, camera) for camera in cameras}
        for ego in (c for c in cameras if take.is_ego(c)):
            for exo in (c for c in cameras if not take.is_ego(c)):
                query, target = (ego, exo) if direction == "ego2exo" else (exo, ego)
                for frame in sorted(masked[query]):
                    seen = True if frame in masked[target] else False if frame in looked[target] else None
                    wanted = {"official": True, "annotated": seen is not None, "visible": seen, "absent": seen is False}
                    if not wanted[targets]:
                        continue
                    if need_images and not (take.has_frame(query, frame) and take.has_frame(target, frame)):
                        continue
                    yield FramePair(take.uid, name, query, target, frame, seen)


def enumerate_pairs(
    dataset: Dataset | Iterable[Take],
    direction: Direction,
    *,
    targets: Targets = "official",
    need_images: bool = True,
) -> PairTable:
    """All pairs of a data set, take by take in its order.

    Args:
        dataset: the data set, or some takes of it.
        direction: ``"ego2exo"`` or ``"exo2ego"``.
        targets: which pairs are wanted; see :data:`Targets`.
        need_images: leave out pairs of which an image is missing.

    Raises:
        InputError: another direction or choice, or a take that cannot be read.
    """
    return PairTable.from_pairs(
        pair for take in dataset for pair in pairs_of_take(take, direction, targets=targets, need_images=need_images)
    )


def subset(pairs: PairTable, fraction: float, seed: int) -> PairTable:
    """A share of the pairs, in their order; the same for a seed wherever and in whichever order they are listed.

    Each pair is ranked by a hash of the seed and its names, and the first ``round(fraction * len(pairs))`` stay. So a
    smaller share is part of a larger one of the same seed. O-MaMa trains on 20 % of the pairs; its own choice
    was not released.

    Raises:
        InputError: a fraction outside 0 to 1.
    """
    if not 0.0 <= fraction <= 1.0:
        raise InputError("a share of the pairs is from 0 to 1", found=fraction)
    salt = f"{int(seed)}\0".encode()
    ranks = np.array(
        [
            int.from_bytes(hashlib.blake2b(salt + pair.key.encode("utf-8", "surrogatepass"), digest_size=8).digest())
            for pair in pairs
        ],
        dtype=np.uint64,
    )
    kept = np.argsort(ranks, kind="stable")[: round(fraction * len(pairs))]
    return pairs.select(np.sort(kept))


def shuffled_index(length: int, seed: int, epoch: int, index: int) -> int:
    """Where position ``index`` of epoch ``epoch`` points to: a permutation of ``range(length)`` per (seed, epoch).

    A pure function, computed for one index alone (a Feistel network on the index, walked until it falls inside
    the range), so any worker of a resumed run finds its place without replaying what came before. ``index`` may
    run on over ``length``: the epoch then advances by itself.

    Raises:
        InputError: nothing to draw from, or a negative index.
    """
    if length < 1 or index < 0:
        raise InputError("a place in the order needs a length from 1 and an index from 0", found=(length, index))
    epoch, index = epoch + index // length, index % length
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    keys = [_mix(seed & _M64, epoch & _M64, i) for i in range(6)]
    while True:
        left, right = index >> half, index & low
        for key in keys:
            left, right = right, left ^ (_mix(key, right) & low)
        index = (left << half) | right
        if index < length:
            return index


def draw_below(below: int, *place: int) -> int:
    """A number from 0 to ``below - 1`` that depends on ``place`` (seed, epoch, index, …) alone.

    Raises:
        InputError: nothing to draw from.
    """
    if below < 1:
        raise InputError("nothing to draw from", found=below)
    return _mix(*(value & _M64 for value in place)) % below


_M64 = (1 << 64) - 1


def _mix(*values: int) -> int:
    """SplitMix64 over several numbers: the same on every machine and in every version."""
    state = 0x243F6A8885A308D3
    for value in values:
        state = (state ^ value) + 0x9E3779B97F4A7C15 & _M64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _M64
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _M64
        state ^= state >> 31
    return state


_IMAGE = re.compile(
    r"(?P<root>.*)//(?P<take>[^/]+)//(?P<camera>[^/]+)//(?P<object>(?:(?!//).)+)//(?:rgb|mask)//(?P<frame>\d{1,11})",
    re.DOTALL,
)


def pair_paths(root: str, pair: FramePair, direction: Direction) -> tuple[str, str, str, str] | None:
    """The official 4-tuple of a pair: ego image, ego mask, exo image, exo mask, in either direction.

    ``None`` for an object whose name begins or ends with a slash or holds two in a row: the form, which is split
    at ``//``, cannot hold it.
    """
    if "//" in pair.object or pair.object.startswith("/") or pair.object.endswith("/") or not pair.object:
        return None
    cameras = (pair.query_camera, pair.target_camera)
    ego, exo = cameras if check_direction(direction) == "ego2exo" else cameras[::-1]
    base = root.rstrip("/")
    ego_rgb, ego_mask, exo_rgb, exo_mask = (
        f"{base}//{pair.take}//{camera}//{pair.object}//{kind}//{pair.frame}"
        for camera in (ego, exo)
        for kind in ("rgb", "mask")
    )
    return ego_rgb, ego_mask, exo_rgb, exo_mask


def read_pair_list(path: str | Path, direction: Direction) -> PairTable:
    """Read an official pair list. Whether a target is visible does not stand in it: ``target_visible`` is ``None``.

    Raises:
        InputError: missing, or no JSON.
        AnnotationError: an entry that is not of its form.
    """
    check_direction(direction)
    content = read_json(path)
    if not isinstance(content, list):
        raise AnnotationError("is no pair list", path=path, found=type(content).__name__, expected="a list")

    def pairs() -> Iterator[FramePair]:
        for number, entry in enumerate(content):
            ego, exo = (
                _IMAGE.fullmatch(entry[i])
                if isinstance(entry, list) and len(entry) == 4 and isinstance(entry[i], str)
                else None
                for i in (0, 2)
            )
            if not ego or not exo or any(ego[k] != exo[k] for k in ("take", "object", "frame")):
                raise AnnotationError(
                    f"entry {number} is no pair",
                    path=path,
                    found=str(entry)[:120],
                    expected="four texts root//take//camera//object//rgb|mask//frame",
                )
            query, target = (ego, exo) if direction == "ego2exo" else (exo, ego)
            yield FramePair(ego["take"], ego["object"], query["camera"], target["camera"], int(ego["frame"]), None)

    return PairTable.from_pairs(pairs())
