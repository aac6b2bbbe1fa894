"""A descriptor without learned weights: colour, surroundings and texture of each mask at the image's own resolution.

Blocks, each a histogram compared by the Hellinger kernel (square root, then cosine):

- *colour*: joint L, a, b histogram over the mask, trilinearly soft-binned. Bins of a and b are spaced by an inverse
  hyperbolic sine, fine near grey and coarse where colours are strong, because the light between two cameras scales
  chroma. Lightness has few bins, because exposure differs.
- *surroundings*: the same over a ring around the mask, a quarter of the object's size wide. It distinguishes an object
  from a part of it.
- *texture*: magnitudes of the lightness gradient at three scales, logarithmic bins, away from the outline.
- *orientation*: unsigned gradient orientations at two scales, with one more bin for flat pixels.

Colours that fill an image (walls, table tops) count less: bins are weighted by their rarity in it.

Tried on 50 rendered pairs without gain: white balance by the image's mean, median or brightest part, lightness scaled
to a common median, separate histograms of a mask's core and outline, shape (solidity, elongation, compactness),
weighting pixels by their distance from the outline, orientations sorted for rotation invariance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from counterview.errors import ConfigError
from counterview.features.base import Fallback, FeatureMap, PoolingKind
from counterview.features.pooling import describe as pool_map
from counterview.masks.lattice import Runs, lattice_runs, with_centres
from counterview.types import ObjectMask, RgbImage, as_rgb

if TYPE_CHECKING:
    from torch import Tensor

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

LIGHTNESS = np.linspace(0.0, 100.0, 5)
"""Centres of the lightness bins."""
CHROMA_KNEE, CHROMA_MOST = 6.0, 80.0
"""Below the knee the bins of a and b are evenly spaced, above it their spacing grows with the chroma."""
TEXTURE_SIGMAS_PX = (1.0, 2.0, 4.0)
"""Scales at which gradients are taken; orientations at the first two."""
ORIENTATIONS = 8
"""Bins of unsigned orientation, over 180 degrees."""
MAGNITUDES = np.log([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
"""Centres of the gradient magnitude bins: logarithm of lightness units per sigma."""
EDGE = 2.0
"""A gradient of this strength counts half as oriented, half as flat."""
RING = 0.25
"""Width of the surroundings as a fraction of the square root of the mask's area; at least three pixels."""
RIM_PX = 3.0
"""Texture is measured this far inside the outline, or half as deep as the mask is where that is less."""
RARITY_POWER, RARITY_FLOOR = 0.25, 1e-3
"""Weight of a bin: ``(fraction of the image + floor) ** -power``."""
_PALETTE_STEP = 2.0
_TABLE_ENTRIES = 8_000_000


def chroma_centres(count: int) -> NDArray[np.float64]:
    """Centres ``(2 * count - 1,)`` of the bins of a or b.

    Example:
        >>> chroma_centres(3).round(1).tolist()
        [-80.0, -14.9, 0.0, 14.9, 80.0]
    """
    positive = CHROMA_KNEE * np.sinh(np.linspace(0.0, np.arcsinh(CHROMA_MOST / CHROMA_KNEE), count))
    return np.concatenate([-positive[:0:-1], positive])


