"""Follow objects that were shown once through videos, folders of images or takes.

Images are read as they are needed, paired by time, and not kept. Where images come live, see
:mod:`counterview.inference.live_tracker`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from counterview.data.sources import open_source
from counterview.errors import ImageError, InputError, VideoError, shown
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks
from counterview.inference.follow_step import FollowStep, motions_of, resolve_shown
from counterview.inference.prompts import check_prompt
from counterview.inference.shown import ShownLike, ShownObject, shown_objects
from counterview.media.frame_source import FrameResult, FrameSource, SourceFrame
from counterview.media.sync import SyncResult, synchronise
from counterview.media.timeline import Clock, TimeStep, plan_times
from counterview.tracking.base import Engine, Observation
from counterview.tracking.smoothing import Smoother, TrackedMoment
from counterview.tracking.tracker import MemoryTracker
from counterview.tracking.tracker_config import TrackerConfig
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    import os

    from counterview.inference.prompted import PromptedPredictor

logger = logging.getLogger(__name__)

DEFAULT_FPS = 2.0
"""Steps a second."""


class Following:
    """A run through videos, folders of images or takes.

    Args:
        predictor: the model.
        query: the camera in which objects are shown.
        targets: the other cameras, by name; without any, objects are followed in their own camera.
        objects: where they are shown, in any camera.
        query_name: name of the query camera; its source's if not given.
        fps: steps a second; ``None``: every frame of the query camera.
        start_s: first time, on the query camera's clock.
        end_s: last time.
        clocks: of targets; those without one are found as ``sync`` says.
        sync: ``none``, ``audio``, ``motion`` or ``auto``, see :func:`counterview.media.sync.synchronise`.
        config: of the memories, for models that choose among proposals.

    Attributes:
        sources: the cameras by name, the query camera first.
        cameras: the same as results have them.
        timeline: the steps.
        found_clocks: of targets, how their clocks were found.
        engine: does the work.

    Raises:
        InputError: a target that is the query camera, no time in common, an object shown at a time without a frame, or
            an offset beyond the end.
        VideoError: a file that is not a video.
        ConfigError: a model that nothing can be followed with.
    """

    def __init__(
        self,
        predictor: PromptedPredictor[Any],
        query: str | os.PathLike[str] | FrameSource,
        targets: Mapping[str, str | os.PathLike[str] | FrameSource],
        objects: Sequence[ShownObject] | Mapping[str, ShownLike],
        *,
        query_name: str | None = None,
        fps: float | None = DEFAULT_FPS,
        start_s: float | None = None,
        end_s: float | None = None,
        clocks: Mapping[str, Clock] | None = None,
        sync: str = "none",
        config: TrackerConfig | None = None,
    ) -> None:
        source = open_source(query)
        self.query = source.name if query_name is None else query_name
        self.sources: dict[str, FrameSource] = {self.query: source}
        for name, target in targets.items():
            opened = open_source(target)
            self._check_target(name, opened)
            self.sources[name] = opened
        others = {name: s for name, s in self.sources.items() if name != self.query}
        self.found_clocks: dict[str, SyncResult] = {}
        known = dict(clocks or {})
        for name, other in others.items():
            if name not in known and sync != "none":
                self.found_clocks[name] = synchronise(source, other, sync)
                known[name] = self.found_clocks[name].clock
        self.clocks = {name: known.get(name, Clock()) for name in others}
        self.objects = list(objects if isinstance(objects, Sequence) else shown_objects(objects, self.query))
        self._check_objects()
        self.timeline = plan_times(
            source, others, known, fps=fps, start_s=start_s, end_s=end_s, query_name=self.query, also_s=self._shown_at()
        )
        self._shown = self._by_step()
        self.engine: Engine = predictor.make_engine(list(self.sources), config)
        self._predictor = predictor

    # ------------------------------------------------------------------------------------------ checks

    def _check_target(self, name: str, target: FrameSource) -> None:
        if name in self.sources:
            raise InputError("two cameras have the same name", found=shown(name), fix="Give one of them another name.")
        for other, source in self.sources.items():
            if target.path is not None and source.path is not None and _same_images(target, source):
                what = "the query" if other == self.query else "another target"
                raise InputError(f"the target {name} is {what}", path=target.path, fix="Give another video.")

    def _check_objects(self) -> None:
        if not any(item.prompt is not None for item in self.objects):
            raise InputError("no object was given", expected="at least one mask, point or box")
        for item in self.objects:
            if item.camera not in self.sources:
                known = ", ".join(self.sources)
                raise InputError(f"{item.source}: no such camera", found=shown(item.camera), expected=known)
            if item.prompt is not None:
                check_prompt(item.prompt, self.sources[item.camera].size_hw, item.object)

    def _number(self, item: ShownObject) -> int:
        """The frame in which an object is shown."""
        source = self.sources[item.camera]
        number = item.frame if item.frame is not None else source.number_at(item.time_s or 0.0)
        if number is None or number >= source.frame_count:
            when = f"{item.time_s:g} s" if item.frame is None else f"frame {item.frame}"
            raise InputError(
                f"{item.source}: {shown(item.object)} is shown at a time without a frame", path=source.path,
                found=when, expected=f"a time from 0 to {source.duration_s:.3f} s, {source.frame_count} frames",
            )  # fmt: skip
        return number

    def _shown_at(self) -> list[float]:
        """The times at which objects are shown, on the query camera's clock: each is a step of its own."""
        times = []
        for item in self.objects:
            own = self.sources[item.camera].time_of(self._number(item))
            times.append(own if item.camera == self.query else self.clocks[item.camera].query_time(own))
        return times

    def _by_step(self) -> dict[int, list[ShownObject]]:
        steps = {
            (camera, number): index
            for index, step in enumerate(self.timeline.steps)
            for camera, number in step.frames.items()
            if number is not None
        }
        result: dict[int, list[ShownObject]] = {}
        for item in self.objects:
            place = item.camera, self._number(item)
            if place not in steps:
                raise InputError(
                    f"{item.source}: {shown(item.object)} is shown outside what is followed",
                    found=f"frame {place[1]} of {place[0]}", expected="a time between the start and the end",
                )  # fmt: skip
            result.setdefault(steps[place], []).append(item)
        return result

    # --------------------------------------------------------------------------------------------- run

    @property
    def names(self) -> list[str]:
        """Names of the objects, in the order in which they were given."""
        return list(dict.fromkeys(item.object for item in self.objects if item.prompt is not None))

    @property
    def cameras(self) -> dict[str, TrackedCamera]:
        """The cameras as results have them."""
        result = {}
        for name, source in self.sources.items():
            clock = self.clocks.get(name, Clock())
            path = None if source.path is None else str(source.path)
            result[name] = TrackedCamera(path, source.size_hw, source.fps, clock.offset_s, clock.drift_ppm)
        return result

    def settings(self) -> dict[str, Any]:
        """What the results depend on beside images and objects, as plain values."""
        return {"engine": self.engine.settings(), "steps": len(self.timeline.steps)}

    def steps(self, first: int = 0) -> Iterator[FollowStep]:
        """Go through the steps as they are, without smoothing.

        Args:
            first: step to begin with; the engine has to be in the state after the one before.

        Raises:
            InputError: a prompt that does not fit, or whose frame cannot be read.
            ProposalError: no proposal at a point or in a box.
        """
        for index, (step, results) in enumerate(self.timeline.read(self.sources, first), first):
            yield self._step(index, step, results)

    def _step(self, index: int, step: TimeStep, results: Mapping[str, FrameResult]) -> FollowStep:
        frames = {c: result for c, result in results.items() if isinstance(result, SourceFrame)}
        images: dict[str, RgbImage | None] = {c: f.image for c, f in frames.items()}
        prompts: dict[str, dict[str, ObjectMask | None]] = {}
        by_camera: dict[str, list[ShownObject]] = {}
        for item in self._shown.get(index, []):
            by_camera.setdefault(item.camera, []).append(item)
        for camera, items in by_camera.items():
            prompts[camera] = resolve_shown(self._predictor, images.get(camera), items)
        observations = self.engine.step(images, step.time_s, prompts)
        # A frame that is there and cannot be read is unknown; a camera without a frame at this time says nothing.
        there = {c: (f.number, f.time_s) for c, f in frames.items()}
        for camera, result in results.items():
            if isinstance(result, VideoError | ImageError) and (number := step.frames[camera]) is not None:
                there[camera] = number, self.sources[camera].time_of(number)
        found = {c: dict(observations[c]) for c in self.sources if c in there}
        return FollowStep(step.time_s, there, found, motions_of(self.engine))

    def close(self) -> None:
        """Close all sources."""
        for source in self.sources.values():
            source.close()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def smoothed(steps: Iterator[FollowStep], engine: Engine) -> Iterator[FollowStep]:
    """Smooth steps as they come, some steps late, where the engine offers alternatives; otherwise as they are.

    Args:
        steps: in order.
        engine: that they come from.
    """
    if not isinstance(engine, MemoryTracker):
        yield from steps
        return
    smoother = Smoother()
    for step in steps:
        for moment in smoother.push(TrackedMoment(step, step.observations, step.motions)):
            yield replace(cast(FollowStep, moment.key), observations=moment.observations)
    for moment in smoother.finish():
        yield replace(cast(FollowStep, moment.key), observations=moment.observations)


