"""What ONNX Runtime changes: the largest difference from torch, the time of each network, and the size of its file.

``python -m benchmarks.onnx [--folder EXPORT] [--repeat N] [--threads N …] [--save]``

Each network of the bundled model runs on inputs of the sizes that a pair of 0.5 MP images has, by torch and by ONNX
Runtime in turns, in one process with the same number of threads; and so does all that one image costs. Times are those
of the processor, so that other work on the machine counts little; the ratio of the medians is what to read. With
several threads torch's wait by spinning, which counts as time of the processor, unless ``OMP_WAIT_POLICY=PASSIVE`` is
set. Differences are absolute, and relative to the largest value of torch's output.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import counterview
from benchmarks.common import record, show
from counterview.deploy.export import Export, cached_export, read_export, relative_difference
from counterview.deploy.manifest import SIGNATURES
from counterview.deploy.networks import Network, networks_of
from counterview.deploy.runtime import OnnxSession
from counterview.inference.examples import load_pair
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


def measure_networks(export: Export, networks: Mapping[str, Network], threads: int, repeat: int) -> dict[str, Any]:
    """Differences and times of each network."""
    torch.set_num_threads(threads)
    results: dict[str, Any] = {}
    for name, network in networks.items():
        module, session = network.build(), OnnxSession(export.files[name], SIGNATURES[name], export.folder)
        inputs = network.example(PAIR[name])

        def by_torch(module: torch.nn.Module = module, inputs: tuple[torch.Tensor, ...] = inputs) -> Any:
            with torch.inference_mode():
                return module(*inputs)

        def by_onnx(session: OnnxSession = session, inputs: tuple[torch.Tensor, ...] = inputs) -> Any:
            return session(*inputs)

        expected, found = by_torch(), by_onnx()
        expected = (expected,) if isinstance(expected, torch.Tensor) else expected
        pairs = list(zip(expected, found, strict=True))
        results[name] = {
            "sizes": PAIR[name],
            "bytes": len(export.files[name]),
            "difference": max(float((a - b).abs().max()) for a, b in pairs),
            "relative_difference": max(relative_difference(a, b) for a, b in pairs),
            **compared(*in_turns(by_torch, by_onnx, repeat)),
        }
    return results


def measure_image(folder: Path, threads: int, repeat: int) -> dict[str, Any]:
    """Times of all that an image costs: proposals, map and descriptors."""
    torch.set_num_threads(threads)
    image = load_pair().far.image
    plain, other = (counterview.load("tiny-match", device="cpu", runtime=r) for r in ("torch", f"onnx:{folder}"))
    times = in_turns(lambda: plain.encode(image), lambda: other.encode(image), repeat)
    return {"size_hw": list(image.shape[:2]), **compared(*times)}


def compared(plain: dict[str, float], other: dict[str, float]) -> dict[str, Any]:
    """Times of torch and of ONNX Runtime, and their ratios."""
    ratios = {f"{clock}_ratio": plain[f"{clock}_s"] / other[f"{clock}_s"] for clock in ("cpu", "wall")}
    return {"torch": plain, "onnx": other, **ratios}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="what `counterview export onnx tiny FOLDER` wrote")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/onnx.json")
    options = parser.parse_args()
    model = TinyMatch.from_pretrained("tiny-match")
    networks = networks_of(model, "tiny")
    if options.folder is None:
        export = cached_export(model, proposer="tiny", name="tiny-match")
    else:
        export = read_export(options.folder, networks)
    results = []
    for threads in options.threads:
        found = measure_networks(export, networks, threads, options.repeat)
        image = measure_image(export.folder, threads, max(2, options.repeat // 2))
        rows = [
            [n, r["difference"], r["relative_difference"], r["torch"]["cpu_s"], r["onnx"]["cpu_s"], r["cpu_ratio"],
             r["wall_ratio"], r["bytes"] / 1e6] for n, r in found.items()
        ]  # fmt: skip
        rows.append(
            ["encode an image", "", "", image["torch"]["cpu_s"], image["onnx"]["cpu_s"], image["cpu_ratio"],
             image["wall_ratio"], ""]
        )  # fmt: skip
        show(
            f"tiny-match by torch and by ONNX Runtime, threads: {threads}",
            ["network", "difference", "relative", "torch cpu s", "onnx cpu s", "cpu ratio", "wall ratio", "MB"],
            rows,
        )
        results.append({"threads": threads, "networks": found, "image": image})
    packages = {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}
    waiting = os.environ.get("OMP_WAIT_POLICY", "active")
    record(
        "onnx", {"omp_wait_policy": waiting, "repeat": options.repeat, "packages": packages, "results": results},
        save=options.save,
    )  # fmt: skip


if __name__ == "__main__":
    main()
