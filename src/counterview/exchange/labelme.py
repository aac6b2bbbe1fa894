"""LabelMe JSON: ``labelme/CAMERA/FRAME.json``, one file a frame, with a ``mask`` shape for each object.

A mask is a base64 PNG of its box, so that nothing of it is lost; LabelMe 5.3 and newer show it. What LabelMe has no
words for is in the key ``counterview``, which LabelMe keeps. An empty mask becomes "not visible". Images are not
included: LabelMe looks for the one that ``imagePath`` names, relative to the file.

Read are masks, polygons, rectangles and circles; shapes with one label and one ``group_id`` are parts of an object.
Points and lines are left out, and counted in the log.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from counterview.errors import AnnotationError, ImageError, MaskError, shown
from counterview.exchange.collect import (
    MAX_FILE_BYTES,
    RECORD,
    Collector,
    ReadOptions,
    frame_record,
    frames_of,
    image_name,
    numbered,
    shown_mask,
)
from counterview.exchange.shapes import drawn_polygon, ellipse_mask, place_mask, vertices
from counterview.exchange.tracks import Tracks
from counterview.media.files import check_name, read_json, safe_join, write_json
from counterview.media.images import open_image
from counterview.types import ObjectMask

FOLDER = "labelme"
VERSION = "5.5.0"
"""Of LabelMe, whose files these are."""
MAX_FILES = 200_000
logger = logging.getLogger(__name__)


def write(tracks: Tracks, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``labelme/CAMERA/FRAME.json``.

    Args:
        tracks: what is written.
        folder: in which.

    Returns:
        the files.

    Raises:
        PathError: the name of a camera that is not a file name.
        OutputError: they cannot be written.
    """
    written = []
    for camera, about in tracks.cameras.items():
        height, width = about.size_hw
        for frame, items in frames_of(tracks, camera).items():
            path = safe_join(folder, FOLDER, check_name(camera), f"{frame:06d}.json")
            image = image_name(camera, about, frame)
            place = os.path.relpath(image, path.parent) if image == about.path else PurePosixPath(image).name
            content = {
                "version": VERSION, "flags": {},
                "shapes": [_shape(name, m) for name, item in items.items() if (m := shown_mask(item)) is not None],
                "imagePath": place, "imageData": None, "imageHeight": height, "imageWidth": width,
                RECORD: frame_record(tracks, camera, frame, items),
            }  # fmt: skip
            write_json(path, content, indent=None)
            written.append(path)
    return written


def _shape(name: str, mask: ObjectMask) -> dict[str, Any]:
    x, y, width, height = mask.box_xywh
    crop = mask.to_array()[y : y + height, x : x + width]
    buffer = io.BytesIO()
    Image.fromarray(crop.astype(np.uint8) * 255).save(buffer, format="PNG")
    return {
        "label": name, "points": [[x, y], [x + width - 1, y + height - 1]], "group_id": None, "description": "",
        "shape_type": "mask", "flags": {}, "mask": base64.b64encode(buffer.getvalue()).decode("ascii"),
    }  # fmt: skip


def is_labelme(content: Any) -> bool:
    """Whether the values of a JSON file are an annotation of LabelMe."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def json_files(path: Path) -> list[Path]:
    """The JSON files of a folder, and of its folders."""
    return sorted(p for pattern in ("*.json", "*/*.json") for p in path.glob(pattern) if not p.name.startswith("."))


def read(path: str | os.PathLike[str], options: ReadOptions) -> Tracks:
    """Read a file of LabelMe, or a folder of them, or of folders of cameras.

    Args:
        path: the file or folder.
        options: what it leaves open.

    Raises:
        AnnotationError: malformed; it names the file.
    """
    root, found = Path(path), Collector(path, options)
    files = json_files(root) if root.is_dir() else [root]
    if not files or len(files) > MAX_FILES:
        raise found.error("holds no files of LabelMe, or too many", found=len(files), expected=f"1 to {MAX_FILES}")
    number_of = {
        folder: numbered(f.name for f in files if f.parent == folder) for folder in {file.parent for file in files}
    }
    left_out = 0
    for file in files:
        found.path = file
        content = read_json(file, error=AnnotationError, max_bytes=MAX_FILE_BYTES)
        if not is_labelme(content):
            raise found.error("is not a file of LabelMe", expected="shapes and imagePath")
        nested = file.parent != root and root.is_dir()
        record = content.get(RECORD)
        camera = found.camera(
            file.parent.name if nested else options.camera or file.parent.name,
            (content.get("imageHeight"), content.get("imageWidth")), record,
        )  # fmt: skip
        number = found.frame(camera, number_of[file.parent][file.name], record=record)
        for index, shape in enumerate(content["shapes"]):
            try:
                mask = _mask(shape, found.size_hw(camera))
            except (MaskError, ImageError) as error:
                raise found.error(f"shape {index}: {error.problem}", found=error.found) from None
            if mask is None:
                left_out += 1
                continue
            group = shape.get("group_id")
            instance = None if group is None else f"group {shown(group, 40)}"
            found.shape(camera, number, shape.get("label"), mask, instance=instance)
    found.path = root
    if left_out:
        logger.warning("%s: %d shapes without an area are left out", path, left_out)
    return found.tracks()


def _mask(shape: Any, size_hw: tuple[int, int]) -> ObjectMask | None:
    """The mask of a shape; ``None`` if it has no area."""
    if not isinstance(shape, dict):
        raise MaskError("is not an object", found=type(shape).__name__)
    kind = shape.get("shape_type") or "polygon"
    points = shape.get("points")
    if kind in ("polygon", "oriented_rectangle"):
        return drawn_polygon(vertices(points), size_hw)
    if kind not in ("mask", "rectangle", "circle"):
        return None
    if not isinstance(points, list) or len(points) != 2:
        raise MaskError(f"a {kind} has two points", found=shown(points, 60))
    (x0, y0), (x1, y1) = vertices([*points, points[0]])[:2].tolist()
    if kind == "circle":
        radius = float(np.hypot(x1 - x0, y1 - y0))
        return ellipse_mask((x0, y0), (radius, radius), size_hw)
    if kind == "rectangle":
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        return drawn_polygon(corners, size_hw)
    return _embedded(shape.get("mask"), (int(x0), int(y0)), (int(y1) - int(y0) + 1, int(x1) - int(x0) + 1), size_hw)


def _embedded(text: Any, left_top_xy: tuple[int, int], box_hw: tuple[int, int], size_hw: tuple[int, int]) -> ObjectMask:
    """The mask of a base64 PNG of a part of the image."""
    if not isinstance(text, str):
        raise MaskError("a mask is not a base64 PNG", found=type(text).__name__)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MaskError("a mask is not base64") from None
    if not data.startswith(b"\x89PNG"):
        raise MaskError("a mask is not a PNG")
    image = open_image(data, max_pixels=size_hw[0] * size_hw[1])
    if (image.height, image.width) != box_hw:
        raise MaskError("a mask does not fit its box", found=f"{image.height} x {image.width}", expected=box_hw)
    if image.mode not in ("1", "L", "P"):
        raise MaskError("a mask is not grey", found=f"mode {image.mode}")
    return place_mask(np.asarray(image) != 0, left_top_xy, size_hw)
