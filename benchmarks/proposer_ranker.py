"""Train the ranking network of the ``tiny`` proposer, and put both networks where the package finds them.

``python -m benchmarks.proposer_ranker ROOMS BOUNDARY.safetensors [--out FOLDER]``, with ``ROOMS`` from
``benchmarks.proposer_scenes`` and the network of ``benchmarks.proposer_boundary``. What a node of the merging trees is
worth is its best IoU with any body, furniture and hands for a little less than things. Every fifth room is kept aside,
and how well the prediction follows the truth there is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.numpy import save
from tqdm import tqdm

from benchmarks.proposer_scenes import OUTSIDE
from counterview.media.files import write_json
from counterview.media.images import read_image
from counterview.proposals.objectness import FEATURES, gather, predict
from counterview.proposals.regions import AREA
from counterview.proposals.shipped import BOUNDARY, HASHES, RANKER, Boundary, boundary_from, folder
from counterview.proposals.tiny import TinySettings, at_working_size, cut_along, grow

OTHER = 0.85
"""Worth of a perfect mask of furniture, clothes and hands, where that of a thing is 1."""
HIDDEN = (32, 24)
NOISE = 0.3
"""Standard deviation of noise on the features while learning, in their own: other pictures have other features."""


def overlap(tree, inside: np.ndarray, total: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Best worth of every node, from pixels of each body within every leaf ``(n, k)`` and in all ``(k,)``."""
    full = np.zeros((len(tree.sums), inside.shape[1]))
    full[: tree.leaves] = inside
    for row, (a, b) in enumerate(tree.children.tolist(), start=tree.leaves):
        full[row] = full[a] + full[b]
    return full / (tree.sums[:, [AREA]] + total - full)


def examples(rooms: Path, boundary: Boundary, every: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Per picture: number of the room, features of all nodes, and what they are worth."""
    settings, found = TinySettings(), []
    paths = sorted(rooms.glob("room_*.json"))[::every]
    for path in tqdm(paths, unit="picture"):
        about = json.loads(path.read_text(encoding="utf-8"))
        image = at_working_size(read_image(path.with_suffix(".jpg")), settings)
        body = cv2.imread(str(path.with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
        body = cv2.resize(body, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        regions = cut_along(image, boundary(image), settings.regions)
        trees = grow(regions)
        nodes = gather(trees, settings.min_area_px, settings.max_area * body.size)
        inside = np.zeros((len(regions), 256))
        np.add.at(inside, (regions.labels.ravel(), body.ravel()), 1)
        inside = inside[:, :OUTSIDE]
        worth = np.full(OUTSIDE, OTHER)
        worth[about["clutter"] : about["person"]] = 1
        iou = np.concatenate([overlap(tree, inside, inside.sum(0)) * worth for tree in trees])[nodes.at]
        found.append((int(path.stem.split("_")[2]), nodes.features, iou.max(1).astype(np.float32)))
    return found


def fit(x: np.ndarray, y: np.ndarray, epochs: int, seed: int) -> dict[str, np.ndarray]:
    """Fit the network by cross entropy with the worth as a soft label; good nodes count more than bad ones."""
    torch.manual_seed(seed)
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-3)
    sizes = (x.shape[1], *HIDDEN, 1)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    data = torch.from_numpy(np.clip((x - mean) / scale, -5, 5).astype(np.float32))
    wanted, importance = torch.from_numpy(y), torch.from_numpy(0.3 + y)
    batch = 1024
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * (len(x) // batch))
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            pick = order[start : start + batch]
            seen = data[pick] + NOISE * torch.randn_like(data[pick])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(seen)[:, 0], wanted[pick], importance[pick])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    weights = {"mean": mean, "scale": scale}
    for number, layer in enumerate(m for m in net if isinstance(m, torch.nn.Linear)):
        weights[f"w{number}"] = layer.weight.detach().numpy().T
        weights[f"b{number}"] = layer.bias.detach().numpy()
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}


def main() -> None:
    """Train, write, and list the hashes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", type=Path)
    parser.add_argument("boundary", type=Path)
    parser.add_argument("--every", type=int, default=3, help="take every so many-th picture")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=folder())
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    data = options.boundary.read_bytes()
    boundary = boundary_from(data, hashlib.sha256(data).hexdigest(), options.boundary)
    found = examples(options.rooms, boundary, options.every)
    held = [e for e in found if e[0] % 5 == 4]
    train = [e for e in found if e[0] % 5 != 4]
    x, y = np.concatenate([e[1] for e in train]), np.concatenate([e[2] for e in train])
    weights = fit(x, y, options.epochs, options.seed)
    for name, part in (("learned from", train), ("kept aside", held)):
        guess = np.concatenate([predict(weights, e[1]) for e in part])
        truth = np.concatenate([e[2] for e in part])
        share = np.corrcoef(guess, truth)[0, 1]
        print(f"{name}: {len(part)} pictures, {len(truth)} nodes, correlation {share:.3f}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / BOUNDARY).write_bytes(data)
    (options.out / RANKER).write_bytes(save(weights))
    digests = {n: hashlib.sha256((options.out / n).read_bytes()).hexdigest() for n in (BOUNDARY, RANKER)}
    write_json(options.out / HASHES, digests)
    print(f"{len(FEATURES)} features, {sum(v.size for v in weights.values())} numbers, {digests}")
    print(f"{time.process_time() - started:.0f} processor s")


if __name__ == "__main__":
    main()
