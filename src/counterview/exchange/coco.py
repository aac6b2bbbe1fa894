"""COCO JSON: ``images``, ``annotations`` and ``categories``; a video is a sequence of images.

Each object is a category, and ``track_id`` is its own number. Masks are compressed run lengths, nothing of them is
lost. ``score`` is the probability that the object is visible. What COCO has no words for is in the key ``counterview``
of each image, which other programs pass over. ``videos`` lists the cameras, as in the formats of video instance
segmentation.

Read are also polygons and uncompressed run lengths; boxes without a segmentation are left out, and counted in the log.
The camera of an image is its ``camera``, the name of its video, or the folder in ``file_name``; its frame is ``frame``,
``frame_id`` or ``frame_index``, or the last number in the file's name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from counterview.errors import AnnotationError, MaskError, shown
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
)
from counterview.exchange.shapes import check_size, polygon_mask, union, vertices
from counterview.exchange.tracks import Tracks
from counterview.masks.rle import from_coco
from counterview.media.files import read_json, safe_join, write_json
from counterview.types import ObjectMask

FILE = "coco.json"
_FRAME_KEYS = ("frame", "frame_id", "frame_index")
logger = logging.getLogger(__name__)


def write(tracks: Tracks, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``coco.json``.

    Args:
        tracks: what is written.
        folder: in which.

    Returns:
        the file.

    Raises:
        OutputError: it cannot be written.
    """
    number_of = {name: index for index, name in enumerate(tracks.objects, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video, (camera, about) in enumerate(tracks.cameras.items(), start=1):
        height, width = about.size_hw
        for frame, items in frames_of(tracks, camera).items():
            image = {
                "id": len(images) + 1, "file_name": image_name(camera, about, frame), "width": width, "height": height,
                "video_id": video, "frame_id": frame, RECORD: frame_record(tracks, camera, frame, items),
            }  # fmt: skip
            images.append(image)
            for name, item in items.items():
                if item.mask_rle is None:
                    continue
                entry = {
                    "id": len(annotations) + 1, "image_id": image["id"], "category_id": number_of[name],
                    "track_id": number_of[name], "iscrowd": 0, "segmentation": item.mask_rle.to_coco(),
                    "area": item.mask_rle.area, "bbox": list(item.mask_rle.box_xywh),
                }  # fmt: skip
                if item.visibility is not None:
                    entry["score"] = round(item.visibility, 4)
                annotations.append(entry)
    content = {
        "info": {"description": "Tracks of Counterview", RECORD: {"settings": dict(tracks.settings)}},
        "videos": [
            {"id": number, "name": name, "height": about.size_hw[0], "width": about.size_hw[1]}
            for number, (name, about) in enumerate(tracks.cameras.items(), start=1)
        ],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name, "supercategory": "object"} for name, number in number_of.items()],
    }
    path = safe_join(folder, FILE)
    write_json(path, content, indent=None)
    return [path]


def is_coco(content: Any) -> bool:
    """Whether the values of a JSON file are a COCO data set."""
    return isinstance(content, Mapping) and {"images", "annotations", "categories"} <= set(content)


