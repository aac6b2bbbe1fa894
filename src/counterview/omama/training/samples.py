"""Training examples: descriptors, candidates and maps of pairs of images, and batches of them."""

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
        query_map: ``(C, h, w)``.
        target_map: ``(C, h', w')``.
        overlap: ``(M,)`` float32, IoU of each candidate with the truth; zeros where the object is not visible.
        positive: index of the right candidate; 0 where the object is not visible.
        visible: whether the object is visible in the target image.
        weight: 0 for an example without usable masks (a query mask without a pixel), else 1.
        group: number of the take.
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
    """The example of one pair of images.

    An object whose target mask is unusable (damaged, or without a pixel) gets weight 0; it is not taken for absent.

    Args:
        store: gives maps and descriptors.
        take: of the pair.
        pair: the query object, both cameras and the frame.
        sampling: which candidates are drawn.
        rng: the only source of randomness.
        group: number of the take.
    """
    query_map = store.map(take, pair.query_camera, pair.frame)
    query_objects = store.objects(take, pair.query_camera, pair.frame, overlap=False)
    target = store.record(take, pair.target_camera, pair.frame)
    objects = store.objects(take, pair.target_camera, pair.frame)
    query_row = query_objects.row(pair.object)
    if query_row is None:
        query = np.zeros_like(target.map, shape=2 * len(target.map))
    else:
        query = query_objects.descriptors[query_row]
    target_row = objects.usable_row(pair.object) if pair.target_visible else None
    is_usable = query_objects.usable_row(pair.object) is not None
    is_usable = is_usable and (target_row is not None or not pair.target_visible)
    overlap = None if target_row is None else objects.overlap[target_row]
    best = None
    if target_row is not None and sampling.mining == "released" and len(target.boxes_xywh):
        # The released code ends a box at its last pixel, so that it is one pixel narrower than it should be.
        boxes = [np.maximum(b - np.array([0, 0, 1, 1]), 0) for b in (target.boxes_xywh, objects.boxes_xywh[target_row])]
        best = best_box(*boxes)
    positive = sampling.positive if sampling.positive != "both" else ("gt", "proposal")[int(rng.integers(2))]
    draw = draw_candidates(
        rng,
        neighbours=target.neighbours,
        overlap=overlap,
        representative=target.representative,
        best=best,
        count=sampling.candidates,
        mining=sampling.mining,
        positive=positive,
        overlap_threshold=sampling.overlap_threshold,
    )
    table = target.descriptors
    if target_row is not None:  # the last row is the truth
        table = np.concatenate([table, objects.descriptors[target_row : target_row + 1]])
    rows = np.where(draw.proposals == TRUTH, len(table) - 1, draw.proposals)
    candidate_overlap = np.zeros(len(rows), dtype=np.float32)
    if overlap is not None:
        candidate_overlap = np.append(overlap, np.float32(1.0))[rows].astype(np.float32)
    return Example(
        query,
        table[rows],
        query_map,
        target.map,
        candidate_overlap,
        draw.positive,
        draw.visible,
        float(is_usable),
        group,
    )


def collate(examples: Sequence[Example]) -> list[dict[str, Tensor]]:
    """Examples as batches, one for each pair of map grids, in order of first appearance.

    Args:
        examples: with maps of any grids.

    Returns:
        Mappings of ``query (B, 1, 2C)``, ``candidates (B, M, 2C)``, ``candidate_mask (B, M)`` bool,
        ``overlap (B, M)``, ``query_map (B, C, h, w)``, ``target_map (B, C, h', w')``, ``positive (B,)``,
        ``visible (B,)`` bool, ``weight (B,)`` and ``group (B,)``; M is the largest number of candidates of all.
    """
    groups: dict[Any, list[Example]] = {}
    for example in examples:
        groups.setdefault((example.query_map.shape, example.target_map.shape), []).append(example)
    count = max((len(e.candidates) for e in examples), default=0)
    return [_stack(members, count) for members in groups.values()]


def _stack(members: Sequence[Example], count: int) -> dict[str, Tensor]:
    """One batch of examples whose maps have the same grids, padded to ``count`` candidates."""
    candidates = np.zeros((len(members), count, members[0].candidates.shape[1]), dtype=np.float32)
    mask = np.zeros((len(members), count), dtype=bool)
    overlap = np.zeros((len(members), count), dtype=np.float32)
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
