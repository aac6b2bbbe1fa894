"""Everything not round: cartons, books, boards, cutlery, tools, fruit, and the held-out scissors, torch, rolling pin,
spray bottle.

The builders have the signature of those in :mod:`counterview.data.tabletop.vessels`.
"""

from __future__ import annotations

import numpy as np

from counterview.data.tabletop.labels import book_cover, carton_side, invent_brand, label
from counterview.data.tabletop.materials import Material, Model, colour_name, metal, pick_colour, plastic, wooden
from counterview.data.tabletop.shapes import Mesh, box, ellipsoid, loft, merge, revolve, rotation, transform, tube
from counterview.data.tabletop.textures import peel, plain, stripes

__all__ = ["board", "book", "carton", "cutlery", "fruit", "rolling_pin", "scissors", "spray", "tool", "torch"]

Rng = np.random.Generator


def _line(points: list[tuple[float, float, float]], n: int = 12) -> np.ndarray:
    """Points (N, 3) evenly spread along a polyline given by (x, y, z) corners."""
    p = np.asarray(points, float)
    t = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
    s = np.linspace(0, t[-1], n)
    return np.stack([np.interp(s, t, p[:, k]) for k in range(3)], -1)


def _ring(centre: tuple[float, float, float], radius: float, thick: float, part: int, stretch: float = 1.0,
          start: float = 0.0, sweep: float = 2 * np.pi) -> Mesh:
    """Flat ring (or part of one) in a horizontal plane."""
    t = np.linspace(start, start + sweep, 20)
    path = np.stack([centre[0] + radius * stretch * np.cos(t), centre[1] + radius * np.sin(t), np.full(20, centre[2])], -1)
    return tube(path, thick, part, 8)


def carton(shape: Rng, look: Rng) -> Model:
    """Printed packet, upright."""
    w, d, h = shape.uniform(0.06, 0.14), shape.uniform(0.035, 0.075), shape.uniform(0.11, 0.24)
    brand = invent_brand(look)
    product = str(look.choice(["oat flakes", "rice", "tea", "pasta", "biscuits", "milk", "salt", "crackers", "flour"]))
    face = (256, max(64, int(256 * w / h)))
    side = (256, max(48, int(256 * d / h)))
    front = carton_side(look, brand, product, True, face)
    materials = (Material(front, 0.12, 25), Material(carton_side(look, brand, product, False, side), 0.12, 25),
                 Material(plain(look, brand.paper), 0.12, 25))
    return box((w, d, h), 0.0015, (0, 1, 0, 1, 2, 2)), materials, f"{colour_name(brand.paper)} {product} box"


def book(shape: Rng, look: Rng) -> Model:
    """Closed book lying flat, cover up."""
    w, d, h = shape.uniform(0.11, 0.18), shape.uniform(0.16, 0.24), shape.uniform(0.014, 0.04)
    brand = invent_brand(look)
    pages = stripes(look, [(232, 226, 208), (205, 198, 180), (215, 208, 190)], (64, 64), 24)
    cover = Material(book_cover(look, brand, (256, int(256 * w / d))), 0.2, 30)
    plainly = Material(plain(look, brand.paper), 0.2, 30)
    t = 0.002
    mesh = merge([
        box((w, d, t), 0.0006, (1,) * 6),
        transform(box((w - 0.006, d - 0.008, h - 2 * t), 0.0004, (2,) * 6), None, (0.002, 0, t)),
        transform(box((w, d, t), 0.0006, (1, 1, 1, 1, 0, 1)), None, (0, 0, h - t)),
        transform(box((t, d, h), 0.0006, (1,) * 6), None, (-w / 2 + t / 2, 0, 0)),
    ])
    return mesh, (cover, plainly, Material(pages, 0.02, 8)), f"{colour_name(brand.paper)} book"


def board(shape: Rng, look: Rng) -> Model:
    """Chopping board with a handle hole marked by a dark disc."""
    w, d, h = shape.uniform(0.2, 0.32), shape.uniform(0.13, 0.2), shape.uniform(0.012, 0.022)
    material = wooden(look)
    if look.random() < 0.3:
        material = plastic(look, pick_colour(look), 0.15)
    mesh = merge([box((w, d, h), 0.004),
                  transform(revolve([([(0.011, 0), (0.011, 0.0006), (0, 0.0006)], 1)], 20), None, (w / 2 - 0.026, 0, h))])
    return mesh, (material, plastic(look, (32, 26, 22), 0.0)), "cutting board"