class TracksBuilder:
    """Collects steps as :class:`~counterview.exchange.tracks.Tracks`.

    Args:
        cameras: by name, the query camera first.
        names: of the objects.
        settings: of the run, as plain values.
    """

    def __init__(self, cameras: Mapping[str, TrackedCamera], names: Sequence[str], settings: Mapping[str, Any]) -> None:
        self._cameras, self._settings = dict(cameras), dict(settings)
        self._objects: dict[str, dict[str, list[TrackedMask]]] = {
            name: {camera: [] for camera in cameras} for name in names
        }

    def add(self, step: FollowStep) -> None:
        """Take the next step."""
        for camera, (number, time_s) in step.frames.items():
            for name, seen in step.observations.get(camera, {}).items():
                self._objects[name][camera].append(tracked_mask(number, time_s, seen))

    def build(self) -> Tracks:
        """The tracks so far."""
        return Tracks(self._cameras, self._objects, self._settings)


def tracked_mask(number: int, time_s: float, seen: Observation) -> TrackedMask:
    """An observation as an entry of a track; a mask ``(H, W)`` only where the object is visible.

    Args:
        number: of the frame in its camera.
        time_s: its time on the camera's clock, in seconds.
        seen: what was found.
    """
    visibility = None if seen.visibility is None else float(np.clip(seen.visibility, 0, 1))
    return TrackedMask(time_s, number, seen.mask_rle if seen.is_visible else None, visibility, seen.source)


def _same_images(one: FrameSource, other: FrameSource) -> bool:
    """Whether two sources are one; cameras of a prepared take share a folder, and differ in name."""
    if one.path is None or other.path is None:
        return False
    try:
        same = one.path.samefile(other.path)
    except OSError:
        same = one.path == other.path
    return same and (one.path.is_file() or one.name == other.name)
