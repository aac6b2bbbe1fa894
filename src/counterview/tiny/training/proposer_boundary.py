"""Train the boundary network of the ``tiny`` proposer.

``python -m counterview.tiny.training.proposer_boundary ROOMS OUT.safetensors``, with ``ROOMS`` from
:mod:`~counterview.tiny.training.proposer_rooms`. Rooms from ``--below`` on are left to
:mod:`~counterview.tiny.training.proposer_ranker`; of the others every 30th is held out, and its loss is logged. A
boundary is where two instances meet; arms and fingers of one person are one instance. ``OUT.safetensors`` holds the
network for inference: batch norms folded in, half precision. A run that was cut off resumes from ``OUT.state``;
``--start OTHER.state`` begins a new run with the weights of another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from counterview.config import out_of_range
from counterview.errors import CheckpointError, ConfigError, InputError
from counterview.guard import library_errors
from counterview.media.files import atomic_write
from counterview.media.images import read_image
from counterview.nn.weights import load_torch_file
from counterview.proposals.boundary import PLACE_PX, BoundaryNet, folded, placed
from counterview.tiny.training.command_line import parse
from counterview.tiny.training.proposer_rooms import OUTSIDE, read_labels, room_images, room_number
from counterview.types import RgbImage

__all__ = ["BoundarySettings", "embedding_loss", "extent_loss", "losses", "train"]

CROP_PX = 256
"""Side of the square crops that the network is trained on."""
FOREGROUND = 128
"""This bit of an instance's number is set for objects and clutter."""
BOUNDARY_WEIGHT = 3.0
"""Weight of a boundary pixel relative to the others, which are about thirty times as many."""
TIGHTNESS = 0.05
"""Weight of the squared distance to the mean embedding of a pixel's own instance."""
LOSS_WEIGHTS = torch.tensor([2.0, 1.0, 0.5, 0.3])
"""Of boundary, foreground, embedding and extent."""
_HELD_OUT = 30
_LOSSES = ("boundary", "foreground", "embedding", "extent")
_log = logging.getLogger(__name__)

Example = tuple[RgbImage, NDArray[np.uint8]]
"""An image ``(h, w, 3)`` and the instance of every pixel ``(h, w)``, with :data:`FOREGROUND`."""


@dataclass(frozen=True)
class BoundarySettings:
    """How the boundary network is trained.

    Raises:
        ConfigError: a value out of range.
    """

    below: int = field(default=500, metadata={"help": "rooms with lower numbers are trained on"})
    steps: int = field(default=6000, metadata={"help": "optimiser steps"})
    batch: int = field(default=8, metadata={"help": "crops in a step"})
    rate: float = field(default=3e-3, metadata={"help": "highest learning rate of the one-cycle schedule"})
    seed: int = field(default=0, metadata={"help": "of weights and crops"})
    start: Path | None = field(default=None, metadata={"help": "state of a run whose weights this one begins with"})
    every: int = field(default=200, metadata={"help": "steps between two validations, each of which also saves"})

    def __post_init__(self) -> None:
        problems = [*out_of_range(self, "steps", "batch", "every", at_least=1), *out_of_range(self, "rate", above=0)]
        if problems:
            raise ConfigError("invalid settings of the boundary network's training: " + "; ".join(problems))


def load_examples(folder: Path, below: int) -> tuple[list[Example], list[Example]]:
    """All images of a folder with their instances, in memory: those to train on, and those held out.

    Args:
        folder: of the rooms.
        below: rooms with lower numbers only.

    Raises:
        InputError: no rooms to train on or none to hold out, or damaged files.
    """
    train: list[Example] = []
    held_out: list[Example] = []
    for path in room_images(folder):
        if room_number(path) >= below:
            continue
        labels = read_labels(path)
        instances = labels.instances.copy()
        instances[(instances >= labels.person) & (instances != OUTSIDE)] = labels.person
        # Neighbours must differ, nothing more: the highest bit is free to mark the foreground.
        packed = np.where(labels.on_table(), instances | FOREGROUND, np.minimum(instances, FOREGROUND - 1))
        part = held_out if room_number(path) % _HELD_OUT == _HELD_OUT - 1 else train
        part.append((read_image(path.with_suffix(".jpg")), packed.astype(np.uint8)))
    if not train or not held_out:
        raise InputError(
            "too few rooms for training and validation",
            path=folder,
            found=f"{len(train)} images to train on, {len(held_out)} held out, of rooms below {below}",
            fix=f"Rooms with numbers {_HELD_OUT - 1}, {2 * _HELD_OUT - 1}, … are held out.",
        )
    return train, held_out


