"""The systems of :mod:`benchmarks.held_out`, and their predictions for a take.

Proposals, feature maps and descriptors of an image are computed once for all systems.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from benchmarks.held_out_errors import kind
from counterview.baselines.weightless import LabHistogram, nearest_to_place, same_place
from counterview.data.dataset import DIRECTIONS, Direction, Take
from counterview.data.pairs import FramePair, pairs_of_take
from counterview.errors import ConfigError, CounterviewError
from counterview.evaluation.camera_change import CHANGES, draw_change
from counterview.evaluation.scorer import Scorer
from counterview.evaluation.table import FrameScore
from counterview.features import Backbone, FeatureMap, load_backbone
from counterview.inference import ProposalMatcher, load
from counterview.inference.encoded import ImageEncoding
from counterview.inference.mask_tracker import MaskTracker
from counterview.inference.matchers import KnnMatcher, Matcher
from counterview.inference.takes import ClipPredictor, prediction_size, query_mask
from counterview.masks.geometry import iou, resize_mask
from counterview.omama.training.image_store import fit_mask
from counterview.proposals import CachedProposer, Proposals, load_proposer
from counterview.proposals.base import Proposer, image_proposals
from counterview.types import ObjectMask, RgbImage

CHANCE, PLACE, BEST = "chance", "same place", "best choice"
LAB, CLASSICAL, TINY = "k-NN, Lab histogram", "k-NN, classical features", "k-NN, tiny features"
MATCH, FOLLOW = "tiny-match", "tiny-follow"
TRUE_MASKS = "ground-truth candidates"
WEIGHT_FREE = (LAB, CLASSICAL)
"""Descriptors without weights: the baselines of the learned ones."""


@dataclass(frozen=True, eq=False)
class System:
    """Features and a matcher: one row of the tables."""

    backbone: Backbone
    matcher: Matcher

    def settings(self) -> dict[str, Any]:
        """Everything beside the proposals that its predictions depend on."""
        return {"matcher": [self.matcher.name, self.matcher.settings()], "features": self.backbone.settings()}


DRAWN = "drawn"
"""A change that is drawn for each image; the others are those of :data:`CHANGES`."""


@dataclass(frozen=True)
class OtherCamera:
    """One image of every pair is taken by another camera.

    Attributes:
        change: its name in :data:`CHANGES`, or :data:`DRAWN`.
        image: which of the two.
    """

    change: str
    image: Literal["query", "target"]


def changed(image: RgbImage, change: str, name: str) -> RgbImage:
    """An image ``(H, W, 3)`` after a change by its name; what is drawn depends on the image's name alone."""
    seed = list(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8])
    camera = draw_change(np.random.default_rng(seed)) if change == DRAWN else CHANGES[change]
    return camera.apply(image, seed[0])


@dataclass(frozen=True, eq=False)
class Systems:
    """All systems that are compared.

    Attributes:
        matchers: systems that choose among candidates, by name.
        proposer: makes the masks that all of them choose from.
        follower: LM-EEC, if there is one.
        missing: names of systems that are not available, with the reason.
        other_camera: takes one image of every pair, if it is another.
    """

    matchers: dict[str, System]
    proposer: Proposer
    follower: ClipPredictor | None = None
    missing: dict[str, str] = field(default_factory=dict)
    other_camera: OtherCamera | None = None

    @classmethod
    def make(cls, match: str | None, follow: str | None, proposals: str | None, cache: str, device: str) -> Systems:
        """Load them.

        Args:
            match: name of the matcher to measure; by default the bundled tiny-match.
            follow: name of the LM-EEC to measure; by default the bundled tiny-follow.
            proposals: proposer for all; by default that of the matcher, or ``graph`` without a matcher.
            cache: folder in which proposals are stored.
            device: where networks run.
        """
        matchers = {
            LAB: System(LabHistogram(), KnnMatcher()),
            CLASSICAL: System(load_backbone("classical"), KnnMatcher()),
        }
        missing: dict[str, str] = {}
        proposer: Proposer | None = load_proposer(proposals) if proposals else None
        try:
            model = load(match or MATCH, device=device)
            if not isinstance(model, ProposalMatcher):
                raise ConfigError(f"{match} does not choose among proposals")
            matchers[TINY] = System(model.backbone, KnnMatcher())
            matchers[MATCH] = System(model.backbone, model.matcher)
            proposer = proposer or model.proposer
        except CounterviewError as error:
            if match:
                raise
            missing[MATCH] = missing[TINY] = str(error)
        follower = None
        try:
            tracker = load(follow or FOLLOW, device=device)
            if not isinstance(tracker, MaskTracker):
                raise ConfigError(f"{follow} is not an LM-EEC")
            follower = ClipPredictor(tracker.model)
        except CounterviewError as error:
            if follow:
                raise
            missing[FOLLOW] = str(error)
        return cls(matchers, CachedProposer(proposer or load_proposer("graph"), cache), follower, missing)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that the predictions depend on."""
        return {
            "version": 3,
            "proposals": [self.proposer.name, self.proposer.settings()],
            "systems": {name: system.settings() for name, system in self.matchers.items()},
            "follower": None if self.follower is None else self.follower.settings(),
            **({} if self.other_camera is None else {"other_camera": asdict(self.other_camera)}),
        }

    @property
    def chooser(self) -> str:
        """The system that chooses among true masks in the table of proposals."""
        return MATCH if MATCH in self.matchers else CLASSICAL


@dataclass(eq=False)
class ImageRecord:
    """One image of one camera. ``truth`` has the masks of its annotated objects at the image's size, none empty."""

    size_hw: tuple[int, int]
    proposals: Proposals
    truth: dict[str, ObjectMask]
    views: dict[str, ImageEncoding] = field(default_factory=dict)
    true_views: dict[str, ImageEncoding] = field(default_factory=dict)


