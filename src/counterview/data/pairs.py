"""Pairs of frames: one object, visible in the query camera, to be matched in the target camera at the same time.

The official enumeration (``create_pairs`` of the Ego-Exo4D correspondence baselines) lists, for each object,
ego camera and exo camera, every frame in which the object has a mask in the *query* camera, whether or not the
target frame was annotated.
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
"""Selection of pairs by the annotation of the target frame.

``official``: all pairs, even if the target frame was not annotated; ``annotated``: the target frame was annotated
(the pairs that the official evaluation scores); ``visible``: the object has a mask in it; ``absent``: it was
annotated and the object is not visible.
"""

PAIR_LIST_SETTINGS: dict[Direction, str] = {"ego2exo": "egoexo", "exo2ego": "exoego"}
"""Name of each direction in the file names of the official pair lists."""


@dataclass(frozen=True)
class FramePair:
    """One object at one time in two cameras.

    Attributes:
        take: the take's uid.
        object: the object's name.
        query_camera: the camera in which its mask is given.
        target_camera: the camera in which its mask is predicted.
        frame: frame number, the same in both.
        target_visible: whether it has a mask in the target frame; ``None`` if that frame was not annotated.
    """

    take: str
    object: str
    query_camera: str
    target_camera: str
    frame: int
    target_visible: bool | None

    @property
    def key(self) -> str:
        """A text that identifies the pair among all pairs of its direction and the other."""
        return "\0".join((self.take, self.object, self.query_camera, self.target_camera, str(self.frame)))


class PairTable(Sequence[FramePair]):
    """A compact list of pairs: 13 bytes per pair, and each name once.

    An index gives a :class:`FramePair`, a slice another table. Build one with :meth:`from_pairs`.
    """

    _ROW = np.dtype([("group", "<i4"), ("frame", "<i8"), ("visible", "i1")])

    def __init__(self, groups: Sequence[tuple[str, str, str, str]], rows: NDArray[Any]) -> None:
        self._groups = groups
        self._rows = rows

    @classmethod
    def from_pairs(cls, pairs: Iterable[FramePair]) -> PairTable:
        """Collect pairs, in their order."""
        groups: dict[tuple[str, str, str, str], int] = {}
        blocks: list[NDArray[Any]] = []
        rows: list[tuple[int, int, int]] = []
        for pair in pairs:
            group = (pair.take, pair.object, pair.query_camera, pair.target_camera)
            visible = -1 if pair.target_visible is None else int(pair.target_visible)
            rows.append((groups.setdefault(group, len(groups)), pair.frame, visible))
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
        group, frame, visible = self._rows[index].item()
        take, name, query, target = self._groups[group]
        return FramePair(take, name, query, target, frame, None if visible < 0 else bool(visible))

    def __iter__(self) -> Iterator[FramePair]:
        return (self[i] for i in range(len(self)))

    def select(self, indices: NDArray[np.integer] | Sequence[int]) -> PairTable:
        """The pairs at ``indices``, ``(K,)`` integers, in that order."""
        return PairTable(self._groups, self._rows[np.asarray(indices, dtype=np.int64)])

    def __repr__(self) -> str:
        return f"PairTable({len(self)} pairs)"


def pairs_of_take(
    take: Take, direction: Direction, *, targets: Targets = "official", need_images: bool = True
) -> Iterator[FramePair]:
    """The pairs of one take: objects and cameras in the file's order, frames ascending. See :func:`enumerate_pairs`.

    Raises:
        InputError: another direction or selection.
    """
    check_direction(direction)
    if targets not in get_args(Targets):
        raise InputError("no such choice of targets", found=repr(targets), expected=" or ".join(get_args(Targets)))
    for name in take.objects:
        cameras = take.cameras_of(name)
        masked = {camera: frozenset(take.mask_frames(name, camera)) for camera in cameras}
        annotated = {camera: take.annotated_frames(name, camera) for camera in cameras}
        if need_images:
            for camera in cameras:
                masked[camera], annotated[camera] = take.fitting_frames(name, camera)
        for ego in (c for c in cameras if take.is_ego(c)):
            for exo in (c for c in cameras if not take.is_ego(c)):
                query, target = (ego, exo) if direction == "ego2exo" else (exo, ego)
                for frame in sorted(masked[query]):
                    visible = True if frame in masked[target] else False if frame in annotated[target] else None
                    selected = {
                        "official": True,
                        "annotated": visible is not None,
                        "visible": visible is True,
                        "absent": visible is False,
                    }
                    if not selected[targets]:
                        continue
                    if need_images and not (take.has_frame(query, frame) and take.has_frame(target, frame)):
                        continue
                    yield FramePair(take.uid, name, query, target, frame, visible)


def enumerate_pairs(
    dataset: Dataset | Iterable[Take],
    direction: Direction,
    *,
    targets: Targets = "official",
    need_images: bool = True,
) -> PairTable:
    """All pairs of a data set, take by take in its order.

    Args:
        dataset: the data set, or some of its takes.
        direction: ``"ego2exo"`` or ``"exo2ego"``.
        targets: selection of pairs; see :data:`Targets`.
        need_images: skip pairs without an image in either camera, and masks that do not fit their image.

    Raises:
        InputError: another direction or selection, or a take that cannot be read.
    """
    return PairTable.from_pairs(
        pair for take in dataset for pair in pairs_of_take(take, direction, targets=targets, need_images=need_images)
    )


def pair_hash(pair: FramePair, seed: int) -> int:
    """A hash of a seed and of the pair's names, in ``[0, 2**64)``: the same on every machine."""
    key = f"{int(seed)}\0{pair.key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())


