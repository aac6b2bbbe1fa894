"""Object descriptors from a feature map: exact pooling over masks and boxes, without upsampling the map.

O-MaMa (section "Mask-Context Encoder") upsamples the ``(C, h, w)`` map bilinearly to a quarter of the image and
averages it over each mask. Upsampling and averaging are linear, so the mean over mask ``m`` is ``<A' m, F> / |m|`` with
``A'`` the adjoint of the upsampling: the mask's points are spread over the cells of the small map (weights
``(N, h, w)``), then one matrix product with the map gives all means. The weights are computed from run lengths: a
vertical run of points contributes a difference of two rows of a cumulative table.

The weights need NumPy alone, so data loaders can compute them without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError, MaskError
from counterview.features.base import Fallback, FeatureMap, PoolGrid, PoolingKind
from counterview.masks.geometry import nearest_indices
from counterview.masks.lattice import lattice_runs
from counterview.types import ObjectMask

if TYPE_CHECKING:
    from torch import Tensor

CONTEXT_PX = 100
"""Pixels of the network's input by which O-MaMa grows a box for its context descriptor."""

Masks = Sequence[ObjectMask] | NDArray[np.bool_]
"""N masks of one image: run lengths, or dense ``(N, H, W)`` bool."""


@lru_cache(maxsize=64)
def upsampling_matrix(cells: int, points: int) -> NDArray[np.float64]:
    """Bilinear upsampling along one axis as a matrix ``(points, cells)``; pixel centres at halves, edges repeated.

    The same as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.

    Example:
        >>> upsampling_matrix(2, 4).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    lower, fraction = _taps(cells, points)
    matrix = np.zeros((points, cells))
    np.add.at(matrix, (np.arange(points), lower), 1.0 - fraction)
    np.add.at(matrix, (np.arange(points), np.minimum(lower + 1, cells - 1)), fraction)
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=64)
def _cumulative(cells: int, points: int) -> NDArray[np.float64]:
    """Cumulative table ``(points + 1, cells)``: row k is the sum of the first k rows of the upsampling matrix."""
    table = np.concatenate([np.zeros((1, cells)), np.cumsum(upsampling_matrix(cells, points), axis=0)])
    table.setflags(write=False)
    return table


def _taps(cells: int, points: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    position = np.maximum((np.arange(points) + 0.5) * (cells / points) - 0.5, 0.0)
    lower = np.minimum(np.floor(position).astype(np.int64), cells - 1)
    return lower, position - lower


def mask_weights(grid: PoolGrid, masks: Masks) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Weights of the cells whose sum is the mean of the upsampled map over each mask.

    Args:
        grid: the sizes.
        masks: N masks at ``grid.image_hw``.

    Returns:
        weights ``(N, h, w)``, which sum to 1, or to 0 for a mask without a point on the pooling grid; and the number of
        points ``(N,)``.

    Raises:
        MaskError: a mask of another size.
    """
    (rows, columns), (height, width) = grid.points_hw, grid.cells_hw
    if isinstance(masks, np.ndarray):
        return _dense_weights(grid, masks)
    runs = lattice_runs(masks, grid.image_hw, grid.points_hw)
    vertical = _cumulative(height, rows)
    lower, fraction = _taps(width, columns)
    left = runs.owner * width + lower[runs.column]
    right = runs.owner * width + np.minimum(lower[runs.column] + 1, width - 1)
    fraction = fraction[runs.column]
    index = np.arange(len(runs.owner))
    from scipy import sparse  # a tenth of a second where nothing is pooled

    spread = sparse.csr_array(
        (np.concatenate([1.0 - fraction, fraction]), (np.concatenate([left, right]), np.concatenate([index, index]))),
        shape=(runs.count * width, len(index)),
    )
    sums = np.asarray(spread @ (vertical[runs.bottom] - vertical[runs.top]))
    points = runs.points()
    weights = sums.reshape(runs.count, width, height) / np.maximum(points, 1)[:, None, None]
    return weights.transpose(0, 2, 1), points