@dataclass
class TakeResults:
    """Results of all systems for a take: choices among the true masks, and scored predictions."""

    choices: list[dict[str, Any]] = field(default_factory=list)
    scorers: dict[str, Scorer] = field(default_factory=lambda: defaultdict(lambda: Scorer("official")))
    directions: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    proposals: list[int] = field(default_factory=list)
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(
        self, system: str, take: Take, direction: Direction, pair: FramePair, mask: ObjectMask, confidence: float
    ) -> None:
        """Score one prediction by the official protocol."""
        truth = take.mask(pair.object, pair.target_camera, pair.frame) if pair.target_visible else None
        self.scorers[system].add(
            pair.take, pair.object, pair.query_camera, pair.target_camera, pair.frame,
            gt=truth, pred=mask, confidence=confidence, resize=True,
        )  # fmt: skip
        self.directions[system].append(direction)

    def rows(self) -> dict[str, list[tuple[str, FrameScore]]]:
        """Scored predictions by system, each with its direction."""
        return {
            name: list(zip(self.directions[name], scorer.table.rows(), strict=True))
            for name, scorer in self.scorers.items()
        }


Records = dict[tuple[int, str, str | None], "ImageRecord"]
"""What was computed of a take's images, by frame, camera and name of the change."""


def run_systems(systems: Systems, take: Take, frames: int | None, records: Records | None = None) -> TakeResults:
    """Run all systems on a take: both directions, every pair of cameras, all objects of the official evaluation.

    Args:
        systems: the systems.
        take: the take.
        frames: number of annotated frames, evenly spread; all by default.
        records: of images seen before, to which new ones are added; those of one frame are kept without it.
    """
    wanted: dict[int, list[tuple[Direction, FramePair]]] = defaultdict(list)
    for direction in DIRECTIONS:
        for pair in pairs_of_take(take, direction, targets="annotated"):
            wanted[pair.frame].append((direction, pair))
    numbers = sorted(wanted)
    if frames is not None and frames < len(numbers):
        numbers = [numbers[int(i)] for i in np.linspace(0, len(numbers) - 1, frames).round()]
    result = TakeResults()
    tracked = _follow(systems, take, {n: wanted[n] for n in numbers}, result)
    kept = records
    for number in numbers:
        records = {} if kept is None else kept
        groups: dict[tuple[Direction, str, str], list[FramePair]] = defaultdict(list)
        for direction, pair in wanted[number]:
            groups[direction, pair.query_camera, pair.target_camera].append(pair)
        for (direction, first, second), pairs in groups.items():
            other = systems.other_camera
            changes = {} if other is None else {other.image: other.change}
            images = [(number, first, changes.get("query")), (number, second, changes.get("target"))]
            for image in images:
                if image not in records:
                    records[image] = _record(systems, take, image[1], number, image[2])
                result.proposals.append(len(records[image].proposals))
            query, target = (records[image] for image in images)
            _run_pairs(systems, take, direction, pairs, query, target, tracked, result)
    return result


def _record(systems: Systems, take: Take, camera: str, frame: int, change: str | None) -> ImageRecord:
    image = take.frame(camera, frame)
    name = f"{take.uid} {camera} {frame}"
    if change is not None:
        image = changed(image, change, name)
        proposals = systems.proposer(image, None)
    else:
        proposals = image_proposals(systems.proposer, image, take.uid, camera, frame)
    size = (image.shape[0], image.shape[1])
    truth = {}
    for name in take.objects:
        mask = take.mask(name, camera, frame) if camera in take.cameras_of(name) else None
        if mask is not None and not mask.is_empty:
            truth[name] = fit_mask(mask, size)
    record = ImageRecord(size, proposals, truth)
    true = Proposals(size, tuple(truth.values()), np.ones(len(truth), np.float32))
    maps: dict[int, FeatureMap] = {}
    tables: dict[tuple[int, str], tuple[Any, Any]] = {}
    for name, system in systems.matchers.items():
        if id(system.backbone) not in maps:
            maps[id(system.backbone)] = system.backbone.encode(image)
        features = maps[id(system.backbone)]
        key = (id(system.backbone), system.matcher.name)
        if key not in tables:
            described = system.matcher.describe(system.backbone, features, [*record.proposals.masks, *true.masks])
            tables[key] = described[: len(record.proposals)], described[len(record.proposals) :]
        view = record.views[name] = ImageEncoding(size, features, record.proposals, tables[key][0])
        record.true_views[name] = ImageEncoding(size, features, true, tables[key][1], context=view)
    return record