def targets(instances: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Boundary and foreground ``(2, h, w)`` float32 of instances ``(h, w)``: 4-neighbours differ; the bit is set."""
    edge = np.zeros(instances.shape, bool)
    down, right = instances[1:] != instances[:-1], instances[:, 1:] != instances[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return np.stack([edge, instances >= FOREGROUND]).astype(np.float32)


def augmented_crop(image: RgbImage, instances: NDArray[np.uint8], rng: np.random.Generator) -> Example:
    """A random square crop at a random scale, flipped, with colour jitter, blur, noise and JPEG compression.

    Args:
        image: ``(h, w, 3)`` uint8.
        instances: ``(h, w)`` uint8.
        rng: draws everything.

    Returns:
        image ``(256, 256, 3)`` and instances ``(256, 256)``, uint8.
    """
    h, w = instances.shape
    side = min(int(CROP_PX / np.exp(rng.uniform(np.log(0.6), np.log(2.0)))), h, w)
    y, x = int(rng.integers(h - side + 1)), int(rng.integers(w - side + 1))
    part = np.s_[y : y + side, x : x + side]
    size = (CROP_PX, CROP_PX)
    how = cv2.INTER_AREA if side > CROP_PX else cv2.INTER_CUBIC
    crop = np.asarray(cv2.resize(image[part], size, interpolation=how))
    inside = np.asarray(cv2.resize(instances[part], size, interpolation=cv2.INTER_NEAREST))
    if rng.random() < 0.5:
        crop, inside = crop[:, ::-1], inside[:, ::-1]
    if rng.random() < 0.15:
        crop, inside = np.rot90(crop, 2), np.rot90(inside, 2)
    value: NDArray[Any] = crop.astype(np.float32) / 255
    if rng.random() < 0.7:
        value = value ** np.float32(np.exp(rng.normal(0, 0.25))) * np.exp(rng.normal(0, 0.1, 3)).astype(np.float32)
        grey = value.mean(2, keepdims=True)
        value = grey + (value - grey) * np.float32(rng.uniform(0, 1.5))
        value = 0.5 + (value - 0.5) * np.float32(rng.uniform(0.6, 1.3)) + np.float32(rng.normal(0, 0.05))
    if rng.random() < 0.2:
        value = value[..., rng.permutation(3)]
    if rng.random() < 0.3:
        value = np.asarray(cv2.GaussianBlur(np.ascontiguousarray(value), (0, 0), float(rng.uniform(0.4, 1.2))))
    if rng.random() < 0.4:
        value = value + rng.normal(0, rng.uniform(0.005, 0.03), value.shape).astype(np.float32)
    pixels = np.clip(value * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
    return pixels, np.ascontiguousarray(inside)


def make_batch(examples: Sequence[Example], count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random crops of random images.

    Args:
        examples: to draw from.
        count: B.
        rng: draws everything.

    Returns:
        images ``(B, 3, h, w)`` from -1 to 1, targets ``(B, 2, h, w)`` and instances ``(B, h, w)`` int64.
    """
    crops = [augmented_crop(*examples[int(rng.integers(len(examples)))], rng) for _ in range(count)]
    images = torch.from_numpy(np.stack([image for image, _ in crops])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return (
        images.contiguous(memory_format=torch.channels_last),
        torch.from_numpy(np.stack([targets(instances) for _, instances in crops])),
        torch.from_numpy(np.stack([instances for _, instances in crops]).astype(np.int64)),
    )


def losses(output: Sequence[Tensor], target: Tensor, instances: Tensor) -> Tensor:
    """Losses of boundary, foreground, embedding and extent, ``(4,)``.

    Args:
        output: the network's: ``(B, 2, h, w)``, ``(B, 8, h / 2, w / 2)`` and ``(B, 5, h / 2, w / 2)``.
        target: ``(B, 2, h, w)`` boundary and foreground.
        instances: ``(B, h, w)`` int64.
    """
    logits, embedding, extent = (part.float() for part in output)
    weight = 1 + (BOUNDARY_WEIGHT - 1) * target[:, 0]
    edge = functional.binary_cross_entropy_with_logits(logits[:, 0], target[:, 0], weight)
    foreground = functional.binary_cross_entropy_with_logits(logits[:, 1], target[:, 1])
    embedding, extent = (placed(part).flatten(2).transpose(1, 2) for part in (embedding, extent))
    halves = instances[:, ::2, ::2].flatten(1)
    together = [embedding_loss(e, i) for e, i in zip(embedding, halves, strict=True)]
    sizes = [extent_loss(e, i) for e, i in zip(extent, instances, strict=True)]
    return torch.stack([edge, foreground, torch.stack(together).mean(), torch.stack(sizes).mean()])


def extent_loss(extent: Tensor, instances: Tensor) -> Tensor:
    """Huber loss of centre, deviations and area; an instance that the crop truncates may be larger than it appears.

    Every instance counts by the square root of its area.

    Args:
        extent: ``(h / 2 * w / 2, 5)``.
        instances: ``(h, w)`` int64.
    """
    height, width = instances.shape
    _, index, count = torch.unique(instances, return_inverse=True, return_counts=True)
    flat, number = index.flatten(), len(count)
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    moments = torch.stack([x, y, x * x, y * y], -1).flatten(0, 1)
    mean = torch.zeros(number, 4).index_add_(0, flat, moments) / count[:, None]
    deviation = (mean[:, 2:] - mean[:, :2] ** 2 + 1 / 12).clamp(min=1 / 12).log() / 2
    truth = torch.cat([mean[:, :2] / PLACE_PX, deviation, count[:, None].float().log()], 1)
    border = torch.cat([index[0], index[-1], index[:, 0], index[:, -1]])
    on_border = torch.zeros(number, dtype=torch.bool).index_fill_(0, border, True)
    own = index[::2, ::2].flatten()
    error = truth[own] - extent
    truncated = on_border[own]
    size = torch.where(truncated[:, None], error[:, 2:].clamp(min=0), error[:, 2:])
    centre = functional.huber_loss(error[:, :2], torch.zeros_like(error[:, :2]), reduction="none", delta=0.5).sum(1)
    centre = centre * 2 * ~truncated
    size = functional.huber_loss(size, torch.zeros_like(size), reduction="none", delta=0.3).sum(1) * 3
    weight = count[own].float() ** -0.5
    return ((centre + size) * weight).sum() / weight.sum()


def embedding_loss(embedding: Tensor, instances: Tensor) -> Tensor:
    """Cross entropy of each pixel's instance among those of a crop, by squared distance to their mean embeddings.

    Every instance counts by the square root of its area, so that small ones matter. A little of the squared distance
    itself is added: it keeps instances compact once they are separated, when the cross entropy no longer does.

    Args:
        embedding: ``(n, 8)``.
        instances: ``(n,)`` int64.
    """
    _, index, count = torch.unique(instances, return_inverse=True, return_counts=True)
    centre = torch.zeros(len(count), embedding.shape[1]).index_add_(0, index, embedding) / count[:, None]
    square = (embedding**2).sum(1, keepdim=True) - 2 * embedding @ centre.T + (centre**2).sum(1)
    weight = count[index].float() ** -0.5
    own = (
        functional.cross_entropy(-square, index, reduction="none") + TIGHTNESS * square.gather(1, index[:, None])[:, 0]
    )
    return (own * weight).sum() / weight.sum()


def train(rooms: Path, out: Path, settings: BoundarySettings | None = None) -> None:
    """Train the network, or resume its training.

    Args:
        rooms: folder of the rooms.
        out: the network for inference, a safetensors file; the state of training is beside it.
        settings: see :class:`BoundarySettings`.

    Raises:
        InputError: no rooms to train on or none to hold out, or damaged files.
    """
    settings = settings or BoundarySettings()
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)
    examples, held_out = load_examples(rooms, settings.below)
    validation = [make_batch(held_out, 8, np.random.default_rng(s)) for s in range(8)]
    net = BoundaryNet(train=True)
    if settings.start:
        with library_errors(CheckpointError, "training cannot begin with it", path=settings.start):
            net.load_state_dict(load_torch_file(settings.start)["net"])
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), settings.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, settings.steps, pct_start=0.1)
    parameters = sum(p.numel() for p in net.parameters())
    _log.info("%d images, %d held out, %d parameters", len(examples), len(held_out), parameters)
    state, first, spent, running = out.with_suffix(".state"), 1, 0.0, torch.zeros(4)
    if state.is_file():
        with library_errors(CheckpointError, "training cannot go on from it", path=state, fix="Remove it."):
            saved = load_torch_file(state)
            net.load_state_dict(saved["net"])
            optimiser.load_state_dict(saved["optimiser"])
            schedule.load_state_dict(saved["schedule"])
            first, spent, running = saved["step"] + 1, saved["spent"], saved["running"]
        _log.info("resuming after step %d", first - 1)
    started = time.process_time() - spent
    for step in tqdm(range(first, settings.steps + 1), initial=first - 1, total=settings.steps, unit="step"):
        # Crops depend on seed and step alone, so that a resumed run equals an unbroken one.
        images, target, instances = make_batch(examples, settings.batch, np.random.default_rng((settings.seed, step)))
        with torch.autocast("cpu", torch.bfloat16):
            output = net(images)
        loss = losses(output, target, instances)
        optimiser.zero_grad()
        (loss * LOSS_WEIGHTS).sum().backward()
        optimiser.step()
        schedule.step()
        running += (loss.detach() - running) / min(step, 100)
        if step % settings.every == 0 or step == settings.steps:
            net.eval()
            with torch.inference_mode():
                held = torch.stack([losses(net(i), t, n) for i, t, n in validation]).mean(0)
            net.train()
            spent = time.process_time() - started
            values = zip(_LOSSES, running.tolist(), held.tolist(), strict=True)
            text = ", ".join(f"{name} {r:.4f} (held out {h:.4f})" for name, r, h in values)
            _log.info("step %d: %s, %.0f s of CPU time", step, text, spent)
            weights = {k: v.to(torch.float16).contiguous() for k, v in sorted(folded(net).items())}
            with atomic_write(out) as handle:
                handle.write(save(weights))
            modules = {"net": net, "optimiser": optimiser, "schedule": schedule}
            content = {name: module.state_dict() for name, module in modules.items()}
            with atomic_write(state) as handle:
                torch.save({**content, "step": step, "spent": spent, "running": running}, handle)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the boundary network, see the module's text."""
    paths = {"rooms": "folder of the rooms", "out": "safetensors file of the network"}
    (rooms, out), settings = parse(__doc__, paths, BoundarySettings, arguments)
    train(rooms, out, settings)


if __name__ == "__main__":
    main()
