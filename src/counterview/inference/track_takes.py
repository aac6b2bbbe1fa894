"""Predictions for takes with memory: ``tiny-track``, from the masks given at every frame, or from one click. Ours.

*given* is the official protocol: the query mask is given at every frame in which the object is visible, and nothing is
given of the target. *click* is a protocol of our own: the object is shown by one point at the first frame in which it
is visible in the query camera, the deepest pixel of its mask; from then on its own camera is followed too.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from counterview.data.clock import ANNOTATION_FPS
from counterview.data.dataset import Direction, Take
from counterview.data.pairs import FramePair
from counterview.errors import ImageError, MaskError, ProposalError, VideoError
from counterview.evaluation.layout import OFFICIAL, Layout
from counterview.inference.cross_view import MatcherClip, MatcherViews
from counterview.inference.encoded import ImageEncoding
from counterview.inference.prompts import Point
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.inference.selection import select
from counterview.inference.takes import Prediction, prediction_size
from counterview.masks.geometry import fit_mask, resize_mask
from counterview.proposals.base import frame_name
from counterview.tracking.base import Observation
from counterview.tracking.smoothing import Smoother, TrackedMoment
from counterview.tracking.tracker import MemoryTracker
from counterview.tracking.tracker_config import TrackerConfig
from counterview.tracking.views import EncodedView
from counterview.tracking.weights import load_weighing
from counterview.types import ObjectMask

logger = logging.getLogger(__name__)

Protocol = Literal["given", "click"]
"""What is known of the query camera; see the head of this module."""

Views = Mapping[str, EncodedView[ImageEncoding]]


@dataclass(eq=False)
class TakeGroup:
    """One query camera of a take with its targets, followed through the frames.

    Attributes:
        take: the take.
        query: the query camera.
        targets: the target cameras.
        protocol: what is known of the query camera.
        tracker: does the work.
        shown: objects that were shown so far.
    """

    take: Take
    query: str
    targets: tuple[str, ...]
    protocol: Protocol
    tracker: MemoryTracker
    shown: set[str] = field(default_factory=set)

    def step(self, views: Views, frame: int) -> dict[str, dict[str, Observation]]:
        """Follow to the next frame.

        Args:
            views: the encoded images of all cameras that have one.
            frame: its number.
        """
        here = {c: views[c] for c in (self.query, *self.targets) if c in views}
        prompts = self._prompts(here, frame) if self.query in here else {}
        return self.tracker.step_encoded(here, frame / float(ANNOTATION_FPS), {self.query: prompts} if prompts else {})

    def _prompts(self, views: Views, frame: int) -> dict[str, ObjectMask | None]:
        prompts: dict[str, ObjectMask | None] = {}
        view = views[self.query]
        for name in self.take.objects:
            if self.query not in self.take.cameras_of(name) or (self.protocol == "click" and name in self.shown):
                continue
            try:
                mask = self.take.mask(name, self.query, frame)
            except MaskError as error:
                logger.warning("%s", error)
                continue
            if mask is None or mask.is_empty:
                if name in self.shown and frame in self.take.annotated_frames(name, self.query):
                    prompts[name] = None
                continue
            mask = fit_mask(mask, view.size_hw)
            if self.protocol == "click":
                try:
                    mask = select(click_on(mask), view.handle.prompt_proposals).mask_rle
                except ProposalError:
                    continue  # clicked again at the next frame
            prompts[name] = mask
            self.shown.add(name)
        return prompts


def click_on(mask: ObjectMask) -> Point:
    """The point where a person would click an object: the deepest pixel of its mask ``(H, W)``.

    Args:
        mask: with at least one pixel.
    """
    import cv2

    x, y, width, height = mask.box_xywh
    crop = np.pad(mask.to_array()[y : y + height, x : x + width].astype(np.uint8), 1)
    distance = cv2.distanceTransform(crop, cv2.DIST_L2, 5)
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return Point(float(x + column - 1), float(y + row - 1))


class TrackingPredictor:
    """Predicts takes with memories of descriptors in every camera.

    See :class:`~counterview.inference.takes.TakePredictor`.

    Args:
        predictor: chooses among proposals.
        layout: sizes of the masks.
        protocol: what is known of the query camera.
        smooth: let each frame know of those after it.
        config: of the memories.
    """

    restartable = False  # a prediction depends on all earlier frames, and on later ones

    def __init__(
        self,
        predictor: ProposalMatcher,
        layout: Layout = OFFICIAL,
        *,
        protocol: Protocol = "given",
        smooth: bool = True,
        config: TrackerConfig | None = None,
    ) -> None:
        self.predictor, self.layout = predictor, layout
        self.protocol, self.smooth, self.config = protocol, smooth, config or TrackerConfig()
        self._views = MatcherViews(predictor)
        self._weighing = load_weighing()

    def settings(self) -> dict[str, Any]:
        """Settings of the tracker and of the model, and what is known of the query camera."""
        tracker = MemoryTracker(self._views, ["query"], self._weighing, self.config)
        return {**tracker.settings(), "protocol": self.protocol, "smooth": self.smooth}

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """See :meth:`TakePredictor.predict`."""
        groups = self.groups(take, wanted)
        smoothers = {query: Smoother() for query in groups}
        cameras = list(dict.fromkeys(c for g in groups.values() for c in (g.query, *g.targets)))
        released: dict[int, dict[str, TrackedMoment]] = defaultdict(dict)
        config = self.config
        clip = self._views.clip(share_frames=config.share_frames, keep_alignments=config.keep_alignments)
        take.plan_reads({camera: sorted(wanted) for camera in cameras})
        for frame in sorted(wanted):
            views = encode_frame(clip, take, cameras, frame)
            for query, group in groups.items():
                moment = TrackedMoment(frame, group.step(views, frame), dict(group.tracker.motions))
                for done in smoothers[query].push(moment) if self.smooth else [moment]:
                    released[done.key][query] = done
            for number in [n for n in sorted(released) if len(released[n]) == len(groups)]:
                yield number, self._predictions(take, wanted[number], released.pop(number))
        if self.smooth:
            for query, smoother in smoothers.items():
                for done in smoother.finish():
                    released[done.key][query] = done
        for number in sorted(released):
            yield number, self._predictions(take, wanted[number], released[number])

    def groups(self, take: Take, wanted: Mapping[int, list[tuple[Direction, FramePair]]]) -> dict[str, TakeGroup]:
        """The query cameras of a take with their targets, each with a tracker of its own.

        Args:
            take: the take.
            wanted: as for :meth:`predict`.
        """
        targets: dict[str, dict[str, None]] = defaultdict(dict)
        for pairs in wanted.values():
            for _, pair in pairs:
                targets[pair.query_camera][pair.target_camera] = None
        return {
            query: TakeGroup(
                take, query, tuple(others), self.protocol,
                MemoryTracker(
                    self._views, [query, *others], self._weighing, self.config, drawer=self._views.drawer()
                ),
            )
            for query, others in sorted(targets.items())
        }  # fmt: skip

    def _predictions(
        self, take: Take, wanted: list[tuple[Direction, FramePair]], moments: Mapping[str, TrackedMoment]
    ) -> list[Prediction]:
        predictions = []
        for direction, pair in wanted:
            observations = moments[pair.query_camera].observations
            seen = observations.get(pair.target_camera, {}).get(pair.object)
            image_hw = None if seen is None or seen.mask_rle is None else seen.mask_rle.size_hw
            size = prediction_size(take, pair.target_camera, image_hw, self.layout)
            if seen is None or seen.visibility is None:
                note = "the image is not available, or the object was not shown yet"
                predictions.append(Prediction(direction, pair, ObjectMask.empty(size), 0.0, note))
                continue
            mask = ObjectMask.empty(size) if seen.mask_rle is None else resize_mask(seen.mask_rle, size)
            predictions.append(Prediction(direction, pair, mask, float(np.clip(seen.visibility, 0, 1))))
        return predictions


def encode_frame(clip: MatcherClip, take: Take, cameras: list[str], frame: int) -> dict[str, Any]:
    """The encoded images of a frame; a camera without one is left out.

    Args:
        clip: encodes the frames of the take, in order.
        take: the take.
        cameras: which of its cameras.
        frame: its number.
    """
    encoded = {}
    for camera in cameras:
        try:
            image = take.frame(camera, frame)
        except (ImageError, VideoError) as error:
            logger.warning("%s", error)
            continue
        encoded[camera] = clip.encode(image, camera, frame_name(take.uid, camera, frame))
    return encoded
