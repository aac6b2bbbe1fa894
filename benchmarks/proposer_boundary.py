"""Train the boundary network of the ``tiny`` proposer.

``python -m benchmarks.proposer_boundary ROOMS OUT.safetensors``, with ``ROOMS`` from ``benchmarks.proposer_scenes``.
Rooms from ``--below`` on are left to ``benchmarks.proposer_ranker``; of the others every 30th is kept aside, and its
loss is printed. Where bodies meet is a boundary; fingers and arms of one person
are one body. ``OUT.safetensors`` holds the network for use: batch norms folded in, half precision.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from benchmarks.proposer_scenes import OUTSIDE
from counterview.proposals.boundary import BoundaryNet, folded

CROP = 256
POSITIVE_WEIGHT = 3.0
"""A boundary pixel counts as much as this many others: there are about thirty of those for each."""


class Rooms:
    """Pictures and bodies, all in memory."""

    def __init__(self, folder: Path, below: int) -> None:
        self.train: list[tuple[np.ndarray, np.ndarray]] = []
        self.held: list[tuple[np.ndarray, np.ndarray]] = []
        for path in sorted(folder.glob("room_*.json")):
            number = int(path.stem.split("_")[2])
            if number >= below:
                continue
            about = json.loads(path.read_text(encoding="utf-8"))
            image = cv2.imread(str(path.with_suffix(".jpg")), cv2.IMREAD_COLOR)[..., ::-1]
            body = cv2.imread(str(path.with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
            body[(body >= about["person"]) & (body != OUTSIDE)] = about["person"]
            thing = (body >= about["clutter"]) & (body < about["person"])
            # The numbers of bodies are needed for nothing but telling neighbours apart; the highest bit says thing.
            packed = np.where(thing, body | 128, np.minimum(body, 127)).astype(np.uint8)
            (self.held if number % 30 == 29 else self.train).append((np.ascontiguousarray(image), packed))


def target(body: np.ndarray) -> np.ndarray:
    """``(h, w)`` bodies to ``(2, h, w)`` float32: next to another body (of four neighbours); belongs to a thing."""
    edge = np.zeros(body.shape, bool)
    down, right = body[1:] != body[:-1], body[:, 1:] != body[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return np.stack([edge, body >= 128]).astype(np.float32)


def view(image: np.ndarray, body: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random part of a picture at a random scale, mirrored, with other colours, softness, noise and compression."""
    h, w = body.shape
    side = min(int(CROP / np.exp(rng.uniform(np.log(0.6), np.log(2.0)))), h, w)
    y, x = int(rng.integers(h - side + 1)), int(rng.integers(w - side + 1))
    image, body = image[y : y + side, x : x + side], body[y : y + side, x : x + side]
    shrinking = side > CROP
    image = cv2.resize(image, (CROP, CROP), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
    body = cv2.resize(body, (CROP, CROP), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        image, body = image[:, ::-1], body[:, ::-1]
    if rng.random() < 0.15:
        image, body = np.rot90(image, 2), np.rot90(body, 2)
    value = image.astype(np.float32) / 255
    if rng.random() < 0.7:
        value = value ** np.float32(np.exp(rng.normal(0, 0.25))) * np.exp(rng.normal(0, 0.1, 3)).astype(np.float32)
        grey = value.mean(2, keepdims=True)
        value = grey + (value - grey) * np.float32(rng.uniform(0, 1.5))
        value = 0.5 + (value - 0.5) * np.float32(rng.uniform(0.6, 1.3)) + np.float32(rng.normal(0, 0.05))
    if rng.random() < 0.2:
        value = value[..., rng.permutation(3)]
    if rng.random() < 0.3:
        value = cv2.GaussianBlur(np.ascontiguousarray(value), (0, 0), float(rng.uniform(0.4, 1.2)))
    if rng.random() < 0.4:
        value = value + rng.normal(0, rng.uniform(0.005, 0.03), value.shape).astype(np.float32)
    pixels = np.clip(value * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return pixels, np.ascontiguousarray(body)


def batch(rooms: list[tuple[np.ndarray, np.ndarray]], count: int, rng: np.random.Generator) -> list[torch.Tensor]:
    """Random views as ``(count, 3, h, w)`` from -1 to 1, and targets ``(count, 2, h, w)``."""
    views = [view(*rooms[int(rng.integers(len(rooms)))], rng) for _ in range(count)]
    images = torch.from_numpy(np.stack([v[0] for v in views])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return [
        images.contiguous(memory_format=torch.channels_last),
        torch.from_numpy(np.stack([target(v[1]) for v in views])),
    ]


def losses(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross entropy of boundary and of thing, ``(2,)``."""
    weight = 1 + (POSITIVE_WEIGHT - 1) * wanted[:, 0]
    edge = F.binary_cross_entropy_with_logits(logits[:, 0], wanted[:, 0], weight)
    thing = F.binary_cross_entropy_with_logits(logits[:, 1], wanted[:, 1])
    return torch.stack([edge, thing])


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--below", type=int, default=60, help="rooms with lower numbers are learned from")
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=200, help="steps between two checks, each of which also saves")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    rooms = Rooms(options.rooms, options.below)
    fixed = [batch(rooms.held, 8, np.random.default_rng(s)) for s in range(4)]
    net = BoundaryNet(train=True).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), options.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, options.steps, pct_start=0.1)
    print(
        f"{len(rooms.train)} pictures, {len(rooms.held)} kept aside, {sum(p.numel() for p in net.parameters())} weights"
    )
    started, running = time.process_time(), torch.zeros(2)
    for step in range(1, options.steps + 1):
        images, wanted = batch(rooms.train, options.batch, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images)
        loss = losses(logits.float(), wanted)
        optimiser.zero_grad()
        (loss[0] * 2 + loss[1]).backward()
        optimiser.step()
        schedule.step()
        running += (loss.detach() - running) / min(step, 100)
        if step % options.every == 0 or step == options.steps:
            net.eval()
            with torch.inference_mode():
                held = torch.stack([losses(net(i), w) for i, w in fixed]).mean(0)
            net.train()
            print(
                f"step {step}: boundary {running[0]:.4f} (kept aside {held[0]:.4f}), "
                f"thing {running[1]:.4f} ({held[1]:.4f}), {time.process_time() - started:.0f} processor s",
                flush=True,
            )
            weights = {k: v.to(torch.float16).contiguous() for k, v in sorted(folded(net).items())}
            save_file(weights, options.out.with_suffix(".part"))
            options.out.with_suffix(".part").replace(options.out)


if __name__ == "__main__":
    main()
