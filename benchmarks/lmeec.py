"""How much does a frame of LM-EEC cost, and each further object and camera? Is memory constant over a clip?

``python -m benchmarks.lmeec [speed] [memory] [--small] [--device cuda] [--save]``

speed: SAM 2.1 Hiera-B+ at 480 px with random weights (``--small``: the small configuration for Tabletop), banks full.
A session of all objects is compared with one object at a time: a session for each object and camera, each of which
encodes both images again, as in the released code. On a CPU, times are compared in CPU seconds, which do not depend on
other work on the machine; on a GPU in wall seconds, in fp32 and bf16, eager and with a compiled image encoder.
memory: peak resident memory of a small model over 50 and over 2,000 frames, each in its own process.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, record, show
from counterview.lmeec.config import HieraConfig, LMEECConfig
from counterview.lmeec.model import LMEEC
from counterview.lmeec.session import Session

OBJECTS, CAMERAS = (1, 2, 4, 8), (1, 3)
NANO = HieraConfig(hidden=32, blocks=(1, 1, 3, 1), global_blocks=(3, 4))
SMALL = {"backbone": NANO, "image_size": 160, "channels": 64, "attention_layers": 2, "feed_forward": 256}
QUERY_HW, TARGET_HW = (704, 704), (540, 960)
SHORT, LONG = 50, 2000


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["speed", "memory"])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--objects", type=int, nargs="+", default=OBJECTS)
    parser.add_argument("--cameras", type=int, nargs="+", default=CAMERAS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--frames", type=int, help="length of one memory run; used internally")
    arguments = parser.parse_args()
    if arguments.frames:
        print(peak_mb(arguments.frames))
        return
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"device": arguments.device, "threads": torch.get_num_threads()}
    if "speed" in arguments.what:
        result["speed"] = speed(arguments)
    if "memory" in arguments.what:
        result["memory"] = memory()
    name = "lmeec_small" if arguments.small else "lmeec"
    saved = RESULTS / f"{name}.json"
    if arguments.save and saved.is_file():  # keep the part that was not run again
        kept = json.loads(saved.read_text(encoding="utf-8"))
        result = {part: kept[part] for part in ("speed", "memory") if part in kept} | result
    record(name, result, save=arguments.save)


# ------------------------------------------------------------------------------------------------- speed


def speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds a frame for each number of objects and cameras, together and one object at a time."""
    torch.manual_seed(0)
    model = LMEEC(LMEECConfig(**(SMALL if arguments.small else {}))).eval().to(arguments.device)
    variants: list[tuple[str, torch.dtype | None]] = [("eager fp32", None)]
    if arguments.device != "cpu":
        variants += [("eager bf16", torch.bfloat16), ("compiled fp32", None), ("compiled bf16", torch.bfloat16)]
    rows = []
    for name, autocast in variants:
        if name.startswith("compiled"):
            model.sam.vision_encoder = torch.compile(model.sam.vision_encoder)
        rows += [{"variant": name, **row} for row in _speed_rows(model, autocast, arguments)]
    columns = ["variant", "objects", "cameras", "wall_s", "cpu_s", "fps", "one_by_one_cpu_s", "times_cheaper"]
    show("Seconds per frame, banks full", columns, [[row[c] for c in columns] for row in rows])
    return rows


