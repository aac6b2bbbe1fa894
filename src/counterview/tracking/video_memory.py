"""Follow objects by SAM 2.1's video memory in each camera, and by a cross-view matcher between cameras.

In the camera where an object is shown, the mask conditions SAM 2.1's memory, which carries it on. In another camera the
object is matched first; the match conditions a memory there. It is matched anew every few seconds, and when SAM 2.1
loses it: in the query camera, too, from another camera that still shows it. Where a match and the propagated mask
differ, the surer one wins, and the doubt is recorded.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from counterview.errors import CounterviewError, InputError, ProposalError
from counterview.exchange.tracks import MaskSource
from counterview.guard import reason
from counterview.lmeec.preprocess import to_native_sizes
from counterview.lmeec.sam2_parts import Decoded, ImageFeatures
from counterview.masks.geometry import iou
from counterview.tracking.arrays import to_arrays, to_tensors
from counterview.tracking.base import UNKNOWN, Observation, Observations, Prompts
from counterview.tracking.checks import check_cameras, check_state, check_step, plain
from counterview.tracking.decision import Found, MaskChoice, Propagated, VideoMemorySettings, decide, is_lost
from counterview.tracking.sam2_memory import ConditioningFrame, ObjectMemory, VideoMemoryNetwork
from counterview.types import Match, ObjectMask, RgbImage

Encoded = TypeVar("Encoded")
Key = tuple[str, str]
"""Names of an object and a camera."""


class CrossViewMatcher(Protocol[Encoded]):
    """Finds objects of one image in another one; :class:`counterview.inference.ProposalMatcher` is one."""

    def settings(self) -> dict[str, Any]:
        """Everything that a match depends on beside images and masks, as plain values."""
        ...

    def encode(self, image: RgbImage) -> Encoded:
        """Compute what depends on one image ``(H, W, 3)`` uint8 alone, to be matched from and to."""
        ...

    def encode_query(self, image: RgbImage) -> Encoded:
        """Compute what depends on one image ``(H, W, 3)`` uint8 alone, to be matched from."""
        ...

    def match_encoded(
        self,
        query: Encoded,
        query_masks: Sequence[ObjectMask],
        target: Encoded,
        *,
        names: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Match]:
        """Find objects.

        Args:
            query: the encoded image that shows them.
            query_masks: their masks ``(H, W)`` there.
            target: the encoded image in which they are searched.
            names: of the objects.
            top_k: candidates listed in each match.

        Raises:
            ProposalError: the target image has no candidates.
        """
        ...


class VideoMemoryEngine(Generic[Encoded]):
    """An :class:`~counterview.tracking.base.Engine` by SAM 2.1's video memory and a cross-view matcher.

    An object is matched from the query camera where that shows it, else from the other camera that is surest of it.
    A mask that a user gives later is kept as a conditioning frame. If it lies elsewhere than what was followed since
    the last one, what was remembered in that camera is dropped first, and that in all cameras if it is the query
    camera.

    Args:
        cameras: names, the query camera first.
        network: SAM 2.1.
        matcher: finds objects across cameras.
        settings: when it is asked, and what counts as different.

    Attributes:
        cameras: as given.

    Raises:
        InputError: cameras without name or named twice.
    """

    name = "video-memory"

    def __init__(
        self,
        cameras: Sequence[str],
        network: VideoMemoryNetwork,
        matcher: CrossViewMatcher[Encoded],
        settings: VideoMemorySettings | None = None,
    ) -> None:
        self.cameras = check_cameras(cameras)
        self._network, self._matcher = network, matcher
        self._settings = settings or VideoMemorySettings()
        self._time_s: float | None = None
        self._index = -1
        self._names: dict[str, None] = {}
        self._memories: dict[Key, ObjectMemory] = {}
        self._matched_s: dict[Key, float] = {}  # when an object was last searched in a camera

    def settings(self) -> dict[str, Any]:
        """Name and settings of the engine, of SAM 2.1 and of the matcher."""
        return {
            "engine": self.name,
            **dataclasses.asdict(self._settings),
            "video_memory": self._network.settings(),
            **self._matcher.settings(),
        }

    def step(self, images: Mapping[str, RgbImage | None], time_s: float, prompts: Prompts) -> Observations:
        """Take the next images; see :meth:`counterview.tracking.base.Engine.step`.

        Args:
            images: ``(H, W, 3)`` uint8 by camera.
            time_s: on the query camera's clock, in seconds.
            prompts: objects that are shown, or corrected, at this time.

        Raises:
            InputError: times that do not ascend, an unknown camera, or a prompt for a camera without image.
            ImageError: not an image.
            MaskError: a mask of another size than its image, or an empty one.
        """
        there = check_step(self.cameras, images, time_s, self._time_s, prompts)
        self._time_s = float(time_s)
        self._index += 1
        self._names |= {name: None for masks in prompts.values() for name in masks}
        if not self._names:
            return {camera: {} for camera in self.cameras}
        features = {camera: self._network.encode(image) for camera, image in there.items()}
        propagated = self._propagate(features, there, prompts)
        decided: dict[Key, MaskChoice] = {}
        for camera, masks in prompts.items():
            for name, mask in masks.items():
                seen = Observation(mask, 0.0 if mask is None else 1.0, "given")
                decided[name, camera] = MaskChoice(seen, is_conditioning=mask is not None)
                if mask is not None:
                    self._forget_contradicted((name, camera), mask, propagated.get((name, camera)), prompts)
        propagated = {key: p for key, p in propagated.items() if key in self._memories and key not in decided}
        matched = self._match(there, propagated, prompts)
        for key in {**propagated, **matched}:
            carried: MaskSource = "followed" if key[1] == self.cameras[0] else "propagated"
            decided[key] = decide(propagated.get(key), matched.get(key), carried, self._settings)
        self._remember(features, propagated, decided)
        unknown = MaskChoice(UNKNOWN)
        return {c: {n: decided.get((n, c), unknown).observation for n in self._names} for c in self.cameras}

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs to go on, as plain values and numpy arrays."""
        tensors: dict[str, Tensor] = {}
        records = []
        for number, ((name, camera), memory) in enumerate(self._memories.items()):
            frames = []
            for i, frame in enumerate(memory.conditioning):
                tensors[f"{number}.conditioning.{i}.memory"] = frame.memory
                tensors[f"{number}.conditioning.{i}.pointer"] = frame.pointer
                frames.append({"step": frame.step, "is_given": frame.is_given})
            record: dict[str, Any] = {"object": name, "camera": camera, "conditioning": frames}
            for part, entries in (("recent", memory.recent), ("pointers", memory.pointers)):
                record[part] = [step for step, _ in entries]
                tensors |= {f"{number}.{part}.{i}": value for i, (_, value) in enumerate(entries)}
            records.append(record)
        return {
            "engine": self.name,
            "version": 1,
            "settings": plain(self.settings()),
            "cameras": list(self.cameras),
            "time_s": self._time_s,
            "index": self._index,
            "objects": list(self._names),
            "memories": records,
            "matched": [{"object": n, "camera": c, "time_s": t} for (n, c), t in self._matched_s.items()],
            "tensors": to_arrays(tensors),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: what :meth:`state` gave.

        Raises:
            InputError: a state of other settings or cameras, or a damaged one.
        """
        check_state(state, self.name, self.settings(), self.cameras)
        try:
            tensors = to_tensors(state["tensors"])
            memories = {
                (str(record["object"]), str(record["camera"])): self._memory(number, record, tensors)
                for number, record in enumerate(state["memories"])
            }
            matched = {(str(r["object"]), str(r["camera"])): float(r["time_s"]) for r in state["matched"]}
            names: dict[str, None] = {str(name): None for name in state["objects"]}
            time_s, index = state["time_s"], int(state["index"])
        except (CounterviewError, LookupError, TypeError, ValueError) as error:
            raise InputError("the state is damaged", found=reason(error)) from None
        self._memories, self._matched_s, self._names = memories, matched, names
        self._time_s, self._index = None if time_s is None else float(time_s), index

    # -- inside -------------------------------------------------------------------------------------------------

    def _memory(self, number: int, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ObjectMemory:
        cells, channels, device = self._network.cells, self._network.channels, self._network.device

        def tensor(name: str, *shape: int) -> Tensor:
            value = tensors[f"{number}.{name}"]
            if tuple(value.shape) != shape:
                raise InputError(f"{name} is not a memory", found=tuple(value.shape), expected=shape)
            return value.to(device)

        frames = [
            ConditioningFrame(
                int(frame["step"]),
                tensor(f"conditioning.{i}.memory", cells, 64),
                tensor(f"conditioning.{i}.pointer", channels),
                bool(frame["is_given"]),
            )
            for i, frame in enumerate(record["conditioning"])
        ]
        recent = deque((int(n), tensor(f"recent.{i}", cells, 64)) for i, n in enumerate(record["recent"]))
        pointers = deque((int(n), tensor(f"pointers.{i}", channels)) for i, n in enumerate(record["pointers"]))
        return ObjectMemory(frames, recent, pointers)

    def _propagate(
        self, features: Mapping[str, ImageFeatures], images: Mapping[str, RgbImage], prompts: Prompts
    ) -> dict[Key, Propagated]:
        """What SAM 2.1 says of all objects that are remembered in a camera with image, unless a user says no."""
        cameras = list(features)
        keys = [
            (name, camera)
            for name, camera in self._memories
            if camera in features and prompts.get(camera, {}).get(name, "") is not None
        ]
        found: dict[Key, Propagated] = {}
        rows = [cameras.index(camera) for _, camera in keys]
        memories = [self._memories[key] for key in keys]
        for group, decoded, memory in self._network.propagate(self._index, list(features.values()), rows, memories):
            sizes = [images[keys[i][1]].shape[:2] for i in group]
            for place, (i, (mask, visibility, predicted)) in enumerate(zip(group, _masks(decoded, sizes), strict=True)):
                found[keys[i]] = Propagated(mask, visibility, predicted, memory[place], decoded.pointer[place])
        return found

    def _forget_contradicted(self, key: Key, mask: ObjectMask, followed: Propagated | None, prompts: Prompts) -> None:
        """Drop memories that a user's mask ``(H, W)`` contradicts."""
        if followed is None or not followed.is_visible or self._memories[key].ends_as_given:
            return  # what is remembered may have been lost, but it is right
        if iou(mask, followed.mask_rle) >= self._settings.agreement_iou:
            return
        name, camera = key
        for other in self.cameras if camera == self.cameras[0] else (camera,):
            if other == camera or prompts.get(other, {}).get(name) is None:
                self._memories.pop((name, other), None)
                self._matched_s.pop((name, other), None)

    def _match(
        self, images: Mapping[str, RgbImage], propagated: Mapping[Key, Propagated], prompts: Prompts
    ) -> dict[Key, Found]:
        """Search objects in the cameras where it is time to."""
        due: dict[tuple[str, str], dict[str, ObjectMask]] = {}  # by query and target image
        for name in self._names:
            reference = self._reference(name, images, propagated, prompts)
            if reference is None:
                continue
            source, mask = reference
            for camera in images:
                if (
                    camera != source
                    and name not in prompts.get(camera, {})
                    and self._is_due((name, camera), propagated)
                ):
                    due.setdefault((source, camera), {})[name] = mask
        queries = {source: self._encode(images[source]) for source in dict.fromkeys(source for source, _ in due)}
        # With a way back, images are encoded alike on both sides.
        targets = dict(queries) if self._settings.way_back else {}
        found: dict[Key, Found] = {}
        for (source, camera), masks in due.items():
            self._matched_s |= {(name, camera): self._time_s or 0.0 for name in masks}
            if camera not in targets:
                targets[camera] = self._matcher.encode(images[camera])
            try:
                matches = self._matcher.match_encoded(
                    queries[source], list(masks.values()), targets[camera], names=list(masks), top_k=1
                )
            except ProposalError:
                continue
            for (name, mask), match in zip(masks.items(), matches, strict=True):
                result = Found(match)
                if self._settings.way_back and result.is_visible:
                    result = Found(match, self._way_back(queries[source], mask, targets[camera], match))
                found[name, camera] = result
        return found

    def _encode(self, image: RgbImage) -> Encoded:
        # The way back searches among the candidates of the query image.
        return self._matcher.encode(image) if self._settings.way_back else self._matcher.encode_query(image)

    def _way_back(self, query: Encoded, mask: ObjectMask, target: Encoded, match: Match) -> float:
        try:
            back = self._matcher.match_encoded(target, [match.mask_rle], query, names=[match.name], top_k=1)[0]
        except ProposalError:
            return 1.0
        return iou(mask, back.mask_rle)

    def _reference(
        self,
        name: str,
        images: Mapping[str, RgbImage],
        propagated: Mapping[Key, Propagated],
        prompts: Prompts,
    ) -> tuple[str, ObjectMask] | None:
        """The camera from which an object is matched now, and its mask there."""
        best: tuple[float, str, ObjectMask] | None = None
        for camera in images:
            given, followed = prompts.get(camera, {}).get(name), propagated.get((name, camera))
            if given is not None:
                sureness, mask = 1.0, given
            elif followed is not None and not is_lost(followed, self._settings):
                sureness, mask = followed.sureness, followed.mask_rle
            else:
                continue
            if camera == self.cameras[0]:
                return camera, mask
            if best is None or sureness > best[0]:
                best = sureness, camera, mask
        return None if best is None else best[1:]

    def _is_due(self, key: Key, propagated: Mapping[Key, Propagated]) -> bool:
        last, now = self._matched_s.get(key), self._time_s or 0.0
        followed = propagated.get(key)
        if followed is None or is_lost(followed, self._settings):
            return last is None or now - last >= self._settings.retry_s
        # The query camera has what the user showed, and is not checked by what was matched from it.
        return key[1] != self.cameras[0] and (last is None or now - last >= self._settings.rematch_s)

    def _remember(
        self,
        features: Mapping[str, ImageFeatures],
        propagated: Mapping[Key, Propagated],
        decided: Mapping[Key, MaskChoice],
    ) -> None:
        for camera, image in features.items():
            conditioning = {
                key: mask
                for key, decision in decided.items()
                if key[1] == camera and decision.is_conditioning and (mask := decision.observation.mask_rle) is not None
            }
            if not conditioning:
                continue
            memories, pointers = self._network.condition(image, [mask.to_array() for mask in conditioning.values()])
            for row, key in enumerate(conditioning):
                if decided[key].forgets:
                    self._memories.pop(key, None)
                is_given = decided[key].observation.source == "given"
                frame = ConditioningFrame(self._index, memories[row].clone(), pointers[row].clone(), is_given)
                self._memories.setdefault(key, ObjectMemory()).condition(frame, self._network.max_conditioning)
        for key, followed in propagated.items():
            if decided[key].remembers:
                self._network.remember(self._memories[key], self._index, followed.memory, followed.pointer)


def _masks(decoded: Decoded, sizes: Sequence[tuple[int, int]]) -> list[tuple[ObjectMask, float, float]]:
    """Masks of the given sizes ``(H, W)``, with visibility and predicted IoU."""
    logits = decoded.best_logits.float()
    visibility, ious = torch.sigmoid(decoded.score).tolist(), decoded.best_iou.clamp(0, 1).tolist()
    masks = [ObjectMask.from_array(mask) for mask in to_native_sizes(logits, sizes)]
    return list(zip(masks, visibility, ious, strict=True))
