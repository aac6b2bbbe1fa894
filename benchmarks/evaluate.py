"""How much faster is scoring on run lengths than on decoded, copied and resized masks?

``python -m benchmarks.evaluate [--frames 2000] [--plain-frames N]`` writes a synthetic data set with ground truth of
2160x3840 and 1408x1408 pixels, scores it in both directions with Counterview and with a plain implementation of the
same rules, compares every number, and measures peak memory for growing numbers of takes.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.common import record, show
from counterview.evaluation.protocol import evaluate
from counterview.masks import rle
from counterview.masks.geometry import fit_longest_side
from counterview.proposals.base import mask_from_crop

EGO, EXO = "aria01_214-1", "cam01"
SIZES = {EGO: (1408, 1408), EXO: (2160, 3840)}
FRAMES_PER_TAKE, OBJECTS = 50, 2


def blob(
    rng: np.random.Generator, size_hw: tuple[int, int], centre: np.ndarray, radius: float, seed: int
) -> dict[str, Any]:
    """A wobbly outline filled, as a COCO mask of that size."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    shape = np.random.default_rng(seed)
    outline = 1 + sum(shape.normal(0, 0.25 / k) * np.cos(k * angle + shape.uniform(0, 6.3)) for k in range(1, 9))
    outline = outline + rng.normal(0, 0.01, len(angle))
    points = np.round(centre + radius * outline[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(int)
    low = np.clip(points.min(axis=0), 0, np.array(size_hw)[::-1] - 1)
    high = np.clip(points.max(axis=0) + 1, low + 1, np.array(size_hw)[::-1])
    crop = np.zeros((high - low)[::-1], dtype=np.uint8)
    cv2.fillPoly(crop, [(points - low).astype(np.int32)], 1)
    return rle.to_coco(mask_from_crop(crop.astype(bool), int(low[0]), int(low[1]), size_hw))


def make_take(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ground truth of one take and its predictions by direction. One frame in ten lacks the target."""
    rng = np.random.default_rng(number)
    masks: dict[str, Any] = {}
    predictions: dict[str, Any] = {"ego-exo": {}, "exo-ego": {}}
    listed = {}
    for index in range(OBJECTS):
        name = f"object_{index}"
        masks[name] = {EGO: {}, EXO: {}}
        listed[name] = {camera: [30 * k for k in range(FRAMES_PER_TAKE)] for camera in SIZES}
        entries: dict[str, dict[str, Any]] = {EGO: {}, EXO: {}}
        start = {camera: rng.uniform(0.2, 0.8, 2) for camera in SIZES}
        drift = {camera: rng.normal(0, 0.004, 2) for camera in SIZES}
        fraction = float(np.exp(rng.uniform(np.log(0.015), np.log(0.12))))
        for k in range(FRAMES_PER_TAKE):
            frame = str(30 * k)
            for camera, (height, width) in SIZES.items():
                centre = (start[camera] + k * drift[camera]) * (width, height)
                radius = fraction * height * (1.6 if camera == EGO else 1)
                gt = blob(rng, (height, width), centre, radius, index)
                if rng.random() > 0.1:
                    masks[name][camera][frame] = gt
                small = fit_longest_side((height, width), 480)
                scale = small[1] / width
                shift = rng.normal(0, 0.3 * radius, 2)
                guess = blob(rng, small, (centre + shift) * scale, radius * scale, index + int(rng.random() < 0.3))
                entry = {"pred_mask": guess, "confidence": float(rng.random())}
                entries[camera][frame] = entry
        predictions["ego-exo"][name] = {f"{EGO}_{EXO}": {f: entries[EXO][f] for f in masks[name][EGO]}}
        predictions["exo-ego"][name] = {f"{EXO}_{EGO}": {f: entries[EGO][f] for f in masks[name][EXO]}}
    frames = [30 * k for k in range(FRAMES_PER_TAKE)]
    gt_take = {"masks": masks, "annotated_frames": listed, "subsample_idx": frames}
    return gt_take, {key: {"masks": value, "subsample_idx": frames} for key, value in predictions.items()}


def write_data(folder: Path, takes: int, different: int) -> tuple[Path, Path]:
    """Files of ``takes`` takes, of which ``different`` differ."""
    contents = [make_take(i) for i in range(min(takes, different))]
    truth, predicted = folder / f"gt-{takes}.json", folder / f"pred-{takes}.json"
    with truth.open("w") as handle:
        handle.write('{"version": "xx", "challenge": "xx", "annotations": {')
        texts = [json.dumps(gt) for gt, _ in contents]
        for i in range(takes):
            handle.write(f'{", " if i else ""}"take-{i:05d}": {texts[i % len(texts)]}')
        handle.write("}}")
    with predicted.open("w") as handle:
        handle.write("{")
        for n, key in enumerate(("ego-exo", "exo-ego")):
            texts = [json.dumps(pred[key]) for _, pred in contents]
            handle.write(f'{", " if n else ""}"{key}": {{"version": "xx", "challenge": "xx", "results": {{')
            for i in range(takes):
                handle.write(f'{", " if i else ""}"take-{i:05d}": {texts[i % len(texts)]}')
            handle.write("}}")
        handle.write("}")
    return truth, predicted


# --- The plain implementation: the same rules on decoded masks, as in the official evaluator. ---


def plain_scores(truth: Path, predicted: Path, direction: str, limit: int) -> list[tuple[Any, ...]]:
    """``(take, object, frame, iou, contour accuracy, location error)`` of the first visible object-frames."""
    from pycocotools import mask as coco

    annotations = json.loads(truth.read_text())["annotations"]
    key, query, target = ("ego-exo", EGO, EXO) if direction == "ego2exo" else ("exo-ego", EXO, EGO)
    results = json.loads(predicted.read_text())[key]["results"]
    rows: list[tuple[Any, ...]] = []
    for take, content in annotations.items():
        for name, cameras in content["masks"].items():
            for frame in cameras[query]:
                if int(frame) not in content["annotated_frames"][name][target] or frame not in cameras[target]:
                    continue
                if len(rows) == limit:
                    return rows
                gt = coco.decode(cameras[target][frame]).copy()
                height, width = gt.shape
                ratio = 1.0 / max(height, width) * 480
                size = int(height * ratio), int(width * ratio)
                gt = gt[np.arange(size[0])[:, None] * height // size[0], np.arange(size[1])[None, :] * width // size[1]]
                pred = coco.decode(results[take]["masks"][name][f"{query}_{target}"][frame]["pred_mask"])
                rows.append(
                    (take, name, int(frame), plain_iou(gt, pred), plain_contours(gt, pred), plain_location(gt, pred))
                )
    return rows


def plain_iou(gt: np.ndarray, pred: np.ndarray) -> float:
    """Intersection over union of decoded masks."""
    union = np.logical_or(gt, pred).sum()
    return 1.0 if union == 0 else float(np.logical_and(gt, pred).sum() / (union + 1e-7))


def plain_location(gt: np.ndarray, pred: np.ndarray) -> float:
    """Distance of the box centres, computed on masks padded by their height on all sides."""
    centres = []
    for mask in (gt, pred):
        padded = np.pad(mask, mask.shape[0])
        rows, columns = np.where(padded)
        if len(rows):
            centres.append(((columns.min() + columns.max()) // 2, (rows.min() + rows.max()) // 2))
        else:
            centres.append((padded.shape[0] // 2, padded.shape[1] // 2))
    return math.hypot(*(int(a) - int(b) for a, b in zip(*centres, strict=True))) / math.hypot(480, 480)


def plain_contours(gt: np.ndarray, pred: np.ndarray) -> float:
    """Boundary F-measure on images of full size."""
    radius = math.ceil(0.008 * math.hypot(*gt.shape))
    offset = np.arange(-radius, radius + 1)
    disk = (offset[:, None] ** 2 + offset[None, :] ** 2 <= radius * radius).astype(np.uint8)
    a, b = plain_boundary(gt), plain_boundary(pred)
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    precision = (b * cv2.dilate(a, disk)).sum() / b.sum()
    recall = (a * cv2.dilate(b, disk)).sum() / a.sum()
    return 0.0 if precision + recall == 0 else float(2 * precision * recall / (precision + recall))


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower-right neighbour."""
    mask = mask.astype(bool)
    right, lower, diagonal = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], lower[:-1], diagonal[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ right) | (mask ^ lower) | (mask ^ diagonal)
    edge[-1], edge[:, -1], edge[-1, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ lower[:, -1], False
    return edge.astype(np.uint8)


def compare(truth: Path, predicted: Path, direction: str, plain_frames: int) -> dict[str, Any]:
    """Score the same files with both implementations, and find the largest difference of any number.

    They are compared by the processor time of this process, which has one thread: wall time depends on other work on
    the machine. It is reported as well; that of two workers includes the start of the processes.
    """
    seconds = []
    for _ in range(3):
        start = time.process_time()
        report = evaluate(truth, predicted, direction)
        seconds.append(time.process_time() - start)
    start = time.perf_counter()
    evaluate(truth, predicted, direction)
    alone = time.perf_counter() - start
    start, wall = time.process_time(), time.perf_counter()
    rows = plain_scores(truth, predicted, direction, plain_frames)
    plain, plain_wall = time.process_time() - start, time.perf_counter() - wall
    table = report.table.select(report.table["gt_visible"])
    largest = 0.0
    mine = zip(
        *(table[n] for n in ("take", "object", "frame", "iou", "contour_accuracy", "location_error")), strict=True
    )
    for ours, theirs in zip(mine, rows, strict=False):
        if ours[:3] != theirs[:3]:
            raise SystemExit(f"different frames: {ours[:3]} and {theirs[:3]}")
        largest = max(largest, *(abs(a - b) for a, b in zip(ours[3:], theirs[3:], strict=True)))
    start = time.perf_counter()
    twice = evaluate(truth, predicted, direction, workers=2)
    pooled = time.perf_counter() - start
    if twice.totals != report.totals:
        raise SystemExit("two workers gave other totals")
    visible = report.totals.visible
    ours_ms, plain_ms = 1000 * sorted(seconds)[1] / visible, 1000 * plain / len(rows)
    return {
        "direction": direction, "object_frames": report.totals.frames, "visible": visible, "compared": len(rows),
        "largest_difference": largest, "plain_ms": plain_ms, "counterview_ms": ours_ms, "speedup": plain_ms / ours_ms,
        "plain_wall_ms": 1000 * plain_wall / len(rows), "counterview_wall_ms": 1000 * alone / visible,
        "two_workers_wall_ms": 1000 * pooled / visible,
        "seconds": seconds,
    }  # fmt: skip


def peak_mib(truth: Path, predicted: Path) -> float:
    """Peak memory of a process that scores these files."""
    code = (
        "import resource, sys; from counterview.evaluation.protocol import evaluate;"
        "evaluate(sys.argv[1], sys.argv[2], 'ego2exo');"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(truth), str(predicted)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=2000, help="object-frames a direction")
    parser.add_argument(
        "--plain-frames", type=int, default=2000, help="how many of them the plain implementation scores"
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/evaluate.json")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    takes = max(1, round(options.frames / (FRAMES_PER_TAKE * OBJECTS * 0.9)))
    with tempfile.TemporaryDirectory() as name:
        files = write_data(Path(name), takes, takes)
        rows = [compare(*files, direction, options.plain_frames) for direction in ("ego2exo", "exo2ego")]
        memory = {}
        for count in (takes, 4 * takes, 16 * takes):
            more = write_data(Path(name), count, 2)
            memory[count] = peak_mib(*more)
            print(f"{count} takes: files of {sum(f.stat().st_size for f in more) / 2**20:.0f} MiB", file=sys.stderr)
    show(
        "Scoring, milliseconds for each visible object-frame",
        ["direction", "frames", "plain cpu", "ours cpu", "faster", "plain", "ours", "2 workers", "difference"],
        [
            [r["direction"], r["compared"], r["plain_ms"], r["counterview_ms"], r["speedup"], r["plain_wall_ms"],
             r["counterview_wall_ms"], r["two_workers_wall_ms"], r["largest_difference"]]
            for r in rows
        ],
    )  # fmt: skip
    show("Peak memory of scoring", ["takes", "MiB"], [[k, v] for k, v in memory.items()])
    record("evaluate", {"rows": rows, "peak_mib": {str(k): v for k, v in memory.items()}}, save=options.save)


if __name__ == "__main__":
    main()
