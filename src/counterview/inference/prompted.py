"""What all predictors do in the same way: take images and prompts of every kind, and resolve prompts to masks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from counterview.errors import ConfigError, InputError
from counterview.inference.predictor import name_masks
from counterview.inference.prompts import (
    DOUBTFUL_VISIBILITY,
    AnyPrompt,
    Box,
    Point,
    Prompt,
    QueryObjects,
    as_box,
    as_point,
    check_prompt,
    check_query_mask,
    check_shape,
    doubts_on,
    name_prompts,
)
from counterview.inference.selection import Selection, select
from counterview.media.inputs import ColorOrder, ImageInput, load_rgb, path_of
from counterview.proposals.base import file_name
from counterview.types import Match, ObjectMask, RgbImage

if TYPE_CHECKING:
    import os

    from counterview.inference.follow_step import FollowStep
    from counterview.inference.live_tracker import LiveTracker
    from counterview.inference.predictor import Encoding
    from counterview.inference.shown import ShownLike
    from counterview.media.frame_source import FrameSource
    from counterview.proposals.base import Proposals
    from counterview.tracking.base import Engine
    from counterview.tracking.tracker_config import TrackerConfig

logger = logging.getLogger(__name__)

E = TypeVar("E", bound="Encoding")


@dataclass(frozen=True, eq=False)
class MatchDrawing:
    """Draws a match on its images; what :attr:`counterview.Match.drawing` holds.

    Attributes:
        query_image: ``(H, W, 3)`` uint8.
        query_mask: ``(H, W)``.
        target_image: ``(H', W', 3)`` uint8.
    """

    query_image: RgbImage
    query_mask: ObjectMask
    target_image: RgbImage

    def __call__(self, match: Match) -> RgbImage:
        """Draw the match, ``(h, w, 3)`` uint8."""
        from counterview.inference.drawing import draw_match

        return draw_match(self.query_image, [self.query_mask], self.target_image, [match])


class PromptedPredictor(Generic[E]):
    """Base of predictors. A subclass encodes images, matches encoded images, and names the proposals of prompts."""

    def settings(self) -> dict[str, Any]:
        """See :meth:`counterview.Predictor.settings`."""
        raise NotImplementedError

    def encode(
        self,
        image: ImageInput,
        proposals: Proposals | None = None,
        *,
        name: str | None = None,
        color: ColorOrder = "rgb",
    ) -> E:
        """See :meth:`counterview.Predictor.encode`; an image is ``(H, W, 3)``."""
        raise NotImplementedError

    def encode_query(self, image: ImageInput, *, name: str | None = None, color: ColorOrder = "rgb") -> E:
        """:meth:`encode` for an image ``(H, W, 3)`` with query objects, which may cost less.

        Args:
            image: as for :meth:`encode`.
            name: likewise.
            color: likewise.

        Raises:
            ImageError: not an image.
        """
        return self.encode(image, name=name, color=color)

    def match_encoded(
        self,
        query: E,
        query_masks: Sequence[ObjectMask],
        target: E,
        *,
        names: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Match]:
        """See :meth:`counterview.Predictor.match_encoded`; masks are ``(H, W)``.

        A query mask that hardly shows an object is never called visible, and its match has a note that says why.
        """
        masks, names = name_masks(list(query_masks), names)
        if top_k < 1:
            raise InputError("top_k is at least 1", found=top_k)
        for mask, name in zip(masks, names, strict=True):
            self.check_mask(query, mask, name)
        found = self.match_masks(query, masks, names, target, top_k)
        return [self._with_doubts(match, mask) for match, mask in zip(found, masks, strict=True)]

    def match_masks(
        self, query: E, masks: Sequence[ObjectMask], names: Sequence[str], target: E, top_k: int
    ) -> list[Match]:
        """:meth:`match_encoded` for masks ``(H, W)`` that are checked and have names; what a subclass implements."""
        raise NotImplementedError

    def check_mask(self, query: E, mask: ObjectMask, name: str) -> None:
        """Check that a query mask ``(H, W)`` fits its encoded image. See :func:`check_query_mask`.

        Args:
            query: the encoded query image.
            mask: the mask.
            name: of the object, for the error message.

        Raises:
            MaskError: the mask is empty or of another size.
        """
        check_query_mask(mask, query.size_hw, name)

    @property
    def judges_visibility(self) -> bool:
        """Whether the visibility of a match is meant as a judgement."""
        return True

    def _with_doubts(self, match: Match, mask: ObjectMask) -> Match:
        doubts = doubts_on(mask)
        if not doubts:
            return match
        visibility = min(match.visibility, DOUBTFUL_VISIBILITY) if self.judges_visibility else match.visibility
        return replace(match, visibility=visibility, notes=(*doubts, *match.notes))

    def prompt_proposals(self, query: E) -> tuple[Proposals, RgbImage | None]:
        """The masks ``(H, W)`` that points and boxes choose among, and the image ``(H, W, 3)`` if it is kept."""
        raise NotImplementedError

    def prompt_settings(self) -> dict[str, Any]:
        """Name and settings of the proposer that points and boxes depend on, as plain values."""
        raise NotImplementedError

    def make_engine(self, cameras: Sequence[str], config: TrackerConfig | None = None) -> Engine:
        """The engine that follows objects with this model.

        Args:
            cameras: names, the query camera first.
            config: of the memories of descriptors, for models that choose among proposals.

        Raises:
            ConfigError: a model that nothing can be followed with.
            InputError: no camera, or one twice.
        """
        raise ConfigError(
            "objects cannot be followed with this model", found=type(self).__name__,
            expected="a model that chooses among proposals, or an LM-EEC", fix="Use the model tiny.",
        )  # fmt: skip

    def tracker(
        self, targets: Sequence[str], *, query: str = "query", config: TrackerConfig | None = None
    ) -> LiveTracker:
        """Follow objects through images as they come.

        Args:
            targets: names of the target cameras.
            query: name of the query camera.
            config: as for :meth:`make_engine`.

        Raises:
            ConfigError: a model that nothing can be followed with.
            InputError: no camera, or one twice.
        """
        from counterview.inference.live_tracker import LiveTracker

        return LiveTracker(self, [query, *targets], config)

    def follow(
        self,
        query: str | os.PathLike[str] | FrameSource,
        targets: Mapping[str, str | os.PathLike[str] | FrameSource],
        objects: Mapping[str, ShownLike],
        *,
        fps: float | None = 2.0,
        start_s: float | None = None,
        end_s: float | None = None,
        offsets: Mapping[str, float] | None = None,
        sync: str = "none",
        smooth: bool = True,
        config: TrackerConfig | None = None,
    ) -> Iterator[FollowStep]:
        """Follow objects that are shown once in one video through all other videos.

        Images are read as they come, and none are kept.

        Args:
            query: the video, folder of images or ``TAKE:camera`` in which objects are shown.
            targets: the other cameras, by name; without any, objects are followed in their own camera.
            objects: name to prompt; a point, box or prompt has its time in ``time_s``, a mask ``(H, W)`` in
                :class:`counterview.TimedPrompt`. Several for one object are corrections.
            fps: steps a second; ``None``: every frame of the query camera.
            start_s: first time on the query camera's clock, in seconds.
            end_s: last time.
            offsets: of targets, in seconds: what is added to their time to get the query camera's.
            sync: how the clocks of the others are found: ``none``, ``audio``, ``motion`` or ``auto``.
            smooth: let each step know of those after it, 60 at most; steps then come that much later.
            config: as for :meth:`make_engine`.

        Yields:
            each step: ``step.time_s``, ``step["cam01"]["mug"].mask`` ``(H, W)`` bool or ``None``, ``.visibility``.

        Raises:
            ConfigError: a model that nothing can be followed with.
            InputError: no time in common, an object shown outside the image or at a time without a frame, or a target
                that is the query camera.
            VideoError: a file that is not a video.
            MaskError: a mask of another size than its image, or an empty one.
            ProposalError: no proposal at a point or in a box.
        """
        from counterview.inference.following import Following, smoothed
        from counterview.media.timeline import Clock

        clocks = {name: Clock(offset) for name, offset in (offsets or {}).items()}
        with Following(
            self, query, targets, objects, fps=fps, start_s=start_s, end_s=end_s, clocks=clocks, sync=sync,
            config=config,
        ) as run:  # fmt: skip
            yield from smoothed(run.steps(), run.engine) if smooth else run.steps()

    def resolve(self, query: E, prompt: AnyPrompt, name: str = "object") -> ObjectMask:
        """See :meth:`counterview.Predictor.resolve`; masks are ``(H, W)``."""
        return self.select(query, prompt, name).mask_rle

    def select(self, query: E, prompt: AnyPrompt, name: str = "object") -> Selection:
        """See :meth:`counterview.Predictor.select`; masks are ``(H, W)``."""
        if isinstance(prompt, ObjectMask):
            check_query_mask(prompt, query.size_hw, name)
            return Selection(prompt)
        prompt.check(query.size_hw)
        return select(prompt, *self.prompt_proposals(query))

    def match(
        self,
        query_image: ImageInput,
        query_masks: QueryObjects | None = None,
        target_image: ImageInput | None = None,
        *,
        point: Point | tuple[float, float] | None = None,
        box: Box | tuple[float, float, float, float] | None = None,
        names: Sequence[str] | None = None,
        top_k: int = 5,
        color: ColorOrder = "rgb",
    ) -> list[Match]:
        """Find objects ``(H, W)`` of one image in another. See :meth:`counterview.Predictor.match`."""
        prompts, names = name_prompts(_one_way(query_masks, point, box, names, target_image), names)
        if target_image is None:
            raise InputError("there is no target image", fix="Write target_image=…")
        query_rgb = load_rgb(query_image, what="query image", color=color)
        target_rgb = load_rgb(target_image, what="target image", color=color)
        check_shape(query_rgb.shape[:2], "query image")
        check_shape(target_rgb.shape[:2], "target image")
        for prompt, name in zip(prompts, names, strict=True):  # before anything is encoded
            check_prompt(prompt, (query_rgb.shape[0], query_rgb.shape[1]), name)
        start = time.perf_counter()
        query = self.encode_query(query_rgb, name=image_name(query_image))
        selections = [self.select(query, prompt, name) for prompt, name in zip(prompts, names, strict=True)]
        target = self.encode(target_rgb, name=image_name(target_image))
        encoded = time.perf_counter()
        masks = [selection.mask_rle for selection in selections]
        matches = self.match_encoded(query, masks, target, names=names, top_k=top_k)
        logger.info("images encoded in %.2f s, %d objects matched in %.2f s", encoded - start, len(masks),
                    time.perf_counter() - encoded)  # fmt: skip
        return [
            replace(
                match,
                notes=(*selection.notes, *match.notes),
                drawing=MatchDrawing(query_rgb, selection.mask_rle, target_rgb),
            )
            for match, selection in zip(matches, selections, strict=True)
        ]


def _one_way(query_masks: Any, point: Any, box: Any, names: Sequence[str] | None, target_image: Any) -> Any:
    """The query objects of a call, given in one of two ways: as an argument, or as one point and one box."""
    if point is None and box is None:
        if query_masks is None and names is None:
            raise InputError("no query object was given", expected="a mask, a point or a box")
        return query_masks
    if query_masks is not None:
        raise InputError(
            "query objects are given twice" if target_image is not None else "the second argument is the query objects",
            expected="either query_masks, or point and box",
            fix="Write model.match(query_image, target_image=…, point=(x, y)).",
        )
    if box is None:
        return [as_point(point)]
    return [as_box(box)] if point is None else [Prompt(points=(as_point(point),), box=as_box(box))]


def image_name(image: ImageInput) -> str | None:
    """The name of an image that was given as a file, as proposers take it; ``None`` for others."""
    path = path_of(image)
    return None if path is None else file_name(path)
