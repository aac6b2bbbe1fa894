"""How good are the proposals: best IoU with annotated objects by number of masks, and seconds an image?

``python -m benchmarks.proposals [DATA] [--split test] [--real FOLDER] [--proposals graph tiny] [--save]``: the bundled
pair; images of a data set (a release or a prepared one), every annotated mask of each; and a folder with images
``NAME.jpg`` (or ``.png``) and masks ``NAME_OBJECT.png``. Each object counts with the best IoU among the first 50, 100,
200 and 300 proposals; means are over objects, by view and by size of mask. Seconds are of one call in one thread;
processor seconds do not depend on other work on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.common import record, show
from counterview.data import open_dataset
from counterview.masks.geometry import iou
from counterview.masks.png import read_mask
from counterview.media.images import read_image
from counterview.proposals import Proposer, load_proposer
from counterview.types import ObjectMask, RgbImage

COUNTS = (50, 100, 200, 300)
SIZES_PX = (0, 100, 300, 1000, 3000)
"""Lower limits of the sizes of masks, in pixels of the image."""


@dataclass(frozen=True)
class Example:
    """An image with the masks of its annotated objects."""

    name: str
    view: str
    image: RgbImage
    objects: dict[str, ObjectMask]


def of_folder(folder: Path, view: str) -> Iterator[Example]:
    """The images of a folder that have masks beside them."""
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for image in images:
        masks = [path for path in images if path.suffix == ".png" and path.stem.startswith(f"{image.stem}_")]
        # Of images called a and a_b, the masks of the second belong to it alone.
        nearer = [other.stem for other in images if other.suffix != ".png" and other.stem.startswith(f"{image.stem}_")]
        masks = [path for path in masks if not any(path.stem.startswith(f"{stem}_") for stem in nearer)]
        if masks:
            names = {path.stem[len(image.stem) + 1 :]: path for path in masks}
            objects = {name: ObjectMask.from_array(read_mask(path)) for name, path in names.items()}
            yield Example(image.stem, view, read_image(image), objects)


def of_dataset(root: Path, split: str, count: int) -> Iterator[Example]:
    """Up to ``count`` images of a data set that have a mask, evenly spread over takes, frames and cameras."""
    places = []
    for take in open_dataset(root, split):
        for camera in take.cameras:
            frames = sorted({frame for name in take.objects for frame in take.mask_frames(name, camera)})
            places += [(take, camera, frame) for frame in frames if take.has_frame(camera, frame)]
    # A fixed shuffle spreads the choice over takes, cameras and frames.
    chosen = np.random.default_rng(0).permutation(len(places))[: count or len(places)]
    for index in sorted(chosen.tolist()):
        take, camera, frame = places[index]
        masks = {name: take.mask(name, camera, frame) for name in take.objects}
        objects = {name: mask for name, mask in masks.items() if mask is not None and not mask.is_empty}
        if objects:
            view = "ego" if take.is_ego(camera) else "exo"
            yield Example(f"{take.name}/{camera}/{frame}", view, take.frame(camera, frame), objects)


def measure(proposer: Proposer, examples: list[Example]) -> list[dict[str, object]]:
    """One row an image: number of masks, seconds, and for every object its size and best IoU by number of masks."""
    rows: list[dict[str, object]] = []
    for example in tqdm(examples, desc=proposer.name, unit="image"):
        wall, processor = time.perf_counter(), time.process_time()
        proposals = proposer(example.image, example.name)
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        best = {}
        for name, mask in example.objects.items():
            overlaps = [iou(proposal, mask) for proposal in proposals]
            best[name] = {"area_px": mask.area, "iou": [max(overlaps[:count], default=0.0) for count in COUNTS]}
        rows.append(
            {
                "image": example.name,
                "view": example.view,
                "size_hw": list(example.image.shape[:2]),
                "masks": len(proposals),
                "objects": best,
                "wall_s": wall,
                "processor_s": processor,
            }
        )
    return rows


def summarise(rows: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    """Means over objects: by view, and over both views of the data set, also by size of mask."""
    groups: dict[str, list[list[float]]] = {}
    for row in rows:
        of_dataset = row["view"] in ("ego", "exo")
        for value in row["objects"].values():  # type: ignore[attr-defined]
            names = [str(row["view"])]
            if of_dataset:
                least = max(size for size in SIZES_PX if value["area_px"] >= size)
                names += ["ego and exo", f"ego and exo, from {least} px"]
            for name in names:
                groups.setdefault(name, []).append(value["iou"])
    order = ["bundled pair", "real", "ego", "exo", "ego and exo", *(f"ego and exo, from {s} px" for s in SIZES_PX)]
    return {
        name: {"objects": len(groups[name]), "mean_best_iou": np.mean(groups[name], 0).tolist()}
        for name in order
        if name in groups
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=60, help="images of the data set at most; 0 for all")
    parser.add_argument("--real", type=Path, help="folder with images and masks")
    parser.add_argument("--proposals", nargs="+", default=["graph", "tiny"])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with as_file(files("counterview") / "assets" / "pair") as bundled:
        examples = list(of_folder(bundled, "bundled pair"))
    if options.real:
        examples += of_folder(options.real, "real")
    if options.data:
        examples += of_dataset(options.data, options.split, options.images)
    table: list[list[object]] = []
    results: dict[str, object] = {}
    for name in options.proposals:
        proposer = load_proposer(name, max_masks=max(COUNTS))
        proposer(examples[0].image, examples[0].name)
        rows = measure(proposer, examples)
        summary = summarise(rows)
        seconds = {
            view: {
                "images": len(of_view := [row for row in rows if row["view"] == view]),
                "median_processor_s": statistics.median(row["processor_s"] for row in of_view),  # type: ignore[type-var]
                "median_wall_s": statistics.median(row["wall_s"] for row in of_view),  # type: ignore[type-var]
            }
            for view in dict.fromkeys(row["view"] for row in rows)
        }
        results[name] = {"settings": proposer.settings(), "summary": summary, "seconds": seconds}
        for group, values in summary.items():
            times = seconds.get(group)
            table.append(
                [
                    name,
                    group,
                    values["objects"],
                    *values["mean_best_iou"],  # type: ignore[misc]
                    times["median_processor_s"] if times else "",
                    times["median_wall_s"] if times else "",
                ]
            )
    show(
        "Mean best IoU of proposals, and median seconds an image",
        ["proposals", "images", "objects", *(f"first {count}" for count in COUNTS), "processor s", "wall s"],
        table,
    )
    record(
        "proposals",
        {"counts": COUNTS, "images_at_most": options.images, "split": options.split, "results": results},
        save=options.save,
    )


if __name__ == "__main__":
    main()
