"""A scene before anything moves: room, table, clutter and things on the table, laid out so that nothing overlaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterview.tabletop.camera.world import Lighting, RigidBody
from counterview.tabletop.config import TabletopConfig
from counterview.tabletop.objects.catalogue import Thing, draw_things, seeded
from counterview.tabletop.objects.shapes import Pose, rotation_matrix, transform
from counterview.tabletop.scene.room import TableTop, furnish, illuminate, make_table, table_clutter

__all__ = [
    "Footprint",
    "Placement",
    "TabletopScene",
    "build_scene",
    "fits_on_table",
    "footprint_of",
    "footprints_touch",
]


@dataclass(frozen=True)
class Footprint:
    """The rectangle that something occupies on the table, and its height.

    Attributes:
        x: of the middle, metres.
        y: of the middle.
        half_x: half extent along its own x axis.
        half_y: half extent along its own y axis.
        yaw: rotation about z, radians.
        height: metres above the table.
    """

    x: float
    y: float
    half_x: float
    half_y: float
    yaw: float
    height: float


@dataclass(frozen=True)
class Placement:
    """Where a thing stands: the middle of its base (x, y, z) in metres, and its yaw in radians."""

    x: float
    y: float
    z: float
    yaw: float

    def pose(self) -> Pose:
        """Rotation ``(3, 3)`` and translation ``(3,)``, world from thing."""
        return rotation_matrix((0, 0, 1), self.yaw), np.array([self.x, self.y, self.z])


@dataclass(frozen=True)
class TabletopScene:
    """Everything that does not move by itself.

    Attributes:
        table: size of the table's top.
        fixed: room, furniture, table and clutter, already in world coordinates.
        things: annotated objects.
        names: one for each thing, unique within the scene.
        placements: where each thing stands at first.
        clutter: footprints of what is on the table and not annotated.
        lighting: of the room.
    """

    table: TableTop
    fixed: tuple[RigidBody, ...]
    things: tuple[Thing, ...]
    names: tuple[str, ...]
    placements: tuple[Placement, ...]
    clutter: tuple[Footprint, ...]
    lighting: Lighting


def _corners(s: Footprint, gap: float) -> np.ndarray:
    """Corners ``(4, 2)`` of a footprint grown by ``gap`` on each side."""
    c, n = np.cos(s.yaw), np.sin(s.yaw)
    x, y = s.half_x + gap, s.half_y + gap
    local = np.array([[x, y], [-x, y], [-x, -y], [x, -y]])
    return local @ np.array([[c, n], [-n, c]]) + (s.x, s.y)


def footprints_touch(a: Footprint, b: Footprint, gap: float = 0.012) -> bool:
    """Whether two rectangles are nearer than ``gap`` metres (separating axes)."""
    p, q = _corners(a, gap / 2), _corners(b, gap / 2)
    for yaw in (a.yaw, a.yaw + np.pi / 2, b.yaw, b.yaw + np.pi / 2):
        axis = np.array([np.cos(yaw), np.sin(yaw)])
        u, v = p @ axis, q @ axis
        if u.max() < v.min() or v.max() < u.min():
            return False
    return True


def footprint_of(thing: Thing, placement: Placement) -> Footprint:
    """Footprint of a thing at a placement."""
    return Footprint(placement.x, placement.y, *thing.half_xy, placement.yaw, thing.height)


def fits_on_table(footprint: Footprint, table: TableTop, margin: float = 0.03) -> bool:
    """Whether a footprint is on the table, ``margin`` metres from its edge."""
    corners = np.abs(_corners(footprint, 0.0))
    return bool((corners[:, 0] < table.half_x - margin).all() and (corners[:, 1] < table.half_y - margin).all())


def _yaw(rng: np.random.Generator, thing: Thing) -> float:
    """Draw a yaw: packets and books mostly face a side of the table, other things any direction."""
    if thing.kind in ("carton", "book"):
        return float(rng.choice([0.0, 0.0, np.pi, np.pi / 2]) + rng.normal(0, 0.35))
    return float(rng.uniform(0, 2 * np.pi))


def _number(names: list[str]) -> tuple[str, ...]:
    """Append the running number that Ego-Exo4D's object names end with."""
    counts: dict[str, int] = {}
    out = []
    for name in names:
        out.append(f"{name}_{counts.get(name, 0)}")
        counts[name] = counts.get(name, 0) + 1
    return tuple(out)


def build_scene(config: TabletopConfig, seed: int, split: str, index: int) -> TabletopScene:
    """Furnish a room and set its table; a pure function of the arguments.

    Args:
        config: number of things, clutter, light.
        seed: of the data set.
        split: whose things are used.
        index: number of the take within the split.
    """
    rng = seeded(seed, split, index, "scene")
    table, parts = make_table(rng)
    fixed = parts + furnish(rng, table)
    count = int(rng.integers(config.objects_min, config.objects_max + 1))
    things = draw_things(rng, seed, split, count, config.pool_size)
    # The hands rest here between actions.
    occupied = [Footprint(side * 0.165, 0.095 - table.half_y, 0.075, 0.1, 0.0, 0.05) for side in (-1.0, 1.0)]
    tall = int(rng.integers(config.tall_clutter_min, config.tall_clutter_max + 1))
    for body, half_x, half_y in table_clutter(rng, table, tall):
        high = float(body.mesh.bounds[1][2])
        for _ in range(60):
            footprint = Footprint(
                float(rng.uniform(-table.half_x, table.half_x)),
                float(rng.uniform(-table.half_y, table.half_y)),
                half_x,
                half_y,
                float(rng.normal(0, 0.4)),
                high,
            )
            if high > 0.05 and footprint.y < -0.05:
                continue
            if fits_on_table(footprint, table) and not any(footprints_touch(footprint, s) for s in occupied):
                occupied.append(footprint)
                c, n = np.cos(footprint.yaw), np.sin(footprint.yaw)
                rotation = np.array([[c, -n, 0], [n, c, 0], [0, 0, 1.0]])
                fixed.append(RigidBody(transform(body.mesh, rotation, (footprint.x, footprint.y, 0)), body.materials))
                break
    clutter = tuple(occupied[2:])
    placed: list[tuple[Thing, Placement]] = []
    for thing in sorted(things, key=lambda t: -t.half_xy[0] * t.half_xy[1]):
        for attempt in range(250):
            # Near the middle at first, so that the table looks used rather than sown.
            wide = 0.55 + 0.45 * min(1.0, attempt / 60)
            placement = Placement(
                float(rng.uniform(-1, 1) * table.half_x * wide),
                float(rng.uniform(-1, 1) * table.half_y),
                0.0,
                _yaw(rng, thing),
            )
            footprint = footprint_of(thing, placement)
            if fits_on_table(footprint, table) and not any(footprints_touch(footprint, s) for s in occupied):
                occupied.append(footprint)
                placed.append((thing, placement))
                break
    return TabletopScene(
        table,
        tuple(fixed),
        tuple(t for t, _ in placed),
        _number([t.name for t, _ in placed]),
        tuple(r for _, r in placed),
        clutter,
        illuminate(rng, config.contrast),
    )
