"""Ground truth for scoring, one take at a time: the release's annotation, the official file, a prepared folder.

This reader loads only what scoring needs and decodes a mask when it is compared, so that memory does not grow
with the number of takes. Images, videos and training pairs are read by :mod:`counterview.data`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from counterview.data.dataset import SPLITS, Direction, frame_number, is_ego
from counterview.data.formats.prepared import find_image, stated_size
from counterview.data.formats.release import annotation_path, is_release
from counterview.errors import AnnotationError, ImageError, InputError, MaskError, PathError
from counterview.masks import rle
from counterview.masks.geometry import same_aspect
from counterview.media.files import check_name, read_json
from counterview.media.images import image_size
from counterview.media.jsonstream import Span, index_object, read_span
from counterview.types import ObjectMask

Kind = Literal["annotation", "correspondence", "prepared"]


@dataclass(frozen=True)
class StoredTrack:
    """One object in one camera, as stored.

    Attributes:
        masks: frame number to stored mask, not decoded.
        annotated_frames: the frames that were annotated; ``None`` if the file does not state them.
    """

    masks: Mapping[int, Any]
    annotated_frames: frozenset[int] | None


@dataclass
class GroundTruthTake:
    """One take.

    Attributes:
        uid: the take's identifier.
        name: its readable name, or an empty text.
        scenario: the activity, or an empty text.
        objects: object to camera to track.
        listed: every object in the file, readable or not.
        problems: entries that were left out, one line each.
        has_annotated_frames: whether the file states which frames were annotated.
    """

    uid: str
    name: str = ""
    scenario: str = ""
    objects: dict[str, dict[str, StoredTrack]] = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    has_annotated_frames: bool = True

    def pairs(self, direction: Direction) -> Iterator[tuple[str, str, str]]:
        """``(object, query camera, target camera)`` in the file's order.

        Objects without an ego camera have no pairs. Those with several are left out, as no rule decides between
        them; :attr:`problems` lists them.
        """
        for name, cameras in self.objects.items():
            ego = [camera for camera in cameras if is_ego(camera)]
            if len(ego) != 1:
                continue
            for camera in cameras:
                if not is_ego(camera):
                    yield (name, ego[0], camera) if direction == "ego2exo" else (name, camera, ego[0])

    def mask(self, name: str, camera: str, frame: int) -> ObjectMask | None:
        """The decoded mask; ``None`` if the object has no mask in that camera and frame.

        Raises:
            MaskError: it cannot be decoded.
        """
        track = self.objects[name].get(camera)
        if track is None or frame not in track.masks:
            return None
        return decode_mask(track.masks[frame])

    def stored_size(self, name: str, camera: str) -> tuple[int, int] | None:
        """``(H, W)`` in pixels of a camera's masks, without decoding one; ``None`` if it has no readable mask.

        Args:
            name: the object whose masks are read first.
            camera: the camera.
        """
        tracks = [self.objects[name], *self.objects.values()]
        return next(
            (size for t in tracks if camera in t for raw in t[camera].masks.values() if (size := _size(raw))), None
        )


def _size(raw: Any) -> tuple[int, int] | None:
    if not isinstance(raw, Mapping):
        return None
    size = raw.get("size", (raw.get("height"), raw.get("width")))
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
        return size[0], size[1]
    return None


def decode_mask(raw: Any) -> ObjectMask:
    """Decode a stored mask: ``{"size", "counts"}``, or ``{"width", "height", "encodedMask"}`` of the annotation.

    Raises:
        MaskError: neither of these, ``null``, or malformed.
    """
    if isinstance(raw, Mapping) and "encodedMask" in raw:
        return rle.from_lzstring(raw["encodedMask"], (raw.get("height"), raw.get("width")))
    if raw is None:
        raise MaskError("the stored mask is null", fix="It could not be decoded when the data were prepared.")
    return rle.from_coco(raw)


def _annotation_of(release: Path, split: str | None) -> Path:
    """The annotation file of a split of a release, or the only one."""
    present = [name for name in SPLITS if annotation_path(release, name).is_file()]
    if split is None and len(present) == 1:
        split = present[0]
    if split is None:
        raise InputError(
            "holds several splits",
            path=release / "annotations",
            found=", ".join(present),
            fix="Choose one: --split val",
        )
    if split not in present:
        raise InputError(
            f"has no annotation of split {split!r}", path=release / "annotations", expected=" or ".join(present)
        )
    return annotation_path(release, split)


def _drop_misfits(take: GroundTruthTake, folder: Path) -> None:
    """Leave out masks of another aspect ratio than their images, and a camera of which none fits, as pairs do."""
    tracks_of: dict[str, list[str]] = {}
    for name, cameras in take.objects.items():
        for camera in cameras:
            tracks_of.setdefault(camera, []).append(name)
    for camera, names in tracks_of.items():
        frames = [frame for name in names for frame in take.objects[name][camera].masks]
        size_hw = _image_hw(folder, camera, frames)
        if size_hw is None:
            continue
        misfits = 0
        for name in names:
            track = take.objects[name][camera]
            sizes = {frame: stated_size(raw) for frame, raw in track.masks.items()}
            wrong = {frame for frame, hw in sizes.items() if hw is not None and not same_aspect(hw, size_hw)}
            masks = {frame: raw for frame, raw in track.masks.items() if frame not in wrong}
            take.objects[name][camera] = StoredTrack(masks, (track.annotated_frames or frozenset()) - wrong)
            misfits += len(wrong)
        if misfits:
            take.problems.append(f"camera {camera!r}: {misfits} of {len(frames)} masks do not fit the images")
        if misfits == len(frames):
            take.objects.update({n: {**take.objects[n], camera: StoredTrack({}, frozenset())} for n in names})


def _image_hw(folder: Path, camera: str, frames: Iterable[int]) -> tuple[int, int] | None:
    """Size of the first readable image of a camera, in pixels; ``None`` if there is none."""
    with suppress(PathError):
        images = folder / check_name(camera)
        for frame in sorted(set(frames)) if images.is_dir() else ():
            path = find_image(images, frame)
            with suppress(ImageError):
                if path.is_file():
                    return image_size(path)
    return None


class GroundTruth:
    """The takes of a ground truth, read one at a time. Can be sent to worker processes.

    Args:
        path: ``relations_*.json``, ``correspondence-gt.json``, a release, or a prepared folder.
        split: of a folder; may be left out if only one split has takes.

    Raises:
        InputError: missing, or in none of these formats.
    """

    def __init__(self, path: str | os.PathLike[str], split: str | None = None) -> None:
        self.path = Path(path)
        self.missing_takes: tuple[str, ...] = ()
        self._spans: dict[str, Span] = {}
        self._scenarios: dict[str, str] = {}
        if self.path.is_dir() and is_release(self.path):
            self.path, split = _annotation_of(self.path, split), None
        if self.path.is_dir():
            self.kind: Kind = "prepared"
            self.takes = self._open_folder(split)
            return
        if split is not None:
            raise InputError(
                "a split can only be chosen in a release or a prepared folder", path=path, found=f"split {split!r}"
            )
        self._spans = index_object(self.path, ("annotations",), error=AnnotationError)
        self.takes = tuple(self._spans)
        if not self.takes:
            raise AnnotationError("holds no takes", path=path)
        first = read_span(self.path, self._spans[self.takes[0]], self.takes[0], error=AnnotationError)
        self.kind = "annotation" if isinstance(first, dict) and "object_masks" in first else "correspondence"

    def __len__(self) -> int:
        return len(self.takes)

    def only(self, uids: Iterable[str]) -> GroundTruth:
        """The takes of these uids alone, in this ground truth's order."""
        part, chosen = copy.copy(self), frozenset(uids)
        part.takes = tuple(uid for uid in self.takes if uid in chosen)
        return part

    def __iter__(self) -> Iterator[GroundTruthTake]:
        return (self.load(uid) for uid in self.takes)

    def load(self, uid: str) -> GroundTruthTake:
        """Read one take.

        Raises:
            KeyError: no take of that uid.
            AnnotationError: not of the expected form. Single bad entries are left out and listed in ``problems``.
        """
        if self.kind == "prepared":
            if uid not in self.takes:
                raise KeyError(uid)
            return self._read_prepared(uid)
        content = read_span(self.path, self._spans[uid], uid, error=AnnotationError)
        if not isinstance(content, dict):
            raise AnnotationError(f"take {uid} is not a JSON object", path=self.path, found=type(content).__name__)
        return self._read_annotation(uid, content) if "object_masks" in content else self._read_official(uid, content)

    def _open_folder(self, split: str | None) -> tuple[str, ...]:
        if not (self.path / "split.json").is_file() and (self.path / "processed" / "split.json").is_file():
            self.path = self.path / "processed"
        splits = read_json(self.path / "split.json")
        if isinstance(splits, dict) and isinstance(splits.get("split_to_take_uids"), dict):
            splits = splits["split_to_take_uids"]
        where = self.path / "split.json"
        if not isinstance(splits, dict) or not all(isinstance(v, list) for v in splits.values()):
            raise AnnotationError(
                "is not a split file", path=where, expected='{"train": [uid, …], "val": …, "test": …}'
            )
        full = [name for name, uids in splits.items() if uids]
        if split is None:
            if len(full) != 1:
                raise InputError(
                    "holds several splits",
                    path=where,
                    found=", ".join(full) or "no take",
                    fix="Choose one: --split val",
                )
            split = full[0]
        if split not in splits:
            raise InputError(f"has no split {split!r}", path=where, expected=" or ".join(map(str, splits)))
        uids = [uid[0] if isinstance(uid, list) and uid else uid for uid in splits[split]]
        for uid in uids:
            try:
                check_name(uid)
            except (PathError, TypeError):
                raise AnnotationError("holds an invalid take uid", path=where, found=repr(uid)[:60]) from None
        prepared = [uid for uid in dict.fromkeys(uids) if self._folder(uid) is not None]
        self.missing_takes = tuple(uid for uid in dict.fromkeys(uids) if self._folder(uid) is None)
        self._scenarios = self._read_scenarios()
        if not prepared:
            raise AnnotationError(f"no take of split {split!r} was prepared", path=self.path)
        return tuple(prepared)

    def _folder(self, uid: str) -> Path | None:
        for folder in (self.path / uid, *(self.path / s / uid for s in ("train", "val", "test"))):
            if (folder / "annotation.json").is_file():
                return folder
        return None

    def _read_scenarios(self) -> dict[str, str]:
        path = self.path / "takes.json"
        content = read_json(path) if path.is_file() else []
        takes = content if isinstance(content, list) else []
        return {
            str(t["take_uid"]): str(t.get("scenario") or "") for t in takes if isinstance(t, dict) and "take_uid" in t
        }

    def _read_prepared(self, uid: str) -> GroundTruthTake:
        folder = self._folder(uid)
        if folder is None:
            raise AnnotationError(f"take {uid} was not prepared", path=self.path / uid)
        content = read_json(folder / "annotation.json")
        if not isinstance(content, dict):
            raise AnnotationError("is not a JSON object", path=folder / "annotation.json")
        take = self._read_official(uid, content)
        take.scenario = take.scenario or self._scenarios.get(uid, "")
        if take.has_annotated_frames:  # written by Counterview; other folders are scored as the official code does
            _drop_misfits(take, folder)
        return take

    def _read_official(self, uid: str, content: dict[str, Any]) -> GroundTruthTake:
        take = self._take(uid, content)
        masks = content.get("masks")
        if not isinstance(masks, dict):
            raise AnnotationError(f"take {uid} has no masks", path=self.path)
        annotated_frames = content.get("annotated_frames")
        take.has_annotated_frames = isinstance(annotated_frames, dict)
        take.listed = tuple(masks)
        for name, cameras in masks.items():
            if not isinstance(cameras, dict):
                take.problems.append(f"object {name!r}: no cameras")
                continue
            listed = annotated_frames.get(name) if isinstance(annotated_frames, dict) else None
            tracks = take.objects.setdefault(name, {})
            for camera, frames in cameras.items():
                annotated = listed.get(camera, ()) if isinstance(listed, dict) else ()
                tracks[camera] = self._track(
                    take, name, camera, frames, annotated if take.has_annotated_frames else None
                )
        self._check_cameras(take)
        return take

    def _read_annotation(self, uid: str, content: dict[str, Any]) -> GroundTruthTake:
        take = self._take(uid, content)
        objects = content["object_masks"]
        if not isinstance(objects, dict):
            raise AnnotationError(f"take {uid}: 'object_masks' is not a JSON object", path=self.path)
        take.listed = tuple(objects)
        for name, cameras in objects.items():
            if not isinstance(cameras, dict):
                take.problems.append(f"object {name!r}: no cameras")
                continue
            tracks = take.objects.setdefault(name, {})
            for camera, entry in cameras.items():
                if not isinstance(entry, dict):
                    take.problems.append(f"object {name!r}, camera {camera!r}: no annotation")
                    continue
                frames = entry.get("annotation", {})
                tracks[camera] = self._track(take, name, camera, frames, entry.get("annotated_frames", ()))
        self._check_cameras(take)
        return take

    @staticmethod
    def _take(uid: str, content: dict[str, Any]) -> GroundTruthTake:
        return GroundTruthTake(uid, str(content.get("take_name") or ""), str(content.get("scenario") or ""))

    @staticmethod
    def _track(take: GroundTruthTake, name: str, camera: str, frames: Any, annotated_frames: Any) -> StoredTrack:
        where = f"object {name!r}, camera {camera!r}"
        masks: dict[int, Any] = {}
        for text, raw in frames.items() if isinstance(frames, dict) else ():
            try:
                masks[frame_number(text)] = raw
            except ValueError as error:
                take.problems.append(f"{where}: {error}")
        if frames is not None and not isinstance(frames, dict):
            take.problems.append(f"{where}: no frames")
        if annotated_frames is None:
            return StoredTrack(masks, None)
        numbers: set[int] = set()
        for value in annotated_frames if isinstance(annotated_frames, (list, tuple)) else ():
            try:
                numbers.add(frame_number(value))
            except ValueError as error:
                take.problems.append(f"{where}: annotated_frames: {error}")
        return StoredTrack(masks, frozenset(numbers))

    @staticmethod
    def _check_cameras(take: GroundTruthTake) -> None:
        for name, cameras in take.objects.items():
            ego = [camera for camera in cameras if is_ego(camera)]
            if len(ego) > 1:
                take.problems.append(f"object {name!r} has {len(ego)} ego cameras ({', '.join(ego)}) and is not scored")
