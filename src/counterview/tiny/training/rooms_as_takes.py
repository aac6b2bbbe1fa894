"""Rooms of :mod:`~counterview.tiny.training.proposer_rooms` as a prepared data set, to train descriptors on.

``python -m counterview.tiny.training.rooms_as_takes ROOMS OUT [--below N]``: every room is a take of the split
``train``, with one ego and two exo cameras. All that is on the table has a mask in every view, the clutter too, which
is not annotated in the takes of ``counterview tabletop``: a query has half as many distractors again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from counterview.masks.rle import to_coco
from counterview.media.files import write_json
from counterview.tiny.training.command_line import parse
from counterview.tiny.training.proposer_rooms import read_labels, room_images, room_number
from counterview.types import ObjectMask

__all__ = ["TakeSettings", "write_take", "write_takes"]

VIEWS = (("aria01_214-1", 0), ("aria01_214-1", 30), ("cam01", 30), ("cam02", 30))
"""Camera and frame of each image of a room, in its order."""
SMALLEST_PX = 30
"""An object with fewer pixels in an image counts as not annotated there."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TakeSettings:
    """Which rooms become takes."""

    below: int | None = field(default=None, metadata={"help": "rooms with lower numbers only; by default all"})


def write_take(rooms: Path, stem: str, out: Path) -> str:
    """Write one room as a take, unless that was done before.

    Args:
        rooms: folder of the rooms.
        stem: what the names of the room's files begin with.
        out: folder of the takes.

    Returns:
        the take's uid.

    Raises:
        InputError: a file of the room is missing or damaged.
    """
    folder = out / stem
    if (folder / "annotation.json").is_file():
        return stem
    masks: dict[str, dict[str, dict[str, object]]] = {}
    annotated: dict[str, dict[str, list[int]]] = {}
    for number, (camera, frame) in enumerate(VIEWS):
        source = rooms / f"{stem}_{number}.json"
        labels = read_labels(source)
        (folder / camera).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.with_suffix(".jpg"), folder / camera / f"{frame}.jpg")
        for instance in range(labels.clutter, labels.person):
            mask = labels.instances == instance
            count = int(mask.sum())
            if 0 < count < SMALLEST_PX:
                continue
            name = f"thing_{instance}"
            annotated.setdefault(name, {}).setdefault(camera, []).append(frame)
            frames = masks.setdefault(name, {}).setdefault(camera, {})
            if count:
                frames[str(frame)] = to_coco(ObjectMask.from_array(mask))
    visible = [name for name, cameras in masks.items() if any(cameras.values())]
    content = {
        "masks": {name: masks[name] for name in visible},
        "subsample_idx": sorted({frame for _, frame in VIEWS}),
        "annotated_frames": {name: annotated[name] for name in visible},
    }
    write_json(folder / "annotation.json", content)
    return stem


def write_takes(rooms: Path, out: Path, settings: TakeSettings | None = None) -> list[str]:
    """Write all complete rooms as takes, and the split; return the takes' uids.

    Args:
        rooms: folder of the rooms.
        out: folder of the takes.
        settings: see :class:`TakeSettings`.

    Raises:
        InputError: no rooms, or a file of a room is missing or damaged.
    """
    settings = settings or TakeSettings()
    out.mkdir(parents=True, exist_ok=True)
    last = f"_{len(VIEWS) - 1}"
    complete = [path for path in room_images(rooms) if path.stem.endswith(last)]
    if settings.below is not None:
        complete = [path for path in complete if room_number(path) < settings.below]
    stems = [path.stem.removesuffix(last) for path in complete]
    uids = [write_take(rooms, stem, out) for stem in tqdm(stems, unit="room")]
    write_json(out / "split.json", {"train": uids})
    return uids


def main(arguments: Sequence[str] | None = None) -> None:
    """Write rooms as takes, see the module's text."""
    paths = {"rooms": "folder of the rooms", "out": "folder of the takes"}
    (rooms, out), settings = parse(__doc__, paths, TakeSettings, arguments)
    _log.info("%d takes in %s", len(write_takes(rooms, out, settings)), out)


if __name__ == "__main__":
    main()
