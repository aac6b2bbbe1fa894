"""Train the ranking network of the ``tiny`` proposer, and put both networks where the package finds them.

``python -m counterview.tiny.training.proposer_ranker ROOMS BOUNDARY.safetensors [--out FOLDER]``, with ``ROOMS`` from
``counterview.tiny.training.proposer_rooms`` and the network of ``counterview.tiny.training.proposer_boundary``. What a node of the merging trees is
worth is its best IoU with any body, furniture and hands for a little less than things. Rooms below ``--first`` are left
out, as the boundaries were learned from them; of the others every fifth is kept aside, and how well the prediction
follows the truth there is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.numpy import save
from tqdm import tqdm

from counterview.media.files import HASHES, write_json
from counterview.media.images import read_image
from counterview.proposals.objectness import FEATURES, collect_nodes, predict
from counterview.proposals.regions import AREA
from counterview.proposals.bundled import BOUNDARY, RANKER, BoundaryModel, read_boundary, folder
from counterview.proposals.tiny import TinySettings, at_working_size, oversegment_along, build_trees
from counterview.tiny.training.proposer_rooms import OUTSIDE

OTHER = 0.85
"""Worth of a perfect mask of furniture, clothes and hands, where that of a thing is 1."""
HIDDEN = (48, 32)
CREDIT_POWER = 8
"""Of two nodes of a body, the one with nine tenths of the other's IoU stands in for it by half."""
PROMISE = 0.2
"""Weight of the loss of promise."""
NOISE = 0.3
"""Standard deviation of noise on the features while learning, in their own: other images have other features."""


def overlap(tree, inside: np.ndarray, total: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Best worth of every node, from pixels of each body within every leaf ``(n, k)`` and in all ``(k,)``."""
    full = np.zeros((len(tree.sums), inside.shape[1]))
    full[: tree.leaves] = inside
    for row, (a, b) in enumerate(tree.children.tolist(), start=tree.leaves):
        full[row] = full[a] + full[b]
    return full / (tree.sums[:, [AREA]] + total - full)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """An image's nodes.

    Attributes:
        room: its number.
        features: ``(m, k)``.
        iou: ``(m, b)`` of every node with every body of a few pixels.
        worth: ``(b,)`` of each body.
    """

    room: int
    features: np.ndarray
    iou: np.ndarray
    worth: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """``(m,)`` most that a node is worth."""
        return (self.iou * self.worth).max(1)


def examples(rooms: Path, boundary: BoundaryModel, first: int, every: int) -> list[ImageRecord]:
    """The nodes of the images of rooms from ``first`` on."""
    settings, found = TinySettings(), []
    paths = [p for p in sorted(rooms.glob("room_*.json")) if int(p.stem.split("_")[2]) >= first][::every]
    for path in tqdm(paths, unit="image"):
        about = json.loads(path.read_text(encoding="utf-8"))
        image = at_working_size(read_image(path.with_suffix(".jpg")), settings)
        body = cv2.imread(str(path.with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
        body = cv2.resize(body, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        regions = oversegment_along(image, boundary(image), settings.regions)
        trees = build_trees(regions)
        nodes = collect_nodes(trees, settings.min_area_px, settings.max_area * body.size)
        inside = np.zeros((len(regions), 256))
        np.add.at(inside, (regions.labels.ravel(), body.ravel()), 1)
        inside = inside[:, :OUTSIDE]
        worth = np.full(OUTSIDE, OTHER, dtype=np.float32)
        worth[about["clutter"] : about["person"]] = 1
        there = inside.sum(0) >= settings.min_area_px
        iou = np.concatenate([overlap(tree, inside[:, there], inside[:, there].sum(0)) for tree in trees])[nodes.at]
        found.append(ImageRecord(int(path.stem.split("_")[2]), nodes.features, iou.astype(np.float32), worth[there]))
    return found


def fit(records: Sequence[ImageRecord], epochs: int, seed: int) -> dict[str, np.ndarray]:
    """Fit the network, an image at a time.

    Quality by cross entropy with the worth as a soft label; good nodes count more than bad ones. Promise by the share
    that the best nodes of each body have of all the image's, so that every body counts alike however many nodes it
    has.
    """
    torch.manual_seed(seed)
    every = np.concatenate([record.features for record in records])
    mean, scale = every.mean(0), np.maximum(every.std(0), 1e-3)
    sizes = (len(mean), *HIDDEN, 2)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(records))
    for _ in tqdm(range(epochs), unit="epoch"):
        for number in torch.randperm(len(records)).tolist():
            record = records[number]
            data = torch.from_numpy(np.clip((record.features - mean) / scale, -5, 5).astype(np.float32))
            iou, worth = torch.from_numpy(record.iou), torch.from_numpy(record.worth)
            label = (iou * worth).amax(1)
            quality, promise = net(data + NOISE * torch.randn_like(data)).unbind(1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(quality, label, 0.3 + label)
            top = iou.amax(0)
            credit = (iou / top.clamp(min=0.05)) ** CREDIT_POWER
            share = torch.log_softmax(promise, 0)[:, None] + credit.clamp(min=1e-12).log()
            counts = top * worth
            loss = loss - PROMISE * (torch.logsumexp(share, 0) * counts).sum() / counts.sum()
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
    parser.add_argument("--first", type=int, default=500, help="rooms with lower numbers are left to the boundaries")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th image")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=folder())
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    data = options.boundary.read_bytes()
    boundary = read_boundary(data, hashlib.sha256(data).hexdigest(), options.boundary)
    found = examples(options.rooms, boundary, options.first, options.every)
    held = [record for record in found if record.room % 5 == 4]
    train = [record for record in found if record.room % 5 != 4]
    weights = fit(train, options.epochs, options.seed)
    for name, part in (("learned from", train), ("kept aside", held)):
        guess = np.concatenate([predict(weights, record.features)[0] for record in part])
        truth = np.concatenate([record.best for record in part])
        share = np.corrcoef(guess, truth)[0, 1]
        print(f"{name}: {len(part)} images, {len(truth)} nodes, correlation {share:.3f}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / BOUNDARY).write_bytes(data)
    (options.out / RANKER).write_bytes(save(weights))
    digests = {n: hashlib.sha256((options.out / n).read_bytes()).hexdigest() for n in (BOUNDARY, RANKER)}
    write_json(options.out / HASHES, digests)
    print(f"{len(FEATURES)} features, {sum(v.size for v in weights.values())} numbers, {digests}")
    print(f"{time.process_time() - started:.0f} processor s")


if __name__ == "__main__":
    main()
