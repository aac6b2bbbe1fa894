"""What is known of each pixel around a proposed mask, as maps that the refining network sees.

Proposals are cut along regions of the whole image, so that each is a choice among few outlines. A window around one of
them shows more: boundaries at its own scale, and what other proposals of the same object agree about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.geometry.windows import ImageWindow, cut_image, cut_mask, query_window
from counterview.proposals.bundled import BoundaryModel
from counterview.types import ObjectMask, RgbImage

SIZE = 96
"""Side of a window in its own pixels."""

CHANNELS = ("red", "green", "blue", "inside", "edge", "embedding", "extent", "proposal", "votes", "query", "own")
"""Maps of a window: its colours; what lies in the image; of the boundary network the edges, and how much each pixel's
embedding and extent are like those of the proposed mask; the mask; how far the other proposals include the pixel; and
how much more frequent its colour is in the query object, and in the mask, than around them."""

PROPOSAL = CHANNELS.index("proposal")

NEAR_IOU = 0.25
"""Proposals with at least this IoU with the mask, within the window, have a vote."""

VOTE_RANGE = 0.15
"""How much less similar to the query object a proposal is than the chosen one to have almost no weight."""

LEAST_WEIGHT = 0.05

_LIGHT, _CHROMA, _CHROMA_MOST = 5, 20, 60.0
_CORE = 5
"""Pixels by which a mask is eroded, at twice the window's size, before its mean embedding is taken."""

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class QueryColours:
    """Colour histograms of a query object and of what surrounds it, each of sum 1, ``(2000,)`` float32."""

    object: F32
    surroundings: F32

    @classmethod
    def of(cls, image: RgbImage, mask: ObjectMask) -> QueryColours:
        """Those of an object.

        Args:
            image: ``(H, W, 3)`` uint8.
            mask: of it; not empty.

        Raises:
            MaskError: the mask is empty.
        """
        window = query_window(mask, SIZE)
        pixels, inside = cut_image(image, window)
        share = cut_mask(mask, window)
        bins = colour_bins(pixels)
        return cls(_histogram(bins, share), _histogram(bins, (1 - share) * inside))


def refining_window(mask: ObjectMask) -> ImageWindow:
    """The window in which a proposed mask is drawn again.

    Raises:
        MaskError: the mask is empty.
    """
    return query_window(mask, SIZE)


def vote_weights(similarity: NDArray[np.floating], chosen: float) -> NDArray[np.float64]:
    """How much each of N proposals counts, 0.05 to 1.

    Args:
        similarity: ``(N,)`` of each to the query object.
        chosen: that of the proposal that is drawn again.
    """
    return np.clip(1 - (chosen - similarity) / VOTE_RANGE, LEAST_WEIGHT, 1)


def window_maps(
    image: RgbImage,
    mask: ObjectMask,
    others: Sequence[ObjectMask],
    weights: NDArray[np.floating],
    query: QueryColours,
    boundary: BoundaryModel,
    window: ImageWindow | None = None,
) -> NDArray[np.uint8]:
    """The maps of a window.

    Args:
        image: ``(H, W, 3)`` uint8.
        mask: the proposed mask, of that size; not empty.
        others: N proposals of the image, ``mask`` among them or not.
        weights: ``(N,)`` what each of their votes counts.
        query: colours of the query object.
        boundary: the boundary network.
        window: where; by default :func:`refining_window`.

    Returns:
        ``(11, 96, 96)`` uint8, of :data:`CHANNELS`; 255 is 1.
    """
    window = refining_window(mask) if window is None else window
    pixels, inside = cut_image(image, window)
    twice, _ = cut_image(image, ImageWindow(window.centre_xy, window.side, 2 * SIZE))
    share = cut_mask(mask, window)
    prediction = boundary(twice)
    weight = _core(share)
    embedding = _mean(prediction.embedding, weight)
    alike = np.exp(-np.linalg.norm(prediction.embedding - embedding, axis=2) / 2)
    extent = _mean(prediction.extent, weight)
    away = np.hypot(prediction.extent[..., 0] - extent[0], prediction.extent[..., 1] - extent[1])
    around = np.exp(-away / max(float(np.exp(extent[4] / 2)), 2.0))
    bins = colour_bins(pixels)
    own = _ratio(_histogram(bins, share), _histogram(bins, (1 - share) * inside), bins)
    values = [
        *pixels.transpose(2, 0, 1), 255 * inside, _halved(prediction.edge), 255 * _halved(alike), 255 * _halved(around),
        255 * share, 255 * _votes(share, others, weights, window), 255 * _ratio(query.object, query.surroundings, bins),
        255 * own,
    ]  # fmt: skip
    return np.stack([np.clip(np.asarray(v, np.float32), 0, 255).astype(np.uint8) for v in values])


