"""Masks of objects in several cameras over time, and ``tracks.json``, in which they are kept.

``{"version": 1, "settings": {…}, "cameras": {NAME: {"path", "size_hw", "fps", "offset_s", "drift_ppm"}}, "objects":
[{"name", "tracks": {NAME: [{"time_s", "frame", "mask", "visibility", "source"}]}}]}``; a mask is COCO run lengths, or
null where the object is not visible or nothing is known of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, TypeGuard, cast, get_args

from counterview.errors import AnnotationError, InputError, MaskError
from counterview.masks.rle import from_coco
from counterview.media.files import read_json, write_json
from counterview.types import ObjectMask, Track

VERSION = 1
"""Raised when files of this version could not be read by earlier programs."""

MaskSource = Literal["given", "followed", "matched", "propagated", "unknown"]
"""Where a mask comes from: the user; the object's own camera before it; another camera at the same time; optical flow
or a video memory from a frame beside it. *unknown*: the frame could not be read, or nothing vouches for a mask."""


@dataclass(frozen=True)
class TrackedCamera:
    """A camera of :class:`Tracks`.

    Attributes:
        path: its video or folder of images; ``None`` if it was given as arrays.
        size_hw: height and width of its upright images, in pixels.
        fps: frames a second; ``None`` where frames have no rate.
        offset_s: what is added to a time of this camera to get the query camera's, in seconds.
        drift_ppm: by how much its clock is slow, in millionths: the query camera's time is
            ``offset_s + time_s * (1 + drift_ppm / 1e6)``.
    """

    path: str | None
    size_hw: tuple[int, int]
    fps: float | None = None
    offset_s: float = 0.0
    drift_ppm: float = 0.0

    def query_time(self, time_s: float) -> float:
        """The query camera's time at ``time_s`` of this camera, in seconds.

        >>> TrackedCamera(None, (4, 6), offset_s=1.5).query_time(2.0)
        3.5
        """
        return self.offset_s + time_s * (1 + self.drift_ppm / 1e6)

    def own_time(self, query_time_s: float) -> float:
        """The time of this camera at ``query_time_s`` of the query camera, in seconds."""
        return (query_time_s - self.offset_s) / (1 + self.drift_ppm / 1e6)


@dataclass(frozen=True)
class TrackedMask:
    """One object in one frame of one camera.

    Attributes:
        time_s: on the camera's own clock, in seconds after its first image.
        frame: number of the frame in its video, or of the image in its folder.
        mask_rle: ``(H, W)`` at the size of the camera's images; ``None`` if the object is not visible, or unknown.
        visibility: probability that the object is visible, in ``[0, 1]``; ``None`` if it is unknown.
        source: where the mask comes from.

    Raises:
        InputError: a visibility that is not a probability, or a time or frame that is negative or not a number.
    """

    time_s: float
    frame: int
    mask_rle: ObjectMask | None
    visibility: float | None
    source: MaskSource

    def __post_init__(self) -> None:
        if self.visibility is not None and not 0.0 <= self.visibility <= 1.0:
            raise InputError("visibility is a probability", found=self.visibility, expected="0 to 1")
        if not math.isfinite(self.time_s) or self.frame < 0:
            raise InputError("a tracked mask has no place in time", found=f"{self.time_s} s, frame {self.frame}")


@dataclass(frozen=True)
class Tracks:
    """Objects in several cameras over time.

    Attributes:
        cameras: by name; the query camera comes first.
        objects: object name to camera name to its masks, in ascending order of frames.
        settings: everything that the masks depend on beside the images, as plain values.

    Raises:
        InputError: a track of a camera that is not listed, frames that do not ascend, or a mask of another size than
            its camera's images.
    """

    cameras: Mapping[str, TrackedCamera]
    objects: Mapping[str, Mapping[str, Sequence[TrackedMask]]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        objects: dict[str, Mapping[str, tuple[TrackedMask, ...]]] = {}
        for name, tracks in self.objects.items():
            for camera, masks in tracks.items():
                self._check(name, camera, masks)
            objects[name] = MappingProxyType({camera: tuple(masks) for camera, masks in tracks.items()})
        object.__setattr__(self, "cameras", MappingProxyType(dict(self.cameras)))
        object.__setattr__(self, "objects", MappingProxyType(objects))

    def _check(self, name: str, camera: str, masks: Sequence[TrackedMask]) -> None:
        if camera not in self.cameras:
            raise InputError(f"{name!r} has a track of an unknown camera", found=camera, expected=list(self.cameras))
        frames = [mask.frame for mask in masks]
        if any(later <= earlier for earlier, later in pairwise(frames)):
            raise InputError(f"the frames of {name!r} in {camera} do not ascend")
        size = tuple(self.cameras[camera].size_hw)
        for item in masks:
            if item.mask_rle is not None and item.mask_rle.size_hw != size:
                raise InputError(
                    f"a mask of {name!r} does not fit {camera}", found=item.mask_rle.size_hw, expected=size
                )

    @property
    def query_camera(self) -> str:
        """Name of the camera in which objects were shown."""
        return next(iter(self.cameras))

    def track(self, name: str, camera: str) -> Track:
        """The masks of one object in one camera as a :class:`counterview.Track`.

        Frames of which nothing is known are not annotated there.

        Args:
            name: the object.
            camera: the camera.
        """
        items = [item for item in self.objects[name].get(camera, ()) if item.visibility is not None]
        masks = {item.frame: item.mask_rle for item in items if item.mask_rle is not None}
        return Track(name, camera, masks, frozenset(item.frame for item in items))


def tracks_to_json(tracks: Tracks) -> dict[str, Any]:
    """Tracks as the plain values of ``tracks.json``."""
    return {
        "version": VERSION,
        "settings": dict(tracks.settings),
        "cameras": {
            name: {
                "path": camera.path,
                "size_hw": list(camera.size_hw),
                "fps": camera.fps,
                "offset_s": camera.offset_s,
                "drift_ppm": camera.drift_ppm,
            }
            for name, camera in tracks.cameras.items()
        },
        "objects": [
            {"name": name, "tracks": {camera: [mask_to_json(m) for m in masks] for camera, masks in cameras.items()}}
            for name, cameras in tracks.objects.items()
        ],
    }


def mask_to_json(item: TrackedMask) -> dict[str, Any]:
    """One mask ``(H, W)`` of a track as plain values."""
    return {
        "time_s": round(item.time_s, 6),
        "frame": item.frame,
        "mask": None if item.mask_rle is None else item.mask_rle.to_coco(),
        "visibility": None if item.visibility is None else round(item.visibility, 4),
        "source": item.source,
    }


def mask_from_json(value: Any) -> TrackedMask:
    """The inverse of :func:`mask_to_json`.

    Raises:
        AnnotationError: values of another form.
        MaskError: a mask ``(H, W)`` that is malformed.
    """
    if not isinstance(value, Mapping):
        raise AnnotationError("a mask of a track is not an object", found=type(value).__name__)
    time_s, frame, source = value.get("time_s"), value.get("frame"), value.get("source")
    visibility, mask = value.get("visibility"), value.get("mask")
    if (
        not _is_number(time_s)
        or type(frame) is not int
        or not (visibility is None or _is_number(visibility))
        or source not in get_args(MaskSource)
    ):
        found = {key: value.get(key) for key in ("time_s", "frame", "visibility", "source")}
        sources = ", ".join(get_args(MaskSource))
        raise AnnotationError("a mask of a track is malformed", found=found, expected=f"numbers, a source of {sources}")
    return TrackedMask(time_s, frame, None if mask is None else from_coco(mask), visibility, cast(MaskSource, source))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def write_tracks(path: str | os.PathLike[str], tracks: Tracks) -> None:
    """Write ``tracks.json``, aside and renamed.

    Args:
        path: the file.
        tracks: what is written.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(path, tracks_to_json(tracks), indent=None)


