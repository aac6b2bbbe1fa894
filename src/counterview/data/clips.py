"""Clips: a few objects over consecutive annotated frames in two cameras, for training LM-EEC.

LM-EEC samples eight consecutive frames among those in which an object has a mask in *both* cameras, so its
training data has no absent targets. With ``targets="annotated"`` the target need only be annotated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from counterview.data.dataset import Dataset, Direction, Take, check_direction
from counterview.data.pairs import draw_below, shuffled_index
from counterview.errors import InputError

CLIP_FRAMES = 8
"""Frames per clip, as LM-EEC is trained."""

MAX_OBJECTS = 3
"""Objects per clip at most, as in LM-EEC's paper; its released training has one."""


@dataclass(frozen=True)
class Clip:
    """Some frames of one take in two cameras.

    Attributes:
        take: the take's uid.
        query_camera: the camera in which masks are given.
        target_camera: the camera in which masks are predicted.
        frames: frame numbers, ascending.
        objects: names of the objects, at least one.
        target_visible: for each object, for each frame, whether it has a mask in the target camera.
    """

    take: str
    query_camera: str
    target_camera: str
    frames: tuple[int, ...]
    objects: tuple[str, ...]
    target_visible: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class ClipSource:
    """The frames of one object in two cameras, from which clips are sampled.

    Attributes:
        take: the take's uid.
        query_camera: the camera in which masks are given.
        target_camera: the camera in which masks are predicted.
        object: the object's name.
        frames: the usable frames, ascending.
        visible: those in which the object has a mask in the target camera.
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
    """The clip sources of one take. See :func:`clip_sources`."""
    check_direction(direction)
    if targets not in ("visible", "annotated"):
        raise InputError("no such choice of targets", found=repr(targets), expected="visible or annotated")
    if length < 1:
        raise InputError("a clip has at least one frame", found=length)
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
                usable = masked[target] if targets == "visible" else annotated[target]
                frames = sorted(masked[query] & usable)
                if need_images:
                    frames = [f for f in frames if take.has_frame(query, f) and take.has_frame(target, f)]
                visible = masked[target].intersection(frames)
                # A source whose target is never visible has no object to follow.
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
    """Every object, query camera and target camera with at least ``length`` usable frames.

    Args:
        dataset: the data set, or some of its takes.
        direction: ``"ego2exo"`` or ``"exo2ego"``.
        length: frames per clip.
        targets: ``"visible"``: frames in which both cameras have a mask, as LM-EEC is trained; ``"annotated"``:
            frames in which the query camera has a mask and the target camera was annotated.
        need_images: skip frames without an image in either camera, and masks that do not fit their image.

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
    """All clips of one object each: ``length`` consecutive usable frames, from every ``stride``-th on.

    Args:
        sources: from :func:`clip_sources`.
        length: frames per clip.
        stride: usable frames from the start of one clip to the next; ``length`` if not given, so that clips do not
            overlap. The last clip of a source ends at its last frame and may overlap the one before.

    Raises:
        InputError: a length or stride below 1.
    """
    step = length if stride is None else stride
    if length < 1 or step < 1:
        raise InputError("a clip's length and stride are at least 1", found=(length, step))
    for source in sources:
        last = len(source.frames) - length
        if last < 0:
            continue
        for start in sorted({*range(0, last + 1, step), last}):
            yield _clip_of(source, source.frames[start : start + length], [source])


def _clip_of(source: ClipSource, frames: tuple[int, ...], members: list[ClipSource]) -> Clip:
    return Clip(
        take=source.take,
        query_camera=source.query_camera,
        target_camera=source.target_camera,
        frames=frames,
        objects=tuple(m.object for m in members),
        target_visible=tuple(tuple(f in m.visible for f in frames) for m in members),
    )


class ClipSampler:
    """Random clips for training, as a pure function of (seed, epoch, index).

    Each epoch visits every source ``clips_per_source`` times, in another order, each time with a start and further
    objects of its own. Further objects are of the same take and cameras, usable in every frame of the clip and visible
    in the target camera in at least one.

    Args:
        sources: from :func:`clip_sources`.
        length: frames per clip.
        max_objects: largest number of objects per clip.
        seed: seed of all draws.
        clips_per_source: visits of every source in an epoch; LM-EEC's released training has 2.

    Raises:
        InputError: no sources, a source with fewer than ``length`` frames, or a number below 1.
    """

    def __init__(
        self,
        sources: Iterable[ClipSource],
        *,
        length: int = CLIP_FRAMES,
        max_objects: int = MAX_OBJECTS,
        seed: int = 0,
        clips_per_source: int = 1,
    ) -> None:
        self.sources = tuple(sources)
        self.length = length
        self.max_objects = max_objects
        self.seed = seed
        self.clips_per_source = clips_per_source
        if length < 1 or max_objects < 1:
            raise InputError("a clip has at least one frame and one object", found=(length, max_objects))
        if clips_per_source < 1:
            raise InputError("an epoch has at least one clip of every source", found=clips_per_source)
        if not self.sources or min(len(s.frames) for s in self.sources) < length:
            raise InputError(
                f"no clip of {length} frames can be sampled",
                found=f"{len(self.sources)} tracks",
                fix="Use shorter clips, or more takes.",
            )
        self._partners: dict[tuple[str, str, str], list[ClipSource]] = {}
        for source in self.sources:
            self._partners.setdefault((source.take, source.query_camera, source.target_camera), []).append(source)
        self._frames = {source: frozenset(source.frames) for source in self.sources}

    def __len__(self) -> int:
        return len(self.sources) * self.clips_per_source

    def clip(self, epoch: int, index: int) -> Clip:
        """The clip at ``index`` of ``epoch``. An index beyond the length continues in the next epoch."""
        position = shuffled_index(len(self), self.seed, epoch, index)
        epoch, index = epoch + index // len(self), index % len(self)
        source = self.sources[position % len(self.sources)]

        def draw(choices: int, purpose: int) -> int:
            return draw_below(choices, self.seed, epoch, position, purpose)

        start = draw(len(source.frames) - self.length + 1, 0)
        frames = source.frames[start : start + self.length]
        others = [
            other
            for other in self._partners[source.take, source.query_camera, source.target_camera]
            if other is not source and self._frames[other].issuperset(frames) and other.visible.intersection(frames)
        ]
        while len(others) > self.max_objects - 1:
            others.pop(draw(len(others), len(others)))
        return _clip_of(source, frames, [source, *others])
