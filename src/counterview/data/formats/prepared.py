"""The prepared layout of the official Ego-Exo4D baselines, which O-MaMa, XSegTx, XView-XMem and LM-EEC read.

``<root>/<take_uid>/<camera>/<frame>.jpg`` (frame number without padding), ``<root>/<take_uid>/annotation.json``
with ``{"masks": {object: {camera: {frame: {"size": [h, w], "counts": "…"}}}}, "subsample_idx": [0, 30, …]}`` at
native size, ``<root>/split.json`` and ``<root>/<split>_{egoexo,exoego}_pairs.json``.

Counterview adds the key ``annotated_frames`` (object to camera to list) to ``annotation.json``, as in the ground-truth
file of the official evaluation: without it "not visible" and "not annotated" cannot be distinguished. Its
``takes.json`` beside ``split.json`` holds the takes' names and scenarios. Images may also be PNG or WebP, without loss;
the layout's other readers expect JPEG. For a camera of which no mask fits the images, ``mask_sizes`` holds the size of
the masks that were left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from counterview.data.dataset import KEPT_TAKES, SPLITS, Dataset, Take, frame_number
from counterview.errors import AnnotationError, ImageError, InputError, PathError
from counterview.masks.rle import from_coco
from counterview.media.files import check_name, read_json
from counterview.media.images import image_size, read_image
from counterview.types import ObjectMask, RgbImage

ANNOTATION = "annotation.json"
IMAGE_SUFFIXES = (".jpg", ".png", ".webp")
"""File name extensions of images; the first one that is there is read."""
SPLIT_FILE = "split.json"
TAKES_FILE = "takes.json"


def find_prepared(folder: Path) -> Path | None:
    """The folder with the takes: ``folder`` or, as O-MaMa has it, ``folder/processed``; ``None`` if neither."""
    for candidate in (folder, folder / "processed"):
        if (candidate / SPLIT_FILE).is_file() or next(_take_folders(candidate), None) is not None:
            return candidate
    return None


def open_prepared(root: Path, split: str | None = None, *, kept_takes: int = KEPT_TAKES) -> Dataset:
    """Open a prepared folder. See :func:`counterview.data.open.open_dataset`.

    A take that is in ``split.json`` but was not prepared raises an error when it is opened.

    Raises:
        InputError: no such split.
        AnnotationError: ``split.json`` or ``takes.json`` is malformed.
    """
    splits = read_splits(root)
    if splits is None:
        if split is not None:
            raise InputError(f"has no {SPLIT_FILE}, which lists the takes of split {split!r}", path=root)
        uids = sorted(p.name for p in _take_folders(root))
    elif split is None:
        uids = [uid for takes in splits.values() for uid in takes]
    elif split in splits:
        uids = list(splits[split])
    else:
        raise InputError(f"no split {split!r}", path=root / SPLIT_FILE, expected=" or ".join(splits) or "a split")
    facts = read_facts(root)
    return Dataset(root, "prepared", split, uids, partial(_open_take, root, facts), kept_takes=kept_takes)


def read_splits(root: Path, name: str = SPLIT_FILE) -> dict[str, tuple[str, ...]] | None:
    """Take uids by split from ``split.json``; ``None`` if there is no such file.

    Raises:
        AnnotationError: the file is not a split file.
    """
    path = root / name
    if not path.exists():
        return None
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("split_to_take_uids"), dict):
        content = content["split_to_take_uids"]  # the release's own splits file
    if not isinstance(content, dict):
        raise AnnotationError(
            "is not a split file", path=path, expected='{"train": [take_uid, …], "val": …, "test": …}'
        )
    result: dict[str, tuple[str, ...]] = {}
    for split in (*(s for s in SPLITS if s in content), *(s for s in content if s not in SPLITS)):
        takes = content[split]
        if not isinstance(takes, list):
            raise AnnotationError(f"split {split!r} is not a list", path=path, found=type(takes).__name__)
        # Some copies in circulation hold [uid, …] for each take.
        uids = [t[0] if isinstance(t, list) and t else t for t in takes]
        if not all(isinstance(uid, str) for uid in uids):
            raise AnnotationError(f"split {split!r} holds an entry that is not a take uid", path=path)
        result[split] = tuple(uids)
    return result


def find_image(folder: Path, frame: int) -> Path:
    """Path of the image of a frame in the folder of a camera; that of a JPEG file if there is none."""
    paths = [folder / f"{int(frame)}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def stated_size(raw: Any) -> tuple[int, int] | None:
    """Height and width in pixels that a stored mask states, ``{"size": [h, w], …}``; ``None`` if it states none."""
    size = raw.get("size") if isinstance(raw, Mapping) else None
    if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
        return size[0], size[1]
    return None


def read_facts(root: Path) -> dict[str, tuple[str, str]]:
    """Name and scenario of takes by uid, from ``takes.json``; empty without the file.

    Raises:
        AnnotationError: the file is not a list of takes.
    """
    path = root / TAKES_FILE
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, list):
        raise AnnotationError("is not a list of takes", path=path, found=type(content).__name__)
    return {
        take["take_uid"]: (str(take.get("take_name") or ""), str(take.get("scenario") or ""))
        for take in content
        if isinstance(take, dict) and isinstance(take.get("take_uid"), str)
    }


def _take_folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from (p for p in root.iterdir() if (p / ANNOTATION).is_file())


def _open_take(root: Path, facts: Mapping[str, tuple[str, str]], uid: str) -> PreparedTake:
    try:
        folder = root / check_name(uid)
    except PathError as error:
        raise AnnotationError(error.problem, path=root / SPLIT_FILE) from None
    if not folder.is_dir():
        for split in SPLITS:  # XView-XMem keeps the takes of each split in a separate folder
            if (root / split / uid / ANNOTATION).is_file():
                folder = root / split / uid
    name, scenario = facts.get(uid, ("", ""))
    return PreparedTake(folder, uid, name=name, scenario=scenario)


class PreparedTake(Take):
    """One take of the prepared layout.

    Args:
        folder: the take's folder.
        uid: the take's uid.
        name: its name; the uid if not given.
        scenario: the activity.

    Raises:
        InputError: ``annotation.json`` is missing or not JSON.
        AnnotationError: it has no masks. Single malformed entries are skipped and noted in ``problems``.
    """

    def __init__(self, folder: Path, uid: str, *, name: str | None = None, scenario: str = "") -> None:
        super().__init__(uid, name, scenario)
        self.folder = folder
        if not (folder / ANNOTATION).is_file():
            raise InputError(
                f"take {uid} was not prepared",
                path=folder / ANNOTATION,
                found="no such file",
                fix="Run `counterview prepare` again, or remove the uid from split.json.",
            )
        content = read_json(folder / ANNOTATION)
        if not isinstance(content, dict) or not isinstance(content.get("masks"), dict):
            raise AnnotationError("has no masks", path=self.path, expected='{"masks": {…}, "subsample_idx": […]}')
        self._masks: dict[str, dict[str, dict[int, Any]]] = {}
        self._malformed: dict[tuple[str, str], set[int]] = {}
        for object_name, cameras in content["masks"].items():
            self._masks[object_name] = {}
            for camera, frames in self._mapping(cameras, f"object {object_name!r}").items():
                where = f"object {object_name!r}, camera {camera!r}"
                if not self._is_valid_name(camera, where):
                    continue
                self._masks[object_name][camera] = self._read_masks(frames, object_name, camera, where)
        annotated = content.get("annotated_frames")
        self._annotated = annotated if isinstance(annotated, dict) else {}
        self._subsample = content.get("subsample_idx")
        self._mask_sizes = content.get("mask_sizes")
        self._image_frames: dict[str, frozenset[int]] = {}

    def _mapping(self, value: Any, where: str) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        self.note(f"take {self.uid}, {where}: skipped, found {type(value).__name__} instead of a mapping")
        return {}

    def _is_valid_name(self, camera: str, where: str) -> bool:
        try:
            check_name(camera)
        except PathError as error:
            self.note(f"take {self.uid}, {where}: skipped, {error.problem}")
            return False
        return True

    def _read_masks(self, frames: Any, name: str, camera: str, where: str) -> dict[int, Any]:
        masks: dict[int, Any] = {}
        for key, raw in self._mapping(frames, where).items():
            try:
                frame = frame_number(key)
            except ValueError as error:
                self.note(f"take {self.uid}, {where}: {error}")
                continue
            if isinstance(raw, dict):
                masks[frame] = raw
            else:  # the official preparation stores a mask that it could not decode as null
                self._malformed.setdefault((name, camera), set()).add(frame)
                value_type = "null" if raw is None else type(raw).__name__
                self.note(f"take {self.uid}, {where}, frame {frame}: the mask is {value_type}, not run lengths")
        return masks

    @property
    def path(self) -> Path:
        """As :meth:`counterview.data.dataset.Take.path`."""
        return self.folder / ANNOTATION

    @property
    def raw_masks(self) -> Mapping[str, Mapping[str, Mapping[int, Any]]]:
        """As :meth:`counterview.data.dataset.Take.raw_masks`."""
        return self._masks

    def decode_mask(self, raw: Any) -> ObjectMask:
        """As :meth:`counterview.data.dataset.Take.decode_mask`."""
        return from_coco(raw)

    def mask_count(self, name: str, camera: str) -> int:
        """As :meth:`counterview.data.dataset.Take.mask_count`."""
        return super().mask_count(name, camera) + len(self._malformed.get((name, camera), ()))

    def annotated_frames(self, name: str, camera: str) -> frozenset[int]:
        """As :meth:`counterview.data.dataset.Take.annotated_frames`."""
        listed = self._annotated.get(name)
        numbers = listed.get(camera, ()) if isinstance(listed, dict) else ()
        frames = set(self._raw_masks_of(name, camera))
        for number in numbers if isinstance(numbers, list) else ():
            try:
                frames.add(frame_number(number))
            except ValueError as error:
                self.note(f"take {self.uid}, object {name!r}, camera {camera!r}, annotated_frames: {error}")
        return frozenset(frames - self._malformed.get((name, camera), set()))

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """As :meth:`counterview.data.dataset.Take.frames`."""
        entries = self._subsample if isinstance(self._subsample, list) else []
        numbers = {n for n in entries if isinstance(n, int) and not isinstance(n, bool) and n >= 0}
        if len(numbers) < len(entries):
            self.note(f"take {self.uid}: subsample_idx holds entries that are not frame numbers, or duplicates")
        return tuple(sorted(numbers))

    def frame_path(self, camera: str, frame: int) -> Path:
        """Path of an image; that of a JPEG file if there is none.

        Raises:
            PathError: the camera's name cannot be a folder.
        """
        return find_image(self.folder / check_name(camera), frame)

    def images(self, camera: str) -> frozenset[int]:
        """The frames of ``camera`` that have an image."""
        if camera not in self._image_frames:
            folder = self.folder / check_name(camera)
            names = [p.stem for p in folder.iterdir() if p.suffix in IMAGE_SUFFIXES] if folder.is_dir() else []
            self._image_frames[camera] = frozenset(int(n) for n in names if n.isascii() and n.isdigit())
        return self._image_frames[camera]

    def raw_size(self, raw: Any) -> tuple[int, int] | None:
        """As :meth:`counterview.data.dataset.Take.raw_size`."""
        return stated_size(raw)

    def image_hw(self, camera: str) -> tuple[int, int] | None:
        """As :meth:`counterview.data.dataset.Take.image_hw`: the size of the first image that can be read."""
        for frame in sorted(self.images(camera)):
            with suppress(ImageError):
                return image_size(self.frame_path(camera, frame))
        return None

    @cached_property
    def image_kind(self) -> str:
        """As :meth:`counterview.data.dataset.Take.image_kind`."""
        for camera in self.cameras:
            for frame in sorted(self.images(camera))[:1]:
                return self.frame_path(camera, frame).suffix.removeprefix(".")
        return "unknown"

    def native_size(self, camera: str) -> tuple[int, int]:
        """As :meth:`counterview.data.dataset.Take.native_size`."""
        size = self._mask_sizes.get(camera) if isinstance(self._mask_sizes, dict) else None
        return stated_size({"size": size}) or super().native_size(camera)

    def has_frame(self, camera: str, frame: int) -> bool:
        """As :meth:`counterview.data.dataset.Take.has_frame`."""
        return frame in self.images(camera) and self.fits(camera)

    def frame(self, camera: str, frame: int) -> RgbImage:
        """As :meth:`counterview.data.dataset.Take.frame`."""
        path = self.frame_path(camera, frame)
        if not path.is_file():
            raise ImageError(
                f"camera {camera!r} of take {self.uid} has no image of frame {frame}",
                path=path,
                fix="See prepare-report.json for the reason.",
            )
        if not self.fits(camera):
            raise ImageError(f"the masks of camera {camera!r} do not fit the images", path=path)
        return read_image(path)
