"""The person at the table: two articulated hands, arms, torso and head, all of rigid pieces.

Hand frame: origin at the wrist, x along the fingers, z out of the back of the hand, so the palm looks along -z;
the thumb is on +y for the right hand and on -y for the left. Metres and radians.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from counterview.tabletop.camera.world import RigidBody
from counterview.tabletop.objects.shapes import Pose, ellipsoid, loft, merge, revolve, rotation_matrix, transform, tube
from counterview.tabletop.scene.room import FLOOR_M
from counterview.tabletop.surfaces.materials import Material, pick_colour, plastic
from counterview.tabletop.surfaces.textures import cloth, noise

__all__ = [
    "FINGERS",
    "OPEN",
    "PersonPose",
    "close_fingers",
    "elbow_of",
    "finger_joints",
    "make_person",
    "person_poses",
    "reach_limit",
]

FINGERS = (
    ((0.024, 0.030, -0.010), (0.046, 0.034, 0.026), 0.0115),
    ((0.095, 0.031, 0.0), (0.044, 0.026, 0.020), 0.0088),
    ((0.098, 0.010, 0.0), (0.047, 0.030, 0.021), 0.0090),
    ((0.095, -0.011, 0.0), (0.044, 0.028, 0.021), 0.0086),
    ((0.088, -0.030, 0.0), (0.035, 0.021, 0.019), 0.0076),
)
"""Base (x, y, z) in the frame of the right hand, lengths of the three phalanges, radius; metres, thumb first."""
OPEN = np.array([[0.05, 0.1, 0.1], *([[0.12, 0.15, 0.1]] * 4)])
"""Joint angles ``(5, 3)`` of an open hand."""

_FULL = np.array([[0.9, 0.8, 0.8], *([[1.45, 1.5, 1.1]] * 4)])
_UPPER, _FORE = 0.30, 0.27


def reach_limit() -> float:
    """Longest distance from shoulder to wrist, metres."""
    return _UPPER + _FORE - 0.015


def _finger_frame(finger: int, side: float, opposed: float) -> np.ndarray:
    """Axes ``(3, 3)`` of a finger's base (columns: along, across, back); ``opposed`` swings the thumb inwards."""
    if finger:
        spread = (0.0, 0.07, 0.0, -0.06, -0.14)[finger] * side
        return rotation_matrix((0, 0, 1), spread)
    along = (1 - opposed) * np.array([0.74, 0.62, -0.25]) + opposed * np.array([0.46, 0.30, -0.84])
    goal = (1 - opposed) * np.array([0.8, -0.5, -0.3]) + opposed * np.array([0.9, -0.15, 0.2])
    along, goal = along * (1, side, 1), goal * (1, side, 1)
    along = along / np.linalg.norm(along)
    across = np.cross(along, goal)
    across /= np.linalg.norm(across)
    # Curling turns "along" about "across" towards "goal".
    return np.stack([along, across, np.cross(along, across)], -1)


def finger_chain(finger: int, angles: np.ndarray, side: float, opposed: float = 0.0) -> list[Pose]:
    """Poses of one finger's three phalanges in the hand frame.

    Args:
        finger: 0 for the thumb, 4 for the little finger.
        angles: ``(3,)`` joint angles, radians, from the palm outwards.
        side: 1 for the right hand, -1 for the left.
        opposed: 0 to 1, how far the thumb swings under the palm.
    """
    base, lengths, _ = FINGERS[finger]
    frame = _finger_frame(finger, side, opposed)
    at = np.array([base[0], base[1] * side, base[2]])
    chain = []
    for joint in range(3):
        c, s = np.cos(angles[joint]), np.sin(angles[joint])
        frame = frame @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        chain.append((frame, at))
        at = at + frame[:, 0] * lengths[joint]
    return chain