def _speed_rows(model: LMEEC, autocast: torch.dtype | None, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    query = rng.integers(0, 256, (*QUERY_HW, 3), dtype=np.uint8)
    targets = [rng.integers(0, 256, (*TARGET_HW, 3), dtype=np.uint8) for _ in range(max(arguments.cameras))]
    masks = {f"object {i}": disc(200 + 40 * i, 300, 60) for i in range(max(arguments.objects))}

    def step(session: Session, objects: int, cameras: int) -> Callable[[], Any]:
        chosen = dict(list(masks.items())[:objects])
        images = {str(i): targets[i] for i in range(cameras)}
        return lambda: session.step(query, chosen, images)

    rows: list[dict[str, Any]] = []
    for cameras in arguments.cameras:
        for objects in arguments.objects:
            session = model.session(autocast=autocast)
            together = step(session, objects, cameras)
            fill_banks(session, together, model)
            wall, cpu = _clock(together, arguments)
            alone = _one_by_one(model, session, step, objects, cameras)
            alone_wall, alone_cpu = _clock(alone, arguments)
            on_cpu = arguments.device == "cpu"
            row = {
                "objects": objects,
                "cameras": cameras,
                "wall_s": wall,
                "cpu_s": cpu,
                "fps": 1 / wall,
                "one_by_one_wall_s": alone_wall,
                "one_by_one_cpu_s": alone_cpu,
                "times_cheaper": alone_cpu / cpu if on_cpu else alone_wall / wall,
            }
            print({k: round(v, 3) for k, v in row.items()}, flush=True)
            rows.append(row)
    return rows


def _one_by_one(
    model: LMEEC, filled: Session, step: Callable[[Session, int, int], Callable[[], Any]], objects: int, cameras: int
) -> Callable[[], Any]:
    """The same frame in a session for each object and camera, each of which encodes both images."""
    [track, *_] = filled.tracks.values()
    [(name, camera), *_] = filled.tracks
    alone = []
    for _ in range(objects * cameras):
        session = model.session(autocast=filled.autocast)
        session.tracks = {(name, camera): copy.deepcopy(track)}
        session.frame, session.start = filled.frame, filled.start
        alone.append(step(session, 1, 1))
    return lambda: [one() for one in alone]


def fill_banks(session: Session, step: Callable[[], Any], model: LMEEC) -> None:
    """Fill the banks with the memory of one real frame, so that the next frame costs as much as in a long clip."""
    step()
    config = model.config
    for track in session.tracks.values():
        for bank in (track.query, track.target):
            bank.entries = [bank.entries[0] + 0.01 * i for i in range(config.bank_size)]
            bank.counts = bank.counts * config.bank_size
            bank.numbers = list(range(config.bank_size))
            bank.processed = config.bank_size
        _, pointer = track.pointers.pointers[-1]
        track.pointers.pointers.clear()
        track.pointers.pointers.extend((n, pointer) for n in range(config.max_pointers))
    session.frame = config.max_pointers - 1


def _clock(step: Callable[[], Any], arguments: argparse.Namespace) -> tuple[float, float]:
    walls, cpus = [], []
    if arguments.device != "cpu":
        step()
    for _ in range(arguments.repeat):
        if arguments.device != "cpu":
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        step()  # ends with results on the CPU
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


# ------------------------------------------------------------------------------------------------ memory


def memory() -> dict[str, Any]:
    """Peak resident memory of a short and of a long session of a small model, each in its own process."""
    peaks = {}
    for frames in (SHORT, LONG):
        command = [sys.executable, "-m", "benchmarks.lmeec", "--frames", str(frames)]
        peaks[frames] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    growth = peaks[LONG] / peaks[SHORT] - 1
    show("Peak memory", ["frames", "MB"], [[n, mb] for n, mb in peaks.items()])
    print(f"growth: {100 * growth:.1f} %")
    return {"peak_mb": {str(n): mb for n, mb in peaks.items()}, "growth": growth}


def peak_mb(frames: int) -> float:
    """Peak resident memory of this process after a session of this number of frames, in MB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = LMEEC(LMEECConfig(**{**SMALL, "image_size": 96})).eval()
    session = model.session()
    rng = np.random.default_rng(0)
    mask = disc(30, 30, 12)[:64, :64]
    for _ in range(frames):
        images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        session.step(images[0], {"a": mask, "b": mask}, images[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def disc(x: int, y: int, radius: int) -> np.ndarray:
    yy, xx = np.mgrid[: QUERY_HW[0], : QUERY_HW[1]]
    return (xx - x) ** 2 + (yy - y) ** 2 <= radius**2


if __name__ == "__main__":
    main()
