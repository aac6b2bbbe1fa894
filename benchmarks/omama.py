"""The cost of O-MaMa: backbone passes for a take, training steps with and without cached maps, seconds a pair.

``python -m benchmarks.omama [passes] [steps] [stages] [--device cpu] [--quick] [--save]``: all three if none is named.

* *passes*: a take of one ego and three exo cameras with eight objects in both directions, compared with one pair of
  images at a time, as in the released code. The network is a small DINOv2; proposals are computed before.
* *steps*: the same batches from the cache, and with every image through the backbone again.
* *stages*: DINOv2-B with registers at the released sizes (700x700, 532x952), 100 proposals, 1 and 16 objects, random
  weights. ``--quick`` uses smaller images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from benchmarks.common import record, show, timed
from counterview.config import load_config
from counterview.data.dataset import DIRECTIONS
from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs
from counterview.features import FeatureMap, load_backbone
from counterview.inference.dataset import predict
from counterview.inference.matchers import HeadMatcher
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.inference.takes import FramePredictor
from counterview.masks.rle import to_coco
from counterview.media.images import write_image
from counterview.omama import OMaMa, OMaMaConfig
from counterview.omama.descriptors import describe_masks
from counterview.omama.training.recipe import OMaMaRecipe
from counterview.omama.training.task import OMaMaTask
from counterview.proposals import CachedProposer, load_proposer
from counterview.types import ObjectMask, RgbImage

OBJECTS, EXO_CAMERAS, FRAMES = 8, 3, 2
GRAPH = {"max_masks": 100, "working_side_px": 224, "regions": 300}


def write_take(root: Path, uid: str, frames: int, seed: int) -> None:
    """A prepared take of coloured discs, each object in every image."""
    rng = np.random.default_rng(seed)
    masks: dict[str, Any] = {f"disc {n}": {} for n in range(OBJECTS)}
    colours = rng.uniform(0, 255, (OBJECTS, 3))
    cameras = {"aria01": (224, 224), **{f"cam{c:02d}": (126, 224) for c in range(1, EXO_CAMERAS + 1)}}
    for camera, (height, width) in cameras.items():
        for frame in range(0, 30 * frames, 30):
            image = rng.normal(128, 10, (height, width, 3))
            y, x = np.mgrid[:height, :width]
            for n in range(OBJECTS):
                centre = rng.uniform(0.12, 0.88, 2) * (height, width)
                mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < rng.uniform(7, 14) ** 2
                image[mask] = colours[n]
                encoded = to_coco(ObjectMask.from_array(mask))
                masks[f"disc {n}"].setdefault(camera, {})[str(frame)] = encoded
            write_image(root / uid / camera / f"{frame}.jpg", image.clip(0, 255).astype(np.uint8))
    content = {"masks": masks, "subsample_idx": list(range(0, 30 * frames, 30))}
    (root / uid / "annotation.json").write_text(json.dumps(content))


def small_network(folder: Path) -> str:
    """A small DINOv2 with random weights, saved like a model of a user."""
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=96, num_hidden_layers=6, num_attention_heads=3, patch_size=14, image_size=224)
    Dinov2Model(config).save_pretrained(folder)
    return str(folder)


class Counted:
    """A backbone that counts its images."""

    def __init__(self, backbone: Any) -> None:
        self.backbone, self.passes = backbone, 0
        self.name, self.channels, self.stride = backbone.name, backbone.channels, backbone.stride

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def encode(self, image: RgbImage) -> FeatureMap:
        """One pass."""
        self.passes += 1
        return self.backbone.encode(image)


def passes(folder: Path) -> dict[str, Any]:
    """Backbone passes and seconds for a take."""
    root = folder / "take"
    write_take(root, "take", FRAMES, 0)
    backbone = Counted(load_backbone(small_network(folder / "network"), device="cpu"))
    config = OMaMaConfig(
        channels=96, hidden=96, embedding=64, backbone=backbone.name, query_grid_hw=(9, 16), target_grid_hw=(16, 16)
    )
    torch.manual_seed(0)
    proposer = CachedProposer(load_proposer("graph", **GRAPH), folder / "proposals")
    predictor = ProposalMatcher(proposer, backbone, HeadMatcher(OMaMa(config)))
    dataset = open_dataset(root)
    for camera in dataset.takes[0].cameras:
        for frame in dataset.takes[0].frames:
            proposer(dataset.takes[0].frame(camera, frame))
    start = time.perf_counter()
    predict(FramePredictor(predictor), dataset, DIRECTIONS, folder / "out.json", progress=False)
    ours = {"passes": backbone.passes, "seconds": time.perf_counter() - start}
    backbone.passes = 0
    start = time.perf_counter()
    pairs = 0
    for direction in DIRECTIONS:
        for pair in enumerate_pairs(dataset, direction, targets="annotated"):
            take = dataset.take(pair.take)
            mask = take.mask(pair.object, pair.query_camera, pair.frame)
            assert mask is not None
            images = [take.frame(c, pair.frame) for c in (pair.query_camera, pair.target_camera)]
            predictor.match(images[0], mask.to_array(), images[1], top_k=1)
            pairs += 1
    theirs = {"passes": backbone.passes, "seconds": time.perf_counter() - start}
    ratio, saved = theirs["passes"] / ours["passes"], theirs["seconds"] / ours["seconds"]
    show(
        f"(a) {OBJECTS} objects, {EXO_CAMERAS} exo cameras, {FRAMES} frames, both directions: {pairs} pairs",
        ["", "backbone passes", "seconds"],
        [["the take at once", *ours.values()], ["pair by pair", *theirs.values()], ["ratio", ratio, saved]],
    )
    return {"whole_take": ours, "pair_by_pair": theirs, "pass_ratio": ratio, "time_ratio": saved, "pairs": pairs}


def steps(folder: Path) -> dict[str, Any]:
    """Training steps with and without cached maps."""
    root = folder / "data"
    for number in range(3):
        write_take(root, f"take{number}", 2, number)
    (root / "split.json").write_text(json.dumps({"train": ["take0", "take1"], "val": ["take2"]}))
    recipe = load_config(
        OMaMaRecipe,
        {
            "data": {"root": str(root), "cache": str(folder / "cache"), "directions": list(DIRECTIONS)},
            "model": {
                "channels": 96, "hidden": 96, "embedding": 64, "backbone": small_network(folder / "network"),
                "proposer": "graph", "proposer_settings": GRAPH, "query_grid_hw": [9, 16], "target_grid_hw": [16, 16],
            },
        },
    )  # fmt: skip
    task = OMaMaTask(recipe)
    task.prepare(progress=False)
    model = task.build_model()
    optimizer = torch.optim.AdamW(task.parameter_groups(model, 8e-5, 0.01))
    numbers = np.random.default_rng(0).permutation(task.train_length(0))[:24]
    backbone = task.store.backbone.backbone

    def step() -> None:
        batch = task.collate([task.sample(0, int(i), np.random.default_rng(int(i))) for i in numbers])
        loss, _ = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def step_without_cache() -> None:
        # Without cached maps a step also passes both images of each pair through the backbone and describes their
        # masks. Proposals are cached in both cases.
        for index in numbers:
            pair = task.train_pairs[int(index)][1]
            take = task.train_data.take(pair.take)
            for camera in (pair.query_camera, pair.target_camera):
                features = backbone.encode(take.frame(camera, pair.frame))
                masks = task.store.proposals(take, camera, pair.frame).masks
                describe_masks(recipe.model.descriptor, backbone, features, masks)
        step()

    times = {"cached": timed(step, repeat=5), "not cached": timed(step_without_cache, repeat=3)}
    rates = {name: 1 / t["median_s"] for name, t in times.items()}
    show(
        "(b) training steps of 24 pairs, 32 candidates",
        ["maps", "steps/s", "median s", "min s", "max s"],
        [[name, rates[name], *t.values()] for name, t in times.items()],
    )
    return {"seconds": times, "steps_per_s": rates, "speedup": rates["cached"] / rates["not cached"]}


def stages(folder: Path, device: str, quick: bool, layers: int = 12) -> dict[str, Any]:
    """Seconds of each stage of a pair, with as many layers of DINOv2-B."""
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(patch_size=14, image_size=518, num_register_tokens=4, num_hidden_layers=layers)
    Dinov2WithRegistersModel(config).save_pretrained(folder / "base")
    half = device != "cpu"
    backbone: Any = load_backbone(str(folder / "base"), device=device, dtype="float16" if half else "float32")
    model = OMaMa(OMaMaConfig.released("ego2exo")).eval().to(device)
    if half:
        model = model.half()
    scale = 2 if quick else 1
    sizes = ((704 // scale, 704 // scale), (540 // scale, 960 // scale))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]

    def discs(size: tuple[int, int], count: int) -> list[ObjectMask]:
        y, x = np.mgrid[: size[0], : size[1]]
        masks = []
        for _ in range(count):
            cy, cx, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(8, 80) / scale
            masks.append(ObjectMask.from_array((y - cy) ** 2 + (x - cx) ** 2 < r**2))
        return masks

    queries, proposals = discs(sizes[0], 16), discs(sizes[1], 100)
    settings = model.config.descriptor

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    def run(function: Any) -> Any:
        def call() -> None:
            with torch.inference_mode():
                function()
            wait()

        return timed(call, repeat=3 if device == "cpu" else 20)

    def encode() -> None:
        for image in images:
            backbone.encode(image)

    maps = [backbone.encode(image) for image in images]
    tables = [
        describe_masks(settings, backbone, f, m)[None].to(device, maps[0].tensor.dtype)
        for f, m in zip(maps, (queries, proposals), strict=True)
    ]
    dense = [f.tensor[None] for f in maps]
    seconds = {
        "backbone, both images": run(encode),
        "describe 100 proposals": run(lambda: describe_masks(settings, backbone, maps[1], proposals)),
    }
    for count in (1, 16):
        seconds[f"describe {count} query objects"] = run(
            lambda n=count: describe_masks(settings, backbone, maps[0], queries[:n])
        )
        seconds[f"attention and head, {count} objects"] = run(
            lambda n=count: model(tables[0][:, :n], tables[1], *dense, keep_queries=True)
        )
    fraction = {}
    for count in (1, 16):
        names = ("describe 100 proposals", f"describe {count} query objects", f"attention and head, {count} objects")
        rest = sum(seconds[name]["median_s"] for name in names)
        fraction[count] = rest / seconds["backbone, both images"]["median_s"]
    show(
        f"(c) seconds per pair, DINOv2-B with registers, 100 proposals, {device}{', half precision' if half else ''}",
        ["stage", "median s", "min s", "max s"],
        [[name, *t.values()] for name, t in seconds.items()],
    )
    print(
        "; ".join(
            f"{n} objects: everything but backbone and proposer takes {100 * s:.1f} % of the backbone's time"
            for n, s in fraction.items()
        )
    )
    return {"seconds": seconds, "share_of_backbone": {str(n): s for n, s in fraction.items()}, "device": device}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", choices=["passes", "steps", "stages", []], default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    names = options.questions or ["passes", "steps", "stages"]
    result: dict[str, Any] = {"threads": torch.get_num_threads()}
    for name in names:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if name == "stages":
                result[name] = stages(folder, options.device, options.quick)
            else:
                result[name] = {"passes": passes, "steps": steps}[name](folder)
    record("omama", result, save=options.save)


if __name__ == "__main__":
    main()
