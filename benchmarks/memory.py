"""Does memory grow with the number of calls?

``python -m benchmarks.memory [--calls 2000] [--whole 60] [--steps 3000] [--save]``: the resident memory of a process
that matches the same small images again and again with the bundled model, and that follows an object through a long
clip with an LM-EEC of random weights. ``--calls`` gives the model its proposals, ``--whole`` lets it make them, which
takes 40 times as long. Memory is called flat if, after a tenth of the calls as warm-up, it never exceeds what it was
then by more than 5 %.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import record, show
from counterview.inference.loading import load
from counterview.lmeec.config import HieraConfig, LMEECConfig
from counterview.lmeec.model import LMEEC
from counterview.lmeec.session import Session
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask

TOLERANCE = 0.05
SAMPLES = 40
"""Number of times at which memory is read."""
SIZE_HW = (72, 96)


def resident_bytes() -> int:
    """Resident memory of this process; its largest so far where the system does not tell the present one."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def scene(shift: int) -> tuple[np.ndarray, np.ndarray]:
    """A small image ``(H, W, 3)`` with two objects, and the mask ``(H, W)`` of one of them."""
    image = np.full((*SIZE_HW, 3), 110, np.uint8)
    image += np.random.default_rng(0).integers(0, 12, image.shape, dtype=np.uint8)
    mask = np.zeros(SIZE_HW, bool)
    mask[20:45, 10 + shift : 35 + shift] = True
    image[mask], image[40:60, 60:85] = (200, 60, 40), (40, 70, 200)
    return image, mask


def whole() -> Iterator[None]:
    """Calls of the bundled model that make their own proposals."""
    model = load()
    (query, mask), (target, _) = scene(0), scene(20)
    while True:
        model.match(query, mask, target)
        yield


def given() -> Iterator[None]:
    """Calls of the bundled model for proposals that are given: both images are encoded anew each time."""
    model = load()
    (query, mask), (target, target_mask) = scene(0), scene(20)
    other = np.zeros(SIZE_HW, bool)
    other[40:60, 60:85] = True

    def proposals(first: np.ndarray) -> Proposals:
        masks = tuple(ObjectMask.from_array(m) for m in (first, other))
        return Proposals(SIZE_HW, masks, np.array([1.0, 0.9]))

    while True:
        encoded = [model.encode(image, proposals(m)) for image, m in ((query, mask), (target, target_mask))]
        model.match_encoded(encoded[0], [ObjectMask.from_array(mask)], encoded[1])
        yield


def steps() -> Iterator[None]:
    """Steps of one session."""
    torch.manual_seed(0)
    hiera = HieraConfig(hidden=8, blocks=(1, 1, 1, 1), global_blocks=(), windows=(2, 2, 2, 2), background=(2, 2))
    config = LMEECConfig(backbone=hiera, image_size=64, channels=64, attention_layers=1, feed_forward=64, bank_size=4)
    session = Session(LMEEC(config).eval())
    scenes = [scene(shift) for shift in range(0, 40, 5)]
    number = 0
    while True:
        (query, mask), (target, _) = scenes[number % 8], scenes[(number + 3) % 8]
        # The object is out of sight now and then, as in a real clip.
        session.step(query, {"object": mask} if number % 11 else {"object": None}, target)
        number += 1
        yield


def watch(calls: Iterator[None], count: int) -> dict[str, Any]:
    """Resident memory over ``count`` calls."""
    every = max(1, count // SAMPLES)
    samples, begun = [], time.perf_counter()
    for number in range(1, count + 1):
        next(calls)
        if number % every == 0:
            gc.collect()
            samples.append((number, resident_bytes()))
    after = [size for number, size in samples if number >= count / 10]
    growth = max(after) / after[0] - 1
    return {
        "calls": count, "seconds": time.perf_counter() - begun, "warm_bytes": after[0], "largest_bytes": max(after),
        "last_bytes": after[-1], "growth": growth, "is_flat": growth <= TOLERANCE, "samples": samples,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run and print; 1 if memory is not flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="of the bundled model, for given proposals")
    parser.add_argument("--whole", type=int, default=60, help="of the bundled model, proposals included")
    parser.add_argument("--steps", type=int, default=3000, help="of a session of LM-EEC")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/memory.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    what: dict[str, tuple[Callable[[], Iterator[None]], int]] = {
        "calls, proposals given": (given, options.calls),
        "calls, proposals made": (whole, options.whole),
        "steps of an LM-EEC session": (steps, options.steps),
    }  # fmt: skip
    found = {name: watch(calls(), count) for name, (calls, count) in what.items() if count}
    show(
        "Resident memory",
        ["what", "number", "after a tenth", "largest since", "at the end", "growth", "seconds"],
        [
            [name, f["calls"], *(f"{f[k] / 2**20:.1f} MiB" for k in ("warm_bytes", "largest_bytes", "last_bytes")),
             f"{f['growth']:.1%}", f"{f['seconds']:.0f}"]
            for name, f in found.items()
        ],
    )  # fmt: skip
    record("memory", found, save=options.save)
    return 0 if all(f["is_flat"] for f in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
