"""YOLO segmentation: ``yolo/labels/CAMERA/FRAME.txt``, a line a polygon, and ``yolo/data.yaml`` with the names.

YOLO knows polygons alone: holes are filled, and a part that is a point or a line becomes one pixel wide. Each object is
a class, and each connected part of it a line. Times, visibility and sources are lost, and so is the difference between
"not visible" and "unknown": a frame in which nothing is known of any object has no file. ``data.yaml`` keeps the
cameras under ``counterview``, which YOLO passes over. Images are not included; they belong in
``yolo/images/CAMERA/FRAME.jpg``.

Coordinates are fractions of the image's width and height. They are written a quarter of a pixel past the pixel's edge:
programs that round them, and those that truncate them, come to the same pixel. Boxes are read as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from counterview.config import read_yaml
from counterview.errors import AnnotationError, ImageError, InputError, MaskError, shown
from counterview.exchange.collect import (
    MAX_FILE_BYTES,
    RECORD,
    Collector,
    ReadOptions,
    frames_of,
    numbered,
    shown_mask,
)
from counterview.exchange.shapes import box_mask, numbers, outlined_pixels
from counterview.exchange.tracks import Tracks
from counterview.guard import read_file
from counterview.media.files import atomic_write, check_name, safe_join
from counterview.media.images import image_size
from counterview.types import ObjectMask

FOLDER, NAMES = "yolo", "data.yaml"
MAX_FILES = 200_000
_SPLITS = ("train", "val", "test")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


# ---------------------------------------------------------------------------------------------------- writing


def write(tracks: Tracks, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``yolo/labels/CAMERA/FRAME.txt`` and ``yolo/data.yaml``.

    Args:
        tracks: what is written.
        folder: in which.

    Returns:
        the files, the list of names last.

    Raises:
        PathError: the name of a camera that is not a file name.
        OutputError: they cannot be written.
    """
    class_of = {name: index for index, name in enumerate(tracks.objects)}
    written = []
    for camera in tracks.cameras:
        for frame, items in frames_of(tracks, camera).items():
            if all(item.mask_rle is None and item.visibility is None for item in items.values()):
                continue
            lines = [
                f"{class_of[name]} {' '.join(f'{v:.7f}' for v in polygon.ravel())}\n"
                for name, item in items.items()
                if (mask := shown_mask(item)) is not None
                for polygon in _polygons(mask)
            ]
            path = safe_join(folder, FOLDER, "labels", check_name(camera), f"{frame:06d}.txt")
            with atomic_write(path, "w") as handle:
                handle.writelines(lines)
            written.append(path)
    cameras = [
        {
            "name": name, "size_hw": list(camera.size_hw), "path": camera.path, "fps": camera.fps,
            "offset_s": camera.offset_s, "drift_ppm": camera.drift_ppm,
        }
        for name, camera in tracks.cameras.items()
    ]  # fmt: skip
    content = {
        "path": ".", "train": "images", "val": "images", "names": {index: name for name, index in class_of.items()},
        RECORD: {"cameras": cameras},
    }  # fmt: skip
    path = safe_join(folder, FOLDER, NAMES)
    with atomic_write(path, "w") as handle:
        yaml.safe_dump(content, handle, sort_keys=False, allow_unicode=True)
    return [*written, path]


