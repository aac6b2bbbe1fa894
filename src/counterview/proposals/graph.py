"""``graph``: proposals without weights, by hierarchical region merging.

The image is over-segmented, neighbouring regions are merged into trees by several criteria (colour, texture, contact,
compactness), and every node of every tree is a candidate, as in selective search (Uijlings et al. 2013) and multiscale
combinatorial grouping (Arbelaez et al. 2014). All trees have the same leaves, so that candidates of different trees are
compared exactly and without another pass over the pixels. Candidates are ranked by their contrast to the surroundings,
the fraction of their outline with a visible edge and their compactness; a diverse subset of them is selected.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.errors import ConfigError, shown
from counterview.proposals.base import Proposals, in_image, mask_from_crop
from counterview.proposals.merging import F64, I64, Cost, merge_tree
from counterview.proposals.ranking import (
    closedness,
    ellipse_fill,
    pairwise_iou,
    select_diverse,
    surround_contrast,
)
from counterview.proposals.regions import AREA, HISTOGRAMS, LENGTH, Regions, oversegment, ward_cost
from counterview.proposals.scaling import mask_from_window
from counterview.types import ObjectMask, RgbImage, as_rgb

if TYPE_CHECKING:
    from counterview.proposals.tiny import TinySettings

VERSION = 2
"""Raised when the same settings give other masks than before. Part of the settings, so that caches miss."""

SHARPNESS = 3
"""Exponent of the weights: how much more object-like candidates count in the selection."""


LIMITS = {
    "max_masks": 100_000,
    "working_side_px": 8192,
    "working_px": 36_000_000,
    "regions": 20_000,
    "candidates": 50_000,
    "min_area_px": 2**31,
}
"""Largest values of settings, which may come from a model's folder; memory grows with regions times candidates."""


def setting_problems(settings: object, counts: Sequence[str]) -> list[str]:
    """Problems of a proposer's settings: ``counts`` within :data:`LIMITS`, the two fractions above 0 and at most 1."""
    values = {name: getattr(settings, name) for name in (*counts, "max_area", "duplicate_iou")}
    problems = [
        f"{name} must be at least 1 and at most {LIMITS[name]}, not {shown(values[name])}"
        for name in counts
        if not 1 <= values[name] <= LIMITS[name]
    ]
    for name in ("max_area", "duplicate_iou"):
        if not 0 < values[name] <= 1:
            problems.append(f"{name} must be above 0 and at most 1, not {values[name]}")
    return problems


@dataclass(frozen=True)
class GraphSettings:
    """Settings of the ``graph`` proposer."""

    max_masks: int = field(default=300, metadata={"help": "masks kept at most"})
    working_side_px: int = field(
        default=832, metadata={"help": "longer side at which images are segmented; larger ones are reduced"}
    )
    regions: int = field(default=1500, metadata={"help": "regions of the over-segmentation"})
    candidates: int = field(default=2000, metadata={"help": "candidates from which masks are selected"})
    min_area_px: int = field(default=20, metadata={"help": "smallest mask, in pixels at working size"})
    max_area: float = field(default=0.5, metadata={"help": "largest mask, as a fraction of the image"})
    duplicate_iou: float = field(default=0.9, metadata={"help": "of masks with a higher IoU, one is kept"})

    def __post_init__(self) -> None:
        problems = setting_problems(self, ("max_masks", "working_side_px", "regions", "candidates", "min_area_px"))
        if problems:
            raise ConfigError("invalid settings of the graph proposer: " + "; ".join(problems))


