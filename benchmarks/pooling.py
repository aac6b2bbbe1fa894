"""How much does it cost to describe N objects of an image, given its feature map?

``python -m benchmarks.pooling [--save]``: a 38x68x768 map (DINOv2-B at 532x952), 32 and 100 elliptic masks as run
lengths, one thread. Ours is timed from run lengths to descriptors. The plain implementation upsamples all channels to
133x238, multiplies by each mask and sums, one mask after the other. A faster plain implementation selects the masked
points of the upsampled map instead of multiplying.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.common import record, show, timed
from counterview.features.base import FeatureMap
from counterview.features.pooling import describe
from counterview.masks.geometry import resize_nearest
from counterview.types import ObjectMask

CELLS_HW, CHANNELS, INPUT_HW = (38, 68), 768, (532, 952)
COUNTS = (32, 100)


def ellipses(count: int, size_hw: tuple[int, int], seed: int = 0) -> list[ObjectMask]:
    """Random masks with half axes of 10 to 150 pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    masks = []
    for _ in range(count):
        turn = rng.uniform(0, np.pi)
        dx, dy = x - rng.uniform(0, size_hw[1]), y - rng.uniform(0, size_hw[0])
        a, b = np.exp(rng.uniform(np.log(10), np.log(150), 2))
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        masks.append(ObjectMask.from_array((along / a) ** 2 + (across / b) ** 2 < 1))
    return masks


def plain(features: FeatureMap, masks: list[ObjectMask], *, pick: bool = False) -> torch.Tensor:
    """Upsample, then loop over the masks."""
    points = features.grid.points_hw
    large = torch.nn.functional.interpolate(features.tensor[None], points, mode="bilinear", align_corners=False)[0]
    rows = []
    for mask in masks:
        small = torch.from_numpy(np.ascontiguousarray(resize_nearest(mask.to_array(), points)))
        if pick:
            rows.append(large[:, small].mean(1) if small.any() else large.new_zeros(len(large)))
        else:
            rows.append((large * small).sum((1, 2)) / small.sum().clamp(min=1))
    return torch.stack(rows)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/pooling.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tensor = torch.randn((CHANNELS, *CELLS_HW), generator=torch.Generator().manual_seed(0))
    features = FeatureMap(tensor, INPUT_HW, INPUT_HW)
    everything = ellipses(max(COUNTS), INPUT_HW)
    rows, result = [], {}
    for count in COUNTS:
        masks = everything[:count]
        ours = timed(lambda m=masks: describe(features, m), repeat=15, warmup=3)
        picked = timed(lambda m=masks: plain(features, m, pick=True), repeat=3)
        multiplied = timed(lambda m=masks: plain(features, m), repeat=3, warmup=0)
        error = float((describe(features, masks) - plain(features, masks)).abs().max())
        ratio, pick_ratio = (t["median_s"] / ours["median_s"] for t in (multiplied, picked))
        rows.append(
            [count, ours["median_s"], multiplied["median_s"], ratio, picked["median_s"], pick_ratio, f"{error:.1e}"]
        )
        result[str(count)] = {
            "ours": ours,
            "plain": multiplied,
            "plain_picking": picked,
            "times_faster": ratio,
            "times_faster_than_picking": pick_ratio,
            "largest_difference": error,
        }
    show(
        f"Seconds for the masks of one image ({CELLS_HW[0]}x{CELLS_HW[1]}x{CHANNELS}, one thread, median)",
        ["masks", "ours", "upsample and multiply", "times", "upsample and select", "times", "difference"],
        rows,
    )
    record("pooling", {"masks": result}, save=options.save)


if __name__ == "__main__":
    main()
