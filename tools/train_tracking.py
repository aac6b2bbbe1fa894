"""Train the network that weighs evidence for the tracker, and put it into the package.

Takes of objects that no other model was trained on or is tested on:

    counterview tabletop data/track --takes 14 --split val --seed 72 --seconds 20 --workers 2
    counterview tabletop data/track-hard --takes 4 --split val --seed 73 --preset hard --seconds 20 --workers 2
    python -m tools.train_tracking data/track:val data/track-hard:val --work runs/tracking [--install]

The evidence depends on what the tracker remembered, which depends on the weights. So it goes in rounds: follow with the
weights of the round before (at first: likeness, match and place, weighed by hand), note the evidence for the candidates
and how well each covers the truth, and fit the weights to this round and the one before. Both protocols of
``tiny-track`` are followed, from given masks and from one click, in both directions. What was done is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm import tqdm

from benchmarks.tracks import FrameViews
from counterview.data.dataset import Take
from counterview.data.open import open_dataset
from counterview.inference.loading import load
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.inference.track_takes import Protocol, TakeGroup, encode_frame
from counterview.masks.geometry import box_iou, fit_mask, iou
from counterview.media.files import atomic_write, write_json
from counterview.tracking.evidence import Evidence
from counterview.tracking.scene import Decision
from counterview.tracking.tracker import MemoryTracker
from counterview.tracking.views import EncodedView
from counterview.tracking.weighing import EvidenceWeighing, WeighingConfig
from counterview.tracking.weights import NAME, weights_folder

CANDIDATES = 50
"""Candidates that are kept of a decision: the most probable ones, and those that cover the truth best."""
PROTOCOLS: tuple[Protocol, ...] = ("given", "click")
BATCH, EPOCHS, RATE, DROPPED_MATCH = 256, 25, 4e-3, 0.1


class Notes:
    """Evidence and truth of the decisions of one take."""

    def __init__(self, take: Take) -> None:
        self._take, self.frame = take, 0
        self.tables: list[NDArray[np.float16]] = []
        self.overlaps: list[NDArray[np.float16]] = []
        self.visible: list[bool] = []
        self._overlap: dict[tuple[str, int, str], NDArray[np.float32]] = {}

    def note(self, camera: str, name: str, decision: Decision, view: EncodedView[Any]) -> None:
        """A :data:`counterview.tracking.scene.Recorder`; frames that are not annotated are left out."""
        if camera not in self._take.cameras_of(name):
            return
        if self.frame not in self._take.annotated_frames(name, camera):
            return
        key = camera, self.frame, name
        truth = self._take.mask(name, camera, self.frame)
        if key not in self._overlap:
            overlap = np.zeros(len(view.masks), dtype=np.float32)
            if truth is not None and not truth.is_empty:
                fitted = fit_mask(truth, view.size_hw)
                near = box_iou(view.boxes.xywh, np.array([fitted.box_xywh], dtype=np.float64))[:, 0] > 0.05
                for row in np.flatnonzero(near):
                    overlap[row] = iou(view.masks[int(row)], fitted)
            self._overlap[key] = overlap
        overlap = self._overlap[key]
        keep = np.union1d(np.argsort(-decision.log_probability)[:40], np.argsort(-overlap)[:10])[:CANDIDATES]
        table = np.zeros((CANDIDATES, len(Evidence)), dtype=np.float16)
        table[: len(keep)] = decision.table[keep]
        covered = np.full(CANDIDATES, -1, dtype=np.float16)
        covered[: len(keep)] = overlap[keep]
        self.tables.append(table)
        self.overlaps.append(covered)
        self.visible.append(truth is not None and not truth.is_empty)


def collect(take: Take, predictor: ProposalMatcher, weighing: EvidenceWeighing) -> Notes:
    """Follow through a take by both protocols, from every camera to all others of the other kind."""
    views, notes = FrameViews(predictor), Notes(take)
    pairs = [(take.ego_cameras[0], tuple(take.exo_cameras)), *((c, (take.ego_cameras[0],)) for c in take.exo_cameras)]
    groups = [
        TakeGroup(
            take, query, targets, protocol,
            MemoryTracker(views, [query, *targets], weighing, recorder=notes.note),
        )
        for query, targets in pairs for protocol in PROTOCOLS
    ]  # fmt: skip
    clip = views.clip()
    for frame in sorted({f for n in take.objects for c in take.cameras_of(n) for f in take.annotated_frames(n, c)}):
        views.forget()
        notes.frame = frame
        encoded = encode_frame(clip, take, list(take.cameras), frame)
        for group in groups:
            group.step(encoded, frame)
    return notes


def fit(tables: NDArray[np.float16], overlaps: NDArray[np.float16], visible: NDArray[np.bool_]) -> EvidenceWeighing:
    """Fit the weights: candidates by their overlap with the truth; visibility, with both classes weighing the same."""
    x, y = torch.from_numpy(tables).float(), torch.from_numpy(overlaps).float()
    v = torch.from_numpy(visible).float()
    torch.manual_seed(0)
    network = EvidenceWeighing(WeighingConfig()).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE / 2, weight_decay=1e-3)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps + 1)
    weight = torch.where(v > 0.5, 0.5 / v.mean(), 0.5 / (1 - v.mean()))
    for epoch in tqdm(range(EPOCHS), unit="epoch"):
        order = torch.randperm(len(x))
        losses = []
        for start in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            evidence, overlap = x[rows].clone(), y[rows]
            dropped = torch.rand(len(rows)) < DROPPED_MATCH  # memory alone has to do at times
            evidence[dropped, :, Evidence.HAS_CROSS : Evidence.CROSS_VISIBILITY + 1] = 0
            is_candidate = overlap >= 0
            scores, logit = network(evidence, is_candidate)
            target = overlap.clamp(min=0) ** 4
            target = torch.where(target >= 0.5 * target.amax(1, keepdim=True), target, 0.0)
            target = target / target.sum(1, keepdim=True).clamp(min=1e-6)
            log_probability = torch.where(is_candidate, torch.log_softmax(scores, -1), 0.0)
            good = overlap.amax(1) > 0.25
            choice = (-(target * log_probability).sum(1) * good).sum() / good.sum().clamp(min=1)
            seen = functional.binary_cross_entropy_with_logits(logit, v[rows], weight=weight[rows])
            optimiser.zero_grad()
            (choice + seen).backward()
            optimiser.step()
            schedule.step()
            losses.append((choice.item(), seen.item()))
        if epoch == EPOCHS - 1:
            print("losses of choice and visibility: " + " ".join(f"{v:.3f}" for v in np.mean(losses, axis=0)))
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="FOLDER[:SPLIT]")
    parser.add_argument("--work", type=Path, required=True, help="folder of the rounds")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--install", action="store_true", help="put the weights into the package")
    options = parser.parse_args()
    from safetensors.torch import load_file, save_file

    predictor = load("tiny-match", device=options.device, cache=options.work / "proposals")
    assert isinstance(predictor, ProposalMatcher)
    takes = []
    for text in options.data:
        folder, _, split = text.partition(":")
        dataset = open_dataset(folder, split or None)
        takes += [dataset.take(uid) for uid in dataset.uids]
    weighing = EvidenceWeighing(WeighingConfig()).eval()
    rounds: list[tuple[NDArray[Any], ...]] = []
    for number in range(options.rounds):
        place = options.work / f"round-{number}"
        weights = place / NAME
        parts: list[tuple[NDArray[Any], ...]] = []
        for take in tqdm(takes, desc=f"round {number}", unit="take"):
            file = place / f"{hashlib.sha256(take.uid.encode()).hexdigest()[:16]}.npz"
            if not file.is_file():
                notes = collect(take, predictor, weighing)
                arrays = {"tables": np.stack(notes.tables), "overlaps": np.stack(notes.overlaps)}
                with atomic_write(file) as stream:
                    np.savez(stream, visible=np.array(notes.visible), **arrays)
            with np.load(file) as stored:
                parts.append(tuple(stored[key] for key in ("tables", "overlaps", "visible")))
        rounds.append(tuple(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        if not weights.is_file():
            network = fit(*(np.concatenate(columns) for columns in zip(*rounds[-2:], strict=True)))
            save_file({k: t.contiguous() for k, t in network.state_dict().items()}, weights)
        weighing = EvidenceWeighing(WeighingConfig())
        weighing.load_state_dict(load_file(weights))
        weighing.eval()
    if options.install:
        data = weights.read_bytes()
        with atomic_write(weights_folder() / NAME) as stream:
            stream.write(data)
        write_json(weights_folder() / "hashes.json", {NAME: hashlib.sha256(data).hexdigest()})
        print(f"installed in {weights_folder()}")


if __name__ == "__main__":
    main()
