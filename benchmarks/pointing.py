"""Which proposal a point selects: the rule of counterview against the best score alone, on takes with true masks.

``python -m benchmarks.pointing FOLDER[:SPLIT] [--frames 3] [--save]``

For each annotated object two points: the deepest pixel of its mask, and a random one at least a third as deep. IoU of
the selected proposal with the true mask, and how often it is below 0.3, beside the best proposal of all.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.common import decimals, record, show
from counterview.data.open import open_dataset
from counterview.errors import ProposalError
from counterview.inference.prompts import Point
from counterview.inference.selection import select
from counterview.masks.geometry import fit_mask, iou
from counterview.proposals import Proposals, load_proposer
from counterview.types import ObjectMask

WRONG_BELOW = 0.3


def points_of(mask: ObjectMask, rng: np.random.Generator) -> dict[str, Point]:
    """The deepest pixel of a mask ``(H, W)``, and a random one at least a third as deep."""
    import cv2

    inner = np.pad(mask.to_array().astype(np.uint8), 1)
    distance = cv2.distanceTransform(inner, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    rows, columns = np.nonzero(distance > distance.max() / 3)
    k = int(rng.integers(len(rows)))
    return {"deepest": Point(float(x), float(y)), "random": Point(float(columns[k]), float(rows[k]))}


def by_score(point: Point, proposals: Proposals) -> ObjectMask | None:
    """The proposal with the best score that contains a point, background aside."""
    height, width = proposals.size_hw
    pixel = int(point.x_px) * height + int(point.y_px)
    for i in np.argsort(-proposals.scores, kind="stable"):
        mask = proposals.masks[int(i)]
        if mask.area <= 0.5 * height * width and np.searchsorted(np.cumsum(mask.runs), pixel, side="right") % 2 == 1:
            return mask
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--frames", type=int, default=3, help="annotated frames of each take")
    parser.add_argument("--proposals", default="tiny")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    folder, _, split = options.data.partition(":")
    dataset, proposer = open_dataset(folder, split or None), load_proposer(options.proposals)
    rng = np.random.default_rng(0)
    found: dict[tuple[str, str, str], list[float]] = {}
    for uid in tqdm(dataset.uids, unit="take"):
        take = dataset.take(uid)
        numbers = sorted({n for c in take.cameras for n in take.frames if take.has_frame(c, n)})
        for number in [numbers[int(i)] for i in np.linspace(0, len(numbers) - 1, options.frames).round()]:
            for camera in take.cameras:
                image = take.frame(camera, number)
                proposals = proposer(image, None)
                for name in take.objects:
                    truth = take.mask(name, camera, number)
                    if truth is None or truth.is_empty:
                        continue
                    truth = fit_mask(truth, image.shape[:2])
                    side = "ego" if take.is_ego(camera) else "exo"
                    best = max((iou(mask, truth) for mask in proposals.masks), default=0.0)
                    for kind, point in points_of(truth, rng).items():
                        try:
                            ours = iou(select(point, proposals).mask_rle, truth)
                        except ProposalError:
                            ours = 0.0
                        scored = by_score(point, proposals)
                        found.setdefault((kind, side, "rule"), []).append(ours)
                        found.setdefault((kind, side, "score"), []).append(
                            0.0 if scored is None else iou(scored, truth)
                        )
                        found.setdefault((kind, side, "best proposal"), []).append(best)
    rows = [
        {"point": kind, "camera": side, "select": how, "iou": float(np.mean(v)), "points": len(v),
         "wrong": float(np.mean(np.array(v) < WRONG_BELOW))}
        for (kind, side, how), v in sorted(found.items())
    ]  # fmt: skip
    result: dict[str, Any] = {"settings": {"data": dataset.root.name, "takes": len(dataset), "frames": options.frames},
                              "rows": rows}  # fmt: skip
    show(
        "What a point selects",
        ["point", "camera", "select", "IoU", "below 0.3", "points"],
        [[r["point"], r["camera"], r["select"], decimals(r["iou"]), decimals(r["wrong"]), r["points"]] for r in rows],
    )
    record("pointing", result, save=options.save)


if __name__ == "__main__":
    main()
