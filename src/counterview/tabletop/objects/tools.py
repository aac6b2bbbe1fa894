"""Long things: cutlery, tools, and the held-out scissors, torch and rolling pin.

The builders have the signature of those in :mod:`counterview.tabletop.objects.vessels`.
"""

from __future__ import annotations

import numpy as np

from counterview.tabletop.objects.model import ObjectModel, Rng
from counterview.tabletop.objects.shapes import (
    Mesh,
    box,
    ellipsoid,
    loft,
    merge,
    revolve,
    rotation_matrix,
    transform,
    tube,
)
from counterview.tabletop.surfaces.materials import Material, colour_name, metal, pick_colour, plastic, wooden
from counterview.tabletop.surfaces.textures import plain

__all__ = ["cutlery", "line", "rolling_pin", "scissors", "tool", "torch"]


def line(points: list[tuple[float, float, float]], n: int = 12) -> np.ndarray:
    """``n`` points ``(n, 3)`` evenly spread along a polyline with corners (x, y, z)."""
    p = np.asarray(points, float)
    t = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
    s = np.linspace(0, t[-1], n)
    return np.stack([np.interp(s, t, p[:, k]) for k in range(3)], -1)


def _ring(
    centre: tuple[float, float, float],
    radius: float,
    thick: float,
    part: int,
    stretch: float = 1.0,
    start: float = 0.0,
    sweep: float = 2 * np.pi,
) -> Mesh:
    """Flat ring (or part of one) in a horizontal plane."""
    t = np.linspace(start, start + sweep, 20)
    path = np.stack(
        [centre[0] + radius * stretch * np.cos(t), centre[1] + radius * np.sin(t), np.full(20, centre[2])], -1
    )
    return tube(path, thick, part, 8)


def cutlery(shape: Rng, look: Rng) -> ObjectModel:
    """Fork, knife, spoon, spatula or ladle, lying along x."""
    kind = str(shape.choice(["fork", "knife", "spoon", "spatula", "whisk", "scoop/ladle"]))
    n = shape.uniform(0.16, 0.23)
    steel = metal(look, (188, 188, 192))
    coloured = pick_colour(look)
    grip = (steel, plastic(look, coloured, 0.4), wooden(look))[int(look.integers(3))]
    z = 0.004
    handle = loft(
        line([(-n / 2, 0, z), (0, 0, z + 0.002), (n * 0.12, 0, z + 0.006)]),
        np.interp(np.arange(12), [0, 3, 11], [0.009, 0.008, 0.004]),
        np.full(12, 0.0035),
        1,
        10,
        2.6,
    )
    x = n * 0.12
    if kind == "fork":
        head = [
            loft(
                line([(x - 0.004, 0, z + 0.006), (x + 0.03, 0, z + 0.001)], 6),
                np.linspace(0.004, 0.011, 6),
                np.full(6, 0.0016),
                0,
            )
        ]
        head += [
            loft(
                line([(x + 0.028, y, z + 0.001), (x + 0.055, y, z), (x + 0.08, y, z + 0.006)], 7),
                np.linspace(0.0022, 0.0014, 7),
                np.full(7, 0.0014),
                0,
                6,
            )
            for y in (-0.009, -0.003, 0.003, 0.009)
        ]
    elif kind == "knife":
        head = [
            loft(
                line([(x - 0.004, 0, z + 0.003), (n / 2 + 0.02, 0.002, z)], 10),
                np.interp(np.arange(10), [0, 2, 7, 9], [0.006, 0.011, 0.011, 0.002]),
                np.full(10, 0.0012),
                0,
                8,
            )
        ]
    elif kind == "spatula":
        head = [
            loft(
                line([(x - 0.004, 0, z + 0.006), (x + 0.02, 0, z + 0.003), (n / 2 + 0.03, 0, z - 0.002)], 10),
                np.interp(np.arange(10), [0, 3, 4, 9], [0.004, 0.006, 0.028, 0.036]),
                np.full(10, 0.0016),
                0,
                10,
                4.0,
            )
        ]
    elif kind == "whisk":
        t = np.linspace(0, np.pi * 2, 24)
        head = []
        for a in (0, np.pi / 3, 2 * np.pi / 3):
            wide = 0.024 * np.sin(t / 2) * np.sign(np.pi - t + 1e-9) * np.sin(t / 2 + 0.2)
            path = np.stack([x + 0.05 * (1 - np.cos(t)), np.cos(a) * wide, 0.026 + np.sin(a) * wide], -1)
            head.append(tube(path, 0.0012, 0, 5, (np.cos(1.0), 0.3, np.sin(1.0))))
    else:
        big = 1.5 if kind != "spoon" else 1.0
        cup = ellipsoid((0.034 * big, 0.021 * big, 0.006 * big))
        inner = transform(ellipsoid((0.029 * big, 0.017 * big, 0.0035 * big)), None, (0, 0, 0.0036 * big), part=2)
        head = [
            transform(merge([cup, inner]), rotation_matrix((0, 1, 0), -0.08), (x + 0.03 * big, 0, 0.006 * big + 0.001))
        ]
    name = f"{colour_name(coloured)} {kind}" if grip is not steel else f"steel {kind}"
    return merge([handle, *head]), (steel, grip, metal(look, (140, 140, 145))), name


