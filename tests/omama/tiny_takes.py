"""A small prepared data set: coloured shapes on two tables, whose colours differ between the cameras.

What is red for the ego camera is green for the exo cameras, and so on, so colours alone match nothing before something
was learned. Some objects are absent from the exo image in some frames.
"""

import json
from pathlib import Path

import numpy as np

from counterview.masks.rle import to_coco
from counterview.media.images import write_image
from counterview.types import ObjectMask

COLOURS = np.array([[200, 40, 40], [40, 180, 60], [40, 60, 200], [210, 190, 40], [170, 50, 190], [40, 190, 190]])
EGO_HW, EXO_HW = (112, 112), (84, 140)


def shape_mask(size_hw, centre_yx, radius, kind):
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    dy, dx = np.abs(y - centre_yx[0]), np.abs(x - centre_yx[1])
    return dy**2 + dx**2 <= radius**2 if kind % 2 == 0 else np.maximum(dy, dx) <= radius * 0.9


def draw(size_hw, rng, shown, swap):
    """Image and mask by object: objects on a jittered grid, in their own colours or swapped ones."""
    image = np.full((*size_hw, 3), 120, dtype=np.float64) + rng.normal(0, 4, (*size_hw, 1))
    spots = [(r, c) for r in range(2) for c in range(3)]
    order = rng.permutation(len(spots))
    masks = {}
    for place, index in enumerate(shown):
        row, column = spots[order[place]]
        centre = (
            (row + 0.5) * size_hw[0] / 2 + rng.uniform(-4, 4),
            (column + 0.5) * size_hw[1] / 3 + rng.uniform(-4, 4),
        )
        radius = rng.uniform(9, 13) * max(1, min(size_hw) / 112)
        mask = shape_mask(size_hw, centre, radius, index)
        colour = COLOURS[index][[1, 2, 0]] if swap else COLOURS[index]
        image[mask] = colour + rng.normal(0, 4, (int(mask.sum()), 1))
        masks[index] = mask
    return image.clip(0, 255).astype(np.uint8), masks


def write_takes(
    root: Path, takes=3, frames=4, exo_cameras=1, splits=None, seed=0, prefix="take", sizes=(EGO_HW, EXO_HW)
) -> Path:
    """Write the data set and return its root; ``splits`` maps names to numbers of takes."""
    splits = splits or {"train": takes - 1, "val": 1}
    names = [f"{prefix}{n}" for n in range(sum(splits.values()))]
    for number, uid in enumerate(names):
        rng = np.random.default_rng([seed, number])
        cameras = {"aria01": sizes[0], **{f"cam{c:02d}": sizes[1] for c in range(1, exo_cameras + 1)}}
        masks: dict = {}
        looked: dict = {}
        objects = rng.permutation(len(COLOURS))[:5]
        for frame in range(0, 30 * frames, 30):
            hidden = int(rng.integers(5))
            for camera, size in cameras.items():
                shown = [o for i, o in enumerate(objects) if camera == "aria01" or i != hidden]
                image, found = draw(size, rng, shown, swap=camera != "aria01")
                write_image(root / uid / camera / f"{frame}.jpg", image, quality=95)
                for index in objects:
                    name = f"thing {index}"
                    looked.setdefault(name, {}).setdefault(camera, []).append(frame)
                    per_camera = masks.setdefault(name, {}).setdefault(camera, {})
                    if index in found:
                        per_camera[str(frame)] = to_coco(ObjectMask.from_array(found[index]))
        content = {"masks": masks, "subsample_idx": list(range(0, 30 * frames, 30)), "annotated_frames": looked}
        (root / uid / "annotation.json").write_text(json.dumps(content))
    place, split_file = 0, {}
    for name, count in splits.items():
        split_file[name] = names[place : place + count]
        place += count
    (root / "split.json").write_text(json.dumps(split_file))
    return root
