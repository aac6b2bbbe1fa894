"""How one camera's colours become another's: gains, gamma and saturation, fitted to regions seen by both. Ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterview.errors import ImageError
from counterview.features.object_crops import ObjectCrops, centre_crop
from counterview.media.images import LUMA
from counterview.types import RgbImage

PARTS = 3
"""Parts of a region by brightness, whose mean colours are compared: they tell a gain from a gamma."""
_DARKEST = 1e-3
_FEWEST_PIXELS = 6
"""Of a crop's mask; the colours of a region with fewer are left out."""


@dataclass(frozen=True)
class ColourTransfer:
    """``value -> gain * value ** gamma`` in each channel, then saturation around the grey value.

    Values are sRGB as stored, from 0 to 1.

    Attributes:
        gains: of red, green and blue.
        gamma: exponent.
        saturation: 0 makes grey.
    """

    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    saturation: float = 1.0

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Colours ``(..., 3)`` uint8 as the other camera stores them, of the same shape.

        >>> ColourTransfer(gains=(1.2, 1.0, 0.75)).apply(np.array([[100, 100, 100]], np.uint8)).tolist()
        [[120, 100, 75]]
        """
        levels = np.maximum(np.arange(256) / 255, _DARKEST) ** self.gamma
        table = (levels[:, None] * np.asarray(self.gains)).astype(np.float32)
        values = [table[pixels[..., c], c] for c in range(_channels(pixels))]
        return _stored(_saturated(np.stack(values, axis=-1, dtype=np.float32), self.saturation))

    def undo(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The colours ``(..., 3)`` uint8 from which :meth:`apply` makes ``pixels``, as far as they can be known.

        >>> transfer = ColourTransfer(gains=(1.2, 1.0, 0.75), gamma=1.3)
        >>> transfer.undo(transfer.apply(np.array([[100, 150, 180]], np.uint8))).tolist()
        [[100, 150, 180]]
        """
        _channels(pixels)
        # Below a third, what is left of the colours is mostly noise.
        values = _saturated(pixels.astype(np.float32) / 255, 1 / max(self.saturation, 1 / 3))
        levels = np.maximum(values, np.float32(_DARKEST)) / np.asarray(self.gains, np.float32)
        return _stored(np.asarray(levels ** np.float32(1 / self.gamma), dtype=np.float32))


def _channels(pixels: NDArray[np.uint8]) -> int:
    if pixels.ndim < 1 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise ImageError("not RGB pixels", found=f"{pixels.dtype} {pixels.shape}", expected="(..., 3) uint8")
    return 3


def _saturated(values: NDArray[np.floating], saturation: float) -> NDArray[np.floating]:
    if saturation == 1:
        return values
    grey = (values @ LUMA)[..., None]
    return np.asarray(grey + (values - grey) * np.float32(saturation), dtype=np.float32)


def _stored(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray((values * 255 + 0.5).clip(0, 255), dtype=np.uint8)


def recoloured(crops: ObjectCrops, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> ObjectCrops:
    """Object crops with changed colours; masks and sizes stay.

    Args:
        crops: the crops.
        change: of colours ``(..., 3)`` uint8, to the same shape.
    """
    pixels = crops.pixels.copy()
    pixels[..., :3] = change(crops.pixels[..., :3])
    return ObjectCrops(pixels, crops.sizes)


def region_colours(crops: ObjectCrops) -> NDArray[np.float64]:
    """Mean colours of the darkest, the middle and the brightest third of each region.

    Args:
        crops: of N regions.

    Returns:
        ``(N, 3, 3)`` from 0 to 1: thirds, and red, green and blue; NaN for a region of too few pixels.
    """
    pixels = centre_crop(crops.pixels)
    result = np.full((len(pixels), PARTS, 3), np.nan)
    for row, crop in zip(result, pixels, strict=True):
        colours = crop[..., :3][crop[..., 3] > 127].astype(np.float64) / 255
        if len(colours) >= _FEWEST_PIXELS:
            order = np.argsort(colours @ LUMA, kind="stable")
            row[:] = [part.mean(0) for part in np.array_split(colours[order], PARTS)]
    return result


@dataclass(frozen=True)
class TransferPrior:
    """How far cameras are expected to differ, as standard deviations, and how closely colours agree after a transfer.

    Attributes:
        brightness: of the logarithm of all gains together.
        tint: of the logarithm of the gains of red and blue against green.
        gamma: of its logarithm.
        saturation: of saturation.
        colour: how far the colours of one region differ between two cameras beside that, from 0 to 1: it is lit
            differently, and seen from another side.
    """

    brightness: float = 0.15
    tint: float = 0.3
    gamma: float = 0.2
    saturation: float = 1 / 6
    colour: float = 0.08


_LIMITS: Sequence[tuple[float, float]] = ((-1.2, 1.2), (-1.2, 1.2), (-1.2, 1.2), (-1.0, 1.0), (0.0, 2.5))
"""Of brightness, red, blue, the logarithm of gamma, and saturation."""


def fit_transfer(
    query: NDArray[np.float64],
    target: NDArray[np.float64],
    weights: NDArray[np.floating],
    prior: TransferPrior | None = None,
) -> ColourTransfer:
    """The transfer from query to target colours that pairs of regions agree on, wrong pairs among them.

    Least squares with a loss that grows linearly for large errors, from the identity, with a Gaussian prior.

    Args:
        query: ``(P, 3, 3)`` from :func:`region_colours`, of P regions of the query image.
        target: likewise, of the regions of the target image paired with them.
        weights: ``(P,)``, how likely each pair is.
        prior: how far cameras are expected to differ; the defaults if not given.

    Returns:
        The transfer; the identity where no pair has colours.
    """
    from scipy.optimize import least_squares

    prior = prior or TransferPrior()
    known = np.isfinite(query).all((1, 2)) & np.isfinite(target).all((1, 2))
    query, target = np.maximum(query[known], _DARKEST), target[known]
    scale = (np.sqrt(np.maximum(weights[known], 0)) / prior.colour)[:, None, None]
    spread = np.array([prior.brightness, prior.tint, prior.tint, prior.gamma, prior.saturation])
    identity = np.array([0.0, 0.0, 0.0, 0.0, 1.0])

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        gains = np.exp(values[0] + np.array([values[1], 0.0, values[2]]))
        mapped = gains * query ** np.exp(values[3])
        grey = (mapped @ LUMA)[..., None]
        errors = (scale * (grey + (mapped - grey) * values[4] - target)).ravel()
        robust = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + errors**2) - 1))
        return np.concatenate([robust, (values - identity) / spread])

    bounds = tuple(np.array(side) for side in zip(*_LIMITS, strict=True))
    solution = least_squares(residuals, identity, bounds=bounds, max_nfev=30).x
    brightness, red, blue, log_gamma, saturation = solution.tolist()
    gains = (float(np.exp(brightness + red)), float(np.exp(brightness)), float(np.exp(brightness + blue)))
    return ColourTransfer(gains, float(np.exp(log_gamma)), float(saturation))


def mean_chroma(image: RgbImage) -> float:
    """Mean distance of an image's pixels from grey, from 0 to 1: the largest less the smallest channel."""
    sampled = image[::4, ::4].astype(np.int16)
    return float((sampled.max(-1) - sampled.min(-1)).mean() / 255)
