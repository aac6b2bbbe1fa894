"""Label Studio JSON: ``labelstudio.json``, a task an image, and ``labelstudio.xml``, the labels for the project.

Masks are ``brushlabels`` with Label Studio's own run lengths (:mod:`counterview.exchange.brush`); nothing of them is
lost. Each task's ``meta`` keeps time, source and what is known without a mask; Label Studio returns it when it exports.
An empty mask becomes "not visible".

Read are brushes, polygons, rectangles and ellipses of a task's last annotation that was not cancelled, or of its last
prediction where there is none. A brush drawn on an image that the tool turned is refused.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from counterview.errors import AnnotationError, MaskError, shown
from counterview.exchange.brush import decode_brush, encode_brush
from counterview.exchange.collect import (
    MAX_FILE_BYTES,
    RECORD,
    Collector,
    ReadOptions,
    frame_record,
    frames_of,
    image_folder,
    image_name,
    numbered,
    shown_mask,
)
from counterview.exchange.shapes import box_mask, ellipse_mask, numbers, polygon_mask, rotated, vertices
from counterview.exchange.tracks import Tracks
from counterview.media.files import atomic_write, read_json, safe_join, write_json
from counterview.types import ObjectMask

FILE, CONFIG = "labelstudio.json", "labelstudio.xml"
_KINDS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
logger = logging.getLogger(__name__)


def write(tracks: Tracks, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``labelstudio.json``, and the labelling interface that it is made for, ``labelstudio.xml``.

    Args:
        tracks: what is written.
        folder: in which.

    Returns:
        the two files.

    Raises:
        OutputError: they cannot be written.
    """
    tasks: list[dict[str, Any]] = []
    for camera, about in tracks.cameras.items():
        height, width = about.size_hw
        for frame, items in frames_of(tracks, camera).items():
            results: list[dict[str, Any]] = []
            for name, item in items.items():
                mask = shown_mask(item)
                if mask is None:
                    continue
                value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [name]}
                results.append(
                    {
                        "id": f"c{len(tasks)}r{len(results)}", "from_name": "tag", "to_name": "image",
                        "type": "brushlabels", "original_width": width, "original_height": height,
                        "image_rotation": 0, "value": value,
                    }
                )  # fmt: skip
            tasks.append(
                {
                    "id": len(tasks) + 1,
                    "data": {"image": image_name(camera, about, frame), "camera": camera, "frame": frame},
                    "meta": {RECORD: {**frame_record(tracks, camera, frame, items), "size_hw": [height, width]}},
                    "annotations": [{"id": len(tasks) + 1, "was_cancelled": False, "result": results}],
                }
            )
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in tracks.objects)
    config = (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="tag" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
    )
    paths = [safe_join(folder, FILE), safe_join(folder, CONFIG)]
    write_json(paths[0], tasks, indent=None)
    with atomic_write(paths[1], "w") as handle:
        handle.write(config)
    return paths


