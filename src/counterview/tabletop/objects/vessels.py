"""Round things: bottles, jars, cans, mugs, bowls, pans, plates, and the held-out goblets, teapots, tape, candlesticks.

Each builder takes two generators, one for the shape and one for the look, so that two objects can share either.
It returns an :data:`~counterview.tabletop.objects.model.ObjectModel` in metres, standing on z = 0, centred on z.
"""

from __future__ import annotations

import numpy as np

from counterview.tabletop.objects.model import ObjectModel, Rng
from counterview.tabletop.objects.shapes import Mesh, loft, merge, revolve, rotation_matrix, transform, tube
from counterview.tabletop.surfaces.labels import invent_brand, label
from counterview.tabletop.surfaces.materials import (
    Material,
    ceramic,
    colour_name,
    metal,
    pick_colour,
    plastic,
    wooden,
)

__all__ = ["bottle", "bowl", "can", "candlestick", "goblet", "jar", "mug", "pan", "plate", "tape", "teapot"]

Profile = list[tuple[float, float]]


def _curve(points: Profile, steps: int = 5) -> Profile:
    """Smooth a control polygon (quadratic corner cutting), ends kept."""
    p = np.asarray(points, float)
    out = [p[0]]
    for i in range(1, len(p) - 1):
        a, b = (p[i - 1] + p[i]) / 2 if i > 1 else p[0], (p[i] + p[i + 1]) / 2 if i < len(p) - 2 else p[-1]
        t = np.linspace(0, 1, steps + 1)[1:, None]
        out.extend((1 - t) ** 2 * a + 2 * t * (1 - t) * p[i] + t**2 * b)
    return [(float(x), float(z)) for x, z in out]


def _handle(radius: float, low: float, high: float, reach: float, thick: float, part: int) -> Mesh:
    """Ear-shaped handle at +x, ends sunk into a wall at ``radius``."""
    t = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 11)
    mid, half = (low + high) / 2, (high - low) / 2
    path = np.stack([radius - 0.003 + reach * np.cos(t) ** 0.8, np.zeros_like(t), mid + half * np.sin(t)], -1)
    return loft(path, np.full(11, thick * 1.25), np.full(11, thick), part, 8, up=(0, 1, 0))


def bottle(shape: Rng, look: Rng) -> ObjectModel:
    """Sauce, oil or water bottle: foot, body with label, shoulder, neck, cap."""
    r, h = shape.uniform(0.028, 0.043), shape.uniform(0.18, 0.29)
    neck, shoulder = r * shape.uniform(0.32, 0.5), h * shape.uniform(0.52, 0.7)
    cap = shape.uniform(0.018, 0.032)
    waist = shape.choice([1.0, 1.0, 0.86])
    low, high = h * 0.1, shoulder * shape.uniform(0.82, 0.97)
    colour = pick_colour(look)
    brand = invent_brand(look)
    product = str(look.choice(["olive oil", "soy sauce", "syrup", "ketchup", "vinegar", "shampoo", "juice", "cleaner"]))
    mid = (low + high) / 2
    mesh = revolve(
        [
            ([(0, 0), (r * 0.86, 0), (r, 0.006), (r, low)], 0),
            (
                [(r * 1.004, low), (r * waist * 1.004, mid), (r * 1.004, high)]
                if waist < 1
                else [(r * 1.006, low), (r * 1.006, high)],
                1,
            ),
            (
                _curve(
                    [(r, high), (r, shoulder), (r * 0.95, shoulder + r * 0.7), (neck, h - cap - 0.02), (neck, h - cap)]
                ),
                0,
            ),
            ([(neck * 1.25, h - cap), (neck * 1.25, h - 0.002), (neck * 1.1, h), (0, h)], 2),
        ]
    )
    body = plastic(look, colour, 0.55)
    return (
        mesh,
        (body, Material(label(look, brand, product), 0.15, 30), plastic(look, pick_colour(look), 0.3)),
        f"{colour_name(colour)} bottle",
    )