def tool(shape: Rng, look: Rng) -> ObjectModel:
    """Screwdriver, hammer, wrench, pliers or brush, lying along x."""
    kind = str(shape.choice(["screwdriver", "hammer", "wrench", "pliers", "paint brush"]))
    n = shape.uniform(0.17, 0.25)
    colour = pick_colour(look)
    grip, steel = plastic(look, colour, 0.45), metal(look, (165, 166, 170))
    extra = plastic(look, (32, 32, 34), 0.3)
    if kind == "screwdriver":
        r = shape.uniform(0.012, 0.016)
        parts = [
            loft(
                line([(-n / 2, 0, r), (0, 0, r)]),
                r * np.array([0.7, 1, 1, 0.95, 0.9, 0.9, 1, 1, 0.9, 0.7, 0.6, 0.5]),
                r * np.array([0.7, 1, 1, 0.95, 0.9, 0.9, 1, 1, 0.9, 0.7, 0.6, 0.5]),
                0,
                12,
                3.0,
            ),
            tube(line([(-0.002, 0, r), (n / 2, 0, r)], 6), 0.0032, 1, 8),
        ]
    elif kind == "hammer":
        wood = wooden(look)
        grip = wood if look.random() < 0.5 else grip
        parts = [
            loft(
                line([(-n / 2, 0, 0.013), (n / 2, 0, 0.013)]),
                np.interp(np.arange(12), [0, 5, 11], [0.013, 0.011, 0.009]),
                np.full(12, 0.011),
                0,
                12,
                2.6,
            ),
            loft(
                line([(n / 2 - 0.01, -0.05, 0.013), (n / 2 - 0.01, 0.055, 0.013)]),
                np.array([0.013, 0.013, 0.013, 0.009, 0.012, 0.013, 0.013, 0.011, 0.010, 0.009, 0.007, 0.003]),
                np.full(12, 0.013),
                1,
                12,
                3.0,
            ),
        ]
    elif kind == "wrench":
        parts = [
            loft(
                line([(-n / 2 + 0.015, 0, 0.006), (n / 2 - 0.015, 0, 0.006)]),
                np.interp(np.arange(12), [0, 2, 9, 11], [0.011, 0.008, 0.008, 0.011]),
                np.full(12, 0.0042),
                1,
                10,
                3.5,
            ),
            transform(_ring((0, 0, 0), 0.0135, 0.0052, 1), None, (-n / 2 + 0.002, 0, 0.006)),
            transform(_ring((0, 0, 0), 0.015, 0.0058, 1, 1.0, 0.7, 2 * np.pi - 1.4), None, (n / 2, 0, 0.006)),
        ]
        name = f"{colour_name((140, 140, 145))} wrench"
        return merge(parts), (grip, steel), name
    elif kind == "pliers":
        parts = []
        for s in (-1.0, 1.0):
            parts.append(
                loft(
                    line([(-n / 2, s * 0.034, 0.009), (-n * 0.1, s * 0.024, 0.009), (n * 0.18, -s * 0.004, 0.009)]),
                    np.interp(np.arange(12), [0, 2, 11], [0.005, 0.0085, 0.006]),
                    np.full(12, 0.008),
                    0,
                    10,
                    2.6,
                )
            )
            parts.append(
                loft(
                    line(
                        [(n * 0.16, -s * 0.006, 0.009), (n * 0.24, -s * 0.013, 0.009), (n * 0.46, -s * 0.004, 0.009)], 8
                    ),
                    np.linspace(0.011, 0.0045, 8),
                    np.full(8, 0.007),
                    1,
                    10,
                    3.0,
                )
            )
        parts.append(transform(revolve([([(0.012, 0), (0.012, 0.018), (0, 0.018)], 1)], 16), None, (n * 0.19, 0, 0)))
    else:
        wide = shape.uniform(0.016, 0.028)
        parts = [
            loft(
                line([(-n / 2, 0, 0.008), (n * 0.1, 0, 0.008)]),
                np.interp(np.arange(12), [0, 3, 7, 11], [0.005, 0.009, 0.006, wide]),
                np.full(12, 0.006),
                0,
                10,
                2.6,
            ),
            loft(
                line([(n * 0.1, 0, 0.008), (n * 0.2, 0, 0.008)], 4),
                np.full(4, wide * 1.04),
                np.full(4, 0.0072),
                1,
                10,
                4.0,
            ),
            loft(
                line([(n * 0.2, 0, 0.008), (n * 0.42, 0, 0.008)], 6),
                np.linspace(wide, wide * 0.8, 6),
                np.linspace(0.006, 0.003, 6),
                2,
                10,
                4.0,
            ),
        ]
    return merge(parts), (grip, steel, extra), f"{colour_name(colour)} {kind}"