def is_label_studio(content: Any) -> bool:
    """Whether the values of a JSON file are tasks of Label Studio with annotations or predictions."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in content)
        and any("annotations" in task or "predictions" in task for task in content)
    )


def read(path: str | os.PathLike[str], options: ReadOptions) -> Tracks:
    """Read tasks of Label Studio.

    Args:
        path: the JSON file.
        options: what it leaves open.

    Raises:
        AnnotationError: malformed; it names the task.
    """
    content = read_json(path, error=AnnotationError, max_bytes=MAX_FILE_BYTES)
    found = Collector(path, options)
    if not is_label_studio(content):
        raise found.error("is not an export of Label Studio", expected="a list of tasks with data and annotations")
    number_of = numbered(_image(task) for task in content)
    left_out = 0
    used: set[tuple[str, int]] = set()
    for index, task in enumerate(content):
        where = f"task {index}"
        results = _results(found, task, where)
        meta = task.get("meta")
        record = meta.get(RECORD) if isinstance(meta, dict) else None
        size = _size(record, results, options)
        if size is None:
            raise found.error(f"{where} does not state the size of its image", fix="Give it: size_hw=(HEIGHT, WIDTH).")
        camera = found.camera(task["data"].get("camera") or image_folder(_image(task)), size, record)
        stated = task["data"].get("frame")
        number = found.frame(camera, number_of[_image(task)] if stated is None else stated, record=record)
        if (camera, number) in used:
            raise found.error(f"{where}: a second task of frame {number} of camera {shown(camera)}")
        used.add((camera, number))
        for result in results:
            kind = result.get("type")
            if kind not in _KINDS:
                left_out += 1
                continue
            try:
                label, mask = _shape(kind, result, found.size_hw(camera))
            except MaskError as error:
                raise found.error(f"{where}: {error.problem}", found=error.found, expected=error.expected) from None
            found.shape(camera, number, label, mask)
    if left_out:
        logger.warning("%s: %d results that are no areas are left out", path, left_out)
    return found.tracks()


def _image(task: dict[str, Any]) -> str:
    """The image of a task: the first text of its data that looks like one."""
    data = task["data"]
    for value in (data.get("image"), data.get("img"), *data.values()):
        if isinstance(value, str) and value:
            return value
    return ""


def _results(found: Collector, task: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The results of the last annotation that counts, or of the last prediction."""
    for key in ("annotations", "predictions"):
        entries = task.get(key) or []
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise found.error(f"{where}: {key} are not a list of objects")
        entries = [entry for entry in entries if not entry.get("was_cancelled")]
        if entries:
            results = entries[-1].get("result", [])
            if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
                raise found.error(f"{where}: a result is not a list of objects")
            return results
    return []


def _size(record: Any, results: list[dict[str, Any]], options: ReadOptions) -> tuple[Any, Any] | None:
    for result in results:
        if "original_height" in result:
            return result["original_height"], result.get("original_width")
    size = record.get("size_hw") if isinstance(record, dict) else None
    if isinstance(size, list) and len(size) == 2:
        return size[0], size[1]
    return options.size_hw


def _shape(kind: str, result: dict[str, Any], size_hw: tuple[int, int]) -> tuple[str, ObjectMask]:
    """Label and mask of a result."""
    value, (height, width) = result.get("value"), size_hw
    labels = value.get(kind, value.get("labels")) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(labels, list) or len(labels) != 1:
        raise MaskError("a result has no label, or several", found=shown(labels, 60))
    if result.get("original_height", height) != height or result.get("original_width", width) != width:
        raise MaskError("the results of a task are of several sizes")
    if result.get("image_rotation") not in (0, None):
        raise MaskError("the image was turned in the tool", found=shown(result["image_rotation"], 40), expected="0")
    if kind == "brushlabels":
        if value.get("format") != "rle":
            raise MaskError("a brush is not of the format rle", found=shown(value.get("format"), 40))
        return labels[0], decode_brush(value.get("rle"), height, width)
    scale = np.array([width, height]) / 100  # Label Studio measures in hundredths of the image
    if kind == "polygonlabels":
        return labels[0], polygon_mask(vertices(value.get("points")) * scale, size_hw)
    keys = ("x", "y", "width", "height") if kind == "rectanglelabels" else ("x", "y", "radiusX", "radiusY")
    a, b, c, d = numbers([value.get(key) for key in keys], 4)
    (turn,) = numbers([value.get("rotation") or 0], 1)
    if kind == "ellipselabels":
        center = float(a * scale[0]), float(b * scale[1])
        return labels[0], ellipse_mask(center, (float(c * scale[0]), float(d * scale[1])), size_hw, degrees=float(turn))
    left_top, extent = np.array([a, b]) * scale, np.array([c, d]) * scale
    if turn % 360 == 0:
        return labels[0], box_mask([*left_top, *(left_top + extent)], size_hw)
    corners = np.array([[0.0, 0.0], [1, 0], [1, 1], [0, 1]]) * extent  # turned about its left top corner
    return labels[0], polygon_mask(left_top + rotated(corners, float(turn)), size_hw)
