"""CVAT for video 1.1: ``cvat/CAMERA.xml``, with a ``<mask>`` element for each mask: run lengths along rows in its box.

CVAT has no tracks of masks: of each track it takes the first mask alone. So every mask is a track of its own, as in
CVAT's own files, which ends with the same mask marked ``outside`` in the next frame; the label is the object, and
``group_id`` its number. Times, sources and frames without a mask are in a comment of the file: Counterview reads it,
CVAT drops it. CVAT needs the labels in its project before it takes the file.

Read are tracks of masks, polygons, boxes and ellipses, and the ``<image>`` elements of CVAT for images 1.1. An object
whose shape is ``outside`` in a key frame is not visible there; in the frames that CVAT interpolates, the source is
``propagated``. Frames with any shape, and all ``<image>`` elements, count as annotated. Lines, points, cuboids and
skeletons are left out, and counted in the log.
"""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from counterview.errors import AnnotationError, MaskError, shown
from counterview.exchange.collect import (
    MAX_FILE_BYTES,
    Collector,
    ReadOptions,
    frame_record,
    frames_of,
    image_folder,
    numbered,
    shown_mask,
)
from counterview.exchange.shapes import box_mask, check_size, ellipse_mask, numbers, place_mask, polygon_mask, rotated
from counterview.exchange.tracks import Tracks
from counterview.exchange.xml import parse_xml
from counterview.media.files import atomic_write, check_name, decode_json, safe_join
from counterview.types import BoolImage, ObjectMask

FOLDER = "cvat"
_COMMENT = "counterview "
_SHAPES = ("mask", "polygon", "box", "ellipse")
_OTHER_SHAPES = ("polyline", "points", "cuboid", "skeleton")
logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------- writing


