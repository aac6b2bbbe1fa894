"""What ONNX Runtime changes: the largest difference from torch, the time of each network, and the size of its file.

``python -m benchmarks.onnx [--folder EXPORT] [--repeat N] [--threads N] [--save]``

Each network of the bundled model runs on inputs of the sizes that a pair of 0.5 MP images has, by torch and by ONNX
Runtime in turns, in one process with the same number of threads. Times are those of the processor, so that other work
on the machine counts little; the ratio of the medians is what to read. Differences are absolute, and relative to the
largest value of torch's output.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import record, show
from counterview.deploy.export import cached_export, read_export, relative_difference
from counterview.deploy.manifest import SIGNATURES
from counterview.deploy.networks import networks_of
from counterview.deploy.runtime import Session
from counterview.tiny.model import TinyMatch

PAIR = {"boundary": {"h": 36, "w": 54}, "map": {"h": 17, "w": 25}, "crops": {"n": 64}, "ranker": {"m": 4000},
        "head": {"q": 108, "n": 200, "h": 68, "w": 100, "h2": 68, "w2": 100},
        "reranker": {"k": 8, "q": 8, "n": 200}, "weighing": {"b": 8, "n": 200}}  # fmt: skip
"""Sizes of the dimensions that vary, for a pair of 0.5 MP images with 200 proposals each and 8 objects."""


def in_turns(one: Callable[[], Any], other: Callable[[], Any], repeat: int) -> tuple[dict[str, float], ...]:
    """Processor and wall seconds of two functions, called alternately after one call of each to warm up."""
    seconds: list[list[tuple[float, float]]] = [[], []]
    for turn in range(repeat + 1):
        for number, function in enumerate((one, other)):
            start = time.process_time(), time.perf_counter()
            function()
            if turn:
                seconds[number].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return tuple(
        {"cpu_s": statistics.median(c for c, _ in s), "cpu_min_s": min(c for c, _ in s),
         "cpu_max_s": max(c for c, _ in s), "wall_s": statistics.median(w for _, w in s)}
        for s in seconds
    )  # fmt: skip


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="what `counterview export onnx tiny FOLDER` wrote")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/onnx.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = TinyMatch.from_pretrained("tiny-match")
    networks = networks_of(model, "tiny")
    if options.folder is None:
        export = cached_export(model, proposer="tiny", name="tiny-match")
    else:
        export = read_export(options.folder, networks)
    results: dict[str, dict[str, Any]] = {}
    for name, network in networks.items():
        module, session = network.build(), Session(export.files[name], SIGNATURES[name], export.folder)
        inputs = network.example(PAIR[name])

        def by_torch(module: torch.nn.Module = module, inputs: tuple[torch.Tensor, ...] = inputs) -> Any:
            with torch.inference_mode():
                return module(*inputs)

        def by_onnx(session: Session = session, inputs: tuple[torch.Tensor, ...] = inputs) -> Any:
            return session(*inputs)

        expected, found = by_torch(), by_onnx()
        expected = (expected,) if isinstance(expected, torch.Tensor) else expected
        pairs = list(zip(expected, found, strict=True))
        plain, other = in_turns(by_torch, by_onnx, options.repeat)
        results[name] = {
            "sizes": PAIR[name],
            "difference": max(float((a - b).abs().max()) for a, b in pairs),
            "relative_difference": max(relative_difference(a, b) for a, b in pairs),
            "torch": plain,
            "onnx": other,
            "cpu_ratio": plain["cpu_s"] / other["cpu_s"],
            "wall_ratio": plain["wall_s"] / other["wall_s"],
            "bytes": len(export.files[name]),
        }
    show(
        f"Networks of tiny-match by torch and by ONNX Runtime, {options.threads} threads",
        ["network", "difference", "relative", "torch cpu s", "onnx cpu s", "torch / onnx", "wall ratio", "MB"],
        [[n, r["difference"], r["relative_difference"], r["torch"]["cpu_s"], r["onnx"]["cpu_s"], r["cpu_ratio"],
          r["wall_ratio"], r["bytes"] / 1e6] for n, r in results.items()],
    )  # fmt: skip
    packages = {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}
    record(
        "onnx",
        {"threads": options.threads, "repeat": options.repeat, "packages": packages, "networks": results},
        save=options.save,
    )


if __name__ == "__main__":
    main()