def _polygons(mask: ObjectMask) -> list[NDArray[np.float64]]:
    """Outlines of the connected parts, ``(N, 2)`` fractions of the image each, N >= 3."""
    import cv2

    height, width = mask.size_hw
    contours, _ = cv2.findContours(mask.to_array().astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [contour[:, 0].astype(np.float64) for contour in contours]
    outlines = [np.concatenate([o, np.repeat(o[-1:], 3 - len(o), axis=0)]) if len(o) < 3 else o for o in outlines]
    return [(outline + 0.25) / (width, height) for outline in outlines]


# ---------------------------------------------------------------------------------------------------- reading


def read(path: str | os.PathLike[str], options: ReadOptions) -> Tracks:
    """Read a YOLO data set.

    Args:
        path: ``data.yaml``, or the folder that holds it.
        options: what it leaves open; the size of the images, where there are none beside the labels.

    Raises:
        AnnotationError: malformed; it names the file and the line.
    """
    names_file = Path(path) / NAMES if Path(path).is_dir() else Path(path)
    root, found = names_file.parent, Collector(path, options)
    try:
        content = read_yaml(names_file)
    except InputError as error:
        raise AnnotationError(error.problem, path=error.path or names_file, found=error.found) from None
    names = _names(content, names_file)
    about = _cameras(content, names_file)
    folders = _label_folders(root)
    if not folders:
        raise found.error("holds no labels", expected="labels/CAMERA/FRAME.txt")
    for name in names.values() if about else ():
        found.object(name)
    order = list(about)
    for folder in sorted(folders, key=lambda f: order.index(f.name) if f.name in order else len(order)):
        files = sorted(p for p in folder.glob("*.txt") if not p.name.startswith("."))
        number_of = numbered(file.name for file in files)
        name = options.camera if len(folders) == 1 and options.camera and not about else folder.name
        for file in files:
            found.path = file
            facts = about.get(folder.name)
            camera = found.camera(name, _size(file, root, facts, options), facts)
            number = found.frame(camera, number_of[file.name])
            _read_lines(found, file, camera, number, names, is_ours=facts is not None)
    found.path = path
    return found.tracks()


def _names(content: dict[str, Any], path: Path) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(type(k) is int and isinstance(v, str) for k, v in names.items()):
        raise AnnotationError("does not name the classes", path=path, expected="names: {0: NAME, …}")
    return names


def _cameras(content: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Name of a camera to its facts, as Counterview writes them; empty in files of other programs."""
    record = content.get(RECORD)
    listed = record.get("cameras") if isinstance(record, dict) else []
    if not isinstance(listed, list) or not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in listed):
        raise AnnotationError("the cameras are malformed", path=path)
    return {camera["name"]: {**camera, "camera": camera["name"]} for camera in listed}


def _label_folders(root: Path) -> list[Path]:
    """The folders with text files: ``labels``, those in it, or those of the splits."""
    tops = [root / "labels", *(root / split / "labels" for split in _SPLITS)]
    candidates = [folder for top in tops if top.is_dir() for folder in (top, *sorted(top.iterdir()))]
    return [folder for folder in candidates if folder.is_dir() and next(folder.glob("*.txt"), None) is not None]


def _size(file: Path, root: Path, facts: dict[str, Any] | None, options: ReadOptions) -> tuple[Any, Any]:
    """Height and width of the image of a text file: as stated, of the image itself, or as the options say."""
    size = (facts or {}).get("size_hw")
    if isinstance(size, list) and len(size) == 2:
        return size[0], size[1]
    parts = list(file.relative_to(root).with_suffix("").parts)
    parts[max(i for i, part in enumerate(parts) if part == "labels")] = "images"
    for suffix in _IMAGES:
        image = root.joinpath(*parts).with_suffix(suffix)
        if image.is_file():
            try:
                return image_size(image)
            except ImageError as error:
                raise AnnotationError(error.problem, path=image, found=error.found) from None
    if options.size_hw is None:
        raise AnnotationError(
            "the size of the image is not known", path=file, expected=f"an image {'/'.join(parts)}.jpg",
            fix="Or give it: size_hw=(HEIGHT, WIDTH).",
        )  # fmt: skip
    return options.size_hw


def _read_lines(
    found: Collector, file: Path, camera: str, number: int, names: dict[int, str], *, is_ours: bool
) -> None:
    """Note the shapes of a text file; in a file of ours, the lines of a class are parts of one object."""
    try:
        lines = read_file(file, AnnotationError, max_bytes=MAX_FILE_BYTES).decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise AnnotationError("is not a text of numbers", path=file) from None
    for place, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            label = names.get(int(words[0])) if words[0].isdigit() and len(words[0]) < 10 else None
            if label is None:
                raise MaskError("an unknown class", found=shown(words[0], 40), expected=f"one of {len(names)} names")
            mask = _mask([float(word) for word in words[1:]], found.size_hw(camera))
        except (MaskError, ValueError) as error:
            facts = (error.problem, error.found) if isinstance(error, MaskError) else ("is not of numbers", None)
            raise AnnotationError(f"line {place}: {facts[0]}", path=file, found=facts[1]) from None
        found.shape(camera, number, label, mask, is_part=is_ours)


def _mask(values: list[float], size_hw: tuple[int, int]) -> ObjectMask:
    """The mask of a polygon, or of a box ``x, y`` of its centre, ``width, height``, with or without a confidence."""
    fractions = numbers(values)
    height, width = size_hw
    if fractions.size in (4, 5):
        x, y, w, h = fractions[:4] * (width, height, width, height)
        return box_mask((x - w / 2, y - h / 2, x + w / 2, y + h / 2), size_hw)
    if fractions.size < 6 or fractions.size % 2:
        raise MaskError("is neither a polygon nor a box", found=f"{fractions.size} numbers")
    # Other programs write edges or centres of pixels; a quarter more, so that rounding errors change nothing.
    pixels = np.floor(fractions.reshape(-1, 2) * (width, height) + 0.25)
    return outlined_pixels(np.clip(pixels, -1e6, 1e6).astype(np.int64), size_hw)