def jar(shape: Rng, look: Rng) -> ObjectModel:
    """Wide jar with a screw lid and a label."""
    r, h = shape.uniform(0.033, 0.052), shape.uniform(0.085, 0.15)
    lid = shape.uniform(0.014, 0.022)
    brand = invent_brand(look)
    content = pick_colour(look)
    lid_colour = pick_colour(look)
    product = str(look.choice(["honey", "jam", "pickles", "mustard", "pesto", "olives", "coffee", "curry", "cocoa"]))
    low, high = h * shape.uniform(0.14, 0.22), h * shape.uniform(0.66, 0.78)
    mesh = revolve(
        [
            (_curve([(0, 0), (r * 0.9, 0), (r, 0.004), (r, low)], 3), 0),
            ([(r * 1.006, low), (r * 1.006, high)], 1),
            (_curve([(r, high), (r, h - lid - 0.008), (r * 0.88, h - lid - 0.002), (r * 0.88, h - lid)], 3), 0),
            ([(r * 0.96, h - lid), (r * 0.96, h - 0.003), (r * 0.9, h), (0, h)], 2),
        ]
    )
    return (
        mesh,
        (
            plastic(look, content, 0.8),
            Material(label(look, brand, product), 0.12, 25),
            metal(look, lid_colour) if look.random() < 0.5 else plastic(look, lid_colour, 0.4),
        ),
        f"{colour_name(lid_colour)} lid jar",
    )


def can(shape: Rng, look: Rng) -> ObjectModel:
    """Tin with a wrap-around label, or a drinks can."""
    drink = shape.random() < 0.4
    r, h = (0.031, shape.uniform(0.115, 0.16)) if drink else (shape.uniform(0.033, 0.05), shape.uniform(0.06, 0.12))
    brand = invent_brand(look)
    product = str(look.choice(["tomato soup", "beans", "tuna", "lemonade", "corn", "peas", "coconut", "cola"]))
    rim = 0.004
    mesh = revolve(
        [
            ([(0, 0.002), (r * 0.9, 0.002), (r * 0.93, 0), (r * 0.97, 0), (r, rim)], 0),
            ([(r, rim), (r, h - rim)], 1),
            (
                [
                    (r, h - rim),
                    (r * 1.01, h - 0.002),
                    (r * 0.98, h),
                    (r * 0.94, h),
                    (r * 0.92, h - 0.004),
                    (0, h - 0.004),
                ],
                0,
            ),
        ]
    )
    return (
        mesh,
        (metal(look, (200, 200, 205)), Material(label(look, brand, product), 0.35, 40)),
        f"{colour_name(brand.paper)} can",
    )


def mug(shape: Rng, look: Rng) -> ObjectModel:
    """Mug with a handle and a painted or glazed body."""
    r, h = shape.uniform(0.036, 0.047), shape.uniform(0.08, 0.115)
    taper = shape.uniform(0.78, 1.05)
    outer, inner, name = ceramic(look)
    mesh = merge(
        [
            revolve(
                [
                    (_curve([(0, 0), (r * taper * 0.93, 0), (r * taper, 0.006), (r * taper, 0.012)], 3), 0),
                    (_curve([(r * taper, 0.012), (r * (0.6 + taper * 0.42), h * 0.5), (r, h - 0.002)], 6), 0),
                    ([(r, h - 0.002), (r - 0.002, h), (r - 0.004, h - 0.002)], 1),
                    ([(r - 0.004, h - 0.002), (r * taper - 0.005, 0.008), (0, 0.007)], 1),
                ]
            ),
            _handle(r * (taper + 1) / 2, h * 0.2, h * 0.82, shape.uniform(0.026, 0.036), 0.0048, 1),
        ]
    )
    return mesh, (outer, inner), f"{name} mug"


