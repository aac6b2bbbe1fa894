"""Statistics of a data set in any layout, real or synthetic: sizes, visibility and track lengths.

Only annotations are read, one take at a time, so the full release fits in memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from counterview.data.dataset import Dataset, Take, is_ego
from counterview.data.open import open_dataset
from counterview.errors import AnnotationError, CounterviewError, MaskError, counted
from counterview.jobs.run import map_ordered
from counterview.masks.rle import from_lzstring
from counterview.media.jsonstream import Span, index_object, iter_object, read_span
from counterview.types import RgbImage

__all__ = ["AREA_EDGES", "DirectionCount", "Inspection", "draw_inspection", "inspect_dataset", "inspect_release"]

_Item = TypeVar("_Item")
_LOGGER = logging.getLogger(__name__)

Progress = Callable[[int], object]
"""Is told the number of takes that were read; what it raises ends the work."""

AREA_EDGES = (0.0, 0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)
"""Edges of the histogram bins of mask area, as fractions of the image."""


@dataclass
class DirectionCount:
    """Number of query frames of one direction.

    Attributes:
        frames: query frames whose target frame was annotated.
        visible: those among them in which the target is visible.
    """

    frames: int = 0
    visible: int = 0

    @property
    def not_visible_fraction(self) -> float:
        """Fraction of the frames whose target is not visible; 0 if there are no frames."""
        return 1 - self.visible / self.frames if self.frames else 0.0


@dataclass
class Inspection:
    """Statistics of a data set.

    Attributes:
        takes: number of takes.
        cameras: number of cameras, counted per take.
        objects: number of objects, counted per take.
        masks: number of masks.
        unreadable: number of masks that do not decode.
        empty_takes: uids of takes without a mask.
        areas: mask areas as fractions of the image, per side (``ego``, ``exo``), in the file's order.
        directions: per direction, see :class:`DirectionCount`. A pair counts as in the official evaluation:
            the object has a mask in the query camera and the frame is in the target's ``annotated_frames``.
        track_lengths: per side, number of masks of each (object, camera).
    """

    takes: int = 0
    cameras: int = 0
    objects: int = 0
    masks: int = 0
    unreadable: int = 0
    empty_takes: list[str] = field(default_factory=list)
    areas: dict[str, list[float]] = field(default_factory=lambda: {"ego": [], "exo": []})
    directions: dict[str, DirectionCount] = field(
        default_factory=lambda: {"ego2exo": DirectionCount(), "exo2ego": DirectionCount()}
    )
    track_lengths: dict[str, list[int]] = field(default_factory=lambda: {"ego": [], "exo": []})

    def add(self, other: Inspection) -> None:
        """Add the statistics of further takes.

        Args:
            other: of takes that are not among these.
        """
        self.takes += other.takes
        self.cameras += other.cameras
        self.objects += other.objects
        self.masks += other.masks
        self.unreadable += other.unreadable
        self.empty_takes += other.empty_takes
        for side in self.areas:
            self.areas[side] += other.areas[side]
            self.track_lengths[side] += other.track_lengths[side]
        for name, count in self.directions.items():
            count.frames += other.directions[name].frames
            count.visible += other.directions[name].visible

    def fraction_below(self, side: str, area: float) -> float:
        """Fraction of the masks of ``side`` that cover less than ``area`` of their image; 0 if there are no masks."""
        values = np.asarray(self.areas[side])
        return float((values < area).mean()) if len(values) else 0.0

    def summary(self) -> dict[str, Any]:
        """The statistics for JSON: counts, quantiles and fractions, without the list of all masks."""
        out: dict[str, Any] = {k: getattr(self, k) for k in ("takes", "cameras", "objects", "masks", "unreadable")}
        out["empty_takes"] = list(self.empty_takes)
        out["directions"] = {
            d: {**asdict(c), "not_visible_fraction": c.not_visible_fraction} for d, c in self.directions.items()
        }
        for side in ("ego", "exo"):
            area, length = np.asarray(self.areas[side]), np.asarray(self.track_lengths[side])
            out[side] = {
                "masks": len(area),
                "area_quantiles": np.quantile(area, [0.1, 0.25, 0.5, 0.75, 0.9]).tolist() if len(area) else [],
                "below_0.1%": self.fraction_below(side, 0.001),
                "below_0.5%": self.fraction_below(side, 0.005),
                "tracks": len(length),
                "track_length_median": float(np.median(length)) if len(length) else 0.0,
            }
        return out


def _annotation_files(root: Path, split: str | None) -> list[Path]:
    folder = root / "annotations"
    pattern = f"relations_{split}.json" if split else "relations_*.json"
    files = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if not files:
        raise AnnotationError(
            "has no relations annotation",
            path=folder,
            expected=pattern,
            fix="Give the folder that holds takes.json and annotations/.",
        )
    return files


def inspect_release(
    root: str | os.PathLike[str],
    split: str | None = None,
    *,
    workers: int = 1,
    progress: Progress = lambda takes: None,
) -> Inspection:
    """Compute the statistics of ``root/annotations/relations_*.json``.

    Args:
        root: folder in the release layout.
        split: only this split.
        workers: processes; the result does not depend on it.
        progress: told the number of takes so far.

    Raises:
        AnnotationError: no annotation file, or a malformed one. Masks that do not decode are counted, not raised.
    """
    base, out = Path(root), Inspection()
    if workers <= 1:
        for file in _annotation_files(base, split):
            for uid, take in iter_object(file, error=AnnotationError):
                out.add(_inspect_annotation(base, file, uid, take))
                progress(out.takes)
        return out
    takes = [
        (file, uid, span)
        for file in _annotation_files(base, split)
        for uid, span in index_object(file, error=AnnotationError).items()
    ]
    for part in map_ordered(partial(_inspect_spans, base), _chunks(takes, workers), workers, "inspect"):
        out.add(part)
        progress(out.takes)
    return out


def _inspect_spans(root: Path, takes: Sequence[tuple[Path, str, Span]]) -> Inspection:
    out = Inspection()
    for file, uid, span in takes:
        out.add(_inspect_annotation(root, file, uid, read_span(file, span, uid, error=AnnotationError)))
    return out


def _inspect_annotation(root: Path, file: Path, uid: str, take: Any) -> Inspection:
    """The statistics of one take."""
    if not isinstance(take, dict):
        raise AnnotationError("is not an annotation", path=file, found=f"{type(take).__name__} for take {uid}")
    out = Inspection(takes=1)
    cameras: set[str] = set()
    try:
        for name, views in dict(take.get("object_masks") or {}).items():
            out.objects += 1
            cameras.update(views)
            _count_object(out, f"{uid}: {name}", views)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnnotationError(f"the annotation of take {uid} is malformed", path=root, found=repr(error)) from error
    out.cameras = len(cameras)
    out.empty_takes = [] if out.masks else [uid]
    return out


def _chunks(items: Sequence[_Item], workers: int) -> list[Sequence[_Item]]:
    """Parts of equal length, several for each process: one take is too little to send."""
    size = max(1, min(16, len(items) // (4 * workers)))
    return [items[start : start + size] for start in range(0, len(items), size)]


def _count_object(out: Inspection, where: str, views: Mapping[str, Any]) -> None:
    present: dict[str, set[int]] = {}
    annotated: dict[str, set[int]] = {}
    for camera, view in views.items():
        side = "ego" if is_ego(camera) else "exo"
        annotated[camera] = {int(f) for f in view.get("annotated_frames") or ()}
        present[camera] = set()
        for frame, entry in dict(view.get("annotation") or {}).items():
            out.masks += 1
            try:
                mask = from_lzstring(entry["encodedMask"], (entry["height"], entry["width"]))
            except CounterviewError as error:
                out.unreadable += 1
                _LOGGER.warning("%s, %s, frame %s: %s", where, camera, frame, error)
                continue
            present[camera].add(int(frame))
            out.areas[side].append(mask.area / (mask.size_hw[0] * mask.size_hw[1]))
        if present[camera]:
            out.track_lengths[side].append(len(present[camera]))
    _count_pairs(out, present, annotated, {camera: is_ego(camera) for camera in views})


def _count_pairs(
    out: Inspection, present: Mapping[str, set[int]], annotated: Mapping[str, set[int]], ego: Mapping[str, bool]
) -> None:
    for query, target in ((q, t) for q in present for t in present):
        if ego[query] == ego[target]:
            continue
        direction = out.directions["ego2exo" if ego[query] else "exo2ego"]
        both = present[query] & (annotated[target] | present[target])
        direction.frames += len(both)
        direction.visible += len(both & present[target])


def inspect_dataset(
    root: str | os.PathLike[str],
    split: str | None = None,
    *,
    workers: int = 1,
    progress: Progress = lambda takes: None,
) -> Inspection:
    """Compute the statistics of a data set in any layout that :func:`counterview.data.open.open_dataset` reads.

    Args:
        root: a release, a prepared folder, or HANDAL.
        split: only this split.
        workers: processes; the result does not depend on it.
        progress: told the number of takes so far.

    Raises:
        InputError: no data set, no such split, or a take that cannot be read. Masks that do not decode are counted.
    """
    if next((Path(root) / "annotations").glob("relations_*.json"), None) is not None:
        return inspect_release(root, split, workers=workers, progress=progress)
    out, dataset = Inspection(), open_dataset(root, split, kept_takes=1)
    if workers <= 1:
        return _inspect_takes(dataset, dataset.uids, progress)
    for part in map_ordered(partial(_inspect_takes, dataset), _chunks(dataset.uids, workers), workers, "inspect"):
        out.add(part)
        progress(out.takes)
    return out


def _inspect_takes(dataset: Dataset, uids: Sequence[str], progress: Progress = lambda takes: None) -> Inspection:
    out = Inspection()
    for uid in uids:
        take = dataset.take(uid)
        out.takes += 1
        out.objects += len(take.objects)
        out.cameras += len(take.cameras)
        before = out.masks
        for name in take.objects:
            _count_object_of(out, take, name)
        if out.masks == before:
            out.empty_takes.append(take.uid)
        progress(out.takes)
    return out


def _count_object_of(out: Inspection, take: Take, name: str) -> None:
    present: dict[str, set[int]] = {}
    annotated: dict[str, set[int]] = {}
    for camera in take.cameras_of(name):
        side = "ego" if take.is_ego(camera) else "exo"
        annotated[camera] = set(take.annotated_frames(name, camera))
        present[camera] = set()
        out.masks += take.mask_count(name, camera)
        for frame, raw in take.raw_masks[name][camera].items():
            try:
                mask = take.decode_mask(raw)
            except MaskError as error:
                _LOGGER.warning("%s: %s, %s, frame %s: %s", take.uid, name, camera, frame, error)
                continue
            present[camera].add(frame)
            out.areas[side].append(mask.area / (mask.size_hw[0] * mask.size_hw[1]))
        out.unreadable += take.mask_count(name, camera) - len(present[camera])
        if present[camera]:
            out.track_lengths[side].append(len(present[camera]))
    _count_pairs(out, present, annotated, {camera: take.is_ego(camera) for camera in present})


def draw_inspection(inspection: Inspection, path: str | os.PathLike[str]) -> None:
    """Draw mask areas, visible fractions and track lengths as an image file, 960 by 340 pixels.

    Args:
        inspection: from :func:`inspect_release`.
        path: the file; its extension gives the format.

    Raises:
        ImageError: the extension is not that of an image.
    """
    from counterview.media.images import write_image

    write_image(path, inspection_image(inspection))


def inspection_image(inspection: Inspection) -> RgbImage:
    """The image of :func:`draw_inspection`, ``(340, 960, 3)`` uint8.

    Args:
        inspection: from :func:`inspect_release`.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = 960, 340
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(15), ImageFont.load_default(11)
    colours = {"ego": (214, 112, 40), "exo": (44, 108, 176)}
    title = ", ".join(counted(getattr(inspection, f"{noun}s"), noun) for noun in ("take", "object", "mask"))
    draw.text((20, 8), title, fill="black", font=font)
    draw.text((20, 34), "mask area, fraction of the image", fill="black", font=small)
    counts = {s: np.histogram(inspection.areas[s], AREA_EDGES)[0] / max(len(inspection.areas[s]), 1) for s in colours}
    top = max(0.05, *(float(c.max()) for c in counts.values()))
    step, base = 52, 290
    for i in range(len(AREA_EDGES) - 1):
        for k, (side, colour) in enumerate(colours.items()):
            x = 20 + i * step + k * 22
            draw.rectangle((x, base - 220 * float(counts[side][i]) / top, x + 19, base), fill=colour)
        draw.text((20 + i * step, base + 4), f"<{AREA_EDGES[i + 1]:.2%}", fill="black", font=small)
    for k, (side, colour) in enumerate(colours.items()):
        draw.rectangle((400 + 70 * k, 36, 412 + 70 * k, 48), fill=colour)
        draw.text((416 + 70 * k, 35), side, fill="black", font=small)
    draw.text((580, 34), "query frames: target visible / not visible", fill="black", font=small)
    for k, (name, direction) in enumerate(inspection.directions.items()):
        y = 56 + 44 * k
        boundary = 580 + 340 * (1 - direction.not_visible_fraction)
        draw.rectangle((580, y, boundary, y + 18), fill=(70, 150, 90))
        draw.rectangle((boundary, y, 920, y + 18), fill=(170, 170, 170))
        draw.text(
            (580, y + 20),
            f"{name}: {direction.frames} frames, {direction.not_visible_fraction:.1%} not visible",
            fill="black",
            font=small,
        )
    draw.text((580, 156), "track length, masks per object and camera", fill="black", font=small)
    longest = max([1, *inspection.track_lengths["ego"], *inspection.track_lengths["exo"]])
    edges = np.linspace(0.5, longest + 0.5, 13)
    for k, (side, colour) in enumerate(colours.items()):
        bars = np.histogram(inspection.track_lengths[side], edges)[0]
        for i, n in enumerate(bars.tolist()):
            x = 580 + i * 28 + k * 12
            draw.rectangle((x, base - 100 * n / max(int(bars.max()), 1), x + 10, base), fill=colour)
    draw.text((580, base + 4), "1", fill="black", font=small)
    draw.text((900, base + 4), str(longest), fill="black", font=small)
    return np.asarray(image)
