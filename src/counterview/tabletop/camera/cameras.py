"""Cameras: pinhole for the exo views, equisolid-angle fisheye with an image circle for the ego view.

World axes: x right, y away from the person, z up, metres; the table's top is z = 0. Camera axes: x right, y down,
z forward. Pixel centres are at integer + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterview.tabletop.objects.shapes import VectorLike

__all__ = ["Camera", "look_at"]


def look_at(position: VectorLike, target: VectorLike, roll_rad: float = 0.0) -> np.ndarray:
    """World-to-camera rotation ``(3, 3)`` of a camera at ``position`` that looks at ``target``.

    Args:
        position: ``(3,)`` metres.
        target: ``(3,)`` metres; not straight above or below the position.
        roll_rad: turns the camera about its viewing direction.
    """
    forward = np.asarray(target, float) - np.asarray(position, float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= max(float(np.linalg.norm(right)), 1e-9)
    down = np.cross(forward, right)
    c, s = np.cos(roll_rad), np.sin(roll_rad)
    return np.stack([c * right + s * down, -s * right + c * down, forward])


@dataclass(frozen=True)
class Camera:
    """One camera at one instant.

    Attributes:
        name: as in the release; names with ``aria`` are ego.
        size_hw: image height and width, px.
        focal_px: focal length.
        world_to_camera: ``(3, 3)`` rotation.
        position: ``(3,)`` metres.
        circle_px: radius of the fisheye's image circle; None for a pinhole.
    """

    name: str
    size_hw: tuple[int, int]
    focal_px: float
    world_to_camera: np.ndarray
    position: np.ndarray
    circle_px: float | None = None

    def rays(self, x_px: np.ndarray, y_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rays through image points.

        Args:
            x_px: ``(N,)`` columns.
            y_px: ``(N,)`` rows.

        Returns:
            unit directions ``(N, 3)`` float32 in the world, and ``(N,)`` bool: inside the image circle.
        """
        x = (x_px - self.size_hw[1] / 2).astype(np.float32) / np.float32(self.focal_px)
        y = (y_px - self.size_hw[0] / 2).astype(np.float32) / np.float32(self.focal_px)
        if self.circle_px is None:
            scale = 1 / np.sqrt(x * x + y * y + 1)
            local = np.stack([x * scale, y * scale, scale], -1)
            inside = np.ones(x.shape, bool)
        else:
            # Equisolid: r = 2 f sin(theta / 2), so sin(theta) / r has a closed form.
            r2 = x * x + y * y
            half = np.sqrt(np.clip(1 - r2 / 4, 0, 1))
            local = np.stack([x * half, y * half, 1 - r2 / 2], -1)
            inside = r2 <= (self.circle_px / self.focal_px) ** 2
        rotation = self.world_to_camera.astype(np.float32)
        # Written out rather than as a matrix product: BLAS may differ in the last bit between machines.
        out = local[:, :1] * rotation[0] + local[:, 1:2] * rotation[1] + local[:, 2:] * rotation[2]
        return out.astype(np.float32), inside

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project world points.

        Args:
            points: ``(N, 3)`` metres.

        Returns:
            pixels ``(N, 2)`` as (x, y), and ``(N,)`` bool: in front of the camera and inside the image.
        """
        local = (np.asarray(points, np.float32) - self.position.astype(np.float32)) @ self.world_to_camera.T.astype(
            np.float32
        )
        if self.circle_px is None:
            z = np.where(local[:, 2] > 1e-4, local[:, 2], 1e-4)
            xy = local[:, :2] / z[:, None] * self.focal_px
            ahead = local[:, 2] > 1e-4
        else:
            norm = np.maximum(np.linalg.norm(local, axis=1), 1e-9)
            cos = local[:, 2] / norm
            flat = np.maximum(np.linalg.norm(local[:, :2], axis=1), 1e-9)
            r = 2 * self.focal_px * np.sqrt(np.clip((1 - cos) / 2, 0, 1))
            xy = local[:, :2] / flat[:, None] * r[:, None]
            ahead = r <= self.circle_px
        h, w = self.size_hw
        xy = xy + np.array([w / 2, h / 2], np.float32)
        inside = ahead & (xy[:, 0] >= 0) & (xy[:, 0] < w) & (xy[:, 1] >= 0) & (xy[:, 1] < h)
        return xy, inside