def read(path: str | os.PathLike[str], options: ReadOptions) -> Tracks:
    """Read a COCO data set.

    Args:
        path: the JSON file.
        options: what it leaves open.

    Raises:
        AnnotationError: malformed; it names the place.
    """
    content = read_json(path, error=AnnotationError, max_bytes=MAX_FILE_BYTES)
    found = Collector(path, options)
    if not is_coco(content):
        raise found.error("is not a COCO data set", expected="images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content[key], list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise found.error(f"{key!r} is not a list of objects")
    info = content.get("info")
    ours = info.get(RECORD) if isinstance(info, dict) else None
    labels = _by_id(found, content["categories"], "categories", "name")
    if isinstance(ours, dict):
        _note_cameras(found, content.get("videos"))
        for label in labels.values():
            found.object(label)
    places = _places(found, content)
    left_out = 0
    for index, entry in enumerate(content["annotations"]):
        place, label = places.get(_key(entry.get("image_id"))), labels.get(_key(entry.get("category_id")))
        if place is None or label is None:
            raise found.error(
                f"annotation {index} is of an image or a category that is not listed",
                found=shown([entry.get("image_id"), entry.get("category_id")], 60),
            )
        if not entry.get("segmentation"):
            left_out += 1
            continue
        camera, frame, recorded = place
        try:
            mask = _mask(entry["segmentation"], found.size_hw(camera))
        except MaskError as error:
            raise found.error(f"annotation {index}: {error.problem}", found=error.found) from None
        track = next((entry[key] for key in ("track_id", "instance_id") if entry.get(key) is not None), None)
        if not (track is None or type(track) is int or isinstance(track, str)):
            raise found.error(f"annotation {index}: the number of its track is of another kind", found=shown(track, 60))
        score = entry.get("score")
        is_score = isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1
        found.shape(
            camera, frame, label, mask, visibility=float(score) if is_score and score is not None else 1.0,
            instance=None if track is None or recorded else str(track)[:60],
        )  # fmt: skip
    if left_out:
        logger.warning("%s: %d annotations without a segmentation are left out", path, left_out)
    settings = ours.get("settings") if isinstance(ours, dict) else None
    return found.tracks(settings if isinstance(settings, dict) else None)


def _key(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else None


def _by_id(found: Collector, entries: list[dict[str, Any]], what: str, key: str) -> dict[Any, Any]:
    """The value of a key of each entry, by the entry's number."""
    values: dict[Any, Any] = {}
    for index, entry in enumerate(entries):
        number = _key(entry.get("id"))
        if number is None or number in values or key not in entry:
            raise found.error(f"entry {index} of {what} has no {key}, or no number of its own", found=shown(entry, 60))
        values[number] = entry[key]
    return values


def _note_cameras(found: Collector, videos: Any) -> None:
    """Cameras in our order; the query camera, which is first, may have no image."""
    for video in videos if isinstance(videos, list) else ():
        if isinstance(video, dict):
            found.camera(video.get("name"), (video.get("height"), video.get("width")))


def _places(found: Collector, content: dict[str, Any]) -> dict[Any, tuple[str, int, bool]]:
    """Number of an image to its camera and frame, and whether it has a record."""
    videos = content.get("videos")
    listed = [v for v in videos if isinstance(v, dict)] if isinstance(videos, list) else []
    video_names = _by_id(found, listed, "videos", "name") if listed else {}
    names_of: dict[Any, list[str]] = {}
    images: dict[Any, tuple[Any, str, dict[str, Any]]] = {}
    for index, image in enumerate(content["images"]):
        number, file = _key(image.get("id")), image.get("file_name")
        if number is None or number in images or not isinstance(file, str):
            raise found.error(f"image {index} has no file name, or no number of its own", found=shown(image, 60))
        camera = image.get("camera") or video_names.get(_key(image.get("video_id"))) or image_folder(file)
        if not isinstance(camera, str):
            raise found.error(f"the camera of image {index} is not a text", found=shown(camera, 60))
        images[number] = camera, file, image
        names_of.setdefault(camera, []).append(file)
    number_of = {camera: numbered(files) for camera, files in names_of.items()}
    places: dict[Any, tuple[str, int, bool]] = {}
    used: set[tuple[str, int]] = set()
    for number, (camera, file, image) in images.items():
        record = image.get(RECORD)
        size = image.get("height"), image.get("width")
        name = found.camera(camera, size, record)
        stated = next((image[key] for key in _FRAME_KEYS if image.get(key) is not None), None)
        frame = found.frame(name, number_of[camera][file] if stated is None else stated, record=record)
        if (name, frame) in used:
            raise found.error(f"two images are frame {frame} of camera {shown(name)}")
        used.add((name, frame))
        places[number] = name, frame, record is not None
    return places


def _mask(segmentation: Any, size_hw: tuple[int, int]) -> ObjectMask:
    """The mask of run lengths or polygons."""
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if not isinstance(size, list) or len(size) != 2:
            raise MaskError("run lengths without a size", found=shown(size, 60))
        if check_size(*size) != size_hw:
            raise MaskError("a mask is of another size than its image", found=f"{size}, the image {list(size_hw)}")
        return from_coco(segmentation)
    if not isinstance(segmentation, list):
        raise MaskError("a segmentation is neither run lengths nor polygons", found=type(segmentation).__name__)
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    return union([polygon_mask(vertices(polygon), size_hw) for polygon in polygons])
