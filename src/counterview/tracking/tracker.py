"""``tiny-track``'s engine: candidates, memories in every camera, place, and the match across cameras. Ours.

An object is shown once. In its own camera it is followed: its bank says how it looks there, the camera's motion where
it should be. In every other camera it is matched from a camera that sees it now, and followed likewise. LM-EEC (NeurIPS
2025) keeps two banks of feature maps; here each camera has a bank of descriptors, and each speaks for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.config import out_of_range
from counterview.errors import ConfigError, InputError, MaskError
from counterview.geometry.homography import Homography
from counterview.masks.geometry import box_iou, iou
from counterview.tracking.base import UNKNOWN, Observation, Prompts
from counterview.tracking.evidence import CrossMatch, Evidence, Remembered, evidence
from counterview.tracking.memory import Bank
from counterview.tracking.place import ViewSummary, camera_motion, expected_place
from counterview.tracking.views import CrossViewModel, EncodedView
from counterview.tracking.weighing import EvidenceWeighing
from counterview.types import ObjectMask, RgbImage

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class TrackerConfig:
    """What the tracker remembers, and which evidence it uses.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    capacity: int = field(default=8, metadata={"help": "entries of a bank"})
    compression: str = field(default="merge", metadata={"help": "of a full bank: merge (closest neighbours) or fifo"})
    own_memory: bool = field(default=True, metadata={"help": "use each camera's own bank"})
    other_memory: bool = field(default=True, metadata={"help": "use the other cameras' banks"})
    place: bool = field(default=True, metadata={"help": "use where the object was, and how the camera moved"})
    competition: bool = field(default=True, metadata={"help": "two objects never share a mask"})
    remember_above: float = field(default=0.6, metadata={"help": "visibility above which a mask is remembered"})
    sure_above: float = field(default=0.5, metadata={"help": "probability of a candidate above which it is remembered"})
    alternatives: int = field(default=8, metadata={"help": "candidates that are kept for smoothing"})
    shared_iou: float = field(default=0.5, metadata={"help": "IoU above which two candidates are one mask"})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "capacity", at_least=2, at_most=1000),
            *out_of_range(self, "alternatives", at_least=1, at_most=100),
            *out_of_range(self, "remember_above", "sure_above", "shared_iou", at_least=0, at_most=1),
        ]
        if self.compression not in ("merge", "fifo"):
            problems.append(f"compression is {self.compression!r}, expected merge or fifo")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass
class LastSeen:
    """Where an object was last seen in a camera.

    Attributes:
        mask_rle: ``(H, W)`` in that image.
        summary: of that image.
        step: its number.
    """

    mask_rle: ObjectMask
    summary: ViewSummary
    step: int


@dataclass
class CameraMemory:
    """What one camera remembers of one object."""

    bank: Bank
    last: LastSeen | None = None
    visibility: float = 0.0


@dataclass(frozen=True, eq=False)
class Decision:
    """The scores of one object's candidates in one camera, before objects compete.

    Attributes:
        log_probability: ``(N,)``.
        logit: of being visible.
        table: ``(N, 24)`` evidence.
        has_cross: whether a match from another camera is part of it.
    """

    log_probability: F64
    logit: float
    table: F32
    has_cross: bool

    @property
    def visibility(self) -> float:
        """Probability of being visible."""
        return float(1 / (1 + np.exp(-np.clip(self.logit, -30, 30))))


Recorder = Callable[[str, str, Decision, EncodedView[Any]], None]
"""Is told of every decision: camera, object, decision, and the image; for training."""


