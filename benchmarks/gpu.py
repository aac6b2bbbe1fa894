"""What does each method cost on a GPU, and how often does it wait for it?

``python -m benchmarks.gpu [--device cuda] [--quick] [--out FILE] [PART ...]``, or ``tools/gpu_check.sh``, which runs
the tests on the GPU before. ``--quick``: small networks and images, for a machine without a GPU.

* *omama*: DINOv2-B with registers at the released sizes, 100 given proposals, 1 and 16 objects, half precision.
* *lmeec*: SAM 2.1 Hiera-B+ at 480 px, banks full, 1 and 8 objects; eager and with a compiled image encoder, in
  float32 and bfloat16.
* *bundled*: ``counterview.load()`` on the bundled pair, 1 and 6 objects, everything counted.
* *training*: a step of LM-EEC (one clip of four frames, two objects) and of O-MaMa's head (24 pairs, 32 candidates).

Weights are random but for the bundled model. Each part is written as soon as it is measured, so that a run that is
stopped keeps what it has; a part that fails is recorded with its error, and the others go on. ``waits`` is how often
the program waited for the GPU in one call, as torch counts it (``torch.cuda.set_sync_debug_mode``).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine, show, timed
from benchmarks.lmeec import QUERY_HW, SMALL, TARGET_HW, disc, fill_banks
from benchmarks.omama import stages
from counterview.inference.examples import load_pair
from counterview.inference.loading import load
from counterview.lmeec.config import LMEECConfig
from counterview.lmeec.model import LMEEC
from counterview.lmeec.training.loss import FrameLoss, frame_loss, shrink_truth
from counterview.lmeec.training.unroll import ClipBatch, unroll, unused_parameters
from counterview.omama import OMaMa, OMaMaConfig
from counterview.omama.training.loss import info_nce

Seconds = dict[str, Any]


def main() -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "machine": {**machine(), **gpu()},
        "quick": options.quick,
        "parts": {},
    }
    failed = []
    for name in options.parts or PARTS:
        start = time.perf_counter()
        try:
            result["parts"][name] = PARTS[name](options.device, options.quick)
        except Exception as error:  # the other parts are still worth measuring on a machine that is only lent
            traceback.print_exc()
            failed.append(name)
            result["parts"][name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        result["parts"][name]["took_s"] = round(time.perf_counter() - start, 1)
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def gpu() -> dict[str, Any]:
    """The GPU, its driver's CUDA and its memory; ``None`` without one."""
    if not torch.cuda.is_available():
        return {"gpu": None}
    about = torch.cuda.get_device_properties(0)
    return {"gpu": about.name, "gpu_memory_gb": round(about.total_memory / 1e9, 1), "cuda": torch.version.cuda}


def clocked(call: Callable[[], Any], device: str, repeat: int, warmup: int = 2) -> Seconds:
    """Seconds of a call until the device is done, and how often it waited for it."""

    def whole() -> None:
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    seconds: Seconds = timed(whole, repeat=repeat, warmup=warmup)
    return {**seconds, "waits": waits(call) if device.startswith("cuda") else None}


