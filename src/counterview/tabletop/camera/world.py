"""What a renderer is given: rigid bodies, their poses at one instant, and the light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from counterview.tabletop.objects.shapes import Mesh, Pose
from counterview.tabletop.surfaces.materials import Material

__all__ = ["BACKGROUND", "AreaLight", "BodyPoses", "Lighting", "RigidBody"]

BACKGROUND = -1
"""Label of bodies that are not annotated."""


@dataclass(frozen=True)
class RigidBody:
    """A mesh that moves as one piece.

    Attributes:
        mesh: in the body's own frame, metres.
        materials: one for each part of the mesh.
        label: index of the annotated object, or :data:`BACKGROUND`.
    """

    mesh: Mesh
    materials: tuple[Material, ...]
    label: int = BACKGROUND


@dataclass(frozen=True)
class BodyPoses:
    """World-from-body poses of B bodies.

    Attributes:
        rotation: ``(B, 3, 3)`` float32.
        translation: ``(B, 3)`` float32, metres.
    """

    rotation: np.ndarray
    translation: np.ndarray

    @classmethod
    def stack(cls, poses: Sequence[Pose]) -> BodyPoses:
        """Poses of B bodies, each a rotation ``(3, 3)`` and a translation ``(3,)``, as one."""
        return cls(np.array([p[0] for p in poses], np.float32), np.array([p[1] for p in poses], np.float32))


@dataclass(frozen=True)
class AreaLight:
    """A rectangular light.

    Attributes:
        centre: ``(3,)`` metres.
        half_a: ``(3,)`` from the centre to the middle of one edge.
        half_b: ``(3,)`` to the middle of a neighbouring edge.
        power: ``(3,)`` red, green, blue; irradiance at one metre.
    """

    centre: np.ndarray
    half_a: np.ndarray
    half_b: np.ndarray
    power: np.ndarray


@dataclass(frozen=True)
class Lighting:
    """All light of a scene.

    Attributes:
        key: the light that casts shadows and highlights.
        fill: a large, weak light without shadows.
        above: ``(3,)`` ambient light on surfaces that face up.
        below: ``(3,)`` ambient light on surfaces that face down.
    """

    key: AreaLight
    fill: AreaLight
    above: np.ndarray
    below: np.ndarray