def bowl(shape: Rng, look: Rng) -> ObjectModel:
    """Open bowl; the third material is the inside."""
    r, h = shape.uniform(0.065, 0.105), shape.uniform(0.045, 0.085)
    foot = r * shape.uniform(0.4, 0.6)
    outer, inner, name = ceramic(look, steel=0.2)
    side = _curve([(foot, 0.004), (r * 0.92, h * shape.uniform(0.1, 0.3)), (r, h)], 8)
    inside = [(max(x - 0.005, 0.0), z + 0.004) for x, z in side[::-1]]
    inside[0] = (r - 0.005, h)
    mesh = revolve(
        [
            ([(0, 0), (foot, 0), (foot, 0.004)], 1),
            (side, 0),
            ([side[-1], inside[0]], 1),
            (inside, 1),
            ([inside[-1], (0, inside[-1][1])], 1),
        ]
    )
    return mesh, (outer, inner), f"{name} bowl"


def plate(shape: Rng, look: Rng) -> ObjectModel:
    """Flat plate with a decorated rim."""
    r, h = shape.uniform(0.085, 0.13), shape.uniform(0.014, 0.024)
    foot = r * shape.uniform(0.55, 0.68)
    outer, inner, name = ceramic(look)
    mesh = revolve(
        [
            ([(0, 0), (foot, 0)], 1),
            ([(foot, 0), (r, h)], 1),
            ([(r, h), (r * 0.985, h + 0.002)], 1),
            ([(r * 0.985, h + 0.002), (foot * 1.03, 0.006)], 0),
            ([(foot * 1.03, 0.006), (0, 0.005)], 1),
        ],
        segments=48,
    )
    return mesh, (outer, inner), f"{name} plate"


def pan(shape: Rng, look: Rng) -> ObjectModel:
    """Frying pan or saucepan with a long handle along +x."""
    deep = shape.random() < 0.4
    r, h = shape.uniform(0.075, 0.115), shape.uniform(0.075, 0.1) if deep else shape.uniform(0.036, 0.05)
    flare = 1.0 if deep else shape.uniform(0.78, 0.88)
    colour = pick_colour(look) if look.random() < 0.5 else (40.0, 40.0, 42.0)
    outside = metal(look, (185, 185, 190)) if look.random() < 0.4 else plastic(look, colour, 0.5)
    inside = plastic(look, (46, 46, 48), 0.45) if look.random() < 0.6 else metal(look, (170, 170, 172))
    length = shape.uniform(0.13, 0.19)
    x = np.linspace(r - 0.004, r + length, 8)
    rise = h * 0.78 + 0.02 * np.linspace(0, 1, 8) ** 1.5
    handle = loft(
        np.stack([x, np.zeros(8), rise], -1),
        np.interp(x, [x[0], x[2], x[-1]], [0.008, 0.009, 0.013]),
        np.full(8, 0.006),
        2,
        10,
        3.0,
    )
    mesh = merge(
        [
            revolve(
                [
                    ([(0, 0), (r * flare, 0)], 0),
                    ([(r * flare, 0), (r, h)], 0),
                    ([(r, h), (r - 0.003, h)], 0),
                    ([(r - 0.003, h), (r * flare - 0.003, 0.004)], 1),
                    ([(r * flare - 0.003, 0.004), (0, 0.004)], 1),
                ],
                segments=48,
            ),
            handle,
        ]
    )
    grip = wooden(look) if look.random() < 0.4 else plastic(look, (35, 35, 36), 0.25)
    return mesh, (outside, inside, grip), f"{colour_name(colour)} {'saucepan' if deep else 'frying pan'}"


