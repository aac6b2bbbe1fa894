"""``folder:PATH``: masks and boxes that another tool made.

An image is named ``TAKE/CAMERA/FRAME`` (of a data set) or ``FOLDER/NAME`` (a file, without its ending). Its masks are
looked for below ``PATH``, in folders of those names, as one of

1. ``NAME_masks.npz`` and ``NAME_boxes.npy``, as O-MaMa keeps FastSAM's proposals: one array ``(N, H, W)`` of 0
   and 1 in the archive, and ``(N, 4)`` boxes x, y, width, height in pixels (optional);
2. ``NAME/*.png``: one mask a file, as :func:`~counterview.masks.png.read_mask` reads it, in the order of their names;
3. ``NAME.json``: COCO annotations of this image: a list of them, or an object with ``annotations``;
4. any other ``*.json`` with COCO's ``images`` and ``annotations``, whose ``file_name`` ends with the image's name.

O-MaMa's own folders ``Masks_<SPLIT>_<DIRECTION>/TAKE/CAMERA/`` are found below ``PATH`` as well. A frame of a data set
is never looked up by its number alone: two cameras have equal ones. A file may be found by its own name alone, for as
long as no second image claims the same masks.

A COCO segmentation may be compressed or plain run lengths, or polygons; ``score`` or ``predicted_iou`` orders the
masks. An annotation without a mask, or with a score that is not a number, is left out with a warning. Masks may be of
another resolution than the image (O-MaMa's are 532x952 and 700x700), not of another shape. They are of the upright
image; where its file has an EXIF orientation and masks could as well be of the stored pixels, they are refused.
These files are not trusted: sizes are checked before anything is allocated, and object arrays (pickles) are refused.
Links below ``PATH`` are followed.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from counterview.errors import MaskError, ProposalError, shown
from counterview.guard import expanded, is_folder, library_errors
from counterview.masks.geometry import same_aspect
from counterview.masks.png import read_mask
from counterview.masks.rle import from_coco
from counterview.media.files import check_name, read_json, sha256_file
from counterview.media.images import image_orientation
from counterview.proposals.arrays import MAX_SIDE_PX, read_boxes, read_masks
from counterview.proposals.base import FileName, Proposals
from counterview.types import ObjectMask, RgbImage, as_rgb

MAX_JSON_BYTES = 1 << 30
"""Larger annotation files are refused."""

MAX_POLYGON_POINTS = 1_000_000
"""Polygons with more points in one annotation are refused."""

MAX_OUTLINE_PX = 4_000_000
"""Polygons with a longer outline in one annotation, in pixels, are refused."""

_MASK_FOLDERS = re.compile(r"Masks_[A-Z]+_(EGO2EXO|EXO2EGO)")  # of O-MaMa
_MAX_WARNINGS = 5
_FRAME_PARTS = 3  # TAKE/CAMERA/FRAME

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderSettings:
    """Settings of the ``folder`` proposer."""

    path: str = field(metadata={"help": "the folder"})
    max_masks: int = field(default=10_000, metadata={"help": "more masks for one image are refused"})


@dataclass(frozen=True)
class _Place:
    """Where the masks of an image are: a file, a folder of PNG, or annotations of a COCO file."""

    path: Path
    image: tuple[str, ...] = ()
    annotations: tuple[Mapping[str, Any], ...] | None = None

    @property
    def title(self) -> str:
        return f"{self.path}, {'/'.join(self.image)}" if self.image else str(self.path)


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
        if not is_folder(self._folder):
            raise ProposalError("there is no such folder of proposals", path=self._folder)
        mask_folders = sorted(p for p in self._folder.iterdir() if _MASK_FOLDERS.fullmatch(p.name) and p.is_dir())
        self._roots = [self._folder, *mask_folders]
        self._collections: dict[Path, dict[tuple[str, ...], _Place]] = {}
        self._claimed: dict[str, str] = {}  # what was found by a name alone, and the pixels it was found for

    def settings(self) -> dict[str, Any]:
        """The folder, under the path of the settings, and the limit."""
        return {"path": self._settings.path, "max_masks": self._settings.max_masks}

    def __call__(self, image: RgbImage, name: str | None = None) -> Proposals:
        """Read the proposals of an image, best first. Empty masks are left out, with a warning.

        Args:
            image: ``(H, W, 3)`` uint8, RGB; its size counts, and its pixels where its name alone is not enough.
            name: ``TAKE/CAMERA/FRAME``, or ``FOLDER/NAME`` or ``NAME`` of a file.

        Returns:
            N masks, all of one size: the image's, or another resolution of it.

        Raises:
            ImageError: another shape or dtype.
            PathError: a name that leads out of the folder.
            ProposalError: no name, no file of that name, one that two images share, or one that is damaged, holds too
                many masks, masks of another shape than the image, or masks that fit both the upright image and its
                stored pixels, where the image's file has an EXIF orientation.
        """
        image = as_rgb(image)
        if name is None:
            raise ProposalError(
                "proposals in a folder are found by the image's name, which is missing", path=self._folder
            )
        place, is_certain = self._find(name)
        if not is_certain:
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            if self._claimed.setdefault(place.title, digest) != digest:
                raise ProposalError(
                    f"two images share these masks by their name alone, {name.rpartition('/')[2]!r}",
                    path=place.path,
                    fix=f"Keep the masks of each image in a folder named as the image's: {self._folder}/{name}….",
                )
        image_hw = (int(image.shape[0]), int(image.shape[1]))
        with library_errors(ProposalError, "the proposals cannot be read", path=place.path):
            found = self._read(place, image_hw)
            _check_turned(place, found.size_hw, image_hw, name.orientation if isinstance(name, FileName) else 1)
        return found

    def content_key(self, name: str) -> str:
        """A text that changes when the stored masks of an image do: part of the keys of caches.

        Args:
            name: of the image.

        Raises:
            PathError, ProposalError: as for a call.
        """
        place, _ = self._find(name)
        if place.annotations is not None:
            text = repr(place.annotations)
            return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        files = sorted(place.path.glob("*.png")) if place.path.is_dir() else [place.path]
        boxes = _boxes_path(place.path)
        return "".join(sha256_file(p)[:16] for p in [*files, *([boxes] if boxes and boxes.is_file() else [])])

    # ------------------------------------------------------------------------------------------------- looking up

    def _find(self, name: str) -> tuple[_Place, bool]:
        """Where an image's masks are, and whether its whole name says so (or only the last part of it)."""
        parts = tuple(check_name(part) for part in name.split("/"))
        places = [place for root in self._roots for place in self._below(root, parts)]
        is_certain = len(parts) > 1
        if not places and len(parts) < _FRAME_PARTS and len(parts) > 1:
            places = [place for root in self._roots for place in self._below(root, parts[-1:])]
            is_certain = False
        if not places:
            raise ProposalError(
                f"no proposals for the image {name!r}",
                path=self._folder,
                expected=f"{name}_masks.npz, {name}/*.png, {name}.json, or COCO JSON that names it",
            )
        if len(places) > 1 and not _equal(places):
            raise ProposalError(
                f"several masks for the image {name!r}",
                path=self._folder,
                found=" and ".join(place.title for place in places[:3]),
                fix="Give the folder of one of them: folder:PATH.",
            )
        return places[0], is_certain

    def _below(self, root: Path, parts: tuple[str, ...]) -> list[_Place]:
        """The masks of an image in the folders of its name below a root, the innermost folder first."""
        for depth in range(len(parts) - 1, -1, -1):
            folder, rest = root.joinpath(*parts[:depth]), parts[depth:]
            if not folder.is_dir():
                continue
            if len(rest) == 1:
                for path in (folder / f"{rest[0]}_masks.npz", folder / rest[0], folder / f"{rest[0]}.json"):
                    if path.is_dir() if path.name == rest[0] else path.is_file():
                        return [_Place(path)]
            listed = [place for image, place in self._collection(folder).items() if image[-len(rest) :] == rest]
            if listed:
                return listed
        return []

    def _collection(self, folder: Path) -> dict[tuple[str, ...], _Place]:
        """Annotations of the COCO files in a folder that describe several images, by image; read once."""
        if folder not in self._collections:
            index: dict[tuple[str, ...], _Place] = {}
            for path in sorted(folder.glob("*.json")):
                content = self._read_json(path)
                if isinstance(content, dict) and isinstance(content.get("images"), list):
                    for image, annotations in _images(path, content):
                        before = index[image].annotations or () if image in index else ()
                        index[image] = _Place(path, image, (*before, *annotations))
            self._collections[folder] = index
        return self._collections[folder]

    # ---------------------------------------------------------------------------------------------------- reading

    def _read(self, place: _Place, image_hw: tuple[int, int]) -> Proposals:
        path = place.path
        if place.annotations is not None:
            return self._from_coco(path, list(place.annotations), image_hw)
        if path.suffix == ".npz" and path.is_file():
            masks = read_masks(path, image_hw, self._settings.max_masks)
            boxes_path = _boxes_path(path)
            boxes = read_boxes(boxes_path, len(masks)) if boxes_path and boxes_path.is_file() and masks else None
            # O-MaMa's order is FastSAM's, best first, without the scores.
            scores = np.linspace(1, 0, len(masks), endpoint=False)
            return self._collect(path, masks, scores, boxes) if masks else Proposals.none(image_hw)
        if path.is_dir():
            paths = sorted(p for p in path.iterdir() if p.suffix.lower() == ".png")
            if not paths:
                raise ProposalError("no PNG in this folder of proposals", path=path)
            self._check_count(path, len(paths))
            masks = [ObjectMask.from_array(read_mask(p)) for p in paths]
            for mask, mask_path in zip(masks, paths, strict=True):
                _check_size(mask.size_hw, masks[0].size_hw, image_hw, mask_path)
            return self._collect(path, masks, np.linspace(1, 0, len(masks), endpoint=False), None)
        content = self._read_json(path)
        return self._from_coco(path, content.get("annotations") if isinstance(content, dict) else content, image_hw)

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

    def _from_coco(self, path: Path, annotations: Any, size_hw: tuple[int, int]) -> Proposals:
        if not isinstance(annotations, list) or not annotations:
            raise ProposalError("there are no annotations", path=path, expected="a list of COCO annotations")
        self._check_count(path, len(annotations))
        masks: list[ObjectMask] = []
        scores: list[float] = []
        problems: list[ProposalError] = []
        for position, annotation in enumerate(annotations):
            try:
                mask, score = _annotated(annotation, f"annotation {_place(annotation, position)}", path, size_hw)
            except ProposalError as error:
                problems.append(error)
                continue
            _check_size(mask.size_hw, masks[0].size_hw if masks else mask.size_hw, size_hw, path)
            masks.append(mask)
            scores.append(score)
        if not masks:
            raise problems[0]
        _warn(path, problems)
        return self._collect(path, masks, scores, None)


