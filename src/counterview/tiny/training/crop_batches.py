"""Batches of image crops: their descriptors, and all pairs of views that have an object to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterview.features import pooling
from counterview.features.base import FeatureMap
from counterview.features.tiny import TinyNet
from counterview.features.tiny_pooling import MASK_STRIDE, TinyMaps, pool_masks
from counterview.tiny.training.image_crops import BoolArray, Crop


def describe_crops(net: TinyNet, maps: TinyMaps, masks: Sequence[BoolArray], context_px: int) -> Tensor:
    """``[object; context]`` of the masks of crops, as ``describe_masks`` computes them for an image.

    Args:
        net: its normalisation is applied to all masks of all crops together.
        maps: of all crops.
        masks: for each crop ``(n, S / 2, S / 2)`` at half its size.
        context_px: how far the context box reaches beyond the mask's box, in pixels of the crop.

    Returns:
        ``(crops, N, D + C)``, padded with zeros to the largest n.
    """
    objects, contexts = [], []
    for crop_maps, crop_masks in zip(maps.each(), masks, strict=True):
        size = (crop_masks.shape[1] * MASK_STRIDE, crop_masks.shape[2] * MASK_STRIDE)
        features = FeatureMap(crop_maps.map, size, size)
        boxes = _boxes(crop_masks) * MASK_STRIDE
        described = pooling.describe(features, None, "box", boxes_xywh=boxes, context_px=context_px)
        contexts.append(described[:, crop_maps.map.shape[0] :])
        objects.append(pool_masks(crop_maps, crop_masks))
    counts = [len(rows) for rows in objects]
    table = torch.cat([net.norm(torch.cat(objects)), torch.cat(contexts)], dim=1)
    return nn.utils.rnn.pad_sequence(list(table.split(counts)), batch_first=True)


def _boxes(masks: BoolArray) -> NDArray[np.float64]:
    """Boxes ``(N, 4)`` as :func:`counterview.features.pooling.mask_boxes` has them; zeros for an empty mask."""
    rows: BoolArray = np.asarray(masks.any(2))
    columns: BoolArray = np.asarray(masks.any(1))
    y0, x0 = rows.argmax(1), columns.argmax(1)
    y1 = masks.shape[1] - 1 - rows[:, ::-1].argmax(1)
    x1 = masks.shape[2] - 1 - columns[:, ::-1].argmax(1)
    boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).astype(np.float64)
    has_pixels: BoolArray = np.asarray(rows.any(1))
    return boxes * has_pixels[:, None]


@dataclass(frozen=True)
class _CropPair:
    """A query and a target crop of one sample, by their numbers in the batch.

    ``queries`` holds, for each object, its row in the query crop, its row in the target crop, and whether it is visible
    there.
    """

    query: int
    target: int
    group: int
    sample: int
    queries: tuple[tuple[int, int, bool], ...]


def _crop_pairs(samples: Sequence[tuple[int, list[Crop]]]) -> list[_CropPair]:
    """All ordered pairs of views of a sample of which the target shows, or certainly does not show, a query object."""
    pairs = []
    start = 0
    for number, (group, views) in enumerate(samples):
        for a, b in permutations(range(len(views)), 2):
            queries = []
            for row, name in enumerate(views[a].names):
                if name in views[b].names:
                    queries.append((row, views[b].names.index(name), True))
                elif name in views[b].absent:
                    queries.append((row, 0, False))
            if queries:
                pairs.append(_CropPair(start + a, start + b, group, number, tuple(queries)))
        start += len(views)
    return pairs


def collate_crops(samples: Sequence[tuple[int, list[Crop]]]) -> dict[str, Any]:
    """Crops of a batch, and all ordered pairs of views of a sample that have an object to learn from.

    Args:
        samples: for each the number of its take, and its crops.

    Returns:
        With P pairs, Q queries and N candidates at most: ``pixels (crops, 3, S, S)`` uint8, ``masks`` a list of bool
        ``(n, S / 2, S / 2)``, ``candidates (crops, N)`` bool, ``pairs (P, 2)`` numbers of query and target crop,
        ``query (P, Q)`` rows in the query crop, ``positive (P, Q)`` rows in the target crop, ``visible (P, Q)`` bool,
        ``weight (P, Q)`` 0 for padding, ``mean_weight (P, Q)`` by which a mean counts each sample once,
        ``overlap (P, Q, N)`` IoU, ``group (P,)`` the take of a pair and ``crop_group (crops,)`` that of a crop.
    """
    crops = [crop for _, views in samples for crop in views]
    count = max(len(c.masks) for c in crops)
    pairs = _crop_pairs(samples)
    if not pairs:  # no two views have an object in common: one pair without queries
        pairs.append(_CropPair(0, min(1, len(crops) - 1), samples[0][0], 0, ()))
    shape = (len(pairs), max(1, max(len(pair.queries) for pair in pairs)))
    query, positive = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    visible, weight = np.zeros(shape, bool), np.zeros(shape, np.float32)
    mean_weight, overlap = np.zeros(shape, np.float32), np.zeros((*shape, count), np.float32)
    in_sample = np.zeros(len(samples))
    for pair in pairs:
        in_sample[pair.sample] += len(pair.queries)
    ious = [_ious(c) for c in crops]
    for p, pair in enumerate(pairs):
        for q, (query_row, target_row, is_visible) in enumerate(pair.queries):
            query[p, q], positive[p, q], visible[p, q], weight[p, q] = query_row, target_row, is_visible, 1
            mean_weight[p, q] = 1 / (in_sample[pair.sample] * len(samples))
            if is_visible:
                overlap[p, q, : ious[pair.target].shape[1]] = ious[pair.target][target_row]
    candidates = np.zeros((len(crops), count), bool)
    for i, crop in enumerate(crops):
        candidates[i, : len(crop.masks)] = True
    return {
        "pixels": torch.from_numpy(np.stack([c.pixels for c in crops])),
        "masks": [torch.from_numpy(c.masks) for c in crops],
        "candidates": torch.from_numpy(candidates),
        "pairs": torch.tensor([[pair.query, pair.target] for pair in pairs]),
        "query": torch.from_numpy(query),
        "positive": torch.from_numpy(positive),
        "visible": torch.from_numpy(visible),
        "weight": torch.from_numpy(weight),
        "mean_weight": torch.from_numpy(mean_weight),
        "overlap": torch.from_numpy(overlap),
        "group": torch.tensor([pair.group for pair in pairs]),
        "crop_group": torch.tensor([group for group, views in samples for _ in views]),
    }


def _ious(crop: Crop) -> NDArray[np.float32]:
    """IoU of a crop's objects with its candidates, ``(K, N)``."""
    flat = crop.masks.reshape(len(crop.masks), -1).astype(np.float32)
    area = flat.sum(1)
    intersection = flat[: len(crop.names)] @ flat.T
    return intersection / np.maximum(area[: len(crop.names), None] + area[None] - intersection, 1)
