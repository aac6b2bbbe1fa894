"""Does bulk work give the same bytes wherever it is done, what does handing out a task cost, and does it scale?

``python -m benchmarks.jobs [--takes 12] [--scale 10 100 1000] [--part same] [--part overhead] [--part scale] [--save]``

*same*: small takes are rendered, then prepared, predicted and followed by one process, by two, and by a Ray cluster of
two workers, of which one gets SIGKILL during each step. During *predict* the whole cluster is killed once and started
again, and the command is given again. Every file has to have the same bytes. *overhead*: tasks that do nothing.
*scale*: ``prepare``, ``evaluate``, ``inspect`` and ``predict`` over copies of one take, one process each: seconds of
the processor and peak memory of the whole command, with imports and loading. Wall seconds depend on what else the
machine does; processor seconds hardly do.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, record, show
from counterview.jobs.engine import JobEngine
from counterview.jobs.manifest import Manifest
from counterview.jobs.run import run
from counterview.media.files import read_json, write_json
from tests.data_egoexo.release_maker import EGO, EXO, TakeSpec, make_release

COMMAND = [sys.executable, "-m", "counterview.cli.main"]
TINY = ["--seconds", "3", "--size", "96", "--cameras", "1", "--rendered-fps", "3", "--pool-size", "6", "--seed", "5"]
MODEL = ["knn", "--proposals", "graph", "--features", "classical"]
STEPS = ("prepare", "predict", "follow")
PORT = 6399
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_DISABLE_IMPORT_WARNING": "1",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------ processes


LAUNCHER = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump([code, used.ru_utime + used.ru_stime, used.ru_maxrss], open(sys.argv[1], "w"))
"""
"""Runs a command and writes what it used. A process begins with the peak memory of the one that started it, which is
why that is a small one."""


def measured(command: Sequence[str], *, allow: Sequence[int] = (0,)) -> dict[str, float]:
    """Wall and processor seconds of a command and its children, and the peak memory of the largest process."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="usage-") as folder:
        usage = Path(folder) / "usage.json"
        subprocess.run(
            [sys.executable, "-S", "-c", LAUNCHER, usage, *command], env={**os.environ, **ENVIRONMENT}, check=True
        )
        code, processor, peak = read_json(usage)
    if code not in allow:
        raise SystemExit(f"{shlex.join(command)} ended with {code}")
    return {"wall_s": time.perf_counter() - start, "processor_s": processor, "peak_mb": peak / 1000}


def ray_workers() -> list[int]:
    """Process ids of actors of this benchmark's cluster that have a task or wait for one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::RayTaskRunner") and f":{PORT}".encode() in environment + name:
            found.append(int(folder.name))
    return sorted(found)


