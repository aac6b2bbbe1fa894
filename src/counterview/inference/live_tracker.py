"""Follow objects through images as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from counterview.errors import InputError
from counterview.inference.follow_step import FollowStep, motions_of, resolve_shown
from counterview.inference.shown import ShownLike, ShownObject, shown_objects
from counterview.media.inputs import ColorOrder, ImageInput, load_rgb
from counterview.tracking.base import Engine
from counterview.tracking.tracker_config import TrackerConfig
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    from counterview.inference.prompted import PromptedPredictor


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
        return FollowStep(time_s, frames, observations, motions_of(self.engine))

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
