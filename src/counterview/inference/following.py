"""Follow objects that were shown once through several cameras: live, or through videos.

:class:`LiveTracker` takes images as they come. :class:`Following` reads them from videos, folders of images or takes,
pairs them by time, and hands on what was found, smoothed or as it is found. Neither keeps images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from counterview.errors import ImageError, InputError, VideoError, shown
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks
from counterview.inference.follow_plan import DEFAULT_FPS, FollowPlan
from counterview.inference.prompts import check_prompt
from counterview.inference.shown import ShownLike, ShownObject, shown_objects
from counterview.media.frame_source import FrameResult, FrameSource, SourceFrame
from counterview.media.inputs import ColorOrder, ImageInput, load_rgb
from counterview.media.timeline import Clock, Timeline, TimeStep
from counterview.tracking.base import Engine, Observation, Observations
from counterview.tracking.smoothing import Moment, Smoother
from counterview.tracking.tracker import MemoryTracker, TrackerConfig
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    import os

    from counterview.geometry.homography import Homography
    from counterview.inference.prompted import PromptedPredictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FollowStep:
    """What was found at one time.

    Attributes:
        time_s: on the query camera's clock, in seconds.
        frames: camera to number and own time, in seconds, of its frame; no entry where it has none.
        observations: camera to object to what was found.
        motions: camera to the map from its image before to this one, where the engine knows it.
        unreadable: cameras whose frame is there and could not be read.
    """

    time_s: float
    frames: Mapping[str, tuple[int, float]]
    observations: Observations
    motions: Mapping[str, Homography | None] = field(default_factory=dict, repr=False)
    unreadable: tuple[str, ...] = ()

    def __getitem__(self, camera: str) -> Mapping[str, Observation]:
        """What was found in one camera, by object."""
        return self.observations[camera]


class LiveTracker:
    """Follows objects through images as they come, for example of a robot; made by ``model.tracker``.

    Args:
        predictor: the model.
        cameras: names, the query camera first.
        config: of the memories, for models that choose among proposals.

    Attributes:
        engine: does the work.

    Raises:
        ConfigError: a model that nothing can be followed with.
        InputError: no camera, or one twice.
    """

    def __init__(
        self, predictor: PromptedPredictor[Any], cameras: Sequence[str], config: TrackerConfig | None = None
    ) -> None:
        self._predictor = predictor
        self.engine: Engine = predictor.make_engine(cameras, config)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names, the query camera first."""
        return tuple(self.engine.cameras)

    def step(
        self,
        query_image: ImageInput | None,
        targets: Mapping[str, ImageInput | None],
        *,
        time_s: float,
        prompts: Mapping[str, ShownLike | None] | None = None,
        corrections: Mapping[str, Mapping[str, ShownLike | None]] | None = None,
        color: ColorOrder = "rgb",
    ) -> FollowStep:
        """Take the next images.

        Args:
            query_image: ``(H, W, 3)`` of the query camera; ``None`` if it has none at this time.
            targets: ``(H', W', 3)`` by camera, likewise.
            time_s: in seconds, on any clock that all cameras share; later than the step before.
            prompts: objects shown in the query image now: name to mask ``(H, W)``, point, box or prompt; ``None``: not
                visible.
            corrections: the same for target cameras, by camera.
            color: order of the channels of arrays: ``rgb``, or ``bgr`` as OpenCV reads images.

        Returns:
            what was found, without smoothing; ``step["cam01"]["mug"].mask`` is ``(H', W')`` bool or ``None``.

        Raises:
            ImageError: not an image.
            InputError: times that do not ascend, an unknown camera, or a prompt that does not fit.
            MaskError: a mask of another size than its image, or an empty one.
            ProposalError: no proposal at a point or in a box.
        """
        query = self.cameras[0]
        if query in targets:
            raise InputError("the query camera is among the targets", found=query)
        given = {query: query_image, **targets}
        images = {
            camera: None if image is None else load_rgb(image, what=f"image of {camera}", color=color)
            for camera, image in given.items()
        }
        wanted = {query: dict(prompts or {}), **{c: dict(named) for c, named in (corrections or {}).items()}}
        masks = {c: self._resolve(c, images.get(c), named) for c, named in wanted.items() if named}
        observations = self.engine.step(images, time_s, masks)
        frames = {c: (0, time_s) for c, image in images.items() if image is not None}
        return FollowStep(time_s, frames, observations, _motions(self.engine))

    def _resolve(self, camera: str, image: RgbImage | None, prompts: Mapping[str, Any]) -> dict[str, ObjectMask | None]:
        shown_here = [
            ShownObject(name, camera, None, 0.0)
            if value is None
            else replace(shown_objects({name: value}, camera)[0], camera=camera)
            for name, value in prompts.items()
        ]
        return resolve_shown(self._predictor, image, shown_here)

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, as plain values and arrays.

        :func:`counterview.tracking.state_file.write_state` saves it.
        """
        return self.engine.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same model and cameras.

        Args:
            state: what :meth:`state` gave.

        Raises:
            InputError: of other settings or cameras.
        """
        self.engine.restore(state)


def resolve_shown(
    predictor: PromptedPredictor[Any], image: RgbImage | None, shown_here: Sequence[ShownObject]
) -> dict[str, ObjectMask | None]:
    """The masks of objects that are shown in one image.

    Args:
        predictor: makes the proposals that points and boxes choose among; once for the image.
        image: ``(H, W, 3)`` uint8; ``None`` if the camera has none.
        shown_here: the objects.

    Returns:
        object name to mask ``(H, W)``; ``None``: not visible.

    Raises:
        InputError: no image, or a prompt outside it.
        MaskError: a mask of another size than the image, or an empty one.
        ProposalError: no proposal at a point or in a box.
    """
    masks: dict[str, ObjectMask | None] = {}
    encoded: Any = None
    for item in shown_here:
        if image is None:
            raise InputError(
                f"{item.source}: {shown(item.object)} is shown in {item.camera}, which has no image then",
                fix="Show it at the time of a frame.",
            )
        if item.prompt is None or isinstance(item.prompt, ObjectMask):
            masks[item.object] = item.prompt
            continue
        check_prompt(item.prompt, (image.shape[0], image.shape[1]), item.object)
        encoded = predictor.encode_query(image) if encoded is None else encoded
        masks[item.object] = predictor.select(encoded, item.prompt, item.object).mask_rle
    return masks


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
        return FollowStep(step.time_s, there, found, _motions(self.engine), tuple(unreadable))

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
        for moment in smoother.push(Moment(step, step.observations, step.motions)):
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


def _motions(engine: Engine) -> Mapping[str, Homography | None]:
    return dict(engine.motions) if isinstance(engine, MemoryTracker) else {}