def finger_joints(angles: np.ndarray, side: float, opposed: float = 0.0) -> list[list[Pose]]:
    """Poses of the phalanges in the hand frame, five fingers of three.

    Args:
        angles: ``(5, 3)`` joint angles, thumb first.
        side: 1 for the right hand, -1 for the left.
        opposed: 0 to 1, how far the thumb swings under the palm.
    """
    return [finger_chain(f, angles[f], side, opposed) for f in range(len(FINGERS))]


def close_fingers(distance: Callable[[np.ndarray], np.ndarray], side: float, opposed: float) -> np.ndarray:
    """Curl each joint until the finger touches: joint angles ``(5, 3)``.

    Args:
        distance: signed distance ``(N,)`` in metres of points ``(N, 3)`` in the hand frame to whatever stops a finger.
        side: 1 for the right hand, -1 for the left.
        opposed: 0 to 1, how far the thumb swings under the palm.
    """
    angles = OPEN.copy()
    for f, (_, lengths, radius) in enumerate(FINGERS):
        for joint in range(3):
            free = False  # an open finger may start out in the way: it curls until it is not
            for step in np.linspace(OPEN[f, joint], _FULL[f, joint], 20):
                trial = angles[f].copy()
                trial[joint] = step
                points = [
                    at + frame[:, 0] * lengths[k] * s
                    for k, (frame, at) in enumerate(finger_chain(f, trial, side, opposed))
                    if k >= joint
                    for s in (0.25, 0.5, 0.75, 1.0)
                ]
                if float(distance(np.asarray(points)).min()) >= radius * 0.92:
                    angles[f], free = trial, True
                elif free:
                    break
    return angles


