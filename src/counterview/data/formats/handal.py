"""HANDAL-X: pairs of frames of one moving camera, from the HANDAL data set (BOP layout).

``<root>/handal_dataset_<category>/{train,test}/<scene>/rgb/<frame>.jpg`` and ``mask/<frame>_000000.png``. HANDAL-X
(ObjectRelator, arXiv 2411.19083) pairs each frame with the one a hundred positions later in the scene's sorted
list. Here a scene is a take with two cameras, ``rgb`` and ``rgb+100``: frame ``n`` of the second is the image of
the first a hundred positions after ``n``. So ``ego2exo`` matches forward in time, as HANDAL-X does, ``exo2ego``
backward, and everything else works as for Ego-Exo4D.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.data.dataset import KEPT_TAKES, Dataset, Take
from counterview.errors import AnnotationError, CounterviewError, ImageError, InputError
from counterview.masks.geometry import same_aspect
from counterview.masks.orientation import place_mask
from counterview.masks.png import object_values, read_object_values
from counterview.media.images import image_orientation, image_size, read_image
from counterview.types import ObjectMask, RgbImage

STEP = 100
"""Positions from the query frame to the target frame in HANDAL-X."""

QUERY_CAMERA = "rgb"
_PREFIX = "handal_dataset_"
_SPLITS = ("train", "test")


def is_handal(folder: Path) -> bool:
    """Whether ``folder`` is a HANDAL category or contains one."""
    return bool(_categories(folder))


def _categories(folder: Path) -> list[Path]:
    folders = [folder] if folder.name.startswith(_PREFIX) else sorted(folder.glob(f"{_PREFIX}*"))
    return [p for p in folders if any((p / split).is_dir() for split in _SPLITS)]


def open_handal(root: Path, split: str | None = "test", *, step: int = STEP, kept_takes: int = KEPT_TAKES) -> Dataset:
    """Open HANDAL scenes as takes, categories and scenes sorted by name.

    Args:
        root: one ``handal_dataset_*`` folder, or the folder that contains them.
        split: ``"train"`` or ``"test"``; both if ``None``.
        step: positions from the query frame to the target frame.
        kept_takes: number of opened takes that are kept in memory.

    Raises:
        InputError: no such split, no scene, or a step below 1.
    """
    if split is not None and split not in _SPLITS:
        raise InputError(f"HANDAL has no split {split!r}", path=root, expected=" or ".join(_SPLITS))
    if step < 1:
        raise InputError("the step from query to target is at least 1", found=step)
    scenes = {
        f"{category.name}.{part}.{scene.name}": scene
        for category in _categories(root)
        for part in ([split] if split else _SPLITS)
        if (category / part).is_dir()
        for scene in sorted((category / part).iterdir())
        if (scene / "rgb").is_dir() and (scene / "mask").is_dir()
    }
    if not scenes:
        raise InputError("has no scenes", path=root, expected=f"{_PREFIX}*/{split or 'train'}/<scene>/rgb and mask")
    return Dataset(root, "handal", split, list(scenes), partial(_open_scene, scenes, step), kept_takes=kept_takes)


def _open_scene(scenes: Mapping[str, Path], step: int, uid: str) -> HandalTake:
    return HandalTake(scenes[uid], uid, step=step)


def _order(path: Path) -> tuple[Any, ...]:
    """Sort key of natural order: numbers in names are compared by value."""
    return tuple((0, int(t), "") if t.isdecimal() else (1, 0, t) for t in re.findall(r"\d+|\D+", path.stem))


class HandalTake(Take):
    """One scene. The number of a frame is that of its file name, or its position if the names are not numbers.

    Args:
        folder: the scene's folder, with ``rgb/`` and ``mask/``.
        uid: the take's uid.
        step: positions from the query frame to the target frame.
    """

    def __init__(self, folder: Path, uid: str, *, step: int = STEP) -> None:
        self.category = folder.parent.parent.name.removeprefix(_PREFIX)
        super().__init__(uid, folder.name, self.category)
        self.folder = folder
        self.step = step
        self.target_camera = f"{QUERY_CAMERA}+{step}"
        images = sorted(
            (p for p in (folder / "rgb").iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")), key=_order
        )
        numbers = [int(p.stem) for p in images if p.stem.isascii() and p.stem.isdigit()]
        if len(numbers) < len(images) or len(set(numbers)) < len(numbers):
            numbers = list(range(len(images)))
        self._images = images
        self._index = {number: index for index, number in enumerate(numbers)}

    @property
    def path(self) -> Path:
        """As :meth:`counterview.data.dataset.Take.path`."""
        return self.folder

    def is_ego(self, camera: str) -> bool:
        """As :meth:`counterview.data.dataset.Take.is_ego`."""
        return camera == QUERY_CAMERA

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """As :meth:`counterview.data.dataset.Take.frames`."""
        return tuple(sorted(n for n, index in self._index.items() if index + self.step < len(self._images)))

    def _index_of(self, camera: str, frame: int) -> int | None:
        """Position in the scene of the image of ``camera`` at ``frame``; ``None`` if there is no such image."""
        if camera not in (QUERY_CAMERA, self.target_camera):
            raise AnnotationError(
                f"no camera {camera!r} in scene {self.uid}",
                path=self.folder,
                expected=f"{QUERY_CAMERA!r} or {self.target_camera!r}",
            )
        index = self._index.get(frame)
        if index is None:
            return None
        index += 0 if camera == QUERY_CAMERA else self.step
        return index if index < len(self._images) else None

    @cached_property
    def _mask_values(self) -> list[tuple[int, ...] | None]:
        """Object values in the mask of each image; ``None`` if it is not readable, or of another aspect ratio."""

        def values(image: Path) -> tuple[int, ...] | None:
            try:
                labels, notes = self._labels(image)
                size_hw = image_size(image)
                for note in notes:
                    self.note(f"scene {self.uid}, {self._mask_path(image).name}: {note}")
            except CounterviewError as error:
                self.note(f"scene {self.uid}: {error}")
                return None
            if not same_aspect((labels.shape[0], labels.shape[1]), size_hw):
                shape = f"{labels.shape[0]} x {labels.shape[1]} px, the image {size_hw[0]} x {size_hw[1]} px"
                self.note(f"scene {self.uid}: the mask of {image.name} is left out: it is {shape} (height x width)")
                return None
            return object_values(labels, self._mask_path(image))

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(values, self._images))

    @cached_property
    def _object_values(self) -> tuple[int, ...]:
        """Object values of all masks, ascending."""
        return tuple(sorted({value for present in self._mask_values for value in present or ()}))

    def _labels(self, image: Path) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """The object values ``(H, W)`` of an image's mask, upright, and notes on how they were read."""
        path = self._mask_path(image)
        labels, turned, notes = read_object_values(path)
        image_turned = image_orientation(image)
        if image_turned == turned == 1:
            return labels, notes
        placed, note = place_mask(
            labels, turned, image_size(image), image_turned, path=path, fits=same_aspect,
            fix="Give the mask the orientation of the image, or save the image without one.",
        )  # fmt: skip
        return placed, (*notes, note) if note else notes

    def _mask_path(self, image: Path) -> Path:
        return self.folder / "mask" / f"{image.stem}_000000.png"

    def _object_name(self, value: int) -> str:
        return self.category if len(self._object_values) == 1 else f"{self.category}_{value}"

    @cached_property
    def raw_masks(self) -> Mapping[str, Mapping[str, Mapping[int, Any]]]:
        """As :meth:`counterview.data.dataset.Take.raw_masks`."""
        masks: dict[str, dict[str, dict[int, Any]]] = {}
        for value in self._object_values:
            cameras: dict[str, dict[int, Any]] = {QUERY_CAMERA: {}, self.target_camera: {}}
            for camera, frames in cameras.items():
                for frame in self.frames:
                    index = self._index_of(camera, frame)
                    if index is not None and value in (self._mask_values[index] or ()):
                        frames[frame] = (index, value)
            masks[self._object_name(value)] = cameras
        return masks

    def annotated_frames(self, name: str, camera: str) -> frozenset[int]:
        """As :meth:`counterview.data.dataset.Take.annotated_frames`."""
        self._raw_masks_of(name, camera)
        indices = {frame: self._index_of(camera, frame) for frame in self.frames}
        return frozenset(f for f, i in indices.items() if i is not None and self._mask_values[i] is not None)

    def decode_mask(self, raw: Any) -> ObjectMask:
        """As :meth:`counterview.data.dataset.Take.decode_mask`."""
        index, value = raw
        return ObjectMask.from_array(self._labels(self._images[index])[0] == value)

    @property
    def image_kind(self) -> str:
        """As :meth:`counterview.data.dataset.Take.image_kind`."""
        return self._images[0].suffix.lower().removeprefix(".") if self._images else "unknown"

    def has_frame(self, camera: str, frame: int) -> bool:
        """As :meth:`counterview.data.dataset.Take.has_frame`."""
        return self._index_of(camera, frame) is not None

    def frame(self, camera: str, frame: int) -> RgbImage:
        """As :meth:`counterview.data.dataset.Take.frame`."""
        index = self._index_of(camera, frame)
        if index is None:
            raise ImageError(f"scene {self.uid} has no frame {frame} in camera {camera!r}", path=self.folder)
        return read_image(self._images[index])
