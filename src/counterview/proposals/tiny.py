"""``tiny``: the proposals of ``graph`` with two small networks that come with the package.

One network predicts instance boundaries, embeddings and extents of every pixel
(:mod:`counterview.proposals.boundary`): the image is over-segmented and merged along these, not along colour edges
alone. The other ranks the nodes of the merge trees by features of each (:mod:`counterview.proposals.objectness`). Both
were trained on rendered rooms; the selection among the candidates is that of ``graph``.
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

from counterview.errors import ConfigError
from counterview.proposals.base import Proposals, in_image
from counterview.proposals.boundary import EMBEDDING, EXTENT
from counterview.proposals.bundled import BoundaryModel, DensePrediction, NodeRanker, load_boundary, load_ranker
from counterview.proposals.graph import (
    diverse_proposals,
    for_share,
    setting_problems,
    texture_and_shape,
    texture_and_strict_shape,
)
from counterview.proposals.merging import F64, I64, Cost, MergeTree, merge_tree, sum_by_pair
from counterview.proposals.objectness import EDGE, EMBEDDED, EXTENTS, collect_nodes
from counterview.proposals.ranking import surround_contrast
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
from counterview.types import RgbImage, as_rgb

VERSION = 3
"""Raised when the same settings and weights give other masks than before."""

F32 = NDArray[np.float32]

_SMOOTHING_PX = 0.8
_EDGE_WEIGHT = 20.0
"""Lab units a pixel of colour gradient that a certain boundary (probability 1) is worth in the over-segmentation."""
HEURISTIC_EXPONENT, IOU_EXPONENT = 0.7, 1.0
"""Exponents of the heuristic and of the predicted IoU in the weight of a candidate.

That of the selection probability is ``1 - HEURISTIC_EXPONENT``. Chosen on held-out rooms, where values up to 0.7 are
equally good, and on two photographs, where larger ones are better."""
_ALIKE, _NEAR = 6, 1.5
"""Most regions that are linked to each beside its neighbours, and the largest distance of their embeddings."""
_OPEN = 64
"""Edge values (0 to 255) below which there is no boundary."""


@dataclass(frozen=True)
class TinySettings:
    """Settings of the ``tiny`` proposer."""

    max_masks: int = field(default=200, metadata={"help": "masks kept at most"})
    working_px: int = field(
        default=500_000, metadata={"help": "pixels at which images are segmented; others are enlarged or reduced to it"}
    )
    regions: int = field(default=1000, metadata={"help": "regions of the over-segmentation"})
    candidates: int = field(default=1500, metadata={"help": "candidates from which masks are selected"})
    min_area_px: int = field(default=16, metadata={"help": "smallest mask, in pixels at working size"})
    max_area: float = field(default=0.5, metadata={"help": "largest mask, as a fraction of the image"})
    duplicate_iou: float = field(default=0.95, metadata={"help": "of masks with a higher IoU, one is kept"})

    def __post_init__(self) -> None:
        if problems := setting_problems(self, ("max_masks", "working_px", "regions", "candidates", "min_area_px")):
            raise ConfigError("invalid settings of the tiny proposer: " + "; ".join(problems))


def at_working_size(image: RgbImage, settings: TinySettings) -> RgbImage:
    """An image ``(H, W, 3)`` uint8, reduced or enlarged to about ``settings.working_px`` pixels.

    Enlarging helps with distant objects, which have few pixels.
    """
    height, width = image.shape[:2]
    scale = math.sqrt(settings.working_px / (height * width))
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size_wh == (width, height):
        return image
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size_wh, interpolation=how), dtype=np.uint8)


def oversegment_along(image: RgbImage, prediction: DensePrediction, regions: int) -> Regions:
    """Over-segment an image into at most ``regions`` regions along predicted boundaries and colour edges.

    Args:
        image: ``(h, w, 3)`` uint8, RGB, at working size.
        prediction: of the boundary network for it.
        regions: number of regions to stop at.

    Returns:
        regions whose sums ``(n, 78)`` end with the columns INNER, EMBEDDED, SQUARE, EXTENTS and CENTRES, and whose
        borders ``(e, 6)`` end with EDGE, OPEN and JUMP, see :mod:`counterview.proposals.objectness`.
    """
    lab = np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)
    gradient = gradient_strength(np.asarray(cv2.GaussianBlur(lab, (0, 0), _SMOOTHING_PX), dtype=np.float32))
    labels = basins(gradient + prediction.edge * np.float32(_EDGE_WEIGHT / 255))
    colour = pixel_sums(labels, lab)
    pairs, borders = _borders(labels, gradient, prediction)
    tree = merge_tree(colour, pairs, borders, _small_cost, stop_at=regions)
    final = tree.final_labels()
    labels, ends = final[labels], final[pairs]
    differ = ends[:, 0] != ends[:, 1]
    pairs, borders = sum_by_pair(ends[differ], borders[differ])
    flat, embedding = labels.ravel(), prediction.embedding.reshape(-1, EMBEDDING)
    square = np.einsum("pe,pe->p", embedding, embedding)
    extent = prediction.extent.reshape(-1, EXTENT)
    centre = np.einsum("pe,pe->p", extent[:, :2], extent[:, :2])
    planes = (prediction.edge.ravel() / 255.0, *embedding.T, square, *extent.T, centre)
    learned = [np.bincount(flat, plane) for plane in planes]
    sums = np.concatenate([pixel_sums(labels, lab), descriptors(labels, lab, gradient), np.stack(learned, 1)], axis=1)
    return Regions(labels, sums, pairs, borders)


def basins(strength: F32) -> I64:
    """Catchment basins of a height map: every pixel drains to the lowest of its eight neighbours.

    Neighbouring pixels without a lower neighbour make one basin. This is a watershed by rainfall; by flooding, the
    basins are nearly the same and take several times as long.

    Args:
        strength: ``(h, w)`` height of every pixel.

    Returns:
        ``(h, w)`` int64, basin of every pixel, ``0 … n-1``.
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


