"""``folder:PATH``: masks and boxes that another tool made.

For an image named ``NAME`` (its file name without ending, or its frame number) these are tried in order:

1. ``NAME_masks.npz`` and ``NAME_boxes.npy``, as O-MaMa keeps FastSAM's proposals: one array ``(N, H, W)`` of 0
   and 1 in the archive, and ``(N, 4)`` boxes x, y, width, height in pixels (optional);
2. ``NAME/*.png``: one mask a file, non-zero inside, in the order of the file names;
3. ``NAME.json``: COCO annotations of this image: a list of them, or an object with ``annotations``;
4. any other ``*.json`` with COCO's ``images`` and ``annotations``, whose ``file_name`` is ``NAME`` plus an ending.

A COCO segmentation may be compressed or plain run lengths, or polygons; ``score`` or ``predicted_iou`` orders the
masks. Everything has to be of the image's size. These files are not trusted: sizes are checked before anything is
allocated, and object arrays (pickles) are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from counterview.errors import MaskError, ProposalError, shown
from counterview.guard import expanded, is_folder, library_errors
from counterview.masks.png import read_mask
from counterview.masks.rle import from_coco
from counterview.media.files import check_name, read_json
from counterview.proposals.arrays import read_boxes, read_masks
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask, RgbImage, as_rgb

MAX_JSON_BYTES = 1 << 30
"""Larger annotation files are refused."""

MAX_POLYGON_POINTS = 1_000_000
"""Polygons with more points in one annotation are refused."""

MAX_OUTLINE_PX = 4_000_000
"""Polygons with a longer outline in one annotation, in pixels, are refused."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderSettings:
    """Settings of the ``folder`` proposer."""

    path: str = field(metadata={"help": "the folder"})
    max_masks: int = field(default=10_000, metadata={"help": "more masks for one image are refused"})


class FolderProposer:
    """Proposals read from files.

    Args:
        settings: see :class:`FolderSettings`.

    Raises:
        ProposalError: the folder does not exist.
    """

    name = "folder"

    def __init__(self, settings: FolderSettings) -> None:
        self._settings = settings
        self._folder = expanded(settings.path)
        self._collections: dict[str, list[Mapping[str, Any]]] | None = None
        if not is_folder(self._folder):
            raise ProposalError("there is no such folder of proposals", path=self._folder)

    def settings(self) -> dict[str, Any]:
        """The folder, under the path of the settings, and the limit."""
        return {"path": self._settings.path, "max_masks": self._settings.max_masks}

    def __call__(self, image: RgbImage, name: str | None = None) -> Proposals:
        """Read the proposals of an image, best first. Empty masks are left out, with a warning.

        Args:
            image: ``(H, W, 3)`` uint8, RGB; only its size counts.
            name: the image's file name without ending, or its frame number.

        Raises:
            ImageError: another shape or dtype.
            PathError: a name that leads out of the folder.
            ProposalError: no name, no file of that name, or one that is damaged, holds too many masks, or masks of
                another size than the image.
        """
        image = as_rgb(image)
        size_hw = image.shape[:2]
        if name is None:
            raise ProposalError(
                "proposals in a folder are found by the image's name, which is missing", path=self._folder
            )
        with library_errors(ProposalError, "the proposals cannot be read", path=self._folder / name):
            return self.read(name, (int(size_hw[0]), int(size_hw[1])))

    def read(self, name: str, size_hw: tuple[int, int]) -> Proposals:
        """Read the proposals of an image of ``size_hw`` named ``name``. Errors as for a call."""
        check_name(name)
        archive, images, annotations = (self._folder / f"{name}{end}" for end in ("_masks.npz", "", ".json"))
        if archive.is_file():
            masks = read_masks(archive, size_hw, self._settings.max_masks)
            boxes_path = self._folder / f"{name}_boxes.npy"
            boxes = read_boxes(boxes_path, len(masks)) if boxes_path.is_file() else None
            # O-MaMa's order is FastSAM's, best first, without the scores.
            return self._collect(archive, masks, np.linspace(1, 0, len(masks), endpoint=False), boxes)
        if images.is_dir():
            paths = sorted(path for path in images.iterdir() if path.suffix.lower() == ".png")
            if not paths:
                raise ProposalError("no PNG in this folder of proposals", path=images)
            self._check_count(images, len(paths))
            masks = [_of_size(read_mask(path), path, size_hw) for path in paths]
            return self._collect(images, masks, np.linspace(1, 0, len(masks), endpoint=False), None)
        if annotations.is_file():
            content = self._read_json(annotations)
            listed = content.get("annotations") if isinstance(content, dict) else content
            return self._from_coco(annotations, listed, size_hw)
        if name in self._index():
            return self._from_coco(self._folder, self._index()[name], size_hw)
        raise ProposalError(
            f"no proposals for the image {name!r}",
            path=self._folder,
            expected=f"{name}_masks.npz, {name}/*.png, {name}.json, or COCO JSON that names it",
        )

    def _check_count(self, path: Path, count: int) -> None:
        if count > self._settings.max_masks:
            raise ProposalError(
                "too many proposals for one image",
                path=path,
                found=count,
                expected=f"at most {self._settings.max_masks}",
            )

    def _collect(self, path: Path, masks: list[ObjectMask], scores: Any, boxes: Any) -> Proposals:
        filled = [index for index, mask in enumerate(masks) if not mask.is_empty]
        if not filled:
            raise ProposalError("all proposals are empty", path=path, found=f"{len(masks)} masks")
        if len(filled) < len(masks):
            _log.warning("%s: %d empty masks are left out", path, len(masks) - len(filled))
        scores = np.asarray(scores, dtype=np.float32)[filled]
        if not np.isfinite(scores).all():
            raise ProposalError("a score is not a finite number", path=path)
        order = np.argsort(-scores, kind="stable")
        return Proposals(
            masks[0].size_hw,
            tuple(masks[filled[i]] for i in order),
            scores[order],
            None if boxes is None else boxes[filled][order],  # type: ignore[arg-type]
        )

    def _read_json(self, path: Path) -> Any:
        return read_json(path, error=ProposalError, max_bytes=MAX_JSON_BYTES)

    def _index(self) -> dict[str, list[Mapping[str, Any]]]:
        """Annotations of the COCO files that describe several images, by image name; read once."""
        if self._collections is None:
            index: dict[str, list[Mapping[str, Any]]] = {}
            for path in sorted(self._folder.glob("*.json")):
                content = self._read_json(path)
                if isinstance(content, dict) and isinstance(content.get("images"), list):
                    _add_collection(index, path, content)
            self._collections = index
        return self._collections

    def _from_coco(self, path: Path, annotations: Any, size_hw: tuple[int, int]) -> Proposals:
        if not isinstance(annotations, list) or not annotations:
            raise ProposalError("there are no annotations", path=path, expected="a list of COCO annotations")
        self._check_count(path, len(annotations))
        masks, scores = [], []
        for position, annotation in enumerate(annotations):
            where = f"annotation {position}"
            if not isinstance(annotation, Mapping):
                raise ProposalError(f"{where} is not an object", path=path, found=type(annotation).__name__)
            try:
                masks.append(_segmentation(annotation.get("segmentation"), size_hw))
            except MaskError as error:
                raise ProposalError(
                    f"{where}: {error.problem}", path=path, found=error.found, expected=error.expected
                ) from None
            score = annotation.get("score", annotation.get("predicted_iou", 0.0))
            if not isinstance(score, (int, float)) or isinstance(score, bool) or not abs(score) < 1e30:
                raise ProposalError(f"{where}: the score is not a finite number", path=path, found=shown(score, 40))
            scores.append(float(score))
        return self._collect(path, masks, scores, None)


