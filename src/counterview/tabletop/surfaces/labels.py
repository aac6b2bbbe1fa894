"""Printed matter: labels of bottles, jars and cans, faces of cartons, book covers, posters.

Text is set with the typeface that Pillow carries, so no system font is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from counterview.tabletop.surfaces.textures import Colour, hsv, noise

__all__ = ["Brand", "book_cover", "carton_side", "invent_brand", "label", "poster"]

# fmt: off
SYLLABLES = (
    "ba", "be", "bo", "da", "de", "di", "do", "fa", "fe", "fi", "ka", "ke", "ko", "la", "le", "li", "lo",
    "ma", "me", "mi", "mo", "na", "ne", "no", "pa", "pe", "po", "ra", "re", "ri", "ro", "sa", "se", "so",
    "ta", "te", "ti", "to", "va", "ve", "vi", "vo", "za", "zo", "bru", "cla", "dri", "fle", "gra", "hol", "kle",
    "mar", "nor", "pla", "qui", "sto", "tri", "ver", "wil",
)
# fmt: on
CODAS = ("", "", "n", "r", "s", "l", "x", "ta", "co", "na", "no")


class Brand:
    """A made-up brand: a word and three colours (paper, ink, accent)."""

    def __init__(self, word: str, paper: Colour, ink: Colour, accent: Colour) -> None:
        self.word, self.paper, self.ink, self.accent = word, paper, ink, accent


def invent_brand(rng: np.random.Generator) -> Brand:
    """Draw a brand; its colours contrast."""
    word = "".join(rng.choice(SYLLABLES, int(rng.integers(2, 4)))) + str(rng.choice(CODAS))
    hue = rng.random()
    style = int(rng.integers(4))
    if style == 0:
        paper, ink = hsv(hue, rng.uniform(0.0, 0.15), rng.uniform(0.88, 0.98)), hsv(hue, 0.8, 0.35)
    elif style == 1:
        paper, ink = hsv(hue, rng.uniform(0.6, 0.9), rng.uniform(0.45, 0.8)), hsv(hue, 0.05, 0.97)
    elif style == 2:
        paper, ink = hsv(0.12, rng.uniform(0.15, 0.35), 0.92), hsv(hue, 0.7, 0.3)
    else:
        paper, ink = hsv(hue, 0.4, rng.uniform(0.12, 0.25)), hsv((hue + 0.12) % 1, 0.35, 0.95)
    return Brand(word, paper, ink, hsv((hue + rng.choice([0.08, 0.33, 0.5])) % 1, 0.75, 0.85))


def _rgb(colour: Colour) -> tuple[int, int, int]:
    r, g, b = (int(np.clip(c, 0, 255)) for c in colour)
    return r, g, b


def _text(
    draw: ImageDraw.ImageDraw,
    middle_xy: tuple[float, float],
    text: str,
    width_px: float,
    height_px: float,
    colour: Colour,
    bold: int = 0,
) -> None:
    """Write ``text`` centred at ``middle_xy``, as large as fits into width x height."""
    size = max(6.0, height_px)
    font = ImageFont.load_default(size)
    left, _top, right, _bottom = draw.textbbox((0, 0), text, font=font, stroke_width=bold)
    if right - left > width_px:
        font = ImageFont.load_default(max(6.0, size * width_px / (right - left)))
    draw.text(middle_xy, text, font=font, fill=_rgb(colour), anchor="mm", stroke_width=bold, stroke_fill=_rgb(colour))


def _lines(draw: ImageDraw.ImageDraw, rng: np.random.Generator, box: Sequence[float], rows: int, ink: Colour) -> None:
    """Small print: rows of words drawn as dashes."""
    x0, y0, x1, y1 = box
    step = (y1 - y0) / rows
    for i in range(rows):
        x = x0
        while x < x1 - 4:
            end = min(x + rng.uniform(0.06, 0.2) * (x1 - x0), x1)
            draw.rectangle((x, y0 + i * step, end, y0 + (i + 0.55) * step), fill=_rgb(ink))
            x = end + 0.03 * (x1 - x0) + 1


def _barcode(draw: ImageDraw.ImageDraw, rng: np.random.Generator, box: Sequence[float]) -> None:
    x0, y0, x1, y1 = box
    draw.rectangle((x0 - 3, y0 - 3, x1 + 3, y1 + 3), fill=(250, 250, 250))
    x = x0
    while x < x1:
        wide = rng.integers(1, 4)
        draw.rectangle((x, y0, x + wide - 1, y1), fill=(20, 20, 20))
        x += wide + rng.integers(1, 4)


def _emblem(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    middle: tuple[float, float],
    r: float,
    colours: Sequence[Colour],
) -> None:
    """Draw an emblem: sun, leaf, mountain, star or drop."""
    x, y = middle
    kind = int(rng.integers(5))
    a, b = _rgb(colours[0]), _rgb(colours[1])
    if kind == 0:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=a)
        draw.ellipse((x - r * 0.6, y - r * 0.6, x + r * 0.6, y + r * 0.6), fill=b)
    elif kind == 1:
        for s in (-1, 1):
            draw.ellipse((x - r * 0.45 + s * r * 0.5, y - r, x + r * 0.45 + s * r * 0.5, y + r), fill=a if s < 0 else b)
    elif kind == 2:
        draw.polygon([(x - r * 1.3, y + r), (x - r * 0.2, y - r), (x + r * 0.6, y + r)], fill=a)
        draw.polygon([(x - r * 0.2, y + r), (x + r * 0.7, y - r * 0.4), (x + r * 1.4, y + r)], fill=b)
    elif kind == 3:
        t = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, r * 1.1, r * 0.48)
        draw.polygon(
            [(x + float(q * np.cos(p)), y + float(q * np.sin(p))) for q, p in zip(radius, t, strict=True)], fill=a
        )
    else:
        draw.polygon([(x, y - r * 1.2), (x + r * 0.8, y + r * 0.2), (x, y + r), (x - r * 0.8, y + r * 0.2)], fill=a)
        draw.ellipse((x - r * 0.35, y - r * 0.1, x + r * 0.35, y + r * 0.6), fill=b)


def label(rng: np.random.Generator, brand: Brand, product: str, hw: tuple[int, int] = (256, 512)) -> np.ndarray:
    """Label that goes round a vessel, ``(H, W, 3)`` uint8 sRGB: front panel twice, small print, barcode."""
    h, w = hw
    image = Image.new("RGB", (w, h), _rgb(brand.paper))
    draw = ImageDraw.Draw(image)
    layout = int(rng.integers(4))
    band = (0.0, 0.2, 0.32, 0.5)[layout] * h
    if layout:
        at = float(rng.choice([0.0, 1.0])) * (h - band)
        draw.rectangle((0, at, w, at + band), fill=_rgb(brand.accent))
    draw.rectangle((0, 0, w, h * 0.025), fill=_rgb(brand.ink))
    draw.rectangle((0, h * 0.975, w, h), fill=_rgb(brand.ink))
    word = brand.word.upper() if layout % 2 else brand.word.capitalize()
    spots = rng.permutation([0.2, 0.47, 0.78])
    state = rng.bit_generator.state
    for panel in (0.25, 0.75):
        rng.bit_generator.state = state
        x = panel * w
        _emblem(draw, rng, (x, float(spots[0]) * h), h * 0.13, (brand.accent if layout < 2 else brand.ink, brand.ink))
        _text(draw, (x, float(spots[1]) * h), word, w * 0.36, h * 0.26, brand.ink, 2)
        _text(draw, (x, float(spots[2]) * h), product.upper(), w * 0.34, h * 0.15, brand.ink, 1)
    _lines(draw, rng, (w * 0.455, h * 0.15, w * 0.545, h * 0.85), 9, brand.ink)
    _barcode(draw, rng, (w * 0.96, h * 0.3, w * 0.995, h * 0.7))
    return np.asarray(image)


def carton_side(
    rng: np.random.Generator, brand: Brand, product: str, front: bool, hw: tuple[int, int] = (256, 192)
) -> np.ndarray:
    """Front or side of a packet, ``(H, W, 3)`` uint8 sRGB; sides of one brand look alike."""
    h, w = hw
    image = Image.new("RGB", (w, h), _rgb(brand.paper))
    draw = ImageDraw.Draw(image)
    if front:
        layout = int(rng.integers(3))
        if layout == 0:
            draw.ellipse((w * 0.05, h * 0.38, w * 0.95, h * 1.0), fill=_rgb(brand.accent))
        elif layout == 1:
            draw.polygon([(0, h * 0.6), (w, h * 0.35), (w, h), (0, h)], fill=_rgb(brand.accent))
        else:
            draw.rectangle((0, h * 0.72, w, h), fill=_rgb(brand.accent))
        _text(draw, (w / 2, h * 0.15), brand.word.upper(), w * 0.86, h * 0.2, brand.ink, 2)
        _text(draw, (w / 2, h * 0.31), product.upper(), w * 0.8, h * 0.11, brand.ink, 1)
        _emblem(draw, rng, (w / 2, h * 0.64), min(h, w) * 0.2, (brand.ink, brand.paper))
        _text(draw, (w * 0.5, h * 0.92), f"{int(rng.integers(1, 9)) * 100} g", w * 0.4, h * 0.08, brand.ink)
    else:
        draw.rectangle((0, 0, w, h * 0.14), fill=_rgb(brand.accent))
        _text(draw, (w / 2, h * 0.22), brand.word.upper(), w * 0.8, h * 0.1, brand.ink, 1)
        _lines(draw, rng, (w * 0.12, h * 0.34, w * 0.88, h * 0.7), 8, brand.ink)
        _barcode(draw, rng, (w * 0.25, h * 0.78, w * 0.75, h * 0.92))
    return np.asarray(image)


def book_cover(rng: np.random.Generator, brand: Brand, hw: tuple[int, int] = (256, 192)) -> np.ndarray:
    """Cover of a book, ``(H, W, 3)`` uint8 sRGB: title, emblem or bands, author."""
    h, w = hw
    image = Image.new("RGB", (w, h), _rgb(brand.paper))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        draw.rectangle((w * 0.06, h * 0.05, w * 0.94, h * 0.95), outline=_rgb(brand.ink), width=max(2, w // 60))
    if rng.random() < 0.5:
        draw.rectangle((0, h * 0.55, w, h * 0.8), fill=_rgb(brand.accent))
    topics = ("garden", "rivers", "signals", "stars", "bread", "knots", "maps", "stone", "birds", "islands")
    _text(draw, (w / 2, h * 0.2), brand.word.upper(), w * 0.8, h * 0.16, brand.ink, 2)
    _text(draw, (w / 2, h * 0.34), "and the " + str(rng.choice(topics)), w * 0.74, h * 0.09, brand.ink)
    _emblem(draw, rng, (w / 2, h * 0.62), w * 0.17, (brand.ink, brand.accent))
    _text(
        draw,
        (w / 2, h * 0.88),
        str(rng.choice(SYLLABLES)).upper()
        + ". "
        + str(rng.choice(SYLLABLES)).capitalize()
        + str(rng.choice(SYLLABLES)),
        w * 0.6,
        h * 0.07,
        brand.ink,
    )
    return np.asarray(image)


def poster(rng: np.random.Generator, hw: tuple[int, int] = (256, 192)) -> np.ndarray:
    """Abstract image for a wall, ``(H, W, 3)`` uint8 sRGB."""
    _h, w = hw
    field = noise(rng, hw, (2, 2), 3)
    stops = np.array([hsv(rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.4, 0.95)) for _ in range(4)])
    out = stops[np.clip(((field + 1) * 2).astype(int), 0, 3)].astype(np.uint8)
    edge = max(3, w // 24)
    out[:edge] = out[-edge:] = 235
    out[:, :edge] = out[:, -edge:] = 235
    return out
