"""The surroundings: table, walls, floor, window, furniture, light, and clutter that is not annotated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterview.tabletop.camera.world import AreaLight, Lighting, RigidBody
from counterview.tabletop.objects.shapes import (
    Mesh,
    box,
    ellipsoid,
    merge,
    quad,
    revolve,
    rotation_matrix,
    transform,
    tube,
)
from counterview.tabletop.surfaces import textures as paint
from counterview.tabletop.surfaces.labels import book_cover, carton_side, invent_brand, poster
from counterview.tabletop.surfaces.materials import Material, metal, pick_colour, plastic, wooden

__all__ = ["FLOOR_M", "TableTop", "furnish", "illuminate", "make_table", "table_clutter"]

FLOOR_M = -0.74
"""Height of the floor; the top of the table is 0."""


@dataclass(frozen=True)
class TableTop:
    """Half extents of the table's top, metres; the person sits or stands at -y."""

    half_x: float
    half_y: float


def _at(mesh: Mesh, x: float, y: float, z: float, yaw: float = 0.0) -> Mesh:
    return transform(mesh, rotation_matrix((0, 0, 1), yaw), (x, y, z))


def make_table(rng: np.random.Generator) -> tuple[TableTop, list[RigidBody]]:
    """Draw a table with a wooden, laminate, steel or cloth-covered top, and legs."""
    table = TableTop(rng.uniform(0.6, 0.8), rng.uniform(0.36, 0.45))
    x, y = table.half_x, table.half_y
    style = str(rng.choice(["wood", "wood", "laminate", "cloth", "planks", "steel"]))
    tone = rng.uniform(0.5, 1.0)
    timber = (214 * tone, 170 * tone, 122 * tone)
    if style == "wood":
        top = Material(paint.wood(rng, timber, (512, 1024), rng.uniform(9, 20)), 0.22, 25)
    elif style == "planks":
        top = Material(paint.planks(rng, timber, (512, 768), int(rng.integers(4, 8))), 0.15, 20)
    elif style == "laminate":
        shade = paint.hsv(rng.random(), rng.uniform(0, 0.15), rng.uniform(0.5, 0.9))
        top = Material(paint.glaze(rng, shade, shade, (256, 512), rng.choice([0.0, 0.04])), 0.25, 40)
    elif style == "steel":
        top = Material(paint.brushed(rng, (165, 167, 170), (256, 256)), 0.4, 25, 0.35)
    else:
        pair = [pick_colour(rng), (236.0, 230.0, 218.0)]
        top = Material(
            paint.cloth(
                rng, pair, (512, 768), int(rng.integers(8, 22)), str(rng.choice(["checks", "stripes", "plain"]))
            ),
            0.02,
            10,
        )
    edge = Material(paint.wood(rng, timber, (64, 256), 3), 0.15, 20)
    parts = [transform(box((2 * x, 2 * y, 0.032), 0.004, (1, 1, 1, 1, 0, 1)), None, (0, 0, -0.032))]
    for sx in (-1, 1):
        for sy in (-1, 1):
            parts.append(
                transform(
                    box((0.055, 0.055, -FLOOR_M - 0.03), 0.004, (1,) * 6),
                    None,
                    (sx * (x - 0.06), sy * (y - 0.06), FLOOR_M),
                )
            )
    for sy in (-1, 1):
        parts.append(transform(box((2 * x - 0.16, 0.02, 0.08), 0.002, (1,) * 6), None, (0, sy * (y - 0.06), -0.112)))
    return table, [RigidBody(merge(parts), (top, edge))]


