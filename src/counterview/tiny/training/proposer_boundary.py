"""Train the boundary network of the ``tiny`` proposer.

``python -m counterview.tiny.training.proposer_boundary ROOMS OUT.safetensors``, with ``ROOMS`` from ``counterview.tiny.training.proposer_rooms``.
Rooms from ``--below`` on are left to ``counterview.tiny.training.proposer_ranker``; of the others every 30th is kept aside, and its
loss is printed. Where bodies meet is a boundary; fingers and arms of one person are one body. ``OUT.safetensors`` holds
the network for use: batch norms folded in, half precision. A run that was cut off goes on from ``OUT.state``;
``--start OTHER.state`` begins a new run with the weights of another.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional as F

from counterview.media.files import atomic_write
from counterview.proposals.boundary import PLACE_PX, BoundaryNet, folded, placed
from counterview.tiny.training.proposer_rooms import OUTSIDE

CROP = 256
POSITIVE_WEIGHT = 3.0
"""A boundary pixel counts as much as this many others: there are about thirty of those for each."""
TIGHT = 0.05
"""Weight of the squared distance to the mean of a pixel's own body."""
WEIGHTS = torch.tensor([2.0, 1.0, 0.5, 0.3])
"""Of boundary, thing, belonging and extent."""


class Rooms:
    """Images and bodies, all in memory."""

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
    """A random part of an image at a random scale, mirrored, with other colours, softness, noise and compression."""
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
    """Random views ``(count, 3, h, w)`` from -1 to 1, targets ``(count, 2, h, w)`` and bodies ``(count, h, w)``."""
    views = [view(*rooms[int(rng.integers(len(rooms)))], rng) for _ in range(count)]
    images = torch.from_numpy(np.stack([v[0] for v in views])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return [
        images.contiguous(memory_format=torch.channels_last),
        torch.from_numpy(np.stack([target(v[1]) for v in views])),
        torch.from_numpy(np.stack([v[1] for v in views]).astype(np.int64)),
    ]


def losses(answer: Sequence[torch.Tensor], wanted: torch.Tensor, bodies: torch.Tensor) -> torch.Tensor:
    """Cross entropies of boundary, of thing and of belonging, and the error of extents, ``(4,)``.

    Args:
        answer: the network's: ``(B, 2, h, w)``, ``(B, 8, h / 2, w / 2)`` and ``(B, 5, h / 2, w / 2)``.
        wanted: ``(B, 2, h, w)`` boundary and thing.
        bodies: ``(B, h, w)`` int64.
    """
    logits, embedding, extent = (part.float() for part in answer)
    weight = 1 + (POSITIVE_WEIGHT - 1) * wanted[:, 0]
    edge = F.binary_cross_entropy_with_logits(logits[:, 0], wanted[:, 0], weight)
    thing = F.binary_cross_entropy_with_logits(logits[:, 1], wanted[:, 1])
    embedding, extent = (placed(part).flatten(2).transpose(1, 2) for part in (embedding, extent))
    together = [belonging(e, b) for e, b in zip(embedding, bodies[:, ::2, ::2].flatten(1), strict=True)]
    sizes = [extents(e, b) for e, b in zip(extent, bodies, strict=True)]
    return torch.stack([edge, thing, torch.stack(together).mean(), torch.stack(sizes).mean()])


def extents(extent: torch.Tensor, body: torch.Tensor) -> torch.Tensor:
    """Smooth absolute error of middle, deviations and area; what goes on beyond the view is at least as large as seen.

    Args:
        extent: ``(h / 2 * w / 2, 5)``.
        body: ``(h, w)`` int64.
    """
    height, width = body.shape
    _, index, count = torch.unique(body, return_inverse=True, return_counts=True)
    flat, number = index.flatten(), len(count)
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    places = torch.stack([x, y, x * x, y * y], -1).flatten(0, 1)
    mean = torch.zeros(number, 4).index_add_(0, flat, places) / count[:, None]
    deviation = (mean[:, 2:] - mean[:, :2] ** 2 + 1 / 12).clamp(min=1 / 12).log() / 2
    truth = torch.cat([mean[:, :2] / PLACE_PX, deviation, count[:, None].float().log()], 1)
    rim = torch.cat([index[0], index[-1], index[:, 0], index[:, -1]])
    beyond = torch.zeros(number, dtype=torch.bool).index_fill_(0, rim, True)
    own = index[::2, ::2].flatten()
    error = truth[own] - extent
    cut = beyond[own]
    size = torch.where(cut[:, None], error[:, 2:].clamp(min=0), error[:, 2:])
    middle = F.huber_loss(error[:, :2], torch.zeros_like(error[:, :2]), reduction="none", delta=0.5).sum(1) * 2 * ~cut
    size = F.huber_loss(size, torch.zeros_like(size), reduction="none", delta=0.3).sum(1) * 3
    weight = count[own].float() ** -0.5
    return ((middle + size) * weight).sum() / weight.sum()


def belonging(embedding: torch.Tensor, body: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each pixel's own body among the bodies of a view, by squared distance to their means.

    A body counts by the square root of its size, so that small things are heard. A little of the squared distance
    itself is added: it keeps bodies tight, which the cross entropy alone does not ask for once they are apart.

    Args:
        embedding: ``(n, 8)``.
        body: ``(n,)`` int64.
    """
    _, index, count = torch.unique(body, return_inverse=True, return_counts=True)
    centre = torch.zeros(len(count), embedding.shape[1]).index_add_(0, index, embedding) / count[:, None]
    square = (embedding**2).sum(1, keepdim=True) - 2 * embedding @ centre.T + (centre**2).sum(1)
    weight = count[index].float() ** -0.5
    own = F.cross_entropy(-square, index, reduction="none") + TIGHT * square.gather(1, index[:, None])[:, 0]
    return (own * weight).sum() / weight.sum()


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--below", type=int, default=500, help="rooms with lower numbers are learned from")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="state of a run whose weights this one begins with")
    parser.add_argument("--every", type=int, default=200, help="steps between two checks, each of which also saves")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    rooms = Rooms(options.rooms, options.below)
    fixed = [batch(rooms.held, 8, np.random.default_rng(s)) for s in range(8)]
    net = BoundaryNet(train=True)
    if options.start:
        net.load_state_dict(torch.load(options.start, weights_only=True)["net"])
    net = net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), options.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, options.steps, pct_start=0.1)
    print(
        f"{len(rooms.train)} images, {len(rooms.held)} kept aside, {sum(p.numel() for p in net.parameters())} weights"
    )
    state, first, spent, running = options.out.with_suffix(".state"), 1, 0.0, torch.zeros(4)
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        net.load_state_dict(kept["net"])
        optimiser.load_state_dict(kept["optimiser"])
        schedule.load_state_dict(kept["schedule"])
        first, spent, running = kept["step"] + 1, kept["spent"], kept["running"]
        print(f"goes on after step {first - 1}")
    started = time.process_time() - spent
    for step in range(first, options.steps + 1):
        # Views hang on seed and step alone, so that a run that was cut off goes on as if it had not been.
        images, wanted, bodies = batch(rooms.train, options.batch, np.random.default_rng((options.seed, step)))
        with torch.autocast("cpu", torch.bfloat16):
            answer = net(images)
        loss = losses(answer, wanted, bodies)
        optimiser.zero_grad()
        (loss * WEIGHTS).sum().backward()
        optimiser.step()
        schedule.step()
        running += (loss.detach() - running) / min(step, 100)
        if step % options.every == 0 or step == options.steps:
            net.eval()
            with torch.inference_mode():
                held = torch.stack([losses(net(i), w, b) for i, w, b in fixed]).mean(0)
            net.train()
            named = zip(("boundary", "thing", "belonging", "extent"), running.tolist(), held.tolist(), strict=True)
            spent = time.process_time() - started
            print(
                f"step {step}: " + ", ".join(f"{n} {r:.4f} (kept aside {h:.4f})" for n, r, h in named),
                f"{spent:.0f} processor s",
                flush=True,
            )
            weights = {k: v.to(torch.float16).contiguous() for k, v in sorted(folded(net).items())}
            with atomic_write(options.out) as handle:
                handle.write(save(weights))
            whole = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
            with atomic_write(state) as handle:
                torch.save({**whole, "step": step, "spent": spent, "running": running}, handle)


if __name__ == "__main__":
    main()
