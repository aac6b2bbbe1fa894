"""What a reader finds in the files of a tool, frame by frame, put together to tracks.

Tools know images and shapes with a label. What a track states beside its masks (time, source, how probable it is that
an object is visible, that nothing is known of it) is kept in a *record* of the frame wherever a format has a place for
values of others; see :func:`frame_record`. Without a record, an object without a shape in a frame that is listed counts
as not visible, as annotation tools mean it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from counterview.errors import AnnotationError, InputError, MaskError, shown
from counterview.exchange.shapes import check_size, union
from counterview.exchange.tracks import MaskSource, TrackedCamera, TrackedMask, Tracks
from counterview.types import ObjectMask

MAX_FILE_BYTES = 1 << 28
"""Size of the largest annotation file that is read."""
MAX_SHAPES = 1_000_000
"""Shapes of all files of one reading at most."""
MAX_STATES = 3_000_000
"""Objects times frames at most: of each it is stated whether it is there."""
MAX_FRAME = 10**9
RECORD = "counterview"
"""Key of the record of a frame in files of other formats."""

Missing = Literal["absent", "unknown"]
Repeated = Literal["error", "merge", "number"]
_NAME_END = 200
"""Characters of a name in which a number is looked for."""
_LAST_NUMBER = re.compile(r"(\d{1,9})(?!.*\d)")


@dataclass(frozen=True)
class ReadOptions:
    """What files of other tools may leave open.

    Attributes:
        camera: name of the camera, where the files name none.
        size_hw: height and width of the images in pixels, where the files do not state it.
        fps: frames a second, where the files do not state it.
        missing: what an object without a shape in an annotated frame is: ``absent`` (not visible) or ``unknown``.
        repeated: what several shapes of one label in one frame are, if nothing tells them apart: an ``error``, parts
            of one object (``merge``), or objects of their own (``number``: in their order in each frame).

    Raises:
        InputError: a value of another kind.
    """

    camera: str | None = None
    size_hw: tuple[int, int] | None = None
    fps: float | None = None
    missing: Missing = "absent"
    repeated: Repeated = "error"

    def __post_init__(self) -> None:
        for name, allowed in (("missing", get_args(Missing)), ("repeated", get_args(Repeated))):
            if getattr(self, name) not in allowed:
                raise InputError(f"no such value of {name}", found=getattr(self, name), expected=" or ".join(allowed))
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise InputError("fps is a positive number", found=self.fps)


def frames_of(tracks: Tracks, camera: str) -> dict[int, dict[str, TrackedMask]]:
    """Frame number to object name to what is stated of it in that camera, in ascending order of frames."""
    frames: dict[int, dict[str, TrackedMask]] = {}
    for name, cameras in tracks.objects.items():
        for item in cameras.get(camera, ()):
            frames.setdefault(item.frame, {})[name] = item
    return dict(sorted(frames.items()))


def shown_mask(item: TrackedMask) -> ObjectMask | None:
    """The mask ``(H, W)`` of an item, if it has a pixel: most tools cannot hold an empty shape."""
    return None if item.mask_rle is None or item.mask_rle.is_empty else item.mask_rle


def frame_record(tracks: Tracks, camera: str, frame: int, items: Mapping[str, TrackedMask]) -> dict[str, Any]:
    """What a format has no words for, as plain values: the camera, the time, and what is stated of each object.

    Args:
        tracks: all of it.
        camera: the camera.
        frame: number of the frame.
        items: of :func:`frames_of`.
    """
    about = tracks.cameras[camera]
    return {
        "camera": camera,
        "cameras": list(tracks.cameras),
        "path": about.path,
        "fps": about.fps,
        "offset_s": about.offset_s,
        "drift_ppm": about.drift_ppm,
        "frame": frame,
        "time_s": round(next(iter(items.values())).time_s, 6),
        "objects": {
            name: {
                "mask": shown_mask(item) is not None,
                "visibility": None if item.visibility is None else round(item.visibility, 4),
                "source": item.source,
            }
            for name, item in items.items()
        },
    }


def image_name(name: str, camera: TrackedCamera, frame: int) -> str:
    """The image that a file of a tool names: ``CAMERA/FRAME.jpg``, or the camera's own path if that is an image.

    Args:
        name: of the camera.
        camera: its facts.
        frame: number of the frame.
    """
    if camera.path is not None and PurePosixPath(camera.path).suffix.lower() in _IMAGE_SUFFIXES:
        return camera.path
    return f"{name}/{frame:06d}.jpg"


_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".heic")


def image_folder(file: str) -> str:
    """The folder right above an image, by its path or address; empty if it names none.

    >>> image_folder("data/ego/0.jpg"), image_folder("0.jpg")
    ('ego', '')
    >>> image_folder("/data/local-files/?d=videos/ego/0.jpg")  # as Label Studio names files of its own disk
    'ego'
    """
    path = file.partition("?d=")[2] or file.partition("?")[0]
    parent = PurePosixPath(path.replace("\\", "/")).parent.name
    return "" if parent in (".", "..") else parent


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Frame numbers of images: the last number in each name, or the places in their order if two have the same.

    >>> numbered(["frame_0030.jpg", "frame_0060.jpg"])
    {'frame_0030.jpg': 30, 'frame_0060.jpg': 60}
    >>> numbered(["b.jpg", "a.jpg"])
    {'a.jpg': 0, 'b.jpg': 1}
    """
    listed = sorted(set(names))
    found = [_LAST_NUMBER.search(PurePosixPath(name).stem[-_NAME_END:]) for name in listed]
    values = [int(match[1]) for match in found if match is not None]
    if len(set(values)) == len(listed):
        return dict(zip(listed, values, strict=True))
    return {name: index for index, name in enumerate(listed)}


