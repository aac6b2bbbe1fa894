"""How far do matched points carry a mask, and how fast, beside nearest neighbour?

``python -m benchmarks.geometric [--takes FOLDER[:SPLIT]] [--photographs FOLDER] [--models NAME …] [--save]``

* *takes*: a prepared folder; of each take some frames (``--frames``), spread over it, in all pairs of cameras.
* *photographs*: a folder with ``SCENE_a.jpg`` and ``SCENE_b.jpg``, two images of one scene, and for each object a mask
  in both, ``SCENE_a_OBJECT.png`` and ``SCENE_b_OBJECT.png``.

Every system has the same ``graph`` proposals. *IoU* is the mean over all objects that are visible in the target image,
0 where there is no answer. *Success* is the fraction of them with enough matches for an answer, *answered although
absent* the same for objects that are not visible. IoU is measured at the size of the target image. *Seconds a pair* are
wall time from two images to the masks of all objects of the pair, one after the other on one process: what the system
needs of proposals is part of it (k-NN those of both images, a geometric matcher those of the target image if an object
has enough matches, a hull none).

Systems whose packages or weights are not available are reported and left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.common import decimals, record, show
from counterview.data.dataset import DIRECTIONS
from counterview.data.open import open_dataset
from counterview.data.pairs import FramePair, pairs_of_take
from counterview.errors import CounterviewError, InputError
from counterview.inference import Predictor, load
from counterview.inference.geometric_matcher import GeometricMatcher
from counterview.inference.takes import query_mask
from counterview.masks.geometry import fit_mask, iou
from counterview.masks.png import read_mask
from counterview.media.images import read_image
from counterview.types import ObjectMask, RgbImage

RIVALS = {
    "k-NN, classical features": {"model": "knn", "features": "classical"},
    "k-NN, tiny features": {"model": "knn", "features": "tiny"},
}
MODELS = ("geometric:sift", "geometric:sift+hull", "geometric:xfeat", "geometric:xfeat+hull")


@dataclass(frozen=True, eq=False)
class ImagePair:
    """Two images, and the objects of the first.

    Attributes:
        direction: for the table.
        query: ``(H, W, 3)`` uint8.
        target: ``(H', W', 3)`` uint8.
        objects: query mask, and mask in the target image, ``None`` if the object is not visible there.
    """

    direction: str
    query: RgbImage
    target: RgbImage
    objects: list[tuple[ObjectMask, ObjectMask | None]]


@dataclass(eq=False)
class Tally:
    """What one system did in one direction."""

    ious: list[float] = field(default_factory=list)
    answered: list[bool] = field(default_factory=list)
    absent_answered: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    def values(self) -> dict[str, Any]:
        """Means, the median time, and counts."""
        found = [value for value, answer in zip(self.ious, self.answered, strict=True) if answer]
        return {
            "pairs": len(self.seconds),
            "visible": len(self.ious),
            "absent": len(self.absent_answered),
            "iou": _mean(self.ious),
            "success": _mean(self.answered),
            "iou_of_answers": _mean(found),
            "absent_answered": _mean(self.absent_answered),
            "seconds_per_pair": {
                "median_s": statistics.median(self.seconds), "min_s": min(self.seconds), "max_s": max(self.seconds),
            },
        }  # fmt: skip


def _mean(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def photographs(folder: Path) -> Iterator[ImagePair]:
    """All scenes of a folder, both ways."""
    scenes = sorted(path.name.removesuffix("_a.jpg") for path in folder.glob("*_a.jpg"))
    if not scenes:
        raise InputError("no photographs here", path=folder, expected="SCENE_a.jpg and SCENE_b.jpg")
    for scene in scenes:
        images = {view: read_image(folder / f"{scene}_{view}.jpg") for view in "ab"}
        names = sorted(path.stem.removeprefix(f"{scene}_a_") for path in folder.glob(f"{scene}_a_*.png"))
        masks = {
            view: [ObjectMask.from_array(read_mask(folder / f"{scene}_{view}_{name}.png")) for name in names]
            for view in "ab"
        }
        for one, other in ("ab", "ba"):
            pairs = list(zip(masks[one], masks[other], strict=True))
            yield ImagePair(f"{one} to {other}", images[one], images[other], pairs)


def takes(text: str, frames: int) -> Iterator[ImagePair]:
    """Some frames of each take of ``FOLDER[:SPLIT]``, both ways, in all pairs of cameras."""
    folder, _, split = text.rpartition(":") if not Path(text).is_dir() else (text, "", "test")
    for take in open_dataset(folder, split):
        images: dict[tuple[str, int], RgbImage] = {}
        for direction in DIRECTIONS:
            pairs = list(pairs_of_take(take, direction))
            groups: dict[tuple[int, str, str], list[FramePair]] = defaultdict(list)
            for pair in pairs:
                groups[pair.frame, pair.query_camera, pair.target_camera].append(pair)
            numbers = sorted({pair.frame for pair in pairs})
            wanted = {numbers[int(len(numbers) * (k + 0.5) / frames)] for k in range(min(frames, len(numbers)))}
            for (frame, query, target), members in groups.items():
                if frame not in wanted:
                    continue
                for camera in (query, target):
                    if (camera, frame) not in images:
                        images[camera, frame] = take.frame(camera, frame)
                objects: list[tuple[ObjectMask, ObjectMask | None]] = []
                for pair in members:
                    truth = take.mask(pair.object, target, frame)
                    there = truth is not None and not truth.is_empty
                    objects.append((
                        query_mask(take, pair, images[query, frame].shape[:2]),
                        fit_mask(truth, images[target, frame].shape[:2]) if there and truth else None,
                    ))  # fmt: skip
                yield ImagePair(direction, images[query, frame], images[target, frame], objects)


def load_systems(names: list[str]) -> tuple[dict[str, Predictor[Any]], dict[str, str]]:
    """The systems that are available, and the reasons why others are not."""
    systems: dict[str, Predictor[Any]] = {}
    missing: dict[str, str] = {}
    for name, options in {**RIVALS, **{name: {"model": name} for name in names}}.items():
        try:
            systems[name] = load(**options, device="cpu")
        except CounterviewError as error:
            missing[name] = str(error)
    return systems, missing


def measure(systems: dict[str, Predictor[Any]], pairs: list[ImagePair]) -> dict[str, dict[str, Any]]:
    """Name of each system to its values in each direction, and together."""
    tallies: dict[str, dict[str, Tally]] = {name: defaultdict(Tally) for name in systems}
    for pair in tqdm(pairs, leave=False):
        masks = [query for query, _ in pair.objects]
        for name, system in systems.items():
            start = time.perf_counter()
            matches = system.match_encoded(system.encode(pair.query), masks, system.encode(pair.target), top_k=1)
            tally = tallies[name][pair.direction]
            tally.seconds.append(time.perf_counter() - start)
            for match, (_, truth) in zip(matches, pair.objects, strict=True):
                answer = not match.mask_rle.is_empty
                if truth is None:
                    tally.absent_answered.append(answer)
                    continue
                tally.answered.append(answer)
                tally.ious.append(iou(match.mask_rle, truth))
    return {
        name: {
            **{direction: tally.values() for direction, tally in rows.items()},
            "together": sum(rows.values(), Tally()).values(),
        }
        for name, rows in tallies.items()
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--takes", metavar="FOLDER[:SPLIT]", help="prepared takes; the split is test by default")
    parser.add_argument("--frames", type=int, default=2, help="frames of a take")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER")
    parser.add_argument("--models", nargs="*", default=list(MODELS), metavar="NAME")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/geometric.json")
    options = parser.parse_args()
    sets: dict[str, list[ImagePair]] = {}
    if options.takes:
        sets["rendered takes"] = list(takes(options.takes, options.frames))
    if options.photographs:
        sets["photographs"] = list(photographs(options.photographs))
    if not sets:
        parser.error("give --takes or --photographs")
    systems, missing = load_systems(options.models)
    results: dict[str, Any] = {}
    for name, pairs in sets.items():
        rows = measure(systems, pairs)
        results[name] = {"images": len({id(image) for p in pairs for image in (p.query, p.target)}), "rows": rows}
        directions = list(dict.fromkeys(pair.direction for pair in pairs))
        show(
            f"{name}: {len(pairs)} ordered pairs of images",
            ["", *(f"IoU {d}" for d in directions), "IoU", "success", "IoU of answers", "absent answered", "s a pair"],
            [
                [
                    system,
                    *(decimals(values[d]["iou"]) for d in directions),
                    *(decimals(values["together"][k]) for k in ("iou", "success", "iou_of_answers", "absent_answered")),
                    values["together"]["seconds_per_pair"]["median_s"],
                ]
                for system, values in rows.items()
            ],
        )
    for name, reason in missing.items():
        print(f"left out: {name}: {reason}")
    settings = {name: s.settings()["matcher"] for name, s in systems.items() if isinstance(s, GeometricMatcher)}
    record("geometric", {"sets": results, "settings": settings, "left_out": missing}, save=options.save)


if __name__ == "__main__":
    main()