@dataclass(frozen=True)
class ClassicalConfig:
    """Settings of ``load_backbone("classical")``.

    Raises:
        ConfigError: a value out of range.
    """

    longest_side_px: int = field(
        default=960, metadata={"help": "larger images are scaled down to this longer side; smaller ones stay"}
    )
    cell_px: int = field(default=8, metadata={"help": "width of a cell of the dense map"})
    colour: float = field(default=0.5, metadata={"help": "weight of the mask's own colours"})
    surroundings: float = field(default=0.27, metadata={"help": "weight of the colours around the mask"})
    texture: float = field(default=0.15, metadata={"help": "weight of the gradient magnitudes"})
    orientation: float = field(default=0.08, metadata={"help": "weight of the gradient orientations"})

    def __post_init__(self) -> None:
        if not 16 <= self.longest_side_px <= 16_384:
            raise ConfigError("longest_side_px is out of range", found=self.longest_side_px, expected="16 to 16384")
        if not 1 <= self.cell_px <= 16_384:
            raise ConfigError("cell_px is out of range", found=self.cell_px, expected="1 to 16384")
        if min(self.weights) < 0 or not self.weights[0] > 0:
            raise ConfigError("weights are not negative, and colour is above 0", found=self.weights)

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Weights of colour, surroundings, texture and orientation."""
        return self.colour, self.surroundings, self.texture, self.orientation


@dataclass(frozen=True, eq=False)
class _Tables:
    """What the description of masks needs of an image; positions are column-major, like run lengths."""

    size_hw: tuple[int, int]
    colour_of: NDArray[np.int32]  # (H * W,) row of the palette
    palette: Any  # sparse (K, B): weight of each palette colour in each bin
    rarity: F32  # (B,)
    texture: F32  # (H + 1, W, T) sums of texture channels from the top of each column


class Classical:
    """Weight-free features as a :class:`~counterview.features.base.Backbone`.

    ``describe`` works on the image's pixels, not on the map, so that small objects keep their colours. The dense map
    holds square roots of the histograms of cells, with coarser colour bins.

    Args:
        config: see :class:`ClassicalConfig`.
    """

    name = "classical"

    def __init__(self, config: ClassicalConfig | None = None) -> None:
        self.config = config or ClassicalConfig()
        self.stride = self.config.cell_px
        self.channels = len(LIGHTNESS[::2]) * 9 * 9 + _TEXTURES

    def settings(self) -> dict[str, Any]:
        """Everything that the descriptors depend on."""
        config = self.config
        return {
            "features": "classical",
            "version": 1,
            "longest_side_px": config.longest_side_px,
            "cell_px": config.cell_px,
            "weights": list(config.weights),
        }

    def encode(self, image: RgbImage) -> FeatureMap:
        """The map of an image ``(H, W, 3)``, with what :meth:`describe` needs.

        Raises:
            ImageError: another shape or dtype.
        """
        import torch

        rgb = as_rgb(image)
        longest = max(rgb.shape[:2])
        size = (rgb.shape[0], rgb.shape[1])
        if longest > self.config.longest_side_px:
            ratio = self.config.longest_side_px / longest
            size = (max(1, round(rgb.shape[0] * ratio)), max(1, round(rgb.shape[1] * ratio)))
            rgb = np.asarray(cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
        lab = np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB), dtype=np.float32)
        colours, colour_of = _palette(lab)
        chroma = chroma_centres(9)
        palette = _soft_bins(colours, (LIGHTNESS, chroma, chroma))
        fraction = np.bincount(colour_of, minlength=len(colours)) / len(colour_of)
        rarity = ((fraction @ palette + RARITY_FLOOR) ** -RARITY_POWER).astype(np.float32)
        sums = np.zeros((size[0] + 1, size[1], _TEXTURES), dtype=np.float32)
        _write_textures(np.ascontiguousarray(lab[..., 0]), sums[1:])
        for row in range(1, len(sums)):  # four times as fast as cumsum over the first axis
            sums[row] += sums[row - 1]
        cells = self._cells(size, colours, colour_of, sums)
        tables = _Tables(size, colour_of, palette, rarity, sums)
        return FeatureMap(torch.from_numpy(cells), (image.shape[0], image.shape[1]), size, extra=tables)

    def __call__(self, images: Sequence[RgbImage]) -> list[FeatureMap]:
        """The maps of several images ``(H, W, 3)``, one after the other."""
        return [self.encode(image) for image in images]

    def describe(
        self,
        features: FeatureMap,
        masks: Sequence[ObjectMask],
        kind: PoolingKind = "mask",
        *,
        context_px: int | None = None,
        fallback: Fallback = "centre",
    ) -> Tensor:
        """Descriptors ``(N, D)`` float32 of N masks, of unit length; zeros for an empty mask.

        Kind ``mask`` without a context comes from the image's pixels. Everything else pools the dense map
        (:func:`counterview.features.pooling.describe`).

        Raises:
            MaskError: a mask of another size than the image.
        """
        import torch

        tables = features.extra
        if kind != "mask" or context_px is not None or not isinstance(tables, _Tables):
            return pool_map(features, masks, kind, context_px=context_px, fallback=fallback)
        runs = lattice_runs(masks, features.image_hw, tables.size_hw)
        if fallback == "centre":
            runs = with_centres(runs, masks, features.image_hw, tables.size_hw)
        length = len(tables.rarity)
        result = np.zeros((len(masks), 2 * length + _TEXTURES), dtype=np.float32)
        for part, rows in _chunks(runs, max(1, _TABLE_ENTRIES // tables.palette.shape[0])):
            inside, around = _inside_and_around(part, tables.size_hw)
            weights = np.sqrt(np.array(self.config.weights) / sum(self.config.weights)).astype(np.float32)
            result[rows, :length] = weights[0] * _colours(tables, part)
            result[rows, length : 2 * length] = weights[1] * _colours(tables, around)
            result[rows, 2 * length :] = _textures(tables, inside, float(weights[2]), float(weights[3]))
        norm = np.linalg.norm(result, axis=1, keepdims=True)
        return torch.from_numpy(result / np.where(norm > 0, norm, 1))

    def _cells(self, size_hw: tuple[int, int], colours: F32, colour_of: NDArray[np.int32], sums: F32) -> F32:
        """The dense map, ``(C, h, w)``: square roots of each cell's histograms, each cell of unit length."""
        (height, width), cell = size_hw, self.config.cell_px
        rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
        top = np.arange(rows + 1) * height // rows
        left = np.arange(columns + 1) * width // columns
        row_of = np.repeat(np.arange(rows), np.diff(top))
        column_of = np.repeat(np.arange(columns), np.diff(left))
        cell_of = (row_of[None, :] * columns + column_of[:, None]).ravel()
        counts = sparse.csr_array(
            (np.ones(len(cell_of), dtype=np.float32), (cell_of, colour_of)), shape=(rows * columns, len(colours))
        )
        chroma = chroma_centres(5)
        colour = (counts @ _soft_bins(colours, (LIGHTNESS[::2], chroma, chroma))).toarray()
        colour = np.sqrt(colour / np.maximum(colour.sum(1, keepdims=True), 1e-12))
        strips = np.add.reduceat(sums[top[1:]] - sums[top[:-1]], left[:-1], axis=1)  # (rows, columns, T)
        texture = _normalised_textures(strips.reshape(rows * columns, -1), 1.0, 1.0)
        own, _, fine, turned = (np.sqrt(w) for w in self.config.weights)
        split = len(TEXTURE_SIGMAS_PX) * len(MAGNITUDES)
        cells = np.concatenate([own * colour, fine * texture[:, :split], turned * texture[:, split:]], axis=1)
        cells /= np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(cells.T.reshape(-1, rows, columns), dtype=np.float32)


