"""Text on images: letters of any script that a font here has, in places that hide neither text nor objects."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from counterview.types import BoolImage, RgbImage

logger = logging.getLogger(__name__)

WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "DroidSansFallbackFull.ttf", "msyh.ttc", "PingFang.ttc",
    "Arial Unicode.ttf",
)  # fmt: skip
"""Fonts of operating systems with Chinese, Japanese and Korean letters. They are used where they are installed."""

PADDING_PX = 3
Font = Any
"""A font of Pillow: its two kinds have no common base class."""


@cache
def fonts(size_px: int) -> tuple[Font, ...]:
    """The fonts to try, in this order.

    DejaVu Sans comes with matplotlib, which supervision requires: Latin, Greek, Cyrillic, Arabic and Hebrew. Pillow's
    own font has ASCII letters alone.

    Args:
        size_px: height of the letters.
    """
    found: list[Font] = []
    package = importlib.util.find_spec("matplotlib")
    paths = list(WIDE_FONTS)
    if package is not None and package.origin is not None:
        paths.insert(0, str(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"))
    for path in paths:
        try:
            found.append(ImageFont.truetype(path, size_px))
        except OSError:
            continue
    return (*found, ImageFont.load_default(size_px))


@cache
def _has(font: Font, letter: str) -> bool:
    """Whether a font has a letter: it is not drawn like one that no font has."""
    if letter.isspace() or not letter.isprintable():
        return True
    missing, drawn = font.getmask("\uffff"), font.getmask(letter)
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)


@cache
def writable(text: str, size_px: int) -> tuple[str, Font]:
    """A text as it can be drawn, and the font for it.

    Args:
        text: any; line breaks become spaces.
        size_px: height of the letters.

    Returns:
        the text, and the first font that has all its letters; or the text with ``?`` for the letters that the first
        font lacks, which is logged as a warning.
    """
    line = " ".join(text.split())
    for font in fonts(size_px):
        if all(_has(font, letter) for letter in line):
            return line, font
    font = fonts(size_px)[0]
    _warn("".join(sorted({letter for letter in line if not _has(font, letter)})))
    return "".join(letter if _has(font, letter) else "?" for letter in line), font


@cache
def _warn(letters: str) -> None:
    """Say once that letters cannot be drawn."""
    logger.warning("no font here has the letters %r of a label; install for example Noto Sans CJK", letters)


def text_size(text: str, size_px: int) -> tuple[int, int]:
    """Width and height in pixels of a label with its padding.

    Args:
        text: of the label.
        size_px: height of the letters.
    """
    line, font = writable(text, size_px)
    ascent, descent = font.getmetrics()
    return int(np.ceil(font.getlength(line))) + 2 * PADDING_PX, ascent + descent + 2 * PADDING_PX


@dataclass(frozen=True)
class Label:
    """A label where it is drawn.

    Attributes:
        text: of the label.
        color: its background, a hex colour.
        xy: its top left corner in pixels.
        size_wh: width and height in pixels.
        anchor_xy: the point of the object that a line leads to; ``None`` if the label touches the object's box.
    """

    text: str
    color: str
    xy: tuple[int, int]
    size_wh: tuple[int, int]
    anchor_xy: tuple[int, int] | None


def place(texts: Sequence[str], colors: Sequence[str], masks: Sequence[BoolImage], size_px: int) -> list[Label]:
    """Place a label for each mask, apart from one another and away from the objects.

    Of places around the object's box, nearer ones first, each label takes the one that hides least of the masks and of
    the labels before it.

    Args:
        texts: one a mask.
        colors: likewise.
        masks: M masks ``(H, W)`` of one size, none of them empty.
        size_px: height of the letters.

    Returns:
        M labels inside the image.
    """
    if not masks:
        return []
    height, width = masks[0].shape
    # A pixel of a small object is worth more: what counts is the fraction of each object that is hidden.
    worth = np.sum([mask / mask.sum() for mask in masks], axis=0)
    sums = np.pad(worth.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    taken: list[tuple[int, int, int, int]] = []
    labels = []
    for text, color, mask in zip(texts, colors, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        w, h = text_size(text, size_px)
        least, best = np.inf, (0, 0)
        for x, y in _places(box, w, h):
            x, y = int(np.clip(x, 0, max(0, width - w))), int(np.clip(y, 0, max(0, height - h)))
            right, bottom = min(x + w, width), min(y + h, height)
            hidden = float(sums[bottom, right] - sums[y, right] - sums[bottom, x] + sums[y, x])
            overlap = sum(_overlap((x, y, x + w, y + h), other) for other in taken)
            cost = 8.0 * hidden + 4.0 * overlap / (w * h) + _gap((x, y, x + w, y + h), box) / (6.0 * h)
            if cost < least - 1e-9:
                least, best = cost, (x, y)
        x, y = best
        taken.append((x, y, x + w, y + h))
        near = _gap(taken[-1], box) <= 2
        anchor = None if near else _nearest_pixel(mask, (x + w / 2, y + h / 2))
        labels.append(Label(text, color, (x, y), (w, h), anchor))
    return labels


def _places(box: tuple[int, int, int, int], w: int, h: int) -> list[tuple[int, int]]:
    """Top left corners around a box for a label of width ``w`` and height ``h``, the nearest first."""
    x1, y1, x2, y2 = box
    middle = (x1 + x2 - w) // 2
    found = []
    for step in range(6):
        dx, dy = step * h * 3 // 2, step * h * 3 // 2
        found += [
            (x1, y1 - h - dy), (middle, y1 - h - dy), (x2 - w, y1 - h - dy), (x1, y2 + dy), (middle, y2 + dy),
            (x2 + dx, y1), (x1 - w - dx, y1), (x2 + dx, y2 - h), (x1 - w - dx, y2 - h), (x2 + dx, y1 - h - dy),
            (x1 - w - dx, y1 - h - dy), (x2 + dx, y2 + dy), (x1 - w - dx, y2 + dy),
        ]  # fmt: skip
    return found


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    """Pixels that two boxes ``x1, y1, x2, y2`` have in common."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _gap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Distance in pixels between two boxes; 0 where they touch."""
    return float(np.hypot(max(0, a[0] - b[2], b[0] - a[2]), max(0, a[1] - b[3], b[1] - a[3])))


