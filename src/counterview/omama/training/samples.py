"""Training examples: pairs of images turned into descriptors, candidates and maps, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterview.data.dataset import Take
from counterview.data.pairs import FramePair
from counterview.omama.training.image_store import ImageStore
from counterview.omama.training.mining import TRUTH, best_box, draw_candidates
from counterview.omama.training.recipe import SamplingConfig


@dataclass(frozen=True, eq=False)
class Example:
    """One query object and its candidates. M candidates, C channels.

    Attributes:
        query: ``(2C,)`` descriptor of the query object.
        candidates: ``(M, 2C)``; M may be 0.
        query_map, target_map: ``(C, h, w)``, each of its own grid.
        overlap: ``(M,)`` float32, IoU of each candidate with the truth; zeros where there is none.
        positive: place of the right candidate; 0 where there is none.
        visible: whether there is one.
        weight: 0 for an example that cannot be learned from (a query mask without a pixel), else 1.
        group: a number for the take.
    """

    query: NDArray[np.float16]
    candidates: NDArray[np.float16]
    query_map: NDArray[np.float16]
    target_map: NDArray[np.float16]
    overlap: NDArray[np.float32]
    positive: int
    visible: bool
    weight: float
    group: int


def make_example(
    store: ImageStore, take: Take, pair: FramePair, sampling: SamplingConfig, rng: np.random.Generator, group: int = 0
) -> Example:
    """The example of one pair of images; all chance comes from ``rng``.

    An object whose target mask is unusable (damaged, or without a pixel) is left unlearned, not called absent.
    """
    query_image = store.record(take, pair.query_camera, pair.frame)
    query_objects = store.objects(take, pair.query_camera, pair.frame)
    target = store.record(take, pair.target_camera, pair.frame)
    objects = store.objects(take, pair.target_camera, pair.frame)
    row = query_objects.row(pair.object)
    usable = query_objects.usable(pair.object) is not None
    query = query_objects.descriptors[row] if row is not None else np.zeros_like(target.map, shape=2 * len(target.map))
    place = objects.usable(pair.object) if pair.target_visible else None
    usable = usable and (place is not None or not pair.target_visible)
    overlap = None if place is None else objects.overlap[place]
    best = None
    if place is not None and sampling.mining == "released" and len(target.boxes_xywh):
        # As there: boxes end at their last pixel, so they are one pixel narrower than they are.
        boxes = [np.maximum(b - np.array([0, 0, 1, 1]), 0) for b in (target.boxes_xywh, objects.boxes_xywh[place])]
        best = best_box(*boxes)
    positive = sampling.positive if sampling.positive != "both" else ("gt", "proposal")[int(rng.integers(2))]
    draw = draw_candidates(
        rng,
        neighbours=target.neighbours,
        overlap=overlap,
        same=target.same,
        best=best,
        count=sampling.candidates,
        mining=sampling.mining,
        positive=positive,
        overlap_threshold=sampling.overlap_threshold,
    )
    table = target.descriptors
    if place is not None:  # index -1 is the truth
        table = np.concatenate([table, objects.descriptors[place : place + 1]])
    chosen = np.where(draw.proposals == TRUTH, len(table) - 1, draw.proposals)
    credit = np.zeros(len(chosen), dtype=np.float32)
    if overlap is not None:
        credit = np.append(overlap, np.float32(1.0))[chosen].astype(np.float32)
    return Example(
        query,
        table[chosen],
        query_image.map,
        target.map,
        credit,
        draw.positive,
        draw.visible,
        float(usable),
        group,
    )


def collate(examples: Sequence[Example]) -> list[dict[str, Tensor]]:
    """Batches of examples whose maps have one grid each, in order of first appearance.

    Each is a mapping of ``query (B, 1, 2C)``, ``candidates (B, M, 2C)``, ``candidate_mask (B, M)`` bool,
    ``overlap (B, M)``,
    ``query_map (B, C, h, w)``, ``target_map (B, C, h', w')``, ``positive (B,)``, ``visible (B,)`` bool,
    ``weight (B,)`` and ``group (B,)``; M is the largest number of candidates of the whole batch.
    """
    groups: dict[Any, list[Example]] = {}
    for example in examples:
        groups.setdefault((example.query_map.shape, example.target_map.shape), []).append(example)
    most = max((len(e.candidates) for e in examples), default=0)
    return [_stack(members, most) for members in groups.values()]


def _stack(members: Sequence[Example], most: int) -> dict[str, Tensor]:
    candidates = np.zeros((len(members), most, members[0].candidates.shape[1]), dtype=np.float32)
    mask = np.zeros((len(members), most), dtype=bool)
    overlap = np.zeros((len(members), most), dtype=np.float32)
    for index, example in enumerate(members):
        candidates[index, : len(example.candidates)] = example.candidates
        mask[index, : len(example.candidates)] = True
        overlap[index, : len(example.candidates)] = example.overlap

    def floats(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(e, name) for e in members])).float()

    return {
        "query": floats("query")[:, None],
        "candidates": torch.from_numpy(candidates),
        "candidate_mask": torch.from_numpy(mask),
        "overlap": torch.from_numpy(overlap),
        "query_map": floats("query_map"),
        "target_map": floats("target_map"),
        "positive": torch.tensor([e.positive for e in members]),
        "visible": torch.tensor([e.visible for e in members]),
        "weight": torch.tensor([e.weight for e in members]),
        "group": torch.tensor([e.group for e in members]),
    }
