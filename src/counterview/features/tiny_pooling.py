"""Means of the maps of ``tiny`` features over masks, around them, and the shape of the masks. Ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from counterview.features.base import Fallback
from counterview.masks.lattice import lattice_runs, with_centres
from counterview.types import ObjectMask

MASK_STRIDE = 2
"""Masks are sampled at the input's size divided by this."""
SHAPE_FEATURES = 6
"""Numbers that describe the shape of a mask."""
RING_WIDTH = 0.25
"""Width of the ring as a fraction of the square root of the mask's area; at least two pixels of the sampled mask."""


@dataclass(frozen=True, eq=False)
class TinyMaps:
    """Maps of B images from :class:`TinyNet`; of a single image the axis B is left out.

    Attributes:
        colours: ``(B, K, H / 2, W / 2)``, not negative.
        fine: ``(B, F, H / 4, W / 4)``.
        map: ``(B, C, H / 8, W / 8)``.
    """

    colours: Tensor
    fine: Tensor
    map: Tensor

    def each(self) -> list[TinyMaps]:
        """The maps of each image. Indexing them one by one would make the gradient of each a batch of zeros."""
        parts = (self.colours.unbind(), self.fine.unbind(), self.map.unbind())
        return [TinyMaps(*maps) for maps in zip(*parts, strict=True)]


def pool_masks(maps: TinyMaps, masks: NDArray[np.bool_]) -> Tensor:
    """Descriptors of N masks of one image, before :attr:`TinyNet.norm`.

    Args:
        maps: of the image, without the axis B.
        masks: ``(N, H / 2, W / 2)`` at half the input's size.

    Returns:
        ``(N, D)`` float32 of :attr:`TinyConfig.pooled_channels`. Gradients flow to the maps.
    """
    device = maps.map.device
    objects = torch.from_numpy(masks).to(device).float()
    rings = torch.from_numpy(_rings(masks)).to(device).float()
    # The gradient of a square root is infinite at 0; the summand bounds it.
    parts = [(_masked_mean(maps.colours, objects) + 0.01).sqrt()]
    for weights in (objects, rings):
        parts += [_masked_mean(maps.fine, weights), _masked_mean(maps.map, weights)]
    parts.append(torch.from_numpy(_shapes(masks)).to(device))
    return torch.cat(parts, dim=1)


def _masked_mean(tensor: Tensor, masks: Tensor) -> Tensor:
    """Mean of a ``(C, h, w)`` map over masks ``(N, H, W)`` of an integer multiple of its size: ``(N, C)``."""
    factor = masks.shape[-1] // tensor.shape[-1]
    weights = functional.avg_pool2d(masks[:, None], factor)[:, 0] if factor > 1 else masks
    weights = weights.flatten(1)
    total = weights.sum(1, keepdim=True).clamp(min=1e-6)
    return (weights / total) @ tensor.flatten(1).float().T


def _rings(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The ring around each mask ``(N, h, w)``, of the same shape."""
    result = np.zeros_like(masks)
    height, width = masks.shape[1:]
    for mask, ring in zip(masks, result, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) == 0:
            continue
        reach = max(2, round(RING_WIDTH * float(np.sqrt(mask.sum()))))
        y0, y1 = max(0, rows[0] - reach), min(height, rows[-1] + 1 + reach)
        x0, x1 = max(0, columns[0] - reach), min(width, columns[-1] + 1 + reach)
        crop = mask[y0:y1, x0:x1]
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        ring[y0:y1, x0:x1] = cv2.dilate(crop.astype(np.uint8), kernel).astype(bool) & ~crop
    return result


def _shapes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shape features ``(N, 6)`` of masks ``(N, h, w)``.

    Logarithm of the area; elongation (logarithm of the ratio of the axes of the ellipse with the same second moments);
    area as a fraction of that ellipse and of the box; root of the fraction of the image; whether the mask touches the
    image's edge. Second moments as in :func:`counterview.proposals.ranking.ellipse_fill`: only the last depends on
    position. All are 0 for an empty mask.
    """
    count, height, width = masks.shape
    if count == 0:
        return np.zeros((0, SHAPE_FEATURES), dtype=np.float32)
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    row_sums, column_sums = masks.sum(2).astype(np.float64), masks.sum(1).astype(np.float64)
    area = np.maximum(row_sums.sum(1), 1e-9)
    mean_y, mean_x = row_sums @ y / area, column_sums @ x / area
    # A pixel is a square, not a point: its variance is 1 / 12 in each direction.
    var_y = row_sums @ (y * y) / area - mean_y**2 + 1 / 12
    var_x = column_sums @ (x * x) / area - mean_x**2 + 1 / 12
    covariance = ((masks @ x) * y).sum(1) / area - mean_x * mean_y
    mean_variance = (var_x + var_y) / 2
    difference = np.sqrt(np.maximum((var_x - var_y) ** 2 / 4 + covariance**2, 0))
    major, minor = mean_variance + difference, np.maximum(mean_variance - difference, 1 / 12)
    ellipse_fill = area / (4 * np.pi * np.sqrt(major * minor))
    box_area = (row_sums > 0).sum(1) * (column_sums > 0).sum(1)
    at_edge = masks[:, 0].any(1) | masks[:, -1].any(1) | masks[:, :, 0].any(1) | masks[:, :, -1].any(1)
    table = np.stack(
        [
            np.log(area) / 4 - 1,
            np.log(major / minor) / 2,
            np.minimum(ellipse_fill, 1.2),
            area / np.maximum(box_area, 1),
            np.sqrt(area / (height * width)),
            at_edge.astype(np.float64),
        ],
        axis=1,
    )
    return (table * (row_sums.sum(1) > 0)[:, None]).astype(np.float32)


def sample_masks(masks: Sequence[ObjectMask], image_hw: tuple[int, int], input_hw: tuple[int, int],
                 fallback: Fallback = "centre") -> NDArray[np.bool_]:  # fmt: skip
    """Masks of an image at half the size of the network's input.

    Args:
        masks: N masks of size ``image_hw``.
        image_hw: height and width of the image in pixels.
        input_hw: height and width ``(H, W)`` of the network's input.
        fallback: ``centre``: a mask that would have no pixel keeps the one nearest to its centroid; ``zeros``: it
            stays empty.

    Returns:
        ``(N, H / 2, W / 2)`` bool.

    Raises:
        MaskError: a mask of another size.
    """
    size = (input_hw[0] // MASK_STRIDE, input_hw[1] // MASK_STRIDE)
    runs = lattice_runs(masks, image_hw, size)
    if fallback == "centre":
        runs = with_centres(runs, masks, image_hw, size)
    steps = np.zeros((len(masks), size[0] + 1, size[1]), dtype=np.int8)
    np.add.at(steps, (runs.owner, runs.top, runs.column), 1)
    np.subtract.at(steps, (runs.owner, runs.bottom, runs.column), 1)
    return np.asarray(np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1], dtype=bool)