def table_clutter(rng: np.random.Generator, table: TableTop, tall: int) -> list[tuple[RigidBody, float, float]]:
    """Draw things on the table that are not annotated: bodies at the origin, half extents along x and y.

    Args:
        rng: draws everything.
        table: where they will stand.
        tall: how many of them are tall and hide things (a laptop, a box file, a plant).
    """
    out: list[tuple[RigidBody, float, float]] = []
    for _ in range(tall):
        kind = int(rng.integers(3))
        if kind == 0:
            w, d = rng.uniform(0.26, 0.34), rng.uniform(0.2, 0.24)
            shell = metal(rng, (120, 122, 126))
            screen = Material(
                paint.stripes(rng, [(40, 52, 70), (110, 150, 200), (220, 220, 225)], (96, 160), 14), 0.6, 90, 0, 0.6
            )
            lid = transform(
                box((w, 0.008, d), 0.002, (0, 1, 1, 1, 1, 1)), rotation_matrix((1, 0, 0), -0.25), (0, d / 2, 0.012)
            )
            out.append(
                (RigidBody(merge([box((w, d, 0.016), 0.003, (1,) * 6), lid]), (screen, shell)), w / 2, d / 2 + 0.03)
            )
        elif kind == 1:
            w, d, h = rng.uniform(0.08, 0.12), rng.uniform(0.22, 0.28), rng.uniform(0.2, 0.3)
            skin = plastic(rng, pick_colour(rng), 0.15)
            out.append((RigidBody(box((w, d, h), 0.004), (skin,)), w / 2, d / 2))
        else:
            r, h = rng.uniform(0.06, 0.085), rng.uniform(0.09, 0.14)
            pot = revolve([([(0, 0), (r * 0.7, 0), (r, h)], 0), ([(r, h), (r - 0.006, h - 0.01), (0, h - 0.012)], 1)])
            leaves = [pot]
            for _ in range(int(rng.integers(9, 16))):
                leaf = transform(
                    ellipsoid((0.028, 0.003, rng.uniform(0.06, 0.11)), 2, 10),
                    rotation_matrix((1, 0, 0), rng.uniform(0.1, 0.9)),
                    (0, -0.02, 0.05),
                )
                leaves.append(_at(leaf, rng.normal(0, 0.012), rng.normal(0, 0.012), h, rng.uniform(0, 2 * np.pi)))
            green = Material(paint.glaze(rng, (70, 120, 60), (50, 95, 50), (64, 64), 0.02), 0.25, 30)
            out.append(
                (
                    RigidBody(
                        merge(leaves), (plastic(rng, pick_colour(rng), 0.3), plastic(rng, (60, 45, 35), 0), green)
                    ),
                    r,
                    r,
                )
            )
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.5:
            w, d = rng.uniform(0.14, 0.21), rng.uniform(0.2, 0.29)
            sheet = Material(carton_side(rng, invent_brand(rng), "notes", False, (256, 192)), 0.02, 10)
            blank = plastic(rng, (238, 236, 230), 0.02)
            out.append((RigidBody(box((w, d, 0.0012), 0.0002, (1, 1, 1, 1, 0, 1)), (sheet, blank)), w / 2, d / 2))
        else:
            w = rng.uniform(0.14, 0.22)
            fabric = Material(
                paint.cloth(
                    rng, [pick_colour(rng), pick_colour(rng)], (128, 128), 5, str(rng.choice(["checks", "stripes"]))
                ),
                0.0,
                10,
            )
            folds = [
                transform(
                    box((w - 0.012 * k, w * 0.6 - 0.008 * k, 0.004), 0.0015), None, (0.004 * k, 0.003 * k, 0.004 * k)
                )
                for k in range(3)
            ]
            out.append((RigidBody(merge(folds), (fabric,)), w / 2, w * 0.3))
    return out


def _cabinet(rng: np.random.Generator, w: float, d: float, h: float) -> tuple[Mesh, tuple[Material, ...]]:
    """Cupboard with doors and knobs, front at -y."""
    doors = max(1, round(w / 0.45))
    parts = [box((w, d, h), 0.004, (0,) * 6)]
    for k in range(doors):
        x = -w / 2 + (k + 0.5) * w / doors
        parts.append(
            transform(box((w / doors - 0.02, 0.018, h - 0.06), 0.004, (1,) * 6), None, (x, -d / 2 - 0.009, 0.03))
        )
        parts.append(
            transform(ellipsoid((0.012, 0.012, 0.012), 2, 10), None, (x + w / doors * 0.34, -d / 2 - 0.028, h * 0.6))
        )
    front = (
        wooden(rng)
        if rng.random() < 0.5
        else plastic(rng, paint.hsv(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.5, 0.95)), 0.2)
    )
    return merge(parts), (wooden(rng), front, metal(rng, (170, 170, 170)))


def _shelf(rng: np.random.Generator, w: float) -> tuple[Mesh, tuple[Material, ...]]:
    """Wall shelf filled with book spines and boxes."""
    parts = []
    materials = [wooden(rng)]
    for level in range(3):
        z = 0.36 * level
        parts.append(transform(box((w, 0.26, 0.022), 0.002), None, (0, 0, z)))
        x = -w / 2 + 0.02
        while x < w / 2 - 0.08 and level < 3:
            thick, tall = rng.uniform(0.02, 0.06), rng.uniform(0.16, 0.3)
            if rng.random() < 0.25:
                thick, tall = rng.uniform(0.1, 0.2), rng.uniform(0.08, 0.22)
            if rng.random() < 0.12:
                x += rng.uniform(0.05, 0.15)
            if x + thick > w / 2:
                break
            materials.append(Material(book_cover(rng, invent_brand(rng), (96, 48)), 0.1, 20))
            parts.append(
                transform(
                    box((thick, 0.19, tall), 0.002, (len(materials) - 1,) * 6), None, (x + thick / 2, 0, z + 0.022)
                )
            )
            x += thick + 0.003
    return merge(parts), tuple(materials)


