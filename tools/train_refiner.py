"""Train the network that draws proposed masks again, and put it into the package.

Takes that the bundled tiny-match was not tested on, prepared:

    python -m tools.train_refiner data/tabletop:train data/tabletop-hard:train --work runs/refiner [--install]

Samples are windows around proposals that overlap an object, drawn by their IoU with it, of two frames of each take
(``--frames``) in both directions, with half of the images as another camera would have stored them. Proposals vote by
their IoU with the object, as far as a matcher knows it. The network learns the outline, and the IoU of what it draws
and of what was proposed. Every tenth take is held out. What was done is not done again: samples are kept by the frame,
and training goes on from its last state.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import permutations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from counterview.data.open import open_dataset
from counterview.evaluation.camera_change import draw_change
from counterview.geometry.windows import ImageWindow, cut_mask
from counterview.inference.loading import load
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.masks.geometry import fit_mask, iou
from counterview.media.files import HASHES, atomic_write, write_json
from counterview.nn.weights import load_torch_file
from counterview.proposals.boundary import folded
from counterview.proposals.bundled import load_boundary
from counterview.refinement.evidence import CHANNELS, LEAST_WEIGHT, PROPOSAL, QueryColours, refining_window, window_maps
from counterview.refinement.network import RefinerNet
from counterview.refinement.refiner import NAME, weights_folder
from counterview.types import ObjectMask

CHANGED, PROMPTS, LEAST_IOU, SMALLEST_AREA = 0.5, 2, 0.2, 20
NOISE = 0.25
"""Of the likeness by which proposals vote: their IoU with the object, as far as a matcher knows it."""
BATCH, STEPS, RATE, DECAY, WARM_UP = 24, 2400, 3e-3, 0.02, 200
LEFT_OUT = {"votes": 0.0, "query": 0.5, "own": 0.5}
"""Maps that may mislead, and the value that they have in one of seven samples."""
HELD_OUT, EVERY = 10, 200
"""One take in so many, and steps between two validations."""

_folders: dict[str, Any] = {}


def take_samples(place: tuple[str, str | None, str, str, int]) -> int:
    """Make the samples of one frame of a take and keep them; see the module's text.

    Args:
        place: folder and split of the data, uid of the take, the file of its samples, and a number for another frame.

    Returns:
        how many there are.
    """
    folder, split, uid, file, turn = place
    torch.set_num_threads(1)
    if not _folders:
        _folders["predictor"], _folders["boundary"] = load("tiny-match", device="cpu"), load_boundary()
    predictor: ProposalMatcher = _folders["predictor"]
    dataset = _folders.setdefault(f"{folder}:{split}", open_dataset(folder, split))
    take = dataset.take(uid)
    rng = np.random.default_rng((turn, int(hashlib.sha256(uid.encode()).hexdigest()[:16], 16)))
    frames = sorted({f for o in take.objects for c in take.cameras_of(o) for f in take.annotated_frames(o, c)})
    maps = []
    if frames and take.ego_cameras and take.exo_cameras:
        frame = frames[int(rng.integers(len(frames)))]
        images = {}
        for camera in take.cameras:
            image = take.frame(camera, frame)
            changed = rng.random() < CHANGED
            images[camera] = draw_change(rng).apply(image, int(rng.integers(1 << 31))) if changed else image
        for query, target in permutations(images, 2):
            size_hw = images[target].shape[:2]
            proposals: Sequence[ObjectMask] = ()
            for name in take.objects:
                shown, truth = take.mask(name, query, frame), take.mask(name, target, frame)
                if shown is None or truth is None or shown.is_empty or truth.is_empty:
                    continue
                proposals = proposals or predictor.proposer(images[target], None).masks
                truth = fit_mask(truth, size_hw)
                overlap_of = np.array([iou(mask, truth) for mask in proposals])
                possible = np.flatnonzero(overlap_of > LEAST_IOU)
                if not len(possible) or truth.area < SMALLEST_AREA:
                    continue
                colours = QueryColours.of(images[query], fit_mask(shown, images[query].shape[:2]))
                for _ in range(PROMPTS):
                    chance = overlap_of[possible] ** 4 * rng.uniform(0.2, 1, len(possible))
                    chosen = int(possible[rng.choice(len(possible), p=chance / chance.sum())])
                    near = np.flatnonzero(overlap_of > 0.05)
                    weights = np.clip(overlap_of[near] + rng.normal(0, NOISE, len(near)), LEAST_WEIGHT, 1)
                    window = _jittered(refining_window(proposals[chosen]), rng)
                    others = [proposals[k] for k in near]
                    values = window_maps(
                        images[target], proposals[chosen], others, weights, colours, _folders["boundary"], window
                    )
                    drawn = cut_mask(truth, window)
                    maps.append(np.concatenate([values, (255 * drawn[None]).astype(np.uint8)]))
    with atomic_write(Path(file)) as stream:
        np.savez_compressed(stream, maps=np.array(maps, dtype=np.uint8))
    return len(maps)


def _jittered(window: ImageWindow, rng: np.random.Generator) -> ImageWindow:
    moved = window.moved(*(rng.normal(0, 0.04, 2) * window.side))
    return ImageWindow(moved.centre_xy, window.side * float(np.exp(rng.normal(0, 0.1))), window.size)


def losses(logits: Tensor, judged: Tensor, maps: Tensor, truth: Tensor) -> Tensor:
    """Losses of the outline, where a window shows its object, and of the two IoUs.

    Args:
        logits: ``(B, S, S)``.
        judged: ``(B, 2)`` logits.
        maps: ``(B, 11, S, S)``.
        truth: ``(B, S, S)`` in 0..1.
    """
    there = (overlap(maps[:, PROPOSAL] - 0.5, truth) > 0.1).float()
    probability = logits.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2))
    common = 2 * (probability * truth).sum((1, 2)) + 1
    dice = 1 - common / (probability.sum((1, 2)) + truth.sum((1, 2)) + 1)
    outline = ((4 * cross + dice) * there).sum() / there.sum().clamp(min=1)
    ious = torch.stack([overlap(logits.detach(), truth), overlap(maps[:, PROPOSAL] - 0.5, truth)], 1)
    return outline + 2 * functional.mse_loss(judged.sigmoid(), ious)


def overlap(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU ``(B,)`` of what is above 0 in ``(B, S, S)`` with what is above a half."""
    one, other = logits > 0, truth > 0.5
    return (one & other).sum((1, 2)) / (one | other).sum((1, 2)).clamp(min=1)


