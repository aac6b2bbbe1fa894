"""How a hand grasps a thing: where the wrist goes and how far each finger curls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from counterview.tabletop.objects.catalogue import Thing
from counterview.tabletop.objects.shapes import Pose, rotation_matrix
from counterview.tabletop.scene.hands import FINGERS, OPEN, close_fingers, finger_chain, finger_joints

__all__ = ["Grasp", "box_distance", "grasps", "relaxed", "solid_distance"]

_PALM_M = 0.0165
"""From the middle of the palm to its skin."""


@dataclass(frozen=True)
class Grasp:
    """One hand on one thing.

    Attributes:
        hand: 0 right, 1 left.
        wrist: frame of the hand, world from hand, when the fingers are closed.
        angles: ``(5, 3)`` joint angles, radians, thumb first.
        opposed: opposition of the thumb, 0 to 1.
        retreat: ``(3,)`` metres, from the grasp to where the open hand starts and ends.
    """

    hand: int
    wrist: Pose
    angles: np.ndarray
    opposed: float
    retreat: np.ndarray


def box_distance(points: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Signed distance ``(N,)`` of points ``(N, 3)`` to a box about the origin; negative inside.

    Args:
        points: metres, in the box's frame.
        half: ``(3,)`` half extents of the box.
    """
    q = np.abs(points) - half
    return np.asarray(np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0))


def solid_distance(thing: Thing) -> Callable[[np.ndarray], np.ndarray]:
    """Signed distance to a simple solid that encloses a thing.

    Upright round things are the solid of revolution of their outline, the others their box. A bowl is its wall alone,
    so that fingers may go inside.

    Returns:
        a function from points ``(N, 3)``, metres, in the thing's own frame, to ``(N,)``.
    """
    x0 = axis_x(thing)
    if thing.lying or thing.kind in ("carton", "pan", "banana") or thing.name == "banana":
        half = np.array([*thing.half_xy, thing.height / 2])
        if thing.kind == "pan":
            grip = np.array([0.09, 0.012, 0.009])
            middle = np.array([thing.half_xy[0] - 0.09, 0.0, thing.height - 0.012])
            round_part = np.array([thing.half_xy[1], thing.half_xy[1], thing.height / 2])
            bowl = np.array([thing.half_xy[1] - thing.half_xy[0], 0, thing.height / 2])
            return lambda p: np.minimum(box_distance(p - middle, grip), box_distance(p - bowl, round_part * 0.96))
        return lambda p: box_distance(p - np.array([0, 0, half[2]]), half)
    v = thing.mesh.vertices
    z = np.linspace(0, thing.height, 24)
    radial = np.hypot(v[:, 0] - x0, v[:, 1])
    body = radial <= thing.half_xy[1] + 1e-4
    reach = np.array([radial[body & (np.abs(v[:, 2] - h) < 0.02)].max(initial=0.005) for h in z])
    wide = np.interp(z, z, reach)

    def wall(p: np.ndarray) -> np.ndarray:
        gap = np.abs(np.hypot(p[:, 0], p[:, 1]) - np.interp(p[:, 2], z, wide)) - 0.003
        return np.asarray(np.hypot(np.maximum(gap, 0), np.maximum(p[:, 2] - thing.height, 0)))

    if thing.kind == "bowl":
        return wall

    def distance(p: np.ndarray) -> np.ndarray:
        side = np.hypot(p[:, 0] - x0, p[:, 1]) - np.interp(p[:, 2], z, wide)
        above = np.maximum(p[:, 2] - thing.height, -p[:, 2])
        return np.asarray(np.where(above > 0, np.hypot(above, np.maximum(side, 0)), np.maximum(side, above)))

    return distance


def axis_x(thing: Thing) -> float:
    """x of the axis of revolution in a thing's own frame, metres: the footprint of a mug with its handle is centred."""
    return thing.half_xy[1] - thing.half_xy[0] if thing.kind in ("mug",) else 0.0