def _warn(path: Path, problems: list[ProposalError]) -> None:
    for problem in problems[:_MAX_WARNINGS]:
        _log.warning("%s; it is left out", str(problem).rstrip("."))
    if len(problems) > _MAX_WARNINGS:
        _log.warning("%s: %d annotations in all are left out", path, len(problems))


def _place(annotation: Any, position: int) -> str:
    """The number of an annotation in its list, and its id where it has one."""
    identity = annotation.get("id") if isinstance(annotation, Mapping) else None
    return f"{position} (id {shown(identity, 40)})" if isinstance(identity, (int, str)) else f"{position}"


def _annotated(annotation: Any, where: str, path: Path, size_hw: tuple[int, int]) -> tuple[ObjectMask, float]:
    """The mask and the score of a COCO annotation.

    Raises:
        ProposalError: it has no mask that can be read, or no score that is a number.
    """
    if not isinstance(annotation, Mapping):
        raise ProposalError(f"{where} is not an object", path=path, found=type(annotation).__name__)
    try:
        mask = _segmentation(annotation.get("segmentation"), size_hw)
    except MaskError as error:
        raise ProposalError(
            f"{where}: {error.problem}", path=path, found=error.found, expected=error.expected
        ) from None
    score = annotation.get("score", annotation.get("predicted_iou", 0.0))
    if not isinstance(score, (int, float)) or isinstance(score, bool) or not abs(score) < 1e30:
        raise ProposalError(f"{where}: the score is not a finite number", path=path, found=shown(score, 40))
    return mask, float(score)