def _nearest_pixel(mask: BoolImage, xy: tuple[float, float]) -> tuple[int, int]:
    """The pixel ``x, y`` of a mask ``(H, W)`` that is nearest to a point."""
    rows, columns = np.nonzero(mask)
    nearest = int(((columns - xy[0]) ** 2 + (rows - xy[1]) ** 2).argmin())
    return int(columns[nearest]), int(rows[nearest])


def draw_labels(image: RgbImage, labels: Sequence[Label], size_px: int) -> RgbImage:
    """Draw labels on a copy of an image, with lines to objects that are further away.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        labels: see :func:`place`.
        size_px: height of the letters.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    for label in labels:
        if label.anchor_xy is not None:
            x, y = label.xy
            end = (int(np.clip(label.anchor_xy[0], x, x + label.size_wh[0])),
                   int(np.clip(label.anchor_xy[1], y, y + label.size_wh[1])))  # fmt: skip
            pen.line([label.anchor_xy, end], fill=label.color, width=max(1, size_px // 8))
    for label in labels:
        (x, y), (w, h) = label.xy, label.size_wh
        pen.rectangle((x, y, x + w - 1, y + h - 1), fill=label.color)
        line, font = writable(label.text, size_px)
        pen.text((x + PADDING_PX, y + PADDING_PX), line, font=font, fill=_on(label.color))
    return np.asarray(canvas).copy()


def _on(color: str) -> str:
    """Black or white, whichever is read better on a hex colour."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def caption(width: int, text: str, size_px: int) -> NDArray[np.uint8]:
    """A white strip with one line of dark text, ``(h, width, 3)`` uint8; a line that is too long is cut.

    Args:
        width: of the strip in pixels.
        text: of the line.
        size_px: height of the letters.
    """
    strip = Image.new("RGB", (width, text_size(text, size_px)[1]), "#ffffff")
    line, font = writable(text, size_px)
    while len(line) > 1 and font.getlength(line) > width - 2 * PADDING_PX:
        line = line[:-2].rstrip() + "…"
    ImageDraw.Draw(strip).text((PADDING_PX, PADDING_PX), line, font=font, fill="#282828")
    return np.asarray(strip).copy()
