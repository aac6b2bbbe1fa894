"""Follow objects by LM-EEC: one network for the object's own camera and for the other cameras.

LM-EEC needs the query mask at every frame, and a user shows an object once. So the query camera is its own target
first: the query view is the last frame of that camera in which the object was seen, the target the frame of now. The
mask found there is the query mask for the other cameras. Each object has two banks for each camera; all objects go
through the network as one batch, and an image is encoded once.

The paper has none of this: it is given the query masks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterview.config import to_dict
from counterview.errors import CounterviewError, InputError
from counterview.guard import reason
from counterview.lmeec.frame import SessionImage
from counterview.lmeec.memory import TrackMemory, remember
from counterview.lmeec.model import LMEEC
from counterview.lmeec.preprocess import to_native, to_native_sizes, to_square
from counterview.lmeec.sam2_parts import Decoded
from counterview.lmeec.session_file import SavedSession, TrackKey, track_records
from counterview.lmeec.track_step import QueryView, TrackPredictor
from counterview.masks.geometry import iou
from counterview.tracking.arrays import to_arrays, to_tensors
from counterview.tracking.base import UNKNOWN, Observation, Observations, Prompts
from counterview.tracking.checks import check_cameras, check_state, check_step, plain
from counterview.types import ObjectMask, RgbImage

AGREEMENT_IOU = 0.5
"""A correction with a lower IoU with what was followed makes the engine forget what it remembered."""

LOW_IOU = 0.5
"""Masks of which the network predicts a lower IoU are doubtful."""


@dataclass
class _ShownObject:
    """An object, as it was seen last.

    Attributes:
        view: how the network is shown it; ``None`` before its first mask.
        number: ascends from view to view: twice the step, plus one if it is of the query camera.
        image: ``(S, S, 3)`` uint8 of the view, from which :attr:`QueryView.extra` can be made again; ``None`` for
            models without.
    """

    view: QueryView | None = None
    number: int = -1
    image: RgbImage | None = None


class LMEECEngine:
    """An :class:`~counterview.tracking.base.Engine` by LM-EEC or tiny-follow.

    A mask in any camera makes an object known; in the query camera it is searched from there. A mask that comes later
    is remembered as it is. If it lies elsewhere (IoU below 0.5) than what was followed since the last one, the memory
    of the object in that camera is dropped first, and that in all cameras if it is the query camera.

    Args:
        cameras: names, the query camera first.
        model: LM-EEC or tiny-follow; it is put in eval mode.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.
        source: the name that the model was loaded by, for the settings.

    Attributes:
        cameras: as given.

    Raises:
        InputError: cameras without name or named twice, or another precision.
    """

    name = "lmeec"

    def __init__(
        self, cameras: Sequence[str], model: LMEEC, *, autocast: torch.dtype | None = None, source: str = ""
    ) -> None:
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise InputError("autocast is torch.bfloat16, torch.float16 or None", found=autocast)
        self.cameras = check_cameras(cameras)
        self.source = source
        self._model = model.eval()
        self._predictor = TrackPredictor(self._model, autocast)
        self._fingerprint: str | None = None
        self._time_s: float | None = None
        self._index = -1
        self._objects: dict[str, _ShownObject] = {}
        self._tracks: dict[TrackKey, TrackMemory] = {}
        self._banked: dict[TrackKey, int] = {}  # number of the view that a track's query bank holds last
        self._ends_as_given: dict[TrackKey, bool] = {}  # whether the newest mask of a track is a user's

    def settings(self) -> dict[str, Any]:
        """Name, source, configuration and precision, and a hash of the weights."""
        if self._fingerprint is None:
            self._fingerprint = self._model.fingerprint()[:16]
        autocast = self._predictor.autocast
        return {
            "engine": self.name,
            "model": self._model.method,
            "source": self.source,
            "weights": self._fingerprint,
            "config": to_dict(self._model.config),
            "autocast": None if autocast is None else str(autocast).removeprefix("torch."),
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
        for masks in prompts.values():
            for name in masks:
                self._objects.setdefault(name, _ShownObject())
        if not self._objects:
            return {camera: {} for camera in self.cameras}
        squares = {camera: to_square(image, self._model.config.image_size) for camera, image in there.items()}
        # One by one: what is made of an image does not depend on which cameras have one.
        encoded = {
            camera: replace(self._predictor.encode([square])[0], size_hw=there[camera].shape[:2])
            for camera, square in squares.items()
        }
        given: dict[TrackKey, QueryView] = {}
        for camera, masks in prompts.items():
            arrays = {name: mask.to_array() for name, mask in masks.items() if mask is not None}
            views = self._predictor.views(encoded[camera], arrays) if arrays else {}
            given |= {(name, camera): view for name, view in views.items()}
        self._forget_contradicted(given, prompts, encoded)
        query, *targets = self.cameras
        for (name, camera), view in given.items():
            # A mask of the query camera says more than any view; one of a target where there is none yet.
            if camera == query or self._objects[name].view is None:
                self._show(name, view, squares[camera], camera)
        found = self._observe([query], given, prompts, encoded)
        if query in encoded:
            masks_seen = {
                name: mask
                for (name, _), observation in found.items()
                if observation.source != "given" and (mask := observation.mask) is not None
            }
            for name, view in self._predictor.views(encoded[query], masks_seen).items():
                self._show(name, view, squares[query], query)
        found |= self._observe(targets, given, prompts, encoded)
        return {c: {name: found.get((name, c), UNKNOWN) for name in self._objects} for c in self.cameras}

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs to go on, as plain values and numpy arrays."""
        records, tensors = track_records(self._tracks)
        for record, key in zip(records, self._tracks, strict=True):
            record["banked"], record["ends_as_given"] = self._banked[key], self._ends_as_given[key]
        arrays: dict[str, Any] = {}
        objects = []
        names_of: dict[int, str] = {}
        for number, (name, item) in enumerate(self._objects.items()):
            image = None
            if item.view is not None:
                tensors[f"view.{number}.memory"], tensors[f"view.{number}.mask"] = item.view.memory, item.view.mask
            if item.image is not None:
                image = names_of.setdefault(id(item.image), f"image.{len(names_of)}")
                arrays[image] = item.image
            objects.append({"name": name, "number": item.number, "image": image, "shown": item.view is not None})
        return {
            "engine": self.name,
            "version": 1,
            "settings": plain(self.settings()),
            "cameras": list(self.cameras),
            "time_s": self._time_s,
            "index": self._index,
            "objects": objects,
            "tracks": records,
            "images": arrays,
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
        config, device = self._model.config, self._model.device
        try:
            tensors = to_tensors(state["tensors"])
            saved = SavedSession(Path("state"), {"tracks": state["tracks"]}, tensors)
            tracks = saved.tracks(self._predictor.new_track, config.grid**2, config.channels, device)
            banked = {(r["object"], r["camera"]): int(r["banked"]) for r in state["tracks"]}
            as_given = {(r["object"], r["camera"]): bool(r["ends_as_given"]) for r in state["tracks"]}
            images = {name: np.array(image) for name, image in state["images"].items()}
            extras = {name: self._predictor.encode([image])[0].features.extra for name, image in images.items()}
            objects: dict[str, _ShownObject] = {}
            for number, item in enumerate(state["objects"]):
                shown, image = _ShownObject(number=int(item["number"])), item["image"]
                if item["shown"]:
                    memory, mask = (tensors[f"view.{number}.{part}"].to(device) for part in ("memory", "mask"))
                    shown.view = QueryView(memory, mask, extras.get(image))
                    shown.image = images.get(image)
                objects[str(item["name"])] = shown
            time_s, index = state["time_s"], int(state["index"])
        except (CounterviewError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError("the state is damaged", found=reason(error)) from None
        self._tracks, self._banked, self._ends_as_given, self._objects = tracks, banked, as_given, objects
        self._time_s, self._index = None if time_s is None else float(time_s), index

    # -- inside -------------------------------------------------------------------------------------------------

    def _show(self, name: str, view: QueryView, square: RgbImage, camera: str) -> None:
        number = 2 * self._index + (camera == self.cameras[0])
        self._objects[name] = _ShownObject(view, number, None if view.extra is None else square)

    def _forget_contradicted(
        self, given: Collection[TrackKey], prompts: Prompts, encoded: Mapping[str, SessionImage]
    ) -> None:
        """Drop memories that a user's masks ``(H, W)`` contradict."""
        keys = [key for key in given if key in self._tracks and not self._ends_as_given[key]]
        steps = [self._predictor.at(self._index, key, self._tracks[key], self._objects[key[0]].view) for key in keys]
        for group, decoded, _ in self._predictor.predict(steps, encoded):
            logits = decoded.logits.float()
            for row, item in enumerate(group):
                name, camera = item.key
                truth = prompts[camera][name]
                followed = ObjectMask.from_array(to_native(logits[row], encoded[camera].size_hw))
                if truth is None or followed.is_empty or iou(truth, followed) >= AGREEMENT_IOU:
                    continue  # lost is not wrong
                for key in [k for k in self._tracks if k == item.key or (camera == self.cameras[0] and k[0] == name)]:
                    if key == item.key or key not in given:
                        del self._tracks[key], self._banked[key]

    def _observe(
        self,
        cameras: Sequence[str],
        given: Mapping[TrackKey, QueryView],
        prompts: Prompts,
        encoded: Mapping[str, SessionImage],
    ) -> dict[TrackKey, Observation]:
        """Find and remember all objects in some of the cameras."""
        found: dict[TrackKey, Observation] = {}
        steps = []
        for camera in cameras:
            for name, item in self._objects.items():
                if camera not in encoded:
                    continue
                if prompts.get(camera, {}).get(name, item) is None:
                    found[name, camera] = Observation(None, 0.0, "given")
                elif item.view is not None:
                    key = name, camera
                    track = self._tracks.get(key) or self._predictor.new_track()
                    steps.append(self._predictor.at(self._index, key, track, given.get(key, item.view)))
        for group, decoded, memory in self._predictor.predict(steps, encoded):
            observed = self._observations([step.key for step in group], decoded, encoded)
            shown, seen = [], []
            for row, step in enumerate(group):
                name, camera = step.key
                view, truth = given.get(step.key), prompts.get(camera, {}).get(name)
                item = self._objects[name]
                is_new = item.number > self._banked.get(step.key, -1)
                shown.append(item.view.memory if is_new and item.view is not None else None)
                seen.append(memory[row] if view is None else view.memory)
                self._tracks[step.key], self._banked[step.key] = step.track, item.number
                self._ends_as_given[step.key] = view is not None
                found[step.key] = observed[row] if truth is None else Observation(truth, 1.0, "given")
            remember([step.track for step in group], self._index, shown, seen, list(decoded.pointer))
        return found

    def _observations(
        self, keys: Sequence[TrackKey], decoded: Decoded, encoded: Mapping[str, SessionImage]
    ) -> list[Observation]:
        """What the N decoded masks say of the tracks of ``keys``."""
        sizes = [encoded[camera].size_hw for _, camera in keys]
        masks = [ObjectMask.from_array(mask) for mask in to_native_sizes(decoded.best_logits.float(), sizes)]
        present, ious = torch.stack([(decoded.score > 0).float(), decoded.best_iou.float().clamp(0, 1)]).tolist()
        areas = [
            mask.area / (mask.size_hw[0] * mask.size_hw[1]) if visible else 0.0
            for mask, visible in zip(masks, present, strict=True)
        ]
        area_fraction: Tensor = torch.tensor(areas, device=decoded.score.device)
        with torch.inference_mode():
            visibility = self._model.visibility(decoded.score, area_fraction).float().tolist()
        result = []
        for (name, camera), mask, visible, predicted in zip(keys, masks, visibility, ious, strict=True):
            # In another camera it is found by the query's present frame, or else by what is remembered.
            is_matched = camera != self.cameras[0] and self._objects[name].number == 2 * self._index + 1
            doubts = {"low_score": 1 - predicted / LOW_IOU} if visible > 0.5 and predicted < LOW_IOU else {}
            result.append(
                Observation(
                    None if mask.is_empty else mask,
                    min(visible, 0.5) if mask.is_empty else visible,
                    "matched" if is_matched else "followed",
                    doubts=doubts,
                )
            )
        return result
