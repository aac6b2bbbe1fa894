"""HANDAL-X: pairs of frames of one moving camera, from the HANDAL data set (BOP layout).

``<root>/handal_dataset_<category>/{train,test}/<scene>/rgb/<frame>.jpg`` and ``mask/<frame>_000000.png``. HANDAL-X
(ObjectRelator, arXiv 2411.19083) sets each frame against the one a hundred places later in the scene's sorted
list. Here a scene is a take with two cameras, ``rgb`` and ``rgb+100``: frame ``n`` of the second shows what the
first sees a hundred places after ``n``. So ``ego2exo`` asks forward in time, as HANDAL-X does, and ``exo2ego``
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

from counterview.data.dataset import KEPT_TAKES, Dataset, Take
from counterview.errors import AnnotationError, CounterviewError, ImageError, InputError
from counterview.masks.png import read_index_png
from counterview.media.images import read_image
from counterview.types import ObjectMask, RgbImage

STEP = 100
"""How many places the target frame lies behind the query frame in HANDAL-X."""

QUERY_CAMERA = "rgb"
_PREFIX = "handal_dataset_"
_SPLITS = ("train", "test")


def is_handal(folder: Path) -> bool:
    """Whether ``folder`` is a HANDAL category, or holds some."""
    return bool(_categories(folder))


def _categories(folder: Path) -> list[Path]:
    places = [folder] if folder.name.startswith(_PREFIX) else sorted(folder.glob(f"{_PREFIX}*"))
    return [p for p in places if any((p / split).is_dir() for split in _SPLITS)]


def open_handal(root: Path, split: str | None = "test", *, step: int = STEP, kept_takes: int = KEPT_TAKES) -> Dataset:
    """Open HANDAL scenes as takes, categories and scenes in the order of their names.

    Args:
        root: one ``handal_dataset_*`` folder, or the folder that holds them.
        split: ``"train"`` or ``"test"``; both if ``None``.
        step: how many places the target lies behind the query.
        kept_takes: how many opened takes are kept in memory.

    Raises:
        InputError: no such split, nothing found, or a step below 1.
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
        raise InputError("holds no scene", path=root, expected=f"{_PREFIX}*/{split or 'train'}/<scene>/rgb and mask")
    return Dataset(root, "handal", split, list(scenes), partial(_open_scene, scenes, step), kept_takes=kept_takes)


def _open_scene(scenes: Mapping[str, Path], step: int, uid: str) -> HandalTake:
    return HandalTake(scenes[uid], uid, step=step)


def _order(path: Path) -> tuple[Any, ...]:
    """Natural order of names: numbers by value."""
    return tuple((0, int(t), "") if t.isdigit() else (1, 0, t) for t in re.findall(r"\d+|\D+", path.stem))


class HandalTake(Take):
    """One scene. A frame's number is that of its file name, or its place where names are no numbers."""

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
        self._place = {number: place for place, number in enumerate(numbers)}

    @property
    def path(self) -> Path:
        return self.folder

    def is_ego(self, camera: str) -> bool:
        return camera == QUERY_CAMERA

    @cached_property
    def frames(self) -> tuple[int, ...]:
        return tuple(sorted(n for n, place in self._place.items() if place + self.step < len(self._images)))

    def _at(self, camera: str, frame: int) -> int | None:
        """Place in the scene of what ``camera`` shows at ``frame``."""
        if camera not in (QUERY_CAMERA, self.target_camera):
            raise AnnotationError(
                f"no camera {camera!r} in scene {self.uid}",
                path=self.folder,
                expected=f"{QUERY_CAMERA!r} or {self.target_camera!r}",
            )
        place = self._place.get(frame)
        if place is None:
            return None
        place += 0 if camera == QUERY_CAMERA else self.step
        return place if place < len(self._images) else None

    @cached_property
    def _seen(self) -> tuple[list[tuple[int, ...] | None], int]:
        """Values in the mask of each place (``None``: no readable mask), and the largest value count of one mask."""

        def values(image: Path) -> tuple[int, ...] | None:
            try:
                index = read_index_png(self._mask_path(image))
            except CounterviewError as error:
                self.note(f"scene {self.uid}: {error}")
                return None
            return tuple((np.flatnonzero(np.bincount(index.ravel(), minlength=256)[1:]) + 1).tolist())

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            seen = list(pool.map(values, self._images))
        return seen, len({v for present in seen for v in present or ()})

    def _mask_path(self, image: Path) -> Path:
        return self.folder / "mask" / f"{image.stem}_000000.png"

    def _object_name(self, value: int) -> str:
        return self.category if self._seen[1] == 1 else f"{self.category}_{value}"

    @cached_property
    def raw_masks(self) -> Mapping[str, Mapping[str, Mapping[int, Any]]]:
        seen = self._seen[0]
        masks: dict[str, dict[str, dict[int, Any]]] = {}
        for value in sorted({v for present in seen for v in present or ()}):
            cameras: dict[str, dict[int, Any]] = {QUERY_CAMERA: {}, self.target_camera: {}}
            for camera, frames in cameras.items():
                for frame in self.frames:
                    place = self._at(camera, frame)
                    if place is not None and value in (seen[place] or ()):
                        frames[frame] = (place, value)
            masks[self._object_name(value)] = cameras
        return masks

    def annotated_frames(self, name: str, camera: str) -> frozenset[int]:
        self._frames_of(name, camera)
        seen = self._seen[0]
        return frozenset(f for f in self.frames if (p := self._at(camera, f)) is not None and seen[p] is not None)

    def decode_mask(self, raw: Any) -> ObjectMask:
        place, value = raw
        return ObjectMask.from_array(read_index_png(self._mask_path(self._images[place])) == value)

    def has_frame(self, camera: str, frame: int) -> bool:
        return self._at(camera, frame) is not None

    def frame(self, camera: str, frame: int) -> RgbImage:
        place = self._at(camera, frame)
        if place is None:
            raise ImageError(f"scene {self.uid} has no frame {frame} in camera {camera!r}", path=self.folder)
        return read_image(self._images[place])