def goblet(shape: Rng, look: Rng) -> ObjectModel:
    """Footed cup (held out)."""
    r, h, stem = shape.uniform(0.032, 0.044), shape.uniform(0.14, 0.19), shape.uniform(0.004, 0.007)
    outer, inner, name = ceramic(look, steel=0.35)
    base = h * shape.uniform(0.42, 0.52)
    cup = _curve([(stem, base), (r * 1.15, base + 0.02), (r, h)], 8)
    inside = [(max(x - 0.003, 0.0), z + 0.003) for x, z in cup[::-1]]
    mesh = revolve(
        [
            ([(0, 0), (r * 0.9, 0), (r * 0.9, 0.003)], 1),
            (_curve([(r * 0.9, 0.003), (stem, 0.012), (stem, base)]), 1),
            (cup, 0),
            ([cup[-1], inside[0]], 1),
            (inside, 1),
        ]
    )
    return mesh, (outer, inner), f"{name} goblet"


def teapot(shape: Rng, look: Rng) -> ObjectModel:
    """Pot with spout, handle and lid (held out)."""
    r, h = shape.uniform(0.062, 0.082), shape.uniform(0.09, 0.125)
    outer, inner, name = ceramic(look)
    belly = _curve([(r * 0.6, 0.0), (r * 1.15, h * 0.2), (r * 1.0, h * 0.75), (r * 0.45, h)], 8)
    knob = [
        (r * 0.45, h),
        (r * 0.4, h + 0.008),
        (0.008, h + 0.014),
        (0.006, h + 0.02),
        (0.012, h + 0.028),
        (0, h + 0.034),
    ]
    t = np.linspace(0, 1, 8)
    spout = np.stack([-r * 0.8 - 0.07 * t, np.zeros(8), h * 0.3 + h * 0.6 * t**1.5], -1)
    mesh = merge(
        [
            revolve([([(0, 0), belly[0]], 0), (belly, 0), (_curve(knob, 3), 1)]),
            tube(spout, np.interp(t, [0, 1], [0.017, 0.009]), 0, 10, (0, 1, 0)),
            _handle(r * 0.85, h * 0.2, h * 0.85, 0.045, 0.006, 1),
        ]
    )
    return mesh, (outer, inner), f"{name} teapot"


def tape(shape: Rng, look: Rng) -> ObjectModel:
    """Roll of adhesive tape lying flat (held out)."""
    r, hole, h = shape.uniform(0.035, 0.055), shape.uniform(0.5, 0.72), shape.uniform(0.018, 0.05)
    colour = pick_colour(look)
    mesh = revolve(
        [
            ([(r * hole, 0), (r, 0)], 0),
            ([(r, 0), (r, h)], 0),
            ([(r, h), (r * hole, h)], 0),
            ([(r * hole, h), (r * hole, 0)], 1),
        ]
    )
    return (
        mesh,
        (plastic(look, colour, 0.5), Material(np.full((8, 8, 3), (176, 140, 98), np.uint8), 0.02, 10)),
        f"{colour_name(colour)} tape roll",
    )


def candlestick(shape: Rng, look: Rng) -> ObjectModel:
    """Holder with a candle (held out)."""
    r, h = shape.uniform(0.035, 0.05), shape.uniform(0.05, 0.12)
    wax, top = pick_colour(look), h + shape.uniform(0.06, 0.14)
    holder = metal(look, (190, 160, 90)) if look.random() < 0.5 else wooden(look)
    foot = _curve([(r, 0.006), (r * 0.3, 0.012), (0.009, h * 0.5), (0.018, h * 0.8), (0.014, h)], 5)
    mesh = merge(
        [
            revolve([([(0, 0), (r, 0), (r, 0.006)], 0), (foot, 0), ([foot[-1], (0, h)], 0)]),
            revolve([([(0.0105, h), (0.0105, top), (0, top + 0.002)], 1)], 16),
            transform(
                tube(np.array([[0, 0, 0], [0.001, 0, 0.008], [0, 0, 0.014]]), 0.001, 2, 5, (0, 1, 0)),
                rotation_matrix((0, 0, 1), 0.3),
                (0, 0, top),
            ),
        ]
    )
    return mesh, (holder, plastic(look, wax, 0.2), plastic(look, (30, 28, 26), 0.05)), f"{colour_name(wax)} candlestick"