def _pinch(distance: Callable[[np.ndarray], np.ndarray], side: float, opposed: float) -> np.ndarray:
    """Joint angles ``(5, 3)`` of bent fingers, each turned at its base until it almost touches."""
    angles = np.array([[0.2, 0.35, 0.3], *([[0.5, 0.55, 0.4]] * 4)])
    for f, (_, lengths, radius) in enumerate(FINGERS):
        best, best_gap = angles[f, 0], np.inf
        widest, widest_at = -np.inf, angles[f, 0]
        for step in np.linspace(-0.25, 1.3, 32):
            trial = angles[f].copy()
            trial[0] = step
            points = [
                at + frame[:, 0] * lengths[k] * s
                for k, (frame, at) in enumerate(finger_chain(f, trial, side, opposed))
                for s in (0.3, 0.6, 1.0)
            ]
            room = float(distance(np.asarray(points)).min()) - radius * 0.92
            if room > widest:
                widest, widest_at = room, step
            if 0 <= room < best_gap:
                best, best_gap = step, room
        angles[f, 0] = best if np.isfinite(best_gap) else widest_at
    return angles


def _tips(angles: np.ndarray, side: float, opposed: float) -> np.ndarray:
    chains = finger_joints(angles, side, opposed)
    return np.array([at + frame[:, 0] * FINGERS[f][1][2] for f, (frame, at) in enumerate(c[2] for c in chains)])


def _finish(
    thing: Thing, place: Pose, hand: int, wrist: Pose, opposed: float, retreat: np.ndarray, pinch: bool
) -> Grasp:
    solid = solid_distance(thing)
    side = 1.0 if hand == 0 else -1.0

    def distance(p: np.ndarray) -> np.ndarray:
        world = p @ wrist[0].T + wrist[1]
        return np.minimum(solid((world - place[1]) @ place[0]), world[:, 2] - min(0.0, float(place[1][2])))

    if pinch:
        return Grasp(hand, wrist, _pinch(distance, side, opposed), opposed, retreat)
    # The thumb goes under the palm as far as the thing leaves room for it.
    for swing in (opposed, 0.7 * opposed, 0.4 * opposed, 0.15 * opposed, 0.0):
        angles = close_fingers(distance, side, swing)
        chain = finger_chain(0, angles[0], side, swing)
        points = [at + frame[:, 0] * FINGERS[0][1][k] * s for k, (frame, at) in enumerate(chain) for s in (0.5, 1.0)]
        if float(distance(np.asarray(points)).min()) > 0.6 * FINGERS[0][2]:
            break
    return Grasp(hand, wrist, angles, swing, retreat)


def _from_side(thing: Thing, place: Pose, hand: int, ahead: np.ndarray) -> Grasp:
    side = 1.0 if hand == 0 else -1.0
    x = rotation_matrix((0, 0, 1), 0.35 * side) @ ahead
    x = np.array([x[0] * np.cos(0.14), x[1] * np.cos(0.14), -np.sin(0.14)])
    z = np.cross(x, (0, 0, 1.0)) * side
    z /= np.linalg.norm(z)
    rotation = np.stack([x, np.cross(z, x), z], -1)
    height = float(np.clip(thing.height * 0.5, 0.052, 0.16))
    v = thing.mesh.vertices.astype(float)
    near = np.abs(v[:, 2] - height) < 0.045
    if thing.kind == "mug":
        near &= np.hypot(v[:, 0] - axis_x(thing), v[:, 1]) <= thing.half_xy[1] + 1e-4
    centre = np.array([axis_x(thing), 0, height])
    reach = float((((v[near] - centre) @ place[0].T) @ (z * (1, 1, 0))).max()) if near.any() else max(thing.half_xy)
    at = place[0] @ centre + place[1] - rotation @ np.array([0.080, 0, -(_PALM_M + reach)])
    return _finish(thing, place, hand, (rotation, at), 1.0, z * 0.09 - x * 0.06 + np.array([0, 0, 0.02]), False)