class MemoryTracker:
    """Follows objects in several cameras. See :class:`~counterview.tracking.base.Engine`.

    Args:
        model: encodes images, and matches them across cameras.
        cameras: names; the query camera first.
        weighing: weighs the evidence.
        config: what is remembered and used.
        recorder: told of every decision.

    Raises:
        InputError: fewer than one camera, or a name twice.
    """

    def __init__(
        self,
        model: CrossViewModel[Any],
        cameras: Sequence[str],
        weighing: EvidenceWeighing,
        config: TrackerConfig | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.cameras = tuple(cameras)
        if not self.cameras or len(set(self.cameras)) < len(self.cameras):
            raise InputError("cameras have names that differ", found=list(self.cameras))
        self.model, self.weighing, self.config = model, weighing.eval(), config or TrackerConfig()
        self.motions: dict[str, Homography | None] = {}
        self._recorder = recorder
        self._memories: dict[str, dict[str, CameraMemory]] = {}
        self._previous: dict[str, ViewSummary] = {}
        self._step, self._time = 0, -np.inf

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects shown so far."""
        return tuple(self._memories)

    def settings(self) -> dict[str, Any]:
        """See :meth:`Engine.settings`."""
        from counterview.config import to_dict
        from counterview.nn.weights import weights_fingerprint

        return {
            "method": "tiny-track",
            "tracker": to_dict(self.config),
            "weighing": weights_fingerprint(self.weighing)[:16],
            "model": self.model.settings(),
        }

    def step(
        self, images: Mapping[str, RgbImage | None], time_s: float, prompts: Prompts
    ) -> dict[str, dict[str, Observation]]:
        """Take the next images ``(H, W, 3)``. See :meth:`Engine.step`."""
        views = {camera: self.model.encode(image) for camera, image in images.items() if image is not None}
        return self.step_encoded(views, time_s, prompts)

    def step_encoded(
        self, views: Mapping[str, EncodedView[Any]], time_s: float, prompts: Prompts
    ) -> dict[str, dict[str, Observation]]:
        """:meth:`step` for images that are encoded already; masks are ``(H, W)``."""
        self._check(views, time_s, prompts)
        for given in prompts.values():
            for name in given:
                self._memories.setdefault(
                    name,
                    {c: CameraMemory(Bank(self.config.capacity, self.config.compression)) for c in self.cameras},
                )
        scene = _Scene(self, views, prompts)
        result: dict[str, dict[str, Observation]] = {}
        for camera in self.cameras:
            if camera in views:
                result[camera] = scene.observe(camera)
            else:
                result[camera] = dict.fromkeys(self._memories, UNKNOWN)
        scene.remember(result)
        self.motions = {
            camera: camera_motion(self._previous[camera], scene.summary(camera)) if camera in self._previous else None
            for camera in views
        }
        self._previous |= {camera: scene.summary(camera) for camera in views}
        self._time, self._step = time_s, self._step + 1
        return result

    def _check(self, views: Mapping[str, EncodedView[Any]], time_s: float, prompts: Prompts) -> None:
        if not time_s > self._time:
            raise InputError("the times of steps ascend", found=f"{time_s} s after {self._time} s")
        for camera in (*views, *prompts):
            if camera not in self.cameras:
                raise InputError("unknown camera", found=camera, expected=", ".join(self.cameras))
        for camera, given in prompts.items():
            if given and camera not in views:
                raise InputError(f"objects are shown in {camera}, which has no image at {time_s} s")
            for name, mask in given.items():
                if mask is not None and (mask.is_empty or mask.size_hw != views[camera].size_hw):
                    raise MaskError(
                        f"the mask of {name!r} does not fit the image of {camera}",
                        found="an empty mask" if mask.is_empty else mask.size_hw,
                        expected=views[camera].size_hw,
                    )

    # --------------------------------------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """See :meth:`Engine.state`."""
        summaries: list[ViewSummary] = []

        def number(summary: ViewSummary) -> int:
            for index, known in enumerate(summaries):
                if known is summary:
                    return index
            summaries.append(summary)
            return len(summaries) - 1

        memories = {
            name: {
                camera: {
                    "bank": memory.bank.state(),
                    "visibility": memory.visibility,
                    "last": None
                    if memory.last is None
                    else {
                        "mask": memory.last.mask_rle.to_coco(),
                        "summary": number(memory.last.summary),
                        "step": memory.last.step,
                    },
                }
                for camera, memory in cameras.items()
            }
            for name, cameras in self._memories.items()
        }
        previous = {camera: number(summary) for camera, summary in self._previous.items()}
        return {
            "settings": self.settings(), "cameras": list(self.cameras), "step": self._step, "time_s": self._time,
            "memories": memories, "previous": previous, "summaries": [s.state() for s in summaries],
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Engine.restore`."""
        from counterview.masks.rle import from_coco

        if state["settings"] != self.settings() or list(state["cameras"]) != list(self.cameras):
            raise InputError("the state is of other settings or cameras", fix="Start anew.")
        summaries = [ViewSummary.from_state(s) for s in state["summaries"]]
        self._step, self._time = int(state["step"]), float(state["time_s"])
        self._previous = {camera: summaries[index] for camera, index in state["previous"].items()}
        self._memories = {}
        for name, cameras in state["memories"].items():
            self._memories[name] = {}
            for camera, values in cameras.items():
                bank = Bank(self.config.capacity, self.config.compression)
                bank.restore(values["bank"])
                last = values["last"]
                seen = None if last is None else LastSeen(
                    from_coco(last["mask"]), summaries[last["summary"]], int(last["step"])
                )  # fmt: skip
                self._memories[name][camera] = CameraMemory(bank, seen, float(values["visibility"]))


class _Scene:
    """One step of a tracker: the images of all cameras at one time."""

    def __init__(self, tracker: MemoryTracker, views: Mapping[str, EncodedView[Any]], prompts: Prompts) -> None:
        self.tracker, self.views, self.prompts = tracker, views, prompts
        self.config = tracker.config
        self.memories = tracker._memories
        self._summaries: dict[str, ViewSummary] = {}
        self._motions: dict[tuple[str, int], Homography | None] = {}
        self._bank_similarity: dict[tuple[str, str, str], F32] = {}
        self._chosen: dict[str, dict[str, int]] = {}
        self.first = {camera: self._decide(camera, {}) for camera in tracker.cameras if camera in views}

    def given(self, camera: str, name: str) -> bool:
        """Whether the user says where the object is in this camera now."""
        return name in self.prompts.get(camera, {})

    def summary(self, camera: str) -> ViewSummary:
        """The summary of a camera's image."""
        if camera not in self._summaries:
            self._summaries[camera] = ViewSummary.of(self.views[camera])
        return self._summaries[camera]

    def observe(self, camera: str) -> dict[str, Observation]:
        """What is known of every object in one camera. Cameras before it in the list have been observed."""
        sources = {name: self._source(name, camera) for name in self.memories if not self.given(camera, name)}
        crosses = self._crosses(camera, sources)
        decisions = self._decide(camera, crosses) if crosses else self.first[camera]
        decisions = {name: decisions.get(name, self.first[camera].get(name)) for name in sources}  # type: ignore[misc]
        known = {name: d for name, d in decisions.items() if d is not None}
        if self.tracker._recorder is not None:
            for name, decision in known.items():
                self.tracker._recorder(camera, name, decision, self.views[camera])
        chosen, shared = self._compete(camera, known)
        self._chosen[camera] = chosen
        result = {}
        for name in self.memories:
            if self.given(camera, name):
                mask = self.prompts[camera][name]
                result[name] = Observation(mask, 0.0 if mask is None else 1.0, "given")
            elif name in known:
                result[name] = self._observation(camera, name, known[name], chosen[name], shared[name], sources[name])
            else:
                result[name] = Observation(None, 0.0, "followed")
        return result

    # ------------------------------------------------------------------------------------------ evidence

    def _source(self, name: str, camera: str) -> tuple[str, ObjectMask] | None:
        """The camera from which an object is matched into another one now, with its mask there."""
        best: tuple[float, str, ObjectMask] | None = None
        own = self.first[camera].get(name) if camera in self.first else None
        for other in self.tracker.cameras:
            if other == camera or other not in self.views:
                continue
            if self.given(other, name):
                mask = self.prompts[other][name]
                if mask is not None:
                    return other, mask
                continue
            decision = self.first[other].get(name)
            if decision is None or decision.visibility <= 0.5:
                continue
            row = self._chosen.get(other, {}).get(name, int(decision.log_probability.argmax()))
            rank = decision.visibility + (1.0 if other == self.tracker.cameras[0] else 0.0)
            if best is None or rank > best[0]:
                best = rank, other, self.views[other].masks[row]
        if best is None:
            return None
        if camera == self.tracker.cameras[0] and own is not None and own.visibility > 0.5:
            return None  # followed well enough in its own camera, whose mask all others are matched from
        return best[1], best[2]

    def _crosses(self, camera: str, sources: Mapping[str, tuple[str, ObjectMask] | None]) -> dict[str, CrossMatch]:
        """Matches from other cameras, those from one camera together."""
        view = self.views[camera]
        found: dict[str, CrossMatch] = {}
        if not len(view.masks):
            return found
        for other in self.tracker.cameras:
            names = [name for name, source in sources.items() if source is not None and source[0] == other]
            if not names:
                continue
            masks = [source[1] for name in names if (source := sources[name]) is not None]
            compared = self.tracker.model.compare(self.views[other], masks, view)
            for row, name in enumerate(names):
                found[name] = CrossMatch(
                    compared.similarity[row], compared.log_probability[row], float(compared.visibility[row])
                )
        return found

    def _decide(self, camera: str, crosses: Mapping[str, CrossMatch]) -> dict[str, Decision]:
        """Weigh the evidence for every object that a memory or a match knows; all at once."""
        view = self.views[camera]
        names, tables = [], []
        for name in self.memories:
            remembered = self._remembered(camera, name)
            cross = crosses.get(name)
            if self.given(camera, name) or not len(view.masks) or (remembered is None and cross is None):
                continue
            names.append(name)
            tables.append(evidence(view, remembered, cross))
        if not names:
            return {}
        log_probability, logits = self.tracker.weighing.weigh(np.stack(tables))
        return {
            name: Decision(log_probability[row], float(logits[row]), tables[row], name in crosses)
            for row, name in enumerate(names)
        }

    def _similarity(self, bank_camera: str, name: str, camera: str) -> F32:
        """Cosines of a bank with the candidates of an image, ``(K, N)``; computed once a step."""
        key = bank_camera, name, camera
        if key not in self._bank_similarity:
            self._bank_similarity[key] = self.memories[name][bank_camera].bank.similarity(self.views[camera].looks)
        return self._bank_similarity[key]

    def _remembered(self, camera: str, name: str) -> Remembered | None:
        config, memory = self.config, self.memories[name][camera]
        looks = self.views[camera].looks
        nothing = np.zeros((0, len(looks)), dtype=np.float32)
        others = [c for c in self.tracker.cameras if c != camera] if config.other_memory else []
        other = [self._similarity(c, name, camera) for c in others]
        own = self._similarity(camera, name, camera) if config.own_memory else nothing
        place, last_mask, area = None, None, 1.0
        if config.place and memory.last is not None:
            motion = self._motion(camera, memory.last.summary)
            last_mask = memory.last.mask_rle
            box = np.array(last_mask.box_xywh, dtype=np.float64)
            if last_mask.size_hw == self.views[camera].size_hw:
                place = expected_place(box, last_mask.size_hw, motion)
            if place is not None:
                area = last_mask.area * float(place.box_xywh[2:].prod() / max(box[2:].prod(), 1.0))
        if not len(own) and not sum(map(len, other)) and place is None:
            return None
        rivals = [self._similarity(camera, rival, camera) for rival in self.memories if rival != name]
        return Remembered(
            own,
            memory.bank.counts if len(own) else np.zeros(0, dtype=np.int64),
            np.concatenate([nothing, *other]),
            np.concatenate([nothing, *rivals]),
            place,
            last_mask,
            area,
            0 if memory.last is None else self.tracker._step - memory.last.step,
            memory.visibility,
        )

    def _motion(self, camera: str, earlier: ViewSummary) -> Homography | None:
        key = camera, id(earlier)
        if key not in self._motions:
            self._motions[key] = camera_motion(earlier, self.summary(camera))
        return self._motions[key]

    # --------------------------------------------------------------------------------------- competition

    def _compete(
        self, camera: str, decisions: Mapping[str, Decision]
    ) -> tuple[dict[str, int], dict[str, tuple[str, float] | None]]:
        """Give every object a candidate of its own, the surest object first.

        Returns:
            the row of each object's candidate; and the rival that it lost its first choice to, with the overlap.
        """
        view, config = self.views[camera], self.config
        given = {n: m for n, m in self.prompts.get(camera, {}).items() if m is not None}
        taken: list[tuple[str, ObjectMask]] = list(given.items())
        order = sorted(
            decisions, key=lambda n: -(decisions[n].log_probability.max() + np.log(decisions[n].visibility + 1e-9))
        )
        chosen: dict[str, int] = {}
        shared: dict[str, tuple[str, float] | None] = {}
        for name in order:
            ranked = np.argsort(-decisions[name].log_probability, kind="stable")[: config.alternatives]
            chosen[name], shared[name] = int(ranked[0]), None
            if not config.competition:
                continue
            for row in ranked:
                rival = _overlapping(view.masks[row], taken, config.shared_iou)
                if rival is None:
                    chosen[name] = int(row)
                    break
                shared[name] = shared[name] or rival
            if decisions[name].visibility > 0.5:
                taken.append((name, view.masks[chosen[name]]))
        return chosen, shared

    def _observation(
        self,
        camera: str,
        name: str,
        decision: Decision,
        row: int,
        shared: tuple[str, float] | None,
        source: tuple[str, ObjectMask] | None,
    ) -> Observation:
        view, log_probability = self.views[camera], decision.log_probability
        visibility = decision.visibility
        if shared is not None:  # it lost the mask that it looks most like: what is left may not be it
            visibility *= float(np.exp(max(log_probability[row] - log_probability.max(), -20.0)) ** 0.25)
        ranked = np.argsort(-log_probability, kind="stable")[: self.config.alternatives]
        rows = [row, *(int(r) for r in ranked if r != row)][: self.config.alternatives]
        alternatives = tuple((view.masks[r], float(log_probability[r])) for r in rows)
        doubts: dict[str, float] = {}
        surety = visibility * float(np.exp(log_probability[row]))
        if visibility > 0.5 and surety < 0.5:
            doubts["low_score"] = 1 - surety
        if shared is not None and visibility > 0.5:
            doubts["merged"] = shared[1]
        if source is not None and decision.has_cross and visibility > 0.5:
            doubts |= self._way_back(camera, row, source)
            own = self.first[camera].get(name)
            if own is not None and own.visibility > 0.5 and decision.table[0, Evidence.HAS_MEMORY]:
                by_match = int(decision.table[:, Evidence.CROSS_LOG].argmax())
                by_memory = int(own.log_probability.argmax())
                if by_match != by_memory and iou(view.masks[by_match], view.masks[by_memory]) < 0.2:
                    doubts["cameras_disagree"] = float(np.exp(4 * decision.table[by_match, Evidence.CROSS_LOG]))
        return Observation(
            view.masks[row], visibility, "matched" if decision.has_cross else "followed", alternatives, doubts
        )

    def _way_back(self, camera: str, row: int, source: tuple[str, ObjectMask]) -> dict[str, float]:
        """Whether the candidate, sought in the camera that it was matched from, is the object again."""
        other, mask = source
        view = self.views[other]
        if not len(view.masks):
            return {}
        likeness = view.looks @ self.views[camera].looks[row]
        overlaps = box_iou(view.boxes.xywh, np.array([mask.box_xywh], dtype=np.float64))[:, 0]
        near = overlaps > 0.3
        if not near.any():
            return {}
        excess = float(likeness.max() - likeness[near].max())
        return {"way_back": min(1.0, excess / 0.2)} if excess > 0.05 else {}

    # ------------------------------------------------------------------------------------------- memory

    def remember(self, result: Mapping[str, Mapping[str, Observation]]) -> None:
        """Add what was found to the memories."""
        for camera, view in self.views.items():
            kept = {name: o for name, o in result[camera].items() if self._is_sure(o)}
            rows = {name: self._chosen[camera].get(name) for name in kept}
            described = [name for name in kept if rows[name] is None]
            looks = self.tracker.model.describe(view, [_mask(kept[n]) for n in described]) if described else None
            for name, observation in result[camera].items():
                memory = self.memories[name][camera]
                memory.visibility = observation.visibility or 0.0
                if name not in kept:
                    continue
                row = rows[name]
                if row is None:
                    if looks is None:
                        raise AssertionError("a mask that was given is described")
                    look = looks[described.index(name)]
                else:
                    look = view.looks[row]
                memory.bank.add(look, protected=observation.source == "given")
                memory.last = LastSeen(_mask(observation), self.summary(camera), self.tracker._step)

    def _is_sure(self, observation: Observation) -> bool:
        if observation.mask_rle is None or observation.mask_rle.is_empty or observation.visibility is None:
            return False
        if observation.source == "given":
            return True
        surety = float(np.exp(observation.alternatives[0][1]))
        return observation.visibility > self.config.remember_above and surety > self.config.sure_above


def _mask(observation: Observation) -> ObjectMask:
    if observation.mask_rle is None:
        raise AssertionError("only masks are remembered")
    return observation.mask_rle


def _overlapping(mask: ObjectMask, taken: Iterable[tuple[str, ObjectMask]], above: float) -> tuple[str, float] | None:
    """The first of the masks ``(H, W)`` that were taken which is this one, by their IoU."""
    for name, other in taken:
        overlap = float(box_iou(np.array([mask.box_xywh], float), np.array([other.box_xywh], float))[0, 0])
        if overlap > above / 2 and (value := iou(mask, other)) > above:
            return name, value
    return None