def _dense_weights(grid: PoolGrid, masks: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if masks.ndim != 3 or masks.dtype != np.bool_ or masks.shape[1:] != grid.image_hw:
        raise MaskError(
            "dense masks are of another shape or dtype",
            found=f"{masks.dtype} {masks.shape}",
            expected=f"bool (N, {grid.image_hw[0]}, {grid.image_hw[1]})",
        )
    rows = nearest_indices(grid.image_hw[0], grid.points_hw[0])
    columns = nearest_indices(grid.image_hw[1], grid.points_hw[1])
    small = masks[:, rows[:, None], columns[None, :]]
    down = upsampling_matrix(grid.cells_hw[0], grid.points_hw[0])
    across = upsampling_matrix(grid.cells_hw[1], grid.points_hw[1])
    points = small.sum(axis=(1, 2))
    weights = down.T @ (small.astype(np.float64) @ across)
    return weights / np.maximum(points, 1)[:, None, None], points


def mask_boxes(masks: Masks) -> NDArray[np.float64]:
    """Boxes ``(N, 4)`` as ``x, y, xmax - xmin, ymax - ymin`` in pixels, the convention of O-MaMa's proposals.

    An empty mask has four zeros.
    """
    encoded = [ObjectMask.from_array(mask) for mask in masks] if isinstance(masks, np.ndarray) else list(masks)
    boxes = np.array([mask.box_xywh for mask in encoded], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, 0)
    return boxes


def grid_boxes(grid: PoolGrid, boxes_xywh: NDArray[np.floating], grow_px: int = 0) -> NDArray[np.int64]:
    """Boxes on the pooling grid, by the rules of O-MaMa's released code.

    Scaled to the input, truncated to integers, grown by ``grow_px`` on each side, clamped to the input, divided by the
    reduction and floored, at least one point wide and high.

    Args:
        grid: the sizes.
        boxes_xywh: ``(N, 4)`` in pixels of the image.
        grow_px: in pixels of the input.

    Returns:
        ``(N, 4)`` int64, half-open, ``x1, y1, x2, y2``.

    Raises:
        InputError: the boxes are not ``(N, 4)`` finite numbers, or ``grow_px`` is negative.
    """
    boxes = np.asarray(boxes_xywh, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise InputError("boxes are finite numbers x, y, width, height", found=f"shape {boxes.shape}")
    if grow_px < 0:
        raise InputError("a box cannot be grown by a negative number of pixels", found=grow_px)
    scale = np.array([grid.input_hw[1] / grid.image_hw[1], grid.input_hw[0] / grid.image_hw[0]] * 2)
    integer = np.clip(boxes * scale, -(2.0**40), 2.0**40).astype(np.int64)
    limit = np.array([grid.input_hw[1], grid.input_hw[0]])
    low = np.clip(integer[:, :2] - grow_px, 0, limit) // grid.reduction
    high = np.clip(integer[:, :2] + integer[:, 2:] + grow_px, 0, limit) // grid.reduction
    most = np.array([grid.points_hw[1], grid.points_hw[0]])
    low = np.minimum(low, most - 1)
    high = np.minimum(np.maximum(high, low + 1), most)
    return np.concatenate([low, high], axis=1)


def box_weights(grid: PoolGrid, boxes_xywh: NDArray[np.floating], grow_px: int = 0) -> NDArray[np.float64]:
    """Weights ``(N, h, w)`` of the cells whose sum is the mean of the upsampled map over each box.

    Args:
        grid: the sizes.
        boxes_xywh: ``(N, 4)`` in pixels of the image.
        grow_px: see :func:`grid_boxes`.

    Raises:
        InputError: see :func:`grid_boxes`.
    """
    box = grid_boxes(grid, boxes_xywh, grow_px)
    down = _cumulative(grid.cells_hw[0], grid.points_hw[0])
    across = _cumulative(grid.cells_hw[1], grid.points_hw[1])
    rows = (down[box[:, 3]] - down[box[:, 1]]) / (box[:, 3] - box[:, 1])[:, None]
    columns = (across[box[:, 2]] - across[box[:, 0]]) / (box[:, 2] - box[:, 0])[:, None]
    return rows[:, :, None] * columns[:, None, :]


def centroid_weights(grid: PoolGrid, masks: Sequence[ObjectMask]) -> NDArray[np.float64]:
    """Weights ``(N, h, w)`` of the upsampled map's value at each mask's centroid; 0 for an empty mask.

    The centroid is the mean pixel position in the image; it may be outside of a hollow mask.

    Args:
        grid: the sizes.
        masks: N masks at ``grid.image_hw``.

    Raises:
        MaskError: a mask of another size.
    """
    runs = lattice_runs(masks, grid.image_hw, grid.image_hw)
    length = (runs.bottom - runs.top).astype(np.float64)
    area = np.bincount(runs.owner, weights=length, minlength=runs.count)
    x = np.bincount(runs.owner, weights=length * (runs.column + 0.5), minlength=runs.count)
    y = np.bincount(runs.owner, weights=length * (runs.top + runs.bottom) / 2, minlength=runs.count)
    (rows, columns), (height, width) = grid.points_hw, grid.image_hw
    nonempty = area > 0
    safe = np.maximum(area, 1)
    row = np.minimum((y / safe * rows / height).astype(np.int64), rows - 1)
    column = np.minimum((x / safe * columns / width).astype(np.int64), columns - 1)
    down = upsampling_matrix(grid.cells_hw[0], rows)[row] * nonempty[:, None]
    across = upsampling_matrix(grid.cells_hw[1], columns)[column]
    return down[:, :, None] * across[:, None, :]


def missed_masks(grid: PoolGrid, masks: Masks) -> NDArray[np.bool_]:
    """Which masks have no point on the pooling grid, ``(N,)`` bool: those that get the ``fallback``.

    Raises:
        MaskError: a mask of another size than the image.
    """
    if isinstance(masks, np.ndarray):
        return mask_weights(grid, masks)[1] == 0
    return lattice_runs(masks, grid.image_hw, grid.points_hw).points() == 0


def describe(
    features: FeatureMap,
    masks: Masks | None,
    kind: PoolingKind = "mask",
    *,
    context_px: int | None = None,
    boxes_xywh: NDArray[np.floating] | None = None,
    fallback: Fallback = "zeros",
) -> Tensor:
    """Descriptors of N objects of one image.

    Args:
        features: the map ``(C, h, w)`` of the image.
        masks: N masks at ``features.image_hw``, run lengths or dense ``(N, H, W)``; ``None`` with boxes alone (kinds
            ``box`` and ``box_max``).
        kind: ``mask`` (mean over the mask), ``box`` or ``box_max`` (mean or maximum over its box), or
            ``centroid``.
        context_px: also append the mean over the box grown by this many pixels of the network's input
            (O-MaMa: :data:`CONTEXT_PX`).
        boxes_xywh: ``(N, 4)`` boxes in pixels of the image; by default those of the masks
            (:func:`mask_boxes`).
        fallback: for kind ``mask``, the descriptor of a mask without a point on the pooling grid
            (:func:`missed_masks`): ``zeros``, as in the released code, or ``centre``, the map's value at its centroid.
            An empty mask gets zeros in either case.

    Returns:
        ``(N, C)``, or ``(N, 2C)`` with a context, on the map's device; float32 for a half-precision map, else of the
        map's dtype. Gradients flow to the map.

    Raises:
        MaskError: masks of another size than the image.
        InputError: an unknown kind or fallback, or boxes that do not fit the masks.

    Example:
        >>> import numpy as np, torch
        >>> from counterview.types import ObjectMask
        >>> features = FeatureMap(torch.arange(8.0).reshape(2, 2, 2), image_hw=(16, 16), input_hw=(16, 16))
        >>> left = np.zeros((16, 16), dtype=bool)
        >>> left[:, :8] = True
        >>> describe(features, [ObjectMask.from_array(left)])
        tensor([[1.1250, 5.1250]])
        >>> describe(features, [ObjectMask.from_array(left)], context_px=100)
        tensor([[1.1250, 5.1250, 1.5000, 5.5000]])
    """
    grid = features.grid
    if kind not in ("mask", "box", "box_max", "centroid"):
        raise InputError("unknown kind of pooling", found=repr(kind), expected="mask, box, box_max or centroid")
    if fallback not in ("zeros", "centre"):
        raise InputError("unknown fallback", found=repr(fallback), expected="zeros or centre")
    if masks is None and (boxes_xywh is None or kind in ("mask", "centroid")):
        raise InputError(
            f"pooling of kind {kind!r} needs masks" if boxes_xywh is not None else "neither masks nor boxes"
        )
    boxes = np.zeros((0, 4))
    if kind in ("box", "box_max") or context_px is not None:
        boxes = mask_boxes(masks) if boxes_xywh is None and masks is not None else np.asarray(boxes_xywh)
        if masks is not None and len(boxes) != len(masks):
            raise InputError("boxes and masks differ in number", found=f"{len(boxes)} and {len(masks)}")

    weights: list[NDArray[np.float64]] = []
    if kind == "mask" and masks is not None:
        weights.append(_with_fallback(grid, masks, fallback))
    elif kind == "centroid" and masks is not None:
        encoded = [ObjectMask.from_array(m) for m in masks] if isinstance(masks, np.ndarray) else masks
        weights.append(centroid_weights(grid, encoded))
    elif kind == "box":
        weights.append(box_weights(grid, boxes))
    if context_px is not None:
        weights.append(box_weights(grid, boxes, context_px))

    pooled = apply_weights(features.tensor, np.concatenate(weights)) if weights else None
    parts = [_box_maximum(features, grid_boxes(grid, boxes))] if kind == "box_max" else []
    if pooled is not None:
        parts += list(pooled.split(len(pooled) // len(weights))) if len(pooled) else [pooled] * len(weights)
    return _join(parts)


def apply_weights(tensor: Tensor, weights: NDArray[np.floating]) -> Tensor:
    """Weighted sums ``(N, C)`` of a map ``(C, h, w)`` with weights ``(N, h, w)``, in one matrix product."""
    import torch

    work = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
    flat = np.ascontiguousarray(weights.reshape(len(weights), work.shape[1] * work.shape[2]))
    matrix = torch.from_numpy(flat).to(work.dtype).to(work.device)
    return matrix @ work.flatten(1).T


def _with_fallback(grid: PoolGrid, masks: Masks, fallback: Fallback) -> NDArray[np.float64]:
    weights, points = mask_weights(grid, masks)
    missed = np.flatnonzero(points == 0)
    if fallback == "centre" and len(missed):
        weights = weights.copy()
        chosen: list[Any] = [masks[int(i)] for i in missed]
        small = [m if isinstance(m, ObjectMask) else ObjectMask.from_array(m) for m in chosen]
        weights[missed] = centroid_weights(grid, small)
    return weights


def _box_maximum(features: FeatureMap, boxes_xyxy: NDArray[np.int64]) -> Tensor:
    """Maximum of the upsampled map over boxes of the pooling grid, ``(N, C)``.

    Between the centres of neighbouring cells the upsampled map is linear along each axis, so its maximum over the
    points between them is at the first or the last. Only these are interpolated.
    """
    import torch

    tensor, grid = features.tensor, features.grid
    work = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
    matrices = [
        # dtype before device: some devices do not support float64.
        torch.from_numpy(upsampling_matrix(cells, points).copy()).to(work.dtype).to(work.device)
        for cells, points in zip(grid.cells_hw, grid.points_hw, strict=True)
    ]
    lower = [_taps(c, p)[0] for c, p in zip(grid.cells_hw, grid.points_hw, strict=True)]
    result = []
    for x1, y1, x2, y2 in boxes_xyxy.tolist():
        rows, columns = _corner_points(lower[0], y1, y2), _corner_points(lower[1], x1, x2)
        top, bottom = int(lower[0][y1]), min(int(lower[0][y2 - 1]) + 2, grid.cells_hw[0])
        left, right = int(lower[1][x1]), min(int(lower[1][x2 - 1]) + 2, grid.cells_hw[1])
        part = matrices[0][rows, top:bottom] @ work[:, top:bottom, left:right]
        result.append((part @ matrices[1][columns, left:right].T).amax(dim=(1, 2)))
    return torch.stack(result) if result else work.new_zeros((0, work.shape[0]))


def _corner_points(lower: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """Of the points from ``start`` to ``stop``, the first and last of each stretch between two cells."""
    part = lower[start:stop]
    change = part[1:] != part[:-1]
    keep = np.concatenate(([True], change)) | np.concatenate((change, [True]))
    return np.flatnonzero(keep) + start


def _join(parts: list[Tensor]) -> Tensor:
    import torch

    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
