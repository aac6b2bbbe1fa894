"""How hands and head get from one pose to another: smooth in time, and over what is in the way."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from counterview.tabletop.objects.shapes import Pose

__all__ = ["ease", "facing", "travel"]


def ease(u: float) -> float:
    """Minimum-jerk blend from 0 to 1."""
    u = min(max(u, 0.0), 1.0)
    return min(1.0, u * u * u * (10 + u * (6 * u - 15)))


def travel(a: Pose, b: Pose, u: float, clear_m: float) -> Pose:
    """Free movement of a hand from a to b, over whatever is lower than ``clear_m``."""
    s = ease(u)
    turns = Slerp([0.0, 1.0], Rotation.from_matrix(np.stack([a[0], b[0]])))
    at = a[1] + (b[1] - a[1]) * s
    bump = max(0.0, clear_m - float(min(a[1][2], b[1][2])))
    at = at + np.array([0, 0, bump * np.sin(np.pi * min(max(u, 0.0), 1.0)) ** 2 * (0.6 if bump < 0.1 else 0.9)])
    return np.asarray(turns(s).as_matrix()), at


def facing(forward: np.ndarray) -> np.ndarray:
    """Rotation ``(3, 3)`` of an upright head, world from head; its columns are right, forward and up.

    Args:
        forward: ``(3,)`` unit vector, where the head points; not straight up or down.
    """
    right = np.cross(forward, (0, 0, 1.0))
    right /= np.linalg.norm(right)
    return np.stack([right, forward, np.cross(right, forward)], -1)
