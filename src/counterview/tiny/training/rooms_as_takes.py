"""Rooms of ``counterview.tiny.training.proposer_rooms`` as a prepared data set, to train descriptors on.

``python -m counterview.tiny.training.rooms_as_takes ROOMS OUT [--below N]``: every room is a take of the split ``train``, with one ego
and two exo cameras. In a room all that lies on the table has a mask in every view, clutter too, which the takes of
``counterview tabletop`` leave without: a question has half as many rivals again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import cv2
from tqdm import tqdm

from counterview.masks.rle import to_coco
from counterview.media.files import write_json
from counterview.types import ObjectMask

VIEWS = (("aria01_214-1", 0), ("aria01_214-1", 30), ("cam01", 30), ("cam02", 30))
"""Camera and frame of each image of a room, in its order."""
SMALLEST_PX = 30
"""A mask of fewer pixels says nothing of what it shows; its object counts as not looked for."""


def take(rooms: Path, stem: str, out: Path) -> str:
    """Write one room as a take; returns its uid."""
    folder = out / stem
    if (folder / "annotation.json").is_file():
        return stem
    masks: dict[str, dict[str, dict[str, object]]] = {}
    looked: dict[str, dict[str, list[int]]] = {}
    for number, (camera, frame) in enumerate(VIEWS):
        source = rooms / f"{stem}_{number}"
        about = json.loads(source.with_suffix(".json").read_text(encoding="utf-8"))
        body = cv2.imread(str(source.with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
        (folder / camera).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.with_suffix(".jpg"), folder / camera / f"{frame}.jpg")
        for thing in range(about["clutter"], about["person"]):
            mask = body == thing
            count = int(mask.sum())
            if 0 < count < SMALLEST_PX:
                continue
            name = f"thing_{thing}"
            looked.setdefault(name, {}).setdefault(camera, []).append(frame)
            frames = masks.setdefault(name, {}).setdefault(camera, {})
            if count:
                frames[str(frame)] = to_coco(ObjectMask.from_array(mask))
    seen = [name for name, cameras in masks.items() if any(cameras.values())]
    content = {
        "masks": {name: masks[name] for name in seen},
        "subsample_idx": sorted({frame for _, frame in VIEWS}),
        "annotated_frames": {name: looked[name] for name in seen},
    }
    write_json(folder / "annotation.json", content)
    return stem


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--below", type=int, help="rooms with lower numbers only")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    last = f"_{len(VIEWS) - 1}"
    stems = [p.stem.removesuffix(last) for p in sorted(options.rooms.glob(f"room_*{last}.json"))]
    if options.below is not None:
        stems = [stem for stem in stems if int(stem.split("_")[2]) < options.below]
    uids = [take(options.rooms, stem, options.out) for stem in tqdm(stems, unit="room")]
    write_json(options.out / "split.json", {"train": uids})
    print(f"{len(uids)} takes in {options.out}")


if __name__ == "__main__":
    main()
