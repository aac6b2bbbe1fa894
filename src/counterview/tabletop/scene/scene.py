"""A scene at rest: room, table, clutter and the things on the table, laid out so that nothing overlaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterview.tabletop.camera.render import Body, Lighting
from counterview.tabletop.config import TabletopConfig
from counterview.tabletop.objects.catalogue import Thing, draw_things, seeded
from counterview.tabletop.objects.shapes import transform
from counterview.tabletop.scene.room import Table, furnish, illuminate, make_table, table_clutter

__all__ = ["Rest", "Scene", "Spot", "build_scene", "footprints_touch"]


@dataclass(frozen=True)
class Spot:
    """A footprint on the table: middle (x, y), half extents along its own axes, yaw; metres and radians."""

    x: float
    y: float
    half_x: float
    half_y: float
    yaw: float
    height: float


@dataclass(frozen=True)
class Rest:
    """Where a thing lies: its base's middle (x, y, z) in metres and its yaw in radians."""

    x: float
    y: float
    z: float
    yaw: float


@dataclass(frozen=True)
class Scene:
    """Everything that does not move by itself.

    Attributes:
        fixed: room, furniture, table and clutter, already in world coordinates.
        things: annotated objects; ``rests`` says where each starts. ``names``: unique within the scene.
        clutter: footprints of what is on the table and not annotated.
    """

    table: Table
    fixed: tuple[Body, ...]
    things: tuple[Thing, ...]
    names: tuple[str, ...]
    rests: tuple[Rest, ...]
    clutter: tuple[Spot, ...]
    lighting: Lighting


def _corners(s: Spot, gap: float) -> np.ndarray:
    c, n = np.cos(s.yaw), np.sin(s.yaw)
    x, y = s.half_x + gap, s.half_y + gap
    local = np.array([[x, y], [-x, y], [-x, -y], [x, -y]])
    return local @ np.array([[c, n], [-n, c]]) + (s.x, s.y)


def footprints_touch(a: Spot, b: Spot, gap: float = 0.012) -> bool:
    """Whether two rectangles come nearer than ``gap`` metres (separating axes)."""
    p, q = _corners(a, gap / 2), _corners(b, gap / 2)
    for yaw in (a.yaw, a.yaw + np.pi / 2, b.yaw, b.yaw + np.pi / 2):
        axis = np.array([np.cos(yaw), np.sin(yaw)])
        u, v = p @ axis, q @ axis
        if u.max() < v.min() or v.max() < u.min():
            return False
    return True


def spot_of(thing: Thing, rest: Rest) -> Spot:
    """Footprint of a thing where it lies."""
    return Spot(rest.x, rest.y, *thing.half_xy, rest.yaw, thing.height)


def fits(spot: Spot, table: Table, margin: float = 0.03) -> bool:
    """Whether a footprint lies on the table."""
    corners = np.abs(_corners(spot, 0.0))
    return bool((corners[:, 0] < table.half_x - margin).all() and (corners[:, 1] < table.half_y - margin).all())


def _yaw(rng: np.random.Generator, thing: Thing) -> float:
    """Packets and labels mostly face somebody; the rest lies anyhow."""
    if thing.kind in ("carton", "book"):
        return float(rng.choice([0.0, 0.0, np.pi, np.pi / 2]) + rng.normal(0, 0.35))
    return float(rng.uniform(0, 2 * np.pi))


def _number(names: list[str]) -> tuple[str, ...]:
    """Append the running number that Ego-Exo4D's object names end with."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        out.append(f"{name}_{seen.get(name, 0)}")
        seen[name] = seen.get(name, 0) + 1
    return tuple(out)


def build_scene(config: TabletopConfig, seed: int, split: str, index: int) -> Scene:
    """Furnish a room and set its table; a pure function of the arguments."""
    rng = seeded(seed, split, index, "scene")
    table, parts = make_table(rng)
    fixed = parts + furnish(rng, table)
    count = int(rng.integers(config.objects_min, config.objects_max + 1))
    things = draw_things(rng, seed, split, count, config.pool_size)
    # The hands rest here between actions.
    taken = [Spot(side * 0.165, 0.095 - table.half_y, 0.075, 0.1, 0.0, 0.05) for side in (-1.0, 1.0)]
    tall = int(rng.integers(config.tall_clutter_min, config.tall_clutter_max + 1))
    for body, half_x, half_y in table_clutter(rng, table, tall):
        high = float(body.mesh.bounds[1][2])
        for _ in range(60):
            spot = Spot(
                float(rng.uniform(-table.half_x, table.half_x)),
                float(rng.uniform(-table.half_y, table.half_y)),
                half_x,
                half_y,
                float(rng.normal(0, 0.4)),
                high,
            )
            if high > 0.05 and spot.y < -0.05:
                continue
            if fits(spot, table) and not any(footprints_touch(spot, s) for s in taken):
                taken.append(spot)
                c, n = np.cos(spot.yaw), np.sin(spot.yaw)
                turn = np.array([[c, -n, 0], [n, c, 0], [0, 0, 1.0]])
                fixed.append(Body(transform(body.mesh, turn, (spot.x, spot.y, 0)), body.materials))
                break
    clutter = tuple(taken[2:])
    placed: list[tuple[Thing, Rest]] = []
    for thing in sorted(things, key=lambda t: -t.half_xy[0] * t.half_xy[1]):
        for attempt in range(250):
            # Near the middle at first, so that the table looks used rather than sown.
            wide = 0.55 + 0.45 * min(1.0, attempt / 60)
            rest = Rest(
                float(rng.uniform(-1, 1) * table.half_x * wide),
                float(rng.uniform(-1, 1) * table.half_y),
                0.0,
                _yaw(rng, thing),
            )
            spot = spot_of(thing, rest)
            if fits(spot, table) and not any(footprints_touch(spot, s) for s in taken):
                taken.append(spot)
                placed.append((thing, rest))
                break
    return Scene(
        table,
        tuple(fixed),
        tuple(t for t, _ in placed),
        _number([t.name for t, _ in placed]),
        tuple(r for _, r in placed),
        clutter,
        illuminate(rng, config.contrast),
    )