class Cluster:
    """A Ray cluster of this machine with two cores, which can be killed and started again."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ray = Path(sys.executable).with_name("ray")
        command = [ray, "start", "--head", "--block", f"--port={PORT}", "--num-cpus=2", "--include-dashboard=false",
                   "--object-store-memory=100000000", "--disable-usage-stats"]  # fmt: skip
        self.process = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT, "COUNTERVIEW_CLUSTER": f":{PORT}"}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
                return
            time.sleep(0.5)
        raise SystemExit("the Ray cluster does not start")

    def kill(self) -> None:
        """SIGKILL to every process of the cluster, as when the machine fails."""
        if self.process is None:
            return
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"COUNTERVIEW_CLUSTER=:{PORT}".encode() in (folder / "environ").read_bytes():
                    pids.append(int(folder.name))
            except OSError:
                continue
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.process = None


def disturbed(
    command: Sequence[str], begun: Callable[[], bool], disturb: Callable[[], bool], *, timeout_s: float = 600
) -> tuple[int, bool]:
    """Exit code of a command that is disturbed once its work has begun, and whether it was."""
    process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.DEVNULL)
    deadline, done = time.monotonic() + timeout_s, False
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise SystemExit(f"{shlex.join(command)} took more than {timeout_s} s")
        if not done and begun():
            done = disturb()
        time.sleep(0.05)
    return process.returncode, done


def kill_one_worker() -> bool:
    """SIGKILL to one worker; whether there was one."""
    pids = ray_workers()
    if pids:
        os.kill(pids[0], signal.SIGKILL)
    return bool(pids)


# ------------------------------------------------------------------------------------------------------ same bytes


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, which some name, but for hidden ones, which hold the times of runs."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    names = {p.relative_to(folder).as_posix(): p for p in paths}
    return {
        name: hashlib.sha256(path.read_bytes().replace(str(folder).encode(), b"")).hexdigest()
        for name, path in names.items()
        if not any(part.startswith(".") for part in Path(name).parts)
    }


def follow_lines(release: Path, out: Path, takes: int) -> str:
    """A run of following for each take: an object that is clicked in the ego camera."""
    from counterview.data.open import open_dataset
    from counterview.inference.track_takes import click_on

    lines = []
    for take in open_dataset(release).takes[:takes]:
        ego, exo = take.ego_cameras[0], take.exo_cameras[0]
        name, frame = next((o, f) for o in take.objects for f in take.mask_frames(o, ego))
        mask = take.mask(name, ego, frame)
        assert mask is not None
        point, place = click_on(mask), release / "takes" / take.name
        lines.append(
            f"{place}:{ego} {place}:{exo} --point {point.x_px:g},{point.y_px:g}@{frame / 30:g} --fps 1 "
            f"--model {shlex.join(MODEL)} --device cpu --out {out / take.name}"
        )
    return "\n".join(lines) + "\n"


def same_bytes(work: Path, takes: int, release: Path | None, at_once: bool, chosen: Sequence[str]) -> dict[str, Any]:
    """The steps by each engine, each into a folder of its own."""
    seconds: dict[str, Any] = {}
    if release is None:
        release = work / "release"
        command = [*COMMAND, "tabletop", str(release), "--takes", str(takes), "--split", "test", *TINY]
        seconds["render"] = measured(command)
    engines = {"one process": [], "two processes": ["--workers", "2"],
               "Ray": ["--engine", f"ray:127.0.0.1:{PORT}", "--workers", "2"]}  # fmt: skip
    found: dict[str, dict[str, str]] = {}
    events: dict[str, Any] = {}

    def by_engine(label: str) -> None:
        out = work / label.replace(" ", "-")
        out.mkdir()
        runs = out.with_suffix(".txt")
        runs.write_text(follow_lines(release, out / "follow", takes))
        options = engines[label]
        steps = {
            "prepare": [*COMMAND, "prepare", str(release), str(out / "prepared"), *options],
            "predict": [*COMMAND, "predict", *MODEL, str(out / "prepared"), "--out", str(out / "predictions.json"),
                        "--device", "cpu", *options],
            "follow": [*COMMAND, "follow", "--list", str(runs), *options],
        }  # fmt: skip
        cluster = Cluster()
        if label == "Ray":
            cluster.start()
        try:
            for name in chosen:
                command = steps[name]
                print(label, name, file=sys.stderr)
                if label == "Ray":
                    start = time.perf_counter()
                    events[name] = on_ray(cluster, command, out, name)
                    seconds.setdefault(label, {})[name] = {"wall_s": time.perf_counter() - start}
                else:
                    seconds.setdefault(label, {})[name] = measured(command)
        finally:
            cluster.kill()
        found[label] = digests(out)

    with ThreadPoolExecutor(len(engines) if at_once else 1) as pool:
        list(pool.map(by_engine, engines))
    first = found["one process"]
    differing = {
        label: sorted(n for n in {*first, *files} if first.get(n) != files.get(n)) for label, files in found.items()
    }
    rows = [
        [label, step, values.get("wall_s"), values.get("processor_s", "-"), len(differing[label])]
        for label, by_step in seconds.items() if label in found
        for step, values in by_step.items()
    ]  # fmt: skip
    show(f"{takes} takes, {len(first)} files", ["engine", "step", "wall s", "processor s", "files that differ"], rows)
    print("events on Ray:", json.dumps(events))
    return {"takes": takes, "files": len(first), "differing": differing, "steps": list(chosen), "at_once": at_once,
            "seconds": seconds, "events": events}  # fmt: skip


def on_ray(cluster: Cluster, command: Sequence[str], out: Path, name: str) -> dict[str, Any]:
    """One step on Ray: a worker is killed in the middle; during *predict*, then, the whole cluster."""
    begun: dict[str, Callable[[], bool]] = {
        "prepare": lambda: len(list((out / "prepared").glob("*/*/*.jpg"))) > 0,
        "predict": lambda: len(list((out / "predictions.json.parts").glob("*.jsonl"))) > 0,
        "follow": lambda: len(list((out / "follow").glob("*/*"))) > 0,
    }
    events: dict[str, Any] = {}
    if name == "predict":
        events["cluster killed"] = disturbed(command, begun[name], lambda: cluster.kill() is None)
        cluster.start()
        before = len(list((out / "predictions.json.parts").glob("*.jsonl")))
        events["takes begun before"] = before
        events["worker killed"] = disturbed(
            command, lambda: len(list((out / "predictions.json.parts").glob("*.jsonl"))) > before, kill_one_worker
        )
    else:
        events["worker killed"] = disturbed(command, begun[name], kill_one_worker)
    if events["worker killed"][0]:  # the cluster itself failed, as a busy machine makes it: the command is given again
        events["given again"] = measured(command)
    return events


# ------------------------------------------------------------------------------------------------------ overhead


def make_nothing() -> Callable[[int], int]:
    """A worker that does nothing."""
    return abs


def overhead(tasks: int) -> dict[str, Any]:
    """Seconds a task of tasks that do nothing, after the workers have started."""
    rows = {}
    engines = {"one process": JobEngine(), "two processes": JobEngine(workers=2), "Ray": JobEngine("ray", workers=2)}
    os.environ |= ENVIRONMENT
    for label, engine in engines.items():
        start, first, processor = time.perf_counter(), 0.0, 0.0
        for number, outcome in enumerate(run(make_nothing, (), Manifest.of("nothing", range(tasks)), engine=engine)):
            outcome.result()
            if number == 3:
                first, processor = time.perf_counter(), time.process_time()
            if number == tasks - 1:
                last, used = time.perf_counter(), time.process_time() - processor
        rows[label] = {"start_s": first - start, "task_ms": 1000 * (last - first) / (tasks - 4),
                       "processor_ms": 1000 * used / (tasks - 4)}  # fmt: skip
    show("tasks that do nothing", ["engine", "start s", "ms a task", "processor ms here"],
         [[label, *values.values()] for label, values in rows.items()])  # fmt: skip
    return {"tasks": tasks, "engines": rows}


# ------------------------------------------------------------------------------------------------------ scaling


def copies(work: Path, number: int) -> Path:
    """A release with so many copies of one small take; the videos are links to one."""
    root = work / f"release-{number}"
    original = work / "original"
    if not original.exists():
        make_release(original, [TakeSpec("u", "take", cameras=(EGO, EXO), frames=31)])
    (root / "takes").mkdir(parents=True)
    (root / "annotations").mkdir()
    annotation = read_json(original / "annotations" / "relations_val.json")
    take = annotation["annotations"]["u"]
    (facts,) = read_json(original / "takes.json")
    annotation["annotations"] = {f"u{n}": {**take, "take_name": f"take{n}"} for n in range(number)}
    write_json(root / "annotations" / "relations_val.json", annotation, indent=None)
    names = [f"take{n}" for n in range(number)]
    entries = [
        {**facts, "take_uid": f"u{n}", "take_name": name, "root_dir": f"takes/{name}"} for n, name in enumerate(names)
    ]
    write_json(root / "takes.json", entries, indent=None)
    for name in names:
        (root / "takes" / name).symlink_to((original / "takes" / "take").resolve(), target_is_directory=True)
    return root


def scaling(work: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Processor seconds and peak memory of whole commands over so many takes."""
    rows = []
    for number in sizes:
        root, out = copies(work, number), work / f"out-{number}"
        steps = {
            "prepare": [*COMMAND, "prepare", str(root), str(out / "prepared")],
            "inspect": [*COMMAND, "inspect", str(root)],
            "predict": [*COMMAND, "predict", *MODEL, str(out / "prepared"), "--split", "val", "--out",
                        str(out / "p.json"), "--device", "cpu"],
            "evaluate": [*COMMAND, "evaluate", "--gt", str(root / "annotations" / "relations_val.json"), "--pred",
                         str(out / "p.json"), "--direction", "ego2exo", "--workers", "1"],
        }  # fmt: skip
        for name, command in steps.items():
            rows.append({"takes": number, "command": name, **measured(command)})
            print(json.dumps(rows[-1]), file=sys.stderr)
    base = {row["command"]: row for row in rows if row["takes"] == sizes[0]}
    for row in rows:  # what a take adds, without the start of the process
        more = row["takes"] - sizes[0]
        row["ms_a_take"] = 1000 * (row["processor_s"] - base[row["command"]]["processor_s"]) / more if more else None
    show("whole commands, one process", ["command", "takes", "processor s", "ms a further take", "peak MB"],
         [[r["command"], r["takes"], r["processor_s"], r["ms_a_take"] or "-", r["peak_mb"]]
          for r in sorted(rows, key=lambda r: (r["command"], r["takes"]))])  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--takes", type=int, default=12)
    parser.add_argument("--release", type=Path, help="takes that were rendered before")
    parser.add_argument("--step", action="append", choices=STEPS, help="of the part same; all if not given")
    parser.add_argument("--at-once", action="store_true", help="all engines at the same time; bytes count, not seconds")
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--scale", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--part", action="append", choices=["same", "overhead", "scale"])
    parser.add_argument("--save", action="store_true", help="parts that are not measured again keep their results")
    options = parser.parse_args()
    parts = options.part or ["same", "overhead", "scale"]
    kept = RESULTS / "jobs.json"
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
        work = Path(folder)
        if "same" in parts:
            chosen = options.step or STEPS
            result["same_bytes"] = same_bytes(work, options.takes, options.release, options.at_once, chosen)
        if "overhead" in parts:
            result["overhead"] = overhead(options.tasks)
        if "scale" in parts:
            result["scaling"] = scaling(work, options.scale)
    earlier = read_json(kept) if options.save and kept.is_file() else {}
    result = {k: v for k, v in {**earlier, **result}.items() if k not in ("benchmark", "machine")}
    record("jobs", result, save=options.save)


if __name__ == "__main__":
    main()
