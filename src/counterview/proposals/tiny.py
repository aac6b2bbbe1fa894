"""``tiny``: the proposals of ``graph`` with two small networks that ship with the package.

One network sees the image and says where bodies end, which pixels belong together and how large their body is
(:mod:`counterview.proposals.boundary`): small regions are cut and merged by that, not along edges of colour alone. The
other sees what is known of a node of the merging trees and says how well it covers some object
(:mod:`counterview.proposals.objectness`): that ranks the candidates. Both were fitted to rendered rooms; the choice
among the candidates is that of ``graph``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from counterview.errors import ConfigError
from counterview.proposals import ranking
from counterview.proposals.base import Proposals
from counterview.proposals.boundary import EMBEDDING, EXTENT
from counterview.proposals.graph import (
    setting_problems,
    texture_and_shape,
    texture_and_strict_shape,
    varied_proposals,
)
from counterview.proposals.merging import F64, I64, Cost, MergeTree, merge_tree, sum_by_pair
from counterview.proposals.objectness import EDGE, EMBEDDED, EXTENTS, gather
from counterview.proposals.regions import (
    AREA,
    LAB,
    LENGTH,
    STRONG_GRADIENT,
    Regions,
    descriptors,
    gradient_strength,
    pixel_sums,
    step_between,
)
from counterview.proposals.shipped import Ranker, Seen, load_boundary, load_ranker
from counterview.types import RgbImage, as_rgb

VERSION = 3
"""Raised when the same settings and weights give other masks than before."""

F32 = NDArray[np.float32]

_SMOOTHING_PX = 0.8
_EDGE_WEIGHT = 20.0
"""Lab units a pixel of colour edge that a certain boundary is worth where regions are cut."""
RULE_SHARE, QUALITY_SHARE = 0.7, 1.0
"""Exponents of the rule and of the learned quality in what counts in the choice; the learned promise has what the rule
leaves. Chosen on rooms kept aside, where shares of the rule up to 0.7 are equally good, and on two photographs, where
more of it is better."""
_ALIKE, _NEAR = 6, 1.5
"""How many regions are joined to each beyond its neighbours, at most, and how far their embeddings may be apart."""
_OPEN = 64
"""Boundaries below this (of 255) count as none."""


@dataclass(frozen=True)
class TinySettings:
    """Settings of the ``tiny`` proposer."""

    max_masks: int = field(default=200, metadata={"help": "masks kept at most"})
    working_px: int = field(
        default=500_000, metadata={"help": "pixels of the image that is cut up: others are enlarged or reduced to it"}
    )
    regions: int = field(default=1000, metadata={"help": "small regions that the image is cut into"})
    candidates: int = field(default=1500, metadata={"help": "candidates among which the choice is made"})
    min_area_px: int = field(default=16, metadata={"help": "smallest mask, in pixels at working size"})
    max_area: float = field(default=0.5, metadata={"help": "largest mask, as a share of the image"})
    duplicate_iou: float = field(default=0.95, metadata={"help": "masks that overlap more are kept once"})

    def __post_init__(self) -> None:
        if problems := setting_problems(self, ("max_masks", "working_px", "regions", "candidates", "min_area_px")):
            raise ConfigError("the settings of the tiny proposer do not hold: " + "; ".join(problems))


def at_working_size(image: RgbImage, settings: TinySettings) -> RgbImage:
    """The image, reduced or enlarged until it has as many pixels as the settings say.

    A far object is a few pixels of a small image; what ends where is decided better with more of them.
    """
    height, width = image.shape[:2]
    scale = math.sqrt(settings.working_px / (height * width))
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size_wh == (width, height):
        return image
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size_wh, interpolation=how), dtype=np.uint8)


def cut_along(image: RgbImage, seen: Seen, regions: int) -> Regions:
    """Cut an image into at most ``regions`` regions along learned boundaries and edges of colour.

    Args:
        image: ``(h, w, 3)`` uint8, RGB, at working size.
        seen: what the boundary network says of it.
        regions: number of regions to stop at.

    Returns:
        regions whose sums end with the columns INNER, EMBEDDED, SQUARE, EXTENTS and MIDDLES, and whose borders
        end with EDGE, OPEN and JUMP, see :mod:`counterview.proposals.objectness`.
    """
    lab = np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)
    gradient = gradient_strength(np.asarray(cv2.GaussianBlur(lab, (0, 0), _SMOOTHING_PX), dtype=np.float32))
    labels = basins(gradient + seen.edge * np.float32(_EDGE_WEIGHT / 255))
    colour = pixel_sums(labels, lab)
    pairs, borders = _borders(labels, gradient, seen)
    tree = merge_tree(colour, pairs, borders, _small_cost, stop_at=regions)
    final = tree.final_labels()
    labels, ends = final[labels], final[pairs]
    differ = ends[:, 0] != ends[:, 1]
    pairs, borders = sum_by_pair(ends[differ], borders[differ])
    flat, embedding = labels.ravel(), seen.embedding.reshape(-1, EMBEDDING)
    square = np.einsum("pe,pe->p", embedding, embedding)
    extent = seen.extent.reshape(-1, EXTENT)
    middle = np.einsum("pe,pe->p", extent[:, :2], extent[:, :2])
    planes = (seen.edge.ravel() / 255.0, *embedding.T, square, *extent.T, middle)
    learned = [np.bincount(flat, plane) for plane in planes]
    sums = np.concatenate([pixel_sums(labels, lab), descriptors(labels, lab, gradient), np.stack(learned, 1)], axis=1)
    return Regions(labels, sums, pairs, borders)


def basins(strength: F32) -> I64:
    """Basins of a height map: every pixel flows to the lowest of its eight neighbours, ``(h, w)`` to labels.

    Neighbouring pixels that have no lower neighbour make one basin. (Rain falling on the map; flooding it gives
    nearly the same basins in several times the time.)
    """
    height, width = strength.shape
    low = strength <= cv2.erode(strength, np.ones((3, 3), np.uint8))
    _, roots = cv2.connectedComponents(low.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    padded = np.pad(strength, 1, constant_values=np.inf)
    lowest = np.full((height, width), np.inf, np.float32)
    step = np.zeros((height, width), np.int32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if dy or dx:
                value = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
                better = value < lowest
                np.copyto(lowest, value, where=better)
                np.copyto(step, dy * width + dx, where=better)
    step[low] = 0
    to = np.arange(height * width, dtype=np.int32) + step.ravel()
    while True:
        further = to[to]
        if np.array_equal(further, to):
            return roots.ravel()[to].reshape(height, width).astype(np.int64) - 1
        to = further


def _borders(labels: I64, gradient: F32, seen: Seen) -> tuple[I64, F64]:
    """Neighbouring regions, and the sums over the pixel pairs between them, learned columns too."""
    ends, values = [], []
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        one, other = labels[near], labels[far]
        differ = one != other
        ends.append(np.stack([one[differ], other[differ]], 1))
        strength = np.maximum(gradient[near][differ], gradient[far][differ])
        edge = (seen.edge[near][differ].astype(np.float32) + seen.edge[far][differ]) / 2
        step = seen.embedding[near][differ] - seen.embedding[far][differ]
        jump = np.sqrt(np.einsum("pe,pe->p", step, step))
        columns = [np.ones_like(strength), strength, strength > STRONG_GRADIENT, edge / 255, edge < _OPEN, jump]
        values.append(np.stack(columns, 1).astype(np.float64))
    return sum_by_pair(np.concatenate(ends), np.concatenate(values))


def _mean_edge(borders: F64) -> F64:
    return borders[:, EDGE] / borders[:, LENGTH]


def _small_cost(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    """For the first joins, when regions are a few pixels: colour and boundary, each of which may be wrong alone."""
    return np.sqrt(_smaller(sums, u, v)) * (1 + step_between(sums, LAB, u, v)) * (0.1 + _mean_edge(borders))


def _smaller(sums: F64, u: I64, v: I64) -> F64:
    return np.minimum(sums[u, AREA], sums[v, AREA])


def _edge_texture_and_shape(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    return texture_and_shape(sums, u, v, borders) * (0.02 + _mean_edge(borders))


def _edge_and_embedding(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    return (_mean_edge(borders) + 0.02) * _embedding(sums, u, v, borders)


def _embedding(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    return (0.1 + step_between(sums, EMBEDDED, u, v)) * _smaller(sums, u, v) ** 0.2


def _extent(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    """How far apart the middles are that the two believe in, by the size they believe in, and how the sizes differ."""
    one, other = (sums[w, EXTENTS] / sums[w, AREA, None] for w in (u, v))
    side = np.exp((one[:, -1] + other[:, -1]) / 4)
    far = np.hypot(one[:, 0] - other[:, 0], one[:, 1] - other[:, 1]) / side
    return (0.1 + far + np.abs(one[:, -1] - other[:, -1]) / 2) * _smaller(sums, u, v) ** 0.2


COSTS: tuple[Cost, ...] = (_edge_and_embedding, _edge_texture_and_shape, texture_and_strict_shape, _extent)
"""What it costs to join two regions, one tree each."""


def grow(regions: Regions) -> list[MergeTree]:
    """One merging tree for each of :data:`COSTS`, and one of embeddings that also joins what does not touch."""
    trees = [merge_tree(regions.sums, regions.pairs, regions.borders, cost, at_once=1.0) for cost in COSTS]
    return [*trees, merge_tree(regions.sums, *_with_alike(regions), _embedding, at_once=1.0)]


def _with_alike(regions: Regions) -> tuple[I64, F64]:
    """Neighbours, and for each region those few others whose embeddings are most like its own, with borders of 0."""
    mean = regions.sums[:, EMBEDDED] / regions.sums[:, [AREA]]
    number = min(_ALIKE + 1, len(mean))
    distance, other = cKDTree(mean).query(mean, number, distance_upper_bound=_NEAR)
    one = np.repeat(np.arange(len(mean)), number)
    ends = np.stack([one, np.asarray(other).ravel()], 1)[np.isfinite(np.asarray(distance)).ravel()]
    ends = ends[ends[:, 0] != ends[:, 1]].astype(np.int64)
    pairs = np.concatenate([regions.pairs, ends])
    return sum_by_pair(pairs, np.concatenate([regions.borders, np.zeros((len(ends), regions.borders.shape[1]))]))


def _candidates(regions: Regions, settings: TinySettings, ranker: Ranker) -> tuple[F32, F64, F32]:
    """The most promising nodes.

    Returns:
        which regions make up each ``(m, n)``, 0 or 1; how much it counts in the choice ``(m,)``, up to 1; and its
        quality ``(m,)``.
    """
    trees, area = grow(regions), regions.labels.size
    nodes = gather(trees, settings.min_area_px, settings.max_area * area)
    quality, promise = ranker(nodes.features)
    # The learned part alone is best on rendered images and poor on photographs; the rule keeps it on the ground.
    weight = (1 - RULE_SHARE) * promise + RULE_SHARE * np.log(np.maximum(nodes.rule, 1e-9))
    weight += QUALITY_SHARE * np.log(quality + 0.02)
    # Contrast costs most, so it is found only for those that may still be chosen.
    keep = np.argsort(-weight, kind="stable")[: 2 * settings.candidates]
    members = members_at(trees, nodes.at[keep])
    contrast = ranking.surround_contrast(members, nodes.sums[keep], regions)
    weight = weight[keep] + RULE_SHARE * np.log(np.maximum(contrast, 1e-9))
    best = np.argsort(-weight, kind="stable")[: settings.candidates]
    best = best[contrast[best] > 0]
    return members[best], np.exp(weight[best] - weight[best].max(initial=-np.inf)), quality[keep][best]


def members_at(trees: Sequence[MergeTree], at: I64) -> F32:
    """Which leaves make up nodes given by their places in all trees' concatenation: ``(m, n)`` of 0 and 1.

    The leaves of a tree are put in the order in which a walk meets them, where every node is an interval.
    """
    members = np.zeros((len(at), trees[0].leaves), dtype=np.float32)
    offset = 0
    for tree in trees:
        count = len(tree.sums)
        rows = np.flatnonzero((at >= offset) & (at < offset + count))
        order, start, size = _walk(tree)
        for row, node in zip(rows.tolist(), (at[rows] - offset).tolist(), strict=True):
            members[row, order[start[node] : start[node] + size[node]]] = 1
        offset += count
    return members


def _walk(tree: MergeTree) -> tuple[I64, list[int], list[int]]:
    """Leaves in walking order, and for every node where in it its own begin and how many they are."""
    children, leaves = tree.children.tolist(), tree.leaves
    size = [1] * leaves
    for a, b in children:
        size.append(size[a] + size[b])
    start, free = [0] * len(size), 0
    roots = np.flatnonzero(tree.parents() < 0).tolist()
    for root in roots:
        start[root] = free
        free += size[root]
    for row in range(len(children) - 1, -1, -1):
        a, b = children[row]
        start[a] = start[leaves + row]
        start[b] = start[a] + size[a]
    order = np.empty(leaves, dtype=np.int64)
    order[np.array(start[:leaves], dtype=np.int64)] = np.arange(leaves)
    return order, start, size


class TinyProposer:
    """Proposals by two small networks that come with the package; runs on the processor, no download.

    Args:
        settings: see :class:`TinySettings`.

    Raises:
        CheckpointError: a shipped file is missing or damaged.
    """

    name = "tiny"

    def __init__(self, settings: TinySettings | None = None) -> None:
        self._settings = settings or TinySettings()
        self._boundary = load_boundary()
        self._ranker = load_ranker()

    def settings(self) -> dict[str, Any]:
        """All settings, the version of the algorithm, and what tells these networks from others."""
        weights = {"boundary": self._boundary.digest[:16], "ranker": self._ranker.digest[:16]}
        return {**dataclasses.asdict(self._settings), "version": VERSION, **weights}

    def __call__(self, image: RgbImage, name: str | None = None) -> Proposals:
        """Propose masks, best first: the first k are the k that stand best for everything found.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            name: not used.

        Raises:
            ImageError: another shape or dtype.
        """
        as_rgb(image)
        settings, size_hw = self._settings, (image.shape[0], image.shape[1])
        working = at_working_size(image, settings)
        regions = cut_along(working, self._boundary(working), settings.regions)
        members, weight, quality = _candidates(regions, settings, self._ranker)
        if len(members) == 0:
            return Proposals.none(size_hw)
        return varied_proposals(regions, members, weight, quality, settings.max_masks, settings.duplicate_iou, size_hw)
