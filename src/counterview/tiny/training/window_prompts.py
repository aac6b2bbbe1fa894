"""Proposed masks as proposers get them wrong: too small, too large, in part, displaced, or of something else."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

DISPLACED = 0.12
"""Standard deviation of a displacement, in sides of the mask's box."""

THICKENED = 0.12
"""Largest change of an outline either way, in roots of the mask's area."""


def draw_prompt(truth: F32, others: Sequence[F32], wrong: bool, rng: np.random.Generator) -> F32:
    """A mask that a proposer might give for an object.

    Args:
        truth: the object, ``(S, S)`` in 0..1; all zero where it is absent.
        others: other objects in the window, likewise.
        wrong: whether it is of something else.
        rng: the only source of randomness.

    Returns:
        ``(S, S)`` float32, 0 or 1.
    """
    there = [mask for mask in others if (mask > 0.5).sum() >= 9]
    if wrong or not (truth > 0.5).any():
        if there and rng.random() < 0.8:
            source = there[int(rng.integers(len(there)))] > 0.5
        else:
            source = _blob(truth.shape[0], rng)
    else:
        source = truth > 0.5
    mask = source.astype(np.uint8)
    kind = rng.random()
    if kind < 0.25:
        mask = _cut_off(mask, rng)
    elif kind < 0.4 and there:
        mask = mask | (there[int(rng.integers(len(there)))] > 0.5).astype(np.uint8)
    elif kind < 0.55:
        mask = mask | _near_blob(mask, rng)
    mask = _displaced(_thickened(mask, rng), rng)
    return np.asarray(mask if mask.any() else source, dtype=np.float32)


def _thickened(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """With an outline that lies a little inside or outside, or as it is."""
    radius = round(abs(float(rng.normal(0, THICKENED / 2))) * float(np.sqrt(mask.sum())))
    if radius < 1 or rng.random() < 0.2:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    change = cv2.erode if rng.random() < 0.5 else cv2.dilate
    return np.asarray(change(mask, kernel), dtype=np.uint8)


def _displaced(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Elsewhere by a few pixels, every third time."""
    ys, xs = np.nonzero(mask)
    if len(xs) == 0 or rng.random() > 1 / 3:
        return mask
    side = max(np.ptp(xs), np.ptp(ys)) + 1
    dx, dy = rng.normal(0, DISPLACED * side, 2)
    matrix = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
    return np.asarray(cv2.warpAffine(mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST), dtype=np.uint8)


def _cut_off(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Without what lies beyond a line, of which 20 to 70 % are."""
    ys, xs = np.nonzero(mask)
    if len(xs) == 0:
        return mask
    angle = rng.uniform(0, 2 * np.pi)
    along = xs * np.cos(angle) + ys * np.sin(angle)
    beyond = along > np.quantile(along, rng.uniform(0.3, 0.8))
    result = mask.copy()
    result[ys[beyond], xs[beyond]] = 0
    return result


def _near_blob(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """An ellipse at a mask's edge, as if some of its surroundings belonged to it."""
    ys, xs = np.nonzero(mask)
    if len(xs) == 0:
        return mask
    at = int(rng.integers(len(xs)))
    radius = 0.25 * float(np.sqrt(len(xs)))
    return _ellipse(mask.shape[0], (float(xs[at]), float(ys[at])), radius * rng.uniform(0.5, 1.8, 2), rng)


def _blob(side: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """An ellipse anywhere in the window, ``(side, side)``."""
    centre = rng.uniform(0.2 * side, 0.8 * side, 2)
    return _ellipse(side, (centre[0], centre[1]), rng.uniform(0.08, 0.25, 2) * side, rng) > 0


def _ellipse(
    side: int, centre: tuple[float, float], radii: NDArray[np.floating], rng: np.random.Generator
) -> NDArray[np.uint8]:
    mask = np.zeros((side, side), np.uint8)
    axes = (max(1, round(float(radii[0]))), max(1, round(float(radii[1]))))
    cv2.ellipse(mask, (round(centre[0]), round(centre[1])), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask
