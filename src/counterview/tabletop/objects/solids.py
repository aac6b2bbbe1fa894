"""Cartons, books, boards, fruit, and the held-out spray bottle.

The builders have the signature of those in :mod:`counterview.tabletop.objects.vessels`.
"""

from __future__ import annotations

import numpy as np

from counterview.tabletop.objects.model import ObjectModel, Rng
from counterview.tabletop.objects.shapes import box, loft, merge, revolve, rotation_matrix, transform, tube
from counterview.tabletop.objects.tools import line
from counterview.tabletop.surfaces.labels import book_cover, carton_side, invent_brand, label
from counterview.tabletop.surfaces.materials import Material, colour_name, pick_colour, plastic, wooden
from counterview.tabletop.surfaces.textures import peel, plain, stripes

__all__ = ["board", "book", "carton", "fruit", "spray"]


def carton(shape: Rng, look: Rng) -> ObjectModel:
    """Printed packet, upright."""
    w, d, h = shape.uniform(0.06, 0.14), shape.uniform(0.035, 0.075), shape.uniform(0.11, 0.24)
    brand = invent_brand(look)
    product = str(look.choice(["oat flakes", "rice", "tea", "pasta", "biscuits", "milk", "salt", "crackers", "flour"]))
    face = (256, max(64, int(256 * w / h)))
    side = (256, max(48, int(256 * d / h)))
    front = carton_side(look, brand, product, True, face)
    materials = (
        Material(front, 0.12, 25),
        Material(carton_side(look, brand, product, False, side), 0.12, 25),
        Material(plain(look, brand.paper), 0.12, 25),
    )
    return box((w, d, h), 0.0015, (0, 1, 0, 1, 2, 2)), materials, f"{colour_name(brand.paper)} {product} box"


def book(shape: Rng, look: Rng) -> ObjectModel:
    """Closed book lying flat, cover up."""
    w, d, h = shape.uniform(0.11, 0.18), shape.uniform(0.16, 0.24), shape.uniform(0.014, 0.04)
    brand = invent_brand(look)
    pages = stripes(look, [(232, 226, 208), (205, 198, 180), (215, 208, 190)], (64, 64), 24)
    cover = Material(book_cover(look, brand, (256, int(256 * w / d))), 0.2, 30)
    plainly = Material(plain(look, brand.paper), 0.2, 30)
    t = 0.002
    mesh = merge(
        [
            box((w, d, t), 0.0006, (1,) * 6),
            transform(box((w - 0.006, d - 0.008, h - 2 * t), 0.0004, (2,) * 6), None, (0.002, 0, t)),
            transform(box((w, d, t), 0.0006, (1, 1, 1, 1, 0, 1)), None, (0, 0, h - t)),
            transform(box((t, d, h), 0.0006, (1,) * 6), None, (-w / 2 + t / 2, 0, 0)),
        ]
    )
    return mesh, (cover, plainly, Material(pages, 0.02, 8)), f"{colour_name(brand.paper)} book"


def board(shape: Rng, look: Rng) -> ObjectModel:
    """Chopping board with a handle hole marked by a dark disc."""
    w, d, h = shape.uniform(0.2, 0.32), shape.uniform(0.13, 0.2), shape.uniform(0.012, 0.022)
    material = wooden(look)
    if look.random() < 0.3:
        material = plastic(look, pick_colour(look), 0.15)
    mesh = merge(
        [
            box((w, d, h), 0.004),
            transform(revolve([([(0.011, 0), (0.011, 0.0006), (0, 0.0006)], 1)], 20), None, (w / 2 - 0.026, 0, h)),
        ]
    )
    return mesh, (material, plastic(look, (32, 26, 22), 0.0)), "cutting board"


def fruit(shape: Rng, look: Rng) -> ObjectModel:
    """Apple, orange, lemon, pear, banana, aubergine, tomato or potato."""
    kind = str(shape.choice(["apple", "orange", "lemon", "pear", "banana", "aubergine", "tomato", "potato"]))
    r = shape.uniform(0.032, 0.043)
    stem = plastic(look, (84, 60, 34), 0.05)
    wobble = float(look.uniform(-18, 18))
    if kind == "banana":
        t = np.linspace(-0.75, 0.75, 14)
        bend = 0.105
        path = np.stack([bend * np.sin(t), bend * (1 - np.cos(t)) - 0.015, np.full(14, 0.018)], -1)
        size = np.interp(np.arange(14), [0, 1, 3, 10, 12, 13], [0.005, 0.008, 0.0175, 0.0175, 0.007, 0.005])
        skin = Material(peel(look, (228, 196 + wobble, 70), (110, 78, 40), (128, 128), "spots"), 0.15, 20)
        return merge([loft(path, size, size, 0, 12, 2.4)]), (skin, stem), "banana"
    spec = {
        "apple": (
            [(0, 0.12), (0.45, 0), (1, 0.42), (1.02, 1.05), (0.6, 1.78), (0, 1.5)],
            (170, 45 + wobble, 40),
            (150, 160, 60),
            "streaks",
        ),
        "orange": (
            [(0, 0), (0.75, 0.02), (1.05, 0.55), (1.05, 1.4), (0.7, 1.95), (0, 1.97)],
            (228, 128 + wobble, 32),
            (240, 160, 60),
            "dimples",
        ),
        "lemon": (
            [(0, 0), (0.35, 0.1), (0.9, 0.5), (0.9, 1.4), (0.4, 1.95), (0, 2.15)],
            (232, 205 + wobble, 62),
            (245, 225, 110),
            "dimples",
        ),
        "pear": (
            [(0, 0.08), (0.6, 0), (1.1, 0.6), (0.85, 1.5), (0.4, 2.1), (0.35, 2.5), (0, 2.6)],
            (168, 176 + wobble, 70),
            (196, 140, 70),
            "streaks",
        ),
        "aubergine": (
            [(0, 0), (0.6, 0.05), (0.85, 0.7), (0.62, 2.0), (0.5, 3.0), (0, 3.2)],
            (58 + wobble, 30, 66),
            (80, 44, 84),
            "dimples",
        ),
        "tomato": (
            [(0, 0.1), (0.6, 0), (1.08, 0.45), (1.08, 1.2), (0.6, 1.65), (0, 1.5)],
            (200, 48 + wobble, 32),
            (215, 80, 40),
            "dimples",
        ),
        "potato": (
            [(0, 0), (0.7, 0.1), (1.0, 0.8), (0.95, 1.8), (0.6, 2.5), (0, 2.6)],
            (178 + wobble, 142, 92),
            (150, 112, 70),
            "dimples",
        ),
    }[kind]
    profile, main, blush, style = spec
    p = np.asarray(profile, float)
    fine = np.linspace(0, len(p) - 1, 25)
    smooth = np.stack([np.interp(fine, np.arange(len(p)), p[:, k]) for k in range(2)], -1)
    for _ in range(3):
        smooth[1:-1] = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / 4
    mesh = revolve([([(float(a * r), float(b * r)) for a, b in smooth], 0)], 28, 80)
    top = float(smooth[-1, 1]) * r
    if kind in ("apple", "pear", "aubergine", "tomato"):
        tint = 1
        mesh = merge(
            [
                mesh,
                tube(
                    line([(0, 0, top - 0.004), (0.002, 0, top + 0.008), (0.006, 0, top + 0.017)], 5),
                    0.0018,
                    tint,
                    6,
                    (0, 1, 0),
                ),
            ]
        )
    if kind in ("lemon", "aubergine", "potato"):  # these lie on their side
        wide = float(mesh.vertices[:, 0].max())
        mesh = transform(transform(mesh, None, (0, 0, -top / 2)), rotation_matrix((0, 1, 0), np.pi / 2), (0, 0, wide))
    skin = Material(peel(look, main, blush, (128, 128), style), 0.35 if kind != "potato" else 0.03, 35)
    return mesh, (skin, stem), kind


def spray(shape: Rng, look: Rng) -> ObjectModel:
    """Trigger spray bottle (held out)."""
    r, h = shape.uniform(0.032, 0.042), shape.uniform(0.15, 0.19)
    colour, head = pick_colour(look), pick_colour(look)
    brand = invent_brand(look)
    mesh = merge(
        [
            revolve(
                [
                    ([(0, 0), (r, 0), (r, h * 0.15)], 0),
                    ([(r * 1.006, h * 0.15), (r * 1.006, h * 0.55)], 1),
                    ([(r, h * 0.55), (r * 0.8, h * 0.75), (r * 0.38, h * 0.92), (r * 0.38, h)], 0),
                ],
                crease_deg=60,
            ),
            transform(box((0.085, 0.024, 0.03), 0.004, (2,) * 6), None, (0.018, 0, h)),
            loft(
                line([(0.045, 0, h + 0.004), (0.05, 0, h - 0.02), (0.036, 0, h - 0.048)], 7),
                np.full(7, 0.007),
                np.full(7, 0.004),
                3,
                8,
                up=(1, 0, 0.2),
            ),
            tube(line([(0.058, 0, h + 0.016), (0.075, 0, h + 0.016)], 3), 0.006, 3),
        ]
    )
    return (
        mesh,
        (
            plastic(look, colour, 0.5),
            Material(label(look, brand, "glass cleaner"), 0.15, 30),
            plastic(look, head, 0.4),
            plastic(look, (220, 220, 220), 0.3),
        ),
        f"{colour_name(colour)} spray bottle",
    )