def _boxes_path(path: Path) -> Path | None:
    """The file of boxes beside an archive of masks."""
    suffix = "_masks.npz"
    return path.with_name(path.name.removesuffix(suffix) + "_boxes.npy") if path.name.endswith(suffix) else None


def _equal(places: list[_Place]) -> bool:
    """Whether files of masks are copies of each other, as those of two directions of one camera may be."""
    if any(place.annotations is not None or place.path.is_dir() for place in places):
        return False
    return len({sha256_file(place.path) for place in places}) == 1


def _images(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], list[Mapping[str, Any]]]]:
    """The images of a COCO file, each by the parts of its path without ending, with its annotations."""
    names: dict[Any, tuple[str, ...]] = {}
    for image in content["images"]:
        if not isinstance(image, Mapping) or not isinstance(image.get("file_name"), str):
            raise ProposalError("an image has no file_name", path=path)
        identity = image.get("id")
        if not isinstance(identity, (int, str)):
            raise ProposalError("an image has no id", path=path, found=image["file_name"][:60])
        *folders, name = image["file_name"].replace("\\", "/").split("/")
        names[identity] = (*(part for part in folders if part not in ("", ".")), Path(name).stem)
    annotations = content.get("annotations")
    if not isinstance(annotations, list):
        raise ProposalError("there are images but no annotations", path=path)
    result: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    problems: list[ProposalError] = []
    for position, annotation in enumerate(annotations):
        identity = annotation.get("image_id") if isinstance(annotation, Mapping) else None
        if isinstance(identity, (int, str)) and identity in names:
            result.setdefault(names[identity], []).append(annotation)
        else:
            what = f"annotation {_place(annotation, position)} is not of an image of the file"
            problems.append(ProposalError(what, path=path, found=shown(identity, 40)))
    if problems and not result:
        raise problems[0]
    _warn(path, problems)
    yield from result.items()


