"""How good are masks between key frames, by optical flow and without, and what do they cost?

``python -m benchmarks.dense [--takes 4] [--seconds 6] [--renders FOLDER] [--save]``. Takes with moving
hands, objects and head are rendered at 15 frames a second, so that the mask of every frame is known. Masks of key
frames, 1 s and 2 s apart, are given; the frames between are scored. IoU counts an object that is visible in a frame
and in the key frames on both sides; an answer of *unknown* counts as 0, and apart. *Claimed*: of the object-frames
between in which it is not visible, those with a mask. Processor time, in one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.common import decimals, finite, record, show
from counterview.masks.geometry import iou
from counterview.tabletop.camera.sensor import develop, measure_gain
from counterview.tabletop.config import preset
from counterview.tabletop.objects.catalogue import seeded
from counterview.tabletop.take import Stage
from counterview.tracking.base import Observation
from counterview.tracking.dense import DenseSettings, densify
from counterview.types import BoolImage, ObjectMask

SEED, SPLIT, FPS, LEAST_PX = 82, "test", 15, 16
Answers = list[dict[str, BoolImage | None]]
Clip = dict[str, np.ndarray]


def render(index: int, seconds: int) -> Clip:
    """Images ``(N, H, W, 3)`` uint8 and labels ``(N, H, W)`` int16 of the ego and of one exo camera of a take."""
    config = preset("standard", seconds=seconds, size=448, cameras=1, rendered_fps=FPS, unknown=0)
    stage, gains = Stage(config, SEED, SPLIT, index), dict[str, float]()
    rig, frames = stage.rig, dict[str, list[np.ndarray]]()
    for k in range(seconds * FPS):
        t = k / FPS
        stage.renderer.pose(stage.poses(t))
        earlier = t - rig.exposure_s * config.motion
        before = (stage.poses(earlier), stage.ego_camera(earlier))
        views = (("ego", stage.ego_camera(t), rig.ego_sensor), ("exo", rig.exo[0], rig.exo_sensors[0]))
        for view, camera, sensor in views:
            is_ego = view == "ego"
            rendered = stage.renderer.render(camera, before if is_ego else None, keep=not is_ego)
            noise = seeded(SEED, SPLIT, index, "noise", camera.name, k)
            image, gain = develop(rendered, sensor, noise, gains.get(view))
            gains[view] = gain * (measure_gain(rendered, sensor) / gain) ** 0.3 if is_ego else gain
            frames.setdefault(view, []).append(image)
            frames.setdefault(f"{view}_labels", []).append(rendered.labels.astype(np.int16))
    return {name: np.stack(values) for name, values in frames.items()} | {"names": np.array(stage.scene.names)}


def kept(folder: Path | None, index: int, seconds: int) -> Clip:
    """A rendered take, read from ``folder`` if it is there, and else written to it."""
    path = folder / f"{index}.npz" if folder is not None else None
    if path is not None and path.exists():
        with np.load(path) as data:
            return {name: data[name] for name in data.files}
    clip = render(index, seconds)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **clip)
    return clip


def hold(truth: Answers, gap: int) -> Answers:
    """The mask of the nearest key frame."""
    return [truth[round(k / gap) * gap] for k in range(len(truth))]


def follow_box(truth: Answers, gap: int) -> Answers:
    """The mask of the nearest key frame, moved and scaled to the box between those of both key frames."""
    out: Answers = []
    for k in range(len(truth)):
        first = min(k // gap * gap, len(truth) - 1 - gap)
        share = (k - first) / gap
        masks: dict[str, BoolImage | None] = {}
        for name in truth[k]:
            ends = truth[first][name], truth[first + gap][name]
            near = ends[0] if share <= 0.5 else ends[1]
            if ends[0] is None or ends[1] is None or near is None:
                masks[name] = near
                continue
            boxes = [np.array(ObjectMask.from_array(m).box_xywh, float) for m in (*ends, near)]
            x, y, width, height = (1 - share) * boxes[0] + share * boxes[1]
            scale = width / boxes[2][2], height / boxes[2][3]
            move = np.array([[scale[0], 0, x - scale[0] * boxes[2][0]], [0, scale[1], y - scale[1] * boxes[2][1]]])
            masks[name] = cv2.warpAffine(near.astype(np.uint8), move, near.shape[::-1], flags=cv2.INTER_NEAREST) > 0
        out.append(masks)
    return out


def observed(mask: BoolImage | None) -> Observation:
    """A key mask as a user gives it."""
    rle = ObjectMask.from_array(mask) if mask is not None else None
    return Observation(rle, 0.0 if mask is None else 1.0, "given")


def by_flow(images: np.ndarray, truth: Answers, gap: int, settings: DenseSettings, both: bool = True) -> Answers:
    """Masks by :func:`counterview.tracking.dense.densify`; with ``both`` unset, of each span from its start alone."""
    if both:
        keys = {n: [(k, observed(truth[k][n])) for k in range(0, len(truth), gap)] for n in truth[0]}
        found = [observations for _, observations in densify(enumerate(images), keys, settings)]
    else:
        found = []
        for first in range(0, len(truth) - 1, gap):
            alone = {n: [(0, observed(truth[first][n]))] for n in truth[0]}
            found += [o for _, o in densify(enumerate(images[first : first + gap]), alone, settings)]
        found.append({n: observed(truth[-1][n]) for n in truth[0]})
    return [{name: observation.mask for name, observation in frame.items()} for frame in found]


def scores(answers: Answers, truth: Answers, gap: int) -> Iterator[tuple[float, bool, bool]]:
    """(IoU, whether a mask was given, whether there is one) of each object-frame between key frames, see the module."""
    for k in range(len(truth)):
        if k % gap == 0:
            continue
        ends = truth[k // gap * gap], truth[k // gap * gap + gap]
        for name, mask in truth[k].items():
            answer = answers[k][name]
            if mask is None:
                yield 0.0, answer is not None, False
            elif ends[0][name] is not None and ends[1][name] is not None:
                yield iou(answer, mask) if answer is not None else 0.0, answer is not None, True


def quality(clips: list[Clip], gaps: list[int], snap: bool) -> list[dict[str, Any]]:
    """IoU of each way to fill in frames, by view and distance of the key frames."""
    settings = DenseSettings()
    ways: dict[str, Callable[[np.ndarray, Answers, int], Answers]] = {
        "nearest key mask": lambda images, truth, gap: hold(truth, gap),
        "box between key masks": lambda images, truth, gap: follow_box(truth, gap),
        "flow from before": lambda images, truth, gap: by_flow(images, truth, gap, settings, both=False),
        "flow from both sides": lambda images, truth, gap: by_flow(images, truth, gap, settings),
        "both sides and snap": lambda images, truth, gap: by_flow(images, truth, gap, replace(settings, snap=True)),
    }
    if not snap:
        del ways["both sides and snap"]
    rows = []
    for view in ("ego", "exo"):
        for gap in gaps:
            for way, fill in ways.items():
                values: list[tuple[float, bool, bool]] = []
                for clip in clips:
                    count = (len(clip[view]) - 1) // gap * gap + 1
                    labels, images = clip[f"{view}_labels"][:count], clip[view][:count]
                    truth = [masks_of(frame, clip["names"]) for frame in labels]
                    values += scores(fill(images, truth, gap), truth, gap)
                overlap, given, there = np.array(values, float).T
                visible, hidden = there == 1, there == 0
                said = visible & (given == 1)
                rows.append(
                    {
                        "view": view,
                        "gap_s": gap / FPS,
                        "way": way,
                        "object_frames": int(visible.sum()),
                        "iou": finite(float(overlap[visible].mean())),
                        "unknown": finite(float(1 - given[visible].mean())),
                        "iou_of_known": finite(float(overlap[said].mean())) if said.any() else None,
                        "known_below_half": finite(float((overlap[said] < 0.5).mean())) if said.any() else None,
                        "hidden": int(hidden.sum()),
                        "claimed": finite(float(given[hidden].mean())) if hidden.any() else None,
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def masks_of(labels: np.ndarray, names: np.ndarray) -> dict[str, BoolImage | None]:
    """Object masks of a label image ``(H, W)``; None below a few pixels."""
    masks = {str(name): labels == number for number, name in enumerate(names)}
    return {name: mask if mask.sum() >= LEAST_PX else None for name, mask in masks.items()}


def cost(clip: Clip, view: str, snap: bool, frames: int = FPS + 1) -> list[dict[str, Any]]:
    """Processor seconds a frame for 1, 4 and 16 objects, key masks one second apart."""
    images = clip[view][:frames]
    truth = [masks_of(labels, clip["names"]) for labels in clip[f"{view}_labels"][:frames]]
    ends = [n for n in truth[0] if truth[0][n] is not None and truth[-1][n] is not None]
    rows = []
    for count in (1, 4, 16):
        keys = {
            f"{ends[i % len(ends)]} {i}": [(k, observed(truth[k][ends[i % len(ends)]])) for k in (0, frames - 1)]
            for i in range(count)
        }
        for snapped in (False, True)[: 1 + snap] if ends else ():
            start = time.process_time()
            for _ in densify(enumerate(images), keys, DenseSettings(snap=snapped)):
                pass
            seconds = (time.process_time() - start) / frames
            height, width = images.shape[1:3]
            rows.append(
                {"image": f"{width}x{height}", "objects": count, "snap": snapped, "processor_s_per_frame": seconds}
            )
    return rows


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="number of the first take")
    parser.add_argument("--gaps", type=int, nargs="+", default=[1, 2], help="seconds between key frames")
    parser.add_argument("--no-snap", action="store_true", help="leave out what needs the boundary network")
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--begin", type=float, default=0.0, help="seconds of each take that are left out")
    parser.add_argument("--end", type=float, default=None, help="second at which each take is cut off")
    parser.add_argument("--renders", type=Path, default=None, help="folder for rendered takes, read when present")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    part = slice(round(options.begin * FPS), None if options.end is None else round(options.end * FPS) + 1)
    clips = []
    for index in range(options.first, options.first + options.takes):
        clip = kept(options.renders, index, options.seconds)
        clips.append({name: values if name == "names" else values[part] for name, values in clip.items()})
    rows = quality(clips, [FPS * gap for gap in options.gaps], not options.no_snap)
    times = cost(clips[-1], "exo", not options.no_snap)
    columns = ["view", "gap", "way", "n", "IoU", "unknown", "IoU of known", "below 0.5", "hidden", "claimed"]
    cells = [[decimals(v) if v is None or isinstance(v, float) else v for v in row.values()] for row in rows]
    show("Masks between key frames", columns, cells)
    show("Processor seconds a frame", list(times[0]), [list(row.values()) for row in times])
    settings = {
        "takes": options.takes,
        "first": options.first,
        "begin_s": options.begin,
        "end_s": options.end,
        "seconds": options.seconds,
    }
    record("dense", {"settings": settings, "quality": rows, "cost": times}, save=options.save)


if __name__ == "__main__":
    main()
