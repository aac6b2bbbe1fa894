"""Following objects through a clip, one frame at a time, with nothing kept but the memory banks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterview.errors import ImageError, InputError
from counterview.lmeec.memory import MemoryBank, PointerBank
from counterview.lmeec.model import NO_OBJECT_LOGIT, Decoded, ImageFeatures
from counterview.lmeec.preprocess import as_mask, to_native, to_pixels, to_query_mask
from counterview.tiny.appearance import FineMaps
from counterview.types import BoolImage, ObjectMask, RgbImage, View, as_rgb

if TYPE_CHECKING:
    from counterview.lmeec.model import LMEEC

ONLY_CAMERA = ""
"""Name under which the camera is kept where the target is given as an image alone."""


@dataclass(frozen=True)
class EncodedView:
    """An image that the image encoder has seen, for use in several sessions. See :meth:`Session.encode`.

    Attributes:
        features: maps of one image.
        size_hw: height and width of the image in pixels.
        image_size: side of the square that it was stretched to.
    """

    features: ImageFeatures
    size_hw: tuple[int, int]
    image_size: int


@dataclass(frozen=True)
class FrameResult:
    """One object in one target image.

    Attributes:
        mask_rle: the mask at the size of the target image; empty where the object is not seen.
        low_res_logits: ``(size / 4, size / 4)`` float32 mask logits; all -1024 where the object is not seen.
        object_score: logit of the object's presence; ``None`` if the frame was passed over for this object.
        visibility: probability that the object can be seen, in 0..1.
        predicted_iou: the model's estimate of the mask's IoU; ``None`` if passed over.
    """

    mask_rle: ObjectMask
    low_res_logits: NDArray[np.float32]
    object_score: float | None
    visibility: float
    predicted_iou: float | None

    @property
    def mask(self) -> BoolImage:
        """``(H, W)`` bool at the size of the target image."""
        return self.mask_rle.to_array()

    @property
    def passed_over(self) -> bool:
        """Whether nothing was predicted: the object has not been shown yet, or had no query mask."""
        return self.object_score is None


@dataclass
class Track:
    """Memory of one object in one target camera."""

    query: MemoryBank
    target: MemoryBank
    pointers: PointerBank
    last: int = field(default=-1)


ImageInput = RgbImage | View | EncodedView


class Session:
    """One clip: objects shown in the query view at (nearly) every frame are found in one or more target views.

    Args:
        model: in eval mode.
        frames: number of frames of the clip, where known. The position of object pointers depends on it, in clips
            shorter than ``config.max_pointers``.
        stride: distance of neighbouring frame numbers, for instance 30 for Ego-Exo4D's annotations.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.

    Memory does not grow with the clip. Objects may begin late, vanish and return; so may cameras. A frame that
    cannot be decoded is simply left out: the next call's ``frame`` tells that there was a gap.

    Raises:
        InputError: a length, stride or precision that is none.
    """

    def __init__(
        self, model: LMEEC, frames: int | None = None, stride: int = 1, autocast: torch.dtype | None = None
    ) -> None:
        for name, value in (("frames", frames), ("stride", stride)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name} is a whole number from 1", found=repr(value))
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise InputError("autocast is torch.bfloat16, torch.float16 or None", found=autocast)
        self.model = model
        self.frames = frames
        self.stride = stride
        self.autocast = autocast
        self.frame: int | None = None  # number of the last frame
        self.start: int | None = None  # number of the first
        self.tracks: dict[tuple[str, str], Track] = {}

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects seen so far, in the order of their first appearance."""
        return tuple(dict.fromkeys(name for name, _ in self.tracks))

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the target cameras seen so far."""
        return tuple(dict.fromkeys(camera for _, camera in self.tracks))

    def encode(self, images: Sequence[ImageInput]) -> list[EncodedView]:
        """Run the image encoder over images, so that several sessions of one model can share the result.

        Use it to go in both directions: encode the two images of a frame once, give them to both sessions.
        """
        size = self.model.config.image_size
        views: list[EncodedView | None] = [v if isinstance(v, EncodedView) else None for v in images]
        raw = [i for i, v in enumerate(views) if v is None]
        arrays = {i: _array(images[i]) for i in raw}
        for view in views:
            if view is not None and view.image_size != size:
                raise ImageError("the encoded image is of another model", found=view.image_size, expected=size)
        if raw:
            pixels = torch.stack([to_pixels(arrays[i], size) for i in raw]).to(self.model.device)
            with torch.inference_mode(), self._precision():
                features = self.model.encode_images(pixels)
            for row, i in enumerate(raw):
                one = features.pick([row])
                views[i] = EncodedView(one, (arrays[i].shape[0], arrays[i].shape[1]), size)
        return [v for v in views if v is not None]

    def step(
        self,
        query_image: ImageInput,
        query_masks: Mapping[str, BoolImage | ObjectMask | None],
        target_image: ImageInput | Mapping[str, ImageInput],
        frame: int | None = None,
        pairs: Collection[tuple[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Predict one frame, and remember it.

        Args:
            query_image: ``(H, W, 3)`` uint8, or encoded.
            query_masks: by object name, ``(H, W)`` bool of the query image's size. ``None`` or an empty mask: the
                object is not shown in this frame. It is then predicted from memory, or passed over
                (``config.without_query``). Objects left out of the mapping are not predicted; their memory stays.
            target_image: one image, or several by the name of their camera. Sizes may differ.
            frame: frame number; the last one plus ``stride`` if not given.
            pairs: with several cameras, the pairs of object and camera to be predicted; all of them if not given.

        Returns:
            by object name a :class:`FrameResult`; with several cameras, by object name and camera.

        Raises:
            InputError: what was given does not fit (:class:`~counterview.errors.ImageError` for images,
                :class:`~counterview.errors.MaskError` for masks). The session is then as it was before the call.
        """
        number, index = self._number(frame)
        several = isinstance(target_image, Mapping)
        cameras: dict[str, ImageInput] = (
            dict(target_image) if isinstance(target_image, Mapping) else {ONLY_CAMERA: target_image}
        )
        if not cameras:
            raise InputError("no target image was given", fix="Leave the frame out, or give at least one camera.")
        for what in (*cameras, *query_masks):
            if not isinstance(what, str):
                raise InputError("names of objects and cameras are texts", found=repr(what))
        size_hw = _size(query_image)
        checked = {name: as_mask(mask, size_hw, name) for name, mask in query_masks.items()}
        for image in cameras.values():
            _size(image)
        wanted = [
            (name, camera)
            for name, mask in checked.items()
            for camera in cameras
            if (pairs is None or (name, camera) in pairs)
            and (mask is not None or ((name, camera) in self.tracks and self.model.config.without_query == "track"))
        ]
        sizes = {camera: _size(image) for camera, image in cameras.items()}
        answers: dict[tuple[str, str], FrameResult] = {}
        if wanted:
            with torch.inference_mode(), self._precision():
                answers = self._predict(index, query_image, checked, cameras, sizes, wanted)
        self.frame = number
        if self.start is None:
            self.start = number
        results: dict[str, Any] = {}
        for name in checked:
            by_camera = {c: answers.get((name, c)) or self._passed_over(sizes[c]) for c in cameras}
            results[name] = by_camera if several else by_camera[ONLY_CAMERA]
        return results

    def forget(self, name: str) -> None:
        """Drop all memory of an object. It may be shown again later, as a new one."""
        self.tracks = {key: track for key, track in self.tracks.items() if key[0] != name}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to one ``.safetensors`` file; :meth:`load` goes on from there."""
        from counterview.lmeec.session_file import save_session

        save_session(self, path)

    @classmethod
    def load(cls, model: LMEEC, path: str | os.PathLike[str]) -> Session:
        """A saved session, to be continued by the model that made it.

        Raises:
            CheckpointError: no saved session, a damaged one, or one of another model.
        """
        from counterview.lmeec.session_file import load_session

        return load_session(model, path)

    # -- inside -------------------------------------------------------------------------------------------------

    def _number(self, frame: int | None) -> tuple[int, int]:
        """The frame's number, and its index counted in strides from the first."""
        if frame is None:
            number = 0 if self.frame is None else self.frame + self.stride
        elif isinstance(frame, bool) or not isinstance(frame, (int, np.integer)) or frame < 0:
            raise InputError("a frame number is a whole number from 0", found=repr(frame))
        else:
            number = int(frame)
        if self.frame is not None and number <= self.frame:
            raise InputError(
                "frames go forward", found=f"frame {number} after frame {self.frame}", fix="Begin a new session."
            )
        start = number if self.start is None else self.start
        if (number - start) % self.stride:
            raise InputError(
                f"frame {number} is not on the session's grid",
                found=f"{number - start} after the first frame",
                expected=f"a multiple of the stride, {self.stride}",
            )
        index = (number - start) // self.stride
        if self.frames is not None and index >= self.frames:
            raise InputError(
                f"the session was begun for {self.frames} frames", found=f"frame {number}, the {index + 1}th"
            )
        return number, index

    def _precision(self) -> Any:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.autocast)

    def _predict(
        self,
        index: int,
        query_image: ImageInput,
        masks: Mapping[str, BoolImage | None],
        cameras: Mapping[str, ImageInput],
        sizes: Mapping[str, tuple[int, int]],
        wanted: Sequence[tuple[str, str]],
    ) -> dict[tuple[str, str], FrameResult]:
        model = self.model
        shown = [name for name, mask in masks.items() if mask is not None]
        needed = [camera for camera in cameras if any(c == camera for _, c in wanted)]
        views = self.encode([cameras[c] for c in needed] + ([query_image] if shown else []))
        query_memory: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        if shown:
            side = model.config.image_size
            stack = torch.stack([to_query_mask(masks[n], side) for n in shown]).to(model.device)  # type: ignore[arg-type]
            tops = views[-1].features.top.expand(len(shown), -1, -1, -1)
            memory = model.encode_memory(tops, model.query_logits(stack))
            query_memory = dict(zip(shown, memory, strict=True))
            squares = dict(zip(shown, stack, strict=True))
        targets = dict(zip(needed, views, strict=False))

        groups: dict[Hashable, list[_Item]] = {}
        for key in wanted:
            item = self._item(key, index, query_memory.get(key[0]))
            groups.setdefault(item.shape, []).append(item)
        answers: dict[tuple[str, str], FrameResult] = {}
        looks = {camera: model.look(view.features.top) for camera, view in targets.items()}
        if not groups:
            return answers
        images = ImageFeatures.join([view.features for view in targets.values()])
        for group in groups.values():
            features = images.pick([needed.index(item.key[1]) for item in group])
            seen = [look for item in group if (look := looks[item.key[1]]) is not None]
            fine = views[-1].features.fine if shown else None
            decoded = self._decode_group(group, features, torch.cat(seen) if seen else None, squares, fine)
            memory = model.encode_memory(features.top, decoded.logits, decoded.score)
            for row, item in enumerate(group):
                self._remember(item, index, memory[row], decoded.pointer[row])
            answers.update(self._results(group, decoded, sizes))
        return answers

    def _item(self, key: tuple[str, str], index: int, query_memory: Tensor | None) -> _Item:
        track = self.tracks.get(key) or self._new_track()
        query, target = track.query.read(index), track.target.read(index)
        distances, pointers = track.pointers.read(index)
        return _Item(key, track, query_memory, query, target, distances, pointers)

    def _new_track(self) -> Track:
        config = self.model.config
        banks = [
            MemoryBank(config.bank_size, config.compression, config.key_frames, config.gaps)  # type: ignore[arg-type]
            for _ in range(2)
        ]
        return Track(banks[0], banks[1], PointerBank(self._pointer_reach()))

    def _pointer_reach(self) -> int:
        most = self.model.config.max_pointers
        return most if self.frames is None else min(self.frames, most)

    def _decode_group(
        self,
        group: Sequence[_Item],
        images: ImageFeatures,
        look: Tensor | None,
        squares: Mapping[str, Tensor],
        query_fine: FineMaps | None,
    ) -> Decoded:
        model, first = self.model, group[0]
        view = None
        shown = first.query_memory is not None
        # Without the cross-view prompt the query's first frame still has to say which object is meant.
        if shown and (model.config.cross_view_prompt or not (first.query or first.target)):
            view = model.view_features(images.top, torch.stack([i.query_memory for i in group]), look)  # type: ignore[misc]
        pointers = distances = None
        if first.pointers:
            pointers = torch.stack([torch.stack(i.pointers) for i in group])
            distances = torch.tensor([i.distances for i in group], device=pointers.device)
        memory = model.memory_features(
            images.top,
            [torch.stack(entries) for entries in zip(*(i.query for i in group), strict=True)],
            [torch.stack(entries) for entries in zip(*(i.target for i in group), strict=True)],
            pointers,
            distances,
            self._pointer_reach() - 1,
            look,
        )
        feature = model.fuse(memory, view, images.top)
        masks = torch.stack([squares[i.key[0]] for i in group]) if shown else None
        fine = query_fine.pick([0] * len(group)) if shown and query_fine is not None else None
        return model.decode(feature, images, masks, fine)

    def _remember(self, item: _Item, index: int, memory: Tensor, pointer: Tensor) -> None:
        track = item.track
        if item.query_memory is not None:
            track.query.add(index, item.query_memory)
        # Clones, or one object's memory would keep the whole batch alive.
        track.target.add(index, memory.clone())
        track.pointers.add(index, pointer.clone())
        track.last = index
        self.tracks[item.key] = track

    def _results(
        self, group: Sequence[_Item], decoded: Decoded, sizes: Mapping[str, tuple[int, int]]
    ) -> dict[tuple[str, str], FrameResult]:
        logits = decoded.logits.float()
        masks = [to_native(logits[row], sizes[item.key[1]]) for row, item in enumerate(group)]
        areas = torch.tensor([float(m.mean()) for m in masks], device=decoded.score.device)
        visibility = self.model.visibility(decoded.score, areas).float().tolist()
        scores = decoded.score.float().tolist()
        ious = decoded.ious.gather(1, decoded.best[:, None])[:, 0].float().tolist()
        low = logits.cpu().numpy()
        return {
            item.key: FrameResult(
                ObjectMask.from_array(masks[row]), low[row].copy(), scores[row], visibility[row], ious[row]
            )
            for row, item in enumerate(group)
        }

    def _passed_over(self, size_hw: tuple[int, int]) -> FrameResult:
        side = 4 * self.model.config.grid
        logits = np.full((side, side), NO_OBJECT_LOGIT, dtype=np.float32)
        return FrameResult(ObjectMask.empty(size_hw), logits, None, 0.0, None)


@dataclass
class _Item:
    """A track with what it attends to in this frame."""

    key: tuple[str, str]
    track: Track
    query_memory: Tensor | None
    query: list[Tensor]
    target: list[Tensor]
    distances: list[int]
    pointers: list[Tensor]

    @property
    def shape(self) -> Hashable:
        """Tracks of one shape go through the attention as one batch."""
        return self.query_memory is None, len(self.query), len(self.target), len(self.pointers)


def _array(image: ImageInput) -> RgbImage:
    if isinstance(image, EncodedView):  # callers have sorted these out
        raise ImageError("the image is encoded already")
    return as_rgb(image.image if isinstance(image, View) else image)


def _size(image: ImageInput) -> tuple[int, int]:
    if isinstance(image, EncodedView):
        return image.size_hw
    array = _array(image)
    return array.shape[0], array.shape[1]