def _capsule(length: float, r0: float, r1: float, flat: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spine, half widths and half heights, for :func:`loft`, of a rounded rod along x from radius r0 to r1."""
    t = np.array([-1.0, -0.8, -0.4, 0.0])
    x = np.concatenate([t * r0, [length / 2], length - t[::-1] * r1])
    r = np.concatenate(
        [
            r0 * np.sqrt(np.maximum(1 - t**2, 0.02)),
            [(r0 + r1) / 2 * 1.02],
            r1 * np.sqrt(np.maximum(1 - t[::-1] ** 2, 0.02)),
        ]
    )
    return np.stack([x, np.zeros_like(x), np.zeros_like(x)], -1), r, r * flat


@dataclass(frozen=True)
class PersonPose:
    """A person at one instant; pairs are (right, left).

    Attributes:
        head: its middle, and its axes as columns: right, forward, up.
        wrists: frames of the hands.
        angles: ``(5, 3)`` joint angles each, radians.
        opposed: opposition of the thumbs, 0 to 1.
        shoulders: ``(3,)`` each, metres.
        hips: ``(3,)`` metres.
    """

    head: Pose
    wrists: tuple[Pose, Pose]
    angles: tuple[np.ndarray, np.ndarray]
    opposed: tuple[float, float]
    shoulders: tuple[np.ndarray, np.ndarray]
    hips: np.ndarray


def make_person(rng: np.random.Generator) -> list[RigidBody]:
    """Draw a person: bodies in the order of :func:`person_poses`.

    Per hand palm, 15 phalanges, forearm, upper arm; then torso, legs, head.
    """
    tone = rng.uniform(0, 1)
    base = np.array([236, 196, 168]) * (1 - tone) + np.array([112, 74, 52]) * tone
    grain = 1 + 0.05 * noise(rng, (64, 64), (6, 6), 3)[..., None] * np.array([0.6, 1.0, 1.0])
    skin = Material(np.clip(base * grain, 0, 255).astype(np.uint8), 0.12, 14)
    nail = Material(
        np.clip(np.ones((8, 8, 3)) * (base * 0.75 + np.array([64, 52, 50])), 0, 255).astype(np.uint8), 0.4, 40
    )
    wear = [pick_colour(rng), pick_colour(rng)]
    shirt = Material(cloth(rng, wear, (128, 128), 10, str(rng.choice(["plain", "stripes", "checks"]))), 0.0, 8)
    hair = Material(
        np.clip(
            np.array([[[70, 50, 36]]])
            * rng.uniform(0.3, 1.8)
            * (1 + 0.3 * noise(rng, (32, 64), (2, 40), 2)[..., None]),
            0,
            255,
        ).astype(np.uint8),
        0.2,
        15,
    )
    long_sleeves = rng.random() < 0.55
    bodies = []
    for side in (1.0, -1.0):
        x = np.array([-0.012, 0.0, 0.02, 0.05, 0.08, 0.098, 0.106])
        wide = np.array([0.022, 0.027, 0.031, 0.039, 0.042, 0.040, 0.032])
        thick = np.array([0.016, 0.019, 0.018, 0.016, 0.0145, 0.0115, 0.006])
        palm = loft(np.stack([x, 0 * x, 0 * x - 0.002], -1), wide, thick, 0, 14, 2.7)
        heel = transform(
            ellipsoid((0.032, 0.017, 0.015), 0, 12),
            rotation_matrix((0, 0, 1), 0.5 * side),
            (0.036, 0.022 * side, -0.010),
        )
        bodies.append(RigidBody(merge([palm, heel]), (skin,)))
        for _, lengths, radius in FINGERS:
            for joint in range(3):
                r0, r1 = radius * (1.06 - 0.08 * joint), radius * (0.98 - 0.09 * joint)
                piece = loft(*_capsule(lengths[joint], r0, r1), 0, 10)
                if joint == 2:
                    tip = ellipsoid((0.0068, radius * 0.62, 0.0016), 1, 10)
                    piece = merge([piece, transform(tip, None, (lengths[2] * 0.86, 0, r1 * 0.93))])
                bodies.append(RigidBody(piece, (skin, nail)))
        fore = loft(*_capsule(_FORE, 0.043, 0.0265, 0.9), 0, 14)
        x = np.array([-0.055, -0.048, -0.03, 0.0, 0.08, 0.19, 0.215])
        wide = np.array([0.012, 0.03, 0.046, 0.053, 0.052, 0.041, 0.039])
        cuff = loft(np.stack([x, 0 * x, 0 * x], -1), wide, wide * 0.92, 1, 14)
        short = loft(*_capsule(_UPPER, 0.052, 0.034), 0, 14)
        sleeve = loft(*_capsule(_UPPER * (1.0 if long_sleeves else 0.5), 0.064, 0.05), 1, 14)
        bodies.append(RigidBody(merge([fore, cuff]) if long_sleeves else fore, (skin, shirt)))
        bodies.append(RigidBody(merge([short, sleeve]), (skin, shirt)))
    z = np.array([-0.5, -0.45, -0.3, -0.1, 0.05, 0.14, 0.19])
    torso = loft(
        np.stack([0 * z, np.array([0, 0, 0, 0.01, 0, -0.01, -0.01]), z], -1),
        [0.12, 0.165, 0.155, 0.18, 0.195, 0.14, 0.065],
        [0.09, 0.115, 0.11, 0.12, 0.11, 0.09, 0.06],
        0,
        20,
        2.3,
        up=(0, -1, 0),
    )
    neck = transform(
        loft(*_capsule(0.10, 0.053, 0.05), 1, 12), rotation_matrix((0, 1, 0), -np.pi / 2), (0, -0.005, 0.14)
    )
    bodies.append(RigidBody(merge([torso, neck]), (shirt, skin)))
    trousers = Material(cloth(rng, [(52, 56, 72), (60, 64, 80)], (64, 64), 6, "plain"), 0.0, 8)
    seat = revolve(
        [([(0.03, -0.42), (0.03, -0.05)], 1), ([(0.03, -0.05), (0.19, -0.05), (0.19, 0.0), (0, 0.0)], 1)], 20
    )
    legs = [seat]
    for s in (-1, 1):
        thigh = tube(
            np.array([[s * 0.09, -0.05, 0.07], [s * 0.10, 0.15, 0.07], [s * 0.12, 0.4, 0.05], [s * 0.12, 0.43, 0.03]]),
            [0.085, 0.09, 0.065, 0.05],
            0,
            12,
        )
        shin = tube(
            np.array([[s * 0.12, 0.41, 0.06], [s * 0.12, 0.39, -0.2], [s * 0.12, 0.38, -0.42]]),
            [0.06, 0.055, 0.045],
            0,
            12,
            (0, 1, 0),
        )
        legs += [thigh, shin]
    bodies.append(RigidBody(merge(legs), (trousers, plastic(rng, (70, 66, 62), 0.2))))
    face = ellipsoid((0.076, 0.095, 0.115), 0, 24)
    crown = transform(ellipsoid((0.084, 0.098, 0.105), 1, 24), None, (0, -0.018, 0.03))
    nose = transform(ellipsoid((0.012, 0.016, 0.02), 0, 8), None, (0, 0.096, -0.012))
    glasses = [transform(ellipsoid((0.026, 0.006, 0.02), 2, 12), None, (s * 0.034, 0.088, 0.012)) for s in (-1, 1)]
    dark = Material(np.full((8, 8, 3), 40, np.uint8), 0.7, 60)
    bodies.append(RigidBody(merge([face, crown, nose, *glasses]), (skin, hair, dark)))
    return bodies


def _bone(start: np.ndarray, end: np.ndarray, up: np.ndarray) -> Pose:
    """Frame at ``start`` whose x runs to ``end`` and whose z is near ``up``; all ``(3,)``."""
    x = (end - start) / max(float(np.linalg.norm(end - start)), 1e-9)
    y = np.cross(up, x)
    y /= max(float(np.linalg.norm(y)), 1e-9)
    return np.stack([x, y, np.cross(x, y)], -1), start


def elbow_of(shoulder: np.ndarray, wrist: np.ndarray, side: float) -> np.ndarray:
    """Elbow ``(3,)`` between a shoulder and a wrist ``(3,)``, by two-bone inverse kinematics.

    The elbow sticks out sideways (``side``: 1 right, -1 left) and a little down.
    """
    way = wrist - shoulder
    d = float(np.clip(np.linalg.norm(way), 0.08, _UPPER + _FORE - 1e-4))
    way = way / max(float(np.linalg.norm(way)), 1e-9)
    along = (d * d + _UPPER**2 - _FORE**2) / (2 * d)
    off = np.sqrt(max(_UPPER**2 - along**2, 0.0))
    pole = np.array([0.85 * side, -0.45, -0.12])
    pole = pole - way * (pole @ way)
    return np.asarray(shoulder + way * along + pole / max(float(np.linalg.norm(pole)), 1e-9) * off)


def person_poses(pose: PersonPose) -> list[Pose]:
    """World poses of the bodies of :func:`make_person`."""
    out: list[Pose] = []
    for k, side in enumerate((1.0, -1.0)):
        rotation, at = pose.wrists[k]
        out.append((rotation, at))
        for chain in finger_joints(pose.angles[k], side, pose.opposed[k]):
            out.extend((rotation @ r, at + rotation @ t) for r, t in chain)
        elbow = elbow_of(pose.shoulders[k], at, side)
        out.append(_bone(elbow, at, np.array([0.2 * side, 0.1, 1.0])))
        out.append(_bone(pose.shoulders[k], elbow, np.array([0.3 * side, 0.1, 1.0])))
    middle = (pose.shoulders[0] + pose.shoulders[1]) / 2
    up = middle - pose.hips
    up = up / np.linalg.norm(up)
    right = pose.shoulders[0] - pose.shoulders[1]
    forward = np.cross(up, right)
    forward /= np.linalg.norm(forward)
    out.append((np.stack([np.cross(forward, up), forward, up], -1), middle - up * 0.08))
    out.append((np.eye(3), np.array([pose.hips[0], pose.hips[1], FLOOR_M + 0.42])))
    out.append(pose.head)
    return out