class GraphProposer:
    """Proposals by hierarchical region merging; no weights.

    Args:
        settings: see :class:`GraphSettings`.
    """

    name = "graph"

    def __init__(self, settings: GraphSettings | None = None) -> None:
        self._settings = settings or GraphSettings()

    def settings(self) -> dict[str, Any]:
        """All settings, and the version of the algorithm."""
        return {**dataclasses.asdict(self._settings), "version": VERSION}

    def __call__(self, image: RgbImage, name: str | None = None) -> Proposals:
        """Propose masks, best first: the first k are the best selection of k.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            name: not used.

        Raises:
            ImageError: another shape or dtype.
        """
        image = as_rgb(image)
        settings = self._settings
        size_hw = (image.shape[0], image.shape[1])
        regions = oversegment(at_working_size(image, settings.working_side_px), settings.regions)
        members, weight = _candidates(regions, settings)
        if len(members) == 0:
            return Proposals.none(size_hw)
        return diverse_proposals(regions, members, weight, weight, settings.max_masks, settings.duplicate_iou, size_hw)

    def in_window(self, image: RgbImage, window_xyxy: tuple[int, int, int, int]) -> Proposals:
        """See :meth:`counterview.proposals.base.WindowProposer.in_window`; the image is ``(H, W, 3)`` uint8."""
        image = as_rgb(image)
        x0, y0, x1, y1 = window_xyxy
        part, settings = np.ascontiguousarray(image[y0:y1, x0:x1]), self._settings
        scale = min(1.0, settings.working_side_px / max(image.shape[:2]))
        side_px = math.ceil(max(part.shape[:2]) * scale)
        scaled = for_share(dataclasses.replace(settings, working_side_px=side_px), part.size / image.size)
        return in_image(GraphProposer(scaled)(part), x0, y0, (image.shape[0], image.shape[1]))


S = TypeVar("S", GraphSettings, "TinySettings")


def for_share(settings: S, share: float) -> S:
    """The settings for a part of an image: masks of the same sizes, as many for its area.

    Args:
        settings: for the whole image.
        share: area of the part as a fraction of the image.
    """
    return dataclasses.replace(
        settings,
        max_masks=math.ceil(settings.max_masks * share),
        regions=math.ceil(settings.regions * share),
        candidates=math.ceil(settings.candidates * share),
        max_area=min(1.0, settings.max_area / share),
    )


def diverse_proposals(
    regions: Regions,
    members: NDArray[np.float32],
    weight: F64,
    score: NDArray[np.floating],
    max_masks: int,
    duplicate_iou: float,
    size_hw: tuple[int, int],
) -> Proposals:
    """Select a diverse subset of candidates and bring it to the image's size.

    Args:
        regions: n regions of the image at working size.
        members: ``(m, n)`` which regions make up each candidate, 0 or 1.
        weight: ``(m,)`` how much each should be covered, see :func:`~counterview.proposals.ranking.select_diverse`.
        score: ``(m,)`` score of each as a proposal.
        max_masks: masks to select at most.
        duplicate_iou: of masks with a higher IoU, one is kept.
        size_hw: of the image.
    """
    iou = pairwise_iou(members, regions.sums[:, AREA])
    selected = select_diverse(iou, weight, max_masks, duplicate_iou)
    boxes = region_boxes(regions.labels)
    masks, scores = [], []
    for index in selected:
        mask = mask_at(members[index] > 0, regions.labels, boxes, size_hw)
        if not mask.is_empty:
            masks.append(mask)
            scores.append(score[index])
    return Proposals(size_hw, tuple(masks), np.array(scores, dtype=np.float32))


def at_working_size(image: RgbImage, side_px: int) -> RgbImage:
    """An image ``(H, W, 3)`` uint8, reduced to a longer side of ``side_px`` if it is larger."""
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    if scale >= 1:
        return image
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _histogram_distance(sums: F64, u: I64, v: I64) -> F64:
    """One minus the histogram intersection ``(e,)`` of two regions, averaged over L, a, b and gradient strength."""
    a = sums[u, HISTOGRAMS] / sums[u, AREA, None]
    b = sums[v, HISTOGRAMS] / sums[v, AREA, None]
    return 1 - np.minimum(a, b).sum(1) / 4


def _smaller(sums: F64, u: I64, v: I64) -> F64:
    return np.minimum(sums[u, AREA], sums[v, AREA])


def _union_fill(sums: F64, u: I64, v: I64) -> F64:
    return np.minimum(ellipse_fill(sums[u] + sums[v]), 1)


def _contact(u: I64, v: I64, borders: F64) -> F64:
    """Fraction ``(e,)`` of the outline of one of two regions, whichever is larger, that borders on the other."""
    length = borders[:, LENGTH]
    around = np.bincount(np.concatenate([u, v]), np.concatenate([length, length]))
    return length / np.minimum(around[u], around[v])