def read_tracks(path: str | os.PathLike[str]) -> Tracks:
    """Read ``tracks.json``.

    Args:
        path: the file.

    Raises:
        AnnotationError: the file is missing, not JSON, or not tracks; it names the place.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "cameras" not in content or "objects" not in content:
        raise AnnotationError("is not a tracks.json", path=path, expected="an object with cameras and objects")
    version = content.get("version")
    if version != VERSION:
        raise AnnotationError(
            "is of another version", path=path, found=version, expected=VERSION, fix="Install the latest Counterview."
        )
    try:
        return _tracks(content)
    except (AnnotationError, InputError, MaskError) as error:
        raise AnnotationError(
            error.problem, path=path, found=error.found, expected=error.expected, fix=error.fix
        ) from None


def _tracks(content: dict[str, Any]) -> Tracks:
    cameras, objects, settings = content["cameras"], content["objects"], content.get("settings", {})
    if not isinstance(cameras, dict) or not isinstance(objects, list) or not isinstance(settings, dict):
        raise AnnotationError(
            "cameras, objects or settings are of another kind", expected="an object, a list, an object"
        )
    found: dict[str, dict[str, list[TrackedMask]]] = {}
    for entry in objects:
        name, tracks = (entry.get("name"), entry.get("tracks")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(tracks, dict) or name in found:
            raise AnnotationError("an object is malformed, or there twice", found=name, expected="a name and tracks")
        if not all(isinstance(masks, list) for masks in tracks.values()):
            raise AnnotationError(f"a track of {name!r} is not a list")
        found[name] = {camera: [mask_from_json(m) for m in masks] for camera, masks in tracks.items()}
    return Tracks({name: _camera(name, value) for name, value in cameras.items()}, found, settings)


def _camera(name: str, value: Any) -> TrackedCamera:
    if not isinstance(value, dict):
        raise AnnotationError(f"the camera {name!r} is not an object", found=type(value).__name__)
    size, path, fps = value.get("size_hw"), value.get("path"), value.get("fps")
    offset, drift = value.get("offset_s", 0.0), value.get("drift_ppm", 0.0)
    if (
        not (isinstance(size, list) and len(size) == 2 and all(type(v) is int and v > 0 for v in size))
        or not (path is None or isinstance(path, str))
        or not (fps is None or _is_number(fps))
        or not (_is_number(offset) and _is_number(drift))
    ):
        raise AnnotationError(
            f"the camera {name!r} is malformed", found={k: value.get(k) for k in ("size_hw", "fps", "offset_s")},
            expected="size_hw, path, fps and offset_s",
        )  # fmt: skip
    return TrackedCamera(path, (size[0], size[1]), fps, float(offset), float(drift))