def batch(samples: NDArray[np.uint8], rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
    """Maps ``(B, 11, S, S)`` and truth ``(B, S, S)`` of samples ``(B, 12, S, S)``, varied if ``rng`` is given."""
    values = torch.from_numpy(samples).float() / 255
    if rng is not None:
        for axis, often in ((3, 0.5), (2, 0.3)):
            chosen = torch.from_numpy(rng.random(len(values)) < often)
            values[chosen] = values[chosen].flip(axis)
        for name, value in LEFT_OUT.items():
            values[torch.from_numpy(rng.random(len(values)) < 1 / 7), CHANNELS.index(name)] = value
    return values[:, :-1].contiguous(memory_format=torch.channels_last), values[:, -1]


def fit(train: NDArray[np.uint8], held_out: NDArray[np.uint8], place: Path, steps: int) -> RefinerNet:
    """Train, or go on from the last state.

    Args:
        train: samples ``(N, 12, S, S)``.
        held_out: likewise.
        place: file of the state.
        steps: optimiser steps.
    """
    torch.manual_seed(0)
    net = RefinerNet(train=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    first = 0
    if place.is_file():
        saved = load_torch_file(place)
        net.load_state_dict(saved["net"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        first = saved["step"]
    for step in tqdm(range(first, steps), initial=first, total=steps, unit="step"):
        rate = RATE * min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * step / steps) + 0.01)
        for group in optimiser.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng((0, step))  # a resumed training equals an unbroken one
        maps, truth = batch(train[np.sort(rng.choice(len(train), BATCH, replace=False))], rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits, judged = net(maps)
        loss = losses(logits.float(), judged.float(), maps, truth)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        keep = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.mul_(keep).add_(value, alpha=1 - keep)
                else:
                    mean.copy_(value)
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            before, after, error = validate(average, held_out)
            tqdm.write(f"step {step + 1}: IoU {before:.4f} -> {after:.4f}, error of the predicted IoU {error:.4f}")
            content = {"net": net, "average": average, "optimiser": optimiser}
            with atomic_write(place) as stream:
                torch.save({**{k: v.state_dict() for k, v in content.items()}, "step": step + 1}, stream)
    return average


@torch.inference_mode()
def validate(net: RefinerNet, samples: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Mean IoU of proposed and drawn masks where the place is right, and the mean error of the predicted IoU."""
    net.eval()
    rows = []
    for start in range(0, len(samples), 50):
        maps, truth = batch(samples[start : start + 50], None)
        logits, judged = net(maps)
        after, before = overlap(logits, truth), overlap(maps[:, PROPOSAL] - 0.5, truth)
        rows.append(torch.stack([before, after, (judged[:, 0].sigmoid() - after).abs()], 1))
    net.train()
    values = torch.cat(rows)
    right = values[:, 0] > 0.1
    return float(values[right, 0].mean()), float(values[right, 1].mean()), float(values[:, 2].mean())


def read(files: Sequence[Path]) -> NDArray[np.uint8]:
    """The samples of some takes, ``(N, 12, S, S)``."""
    parts = []
    for file in files:
        with np.load(file) as stored:
            if len(stored["maps"]):
                parts.append(stored["maps"])
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="FOLDER[:SPLIT]")
    parser.add_argument("--work", type=Path, required=True, help="folder of samples and of the state of training")
    parser.add_argument("--workers", type=int, default=1, help="processes that make samples")
    parser.add_argument("--frames", type=int, default=2, help="frames of each take")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1, help="threads that train")
    parser.add_argument("--install", action="store_true", help="put the weights into the package")
    options = parser.parse_args()
    places = []
    for text in options.data:
        folder, _, split = text.partition(":")
        for uid in open_dataset(folder, split or None).uids:
            name = hashlib.sha256(f"{Path(folder).name} {uid}".encode()).hexdigest()[:16]
            for turn in range(options.frames):
                file = options.work / "samples" / f"{name}-{turn}.npz"
                places.append((folder, split or None, uid, str(file), turn))
    missing = [place for place in places if not Path(place[3]).is_file()]
    if missing:
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            for _ in tqdm(pool.map(take_samples, missing), total=len(missing), unit="take"):
                pass
    torch.set_num_threads(options.threads)
    files = sorted(Path(place[3]) for place in places)
    takes = sorted({file.name.partition("-")[0] for file in files})[::HELD_OUT]
    train = read([file for file in files if file.name.partition("-")[0] not in takes])
    held_out = read([file for file in files if file.name.partition("-")[0] in takes])
    print(f"{len(train)} samples, {len(held_out)} held out")
    net = fit(train, held_out, options.work / "state.pt", options.steps)
    weights = {k: v.to(torch.float16).contiguous() for k, v in sorted(folded(net).items())}
    data = save(weights)
    with atomic_write(options.work / NAME) as stream:
        stream.write(data)
    if options.install:
        with atomic_write(weights_folder() / NAME) as stream:
            stream.write(data)
        write_json(weights_folder() / HASHES, {NAME: hashlib.sha256(data).hexdigest()})
        print(f"installed in {weights_folder()}")


if __name__ == "__main__":
    main()