def _texture(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    return _histogram_distance(sums, u, v) * np.sqrt(_smaller(sums, u, v))


def texture_and_shape(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    """Merge cost ``(e,)`` by texture and compactness, a :data:`~counterview.proposals.merging.Cost`."""
    return _texture(sums, u, v, borders) / _union_fill(sums, u, v) ** 2


def texture_and_strict_shape(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    """Merge cost ``(e,)`` that insists more on compactness, a :data:`~counterview.proposals.merging.Cost`."""
    return _texture(sums, u, v, borders) / _union_fill(sums, u, v) ** 4


def _texture_contact_and_shape(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    return texture_and_shape(sums, u, v, borders) / np.sqrt(_contact(u, v, borders))


def _contact_and_shape(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    size = (sums[u, AREA] + sums[v, AREA]) ** 0.25
    return size / _contact(u, v, borders) / _union_fill(sums, u, v) ** 2


def _contact_and_strict_shape(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    return _contact_and_shape(sums, u, v, borders) / _union_fill(sums, u, v) ** 2


def _colour_and_shape(sums: F64, u: I64, v: I64, borders: F64) -> F64:
    balance = sums[u, AREA] * sums[v, AREA] / (sums[u, AREA] + sums[v, AREA])
    difference = ward_cost(sums, u, v, borders) / balance
    return np.sqrt(balance) * (1 + difference) / _union_fill(sums, u, v) ** 2


COSTS: tuple[Cost, ...] = (
    _texture,
    texture_and_shape,
    texture_and_strict_shape,
    _texture_contact_and_shape,
    _contact_and_shape,
    _contact_and_strict_shape,
    _colour_and_shape,
)
"""Merge criteria, one tree each. Those by contact merge parts of different appearance, such as a bottle and its label.

Selected greedily out of twenty for what each added to the best IoU among all nodes, on rendered tables and on two
photographs, which are therefore not held out."""


def _candidates(regions: Regions, settings: GraphSettings) -> tuple[NDArray[np.float32], F64]:
    """The most object-like nodes of all trees, each set of regions once.

    Returns:
        which regions make up each ``(m, n)``, 0 or 1, and its weight ``(m,)``, highest first.
    """
    area_px = float(regions.labels.size)
    trees = [merge_tree(regions.sums, regions.pairs, regions.borders, cost) for cost in COSTS]
    first = np.unique(np.concatenate([tree.keys() for tree in trees]), return_index=True)[1]
    sums = np.concatenate([tree.sums for tree in trees])[first]
    outlines = np.concatenate([tree.outlines for tree in trees])[first]
    fits = (sums[:, AREA] >= settings.min_area_px) & (sums[:, AREA] <= settings.max_area * area_px)
    shape = np.minimum(ellipse_fill(sums), 1)
    objectness = fits * closedness(sums, outlines) * shape**2
    # There are far more small regions than small objects: without the area they fill every place.
    size = sums[:, AREA] ** 0.1
    weight = objectness * size
    # Contrast is the most expensive cue: it is computed only for nodes that can still become candidates.
    keep = np.argsort(-weight, kind="stable")[: 2 * settings.candidates]
    keep = keep[weight[keep] > 0]
    members = np.concatenate([tree.members() for tree in trees])[first[keep]].astype(np.float32)
    weight = (weight[keep] * surround_contrast(members, sums[keep], regions)) ** SHARPNESS
    best = np.argsort(-weight, kind="stable")[: settings.candidates]
    best = best[weight[best] > 0]
    return members[best], weight[best]


def region_boxes(labels: I64) -> I64:
    """Half-open boxes ``(n, 4)`` int64 of every region: y0, y1, x0, x1.

    Args:
        labels: ``(h, w)`` region of every pixel.
    """
    from scipy import ndimage

    return np.array([(y.start, y.stop, x.start, x.stop) for y, x in ndimage.find_objects(labels + 1)])


def mask_at(members: NDArray[np.bool_], labels: I64, boxes: I64, size_hw: tuple[int, int]) -> ObjectMask:
    """The union of some regions as a mask at the image's size.

    Where the image was resized, the mask is resized bilinearly and thresholded at one half.

    Args:
        members: ``(n,)`` bool, the regions.
        labels: ``(h, w)`` region of every pixel at working size.
        boxes: ``(n, 4)`` of :func:`region_boxes`.
        size_hw: of the image.
    """
    own = boxes[members]
    y0, x0 = own[:, 0].min(), own[:, 2].min()
    within = np.s_[y0 : own[:, 1].max(), x0 : own[:, 3].max()]
    inside = members[labels[within]]
    if size_hw == labels.shape:
        return mask_from_crop(inside, int(x0), int(y0), size_hw)
    origin = (int(y0), int(x0))
    return mask_from_window(inside.astype(np.float32), origin, (labels.shape[0], labels.shape[1]), 0.5, size_hw)
