"""What does a pair of images cost with the bundled model, by the images' size and the number of objects?

``python -m benchmarks.match [--megapixels 0.5 2 8 33] [--objects 1 4 16 64] [--refine] [--before SRC] [--save]``:
processor seconds of one match in memory, the model loaded and used once before, where they go, and the process's peak
memory. Every size and number is measured in a process of its own. The images are the bundled pair's, enlarged; the
masks of the pair are repeated up to the number of objects. ``--refine`` draws the masks again. ``--before`` names the
folder ``src`` of another version of the package, which is measured in turn with this one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import record, show

MEGAPIXELS = (0.5, 2.0, 8.0, 33.0)
OBJECTS = (1, 4, 16, 64)
STAGES = ("proposals", "map", "describing", "scoring", "refining", "picture")
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=MEGAPIXELS, metavar="N")
    parser.add_argument("--objects", type=int, nargs="+", default=OBJECTS, metavar="N")
    parser.add_argument("--repeat", type=int, default=3, help="matches of each process; the median counts")
    parser.add_argument("--refine", action="store_true", help="draw the masks of matches again")
    parser.add_argument("--before", type=Path, metavar="SRC", help="folder src of another version, measured in turn")
    parser.add_argument(
        "--before-limit", type=float, default=600, metavar="N",
        help="megapixels times objects up to which it is: drawing many objects takes it gigabytes",
    )  # fmt: skip
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/match.json")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(float(options.one[0]), int(options.one[1]), options.repeat, options.refine)))
        return
    versions = {"now": ROOT / "src", **({"before": options.before.resolve()} if options.before else {})}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in versions}
    for megapixels in options.megapixels:
        for count in options.objects:
            for name, source in versions.items():
                if name == "before" and megapixels * count > options.before_limit:
                    continue
                results[name].append(in_process(source, megapixels, count, options.repeat, options.refine))
                print(name, json.dumps(results[name][-1]), file=sys.stderr, flush=True)
    for name, rows in results.items():
        show(
            f"Processor seconds of one match, {name}",
            ["megapixels", "objects", "match", *STAGES[:-1], STAGES[-1], "peak MB"],
            [[r["megapixels"], r["objects"], r["match"], *(r[s] for s in STAGES), r["peak_mb"]] for r in rows],
        )
    now = results["now"]
    fewest, most = min(options.objects), max(options.objects)
    ratios = {str(size): _of(now, size, most) / _of(now, size, fewest) for size in options.megapixels if most > fewest}
    print(f"{most} objects cost, of {fewest}: " + ", ".join(f"{v:.2f} at {k} MP" for k, v in ratios.items()))
    record("match", {"results": results, "ratio_of_most_to_fewest_objects": ratios}, save=options.save)


def _of(rows: list[dict[str, Any]], megapixels: float, count: int) -> float:
    return next(float(r["match"]) for r in rows if (r["megapixels"], r["objects"]) == (megapixels, count))


def in_process(source: Path, megapixels: float, count: int, repeat: int, refine: bool) -> dict[str, Any]:
    """:func:`measure` in a new process with the package from a folder.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", "benchmarks.match", "--one", str(megapixels), str(count), "--repeat", str(repeat)]
    command += ["--refine"] if refine else []
    paths = os.pathsep.join([str(source), str(ROOT)])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def measure(megapixels: float, count: int, repeat: int, refine: bool) -> dict[str, Any]:
    """Processor seconds of a match, of its stages, and of drawing its picture.

    Args:
        megapixels: of each image.
        count: objects.
        repeat: matches.
        refine: whether the masks of matches are drawn again.
    """
    import cv2
    import numpy as np

    from counterview.inference.drawing import draw_match
    from counterview.inference.examples import load_pair
    from counterview.inference.loading import load
    from counterview.types import ObjectMask

    pair = load_pair()
    model = load("tiny", refine="auto") if refine else load("tiny")  # earlier versions know no such argument
    model.match(pair.near.image, next(iter(pair.near.masks.values())), pair.far.image)
    scale = (megapixels * 1e6 / (pair.near.image.shape[0] * pair.near.image.shape[1])) ** 0.5

    def enlarged(array: Any, how: int) -> Any:
        return cv2.resize(array, None, fx=scale, fy=scale, interpolation=how)

    query, target = (np.asarray(enlarged(v.image, cv2.INTER_CUBIC)) for v in (pair.near, pair.far))
    masks = [
        ObjectMask.from_array(enlarged(mask.to_array().astype(np.uint8), cv2.INTER_NEAREST).astype(bool))
        for mask in pair.near.masks.values()
    ]
    objects = [ObjectMask(m.size_hw, m.runs) for m in (masks[i % len(masks)] for i in range(count))]
    spent = dict.fromkeys(STAGES, 0.0)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            before = dict(spent)
            start = time.process_time()
            value = function(*arguments, **named)
            nested = sum(spent.values()) - sum(before.values())
            spent[stage] += time.process_time() - start - nested  # what a stage calls is counted there
            return value

        return wrapper

    proposer = type(model.proposer)
    proposer.__call__ = timed("proposals", proposer.__call__)  # type: ignore[method-assign]
    model.backbone.encode = timed("map", model.backbone.encode)
    model.matcher.describe = timed("describing", model.matcher.describe)
    model.matcher.score = timed("scoring", model.matcher.score)
    if refine:
        refiner = type(model.refiner)
        refiner.__call__ = timed("refining", refiner.__call__)  # type: ignore[method-assign, union-attr]
    rows: list[dict[str, float]] = []
    for _ in range(repeat):
        spent.update(dict.fromkeys(STAGES, 0.0))
        start = time.process_time()
        matches = model.match(query, objects, target)
        whole = time.process_time() - start
        timed("picture", draw_match)(query, objects, target, matches)
        rows.append({"match": whole, **spent})
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {"megapixels": megapixels, "objects": count, **medians, "peak_mb": _peak_mb()}


def _peak_mb() -> int:
    """Most memory that the process has had, in MB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main()