def colour_bins(pixels: RgbImage) -> NDArray[np.int64]:
    """Bin of each pixel's colour in CIE Lab, ``(h, w)``, 0 to 1999."""
    lab = np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))
    light = np.clip(lab[..., 0] / 100 * _LIGHT, 0, _LIGHT - 0.01).astype(np.int64)
    chroma = (lab[..., 1:] + _CHROMA_MOST) / (2 * _CHROMA_MOST) * _CHROMA
    a, b = np.moveaxis(np.clip(chroma, 0, _CHROMA - 0.01).astype(np.int64), 2, 0)
    return np.asarray((light * _CHROMA + a) * _CHROMA + b)


def _histogram(bins: NDArray[np.int64], weight: NDArray[np.floating]) -> F32:
    """Of weighted pixels, smoothed, of sum 1; zeros where nothing has weight."""
    counts = np.bincount(bins.ravel(), weight.ravel().astype(np.float64), minlength=_LIGHT * _CHROMA**2)
    planes = [cv2.GaussianBlur(plane, (0, 0), 0.8) for plane in counts.reshape(_LIGHT, _CHROMA, _CHROMA)]
    smooth = np.stack(planes)
    smooth = (
        0.5 * smooth
        + 0.25 * np.concatenate([smooth[:1], smooth[:-1]])
        + 0.25 * np.concatenate([smooth[1:], smooth[-1:]])
    )
    return np.asarray((smooth / max(float(smooth.sum()), 1e-6)).ravel(), dtype=np.float32)


def _ratio(one: F32, other: F32, bins: NDArray[np.int64]) -> F32:
    """How much likelier each pixel's colour is in the first histogram, ``(h, w)`` from 0 to 1."""
    return np.asarray((one / (one + other + np.float32(1e-5)))[bins], dtype=np.float32)


def _core(share: F32) -> F32:
    """Weights ``(2 S, 2 S)`` of pixels well within a mask ``(S, S)``."""
    twice = np.asarray(cv2.resize(share, (2 * SIZE, 2 * SIZE)))
    core = cv2.erode(twice, np.ones((_CORE, _CORE))) if twice.sum() > 400 else twice
    return np.asarray(core + 1e-4 * twice + 1e-8, dtype=np.float32)


def _mean(values: F32, weight: F32) -> F32:
    """Weighted mean ``(c,)`` of ``(h, w, c)``."""
    return np.asarray(np.einsum("hwc,hw->c", values, weight) / weight.sum(), dtype=np.float32)


def _votes(share: F32, others: Sequence[ObjectMask], weights: NDArray[np.floating], window: ImageWindow) -> F32:
    """How far the proposals of the place include each pixel, ``(S, S)`` from 0 to 1."""
    left, top = window.left_top
    total, votes = 1e-6, np.zeros_like(share)
    for other, weight in zip(others, weights.tolist(), strict=True):
        x, y, width, height = other.box_xywh
        if x >= left + window.side or x + width <= left or y >= top + window.side or y + height <= top:
            continue
        part = cut_mask(other, window)
        union = float(np.maximum(part, share).sum())
        overlap = float(np.minimum(part, share).sum()) / union if union else 0.0
        if overlap > NEAR_IOU:
            votes += np.float32(weight * overlap) * part
            total += weight * overlap
    return votes / np.float32(total)


def _halved(plane: NDArray[np.generic]) -> F32:
    return np.asarray(
        cv2.resize(np.asarray(plane, np.float32), (SIZE, SIZE), interpolation=cv2.INTER_AREA), dtype=np.float32
    )