def _check_size(size_hw: tuple[int, int], first_hw: tuple[int, int], image_hw: tuple[int, int], path: Path) -> None:
    """Refuse masks of several sizes, or of another shape than the image."""
    if not same_aspect(size_hw, image_hw):
        raise ProposalError("the mask is of another size than the image", path=path, found=size_hw, expected=image_hw)
    if size_hw != first_hw:
        raise ProposalError("the masks are of several sizes", path=path, found=f"{first_hw} and {size_hw}")


def _check_turned(place: _Place, size_hw: tuple[int, int], image_hw: tuple[int, int], orientation: int) -> None:
    """Refuse masks of an image with an EXIF orientation unless it is certain that they are of the upright image.

    Their shape says it, or the same orientation in their own files.

    Raises:
        ProposalError: they may as well have been drawn on the stored pixels.
    """
    if orientation == 1:
        return
    stored_hw = (image_hw[1], image_hw[0]) if orientation >= 5 else image_hw
    is_coco = place.annotations is not None or place.path.suffix == ".json"  # whose polygons have no size
    if not is_coco and not same_aspect(size_hw, stored_hw):
        return
    if place.annotations is None and place.path.is_dir():
        files = [path for path in place.path.iterdir() if path.suffix.lower() == ".png"]
        if all(image_orientation(path) == orientation for path in files):
            return
    raise ProposalError(
        "the masks may be of the upright image or of its stored pixels", path=place.path,
        found=f"EXIF orientation {orientation} of the image",
        fix="Save the image upright, without an orientation, and make the masks of that.",
    )  # fmt: skip


@library_errors(MaskError, "the segmentation cannot be read")
def _segmentation(value: Any, size_hw: tuple[int, int]) -> ObjectMask:
    """A COCO segmentation: run lengths, or polygons of x, y, x, y, ….

    Raises:
        MaskError: anything else, or of another size.
    """
    if isinstance(value, Mapping):
        size: Any = value.get("size")  # checked before decoding, which allocates it
        is_size = isinstance(size, (list, tuple)) and len(size) == 2 and all(type(v) is int and v > 0 for v in size)
        if not is_size or not same_aspect((size[0], size[1]), size_hw) or max(size) > MAX_SIDE_PX:
            raise MaskError("the mask is of another size than the image", found=size, expected=size_hw)
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