@dataclass(frozen=True)
class PairFraction:
    """A random fraction of the pairs of one direction of a data set, as a rule that needs no list of them.

    A pair belongs to it if its :func:`pair_hash` is at most ``limit``. Build one with :meth:`of`.

    Attributes:
        fraction: as requested.
        seed: of the hash.
        limit: the largest hash that is selected; -1 selects nothing.
    """

    fraction: float
    seed: int
    limit: int

    @classmethod
    def of(cls, pairs: Iterable[FramePair], fraction: float, seed: int) -> PairFraction:
        """The fraction of these pairs that :func:`subset` selects.

        Raises:
            InputError: a fraction outside 0 to 1.
        """
        hashes = _hashes(pairs, fraction, seed)
        count = round(fraction * len(hashes))
        return cls(float(fraction), int(seed), int(np.sort(hashes)[count - 1]) if count else -1)

    def __contains__(self, pair: FramePair) -> bool:
        return pair_hash(pair, self.seed) <= self.limit


def subset(pairs: PairTable, fraction: float, seed: int) -> PairTable:
    """A random fraction of the pairs, in their order; a seed selects the same pairs in whichever order they are listed.

    The pairs are sorted by a hash of the seed and their names, and the first ``round(fraction * len(pairs))`` are
    selected. So a smaller fraction is a subset of a larger one with the same seed. O-MaMa trains on 20 % of the
    pairs; its own selection was not released.

    Raises:
        InputError: a fraction outside 0 to 1.

    >>> pairs = PairTable.from_pairs(FramePair("take", "mug", "aria01_214-1", "cam01", f, True) for f in range(100))
    >>> [pair.frame for pair in subset(pairs, 0.05, seed=0)]
    [29, 32, 56, 61, 83]
    """
    selected = np.argsort(_hashes(pairs, fraction, seed), kind="stable")[: round(fraction * len(pairs))]
    return pairs.select(np.sort(selected))


def _hashes(pairs: Iterable[FramePair], fraction: float, seed: int) -> NDArray[np.uint64]:
    if not 0.0 <= fraction <= 1.0:
        raise InputError("a fraction of the pairs is from 0 to 1", found=fraction)
    return np.array([pair_hash(pair, seed) for pair in pairs], dtype=np.uint64)


def shuffled_index(length: int, seed: int, epoch: int, index: int) -> int:
    """Element ``index`` of a random permutation of ``range(length)``, one permutation per (seed, epoch).

    A pure function of its arguments, computed for one index alone: a Feistel network on the index, iterated until the
    value is in range. So a worker of a resumed run needs no earlier draws. An index beyond ``length`` continues in
    the next epoch.

    Raises:
        InputError: a length below 1 or a negative index.

    >>> [shuffled_index(5, seed=0, epoch=0, index=i) for i in range(5)]
    [1, 2, 4, 3, 0]
    """
    if length < 1 or index < 0:
        raise InputError("a permutation needs a length of 1 or more and an index of 0 or more", found=(length, index))
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


def draw_below(below: int, *key: int) -> int:
    """A pseudo-random integer from 0 to ``below - 1``, a pure function of ``key`` (seed, epoch, index, …).

    Raises:
        InputError: ``below`` is less than 1.
    """
    if below < 1:
        raise InputError("there is nothing to draw from", found=below, expected="1 or more")
    return _mix(*(value & _M64 for value in key)) % below


_M64 = (1 << 64) - 1


def _mix(*values: int) -> int:
    """SplitMix64 over several integers: the same on every machine and in every version."""
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

    Args:
        root: folder of the prepared data, as written into the list.
        pair: the pair.
        direction: its direction.

    Returns:
        four texts ``root//take//camera//object//rgb|mask//frame``; ``None`` for an object whose name begins or ends
        with a slash or contains two in a row, since readers split the texts at ``//``.

    Raises:
        InputError: another direction.

    >>> pair = FramePair("take1", "mug", "aria01_214-1", "cam01", 30, target_visible=True)
    >>> pair_paths("data", pair, "ego2exo")[2:]
    ('data//take1//cam01//mug//rgb//30', 'data//take1//cam01//mug//mask//30')
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
    """Read an official pair list. It does not hold whether a target is visible, so ``target_visible`` is ``None``.

    Raises:
        InputError: the file is missing or not JSON, or another direction.
        AnnotationError: the file is not a list of pairs.
    """
    check_direction(direction)
    content = read_json(path)
    if not isinstance(content, list):
        raise AnnotationError("is not a pair list", path=path, found=type(content).__name__, expected="a list")

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
                    f"entry {number} is not a pair",
                    path=path,
                    found=str(entry)[:120],
                    expected="four texts root//take//camera//object//rgb|mask//frame",
                )
            query, target = (ego, exo) if direction == "ego2exo" else (exo, ego)
            yield FramePair(ego["take"], ego["object"], query["camera"], target["camera"], int(ego["frame"]), None)

    return PairTable.from_pairs(pairs())