def scissors(shape: Rng, look: Rng) -> ObjectModel:
    """Half-open scissors (held out)."""
    n, spread = shape.uniform(0.16, 0.22), shape.uniform(0.06, 0.16)
    colour = pick_colour(look)
    parts = []
    for s in (-1.0, 1.0):
        half = merge(
            [
                loft(
                    line([(-0.02, 0, 0), (n * 0.5, 0, 0)], 8),
                    np.interp(np.arange(8), [0, 1, 7], [0.004, 0.0085, 0.0015]),
                    np.full(8, 0.0014),
                    1,
                    8,
                ),
                loft(line([(0.0, 0, 0), (-n * 0.2, s * 0.014, 0)], 6), np.full(6, 0.0055), np.full(6, 0.0035), 0, 8),
                _ring((-n * 0.34, s * 0.024, 0), 0.02, 0.0045, 0, 1.35),
            ]
        )
        parts.append(transform(half, rotation_matrix((0, 0, 1), -s * spread), (0.01, 0, 0.006 + s * 0.0012)))
    parts.append(transform(revolve([([(0.005, 0), (0.005, 0.011), (0, 0.011)], 1)], 12), None, (0.01, 0, 0)))
    return merge(parts), (plastic(look, colour, 0.4), metal(look, (190, 190, 195))), f"{colour_name(colour)} scissors"


def torch(shape: Rng, look: Rng) -> ObjectModel:
    """Flashlight lying along x (held out)."""
    r, n = shape.uniform(0.014, 0.019), shape.uniform(0.13, 0.19)
    colour = pick_colour(look)
    wide = np.array([0.8, 1, 1, 1, 0.95, 1, 1, 1, 1.3, 1.5, 1.5, 1.45]) * r
    mesh = merge(
        [
            loft(line([(-n / 2, 0, 0), (n / 2, 0, 0)]), wide, wide, 0, 20),
            loft(line([(n / 2, 0, 0), (n / 2 + 0.001, 0, 0)], 2), wide[-2:] * 0.85, wide[-2:] * 0.85, 1, 20),
            transform(box((0.02, 0.007, 0.004), 0.001, (2,) * 6), None, (0, 0, r * 0.9)),
        ]
    )
    return (
        transform(mesh, None, (0, 0, float(wide.max()))),
        (
            plastic(look, colour, 0.5),
            Material(plain(look, (235, 238, 240)), 1.0, 120),
            plastic(look, (200, 40, 40), 0.3),
        ),
        f"{colour_name(colour)} flashlight",
    )


def rolling_pin(shape: Rng, look: Rng) -> ObjectModel:
    """Rolling pin along x (held out)."""
    r, n = shape.uniform(0.02, 0.028), shape.uniform(0.18, 0.24)
    body = wooden(look)
    grip = wooden(look) if look.random() < 0.5 else plastic(look, pick_colour(look), 0.4)
    ends = [
        loft(
            line([(s * n / 2, 0, r), (s * (n / 2 + 0.07), 0, r)], 8),
            np.array([0.5, 0.4, 0.4, 0.5, 0.6, 0.6, 0.5, 0.3]) * r,
            np.array([0.5, 0.4, 0.4, 0.5, 0.6, 0.6, 0.5, 0.3]) * r,
            1,
            14,
        )
        for s in (-1, 1)
    ]
    main = np.array([0.9, 1, 1, 1, 1, 0.9]) * r
    return (
        merge([loft(line([(-n / 2, 0, r), (n / 2, 0, r)], 6), main, main, 0, 24), *ends]),
        (body, grip),
        "rolling pin",
    )
