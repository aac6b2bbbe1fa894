"""How object-like a node of a merging tree is: cheap features of it, and a small network that was fitted to overlap.

The network predicts the best IoU of a node with any body of a rendered image, as a ranking by learned regression in
multiscale combinatorial grouping (Arbelaez et al. 2014) with other features, and how likely the node is the best there
is for some body, so that of small bodies, of which no node is good, the best ones are tried as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterview.proposals.boundary import EMBEDDING, EXTENT
from counterview.proposals.merging import MergeTree
from counterview.proposals.ranking import ellipse_fill, rim_share
from counterview.proposals.regions import AREA, FRAME, HISTOGRAMS, LENGTH, MOMENTS, STRENGTH, STRONG, step_between

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

INNER = HISTOGRAMS.stop
"""Column of the region sums: learned probability of boundary."""
EMBEDDED = slice(INNER + 1, INNER + 1 + EMBEDDING)
"""Columns: the learned embedding."""
SQUARE = EMBEDDED.stop
"""Column: its squared length."""
EXTENTS = slice(SQUARE + 1, SQUARE + 1 + EXTENT)
"""Columns: the learned extent, its middle in pixels."""
MIDDLES = EXTENTS.stop
"""Column: squared length of its middle."""
EDGE, OPEN, JUMP = STRONG + 1, STRONG + 2, STRONG + 3
"""Columns of the border sums: learned probability of boundary; pixel pairs where it is low; distance of embeddings."""

FEATURES = (
    "ellipse fill",
    "outline along which the image changes",
    "mean learned boundary along the outline",
    "share of the outline without learned boundary",
    "log mean gradient along the outline",
    "log outline squared over area",
    "share of the outline on the image's rim",
    "mean learned boundary of all pixels",
    "learned boundary between its two parts",
    "the most that was joined across anywhere within",
    "learned boundary to what it is joined with",
    "log area of the join over its own",
    "ellipse fill of the join",
    "share of the trees that have it",
    "log elongation",
    "spread of its embeddings",
    "log distance of the embeddings along the outline",
    "log distance of the mean embeddings of its two parts",
    "log distance of its mean embedding from that of what it is joined with",
    "spread of the embeddings of the join",
    "log learned deviation along x over its own",
    "log learned deviation along y over its own",
    "log learned area over its own",
    "learned area of the join over its own area, as a logarithm",
    "distance of the learned middle, by the root of its area",
    "log spread of the learned middles, by the root of its area",
)
"""What the network sees of a node, in this order. Neither colour nor size, place or the learned probability of thing is
among it: with them the ranking of rendered images is better and that of photographs much worse."""


def spread(sums: F64) -> F64:
    """Root mean squared distance of a region's embeddings from their mean, ``(n, d)`` to ``(n,)``."""
    area = sums[:, AREA]
    mean = sums[:, EMBEDDED] / area[:, None]
    return np.asarray(np.sqrt(np.maximum(sums[:, SQUARE] / area - np.einsum("ne,ne->n", mean, mean), 0)))


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of several trees over the same leaves, each set of leaves once.

    Attributes:
        at: ``(m,)`` places in the concatenation of all trees' nodes.
        sums: ``(m, d)`` their region sums.
        features: ``(m, len(FEATURES))`` float32.
        rule: ``(m,)`` how object-like they are without any fitting: outline seen, and compact.
    """

    at: I64
    sums: F64
    features: F32
    rule: F64


def gather(trees: Sequence[MergeTree], min_area: float, max_area: float) -> Nodes:
    """All different nodes with an area in pixels between the limits, with their features."""
    keys = np.concatenate([tree.keys() for tree in trees])
    _, first, place, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    area = np.concatenate([tree.sums[:, AREA] for tree in trees])
    own = area[first]
    fits = (own >= min_area) & (own <= max_area)
    at, often = first[fits], count[fits] / len(trees)
    sums = np.concatenate([tree.sums for tree in trees])[at]
    outlines = np.concatenate([tree.outlines for tree in trees])[at]
    links = np.concatenate([_links(tree) for tree in trees])
    # A node that several trees have is joined with something else in each: the mean of them.
    linked = np.stack([np.bincount(place, column, len(first)) for column in links.T], 1) / count[:, None]
    return Nodes(at, sums, _features(sums, outlines, linked[fits], often), _rule(sums, outlines))


def _links(tree: MergeTree) -> F64:
    """What is known of a node by the joins that made it and that it went into, ``(n + m, 9)``.

    Boundary within its last join, the most within any, boundary to its sibling, log growth and fill of the join,
    distance of its parts, distance from its sibling, spread of the join, and how the join's learned area compares with
    its own.
    """
    a, b = tree.children.T
    new = np.arange(tree.leaves, len(tree.sums))
    between = (tree.outlines[a] + tree.outlines[b] - tree.outlines[new]) / 2
    birth = np.zeros(len(tree.sums))
    birth[new] = between[:, EDGE] / np.maximum(between[:, LENGTH], 1)
    most = birth.tolist()
    for row, (x, y) in enumerate(tree.children.tolist(), start=tree.leaves):
        most[row] = max(most[row], most[x], most[y])
    parents = tree.parents()
    top = parents < 0
    parents = np.where(top, np.arange(len(parents)), parents)
    swallowed = np.where(top, 1.0, birth[parents])
    growth = np.log(tree.sums[parents, AREA] / tree.sums[:, AREA])
    fill = np.minimum(ellipse_fill(tree.sums), 1)
    parts = np.zeros(len(tree.sums))
    parts[new] = step_between(tree.sums, EMBEDDED, a, b)
    sibling = np.where(top, 10.0, parts[parents])
    wide = spread(tree.sums)
    area = tree.sums[:, AREA]
    larger = tree.sums[:, EXTENTS.stop - 1] / area - np.log(area)
    columns = [birth, np.array(most), swallowed, growth, fill[parents], _log(parts), _log(sibling), wide[parents]]
    return np.stack([*columns, larger[parents]], 1)


def _log(distance: F64) -> F64:
    return np.asarray(np.log(distance + 0.05))


def _rule(sums: F64, outlines: F64) -> F64:
    """That of ``graph`` with learned boundaries in the place of colour edges, but for contrast and for area."""
    edge = outlines[:, EDGE] / np.maximum(outlines[:, LENGTH], 1)
    return (edge + 0.05) * np.minimum(ellipse_fill(sums), 1) ** 2


def _features(sums: F64, outlines: F64, links: F64, often: F64) -> F32:
    area, length = sums[:, AREA], np.maximum(outlines[:, LENGTH], 1)
    x, y, xx, yy, xy = (sums[:, MOMENTS] / area[:, None]).T
    middle_x, middle_y, wide_x, wide_y, large = (sums[:, EXTENTS] / area[:, None]).T
    scattered = np.sqrt(np.maximum(sums[:, MIDDLES] / area - middle_x**2 - middle_y**2, 0))
    half, cross = (xx - x * x + yy - y * y) / 2 + 1 / 12, np.hypot((xx - x * x - yy + y * y) / 2, xy - x * y)
    columns = [
        np.minimum(ellipse_fill(sums), 1),
        outlines[:, STRONG] / length,
        outlines[:, EDGE] / length,
        outlines[:, OPEN] / length,
        np.log(outlines[:, STRENGTH] / length + 0.1),
        np.log((length + sums[:, FRAME]) ** 2 / area),
        rim_share(sums, outlines),
        sums[:, INNER] / area,
        links[:, 0],
        links[:, 1],
        links[:, 2],
        links[:, 3],
        links[:, 4],
        often,
        np.log((half + cross) / np.maximum(half - cross, 1 / 12)),
        spread(sums),
        _log(outlines[:, JUMP] / length),
        links[:, 5],
        links[:, 6],
        links[:, 7],
        wide_x - np.log(xx - x * x + 1 / 12) / 2,
        wide_y - np.log(yy - y * y + 1 / 12) / 2,
        large - np.log(area),
        links[:, 8],
        np.minimum(np.hypot(middle_x - x, middle_y - y) / np.sqrt(area), 10),
        _log(np.minimum(scattered / np.sqrt(area), 10)),
    ]
    return np.stack(columns, 1).astype(np.float32)


def predict(weights: Mapping[str, F32], features: F32) -> tuple[F32, F32]:
    """What the network says of nodes.

    Args:
        weights: ``mean`` and ``scale`` of the features ``(k,)``, and ``w0, b0, w1, b1, …`` of the layers.
        features: ``(m, k)``.

    Returns:
        quality ``(m,)``, the predicted best IoU with any object, 0 to 1; promise ``(m,)``, the logarithm, up to a
        summand that is the image's, of how likely this is the best node for some object.
    """
    x = np.clip((features - weights["mean"]) / weights["scale"], -5, 5)
    layers = sum(name.startswith("w") for name in weights)
    for layer in range(layers):
        x = x @ weights[f"w{layer}"] + weights[f"b{layer}"]
        if layer < layers - 1:
            x = np.maximum(x, 0)
    return np.asarray(1 / (1 + np.exp(-x[:, 0])), dtype=np.float32), np.asarray(x[:, 1], dtype=np.float32)
