"""What a renderer remembers of a camera's last frame, and which pixels of it a movement can have changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from counterview.tabletop.camera.cameras import Camera

__all__ = ["NEAR_M", "Film", "Lamp", "Poses", "stale_pixels"]

NEAR_M = 0.3
"""How far ambient occlusion reaches, metres."""
_CELL = 4


@dataclass(frozen=True)
class Lamp:
    """Rectangular area light: centre and two half edges (3,), colour times power (3,)."""

    centre: np.ndarray
    half_a: np.ndarray
    half_b: np.ndarray
    power: np.ndarray


@dataclass(frozen=True)
class Poses:
    """Where bodies are: ``turn`` (B, 3, 3) and ``shift`` (B, 3), float32, world from body."""

    turn: np.ndarray
    shift: np.ndarray


class Film:
    """Per pixel of one camera, flattened: ray, distance, label, surface key, visibility of lights, light."""

    def __init__(self, pixels: int, camera: Camera, x: np.ndarray, y: np.ndarray) -> None:
        self.poses: Poses
        self.dirs, self.seen = camera.rays(x + 0.5, y + 0.5)
        self.depth = np.zeros(pixels, np.float32)
        self.labels = np.full(pixels, -2, np.int16)
        self.key = np.full(pixels, -1, np.int32)
        self.vis = np.zeros((pixels, 2), np.float32)
        self.light = np.zeros((pixels, 3), np.float32)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2])


def stale_pixels(
    camera: Camera, dirs: np.ndarray, depth: np.ndarray, moved: Sequence[tuple[np.ndarray, float]], lamp: Lamp
) -> np.ndarray:
    """Pixels (H * W,) bool that a movement can have changed.

    Args:
        dirs, depth: the rays and where they ended in the last frame.
        moved: spheres about all that moved, before and after.
        lamp: the light that casts shadows.
    """
    h, w = camera.size_hw
    d = dirs.reshape(h, w, 3)[::_CELL, ::_CELL]
    p = camera.position.astype(np.float32) + d * depth.reshape(h, w)[::_CELL, ::_CELL, None]
    to_lamp = lamp.centre.astype(np.float32) - p
    length2 = np.maximum(_dot(to_lamp, to_lamp), 1e-6)
    lamp_radius = float(np.hypot(np.linalg.norm(lamp.half_a), np.linalg.norm(lamp.half_b)))
    stale = np.zeros(p.shape[:2], bool)
    pixel = _CELL * 2.0 / camera.focal_px
    for centre, radius in moved:
        c = centre.astype(np.float32)
        # Seen through: the ray passes within the sphere.
        away = c - camera.position.astype(np.float32)
        along = d @ away
        off2 = float(away @ away) - along * along
        stale |= (off2 < (radius + pixel * np.maximum(along, 0) + 0.01) ** 2) & (along > -radius)
        # Near by: ambient occlusion. Between the point and the lamp: shadow.
        q = c - p
        stale |= _dot(q, q) < (radius + NEAR_M) ** 2
        s = np.clip(_dot(q, to_lamp) / length2, 0, 1)
        gap = q - s[..., None] * to_lamp
        stale |= _dot(gap, gap) < (radius + lamp_radius * s + 0.02) ** 2
    grown = cv2.dilate(stale.astype(np.uint8), np.ones((3, 3), np.uint8))
    full = np.repeat(np.repeat(grown, _CELL, 0), _CELL, 1)[:h, :w]
    return np.asarray(full.astype(bool).ravel())
