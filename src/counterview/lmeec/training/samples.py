"""Training samples: clips as small arrays, read, resized, augmented."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from counterview.data.clips import Clip
from counterview.data.dataset import Dataset, Take
from counterview.lmeec.preprocess import soft_mask
from counterview.lmeec.training.augment import Geometry, change_colour, draw_colour, draw_frame_colours, draw_geometry
from counterview.lmeec.training.recipe import AugmentConfig
from counterview.lmeec.training.unroll import ClipBatch

TRIES = 3
"""Geometries that are drawn for a clip before it is left as it is, because a query object left the image."""


@dataclass(frozen=True)
class ClipSample:
    """One clip of T frames with O objects.

    Attributes:
        query_images: ``(T, S, S, 3)`` uint8.
        target_images: ``(T, S, S, 3)`` uint8.
        query_masks: ``(O, T, S, S)`` bool.
        target_masks: ``(O, T, S, S)`` bool, empty where the object is absent.
    """

    query_images: NDArray[np.uint8]
    target_images: NDArray[np.uint8]
    query_masks: NDArray[np.bool_]
    target_masks: NDArray[np.bool_]


class ClipReader:
    """Reads clips of a data set at the model's size.

    Args:
        dataset: the takes.
        size: side of the square images.
        augment: the augmentation; none if not given.
        cache_mb: most megabytes of resized images and masks kept in memory.
        resize: Pillow's filter by which images are made square; both are antialiased.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: int,
        augment: AugmentConfig | None = None,
        cache_mb: int = 0,
        resize: Literal["bicubic", "bilinear"] = "bicubic",
    ) -> None:
        self.dataset, self.size, self.augment = dataset, size, augment
        self._filter = Image.Resampling[resize.upper()]
        self._room = cache_mb * 1_000_000
        self._held = 0
        self._cache: OrderedDict[tuple[Any, ...], NDArray[np.uint8]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes begin with an empty cache; sending a full one would cost more than it saves.
        return {**self.__dict__, "_cache": OrderedDict(), "_held": 0}

    def read(self, clip: Clip, rng: np.random.Generator) -> ClipSample:
        """The arrays of a clip; the same for the same clip and state of ``rng``."""
        take = self.dataset.take(clip.take)
        cameras = (clip.query_camera, clip.target_camera)
        resized = [np.stack([self._image(take, c, f) for f in clip.frames]) for c in cameras]
        soft = [
            np.stack([np.stack([self._soft(take, name, c, f) for f in clip.frames]) for name in clip.objects])
            for c in cameras
        ]
        geometries = self._geometries(take, clip, soft, rng)
        images = [g.images(frames) for g, frames in zip(geometries, resized, strict=True)]
        if self.augment is not None:
            images = self._coloured(images, self.augment, rng)
        masks = [g.masks(m) for g, m in zip(geometries, soft, strict=True)]
        return ClipSample(images[0], images[1], masks[0], masks[1])

    @staticmethod
    def _coloured(
        views: Sequence[NDArray[np.uint8]], config: AugmentConfig, rng: np.random.Generator
    ) -> list[NDArray[np.uint8]]:
        """Both views ``(T, S, S, 3)`` with their colours changed: all frames alike, then each by itself."""
        colour = draw_colour(config, rng)
        other = draw_colour(config, rng) if config.per_view else colour
        changed = []
        for frames, of_all in zip(views, (colour, other), strict=True):
            frames = change_colour(frames, of_all)
            of_each = draw_frame_colours(config, len(frames), rng)
            if of_each:
                pairs = zip(frames, of_each, strict=True)
                frames = np.concatenate([change_colour(frame[None], one) for frame, one in pairs])
            changed.append(frames)
        return changed

    def _geometries(
        self, take: Take, clip: Clip, soft: Sequence[NDArray[np.float32]], rng: np.random.Generator
    ) -> tuple[Geometry, Geometry]:
        if self.augment is None:
            return Geometry(None), Geometry(None)
        sizes = [take.native_size(c) for c in (clip.query_camera, clip.target_camera)]
        for _ in range(TRIES):
            state = rng.bit_generator.state
            query = draw_geometry(self.augment, self.size, sizes[0], rng)
            if not self.augment.per_view:
                rng.bit_generator.state = state  # the same numbers, in the other image's proportions
            target = draw_geometry(self.augment, self.size, sizes[1], rng)
            if query.masks(soft[0]).any(axis=(2, 3)).all():
                return query, target
        return Geometry(None), Geometry(None)

    def _image(self, take: Take, camera: str, frame: int) -> NDArray[np.uint8]:
        def read() -> NDArray[np.uint8]:
            image = take.frame(camera, frame)
            return np.asarray(Image.fromarray(image).resize((self.size, self.size), self._filter))

        return self._cached((take.uid, camera, frame), read)

    def _soft(self, take: Take, name: str, camera: str, frame: int) -> NDArray[np.float32]:
        def read() -> NDArray[np.uint8]:
            mask = take.mask(name, camera, frame)
            if mask is None or mask.is_empty:
                return np.zeros((self.size, self.size), dtype=np.uint8)
            # Rounded up, so that no mask vanishes.
            return np.ceil(soft_mask(mask.to_array(), self.size).numpy().clip(0, 1) * 255 - 1e-3).astype(np.uint8)

        return self._cached((take.uid, camera, frame, name), read).astype(np.float32) / np.float32(255)

    def _cached(self, key: tuple[Any, ...], read: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        value = read()
        if self._room:
            self._cache[key] = value
            self._held += value.nbytes
            while self._held > self._room:
                self._held -= self._cache.popitem(last=False)[1].nbytes
        return value


def collate(samples: Sequence[ClipSample]) -> ClipBatch:
    """Clips of equal length and size as one batch."""
    objects = [len(s.query_masks) for s in samples]
    return ClipBatch(
        torch.from_numpy(np.stack([s.query_images for s in samples])),
        torch.from_numpy(np.stack([s.target_images for s in samples])),
        torch.from_numpy(np.concatenate([s.query_masks for s in samples])),
        torch.from_numpy(np.concatenate([s.target_masks for s in samples])),
        torch.arange(len(samples)).repeat_interleave(torch.tensor(objects)),
    )
