"""One step of the tracker: evidence for every object in every camera, and who gets which candidate. Ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.geometry.homography import Homography
from counterview.masks.geometry import box_iou, iou
from counterview.tracking.base import Observation, Prompts
from counterview.tracking.evidence import CrossMatch, Evidence, Remembered, evidence
from counterview.tracking.object_memory import LastSeen, Memories
from counterview.tracking.place import ViewSummary, camera_motion, expected_place
from counterview.tracking.tracker_config import TrackerConfig
from counterview.tracking.views import CrossViewModel, EncodedView
from counterview.tracking.weighing import EvidenceWeighing
from counterview.types import ObjectMask

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


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


class Scene:
    """The images of all cameras at one time.

    Args:
        model: matches across cameras.
        weighing: weighs the evidence.
        config: what is used.
        cameras: names, the query camera first.
        memories: of every object; :meth:`remember` adds to them.
        views: the encoded images of the cameras that have one.
        prompts: what the user says of this time.
        step: number of the step.
        recorder: told of every decision.
    """

    def __init__(
        self,
        model: CrossViewModel[Any],
        weighing: EvidenceWeighing,
        config: TrackerConfig,
        cameras: Sequence[str],
        memories: Memories,
        views: Mapping[str, EncodedView[Any]],
        prompts: Prompts,
        step: int,
        recorder: Recorder | None = None,
    ) -> None:
        self.model, self.weighing, self.config, self.cameras = model, weighing, config, cameras
        self.memories, self.views, self.prompts, self.step = memories, views, prompts, step
        self._recorder = recorder
        self._summaries: dict[str, ViewSummary] = {}
        self._motions: dict[tuple[str, int], Homography | None] = {}
        self._bank_similarity: dict[tuple[str, str, str], F32] = {}
        self._chosen: dict[str, dict[str, int]] = {}
        self._decisions: dict[str, dict[str, Decision]] = {}
        self.first = {camera: self._decide(camera, {}) for camera in cameras if camera in views}

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
        if self._recorder is not None:
            for name, decision in known.items():
                self._recorder(camera, name, decision, self.views[camera])
        chosen, shared = self._compete(camera, known)
        self._chosen[camera], self._decisions[camera] = chosen, known
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

    def chosen(self, camera: str, name: str) -> tuple[int, Decision] | None:
        """The row of an object's candidate in a camera that was observed, and its scores; ``None`` without any."""
        decision = self._decisions[camera].get(name)
        return None if decision is None else (self._chosen[camera][name], decision)

    # ------------------------------------------------------------------------------------------ evidence

    def _source(self, name: str, camera: str) -> tuple[str, ObjectMask] | None:
        """The camera from which an object is matched into another one now, with its mask there."""
        best: tuple[float, str, ObjectMask] | None = None
        own = self.first[camera].get(name) if camera in self.first else None
        for other in self.cameras:
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
            rank = decision.visibility + (1.0 if other == self.cameras[0] else 0.0)
            if best is None or rank > best[0]:
                best = rank, other, self.views[other].masks[row]
        if best is None:
            return None
        if camera == self.cameras[0] and own is not None and own.visibility > 0.5:
            return None  # followed well enough in its own camera, whose mask all others are matched from
        return best[1], best[2]

    def _crosses(self, camera: str, sources: Mapping[str, tuple[str, ObjectMask] | None]) -> dict[str, CrossMatch]:
        """Matches from other cameras, those from one camera together."""
        view = self.views[camera]
        found: dict[str, CrossMatch] = {}
        if not len(view.masks):
            return found
        for other in self.cameras:
            names = [name for name, source in sources.items() if source is not None and source[0] == other]
            if not names:
                continue
            masks = [source[1] for name in names if (source := sources[name]) is not None]
            compared = self.model.compare(self.views[other], masks, view)
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
        log_probability, logits = self.weighing.weigh(np.stack(tables))
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
        others = [c for c in self.cameras if c != camera] if config.other_memory else []
        other = [self._similarity(c, name, camera) for c in others]
        own = self._similarity(camera, name, camera) if config.own_memory else nothing
        place, last_mask, area = None, None, 1.0
        if config.place and memory.last is not None:
            motion = self.motion(camera, memory.last.summary)
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
            0 if memory.last is None else self.step - memory.last.step,
            memory.visibility,
        )

    def motion(self, camera: str, earlier: ViewSummary) -> Homography | None:
        """How a camera moved since an earlier image; found once a step for each of them."""
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
            looks = self.model.describe(view, [_mask(kept[n]) for n in described]) if described else None
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
                memory.last = LastSeen(_mask(observation), self.summary(camera), self.step)

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
