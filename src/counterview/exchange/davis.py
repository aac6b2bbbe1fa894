"""Index images with the DAVIS palette: ``davis/CAMERA/FRAME.png``, a value for each object, 0 for none.

``davis/objects.json`` names the objects and holds what an index image cannot: times, how probable it is that an object
is visible, and frames in which nothing is known of it. Where two objects overlap, the later one has the pixels; at most
254 objects fit, since 255 is DAVIS's value for void.

Read are also folders without ``objects.json``: a folder of PNG files, or of folders of them, whose objects are then
called ``object 1``, ``object 2``, …
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from counterview.errors import AnnotationError, ImageError, InputError, MaskError, shown
from counterview.exchange.collect import (
    MAX_FILE_BYTES,
    MAX_FRAME,
    Collector,
    ReadOptions,
    frame_record,
    frames_of,
    numbered,
)
from counterview.exchange.tracks import Tracks
from counterview.masks.png import object_values, read_index_png, write_index_png
from counterview.media.files import check_name, read_json, safe_join, write_json
from counterview.types import ObjectMask

FOLDER, NAMES = "davis", "objects.json"
MAX_OBJECTS = 254


def write(tracks: Tracks, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``davis/CAMERA/FRAME.png`` and ``davis/objects.json``.

    Args:
        tracks: what is written.
        folder: in which.

    Returns:
        the files, the list of names last.

    Raises:
        InputError: more than 254 objects, or the name of a camera that is not a file name.
        OutputError: they cannot be written.
    """
    if len(tracks.objects) > MAX_OBJECTS:
        raise InputError("index images hold at most 254 objects", found=len(tracks.objects), fix="Write COCO instead.")
    value_of = {name: value for value, name in enumerate(tracks.objects, start=1)}
    written, records = list[Path](), list[dict[str, Any]]()
    for camera, about in tracks.cameras.items():
        for frame, items in frames_of(tracks, camera).items():
            index = np.zeros(about.size_hw, dtype=np.uint8)
            for name, item in items.items():
                if item.mask_rle is not None:
                    index[item.mask_rle.to_array()] = value_of[name]
            path = safe_join(folder, FOLDER, check_name(camera), f"{frame:05d}.png")
            write_index_png(path, index)
            written.append(path)
            records.append(frame_record(tracks, camera, frame, items))
    path = safe_join(folder, FOLDER, NAMES)
    write_json(
        path, {"objects": {str(value): name for name, value in value_of.items()}, "frames": records}, indent=None
    )
    return [*written, path]


def image_folders(path: Path) -> dict[str, list[Path]]:
    """Camera to index images: the folder's own, or those of its folders. Empty if there are none."""
    own = _images(path)
    if own:
        return {path.name: own}
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return {folder.name: images for folder in folders if (images := _images(folder))}


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith("."))


def read(path: str | os.PathLike[str], options: ReadOptions) -> Tracks:
    """Read index images.

    Args:
        path: the folder.
        options: what it leaves open.

    Raises:
        AnnotationError: malformed; it names the file.
    """
    root, found = Path(path), Collector(path, options)
    names, records = _names(root, found)
    folders = image_folders(root)
    if not folders:
        raise found.error("holds no index images", expected="CAMERA/FRAME.png")
    if len(folders) == 1 and options.camera is not None:
        folders = {options.camera: next(iter(folders.values()))}
    order = list(dict.fromkeys(camera for camera, _ in records))
    for camera, images in sorted(folders.items(), key=lambda item: order.index(item[0]) if item[0] in order else 10**6):
        number_of = numbered(image.name for image in images)
        for image in images:
            number = number_of[image.name]
            _read_image(found, image, camera, number, names, records.get((camera, number)))
    return found.tracks()


def _names(root: Path, found: Collector) -> tuple[dict[int, str], dict[tuple[str, int], dict[str, Any]]]:
    """Value to name of ``objects.json``, and the records by camera and frame; empty without the file."""
    path = root / NAMES
    if not path.is_file():
        return {}, {}
    content = read_json(path, error=AnnotationError, max_bytes=MAX_FILE_BYTES)
    names = content.get("objects") if isinstance(content, dict) else None
    frames = content.get("frames", []) if isinstance(content, dict) else None
    if not isinstance(names, dict) or not isinstance(frames, list):
        raise AnnotationError("does not name objects", path=path, expected='{"objects": {"1": NAME, …}}')
    values: dict[int, str] = {}
    for key, name in names.items():
        if not (key.isascii() and key.isdigit() and 1 <= int(key[:4]) <= 255) or not isinstance(name, str):
            raise AnnotationError("is not the name of a value from 1 to 255", path=path, found=shown([key, name], 60))
        values[int(key)] = name
        found.object(name)
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for record in frames:
        camera, frame = (record.get("camera"), record.get("frame")) if isinstance(record, dict) else (None, None)
        if not isinstance(camera, str) or type(frame) is not int or not 0 <= frame <= MAX_FRAME:
            raise AnnotationError("the record of a frame is malformed", path=path, found=shown(record, 60))
        records[camera, frame] = record
    return values, records


def _read_image(
    found: Collector, image: Path, camera: str, number: int, names: dict[int, str], record: dict[str, Any] | None
) -> None:
    try:
        index = read_index_png(image)
        values = object_values(index, image)
    except (ImageError, MaskError) as error:
        raise AnnotationError(error.problem, path=image, found=error.found, expected=error.expected) from None
    name = found.camera(camera, (int(index.shape[0]), int(index.shape[1])), record)
    frame = found.frame(name, number, record=record)
    for value in values:
        if names and value not in names:
            raise AnnotationError("holds a value without a name", path=image, found=value, expected=list(names))
        found.shape(name, frame, names.get(value, f"object {value}"), ObjectMask.from_array(index == value))
