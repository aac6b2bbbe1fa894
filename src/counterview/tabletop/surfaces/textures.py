"""Procedural surface textures: wood, cloth, glaze, peel, brushed metal, plaster, tiles.

The same state of the generator gives the same bytes. Printed matter (labels, covers, posters) is in
:mod:`counterview.tabletop.surfaces.labels`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np

__all__ = [
    "brushed",
    "cloth",
    "glaze",
    "hsv",
    "noise",
    "outdoors",
    "peel",
    "plain",
    "planks",
    "plaster",
    "stripes",
    "tiles",
    "wood",
]

Colour = tuple[float, float, float]
"""Red, green, blue, sRGB, 0 to 255."""


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """sRGB colour in [0, 255] from hue, saturation and value in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    rgb = value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    return tuple(float(x) * 255 for x in rgb)  # type: ignore[return-value]


def noise(
    rng: np.random.Generator,
    hw: tuple[int, int],
    cells: tuple[float, float] = (4, 4),
    octaves: int = 4,
    gain: float = 0.5,
) -> np.ndarray:
    """Fractal value noise ``(H, W)`` float32, about in [-1, 1]; ``cells``: bumps of the coarsest octave."""
    out = np.zeros(hw, np.float32)
    total, weight = 0.0, 1.0
    for octave in range(octaves):
        n = [max(2, min(round(c * 2**octave) + 1, s)) for c, s in zip(cells, hw, strict=True)]
        grid = rng.uniform(-1, 1, n).astype(np.float32)
        out += weight * cv2.resize(grid, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC)
        total, weight = total + weight, weight * gain
    return out / total * 1.6


def _paint(value: np.ndarray) -> np.ndarray:
    return np.clip(value, 0, 255).astype(np.uint8)


def _mix(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)[..., None]
    return np.asarray(a, np.float32) * (1 - t) + np.asarray(b, np.float32) * t


def plain(rng: np.random.Generator, colour: Colour, hw: tuple[int, int] = (64, 64), rough: float = 0.03) -> np.ndarray:
    """One colour with faint unevenness, ``(H, W, 3)`` uint8 sRGB."""
    return _paint(np.asarray(colour, np.float32) * (1 + rough * noise(rng, hw)[..., None]))


def wood(rng: np.random.Generator, colour: Colour, hw: tuple[int, int] = (256, 256), rings: float = 9) -> np.ndarray:
    """Wood with its grain along x, ``(H, W, 3)`` uint8 sRGB."""
    h, _w = hw
    y = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    bend = noise(rng, hw, (3, 1.2), 3) * 0.35 / max(rings, 1) ** 0.6
    phase = (y + bend) * rings + 0.6 * noise(rng, hw, (rings, 1), 2)
    ring = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    fibre = noise(rng, hw, (h / 5, 4), 2)
    dark = np.asarray(colour, np.float32) * np.array([0.62, 0.55, 0.48], np.float32)
    return _paint(_mix(colour, dark, 0.55 * ring**2 + 0.16 * fibre + 0.1) * (1 + 0.06 * noise(rng, hw)[..., None]))


