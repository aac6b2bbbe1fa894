"""A time in which the person looks away from the table, so that the head camera sees none of its objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterview.tabletop.camera.rig import EGO_HALF_ANGLE_RAD, ego_axis
from counterview.tabletop.scene.motion import ease, facing

__all__ = ["Away", "draw_away"]

_MARGIN_RAD = np.radians(4.0)
"""Kept between the rim of the head camera's image and the nearest object."""


@dataclass(frozen=True)
class Away:
    """The head turns away, stays, and turns back.

    Attributes:
        start_s: when it begins to turn away, seconds into the take.
        end_s: when it is back.
        turn_s: seconds that each of the two turns takes.
        azimuth_rad: where it points between them, from straight ahead to the person's left.
        elevation_rad: the same, above the horizon.
    """

    start_s: float
    end_s: float
    turn_s: float
    azimuth_rad: float
    elevation_rad: float

    def turned(self, forward: np.ndarray, t: float) -> np.ndarray:
        """Where the head points at ``t`` seconds.

        Args:
            forward: ``(3,)`` unit vector, where it would point if the person did not look away.
            t: seconds into the take.

        Returns:
            ``(3,)`` unit vector.
        """
        weight = ease((t - self.start_s) / self.turn_s) * ease((self.end_s - t) / self.turn_s)
        if weight == 0:
            return forward
        # By azimuth and elevation, so that a turn to the back never leads over the crown.
        azimuth, elevation = np.arctan2(-forward[0], forward[1]), np.arcsin(np.clip(forward[2], -1, 1))
        azimuth += (self.azimuth_rad - azimuth) * weight
        elevation += (self.elevation_rad - elevation) * weight
        return _direction(float(azimuth), float(elevation))


def _direction(azimuth_rad: float, elevation_rad: float) -> np.ndarray:
    flat = np.cos(elevation_rad)
    return np.array([-np.sin(azimuth_rad) * flat, np.cos(azimuth_rad) * flat, np.sin(elevation_rad)])


def draw_away(
    rng: np.random.Generator, start_s: float, end_s: float, heads: np.ndarray, points: np.ndarray
) -> tuple[Away, bool]:
    """Draw where the head points: to a side, and only as far back as it takes to lose sight of all objects.

    Args:
        rng: draws the direction.
        start_s: when the head begins to turn, seconds into the take.
        end_s: when it is back.
        heads: ``(N, 3)`` metres, places of the head during that time.
        points: ``(M, 3)`` metres, points of the objects during that time.

    Returns:
        the time away, and whether no point is in the head camera's image while the head stays there.
    """
    side = 1.0 if rng.random() < 0.5 else -1.0
    away, hidden = Away(start_s, end_s, 0.0, 0.0, 0.0), False
    for k in range(40):
        azimuth = side * np.radians(min(float(rng.uniform(95, 120)) + 2.0 * k, 175.0))
        elevation = float(rng.uniform(0.0, 0.35))
        rotation = facing(_direction(azimuth, elevation))
        # A head turns by about 110 degrees a second, from anywhere in front of it.
        away = Away(start_s, end_s, 0.3 + abs(azimuth) / 1.9, float(azimuth), elevation)
        hidden = all(_is_hidden(rotation, head, points) for head in heads)
        if hidden:
            break
    return away, hidden


def _is_hidden(rotation: np.ndarray, head: np.ndarray, points: np.ndarray) -> bool:
    """Whether all points are outside the image of the head camera."""
    eye, ahead = ego_axis((rotation, head))
    rays = points - eye
    cosines = rays @ ahead / np.maximum(np.linalg.norm(rays, axis=1), 1e-9)
    return bool(cosines.max(initial=-1.0) < np.cos(EGO_HALF_ANGLE_RAD + _MARGIN_RAD))
