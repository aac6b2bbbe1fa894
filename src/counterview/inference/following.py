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

from counterview.errors import ImageError, VideoError
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks
from counterview.inference.follow_plan import DEFAULT_FPS, FollowPlan
from counterview.inference.follow_step import FollowStep, motions_of, resolve_shown
from counterview.inference.shown import ShownLike, ShownObject
from counterview.media.frame_source import FrameResult, FrameSource, SourceFrame
from counterview.media.timeline import Clock, Timeline, TimeStep
from counterview.tracking.base import Engine, Observation
from counterview.tracking.smoothing import Smoother, TrackedMoment
from counterview.tracking.tracker import MemoryTracker
from counterview.tracking.tracker_config import TrackerConfig
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    import os

    from counterview.inference.prompted import PromptedPredictor

logger = logging.getLogger(__name__)

Known = Mapping[tuple[str, int], Mapping[str, ObjectMask | None]]
"""Camera and number of a frame to object to its mask ``(H, W)`` there; ``None``: not visible."""


class Following:
    """A run through videos, folders of images or takes.

    Args:
        predictor: the model.
        query: as for :class:`~counterview.inference.follow_plan.FollowPlan`, as for those that follow.
        targets: likewise.
        objects: likewise.
        query_name: likewise.
        fps: likewise.
        start_s: likewise.
        end_s: likewise.
        clocks: likewise.
        sync: likewise.
        config: of the memories, for models that choose among proposals.

    Attributes:
        plan: the cameras, the objects and the steps.
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
        plan = FollowPlan(
            query, targets, objects,
            query_name=query_name, fps=fps, start_s=start_s, end_s=end_s, clocks=clocks, sync=sync,
        )  # fmt: skip
        self._begin(predictor, plan, predictor.make_engine(list(plan.sources), config), {})

    @classmethod
    def through(
        cls,
        predictor: PromptedPredictor[Any],
        plan: FollowPlan,
        engine: Engine,
        known: Known | None = None,
    ) -> Following:
        """A run through what was planned.

        Args:
            predictor: the model.
            plan: the cameras, the objects and the steps.
            engine: of the model for these cameras.
            known: where further objects are; they are not followed, but nothing else is where they are.
        """
        run = cls.__new__(cls)
        run._begin(predictor, plan, engine, known or {})
        return run

    def _begin(self, predictor: PromptedPredictor[Any], plan: FollowPlan, engine: Engine, known: Known) -> None:
        self.plan, self.engine = plan, engine
        self._predictor, self._known = predictor, known
        self._not_followed = {name for objects in known.values() for name in objects}

    @property
    def sources(self) -> Mapping[str, FrameSource]:
        """The cameras by name, the query camera first."""
        return self.plan.sources

    @property
    def timeline(self) -> Timeline:
        """The steps."""
        return self.plan.timeline

    @property
    def names(self) -> list[str]:
        """Names of the objects, in the order in which they were given."""
        return self.plan.names

    @property
    def cameras(self) -> dict[str, TrackedCamera]:
        """The cameras as results have them."""
        return self.plan.cameras

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
        for item in self.plan.shown_in(index):
            by_camera.setdefault(item.camera, []).append(item)
        for camera, items in by_camera.items():
            prompts[camera] = resolve_shown(self._predictor, images.get(camera), items)
        for camera, frame in frames.items():
            if (camera, frame.number) in self._known:
                prompts[camera] = {**self._known[camera, frame.number], **prompts.get(camera, {})}
        observations = self.engine.step(images, step.time_s, prompts)
        # A frame that is there and cannot be read is unknown; a camera without a frame at this time says nothing.
        there = {c: (f.number, f.time_s) for c, f in frames.items()}
        unreadable = []
        for camera, result in results.items():
            if isinstance(result, VideoError | ImageError) and (number := step.frames[camera]) is not None:
                there[camera] = number, self.sources[camera].time_of(number)
                unreadable.append(camera)
        found = {
            c: {name: seen for name, seen in observations[c].items() if name not in self._not_followed}
            for c in self.sources
            if c in there
        }
        return FollowStep(step.time_s, there, found, motions_of(self.engine), tuple(unreadable))

    def close(self) -> None:
        """Close all sources."""
        self.plan.close()

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