def _run_pairs(
    systems: Systems,
    take: Take,
    direction: Direction,
    pairs: Sequence[FramePair],
    query: ImageRecord,
    target: ImageRecord,
    tracked: Mapping[Any, ObjectMask],
    result: TakeResults,
) -> None:
    """Run all systems on the objects of one frame and pair of cameras."""
    size = prediction_size(take, pairs[0].target_camera, target.size_hw)
    queried = [p for p in pairs if p.object in query.truth]
    masks = [query_mask(take, p, query.size_hw) for p in queried]
    names = list(target.truth)
    true_masks = list(target.truth.values())
    proposals = target.proposals.masks

    def add(system: str, pair: FramePair, mask: ObjectMask | None, confidence: float) -> None:
        prediction = ObjectMask.empty(size) if mask is None else resize_mask(mask, size)
        result.add(system, take, direction, pair, prediction, confidence)

    placements = [same_place(mask, target.size_hw) for mask in masks]
    visible = [i for i, p in enumerate(queried) if p.target_visible and p.object in target.truth]
    overlaps = {i: [iou(mask, target.truth[queried[i].object]) for mask in proposals] for i in visible}
    for i, pair in enumerate(queried):
        add(PLACE, pair, placements[i], 1.0)
        add(CHANCE, pair, proposals[_draw(pair, len(proposals))] if proposals else None, 1.0)
        best = proposals[int(np.argmax(overlaps[i]))] if overlaps.get(i) else None
        add(BEST, pair, best, 1.0 if pair.target_visible else 0.0)
    # Which of the annotated objects is it? Only a visible object has an answer.
    correct: dict[str, dict[int, float]] = defaultdict(dict)
    for i in visible:
        correct[CHANCE][i] = 1 / len(names)
        correct[PLACE][i] = float(names[nearest_to_place(placements[i], true_masks)] == queried[i].object)
        tracked_mask = tracked.get((direction, queried[i]))
        if systems.follower is not None:
            correct[FOLLOW][i] = _overlaps_most(tracked_mask, target, queried[i].object)
    for name, system in systems.matchers.items():
        if masks and proposals:
            scores = system.matcher.score(system.backbone, query.views[name], masks, target.views[name])
            for i, pair in enumerate(queried):
                chosen = proposals[int(scores.score[i].argmax())]
                add(name, pair, chosen, float(scores.visibility[i]))
                if i in overlaps:
                    result.kinds[name][kind(chosen, pair.object, target.truth, max(overlaps[i]))] += 1
        else:
            for pair in queried:
                add(name, pair, None, 0.0)
        if masks and names:
            scores = system.matcher.score(system.backbone, query.true_views[name], masks, target.true_views[name])
            order = scores.score.argmax(axis=1)
            for i in visible:
                correct[name][i] = float(names[int(order[i])] == queried[i].object)
            if name == systems.chooser:
                for i, pair in enumerate(queried):
                    add(TRUE_MASKS, pair, true_masks[int(order[i])], float(scores.visibility[i]))
    for i in visible:
        result.choices.append({
            "direction": direction, "take": take.uid, "object": queried[i].object, "query": queried[i].query_camera,
            "target": queried[i].target_camera, "frame": queried[i].frame, "candidates": len(names),
            "right": {name: values[i] for name, values in correct.items()},
        })  # fmt: skip


def _follow(
    systems: Systems, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]], result: TakeResults
) -> dict[tuple[Direction, FramePair], ObjectMask]:
    if systems.follower is None:
        return {}
    masks = {}
    for _, predictions in systems.follower.predict(take, wanted):
        for p in predictions:
            result.add(FOLLOW, take, p.direction, p.pair, p.mask, p.confidence)
            masks[p.direction, p.pair] = p.mask
    return masks


def _overlaps_most(tracked_mask: ObjectMask | None, target: ImageRecord, name: str) -> float:
    """1 if the tracked mask overlaps this object most, 0 if another; chance if it overlaps none."""
    overlaps = {}
    if tracked_mask is not None:
        tracked_mask = resize_mask(tracked_mask, target.size_hw)
        overlaps = {other: iou(tracked_mask, mask) for other, mask in target.truth.items()}
    if not overlaps or max(overlaps.values()) <= 0:
        return 1 / len(target.truth)
    return float(max(overlaps, key=lambda other: overlaps[other]) == name)


def _draw(pair: FramePair, count: int) -> int:
    """Index of a random proposal, the same in every run."""
    digest = hashlib.sha256(pair.key.encode("utf-8", "surrogatepass")).digest()
    return int(np.random.default_rng(list(digest[:8])).integers(count))