def write(tracks: Tracks, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``cvat/CAMERA.xml`` for each camera.

    Args:
        tracks: what is written.
        folder: in which.

    Returns:
        the files.

    Raises:
        PathError: the name of a camera that is not a file name.
        OutputError: they cannot be written.
    """
    paths = [safe_join(folder, FOLDER, f"{check_name(camera)}.xml") for camera in tracks.cameras]
    for camera, path in zip(tracks.cameras, paths, strict=True):
        with atomic_write(path, "w") as handle:
            handle.write(_document(tracks, camera))
    return paths


def _document(tracks: Tracks, camera: str) -> str:
    about, frames = tracks.cameras[camera], frames_of(tracks, camera)
    height, width = about.size_hw
    last = max(frames, default=0)
    labels = "".join(
        f"<label><name>{_text(name)}</name><type>mask</type><attributes></attributes></label>"
        for name in tracks.objects
    )
    out = io.StringIO()
    out.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta>\n<task>')
    out.write(f"<name>{_text(camera)}</name><size>{last + 1}</size><mode>interpolation</mode>")
    out.write(f"<start_frame>0</start_frame><stop_frame>{last}</stop_frame><labels>{labels}</labels>")
    out.write(f"<original_size><width>{width}</width><height>{height}</height></original_size></task>\n")
    out.write(f"<source>{_text(Path(about.path).name if about.path else camera)}</source>\n</meta>\n")
    records = [frame_record(tracks, camera, frame, items) for frame, items in frames.items()]
    # Two hyphens would end the comment.
    text = json.dumps({"frames": records, "objects": list(tracks.objects)}).replace("--", "\\u002d\\u002d")
    out.write(f"<!--{_COMMENT}{text}-->\n")
    number = 0
    for group, (name, cameras) in enumerate(tracks.objects.items(), start=1):
        for item in cameras.get(camera, ()):
            mask = shown_mask(item)
            if mask is None:
                continue
            source = "manual" if item.source == "given" else "auto"
            out.write(f'<track id="{number}" label={_quoted(name)} source="{source}" group_id="{group}">\n')
            shape = _mask_attributes(mask)
            out.write(f'<mask frame="{item.frame}" keyframe="1" outside="0" {shape}</mask>\n')
            if item.frame < last:
                out.write(f'<mask frame="{item.frame + 1}" keyframe="1" outside="1" {shape}</mask>\n')
            out.write("</track>\n")
            number += 1
    out.write("</annotations>\n")
    return out.getvalue()


def _mask_attributes(mask: ObjectMask) -> str:
    x, y, width, height = mask.box_xywh
    flat = mask.to_array()[y : y + height, x : x + width].ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(edges, prepend=0, append=flat.size).tolist()
    text = ", ".join(map(str, [0, *runs] if flat[0] else runs))
    return f'occluded="0" rle="{text}" left="{x}" top="{y}" width="{width}" height="{height}" z_order="0">'


def _printable(text: str) -> str:
    """Without characters that XML cannot hold at all."""
    return "".join(c if c in "\t\n" or (ord(c) >= 32 and not 0xD800 <= ord(c) <= 0xDFFF and ord(c) < 0xFFFE) or
                   ord(c) > 0xFFFF else "?" for c in text)  # fmt: skip


def _text(text: str) -> str:
    return escape(_printable(text))


def _quoted(text: str) -> str:
    return quoteattr(_printable(text))


# ---------------------------------------------------------------------------------------------------- reading


def read(path: str | os.PathLike[str], options: ReadOptions) -> Tracks:
    """Read an XML file of CVAT, or a folder of them, one a camera.

    Args:
        path: the file or folder.
        options: what it leaves open.

    Raises:
        AnnotationError: malformed; it names the file and the line.
    """
    root, found = Path(path), Collector(path, options)
    files = sorted(root.glob("*.xml")) if root.is_dir() else [root]
    if not files:
        raise found.error("holds no XML files")
    for file in files:
        found.path = file
        _File(file, found, options if len(files) == 1 else ReadOptions(size_hw=options.size_hw)).read()
    found.path = root
    return found.tracks()


class _File:
    """One XML file while it is read."""

    def __init__(self, path: Path, found: Collector, options: ReadOptions) -> None:
        self.path, self.found, self.options = path, found, options
        self.width: str | None = None
        self.height: str | None = None
        self.name: str | None = None
        self.records: dict[int, Any] = {}
        self.shapes: list[tuple[int, str, str | None, ObjectMask | None, bool]] = []
        self.images: dict[str, tuple[tuple[int, int], list[tuple[str, ObjectMask]]]] = {}
        self.track: dict[str, str] | None = None
        self.image: str | None = None
        self.left_out = 0

    def read(self) -> None:
        parse_xml(self.path, self.start, self.end, self.comment, max_bytes=MAX_FILE_BYTES)
        if self.left_out:
            logger.warning("%s: %d shapes without an area are left out", self.path, self.left_out)
        if self.images:
            self.note_images()
        if self.images and not self.shapes:
            return
        record = next(iter(self.records.values()), None)
        camera = self.found.camera(self.options.camera or self.name or self.path.stem, self.size(), record)
        for number, each in self.records.items():
            self.found.frame(camera, number, record=each)
        for number, label, instance, mask, is_key in self.shapes:
            if mask is not None or is_key:
                self.found.frame(camera, number, record=self.records.get(number))
            instance = None if self.records else instance
            if mask is not None:
                source = "given" if is_key else "propagated"
                self.found.shape(camera, number, label, mask, instance=instance, source=source)  # type: ignore[arg-type]
            elif is_key and number not in self.records:
                self.found.absent(camera, number, label, instance)

    def note_images(self) -> None:
        """Note the images of CVAT for images: the folder of each is its camera, as in COCO."""
        folders: dict[str, list[str]] = {}
        for name in self.images:
            folders.setdefault(image_folder(name), []).append(name)
        for folder, names in folders.items():
            number_of = numbered(names)
            for name in names:
                size, shapes = self.images[name]
                camera = self.found.camera(folder or self.options.camera or self.name or self.path.stem, size)
                number = self.found.frame(camera, number_of[name])
                for label, mask in shapes:
                    self.found.shape(camera, number, label, mask)

    def size(self) -> tuple[int, int]:
        try:
            return check_size(_integer(self.height, "height"), _integer(self.width, "width"))
        except MaskError as error:
            if self.options.size_hw is not None:
                return self.options.size_hw
            raise AnnotationError(
                "does not state the size of its images", path=self.path, found=error.found,
                expected="<original_size> in <meta>", fix="Give it: size_hw=(HEIGHT, WIDTH).",
            ) from None  # fmt: skip

    def comment(self, text: str) -> None:
        if not text.startswith(_COMMENT):
            return
        content = decode_json(
            text[len(_COMMENT) :].encode(), self.path, "its comment is malformed", error=AnnotationError
        )
        frames = content.get("frames") if isinstance(content, dict) else None
        names = content.get("objects", []) if isinstance(content, dict) else None
        if not isinstance(frames, list) or not isinstance(names, list):
            raise AnnotationError("the comment of Counterview is malformed")
        for name in names:
            self.found.object(name)
        for record in frames:
            number = record.get("frame") if isinstance(record, dict) else None
            if type(number) is not int:
                raise AnnotationError("the comment of Counterview is malformed", found=shown(record, 60))
            self.records[number] = record

    def start(self, names: tuple[str, ...], attributes: dict[str, str]) -> None:
        if len(names) == 1 and names[0] != "annotations":
            raise AnnotationError("is not a file of CVAT", found=f"<{names[0][:40]}>", expected="<annotations>")
        if names[1:] == ("track",):
            self.track = attributes
        elif names[1:] == ("image",):
            name = attributes.get("name") or attributes.get("id") or ""
            size = (_integer(attributes.get(key), key) for key in ("height", "width"))
            if name in self.images:
                raise AnnotationError("an image is there twice", found=shown(name, 60))
            self.images[name] = check_size(*size), []
            self.image = name
        elif len(names) == 3 and names[1] in ("track", "image") and names[2] in _SHAPES:
            self.shape(names[2], attributes)
        elif len(names) == 3 and names[1] in ("track", "image") and names[2] in _OTHER_SHAPES:
            self.left_out += 1

    def end(self, names: tuple[str, ...], text: str) -> None:
        if names[1:2] == ("meta",) and names[-1] in ("width", "height") and names[-2] == "original_size":
            setattr(self, names[-1], text)
        elif names[1:] in (("meta", "task", "name"), ("meta", "job", "name")):
            self.name = self.name or text or None
        elif names[1:] == ("track",):
            self.track = None
        elif names[1:] == ("image",):
            self.image = None

    def shape(self, kind: str, attributes: dict[str, str]) -> None:
        """Note a shape of a track, or of an image."""
        if self.image is not None:
            size, shapes = self.images[self.image]
            shapes.append((_label(kind, attributes), _mask(kind, attributes, size)))
            return
        track = self.track or {}
        label, number = _label(kind, track), _integer(attributes.get("frame"), "frame")
        is_outside, is_key = attributes.get("outside") == "1", attributes.get("keyframe", "1") == "1"
        if kind == "mask" and is_outside:  # the end of a single frame, which says nothing of the next one
            return
        # A track of a mask is one frame, so that its number tells no objects apart.
        instance = None if kind == "mask" else track.get("id", "")[:60]
        self.shapes.append(
            (number, label, instance, None if is_outside else _mask(kind, attributes, self.size()), is_key)
        )


def _label(kind: str, attributes: dict[str, str]) -> str:
    label = attributes.get("label")
    if not label:
        raise AnnotationError(f"a {kind} without a label")
    return label


def _integer(text: str | None, what: str) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise MaskError(f"the {what} is not an integer of 0 or more", found=shown(text, 40))
    return int(text)


def _mask(kind: str, attributes: dict[str, str], size_hw: tuple[int, int]) -> ObjectMask:
    if kind == "mask":
        left, top = _integer(attributes.get("left"), "left edge"), _integer(attributes.get("top"), "top edge")
        return place_mask(_run_lengths(attributes), (left, top), size_hw)
    degrees = _floats([attributes.get("rotation", "0")])[0]
    if kind == "polygon":
        pairs = [pair.split(",") for pair in attributes.get("points", "").split(";")]
        if len(pairs) < 3 or any(len(pair) != 2 for pair in pairs):
            raise MaskError("the points of a polygon are malformed", found=shown(attributes.get("points"), 60))
        return polygon_mask(_floats([value for pair in pairs for value in pair]).reshape(-1, 2), size_hw)
    if kind == "ellipse":
        cx, cy, rx, ry = _floats([attributes.get(key) for key in ("cx", "cy", "rx", "ry")])
        return ellipse_mask((float(cx), float(cy)), (float(rx), float(ry)), size_hw, degrees=float(degrees))
    x0, y0, x1, y1 = _floats([attributes.get(key) for key in ("xtl", "ytl", "xbr", "ybr")])
    if degrees % 360 == 0:
        return box_mask((float(x0), float(y0), float(x1), float(y1)), size_hw)
    center, half = np.array([x0 + x1, y0 + y1]) / 2, np.array([x1 - x0, y1 - y0]) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    return polygon_mask(center + rotated(corners, float(degrees)), size_hw)


def _floats(texts: list[str | None]) -> NDArray[np.float64]:
    try:
        return numbers([float(text or "") for text in texts])
    except ValueError:
        raise MaskError("coordinates are not numbers", found=shown(texts, 60)) from None


def _run_lengths(attributes: dict[str, str]) -> BoolImage:
    """The part of the image that a ``<mask>`` covers, ``(h, w)`` bool."""
    height, width = check_size(_integer(attributes.get("height"), "height"), _integer(attributes.get("width"), "width"))
    texts = attributes.get("rle", "").split(",")
    runs = np.array([_integer(text.strip(), "run length") for text in texts], dtype=np.int64)
    if int(runs.sum()) != height * width:
        raise MaskError("run lengths do not fill their box", found=int(runs.sum()), expected=f"{height} x {width}")
    values = np.arange(runs.size) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)