def _add_collection(index: dict[str, list[Mapping[str, Any]]], path: Path, content: Mapping[str, Any]) -> None:
    names: dict[Any, str] = {}
    for image in content["images"]:
        if not isinstance(image, Mapping) or not isinstance(image.get("file_name"), str):
            raise ProposalError("an image has no file_name", path=path)
        identity = image.get("id")
        if not isinstance(identity, (int, str)):
            raise ProposalError("an image has no id", path=path, found=image["file_name"][:60])
        names[identity] = Path(image["file_name"].replace("\\", "/")).stem
    annotations = content.get("annotations")
    if not isinstance(annotations, list):
        raise ProposalError("there are images but no annotations", path=path)
    for annotation in annotations:
        identity = annotation.get("image_id") if isinstance(annotation, Mapping) else None
        if not isinstance(identity, (int, str)) or identity not in names:
            raise ProposalError("an annotation is not of an image of the file", path=path, found=shown(identity, 40))
        index.setdefault(names[identity], []).append(annotation)


def _of_size(mask: Any, path: Path, size_hw: tuple[int, int]) -> ObjectMask:
    if mask.shape != size_hw:
        raise ProposalError("the mask is of another size than the image", path=path, found=mask.shape, expected=size_hw)
    return ObjectMask.from_array(mask)


@library_errors(MaskError, "the segmentation cannot be read")
def _segmentation(value: Any, size_hw: tuple[int, int]) -> ObjectMask:
    """A COCO segmentation: run lengths, or polygons of x, y, x, y, ….

    Raises:
        MaskError: anything else, or of another size.
    """
    if isinstance(value, Mapping):
        if value.get("size") != list(size_hw):  # before decoding, which allocates it
            raise MaskError("the mask is of another size than the image", found=value.get("size"), expected=size_hw)
        return from_coco(value)
    if not isinstance(value, list) or not value:
        raise MaskError("there is no segmentation", expected="run lengths or polygons")
    polygons = []
    for polygon in value:
        numbers = isinstance(polygon, list) and all(type(v) in (int, float) for v in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise MaskError("a polygon is x, y, x, y, … of at least three points")
        points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise MaskError("a polygon holds a value that is not a finite number")
        polygons.append(np.clip(points, 0, size_hw[::-1]))
    if sum(len(points) for points in polygons) > MAX_POLYGON_POINTS:
        raise MaskError("the polygons have too many points", expected=f"at most {MAX_POLYGON_POINTS}")
    outline_px = sum(float(np.abs(np.diff(points, axis=0)).max(axis=1).sum()) for points in polygons)
    if outline_px > MAX_OUTLINE_PX:  # pycocotools allocates 80 bytes a pixel of it, and does not check that it can
        raise MaskError("the polygons are too long", found=f"{outline_px:.0f} px", expected=f"at most {MAX_OUTLINE_PX}")
    from pycocotools import mask as coco

    encoded = coco.frPyObjects([points.ravel().tolist() for points in polygons], *size_hw)
    return from_coco({"size": list(size_hw), "counts": coco.merge(encoded)["counts"]})
