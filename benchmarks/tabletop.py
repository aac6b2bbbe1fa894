"""How much does a rendered frame cost, and a take, with one worker and with two?

``python -m benchmarks.tabletop [--frames 12] [--takes 2] [--save]``. Wall and processor time are
reported: only processor time does not depend on other work on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

from benchmarks.common import record, show
from counterview.tabletop.camera.sensor import develop
from counterview.tabletop.config import preset
from counterview.tabletop.generate import generate
from counterview.tabletop.objects.catalogue import seeded
from counterview.tabletop.take import Stage


def clock(samples: dict[str, list[tuple[float, float]]], name: str, function: Any, *arguments: Any, **more: Any) -> Any:
    """Call ``function`` and add its wall and processor seconds to ``samples[name]``."""
    wall, processor = time.perf_counter(), time.process_time()
    out = function(*arguments, **more)
    samples.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - processor))
    return out


def frames(count: int) -> list[dict[str, Any]]:
    """Seconds per frame of a standard take at 448x448 (ego) and 796x448 (exo), by part."""
    samples: dict[str, list[tuple[float, float]]] = {}
    config = preset("standard")
    stage = clock(samples, "scene, plan and rig of a take", Stage, config, 3, "train", 0)
    for k in range(count):
        t = float(k)
        clock(samples, "poses and Embree scene, once a second", lambda t=t: stage.renderer.pose(stage.poses(t)))
        camera, before = stage.ego_camera(t), stage.ego_camera(t - 0.015)
        earlier = stage.poses(t - 0.015)
        rendered = clock(samples, "ego 448x448 with motion", stage.renderer.render, camera, (earlier, before))
        clock(samples, "ego 448x448 sensor", develop, rendered, stage.rig.ego_sensor, seeded(0))
        for exo, sensor in zip(stage.rig.exo, stage.rig.exo_sensors, strict=True):
            name = "x".join(str(n) for n in sorted(exo.size_hw, reverse=True))
            first = "first" if k == 0 else "next, only what changed"
            rendered = clock(samples, f"exo {name} {first}", stage.renderer.render, exo, keep=True)
            clock(samples, f"exo {name} whole", stage.renderer.render, exo)
            clock(samples, f"exo {name} sensor", develop, rendered, sensor, seeded(0))
    return [
        {
            "part": name,
            "frames": len(values),
            "median_wall_s": statistics.median(v[0] for v in values),
            "median_processor_s": statistics.median(v[1] for v in values),
        }
        for name, values in samples.items()
    ]


def takes(count: int, workers: int) -> dict[str, Any]:
    """Wall seconds per finished standard take."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        generate(Path(folder) / "data", {"train": count}, preset("standard"), seed=3, workers=workers)
        seconds = (time.perf_counter() - start) / count
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / count / 1e6
    return {"workers": workers, "takes": count, "wall_s_per_take": seconds, "mb_per_take": size}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--takes", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    parts = frames(options.frames)
    show("A frame", list(parts[0]), [list(p.values()) for p in parts])
    finished = [takes(options.takes, workers) for workers in (1, 2)]
    show("A standard take: 20 s, one ego and two exo cameras", list(finished[0]), [list(f.values()) for f in finished])
    record("tabletop", {"frames": parts, "takes": finished}, save=options.save)


if __name__ == "__main__":
    main()