@dataclass
class _Frame:
    time_s: float | None = None
    record: dict[str, Any] | None = None
    shapes: dict[tuple[str, str | None], list[tuple[ObjectMask, float, MaskSource]]] = field(default_factory=dict)
    absent: set[tuple[str, str | None]] = field(default_factory=set)


class Collector:
    """Takes what a reader finds, and makes tracks of it.

    Args:
        path: the file or folder that is read, for the messages.
        options: what the files leave open.
    """

    def __init__(self, path: str | os.PathLike[str], options: ReadOptions) -> None:
        self.path, self.options = path, options
        self._cameras: dict[str, TrackedCamera] = {}
        self._frames: dict[str, dict[int, _Frame]] = {}
        self._stated: set[str] = set()
        self._order: list[Any] = []
        self._in_parts: set[str] = set()
        self._labels: dict[str, dict[str | None, None]] = {}
        self._count = 0

    def error(self, problem: str, **facts: Any) -> AnnotationError:
        """An error that names what is read."""
        return AnnotationError(problem, path=self.path, **facts)

    def camera(self, name: Any, size_hw: tuple[Any, Any], record: Any = None) -> str:
        """Note a camera, and return its name.

        Args:
            name: of it; the one of the options, or ``camera``, if it is ``None`` or empty.
            size_hw: height and width of its images in pixels.
            record: of one of its frames, if there is one.

        Raises:
            AnnotationError: another kind of name, a size that is not one, or another one than before.
        """
        facts = record if isinstance(record, dict) else {}
        name = facts.get("camera", name) or self.options.camera or "camera"
        if not isinstance(name, str):
            raise self.error("the name of a camera is not a text", found=shown(name, 60))
        try:
            size = check_size(*size_hw)
        except MaskError as error:
            raise self.error(f"camera {shown(name)}: {error.problem}", found=error.found) from None
        known = self._cameras.get(name)
        if known is None or (facts and name not in self._stated):
            self._cameras[name] = self._about(name, size, facts)
            self._frames.setdefault(name, {})
            if facts:
                self._stated.add(name)
                self._order = self._order or (facts["cameras"] if isinstance(facts.get("cameras"), list) else [])
        if known is not None and known.size_hw != size:
            raise self.error(f"the images of camera {shown(name)} are of several sizes", found=[known.size_hw, size])
        return name

    def _about(self, name: str, size_hw: tuple[int, int], facts: Mapping[str, Any]) -> TrackedCamera:
        path, fps = facts.get("path"), facts.get("fps", self.options.fps)
        offset, drift = facts.get("offset_s", 0.0), facts.get("drift_ppm", 0.0)
        if not (path is None or isinstance(path, str)) or not (fps is None or (_is_number(fps) and fps > 0)):
            raise self.error(f"the facts of camera {shown(name)} are malformed", found=shown([path, fps], 60))
        if not (_is_number(offset) and _is_number(drift)):
            raise self.error(f"the clock of camera {shown(name)} is malformed", found=shown([offset, drift], 60))
        return TrackedCamera(path, size_hw, fps, float(offset), float(drift))

    def size_hw(self, camera: str) -> tuple[int, int]:
        """Height and width of a camera's images in pixels."""
        return self._cameras[camera].size_hw

    def object(self, label: Any, instance: str | None = None) -> None:
        """Note an object, also one without a shape.

        Args:
            label: its name or class.
            instance: tells it from others of that label.

        Raises:
            AnnotationError: a label that is not a text.
        """
        if not isinstance(label, str) or not label.strip():
            raise self.error("a label is not a text", found=shown(label, 60))
        self._labels.setdefault(label, {}).setdefault(instance)

    def frame(self, camera: str, number: Any, *, time_s: Any = None, record: Any = None) -> int:
        """Note a frame that was annotated, and return its number.

        Args:
            camera: the camera.
            number: of the frame; the record's, if that has one.
            time_s: of the frame on the camera's clock, if the file states it.
            record: of :func:`frame_record`, if the file has one.

        Raises:
            AnnotationError: malformed values.
        """
        if record is not None:
            if not isinstance(record, dict) or not isinstance(record.get("objects"), dict):
                raise self.error("the record of a frame is malformed", found=shown(record, 60))
            number, time_s = record.get("frame", number), record.get("time_s", time_s)
        if type(number) is not int or not 0 <= number <= MAX_FRAME:
            raise self.error("a frame number is not an integer of 0 or more", found=shown(number, 60))
        if not (time_s is None or _is_number(time_s)):
            raise self.error(f"the time of frame {number} is not a number", found=shown(time_s, 60))
        entry = self._frames[camera].setdefault(number, _Frame())
        entry.time_s = entry.time_s if time_s is None else float(time_s)
        if record is not None:
            entry.record = {name: self._state(name, state) for name, state in record["objects"].items()}
            for name in record["objects"]:
                self.object(name)
        return number

    def _state(self, name: str, state: Any) -> dict[str, Any]:
        visibility: Any = state.get("visibility") if isinstance(state, dict) else "?"
        if (
            not isinstance(state, dict)
            or not (visibility is None or (_is_number(visibility) and 0 <= visibility <= 1))
            or state.get("source") not in get_args(MaskSource)
        ):
            raise self.error(f"the record of {shown(name)} in a frame is malformed", found=shown(state, 60))
        return {"mask": bool(state.get("mask")), "visibility": visibility, "source": state["source"]}

    def shape(
        self,
        camera: str,
        number: int,
        label: Any,
        mask: ObjectMask,
        *,
        instance: str | None = None,
        visibility: float = 1.0,
        source: MaskSource = "given",
        is_part: bool = False,
    ) -> None:
        """Note a shape.

        Args:
            camera: the camera.
            number: of a frame that was noted.
            label: the object's name or class.
            mask: ``(H, W)`` at the size of the camera's images.
            instance: tells objects of one label apart, over all frames; shapes of one instance in a frame are parts.
            visibility: probability that it is there.
            source: of the mask.
            is_part: whether other shapes of that label in the frame are parts of the same object.

        Raises:
            AnnotationError: a label that is not a text, or too many shapes.
        """
        if is_part:
            self._in_parts.add(label)
        self.object(label, instance)
        self._count += 1
        if self._count > MAX_SHAPES:
            raise self.error("holds too many shapes", expected=f"at most {MAX_SHAPES}")
        self._frames[camera][number].shapes.setdefault((label, instance), []).append((mask, visibility, source))

    def absent(self, camera: str, number: int, label: Any, instance: str | None = None) -> None:
        """Note that an object is not visible in a frame that was noted. Arguments as for :meth:`shape`."""
        self.object(label, instance)
        self._frames[camera][number].absent.add((label, instance))

    def tracks(self, settings: Mapping[str, Any] | None = None) -> Tracks:
        """All that was noted.

        Args:
            settings: of the tracks, if the file has them.

        Raises:
            AnnotationError: nothing was found, or several shapes of one label that nothing tells apart.
        """
        if not self._cameras:
            raise self.error("holds no annotated image")
        if self.options.repeated == "number":
            self._number_repeated()
        names = self._names()
        frames = sum(map(len, self._frames.values()))
        if frames * len(names) > MAX_STATES:
            raise self.error(
                "holds too many objects in too many frames", found=f"{len(names)} objects, {frames} frames",
                expected=f"a product of at most {MAX_STATES}",
            )  # fmt: skip
        objects: dict[str, dict[str, list[TrackedMask]]] = {name: {} for name in names.values()}
        for camera, entries in self._frames.items():
            for number, entry in sorted(entries.items()):
                for name, item in self._items(camera, number, entry, names).items():
                    objects[name].setdefault(camera, []).append(item)
        stated = [name for name in self._order if isinstance(name, str) and name in self._cameras]
        cameras = {name: self._cameras[name] for name in dict.fromkeys([*stated, *self._cameras])}
        try:
            return Tracks(cameras, objects, dict(settings or {}))
        except InputError as error:
            raise self.error(error.problem, found=error.found, expected=error.expected) from None

    def _must_differ(self, label: str) -> bool:
        return self.options.repeated == "error" and label not in self._in_parts

    def _number_repeated(self) -> None:
        """Make instances of the shapes of a label that several shapes of some frame have, by their order in frames."""
        entries = [entry for frames in self._frames.values() for entry in frames.values()]
        repeated = dict.fromkeys(
            key
            for entry in entries
            for key, found in entry.shapes.items()
            if key[1] is None and len(found) > 1 and key[0] not in self._in_parts
        )
        for label, _ in repeated:
            del self._labels[label][None]
            for entry in entries:
                for place, found in enumerate(entry.shapes.pop((label, None), ()), start=1):
                    self.object(label, str(place))
                    entry.shapes.setdefault((label, str(place)), []).append(found)

    def _names(self) -> dict[tuple[str, str | None], str]:
        """Label and instance to the object's name: the label, followed by the instance where there are several."""
        names: dict[tuple[str, str | None], str] = {}
        for label, instances in self._labels.items():
            for each in instances:
                names[label, each] = f"{label} {each}" if len(instances) > 1 and each is not None else label
        if len(set(names.values())) < len(names):
            raise self.error("labels and instances give one name to two objects", found=shown(sorted(names.values())))
        return names

    def _items(
        self, camera: str, number: int, entry: _Frame, names: Mapping[tuple[str, str | None], str]
    ) -> dict[str, TrackedMask]:
        """Object name to what is known of it in one frame."""
        time_s = entry.time_s if entry.time_s is not None else number / (self._cameras[camera].fps or 1.0)
        record, items = entry.record or {}, dict[str, TrackedMask]()
        for key, shapes in entry.shapes.items():
            name = names[key]
            if len(shapes) > 1 and key[1] is None and self._must_differ(key[0]):
                raise self.error(
                    f"nothing tells {len(shapes)} shapes of {shown(name)} in frame {number} of {camera} apart",
                    fix="Say what they are: repeated='merge' (parts of one object) or 'number' (objects of their own).",
                )
            visibility: float | None = max(shape[1] for shape in shapes)
            source = shapes[0][2]
            if record.get(name, {}).get("mask"):
                visibility, source = record[name]["visibility"], record[name]["source"]
            items[name] = TrackedMask(time_s, number, union([shape[0] for shape in shapes]), visibility, source)
        for name, state in record.items():
            if name in items:
                continue
            if state.get("mask"):  # it was taken away by hand
                items[name] = TrackedMask(time_s, number, None, 0.0, "given")
            else:
                items[name] = TrackedMask(time_s, number, None, state["visibility"], state["source"])
        absent = list(entry.absent)
        if entry.record is None and self.options.missing == "absent":
            absent += names
        for key in absent:
            items.setdefault(names[key], TrackedMask(time_s, number, None, 0.0, "given"))
        return items


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