def cutlery(shape: Rng, look: Rng) -> Model:
    """Fork, knife, spoon, spatula or ladle, lying along x."""
    kind = str(shape.choice(["fork", "knife", "spoon", "spatula", "whisk", "scoop/ladle"]))
    n = shape.uniform(0.16, 0.23)
    steel = metal(look, (188, 188, 192))
    coloured = pick_colour(look)
    grip = (steel, plastic(look, coloured, 0.4), wooden(look))[int(look.integers(3))]
    z = 0.004
    handle = loft(_line([(-n / 2, 0, z), (0, 0, z + 0.002), (n * 0.12, 0, z + 0.006)]),
                  np.interp(np.arange(12), [0, 3, 11], [0.009, 0.008, 0.004]), np.full(12, 0.0035), 1, 10, 2.6)
    x = n * 0.12
    if kind == "fork":
        head = [loft(_line([(x - 0.004, 0, z + 0.006), (x + 0.03, 0, z + 0.001)], 6), np.linspace(0.004, 0.011, 6),
                     np.full(6, 0.0016), 0)]
        head += [loft(_line([(x + 0.028, y, z + 0.001), (x + 0.055, y, z), (x + 0.08, y, z + 0.006)], 7),
                      np.linspace(0.0022, 0.0014, 7), np.full(7, 0.0014), 0, 6) for y in (-0.009, -0.003, 0.003, 0.009)]
    elif kind == "knife":
        head = [loft(_line([(x - 0.004, 0, z + 0.003), (n / 2 + 0.02, 0.002, z)], 10),
                     np.interp(np.arange(10), [0, 2, 7, 9], [0.006, 0.011, 0.011, 0.002]), np.full(10, 0.0012), 0, 8)]
    elif kind == "spatula":
        head = [loft(_line([(x - 0.004, 0, z + 0.006), (x + 0.02, 0, z + 0.003), (n / 2 + 0.03, 0, z - 0.002)], 10),
                     np.interp(np.arange(10), [0, 3, 4, 9], [0.004, 0.006, 0.028, 0.036]), np.full(10, 0.0016), 0, 10, 4.0)]
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
        head = [transform(merge([cup, inner]), rotation((0, 1, 0), -0.08), (x + 0.03 * big, 0, 0.006 * big + 0.001))]
    name = f"{colour_name(coloured)} {kind}" if grip is not steel else f"steel {kind}"
    return merge([handle, *head]), (steel, grip, metal(look, (140, 140, 145))), name


def tool(shape: Rng, look: Rng) -> Model:
    """Screwdriver, hammer, wrench, pliers or brush, lying along x."""
    kind = str(shape.choice(["screwdriver", "hammer", "wrench", "pliers", "paint brush"]))
    n = shape.uniform(0.17, 0.25)
    colour = pick_colour(look)
    grip, steel = plastic(look, colour, 0.45), metal(look, (165, 166, 170))
    extra = plastic(look, (32, 32, 34), 0.3)
    if kind == "screwdriver":
        r = shape.uniform(0.012, 0.016)
        parts = [loft(_line([(-n / 2, 0, r), (0, 0, r)]), r * np.array([.7, 1, 1, .95, .9, .9, 1, 1, .9, .7, .6, .5]),
                      r * np.array([.7, 1, 1, .95, .9, .9, 1, 1, .9, .7, .6, .5]), 0, 12, 3.0),
                 tube(_line([(-0.002, 0, r), (n / 2, 0, r)], 6), 0.0032, 1, 8)]
    elif kind == "hammer":
        wood = wooden(look)
        grip = wood if look.random() < 0.5 else grip
        parts = [loft(_line([(-n / 2, 0, 0.013), (n / 2, 0, 0.013)]), np.interp(np.arange(12), [0, 5, 11], [.013, .011, .009]),
                      np.full(12, 0.011), 0, 12, 2.6),
                 loft(_line([(n / 2 - 0.01, -0.05, 0.013), (n / 2 - 0.01, 0.055, 0.013)]),
                      np.array([.013, .013, .013, .009, .012, .013, .013, .011, .010, .009, .007, .003]), np.full(12, 0.013),
                      1, 12, 3.0)]
    elif kind == "wrench":
        parts = [loft(_line([(-n / 2 + 0.015, 0, 0.006), (n / 2 - 0.015, 0, 0.006)]),
                      np.interp(np.arange(12), [0, 2, 9, 11], [.011, .008, .008, .011]), np.full(12, 0.0042), 1, 10, 3.5),
                 transform(_ring((0, 0, 0), 0.0135, 0.0052, 1), None, (-n / 2 + 0.002, 0, 0.006)),
                 transform(_ring((0, 0, 0), 0.015, 0.0058, 1, 1.0, 0.7, 2 * np.pi - 1.4), None, (n / 2, 0, 0.006))]
        name = f"{colour_name((140, 140, 145))} wrench"
        return merge(parts), (grip, steel), name
    elif kind == "pliers":
        parts = []
        for s in (-1.0, 1.0):
            parts.append(loft(_line([(-n / 2, s * 0.034, 0.009), (-n * 0.1, s * 0.024, 0.009), (n * 0.18, -s * 0.004, 0.009)]),
                              np.interp(np.arange(12), [0, 2, 11], [.005, .0085, .006]), np.full(12, 0.008), 0, 10, 2.6))
            parts.append(loft(_line([(n * 0.16, -s * 0.006, 0.009), (n * 0.24, -s * 0.013, 0.009), (n * 0.46, -s * 0.004, 0.009)], 8),
                              np.linspace(0.011, 0.0045, 8), np.full(8, 0.007), 1, 10, 3.0))
        parts.append(transform(revolve([([(0.012, 0), (0.012, 0.018), (0, 0.018)], 1)], 16), None, (n * 0.19, 0, 0)))
    else:
        wide = shape.uniform(0.016, 0.028)
        parts = [loft(_line([(-n / 2, 0, 0.008), (n * 0.1, 0, 0.008)]), np.interp(np.arange(12), [0, 3, 7, 11], [.005, .009, .006, wide]),
                      np.full(12, 0.006), 0, 10, 2.6),
                 loft(_line([(n * 0.1, 0, 0.008), (n * 0.2, 0, 0.008)], 4), np.full(4, wide * 1.04), np.full(4, 0.0072), 1, 10, 4.0),
                 loft(_line([(n * 0.2, 0, 0.008), (n * 0.42, 0, 0.008)], 6), np.linspace(wide, wide * 0.8, 6),
                      np.linspace(0.006, 0.003, 6), 2, 10, 4.0)]
    return merge(parts), (grip, steel, extra), f"{colour_name(colour)} {kind}"