def planks(rng: np.random.Generator, colour: Colour, hw: tuple[int, int] = (512, 512), rows: int = 6) -> np.ndarray:
    """Boards side by side, each with its own grain and shade, ``(H, W, 3)`` uint8 sRGB."""
    h, w = hw
    out = np.zeros((h, w, 3), np.uint8)
    edges = np.linspace(0, h, rows + 1).astype(int)
    for top, bottom in itertools.pairwise(edges):
        cut = int(rng.integers(w // 4, 3 * w // 4))
        for left, right in ((0, cut), (cut, w)):
            tone, warm = rng.uniform(0.8, 1.12), rng.normal(0, 0.02)
            shade = (colour[0] * tone * (1 + warm), colour[1] * tone, colour[2] * tone * (1 - warm))
            out[top:bottom, left:right] = wood(rng, shade, (bottom - top, right - left), rng.uniform(2, 4))
            out[top:bottom, left : left + 2] = out[top:bottom, left : left + 2] // 2
        out[top : top + 2] = out[top : top + 2] // 2
    return out


def cloth(
    rng: np.random.Generator,
    colours: Sequence[Colour],
    hw: tuple[int, int] = (256, 256),
    checks: int = 6,
    style: str = "checks",
) -> np.ndarray:
    """Woven cloth in checks, stripes or one colour, with a visible weave, ``(H, W, 3)`` uint8 sRGB."""
    h, w = hw
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    a = (np.floor(y * checks / h) % 2) if style == "checks" else np.zeros_like(y)
    b = (np.floor(x * checks / w) % 2) if style != "plain" else np.zeros_like(x)
    base = _mix(colours[0], colours[1], (a + b) / (2 if style == "checks" else 1))
    weave = 0.05 * np.sin(x * np.pi / 2) * np.sin(y * np.pi / 2) + 0.05 * noise(rng, hw, (30, 30), 2)
    return _paint(base * (1 + weave[..., None]))


def stripes(
    rng: np.random.Generator,
    colours: Sequence[Colour],
    hw: tuple[int, int] = (128, 256),
    bands: int = 7,
    style: str = "rings",
) -> np.ndarray:
    """Painted rings, dots, zigzag or petals of the other colours on the first, ``(H, W, 3)`` uint8 sRGB."""
    h, w = hw
    y, x = np.mgrid[0:h, 0:w].astype(np.float32) / np.array([h, w], np.float32)[:, None, None]
    out = np.broadcast_to(np.asarray(colours[0], np.float32), (h, w, 3)).copy()
    last = colours[-1]
    if style == "rings":
        for _ in range(max(1, bands // 2)):
            at, half = rng.uniform(0.1, 0.9), rng.uniform(0.015, 0.08)
            out[np.abs(y - at) < half] = colours[int(rng.integers(1, len(colours)))]
    elif style == "dots":
        u, v = (x * bands * 1.5) % 1 - 0.5, (y * bands / 1.6 + 0.5 * np.floor(x * bands * 1.5)) % 1 - 0.5
        out[u * u + v * v < rng.uniform(0.04, 0.12)] = last
    elif style == "zigzag":
        wave = np.abs((x * bands * 1.5) % 1 - 0.5)
        for k in range(2):
            out[np.abs(y - 0.3 - 0.35 * k - wave * 0.4) < 0.05] = colours[1 + k % (len(colours) - 1)]
    else:
        u, v = (x * bands * 0.7) % 1 - 0.5, (y - 0.5) * h / w * bands * 0.7
        radius, angle = np.hypot(u, v), np.arctan2(v, u)
        out[radius < 0.28 + 0.14 * np.cos(5 * angle)] = colours[1]
        out[radius < 0.1] = last
    return _paint(out * (1 + 0.03 * noise(rng, hw)[..., None]))


def glaze(
    rng: np.random.Generator, top: Colour, bottom: Colour, hw: tuple[int, int] = (128, 128), speckle: float = 0.0
) -> np.ndarray:
    """Ceramic glaze that runs from one colour into another, with dark speckles, ``(H, W, 3)`` uint8 sRGB."""
    y = np.linspace(0, 1, hw[0], dtype=np.float32)[:, None]
    edge = np.clip((y - 0.5 + 0.12 * noise(rng, hw, (2, 8), 3)) * 6 + 0.5, 0, 1)
    out = _mix(top, bottom, np.broadcast_to(edge, hw)) * (1 + 0.05 * noise(rng, hw)[..., None])
    out[rng.random(hw) < speckle] *= 0.45
    return _paint(cv2.GaussianBlur(out, (3, 3), 0.6))


def peel(
    rng: np.random.Generator, main: Colour, blush: Colour, hw: tuple[int, int] = (128, 128), style: str = "dimples"
) -> np.ndarray:
    """Skin of fruit: dimples (citrus), streaks (apple) or spots (banana), ``(H, W, 3)`` uint8 sRGB."""
    h, _w = hw
    if style == "streaks":
        amount = 0.5 + 0.7 * noise(rng, hw, (1.5, 3), 2) + 0.25 * noise(rng, hw, (2, 40), 2)
    elif style == "spots":
        amount = 2.4 * (noise(rng, hw, (8, 14), 2) - 0.42)
    else:
        amount = 0.2 + 0.3 * noise(rng, hw, (2, 2), 2) + 0.28 * noise(rng, hw, (40, 40), 1)
    out = _mix(main, blush, amount)
    pole = np.abs(np.linspace(-1, 1, h, dtype=np.float32))[:, None, None]
    return _paint(out * (1 - 0.35 * pole**12))


def brushed(rng: np.random.Generator, colour: Colour, hw: tuple[int, int] = (64, 128)) -> np.ndarray:
    """Brushed metal, streaks along x, ``(H, W, 3)`` uint8 sRGB."""
    return _paint(np.asarray(colour, np.float32) * (1 + 0.12 * noise(rng, hw, (hw[0] / 2, 2), 2)[..., None]))


def plaster(rng: np.random.Generator, colour: Colour, hw: tuple[int, int] = (256, 256)) -> np.ndarray:
    """A painted wall, ``(H, W, 3)`` uint8 sRGB."""
    return _paint(
        np.asarray(colour, np.float32)
        * (1 + 0.02 * noise(rng, hw, (3, 3), 2)[..., None] + 0.01 * noise(rng, hw, (60, 60), 1)[..., None])
    )


def tiles(rng: np.random.Generator, colour: Colour, hw: tuple[int, int] = (256, 256), count: int = 4) -> np.ndarray:
    """Square tiles with joints, each a little different, ``(H, W, 3)`` uint8 sRGB."""
    h, w = hw
    shade = cv2.resize(
        rng.uniform(0.88, 1.08, (count, count)).astype(np.float32), (w, h), interpolation=cv2.INTER_NEAREST
    )
    y, x = np.mgrid[0:h, 0:w]
    joint = ((y * count) % h < h * 0.03 * 1.4) | ((x * count) % w < w * 0.03 * 1.4)
    out = np.asarray(colour, np.float32) * (shade * (1 + 0.04 * noise(rng, hw, (8, 8), 3)))[..., None]
    out[joint] = np.asarray(colour, np.float32) * 0.55
    return _paint(out)


def outdoors(rng: np.random.Generator, hw: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A blurred view through a window: sky, trees, ground; ``(H, W, 3)`` uint8 sRGB."""
    y = np.linspace(0, 1, hw[0], dtype=np.float32)[:, None]
    sky = _mix((205, 225, 250), (245, 248, 252), np.broadcast_to(y * 1.5, hw))
    tree = (y + 0.25 * noise(rng, hw, (2, 5), 4)) > 0.62
    green = _mix((70, 105, 60), (150, 175, 110), 0.5 + 0.8 * noise(rng, hw, (8, 10), 3))
    return _paint(cv2.GaussianBlur(np.where(tree[..., None], green, sky), (9, 9), 3))