def _borders(labels: I64, gradient: F32, prediction: DensePrediction) -> tuple[I64, F64]:
    """Neighbouring regions ``(e, 2)`` and sums ``(e, 6)`` over the pixel pairs between them."""
    ends, values = [], []
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        one, other = labels[near], labels[far]
        differ = one != other
        ends.append(np.stack([one[differ], other[differ]], 1))
        strength = np.maximum(gradient[near][differ], gradient[far][differ])
        edge = (prediction.edge[near][differ].astype(np.float32) + prediction.edge[far][differ]) / 2
        step = prediction.embedding[near][differ] - prediction.embedding[far][differ]
        jump = np.sqrt(np.einsum("pe,pe->p", step, step))
        columns = [np.ones_like(strength), strength, strength > STRONG_GRADIENT, edge / 255, edge < _OPEN, jump]
        values.append(np.stack(columns, 1).astype(np.float64))
    return sum_by_pair(np.concatenate(ends), np.concatenate(values))


def _mean_edge(borders: F64) -> F64:
    return borders[:, EDGE] / borders[:, LENGTH]


def _small_cost(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    """For regions of a few pixels: colour and boundary together, since either alone may be wrong."""
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
    """Distance of the predicted centres, relative to the predicted size, and difference of the predicted sizes."""
    one, other = (sums[w, EXTENTS] / sums[w, AREA, None] for w in (u, v))
    side = np.exp((one[:, -1] + other[:, -1]) / 4)
    far = np.hypot(one[:, 0] - other[:, 0], one[:, 1] - other[:, 1]) / side
    return (0.1 + far + np.abs(one[:, -1] - other[:, -1]) / 2) * _smaller(sums, u, v) ** 0.2


COSTS: tuple[Cost, ...] = (_edge_and_embedding, _edge_texture_and_shape, texture_and_strict_shape, _extent)
"""Merge criteria, one tree each."""


def build_trees(regions: Regions) -> list[MergeTree]:
    """One merge tree for each of :data:`COSTS`, and one by embeddings that also merges regions that do not touch."""
    trees = [merge_tree(regions.sums, regions.pairs, regions.borders, cost, at_once=1.0) for cost in COSTS]
    return [*trees, merge_tree(regions.sums, *_with_alike(regions), _embedding, at_once=1.0)]


def _with_alike(regions: Regions) -> tuple[I64, F64]:
    """Pairs ``(e, 2)`` and borders ``(e, 6)`` of neighbours and, with zeros, of regions with similar embeddings."""
    from scipy.spatial import cKDTree  # a third of the time that importing this module would take

    mean = regions.sums[:, EMBEDDED] / regions.sums[:, [AREA]]
    number = min(_ALIKE + 1, len(mean))
    distance, other = cKDTree(mean).query(mean, number, distance_upper_bound=_NEAR)
    one = np.repeat(np.arange(len(mean)), number)
    ends = np.stack([one, np.asarray(other).ravel()], 1)[np.isfinite(np.asarray(distance)).ravel()]
    ends = ends[ends[:, 0] != ends[:, 1]].astype(np.int64)
    pairs = np.concatenate([regions.pairs, ends])
    return sum_by_pair(pairs, np.concatenate([regions.borders, np.zeros((len(ends), regions.borders.shape[1]))]))


def _candidates(regions: Regions, settings: TinySettings, ranker: NodeRanker) -> tuple[F32, F64, F32]:
    """The highest-ranked nodes of all trees.

    Returns:
        which regions make up each ``(m, n)``, 0 or 1; its weight in the selection ``(m,)``, up to 1; and its predicted
        IoU ``(m,)``.
    """
    trees, area = build_trees(regions), regions.labels.size
    nodes = collect_nodes(trees, settings.min_area_px, settings.max_area * area)
    predicted_iou, selection = ranker(nodes.features)
    # The network alone is best on rendered images and poor on photographs; the heuristic makes it more robust.
    weight = (1 - HEURISTIC_EXPONENT) * selection + HEURISTIC_EXPONENT * np.log(np.maximum(nodes.heuristic, 1e-9))
    weight += IOU_EXPONENT * np.log(predicted_iou + 0.02)
    # Contrast is the most expensive cue: it is computed only for nodes that can still become candidates.
    keep = np.argsort(-weight, kind="stable")[: 2 * settings.candidates]
    members = node_members(trees, nodes.at[keep])
    contrast = surround_contrast(members, nodes.sums[keep], regions)
    weight = weight[keep] + HEURISTIC_EXPONENT * np.log(np.maximum(contrast, 1e-9))
    best = np.argsort(-weight, kind="stable")[: settings.candidates]
    best = best[contrast[best] > 0]
    return members[best], np.exp(weight[best] - weight[best].max(initial=-np.inf)), predicted_iou[keep][best]


def node_members(trees: Sequence[MergeTree], at: I64) -> F32:
    """Which leaves make up some nodes: ``(m, n)`` float32 of 0 and 1.

    In depth-first order of a tree's leaves every node is an interval.

    Args:
        trees: over the same n leaves.
        at: ``(m,)`` indices into the concatenation of all trees' nodes.
    """
    members = np.zeros((len(at), trees[0].leaves), dtype=np.float32)
    offset = 0
    for tree in trees:
        count = len(tree.sums)
        rows = np.flatnonzero((at >= offset) & (at < offset + count))
        order, start, size = _leaf_order(tree)
        for row, node in zip(rows.tolist(), (at[rows] - offset).tolist(), strict=True):
            members[row, order[start[node] : start[node] + size[node]]] = 1
        offset += count
    return members


def _leaf_order(tree: MergeTree) -> tuple[I64, list[int], list[int]]:
    """Leaves ``(n,)`` in depth-first order, and for every node the start and the length of its interval."""
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
    """Proposals by two small networks that come with the package; on the CPU, no download.

    Args:
        settings: see :class:`TinySettings`.
        boundary: the network of boundaries; the bundled one by default.
        ranker: the network that ranks; likewise.
        runtime: what computes them.

    Raises:
        CheckpointError: a bundled file is missing or damaged.
    """

    name = "tiny"

    def __init__(
        self,
        settings: TinySettings | None = None,
        boundary: BoundaryModel | None = None,
        ranker: NodeRanker | None = None,
        runtime: str = "torch",
    ) -> None:
        self._settings = settings or TinySettings()
        self._boundary = load_boundary() if boundary is None else boundary
        self._ranker = load_ranker() if ranker is None else ranker
        self._runtime = runtime

    def settings(self) -> dict[str, Any]:
        """All settings, the version of the algorithm, and hashes of the networks."""
        weights = {"boundary": self._boundary.digest[:16], "ranker": self._ranker.digest[:16]}
        runtime = {} if self._runtime == "torch" else {"runtime": self._runtime}  # stored proposals are kept apart
        return {**dataclasses.asdict(self._settings), "version": VERSION, **weights, **runtime}

    def __call__(self, image: RgbImage, name: str | None = None) -> Proposals:
        """Propose masks, best first: the first k are the best selection of k.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            name: not used.

        Raises:
            ImageError: another shape or dtype.
        """
        image = as_rgb(image)
        settings, size_hw = self._settings, (image.shape[0], image.shape[1])
        working = at_working_size(image, settings)
        regions = oversegment_along(working, self._boundary(working), settings.regions)
        members, weight, predicted_iou = _candidates(regions, settings, self._ranker)
        if len(members) == 0:
            return Proposals.none(size_hw)
        return diverse_proposals(
            regions, members, weight, predicted_iou, settings.max_masks, settings.duplicate_iou, size_hw
        )

    def in_window(self, image: RgbImage, window_xyxy: tuple[int, int, int, int]) -> Proposals:
        """See :meth:`counterview.proposals.base.WindowProposer.in_window`; the image is ``(H, W, 3)`` uint8."""
        image = as_rgb(image)
        x0, y0, x1, y1 = window_xyxy
        part, settings = np.ascontiguousarray(image[y0:y1, x0:x1]), self._settings
        share = part.size / image.size
        scaled = for_share(dataclasses.replace(settings, working_px=math.ceil(settings.working_px * share)), share)
        proposals = TinyProposer(scaled, self._boundary, self._ranker, self._runtime)(part)
        return in_image(proposals, x0, y0, (image.shape[0], image.shape[1]))