def _chair(rng: np.random.Generator) -> tuple[Mesh, tuple[Material, ...]]:
    parts = [
        transform(box((0.42, 0.42, 0.035), 0.01), None, (0, 0, 0.44)),
        transform(box((0.42, 0.03, 0.34), 0.01), None, (0, 0.2, 0.6)),
    ]
    for sx in (-0.18, 0.18):
        for sy in (-0.18, 0.18):
            parts.append(transform(box((0.035, 0.035, 0.95 if sy > 0 else 0.44), 0.004, (1,) * 6), None, (sx, sy, 0)))
    return merge(parts), (plastic(rng, pick_colour(rng), 0.15), wooden(rng))


def furnish(rng: np.random.Generator, table: TableTop) -> list[RigidBody]:
    """Draw walls, floor, ceiling, a window, posters, cupboards, shelves, chairs and a floor lamp around a table."""
    x, back, front = rng.uniform(2.8, 3.5), rng.uniform(2.7, 3.4), -rng.uniform(2.6, 3.2)
    top, low = 1.75, FLOOR_M
    wall_colour = paint.hsv(rng.random(), rng.uniform(0.02, 0.3), rng.uniform(0.62, 0.93))
    accent = paint.hsv(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.4, 0.85))
    wall, other = Material(paint.plaster(rng, wall_colour), 0.02, 10), Material(paint.plaster(rng, accent), 0.02, 10)
    tone = rng.uniform(0.45, 0.95)
    if rng.random() < 0.6:
        ground = Material(paint.planks(rng, (190 * tone, 145 * tone, 100 * tone), (512, 512), 8), 0.2, 25)
    else:
        ground = Material(
            paint.tiles(rng, paint.hsv(rng.random(), rng.uniform(0, 0.2), rng.uniform(0.4, 0.85))), 0.3, 40
        )
    shell = merge(
        [
            quad(
                [(-x, back, low), (x, back, low), (x, front, low), (-x, front, low)], 0, (x * 1.4, (back - front) * 0.7)
            ),
            quad([(-x, front, top), (x, front, top), (x, back, top), (-x, back, top)], 3),
            quad([(-x, back, top), (x, back, top), (x, back, low), (-x, back, low)], int(rng.integers(1, 3))),
            quad([(x, front, top), (-x, front, top), (-x, front, low), (x, front, low)], 1),
            quad([(-x, front, top), (-x, back, top), (-x, back, low), (-x, front, low)], 1),
            quad([(x, back, top), (x, front, top), (x, front, low), (x, back, low)], int(rng.integers(1, 3))),
        ]
    )
    bodies = [RigidBody(shell, (ground, wall, other, Material(paint.plaster(rng, (236, 235, 230)), 0.02, 10)))]
    board = Material(paint.plain(rng, (225, 222, 215)), 0.2, 30)
    bodies.append(
        RigidBody(
            merge([transform(box((2 * x, 0.02, 0.09), 0.004), None, (0, s, low)) for s in (back - 0.01, front + 0.01)]),
            (board,),
        )
    )

    wx, ww, wh = rng.uniform(-1.2, 1.2), rng.uniform(0.9, 1.4), rng.uniform(0.8, 1.1)
    view = Material(paint.outdoors(rng), 0, 10, 0, rng.uniform(0.9, 1.6))
    frame = [transform(box((ww + 0.12, 0.05, 0.06), 0.004, (1,) * 6), None, (0, 0, z)) for z in (-0.06, wh)]
    frame += [transform(box((0.05, 0.05, wh), 0.004, (1,) * 6), None, (s, 0, 0)) for s in (-ww / 2, 0, ww / 2)]
    window = merge([quad([(-ww / 2, 0, wh), (ww / 2, 0, wh), (ww / 2, 0, 0), (-ww / 2, 0, 0)], 0), *frame])
    bodies.append(RigidBody(_at(window, wx, back - 0.03, 0.25), (view, board)))
    for _ in range(int(rng.integers(1, 4))):
        artwork = Material(poster(rng), 0.1, 20)
        size = rng.uniform(0.3, 0.6)
        mesh = transform(box((size * 0.8, 0.02, size), 0.002, (0, 1, 1, 1, 1, 1)), None, (0, 0, 0))
        side = int(rng.integers(4))
        along = rng.uniform(-1.4, 1.4)
        place = (
            (x - 0.02, along, -np.pi / 2),
            (-x + 0.02, along, np.pi / 2),
            (along, front + 0.02, np.pi),
            (wx + ww / 2 + 0.5, back - 0.02, 0.0),
        )[side]
        bodies.append(RigidBody(_at(mesh, place[0], place[1], rng.uniform(0.3, 0.7), place[2]), (artwork, wooden(rng))))
    w = rng.uniform(1.2, 2.2)
    mesh, materials = _cabinet(rng, w, 0.45, rng.uniform(0.75, 0.95))
    at = rng.uniform(-0.6, 0.6)
    bodies.append(RigidBody(_at(mesh, at, back - 0.24, low), materials))
    for _ in range(int(rng.integers(2, 6))):
        brand = invent_brand(rng)
        packet = (rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.35))
        bodies.append(
            RigidBody(
                _at(
                    box(packet, 0.004),
                    at + rng.uniform(-w / 2 + 0.1, w / 2 - 0.1),
                    back - 0.24,
                    low + float(mesh.bounds[1][2]),
                    rng.normal(0, 0.2),
                ),
                (Material(carton_side(rng, brand, "parts", True, (96, 96)), 0.1, 20),),
            )
        )
    for side in (-1, 1):
        if rng.random() < 0.75:
            mesh, materials = _shelf(rng, rng.uniform(0.9, 1.6))
            bodies.append(
                RigidBody(
                    _at(mesh, side * (x - 0.16), rng.uniform(-0.8, 0.9), rng.uniform(-0.3, 0.2), -side * np.pi / 2),
                    materials,
                )
            )
        else:
            mesh, materials = _cabinet(rng, rng.uniform(0.9, 1.8), 0.5, rng.uniform(0.8, 1.6))
            bodies.append(
                RigidBody(_at(mesh, side * (x - 0.26), rng.uniform(-0.8, 0.8), low, -side * np.pi / 2), materials)
            )
    if rng.random() < 0.7:
        mesh, materials = _chair(rng)
        bodies.append(
            RigidBody(
                _at(
                    mesh,
                    rng.choice([-1, 1]) * (table.half_x + 0.35),
                    rng.uniform(-0.2, 0.5),
                    low,
                    rng.uniform(0, 2 * np.pi),
                ),
                materials,
            )
        )
    pole = [
        revolve([([(0.15, 0), (0.15, 0.02), (0.015, 0.035), (0.012, 1.5)], 0)], 20),
        transform(revolve([([(0.2, 0), (0.11, 0.26)], 1)], 24), None, (0, 0, 1.42)),
    ]
    bodies.append(
        RigidBody(
            _at(merge(pole), rng.choice([-1, 1]) * (x - 0.5), back - 0.5, low),
            (metal(rng, (90, 90, 92)), Material(paint.plain(rng, (250, 232, 196)), 0, 10, 0, 1.1)),
        )
    )
    shade = revolve([([(0.17, 0), (0.05, 0.14)], 0)], 24)
    cord = tube(np.array([[0, 0, 0.13], [0, 0.001, 0.3], [0, 0, 0.7]]), 0.004, 0, 6, (0, 1, 0))
    if rng.random() < 0.4:
        bodies.append(
            RigidBody(
                _at(merge([shade, cord]), rng.uniform(-0.2, 0.2), 0.1, 1.2), (plastic(rng, pick_colour(rng), 0.3),)
            )
        )
    return bodies


