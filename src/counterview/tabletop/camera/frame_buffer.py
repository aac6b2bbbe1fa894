"""What a renderer keeps of a camera's last frame, and which of its pixels a movement can have changed."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from counterview.tabletop.camera.cameras import Camera
from counterview.tabletop.camera.world import AreaLight, BodyPoses

__all__ = ["AMBIENT_REACH_M", "FrameBuffer", "stale_pixels"]

AMBIENT_REACH_M = 0.3
"""How far ambient occlusion reaches, metres."""
_CELL = 4


class FrameBuffer:
    """The pixels of one camera, flattened to ``P = H * W``, row by row.

    Args:
        pixels: P.
        camera: whose rays are kept.
        x: ``(P,)`` column of each pixel.
        y: ``(P,)`` row of each pixel.

    Attributes:
        poses: of the bodies when the pixels were traced.
        dirs: ``(P, 3)`` float32 unit directions of the rays.
        inside: ``(P,)`` bool, within the image circle.
        depth: ``(P,)`` float32, length of the ray, metres.
        labels: ``(P,)`` int16, as in :class:`~counterview.tabletop.camera.render.RenderedImage`.
        key: ``(P,)`` int32, equal for pixels of one material and one facing: smoothing stays within a key.
        vis: ``(P, 2)`` float32, visibility of the key light and of the surroundings.
        light: ``(P, 3)`` float32, linear.
    """

    def __init__(self, pixels: int, camera: Camera, x: np.ndarray, y: np.ndarray) -> None:
        self.poses: BodyPoses
        self.dirs, self.inside = camera.rays(x + 0.5, y + 0.5)
        self.depth = np.zeros(pixels, np.float32)
        self.labels = np.full(pixels, -2, np.int16)
        self.key = np.full(pixels, -1, np.int32)
        self.vis = np.zeros((pixels, 2), np.float32)
        self.light = np.zeros((pixels, 3), np.float32)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2])


def stale_pixels(
    camera: Camera, dirs: np.ndarray, depth: np.ndarray, moved: Sequence[tuple[np.ndarray, float]], light: AreaLight
) -> np.ndarray:
    """Pixels ``(H * W,)`` bool that a movement can have changed; some of them may not have changed.

    Args:
        camera: stands still.
        dirs: ``(H * W, 3)`` unit directions of the rays.
        depth: ``(H * W,)`` where the rays ended in the last frame, metres.
        moved: spheres (centre ``(3,)``, radius) about all that moved, before and after.
        light: the light that casts shadows.
    """
    h, w = camera.size_hw
    d = dirs.reshape(h, w, 3)[::_CELL, ::_CELL]
    p = camera.position.astype(np.float32) + d * depth.reshape(h, w)[::_CELL, ::_CELL, None]
    to_light = light.centre.astype(np.float32) - p
    length2 = np.maximum(_dot(to_light, to_light), 1e-6)
    light_radius = float(np.hypot(np.linalg.norm(light.half_a), np.linalg.norm(light.half_b)))
    stale = np.zeros(p.shape[:2], bool)
    pixel = _CELL * 2.0 / camera.focal_px
    for centre, radius in moved:
        c = centre.astype(np.float32)
        # In the line of sight: the ray passes within the sphere.
        away = c - camera.position.astype(np.float32)
        along = d @ away
        off2 = float(away @ away) - along * along
        stale |= (off2 < (radius + pixel * np.maximum(along, 0) + 0.01) ** 2) & (along > -radius)
        # Near by: ambient occlusion. Between the point and the light: shadow.
        q = c - p
        stale |= _dot(q, q) < (radius + AMBIENT_REACH_M) ** 2
        s = np.clip(_dot(q, to_light) / length2, 0, 1)
        gap = q - s[..., None] * to_light
        stale |= _dot(gap, gap) < (radius + light_radius * s + 0.02) ** 2
    grown = cv2.dilate(stale.astype(np.uint8), np.ones((3, 3), np.uint8))
    full = np.repeat(np.repeat(grown, _CELL, 0), _CELL, 1)[:h, :w]
    return np.asarray(full.astype(bool).ravel())