def _from_above(thing: Thing, place: Pose, hand: int, ahead: np.ndarray) -> Grasp:
    side = 1.0 if hand == 0 else -1.0
    across = place[0] @ np.array([0.0, 1.0, 0.0])
    across = across * np.sign(across @ ahead + 1e-9)
    flat = across if thing.half_xy[0] > 1.8 * thing.half_xy[1] and across @ ahead > 0.45 else ahead
    pitch = 0.85
    x = flat * np.cos(pitch) - np.array([0, 0, np.sin(pitch)])
    z = flat * np.sin(pitch) + np.array([0, 0, np.cos(pitch)])
    rotation = np.stack([x, np.cross(z, x), z], -1)
    shape = np.array([[0.25, 0.35, 0.3], *([[0.62, 0.55, 0.4]] * 4)])
    tips = _tips(shape, side, 0.8)
    meet = (tips[0] + (tips[1] + tips[2]) / 2) / 2
    local = np.array([0.0, 0.0, max(thing.height * 0.6, 0.012)])
    if thing.kind == "pan":
        local = np.array([thing.half_xy[0] - 0.055, 0.0, thing.height - 0.012])
    if thing.kind == "bowl":  # by the rim on the near side, thumb outside
        local = place[0].T @ (-ahead * thing.half_xy[1]) + np.array([0.0, 0.0, thing.height - 0.022])
    at = place[0] @ local + place[1] - rotation @ meet
    return _finish(thing, place, hand, (rotation, at), 0.8, np.array([0, 0, 0.13]) - x * 0.03, True)


def _with_both(thing: Thing, place: Pose, ahead: np.ndarray) -> list[Grasp]:
    out = []
    for hand, side in ((0, 1.0), (1, -1.0)):
        x = ahead * np.cos(0.3) - np.array([0, 0, np.sin(0.3)])
        outward = np.cross(ahead, (0, 0, 1.0)) * side
        z = outward * np.cos(0.35) + np.array([0, 0, np.sin(0.35)])
        z = z - x * (z @ x)
        z /= np.linalg.norm(z)
        rotation = np.stack([x, np.cross(z, x), z], -1)
        height = float(np.clip(thing.height * 0.6, 0.05, 0.12))
        v = thing.mesh.vertices.astype(float)
        reach = float(((v * (1, 1, 0)) @ place[0].T @ outward).max())
        at = np.array([0, 0, height]) + place[1] + outward * (reach + _PALM_M) - x * 0.085
        out.append(_finish(thing, place, hand, (rotation, at), 0.35, z * 0.09 - x * 0.03, False))
    return out


def grasps(thing: Thing, place: Pose, hand: int, shoulder: np.ndarray) -> list[Grasp]:
    """Grasp a thing where it stands: one grasp, or two for what takes both hands (then ``hand`` is ignored).

    Args:
        thing: what to grasp.
        place: its pose, world from thing.
        hand: 0 right, 1 left.
        shoulder: ``(3,)`` metres, of that hand: the grasp comes from its direction.
    """
    ahead = (place[1] - shoulder) * (1, 1, 0)
    ahead = ahead / max(float(np.linalg.norm(ahead)), 1e-6)
    if thing.two_handed or thing.kind == "book":
        mixed = ahead * 0.2 + np.array([0, 0.8, 0])
        return _with_both(thing, place, mixed / np.linalg.norm(mixed))
    if thing.lying or thing.kind in ("fruit", "pan", "bowl") or thing.height < 0.055:
        return [_from_above(thing, place, hand, ahead)]
    return [_from_side(thing, place, hand, ahead)]


def relaxed(hand: int, wrist: Pose) -> Grasp:
    """An open hand at rest."""
    angles = OPEN + np.array([[0.15, 0.1, 0.1], *([[0.22, 0.3, 0.2]] * 4)])
    return Grasp(hand, wrist, angles, 0.0, np.zeros(3))
