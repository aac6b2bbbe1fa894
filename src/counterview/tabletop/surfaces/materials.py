"""What a surface is made of: a texture and how it shines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterview.tabletop.surfaces.textures import Colour, brushed, glaze, hsv, plain, stripes, wood

__all__ = ["Material", "ceramic", "colour_name", "metal", "pick_colour", "plastic", "wooden"]


@dataclass(frozen=True)
class Material:
    """A surface.

    Attributes:
        texture: ``(H, W, 3)`` uint8, sRGB.
        gloss: strength of the highlight, 0 (chalk) to 1 (glaze).
        exponent: sharpness of the highlight (Blinn-Phong).
        metal: fraction of the reflection that takes the surface's own colour, 0 to 1.
        emission: light given off, in units of the texture's colour.
    """

    texture: np.ndarray
    gloss: float = 0.1
    exponent: float = 20.0
    metal: float = 0.0
    emission: float = 0.0


_NAMES = {
    "white": (235, 235, 230),
    "black": (35, 35, 38),
    "grey": (135, 135, 138),
    "red": (190, 40, 40),
    "orange": (230, 125, 30),
    "yellow": (235, 205, 60),
    "green": (60, 140, 65),
    "teal": (35, 140, 140),
    "blue": (50, 90, 175),
    "purple": (115, 65, 150),
    "pink": (225, 135, 165),
    "brown": (120, 75, 45),
    "beige": (215, 195, 160),
    "navy": (35, 45, 90),
    "olive": (125, 125, 60),
    "maroon": (110, 30, 45),
}


def colour_name(colour: Colour) -> str:
    """The everyday colour word nearest to an sRGB colour (0 to 255)."""
    return min(_NAMES, key=lambda n: sum((a - b) ** 2 for a, b in zip(_NAMES[n], colour, strict=True)))


def pick_colour(rng: np.random.Generator) -> Colour:
    """A paint colour near one of the named ones."""
    base = np.asarray(_NAMES[str(rng.choice(sorted(_NAMES)))], float)
    return tuple(float(x) for x in np.clip(base + rng.normal(0, 12, 3), 15, 240))  # type: ignore[return-value]


def plastic(rng: np.random.Generator, colour: Colour, gloss: float) -> Material:
    """Coloured plastic, lacquer or filled glass."""
    return Material(plain(rng, colour), gloss, 60 if gloss > 0.4 else 20)


def metal(rng: np.random.Generator, colour: Colour) -> Material:
    """Brushed or painted metal."""
    return Material(brushed(rng, colour), 0.8, 45, 0.75)


def wooden(rng: np.random.Generator) -> Material:
    """Oiled wood, light to dark."""
    tone = rng.uniform(0.55, 1.0)
    colour = (205 * tone, 160 * tone, 110 * tone)
    return Material(wood(rng, colour, (96, 256), rng.uniform(3, 7)), 0.15, 15)


def ceramic(rng: np.random.Generator, steel: float = 0.0) -> tuple[Material, Material, str]:
    """Outside and inside of a glazed vessel, and an adjective for it; with probability ``steel`` it is of steel."""
    if rng.random() < steel:
        tone = (185, 186, 190)
        return metal(rng, tone), metal(rng, tone), "steel"
    main, second = pick_colour(rng), pick_colour(rng)
    light = hsv(rng.uniform(0.05, 0.15), rng.uniform(0.02, 0.15), rng.uniform(0.82, 0.95))
    style = str(rng.choice(["plain", "glaze", "speckle", "rings", "dots", "zigzag", "petals"]))
    if style == "plain":
        paint = plain(rng, main)
    elif style == "glaze":
        paint = glaze(rng, main, light)
    elif style == "speckle":
        paint = glaze(rng, main, main, speckle=0.03)
    else:
        main = light if rng.random() < 0.5 else main
        paint = stripes(rng, [main, second, pick_colour(rng)], style=style)
    inside = plain(rng, light if rng.random() < 0.6 else main)
    word = f"{colour_name(main)} {style}" if style in ("rings", "dots", "petals") else colour_name(main)
    return Material(paint, 0.7, 90), Material(inside, 0.6, 80), word