def fruit(shape: Rng, look: Rng) -> Model:
    """Apple, orange, lemon, pear, banana, aubergine, tomato or potato."""
    kind = str(shape.choice(["apple", "orange", "lemon", "pear", "banana", "aubergine", "tomato", "potato"]))
    r = shape.uniform(0.032, 0.043)
    stem = plastic(look, (84, 60, 34), 0.05)
    wobble = float(look.uniform(-18, 18))
    if kind == "banana":
        t = np.linspace(-0.75, 0.75, 14)
        bend = 0.105
        path = np.stack([bend * np.sin(t), bend * (1 - np.cos(t)) - 0.015, np.full(14, 0.018)], -1)
        size = np.interp(np.arange(14), [0, 1, 3, 10, 12, 13], [.005, .008, .0175, .0175, .007, .005])
        skin = Material(peel(look, (228, 196 + wobble, 70), (110, 78, 40), (128, 128), "spots"), 0.15, 20)
        return merge([loft(path, size, size, 0, 12, 2.4)]), (skin, stem), "banana"
    spec = {
        "apple": ([(0, .12), (.45, 0), (1, .42), (1.02, 1.05), (.6, 1.78), (0, 1.5)], (170, 45 + wobble, 40), (150, 160, 60), "streaks"),
        "orange": ([(0, 0), (.75, .02), (1.05, .55), (1.05, 1.4), (.7, 1.95), (0, 1.97)], (228, 128 + wobble, 32), (240, 160, 60), "dimples"),
        "lemon": ([(0, 0), (.35, .1), (.9, .5), (.9, 1.4), (.4, 1.95), (0, 2.15)], (232, 205 + wobble, 62), (245, 225, 110), "dimples"),
        "pear": ([(0, .08), (.6, 0), (1.1, .6), (.85, 1.5), (.4, 2.1), (.35, 2.5), (0, 2.6)], (168, 176 + wobble, 70), (196, 140, 70), "streaks"),
        "aubergine": ([(0, 0), (.6, .05), (.85, .7), (.62, 2.0), (.5, 3.0), (0, 3.2)], (58 + wobble, 30, 66), (80, 44, 84), "dimples"),
        "tomato": ([(0, .1), (.6, 0), (1.08, .45), (1.08, 1.2), (.6, 1.65), (0, 1.5)], (200, 48 + wobble, 32), (215, 80, 40), "dimples"),
        "potato": ([(0, 0), (.7, .1), (1.0, .8), (.95, 1.8), (.6, 2.5), (0, 2.6)], (178 + wobble, 142, 92), (150, 112, 70), "dimples"),
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
        mesh = merge([mesh, tube(_line([(0, 0, top - 0.004), (0.002, 0, top + 0.008), (0.006, 0, top + 0.017)], 5), 0.0018, tint, 6, (0, 1, 0))])
    if kind in ("lemon", "aubergine", "potato"):  # these lie on their side
        wide = float(mesh.vertices[:, 0].max())
        mesh = transform(transform(mesh, None, (0, 0, -top / 2)), rotation((0, 1, 0), np.pi / 2), (0, 0, wide))
    skin = Material(peel(look, main, blush, (128, 128), style), 0.35 if kind != "potato" else 0.03, 35)
    return mesh, (skin, stem), kind


def scissors(shape: Rng, look: Rng) -> Model:
    """Half-open scissors (held out)."""
    n, spread = shape.uniform(0.16, 0.22), shape.uniform(0.06, 0.16)
    colour = pick_colour(look)
    parts = []
    for s in (-1.0, 1.0):
        half = merge([
            loft(_line([(-0.02, 0, 0), (n * 0.5, 0, 0)], 8), np.interp(np.arange(8), [0, 1, 7], [.004, .0085, .0015]), np.full(8, .0014), 1, 8),
            loft(_line([(0.0, 0, 0), (-n * 0.2, s * 0.014, 0)], 6), np.full(6, .0055), np.full(6, .0035), 0, 8),
            _ring((-n * 0.34, s * 0.024, 0), 0.02, 0.0045, 0, 1.35)])
        parts.append(transform(half, rotation((0, 0, 1), -s * spread), (0.01, 0, 0.006 + s * 0.0012)))
    parts.append(transform(revolve([([(0.005, 0), (0.005, 0.011), (0, 0.011)], 1)], 12), None, (0.01, 0, 0)))
    return merge(parts), (plastic(look, colour, 0.4), metal(look, (190, 190, 195))), f"{colour_name(colour)} scissors"


def torch(shape: Rng, look: Rng) -> Model:
    """Flashlight lying along x (held out)."""
    r, n = shape.uniform(0.014, 0.019), shape.uniform(0.13, 0.19)
    colour = pick_colour(look)
    wide = np.array([.8, 1, 1, 1, .95, 1, 1, 1, 1.3, 1.5, 1.5, 1.45]) * r
    mesh = merge([loft(_line([(-n / 2, 0, 0), (n / 2, 0, 0)]), wide, wide, 0, 20),
                  loft(_line([(n / 2, 0, 0), (n / 2 + 0.001, 0, 0)], 2), wide[-2:] * 0.85, wide[-2:] * 0.85, 1, 20),
                  transform(box((0.02, 0.007, 0.004), 0.001, (2,) * 6), None, (0, 0, r * 0.9))])
    return transform(mesh, None, (0, 0, float(wide.max()))), (
        plastic(look, colour, 0.5), Material(plain(look, (235, 238, 240)), 1.0, 120), plastic(look, (200, 40, 40), 0.3)), \
        f"{colour_name(colour)} flashlight"


def rolling_pin(shape: Rng, look: Rng) -> Model:
    """Rolling pin along x (held out)."""
    r, n = shape.uniform(0.02, 0.028), shape.uniform(0.18, 0.24)
    body = wooden(look)
    grip = wooden(look) if look.random() < 0.5 else plastic(look, pick_colour(look), 0.4)
    ends = [loft(_line([(s * n / 2, 0, r), (s * (n / 2 + 0.07), 0, r)], 8), np.array([.5, .4, .4, .5, .6, .6, .5, .3]) * r,
                 np.array([.5, .4, .4, .5, .6, .6, .5, .3]) * r, 1, 14) for s in (-1, 1)]
    main = np.array([.9, 1, 1, 1, 1, .9]) * r
    return merge([loft(_line([(-n / 2, 0, r), (n / 2, 0, r)], 6), main, main, 0, 24), *ends]), (body, grip), "rolling pin"


def spray(shape: Rng, look: Rng) -> Model:
    """Trigger spray bottle (held out)."""
    r, h = shape.uniform(0.032, 0.042), shape.uniform(0.15, 0.19)
    colour, head = pick_colour(look), pick_colour(look)
    brand = invent_brand(look)
    mesh = merge([
        revolve([([(0, 0), (r, 0), (r, h * 0.15)], 0), ([(r * 1.006, h * 0.15), (r * 1.006, h * 0.55)], 1),
                 ([(r, h * 0.55), (r * 0.8, h * 0.75), (r * 0.38, h * 0.92), (r * 0.38, h)], 0)], crease_deg=60),
        transform(box((0.085, 0.024, 0.03), 0.004, (2,) * 6), None, (0.018, 0, h)),
        loft(_line([(0.045, 0, h + 0.004), (0.05, 0, h - 0.02), (0.036, 0, h - 0.048)], 7), np.full(7, .007), np.full(7, .004),
             3, 8, up=(1, 0, 0.2)),
        tube(_line([(0.058, 0, h + 0.016), (0.075, 0, h + 0.016)], 3), 0.006, 3)])
    return mesh, (plastic(look, colour, 0.5), Material(label(look, brand, "glass cleaner"), 0.15, 30),
                  plastic(look, head, 0.4), plastic(look, (220, 220, 220), 0.3)), f"{colour_name(colour)} spray bottle"
