"""Following objects through a clip, one frame at a time, with nothing kept but the memory banks."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from counterview.config import to_dict
from counterview.errors import CheckpointError, ImageError, InputError
from counterview.lmeec.clip_session import ClipSession
from counterview.lmeec.frame import AnyImage, FrameResult, SessionImage, image_array, image_size_hw, loaded
from counterview.lmeec.memory import remember
from counterview.lmeec.network import LMEECNetwork
from counterview.lmeec.preprocess import as_mask, to_native_sizes
from counterview.lmeec.sam2_parts import NO_OBJECT_LOGIT, Decoded
from counterview.lmeec.session_file import TrackKey, read_session, write_session
from counterview.lmeec.track_step import TrackStep
from counterview.types import BoolImage, ObjectMask, RgbImage

ONLY_CAMERA = ""
"""Name under which the camera is kept where the target is one image and no mapping."""


class Session(ClipSession):
    """One clip: objects shown in the query view at (nearly) every frame are found in one or more target views.

    Args:
        model: an LM-EEC, in eval mode.
        frames: number of frames of the clip, if it is known. The position of object pointers depends on it, in clips
            shorter than ``config.max_pointers``.
        stride: distance of neighbouring frame numbers, for instance 30 for Ego-Exo4D's annotations.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.

    Memory does not grow with the clip. Objects may begin late, vanish and return; so may cameras. A frame that
    cannot be decoded is left out: the ``frame`` of the next call shows the gap.

    Attributes:
        frame: number of the last frame; ``None`` before the first.
        start: number of the first frame.
        tracks: memory of each object in each target camera, by both names.

    Raises:
        InputError: a length, stride or precision that a session cannot have.
    """

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the target cameras so far."""
        return tuple(dict.fromkeys(camera for _, camera in self.tracks))

    def encode(self, images: Sequence[AnyImage]) -> list[SessionImage]:
        """Run the image encoder over images, so that several sessions of one model can share the result.

        To go in both directions, encode the two images of a frame once and pass them to both sessions.

        Args:
            images: ``(H, W, 3)`` uint8 each, of any sizes, or what else :data:`counterview.media.inputs.ImageInput`
                has; encoded ones stay as they are.

        Raises:
            ImageError: not such an image, or one that another model encoded.
        """
        size = self.model.config.image_size
        arrays = {i: image_array(image) for i, image in enumerate(images) if not isinstance(image, SessionImage)}
        for image in images:
            if isinstance(image, SessionImage) and image.image_size != size:
                raise ImageError("the encoded image is of another model", found=image.image_size, expected=size)
        encoded = dict(zip(arrays, self._predictor.encode(list(arrays.values())), strict=True)) if arrays else {}
        return [image if isinstance(image, SessionImage) else encoded[i] for i, image in enumerate(images)]

    def step(
        self,
        query_image: AnyImage,
        query_masks: Mapping[str, BoolImage | ObjectMask | None],
        target_image: AnyImage | Mapping[str, AnyImage],
        frame: int | None = None,
        pairs: Collection[tuple[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Predict one frame, and remember it.

        Args:
            query_image: ``(H, W, 3)`` uint8, a :class:`~counterview.types.View`, a path, an image of Pillow, or
                encoded.
            query_masks: by object name, ``(H, W)`` bool of the query image's size. ``None`` or an empty mask: the
                object is not shown in this frame. It is then predicted from memory, or passed over
                (``config.without_query``). Objects left out of the mapping are not predicted; their memory stays.
            target_image: one such image, or several by the names of their cameras. Sizes may differ.
            frame: frame number; the last one plus ``stride`` if not given.
            pairs: with several cameras, the pairs of object and camera to predict; all of them if not given.

        Returns:
            A :class:`FrameResult` by object name; with several cameras, by object name and camera.

        Raises:
            InputError: an argument does not fit (:class:`~counterview.errors.ImageError` for images,
                :class:`~counterview.errors.MaskError` for masks). The session is then as it was before the call.
        """
        number, index = self._number(frame)
        several = isinstance(target_image, Mapping)
        cameras: dict[str, RgbImage | SessionImage] = (
            {name: loaded(image) for name, image in target_image.items()}
            if isinstance(target_image, Mapping)
            else {ONLY_CAMERA: loaded(target_image)}
        )
        if not cameras:
            raise InputError("there is no target image", fix="Leave the frame out, or pass at least one camera.")
        for name in (*cameras, *query_masks):
            if not isinstance(name, str):
                raise InputError("names of objects and cameras are strings", found=repr(name))
        query_image = loaded(query_image)
        query_size = image_size_hw(query_image)
        masks = {name: as_mask(mask, query_size, name) for name, mask in query_masks.items()}
        sizes = {camera: image_size_hw(image) for camera, image in cameras.items()}
        tracked = self.tracks if self.model.config.without_query == "track" else {}
        keys = [
            (name, camera)
            for name, mask in masks.items()
            for camera in cameras
            if (pairs is None or (name, camera) in pairs) and (mask is not None or (name, camera) in tracked)
        ]
        predictions = self._predict(index, query_image, masks, cameras, sizes, keys) if keys else {}
        self.frame = number
        if self.start is None:
            self.start = number
        results: dict[str, Any] = {}
        for name in masks:
            by_camera = {c: predictions.get((name, c)) or self._passed_over(sizes[c]) for c in cameras}
            results[name] = by_camera if several else by_camera[ONLY_CAMERA]
        return results

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to one ``.safetensors`` file, whole or not at all; :meth:`load` goes on from there."""
        values = {
            "model": self.model.fingerprint(),
            "config": to_dict(self.model.config),
            "frames": self.frames,
            "stride": self.stride,
            "autocast": None if self.autocast is None else str(self.autocast).removeprefix("torch."),
            "frame": self.frame,
            "start": self.start,
        }
        write_session(path, values, self.tracks)

    @classmethod
    def load(cls, model: LMEECNetwork, path: str | os.PathLike[str]) -> Session:
        """A saved session, to be continued by the model that made it.

        Raises:
            CheckpointError: not a saved session, a damaged one, or one of another model.
        """
        saved, fingerprints = read_session(path), model.fingerprints()
        if saved.values.get("model") not in fingerprints:
            raise CheckpointError(
                "the session was saved by another model",
                path=path,
                found=f"weights and settings {str(saved.values.get('model'))[:12]}",
                expected=fingerprints[0][:12],
                fix="Load the model that made it, with the same settings.",
            )
        with saved.damage_reported():
            session = cls(model, saved.values["frames"], saved.values["stride"], saved.autocast)
            session.frame, session.start = saved.frame_number("frame"), saved.frame_number("start")
            config = model.config
            session.tracks = saved.tracks(session._predictor.new_track, config.grid**2, config.channels, model.device)
            return session

    # -- inside -------------------------------------------------------------------------------------------------

    def _predict(
        self,
        index: int,
        query_image: AnyImage,
        masks: Mapping[str, BoolImage | None],
        cameras: Mapping[str, AnyImage],
        sizes: Mapping[str, tuple[int, int]],
        keys: Sequence[TrackKey],
    ) -> dict[TrackKey, FrameResult]:
        """Predict the tracks of ``keys`` in the frame ``index`` strides after the first, and remember it."""
        predictor = self._predictor
        shown = {name: mask for name, mask in masks.items() if mask is not None}
        needed = [camera for camera in cameras if any(c == camera for _, c in keys)]
        encoded = self.encode([cameras[c] for c in needed] + ([query_image] if shown else []))
        targets = dict(zip(needed, encoded, strict=False))
        views = predictor.views(encoded[-1], shown)
        steps = [
            predictor.at(index, key, self.tracks.get(key) or predictor.new_track(), views.get(key[0])) for key in keys
        ]
        results: dict[TrackKey, FrameResult] = {}
        for group, decoded, memory in predictor.predict(steps, targets):
            queries = [None if item.view is None else item.view.memory for item in group]
            remember([item.track for item in group], index, queries, list(memory), list(decoded.pointer))
            self.tracks.update({item.key: item.track for item in group})
            results.update(self._results(group, decoded, sizes))
        return results

    def _results(
        self, group: Sequence[TrackStep], decoded: Decoded, sizes: Mapping[str, tuple[int, int]]
    ) -> dict[TrackKey, FrameResult]:
        logits = decoded.logits.float()
        masks = to_native_sizes(logits, [sizes[item.key[1]] for item in group])
        areas = torch.tensor([float(m.mean()) for m in masks], device=decoded.score.device)
        visible = self.model.visibility(decoded.score, areas)
        # One transfer from the device, which has to be waited for.
        numbers = torch.stack([visible.float(), decoded.score.float(), decoded.best_iou.float()])
        visibility, scores, ious = numbers.tolist()
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
