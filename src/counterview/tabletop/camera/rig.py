"""Which cameras record a take, and where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterview.tabletop.camera.cameras import Camera, look_at
from counterview.tabletop.camera.sensor import Sensor, draw_sensor
from counterview.tabletop.config import TabletopConfig
from counterview.tabletop.objects.shapes import Pose

__all__ = ["EGO_HALF_ANGLE_RAD", "CameraRig", "draw_rig", "ego_axis", "ego_camera"]

_EGO_FOCAL, _EGO_CIRCLE = 0.52, 0.517
EGO_HALF_ANGLE_RAD = float(2 * np.arcsin(_EGO_CIRCLE / _EGO_FOCAL / 2))
"""From the head camera's axis to the rim of its image circle."""


@dataclass(frozen=True)
class CameraRig:
    """The cameras of a take.

    Attributes:
        ego_name: name of the head camera, which moves: :func:`ego_camera` places it.
        ego_size_hw: its image height and width, px.
        ego_sensor: its sensor.
        exposure_s: its exposure time, which blurs what moves.
        exo: the static cameras, in the order of their names.
        exo_sensors: their sensors, in the same order.
    """

    ego_name: str
    ego_size_hw: tuple[int, int]
    ego_sensor: Sensor
    exposure_s: float
    exo: tuple[Camera, ...]
    exo_sensors: tuple[Sensor, ...]


def _even(x: float) -> int:
    return max(2, round(x / 2) * 2)


def draw_rig(rng: np.random.Generator, table_half_x_m: float, config: TabletopConfig) -> CameraRig:
    """Place exo cameras around the table, mostly before and beside the person, now and then behind.

    Args:
        rng: draws names, places and sensors.
        table_half_x_m: half the width of the table, which every exo camera frames.
        config: number, distances, heights and image size of the cameras.
    """
    h, w = config.size, _even(config.size * 16 / 9)
    aria = f"aria0{int(rng.integers(1, 7))}_214-1"
    word = str(rng.choice(["cam", "gp"]))
    tall = int(rng.integers(config.cameras)) if rng.random() < config.portrait else -1
    exo: list[Camera] = []
    angles: list[float] = []
    while len(exo) < config.cameras:
        # 0 looks at the person's face, +-180 over the shoulder.
        angle = float(rng.uniform(-150, 150))
        if any(abs(angle - a) < 35 for a in angles) and len(angles) < 4 and rng.random() < 0.95:
            continue
        angles.append(angle)
        far = float(rng.uniform(config.exo_near_m, config.exo_far_m))
        high = float(rng.uniform(config.exo_low_m, config.exo_high_m))
        flat = far * np.cos(np.arctan2(high, far))
        at = np.array([flat * np.sin(np.radians(angle)), flat * np.cos(np.radians(angle)), high])
        target = np.array([rng.normal(0, 0.12), rng.normal(-0.05, 0.06), rng.normal(0.04, 0.05)])
        size = (w, h) if len(exo) == tall else (h, w)
        across = 2.0 * table_half_x_m * float(rng.uniform(0.85, 1.25))
        focal = size[1] * np.linalg.norm(at - target) / across
        if size[0] > size[1]:
            focal *= 1.25
        exo.append(
            Camera(f"{word}0{len(exo) + 1}", size, float(focal), look_at(at, target, float(rng.normal(0, 0.015))), at)
        )
    return CameraRig(
        aria,
        (h, h),
        draw_sensor(rng, True, config.harshness, config.camera_difference),
        float(rng.uniform(0.008, 0.022)),
        tuple(exo),
        tuple(draw_sensor(rng, False, config.harshness, config.camera_difference) for _ in exo),
    )


def ego_axis(head: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Where the head camera is and where it points: on the brow, tipped down as glasses are.

    Args:
        head: the head's middle and its axes (columns: right, forward, up), world from head.

    Returns:
        place ``(3,)`` metres, and direction ``(3,)``, a unit vector.
    """
    rotation, at = head
    _, forward, up = rotation.T
    tip = 0.10
    return at + forward * 0.12 + up * 0.05, forward * np.cos(tip) - up * np.sin(tip)


def ego_camera(rig: CameraRig, head: Pose) -> Camera:
    """The head camera of a person whose head is at ``head``: on the brow, tipped down as glasses are.

    Args:
        rig: name and size of the camera.
        head: the head's middle and its axes (columns: right, forward, up), world from head.
    """
    eye, ahead = ego_axis(head)
    right = head[0].T[0]
    down = np.cross(ahead, right)
    h = rig.ego_size_hw[0]
    return Camera(rig.ego_name, rig.ego_size_hw, _EGO_FOCAL * h, np.stack([right, down, ahead]), eye, _EGO_CIRCLE * h)