def waits(call: Callable[[], Any]) -> int:
    """How often a call waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(item.message) for item in said)


def table(title: str, rows: dict[str, Seconds]) -> None:
    """Print milliseconds."""
    columns = ["what", "median ms", "min ms", "max ms", "waits"]
    numbers = [[n, *(1e3 * r[c] for c in ("median_s", "min_s", "max_s")), r.get("waits", "-")] for n, r in rows.items()]
    show(title, columns, numbers)


def omama(device: str, quick: bool) -> dict[str, Any]:
    """A pair with its proposals given, and each further object."""
    with tempfile.TemporaryDirectory() as folder:
        result = stages(Path(folder), device, quick, layers=2 if quick else 12)
    seconds = {name: times["median_s"] for name, times in result["seconds"].items()}

    def objects(count: int) -> float:
        return seconds[f"describe {count} query objects"] + seconds[f"attention and head, {count} objects"]

    pair = seconds["backbone, both images"] + seconds["describe 100 proposals"] + objects(1)
    more = (objects(16) - objects(1)) / 15
    print(f"a pair: {1e3 * pair:.1f} ms; a further object: {1e3 * more:.2f} ms")
    return {**result, "pair_s": pair, "further_object_s": more}


def lmeec(device: str, quick: bool) -> dict[str, Any]:
    """A frame with 1 and 8 objects, in every variant."""
    torch.manual_seed(0)
    model = LMEEC(LMEECConfig(**(SMALL if quick else {}))).eval().to(device)
    rng = np.random.default_rng(0)
    query, target = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in (QUERY_HW, TARGET_HW))
    masks = {f"object {i}": disc(200 + 40 * i, 300, 60) for i in range(8)}
    eager = model.sam.vision_encoder
    rows: dict[str, Seconds] = {}
    for encoder in ("eager",) if quick else ("eager", "compiled"):
        model.sam.vision_encoder = torch.compile(eager) if encoder == "compiled" else eager
        for name, autocast in (("float32", None), ("bfloat16", torch.bfloat16)):
            for count in (1, 8):
                session = model.session(autocast=autocast)
                shown = dict(list(masks.items())[:count])

                def step(session: Any = session, shown: Any = shown) -> None:
                    session.step(query, shown, target)

                fill_banks(session, step, model)
                rows[f"{encoder}, {name}, objects {count}"] = clocked(step, device, 2 if quick else 15)
    table("LM-EEC, a frame", rows)
    return {"frames": {name: {**row, "fps": 1 / row["median_s"]} for name, row in rows.items()}}


def bundled(device: str, quick: bool) -> dict[str, Any]:
    """A pair of images with the bundled model, proposals and all."""
    pair, model = load_pair(), load(device=device)
    masks = list(pair.near.masks.values())
    rows = {}
    for count in (1, 6):
        chosen = masks[:count]
        rows[f"objects {count}"] = clocked(
            lambda m=chosen: model.match(pair.near.image, m, pair.far.image), device, 1 if quick else 5, warmup=1
        )
    table("The bundled model, a pair", rows)
    return {"pairs": rows}


def training(device: str, quick: bool) -> dict[str, Any]:
    """Training steps: forward, backward, clipping, optimizer."""
    rows: dict[str, Seconds] = {}
    for name, precision in (("float32", None), ("bfloat16", torch.bfloat16)):
        rows[f"LM-EEC, {name}"] = clocked(_lmeec_step(device, quick, precision), device, 1 if quick else 5)
        rows[f"O-MaMa head, {name}"] = clocked(_omama_step(device, quick, precision), device, 2 if quick else 15)
    table("A training step", rows)
    return {"steps": {name: {**row, "steps_per_s": 1 / row["median_s"]} for name, row in rows.items()}}


def _lmeec_step(device: str, quick: bool, precision: torch.dtype | None) -> Callable[[], None]:
    torch.manual_seed(0)
    config = LMEECConfig(**({**SMALL, "image_size": 96} if quick else {}))
    model = LMEEC(config).to(device).train()
    for name in unused_parameters(model):
        model.get_parameter(name).requires_grad_(False)
    side, frames, tracks = config.image_size, 2 if quick else 4, 2
    images = torch.randint(0, 256, (2, 1, frames, side, side, 3), dtype=torch.uint8)
    disc_mask = torch.from_numpy(disc(side // 2, side // 2, side // 5)[:side, :side].copy())
    masks = disc_mask.expand(tracks, frames, side, side).contiguous()
    batch = ClipBatch(images[0], images[1], masks, masks, torch.zeros(tracks, dtype=torch.int64)).to(device)

    def loss() -> torch.Tensor:
        total = torch.zeros((), device=device)
        for t, decoded in enumerate(unroll(model, batch)):
            losses = frame_loss(decoded, shrink_truth(batch.target_masks[:, t], 1 if quick else 4))
            total = total + sum(getattr(losses, part).mean() for part in FrameLoss.__dataclass_fields__)
        return total

    return _step(model, loss, device, precision)


def _omama_step(device: str, quick: bool, precision: torch.dtype | None) -> Callable[[], None]:
    torch.manual_seed(0)
    model = OMaMa(OMaMaConfig.released("ego2exo")).to(device).train()
    pairs, candidates, channels = 4 if quick else 24, 32, model.config.channels
    query = torch.randn(pairs, 1, 2 * channels, device=device)
    others = torch.randn(pairs, candidates, 2 * channels, device=device)
    maps = [torch.randn(pairs, channels, *grid, device=device) for grid in ((50, 50), (38, 68))]
    positive = torch.arange(pairs, device=device) % candidates

    def loss() -> torch.Tensor:
        return info_nce(model(query, others, *maps).similarity.float(), positive).mean()

    return _step(model, loss, device, precision)


def _step(
    model: torch.nn.Module, loss: Callable[[], torch.Tensor], device: str, precision: torch.dtype | None
) -> Callable[[], None]:
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(wanted, lr=1e-5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(device).type, dtype=precision, enabled=precision is not None):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(wanted, 1.0)
        optimizer.step()

    return step


PARTS: dict[str, Callable[[str, bool], dict[str, Any]]] = {
    "omama": omama,
    "lmeec": lmeec,
    "bundled": bundled,
    "training": training,
}

if __name__ == "__main__":
    sys.exit(main())
