"""One frame of tracks: encode images, attend to each track's memory, decode its mask.

:class:`counterview.lmeec.session.Session` keeps the memories of a clip with one query image a frame. Here the query
is each track's own, so that a track may also be shown an earlier frame of its camera.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from counterview.lmeec.frame import SessionImage
from counterview.lmeec.memory import MemoryBank, PointerBank, TrackMemory
from counterview.lmeec.network import LMEECNetwork
from counterview.lmeec.preprocess import to_pixels, to_query_mask
from counterview.lmeec.sam2_parts import Decoded, ImageFeatures
from counterview.lmeec.session_file import TrackKey
from counterview.types import BoolImage, RgbImage


@dataclass(frozen=True)
class QueryView:
    """An object in an image, as the network is shown it.

    Attributes:
        memory: image and mask, ``(h * w, 64)``.
        mask: ``(S, S)`` 0 or 1, float32, S the side of the model's square image.
        extra: :attr:`ImageFeatures.extra` of the image, or of several.
        row: of the image among those of ``extra``.
    """

    memory: Tensor
    mask: Tensor
    extra: Any = None
    row: int = 0


@dataclass(frozen=True)
class TrackStep:
    """A track with what it attends to in a frame.

    Attributes:
        key: names of object and camera.
        track: its memory.
        view: the object in the query view; ``None`` without a query mask.
        query: entries of the query's bank, ``(h * w, 64)`` each.
        target: entries of the target's bank, likewise.
        distances: how many frames ago the pointers were.
        pointers: ``(C,)`` each.
    """

    key: TrackKey
    track: TrackMemory
    view: QueryView | None
    query: list[Tensor]
    target: list[Tensor]
    distances: list[int]
    pointers: list[Tensor]

    @property
    def shape(self) -> Hashable:
        """Tracks of one shape go through the attention as one batch."""
        return self.view is None, len(self.query), len(self.target), len(self.pointers)


@dataclass(frozen=True)
class TrackPredictor:
    """The model with the settings of a clip. It keeps nothing.

    Attributes:
        model: in eval mode.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.
        frames: number of frames of the clip, if it is known.
    """

    model: LMEECNetwork
    autocast: torch.dtype | None = None
    frames: int | None = None

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Within the block, torch computes without gradients, and in the precision of :attr:`autocast`."""
        precision = (
            torch.autocast(self.model.device.type, dtype=self.autocast) if self.autocast else contextlib.nullcontext()
        )
        with torch.inference_mode(), precision:
            yield

    @property
    def pointer_reach(self) -> int:
        """Frames, the present one counted, that object pointers reach back."""
        most = self.model.config.max_pointers
        return most if self.frames is None else min(self.frames, most)

    def new_track(self) -> TrackMemory:
        """An empty memory."""
        config = self.model.config
        query, target = (
            MemoryBank(config.bank_size, config.compression, config.key_frames, config.gaps) for _ in range(2)
        )
        return TrackMemory(query, target, PointerBank(self.pointer_reach))

    def encode(self, images: Sequence[RgbImage]) -> list[SessionImage]:
        """Run the image encoder over images ``(H, W, 3)`` uint8, as one batch.

        Raises:
            ImageError: not such an image.
        """
        size = self.model.config.image_size
        pixels = torch.stack([to_pixels(image, size) for image in images]).to(self.model.device)
        with self.inference():
            features = self.model.encode_images(pixels)
        return [
            SessionImage(features.pick([row]), (image.shape[0], image.shape[1]), size)
            for row, image in enumerate(images)
        ]

    def views(self, image: SessionImage, masks: Mapping[str, BoolImage]) -> dict[str, QueryView]:
        """Objects in one image as the network is shown them.

        Args:
            image: encoded.
            masks: ``(H, W)`` bool by object name, none of them empty.
        """
        if not masks:
            return {}
        model = self.model
        stack = torch.stack([to_query_mask(mask, model.config.image_size) for mask in masks.values()]).to(model.device)
        top = image.features.top.expand(len(masks), -1, -1, -1)
        with self.inference():
            memory = model.encode_memory(top, model.query_logits(stack))
        return {name: QueryView(memory[row], stack[row], image.features.extra) for row, name in enumerate(masks)}

    def at(self, index: int, key: TrackKey, track: TrackMemory, view: QueryView | None) -> TrackStep:
        """A track at a frame.

        Args:
            index: of the frame, counted from the clip's first.
            key: names of object and camera.
            track: its memory.
            view: the object in the query view.
        """
        query, target = track.query.read(index), track.target.read(index)
        distances, pointers = track.pointers.read(index)
        return TrackStep(key, track, view, query, target, distances, pointers)

    def predict(
        self, steps: Sequence[TrackStep], targets: Mapping[str, SessionImage]
    ) -> Iterator[tuple[list[TrackStep], Decoded, Tensor]]:
        """Predict tracks in one frame, those of one shape as a batch.

        Args:
            steps: of different tracks.
            targets: encoded images by camera, those of all tracks.

        Yields:
            N tracks, their masks, and memories ``(N, h * w, 64)`` of the target view with these masks.
        """
        cameras = [camera for camera in targets if any(step.key[1] == camera for step in steps)]
        if not cameras:
            return
        with self.inference():
            attended = [self.model.self_attended(targets[camera].features.top) for camera in cameras]
            images = ImageFeatures.join([targets[camera].features for camera in cameras])
        yield from self._predict_rows(steps, images, [cameras.index(step.key[1]) for step in steps], attended)

    def predict_windows(
        self, steps: Sequence[TrackStep], targets: ImageFeatures
    ) -> Iterator[tuple[list[TrackStep], Decoded, Tensor]]:
        """:meth:`predict` where each track has a target window of its own.

        Args:
            steps: of N different tracks.
            targets: their windows, N as well.
        """
        if not steps:
            return
        with self.inference():
            attended = self.model.self_attended(targets.top)
        parts = [None] * len(steps) if attended is None else list(attended.split(1))
        yield from self._predict_rows(steps, targets, list(range(len(steps))), parts)

    def _predict_rows(
        self,
        steps: Sequence[TrackStep],
        images: ImageFeatures,
        rows: Sequence[int],
        attended: Sequence[Tensor | None],
    ) -> Iterator[tuple[list[TrackStep], Decoded, Tensor]]:
        """Predict tracks, each in the image of its row, those of one shape as a batch."""
        groups: dict[Hashable, list[int]] = {}
        for number, step in enumerate(steps):
            groups.setdefault(step.shape, []).append(number)
        for numbers in groups.values():
            group = [steps[number] for number in numbers]
            with self.inference():
                features = images.pick([rows[number] for number in numbers])
                parts = [part for number in numbers if (part := attended[rows[number]]) is not None]
                decoded = self._decode(group, features, torch.cat(parts) if parts else None)
                memory = self.model.encode_memory(features.top, decoded.logits, decoded.score)
            yield group, decoded, memory

    def _decode(self, group: Sequence[TrackStep], images: ImageFeatures, attended: Tensor | None) -> Decoded:
        """Decode N tracks of one shape: ``images`` are their target images, ``attended`` is ``(N, h * w, C)``."""
        model, first = self.model, group[0]
        view = masks = extra = None
        views = [step.view for step in group if step.view is not None]
        # Without the cross-view prompt the query's first frame still has to say which object is meant.
        if views and (model.config.cross_view_prompt or not (first.query or first.target)):
            view = model.view_features(images.top, torch.stack([item.memory for item in views]), attended)
        pointers = distances = None
        if first.pointers:
            pointers = torch.stack([torch.stack(step.pointers) for step in group])
            distances = torch.tensor([step.distances for step in group], device=pointers.device)
        memory = model.memory_features(
            images.top,
            [torch.stack(entries) for entries in zip(*(step.query for step in group), strict=True)],
            [torch.stack(entries) for entries in zip(*(step.target for step in group), strict=True)],
            pointers,
            distances,
            self.pointer_reach - 1,
            attended,
        )
        if views:
            masks, extra = torch.stack([item.mask for item in views]), _joined(views)
        return model.decode(model.fuse(memory, view, images.top), images, masks, extra)


def _joined(views: Sequence[QueryView]) -> Any:
    """Further features of N query images, each of which is kept once."""
    if views[0].extra is None:
        return None
    different = list({id(view.extra): view.extra for view in views}.values())
    if len(different) == 1:
        return different[0].pick([view.row for view in views])
    # An image of its own each: of several images in one object, none is repeated.
    keys = list(dict.fromkeys((id(view.extra), view.row) for view in views))
    firsts = [next(view for view in views if (id(view.extra), view.row) == key) for key in keys]
    joined = type(different[0]).join([view.extra.pick([view.row]) for view in firsts])
    return joined.pick([keys.index((id(view.extra), view.row)) for view in views])
