"""Clips: a few objects over consecutive annotated frames in two cameras, as LM-EEC is trained.

LM-EEC samples eight consecutive members of the frames in which an object has a mask in *both* cameras, so its
training never sees an absent target. With ``targets="annotated"`` the target need only have been looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from counterview.data.dataset import Dataset, Direction, Take, check_direction
from counterview.data.pairs import draw_below, shuffled_index
from counterview.errors import InputError

CLIP_FRAMES = 8
MAX_OBJECTS = 3


@dataclass(frozen=True)
class Clip:
    """Some frames of one take in two cameras.

    Attributes:
        take: the take's uid.
        query_camera: where masks are given.
        target_camera: where they are to be found.
        frames: frame numbers, ascending.
        objects: names of the objects, at least one.
        target_visible: for each object, for each frame, whether it has a mask in the target.
    """

    take: str
    query_camera: str
    target_camera: str
    frames: tuple[int, ...]
    objects: tuple[str, ...]
    target_visible: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class ClipSource:
    """The frames of one object in two cameras, from which clips are cut.

    Attributes:
        take: the take's uid.
        query_camera: where masks are given.
        target_camera: where they are to be found.
        object: the object's name.
        frames: the frames that a clip may show, ascending.
        visible: those of them in which the object has a mask in the target.
    """

    take: str
    query_camera: str
    target_camera: str
    object: str
    frames: tuple[int, ...]
    visible: frozenset[int]


def sources_of_take(
    take: Take,
    direction: Direction,
    *,
    length: int = CLIP_FRAMES,
    targets: Literal["visible", "annotated"] = "visible",
    need_images: bool = True,
) -> Iterator[ClipSource]:
    """What clips of one take can be cut from. See :func:`clip_sources`."""
    check_direction(direction)
    if targets not in ("visible", "annotated"):
        raise InputError("no such choice of targets", found=repr(targets), expected="visible or annotated")
    if length < 1:
        raise InputError("a clip has at least one frame", found=length)
    for name in take.objects:
        cameras = take.cameras_of(name)
        masked = {camera: frozenset(take.mask_frames(name, camera)) for camera in cameras}
        for ego in (c for c in cameras if take.is_ego(c)):
            for exo in (c for c in cameras if not take.is_ego(c)):
                query, target = (ego, exo) if direction == "ego2exo" else (exo, ego)
                known = masked[target] if targets == "visible" else take.annotated_frames(name, target)
                frames = sorted(masked[query] & known)
                if need_images:
                    frames = [f for f in frames if take.has_frame(query, f) and take.has_frame(target, f)]
                visible = masked[target].intersection(frames)
                # A clip in which the target is never seen has nothing to follow.
                if len(frames) >= length and visible:
                    yield ClipSource(take.uid, query, target, name, tuple(frames), visible)


def clip_sources(
    dataset: Dataset | Iterable[Take],
    direction: Direction,
    *,
    length: int = CLIP_FRAMES,
    targets: Literal["visible", "annotated"] = "visible",
    need_images: bool = True,
) -> list[ClipSource]:
    """Every object, query camera and target camera with at least ``length`` frames to cut a clip from.

    Args:
        dataset: the data set, or some takes of it.
        direction: ``"ego2exo"`` or ``"exo2ego"``.
        length: frames a clip.
        targets: ``"visible"``: frames in which both cameras have a mask, as LM-EEC has it; ``"annotated"``: the
            query has a mask and the target was looked at.
        need_images: leave out frames of which an image is missing.

    Raises:
        InputError: another direction or choice, or a take that cannot be read.
    """
    return [
        source
        for take in dataset
        for source in sources_of_take(take, direction, length=length, targets=targets, need_images=need_images)
    ]


def enumerate_clips(
    sources: Iterable[ClipSource], *, length: int = CLIP_FRAMES, stride: int | None = None
) -> Iterator[Clip]:
    """All clips of one object each: every run of ``length`` consecutive frames, starting every ``stride``-th.

    Args:
        sources: from :func:`clip_sources`.
        length: frames a clip.
        stride: places from one start to the next; ``length`` if not given, so that clips do not overlap. The last
            clip of a source ends with its last frame and may overlap the one before.
    """
    step = length if stride is None else stride
    if length < 1 or step < 1:
        raise InputError("a clip's length and stride are at least 1", found=(length, step))
    for source in sources:
        last = len(source.frames) - length
        if last < 0:
            continue
        for start in sorted({*range(0, last + 1, step), last}):
            yield _cut(source, source.frames[start : start + length], [source])


def _cut(source: ClipSource, frames: tuple[int, ...], members: list[ClipSource]) -> Clip:
    return Clip(
        take=source.take,
        query_camera=source.query_camera,
        target_camera=source.target_camera,
        frames=frames,
        objects=tuple(m.object for m in members),
        target_visible=tuple(tuple(f in m.visible for f in frames) for m in members),
    )


class ClipSampler:
    """Clips for training: a pure function of (seed, epoch, index).

    Each epoch goes once through all sources in an order of its own. The start of the clip, and which further
    objects come along, are drawn from the same numbers. Further objects are of the same take and cameras and can
    be used in every frame of the clip.

    Args:
        sources: from :func:`clip_sources`.
        length: frames a clip.
        max_objects: most objects a clip; LM-EEC takes three.
        seed: of all draws.

    Raises:
        InputError: no sources, one with too few frames, or a number below 1.
    """

    def __init__(
        self,
        sources: Iterable[ClipSource],
        *,
        length: int = CLIP_FRAMES,
        max_objects: int = MAX_OBJECTS,
        seed: int = 0,
    ) -> None:
        self.sources = tuple(sources)
        self.length = length
        self.max_objects = max_objects
        self.seed = seed
        if length < 1 or max_objects < 1:
            raise InputError("a clip has at least one frame and one object", found=(length, max_objects))
        if not self.sources or min(len(s.frames) for s in self.sources) < length:
            raise InputError(
                f"no clip of {length} frames can be cut",
                found=f"{len(self.sources)} tracks",
                fix="Take shorter clips, or more takes.",
            )
        self._partners: dict[tuple[str, str, str], list[ClipSource]] = {}
        for source in self.sources:
            self._partners.setdefault((source.take, source.query_camera, source.target_camera), []).append(source)
        self._frames = {source: frozenset(source.frames) for source in self.sources}

    def __len__(self) -> int:
        return len(self.sources)

    def clip(self, epoch: int, index: int) -> Clip:
        """The clip at ``index`` of ``epoch``. An index over the length runs on into the next epoch."""
        place = shuffled_index(len(self.sources), self.seed, epoch, index)
        epoch, index = epoch + index // len(self.sources), index % len(self.sources)
        source = self.sources[place]

        def draw(choices: int, what: int) -> int:
            return draw_below(choices, self.seed, epoch, place, what)

        start = draw(len(source.frames) - self.length + 1, 0)
        frames = source.frames[start : start + self.length]
        others = [
            other
            for other in self._partners[source.take, source.query_camera, source.target_camera]
            if other is not source and self._frames[other].issuperset(frames) and other.visible.intersection(frames)
        ]
        while len(others) > self.max_objects - 1:
            others.pop(draw(len(others), len(others)))
        return _cut(source, frames, [source, *others])
