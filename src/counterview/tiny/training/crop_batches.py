"""Batches of crops: their descriptors, and all pairs of views in which there is something to learn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterview.features import pooling
from counterview.features.base import FeatureMap
from counterview.features.tiny import HALF, TinyMaps, TinyNet, pool_points
from counterview.tiny.training.image_crops import BoolArray, Crop


def describe_crops(net: TinyNet, maps: TinyMaps, points: Sequence[BoolArray], context_px: int) -> Tensor:
    """``[object; context]`` of the masks of crops, as ``describe_masks`` makes them of an image.

    Args:
        net: whose normalisation is used, over all masks of all crops together.
        maps: of all crops.
        points: for each crop ``(n, S / 2, S / 2)`` masks at half its size.
        context_px: how far the context reaches.

    Returns:
        ``(crops, N, D + C)``, padded with zeros to the largest n.
    """
    objects, contexts = [], []
    for part, masks in zip(maps.each(), points, strict=True):
        size = (masks.shape[1] * HALF, masks.shape[2] * HALF)
        features = FeatureMap(part.map, size, size)
        box = pooling.describe(features, None, "box", boxes_xywh=_boxes(masks) * HALF, context_px=context_px)
        contexts.append(box[:, part.map.shape[0] :])
        objects.append(pool_points(part, masks))
    counts = [len(part) for part in objects]
    described = torch.cat([net.norm(torch.cat(objects)), torch.cat(contexts)], dim=1)
    return nn.utils.rnn.pad_sequence(list(described.split(counts)), batch_first=True)


def _boxes(points: BoolArray) -> NDArray[np.float64]:
    """Boxes ``(N, 4)`` as :func:`counterview.features.pooling.mask_boxes` has them; zeros for nothing."""
    rows: BoolArray = np.asarray(points.any(2))
    columns: BoolArray = np.asarray(points.any(1))
    y0, x0 = rows.argmax(1), columns.argmax(1)
    y1 = points.shape[1] - 1 - rows[:, ::-1].argmax(1)
    x1 = points.shape[2] - 1 - columns[:, ::-1].argmax(1)
    boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).astype(np.float64)
    there: BoolArray = np.asarray(rows.any(1))
    return boxes * there[:, None]


def collate_crops(samples: Sequence[tuple[int, list[Crop]]]) -> dict[str, Any]:
    """Crops of a batch and all ordered pairs of views of one sample in which there is something to learn.

    P pairs, Q queries and N candidates at most: ``pixels (crops, 3, S, S)`` uint8, ``points`` a list of bool
    ``(N, S / 2, S / 2)``, ``candidates (crops, N)`` bool, ``pairs (P, 2)`` numbers of query and target crop,
    ``query (P, Q)`` rows in the query crop, ``positive (P, Q)`` rows in the target crop, ``visible (P, Q)``,
    ``weight (P, Q)`` 0 for padding, ``share (P, Q)`` of the batch's mean, ``overlap (P, Q, N)`` IoU, ``group (P,)`` the
    take of a pair and ``crop_group (crops,)`` that of a crop.
    """
    crops = [crop for _, views in samples for crop in views]
    most = max(len(c.points) for c in crops)
    table: list[tuple[int, int, int, list[tuple[int, int, bool]], int]] = []
    start = 0
    for number, (group, views) in enumerate(samples):
        for a, b in permutations(range(len(views)), 2):
            items = []
            for row, name in enumerate(views[a].names):
                if name in views[b].names:
                    items.append((row, views[b].names.index(name), True))
                elif name in views[b].gone:
                    items.append((row, 0, False))
            if items:
                table.append((start + a, start + b, group, items, number))
        start += len(views)
    if not table:  # a batch of views that share nothing: one pair that weighs nothing
        table.append((0, min(1, len(crops) - 1), samples[0][0], [], 0))
    queries = max(1, max(len(t[3]) for t in table))
    shape = (len(table), queries)
    query, positive = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    visible, weight = np.zeros(shape, bool), np.zeros(shape, np.float32)
    share, overlap = np.zeros(shape, np.float32), np.zeros((*shape, most), np.float32)
    in_sample = np.zeros(len(samples))
    for _, _, _, items, number in table:
        in_sample[number] += len(items)
    ious = [_ious(c) for c in crops]
    for p, (_, target, _, items, number) in enumerate(table):
        for q, (row, right, there) in enumerate(items):
            query[p, q], positive[p, q], visible[p, q], weight[p, q] = row, right, there, 1
            share[p, q] = 1 / (in_sample[number] * len(samples))
            if there:
                overlap[p, q, : ious[target].shape[1]] = ious[target][right]
    candidates = np.zeros((len(crops), most), bool)
    for i, crop in enumerate(crops):
        candidates[i, : len(crop.points)] = True
    return {
        "pixels": torch.from_numpy(np.stack([c.pixels for c in crops])),
        "points": [torch.from_numpy(c.points) for c in crops],
        "candidates": torch.from_numpy(candidates),
        "pairs": torch.tensor([[a, b] for a, b, *_ in table]),
        "query": torch.from_numpy(query),
        "positive": torch.from_numpy(positive),
        "visible": torch.from_numpy(visible),
        "weight": torch.from_numpy(weight),
        "share": torch.from_numpy(share),
        "overlap": torch.from_numpy(overlap),
        "group": torch.tensor([t[2] for t in table]),
        "crop_group": torch.tensor([group for group, views in samples for _ in views]),
    }


def _ious(crop: Crop) -> NDArray[np.float32]:
    """IoU of a crop's objects with its candidates, ``(K, N)``."""
    flat = crop.points.reshape(len(crop.points), -1).astype(np.float32)
    area = flat.sum(1)
    common = flat[: len(crop.names)] @ flat.T
    return common / np.maximum(area[: len(crop.names), None] + area[None] - common, 1)
