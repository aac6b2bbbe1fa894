"""Shared by all benchmarks: machine and versions, medians with their spread, results as a table and as JSON."""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, system and versions, on which timings depend."""
    import os

    names = {}
    for name in ("counterview", "torch", "transformers", "numpy", "scipy", "opencv-python-headless"):
        try:
            names[name] = version(name)
        except PackageNotFoundError:
            continue
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].partition(":")[2].strip() if lines else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **names,
    }


def timed(function: Callable[[], Any], *, repeat: int = 5, warmup: int = 1) -> dict[str, float]:
    """Wall seconds of calling ``function``: median, minimum and maximum of ``repeat`` calls after ``warmup``."""
    for _ in range(warmup):
        function()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}


def finite(value: float) -> float | None:
    """The value for JSON, which has no NaN."""
    return value if math.isfinite(value) else None


def decimals(value: float | None) -> str:
    """Three decimals for a table, or a dash for a missing value."""
    return "-" if value is None else f"{value:.3f}"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a plain table."""
    cells = [
        [str(c) for c in columns],
        *([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in rows),
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(title)
    for number, row in enumerate(cells):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def record(name: str, result: dict[str, Any], *, save: bool) -> None:
    """Print ``result`` with the machine as JSON; with ``save``, also write it to ``benchmarks/results/NAME.json``."""
    full = {"benchmark": name, "machine": machine(), **result}
    print(json.dumps(full))
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")
