"""Objectness of the nodes of merge trees: cheap features, and a small network that ranks nodes by them.

The network predicts two things. The first is a node's best IoU with any object instance, a ranking by regression as in
multiscale combinatorial grouping (Arbelaez et al. 2014) with other features. The second is how likely the node is the
best one of all for some instance: it keeps the best nodes of small instances, of which no node has a high IoU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterview.proposals.boundary import EMBEDDING, EXTENT
from counterview.proposals.merging import MergeTree
from counterview.proposals.ranking import ellipse_fill, frame_fraction
from counterview.proposals.regions import AREA, FRAME, HISTOGRAMS, LENGTH, MOMENTS, STRENGTH, STRONG, step_between

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

INNER = HISTOGRAMS.stop
"""Column of the region sums: predicted boundary probability."""
EMBEDDED = slice(INNER + 1, INNER + 1 + EMBEDDING)
"""Columns: predicted embedding."""
SQUARE = EMBEDDED.stop
"""Column: its squared length."""
EXTENTS = slice(SQUARE + 1, SQUARE + 1 + EXTENT)
"""Columns: predicted extent of the pixel's instance, its centre in pixels."""
CENTRES = EXTENTS.stop
"""Column: squared length of the predicted centre."""
EDGE, OPEN, JUMP = STRONG + 1, STRONG + 2, STRONG + 3
"""Columns of the border sums: predicted boundary probability; pixel pairs where it is low; embedding distance."""

FEATURES = (
    "ellipse fill",
    "fraction of the outline with a visible edge",
    "mean boundary probability along the outline",
    "fraction of the outline without a predicted boundary",
    "log mean gradient along the outline",
    "log squared outline length over area",
    "fraction of the outline on the image border",
    "mean boundary probability of all pixels",
    "boundary probability between its children",
    "highest boundary probability between any merged regions inside",
    "boundary probability towards its sibling",
    "log area of the parent over its own",
    "ellipse fill of the parent",
    "fraction of the trees that contain it",
    "log elongation",
    "spread of its embeddings",
    "log embedding distance along the outline",
    "log embedding distance of its children",
    "log embedding distance to its sibling",
    "spread of the parent's embeddings",
    "log predicted deviation along x over its own",
    "log predicted deviation along y over its own",
    "log predicted area over its own",
    "log predicted area of the parent over the parent's own",
    "distance to the predicted centre over the square root of its area",
    "log spread of the predicted centres over the square root of its area",
)
"""Inputs of the ranking network, in this order.

Colour, size, position and the foreground probability are left out on purpose: with them the ranking is better on
rendered images and much worse on photographs."""


def spread(sums: F64) -> F64:
    """Root mean squared distance ``(n,)`` of a region's embeddings from their mean, from region sums ``(n, d)``."""
    area = sums[:, AREA]
    mean = sums[:, EMBEDDED] / area[:, None]
    return np.asarray(np.sqrt(np.maximum(sums[:, SQUARE] / area - np.einsum("ne,ne->n", mean, mean), 0)))


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of several trees over the same leaves, each set of leaves once.

    Attributes:
        at: ``(m,)`` indices into the concatenation of all trees' nodes.
        sums: ``(m, d)`` their region sums.
        features: ``(m, 26)`` float32, see :data:`FEATURES`.
        heuristic: ``(m,)`` objectness by rule alone: a strong boundary all around, and a compact shape.
    """

    at: I64
    sums: F64
    features: F32
    heuristic: F64


def collect_nodes(trees: Sequence[MergeTree], min_area: float, max_area: float) -> Nodes:
    """All distinct nodes with an area between the limits, with their features.

    Args:
        trees: over the same leaves.
        min_area: pixels.
        max_area: pixels.
    """
    keys = np.concatenate([tree.keys() for tree in trees])
    _, first, place, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    area = np.concatenate([tree.sums[:, AREA] for tree in trees])
    own = area[first]
    fits = (own >= min_area) & (own <= max_area)
    at, often = first[fits], count[fits] / len(trees)
    sums = np.concatenate([tree.sums for tree in trees])[at]
    outlines = np.concatenate([tree.outlines for tree in trees])[at]
    links = np.concatenate([_links(tree) for tree in trees])
    # A node that several trees contain has another parent in each: the mean over them.
    linked = np.stack([np.bincount(place, column, len(first)) for column in links.T], 1) / count[:, None]
    return Nodes(at, sums, _features(sums, outlines, linked[fits], often), _heuristic(sums, outlines))


def _links(tree: MergeTree) -> F64:
    """Features ``(n + m, 9)`` of a node's relation to its children and its parent.

    Boundary probability between its children, the highest between any merged regions inside, towards its sibling; log
    growth and ellipse fill of the parent; embedding distance of its children, and to its sibling; embedding spread of
    the parent; predicted over true log area of the parent.
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


def _heuristic(sums: F64, outlines: F64) -> F64:
    """The rule of ``graph`` with predicted boundaries in place of colour edges, without contrast and area."""
    edge = outlines[:, EDGE] / np.maximum(outlines[:, LENGTH], 1)
    return (edge + 0.05) * np.minimum(ellipse_fill(sums), 1) ** 2


def _features(sums: F64, outlines: F64, links: F64, often: F64) -> F32:
    area, length = sums[:, AREA], np.maximum(outlines[:, LENGTH], 1)
    x, y, xx, yy, xy = (sums[:, MOMENTS] / area[:, None]).T
    centre_x, centre_y, wide_x, wide_y, large = (sums[:, EXTENTS] / area[:, None]).T
    scattered = np.sqrt(np.maximum(sums[:, CENTRES] / area - centre_x**2 - centre_y**2, 0))
    half, cross = (xx - x * x + yy - y * y) / 2 + 1 / 12, np.hypot((xx - x * x - yy + y * y) / 2, xy - x * y)
    columns = [
        np.minimum(ellipse_fill(sums), 1),
        outlines[:, STRONG] / length,
        outlines[:, EDGE] / length,
        outlines[:, OPEN] / length,
        np.log(outlines[:, STRENGTH] / length + 0.1),
        np.log((length + sums[:, FRAME]) ** 2 / area),
        frame_fraction(sums, outlines),
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
        np.minimum(np.hypot(centre_x - x, centre_y - y) / np.sqrt(area), 10),
        _log(np.minimum(scattered / np.sqrt(area), 10)),
    ]
    return np.stack(columns, 1).astype(np.float32)


def predict(weights: Mapping[str, F32], features: F32) -> tuple[F32, F32]:
    """Run the ranking network.

    Args:
        weights: ``mean`` and ``scale`` of the features ``(k,)``, and ``w0, b0, w1, b1, …`` of the layers.
        features: ``(m, k)``.

    Returns:
        predicted IoU ``(m,)``, the best with any instance, 0 to 1; and selection logit ``(m,)``: how likely this is the
        best node for some instance, up to a constant of the image.
    """
    x = np.clip((features - weights["mean"]) / weights["scale"], -5, 5)
    layers = sum(name.startswith("w") for name in weights)
    for layer in range(layers):
        x = x @ weights[f"w{layer}"] + weights[f"b{layer}"]
        if layer < layers - 1:
            x = np.maximum(x, 0)
    return np.asarray(1 / (1 + np.exp(-x[:, 0])), dtype=np.float32), np.asarray(x[:, 1], dtype=np.float32)