_ORIENTED = 2
_TEXTURES = len(TEXTURE_SIGMAS_PX) * len(MAGNITUDES) + _ORIENTED * (ORIENTATIONS + 1)


def _palette(lab: F32) -> tuple[F32, NDArray[np.int32]]:
    """An image's colours ``(K, 3)`` on a fine grid, and the index of each pixel's, column-major."""
    q = np.floor((lab + np.array([0, 128, 128], dtype=np.float32)) / _PALETTE_STEP).astype(np.int32)
    q = np.clip(q, 0, 127)
    key = ((q[..., 0] * 128 + q[..., 1]) * 128 + q[..., 2]).ravel(order="F")
    used = np.flatnonzero(np.bincount(key))
    number = np.zeros(128**3, dtype=np.int32)
    number[used] = np.arange(len(used), dtype=np.int32)
    places = np.stack([used // 128**2, used // 128 % 128, used % 128], axis=1)
    colours = (places + 0.5) * _PALETTE_STEP - np.array([0, 128, 128])
    return colours.astype(np.float32), number[key]


def _soft_bins(values: F32, centres: Sequence[NDArray[np.float64]]) -> Any:
    """Weight of each of K values ``(K, 3)`` in each joint bin, as a sparse matrix ``(K, B)``; rows sum to 1."""
    taps = [_soft(values[:, c], centre) for c, centre in enumerate(centres)]
    rows, columns, weights = [], [], []
    for sides in itertools.product((0, 1), repeat=len(centres)):
        column, weight = np.zeros(len(values), dtype=np.int64), np.ones(len(values))
        for (lower, upper), centre, side in zip(taps, centres, sides, strict=True):
            column = column * len(centre) + lower + side
            weight = weight * (upper if side else 1.0 - upper)
        rows.append(np.arange(len(values)))
        columns.append(column)
        weights.append(weight)
    shape = (len(values), int(np.prod([len(c) for c in centres])))
    return sparse.csr_array((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=shape)


def _soft(values: NDArray[np.floating], centres: NDArray[np.float64]) -> tuple[I64, NDArray[np.float64]]:
    """Lower of the two nearest bins, and the weight of the upper one."""
    clipped = np.clip(values, centres[0], centres[-1])
    lower = np.clip(np.searchsorted(centres, clipped, side="right") - 1, 0, len(centres) - 2)
    return lower, (clipped - centres[lower]) / (centres[lower + 1] - centres[lower])


def _write_textures(lightness: F32, channels: F32) -> None:
    """Write the soft-binned gradients of each pixel into ``(H, W, T)`` zeros: magnitudes, then orientations."""
    height, width = lightness.shape
    flat = channels.reshape(height * width, _TEXTURES)
    pixel = np.arange(height * width)
    step, bins = float(MAGNITUDES[1] - MAGNITUDES[0]), len(MAGNITUDES)
    for k, sigma in enumerate(TEXTURE_SIGMAS_PX):
        smooth = cv2.GaussianBlur(lightness, (0, 0), sigma)
        gx, gy = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
        length, angle = (np.asarray(v, dtype=np.float32).ravel() for v in cv2.cartToPolar(gx, gy))
        strength = length * np.float32(sigma / 32.0)  # Scharr's weights sum to 32
        place = np.clip((np.log(strength + 1e-6) - np.float32(MAGNITUDES[0])) / np.float32(step), 0, bins - 1)
        lower = np.minimum(place.astype(np.int64), bins - 2)
        weight = place - lower
        flat[pixel, k * bins + lower] = 1.0 - weight
        flat[pixel, k * bins + lower + 1] = weight
        if k < _ORIENTED:
            base = len(TEXTURE_SIGMAS_PX) * bins + k * (ORIENTATIONS + 1)
            turn = angle * np.float32(ORIENTATIONS / np.pi)  # two turns: a gradient and its opposite share a bin
            first = turn.astype(np.int64)
            upper, edge = turn - first, strength / (strength + np.float32(EDGE))
            flat[pixel, base + first % ORIENTATIONS] = edge * (1.0 - upper)
            flat[pixel, base + (first + 1) % ORIENTATIONS] = edge * upper
            flat[:, base + ORIENTATIONS] = 1.0 - edge


def _pixels(runs: Runs, height: int) -> tuple[I64, I64]:
    """Owner and column-major position of every pixel of some runs."""
    length = runs.bottom - runs.top
    start = runs.column * height + runs.top
    before = np.cumsum(length) - length
    position = np.repeat(start - before, length) + np.arange(int(length.sum()))
    return np.repeat(runs.owner, length), position


def _colours(tables: _Tables, runs: Runs) -> F32:
    """Square-rooted colour histograms ``(N, B)`` of regions, weighted by rarity, of unit length."""
    colours = tables.palette.shape[0]
    owner, position = _pixels(runs, tables.size_hw[0])
    counts = np.bincount(owner * colours + tables.colour_of[position], minlength=runs.count * colours)
    binned = sparse.csr_array(counts.reshape(runs.count, colours).astype(np.float32)) @ tables.palette
    bins = binned.toarray().astype(np.float32)
    bins /= np.maximum(bins.sum(1, keepdims=True), 1e-12)
    bins *= tables.rarity
    return np.sqrt(bins / np.maximum(bins.sum(1, keepdims=True), 1e-12))


def _textures(tables: _Tables, runs: Runs, magnitude: float, orientation: float) -> F32:
    """Square-rooted gradient histograms ``(N, T)`` of regions, the two kinds weighted."""
    sums = np.zeros((runs.count, _TEXTURES), dtype=np.float32)
    if len(runs.owner):
        each = tables.texture[runs.bottom, runs.column] - tables.texture[runs.top, runs.column]
        first = np.flatnonzero(np.diff(runs.owner, prepend=-1))
        sums[runs.owner[first]] = np.add.reduceat(each, first, axis=0)
    return _normalised_textures(sums, magnitude, orientation)


def _normalised_textures(sums: F32, magnitude: float, orientation: float) -> F32:
    """Square roots of gradient histograms ``(N, T)``, normalised for each kind and weighted."""
    split = len(TEXTURE_SIGMAS_PX) * len(MAGNITUDES)
    roots = np.empty_like(sums)
    for part, weight in ((slice(0, split), magnitude), (slice(split, None), orientation)):
        values = np.maximum(sums[:, part], 0)  # differences of sums can fall below 0 by rounding
        roots[:, part] = weight * np.sqrt(values / np.maximum(values.sum(1, keepdims=True), 1e-12))
    return roots


def _chunks(runs: Runs, size: int) -> list[tuple[Runs, slice]]:
    """Runs of consecutive masks, ``size`` masks at a time, with the slice of masks."""
    parts = []
    for start in range(0, runs.count, size):
        stop = min(start + size, runs.count)
        low, high = np.searchsorted(runs.owner, [start, stop])
        part = Runs(
            runs.owner[low:high] - start, runs.column[low:high], runs.top[low:high], runs.bottom[low:high], stop - start
        )
        parts.append((part, slice(start, stop)))
    return parts


def _inside_and_around(runs: Runs, size_hw: tuple[int, int]) -> tuple[Runs, Runs]:
    """The part of each mask away from its outline, and the ring around it."""
    height, width = size_hw
    bounds = np.searchsorted(runs.owner, np.arange(runs.count + 1))
    area = runs.points()
    inside: list[I64] = []
    around: list[I64] = []
    for n in range(runs.count):
        low, high = bounds[n], bounds[n + 1]
        if low == high:
            continue
        column, top, bottom = runs.column[low:high], runs.top[low:high], runs.bottom[low:high]
        ring = max(3, round(RING * float(np.sqrt(area[n]))))
        x0, x1 = max(0, int(column.min()) - ring), min(width, int(column.max()) + 1 + ring)
        y0, y1 = max(0, int(top.min()) - ring), min(height, int(bottom.max()) + ring)
        # Transposed, so that runs are contiguous; with one line of zeros on every side.
        crop = np.zeros((x1 - x0 + 2, y1 - y0 + 2), dtype=np.int8)
        np.add.at(crop, (column - x0 + 1, top - y0 + 1), 1)
        np.subtract.at(crop, (column - x0 + 1, bottom - y0 + 1), 1)
        crop = np.cumsum(crop, axis=1, dtype=np.int8)
        depth = cv2.distanceTransform(crop.view(np.uint8), cv2.DIST_L2, 3)
        distance = cv2.distanceTransform(np.uint8(1) - crop.view(np.uint8), cv2.DIST_L2, 3)
        deep = depth >= min(RIM_PX, 0.5 * float(depth.max()))
        near = (distance > 0) & (distance <= ring)
        near[0] = near[-1] = near[:, 0] = near[:, -1] = False
        inside.append(_crop_runs(deep & (depth > 0), n, x0 - 1, y0 - 1))
        around.append(_crop_runs(near, n, x0 - 1, y0 - 1))
    return _joined(inside, runs.count), _joined(around, runs.count)


def _crop_runs(crop: NDArray[np.bool_], owner: int, x0: int, y0: int) -> I64:
    """Runs ``(4, R)`` (owner, column, top, bottom) of a transposed crop whose outermost lines are zero."""
    changes = np.diff(crop.view(np.int8), axis=1)
    column, top = np.nonzero(changes == 1)
    _, bottom = np.nonzero(changes == -1)
    return np.stack([np.full(len(column), owner), column + x0, top + 1 + y0, bottom + 1 + y0])


def _joined(parts: list[I64], count: int) -> Runs:
    table = np.concatenate(parts, axis=1) if parts else np.zeros((4, 0), dtype=np.int64)
    return Runs(table[0], table[1], table[2], table[3], count)