def illuminate(rng: np.random.Generator, contrast: float = 1.0) -> Lighting:
    """Draw a key light (ceiling panel, window or lamp), a weaker fill light and the room's ambient light.

    Args:
        rng: draws places, sizes and colours.
        contrast: above 1, more of the light comes from the two lights and less from everywhere.
    """
    side = rng.choice([-1.0, 1.0])
    centre = np.array([side * rng.uniform(0.3, 1.5), rng.uniform(-0.2, 1.5), rng.uniform(1.35, 1.65)])
    size = rng.uniform(0.12, 0.45)
    warmth = rng.uniform(-1, 1)
    colour = np.array([1 + 0.12 * warmth, 1.0, 1 - 0.16 * warmth])
    d2 = float(centre @ centre)
    key = AreaLight(
        centre, np.array([size, 0, 0]), np.array([0, size, 0]), colour * d2 * rng.uniform(1.0, 1.4) * contrast
    )
    other = np.array([-side * rng.uniform(0.6, 2.0), rng.uniform(-1.2, 1.2), rng.uniform(1.0, 1.6)])
    tint = np.array([1 - 0.1 * warmth, 1.0, 1 + 0.12 * warmth])
    fill = AreaLight(
        other, np.array([0.25, 0, 0]), np.array([0, 0.25, 0]), tint * float(other @ other) * rng.uniform(0.12, 0.4)
    )
    level = rng.uniform(0.2, 0.34) / contrast
    return Lighting(key, fill, level * np.array([1.0, 1.02, 1.05]), level * np.array([0.62, 0.55, 0.48]))
