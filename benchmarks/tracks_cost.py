"""What following costs: seconds a step against matching the same frames one by one, and memory over many steps.

``python -m benchmarks.tracks_cost [--steps 300,3000] [--save]``

Images are those of the bundled take; as objects the best proposals of the ego image serve, as a third target a
mirrored exo image. *per frame* encodes every image and matches every object, as ``counterview predict tiny-match``
does; *follow* is a step of tiny-track on the same images in the same process. Processor seconds, median of three steps.
Memory is the resident size after each hundredth of the steps, of one object in two cameras; images of half the size,
encoded once, so that only the tracker's own growth is seen.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.common import record, show
from benchmarks.memory import resident_bytes
from counterview.data.open import open_dataset
from counterview.inference.cross_view import MatcherViews
from counterview.inference.loading import load
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.tracking.tracker import MemoryTracker
from counterview.tracking.weights import load_weighing
from counterview.types import ObjectMask, RgbImage

OBJECTS, TARGETS, REPEAT = (1, 4, 16), (1, 3), 3


def bundled_images(number: int) -> dict[str, RgbImage]:
    """One frame of the bundled take: ego, two exo cameras, and a mirrored one."""
    dataset = open_dataset(Path(str(files("counterview"))) / "assets" / "take", "test")
    take = dataset.take(dataset.uids[0])
    images = {camera: take.frame(camera, number) for camera in (*take.ego_cameras, *take.exo_cameras)}
    return {**images, "mirrored": np.ascontiguousarray(images[take.exo_cameras[0]][:, ::-1])}


def distinct_proposals(model: ProposalMatcher, image: RgbImage, count: int) -> list[ObjectMask]:
    """The best proposals of an image that do not overlap much."""
    from counterview.masks.geometry import iou

    chosen: list[ObjectMask] = []
    for mask in model.encode(image).proposals.masks:
        if all(iou(mask, other) < 0.3 for other in chosen):
            chosen.append(mask)
        if len(chosen) == count:
            break
    return chosen


def step_seconds(model: ProposalMatcher, objects: int, targets: int) -> dict[str, float]:
    """Processor seconds of a step, by matching and by following."""
    frames = [bundled_images(30 * k) for k in range(REPEAT + 1)]
    names = list(frames[0])[: targets + 1]
    masks = distinct_proposals(model, frames[0][names[0]], objects)
    tracker = MemoryTracker(MatcherViews(model), names, load_weighing())
    prompts = {names[0]: {f"object {i}": mask for i, mask in enumerate(masks)}}
    follow, match = [], []
    for k, frame in enumerate(frames):
        images = {camera: frame[camera] for camera in names}
        start = time.process_time()
        tracker.step(images, float(k), prompts if k == 0 else {})
        middle = time.process_time()
        encoded = {camera: model.encode(image) for camera, image in images.items()}
        for camera in names[1:]:
            model.match_encoded(encoded[names[0]], masks, encoded[camera], top_k=1)
        if k:
            follow.append(middle - start)
            match.append(time.process_time() - middle)
    return {"objects": len(masks), "targets": targets, "per_frame_s": statistics.median(match),
            "follow_s": statistics.median(follow),
            "ratio": statistics.median(follow) / statistics.median(match)}  # fmt: skip


def memory(model: ProposalMatcher, steps: int) -> dict[str, float]:
    """Resident memory over many steps: after a tenth of them, and at the end."""
    views = MatcherViews(model)
    encoded = []
    for number in (0, 30, 60):
        images = bundled_images(number)
        small = {c: cv2.resize(image, None, fx=0.5, fy=0.5) for c, image in list(images.items())[:2]}
        encoded.append({c: views.encode(np.asarray(image, dtype=np.uint8)) for c, image in small.items()})
    first = next(iter(encoded[0]))
    tracker = MemoryTracker(views, list(encoded[0]), load_weighing())
    sizes = []
    for step, frame in zip(range(steps), itertools.cycle(encoded), strict=False):
        prompts = {first: {"object": frame[first].masks[0]}} if step == 0 else {}
        tracker.step_encoded(frame, float(step), prompts)
        if (step + 1) % max(1, steps // 100) == 0:
            sizes.append(resident_bytes() / 1e6)
    early = sizes[len(sizes) // 10]
    return {"steps": steps, "early_mb": early, "largest_mb": max(sizes[len(sizes) // 10 :]), "end_mb": sizes[-1],
            "growth": max(sizes[len(sizes) // 10 :]) / early - 1}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="300,3000", help="steps of the runs whose memory is measured")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    model = load("tiny-match")
    assert isinstance(model, ProposalMatcher)
    result: dict[str, Any] = {
        "seconds": [step_seconds(model, objects, targets) for targets in TARGETS for objects in OBJECTS],
        "memory": [memory(model, int(steps)) for steps in options.steps.split(",")],
    }
    record("tracks_cost", result, save=options.save)
    show(
        "Processor seconds a step",
        ["objects", "targets", "per frame", "follow", "ratio"],
        [[r["objects"], r["targets"], r["per_frame_s"], r["follow_s"], r["ratio"]] for r in result["seconds"]],
    )
    show(
        "Resident memory in MB",
        ["steps", "after a tenth", "largest after that", "at the end", "growth"],
        [[m["steps"], m["early_mb"], m["largest_mb"], m["end_mb"], m["growth"]] for m in result["memory"]],
    )


if __name__ == "__main__":
    main()
