"""Text on images: letters of any script that a font here has, in places that hide neither text nor objects."""

from __future__ import annotations

import importlib.util
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from counterview.masks.boxed import BoxedMask
from counterview.masks.label_distances import between, gaps_to_box, gaps_to_points, points_on_lines
from counterview.types import BoolImage, ObjectMask, RgbImage

logger = logging.getLogger(__name__)

WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "DroidSansFallbackFull.ttf", "msyh.ttc", "PingFang.ttc",
    "Arial Unicode.ttf",
)  # fmt: skip
"""Fonts of operating systems with Chinese, Japanese and Korean letters. They are used where they are installed."""

LETTER_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")
"""Fonts of operating systems with the letters of Europe at least, in the order in which they are tried."""

PADDING_PX = 3
Font = Any
"""A font of Pillow: its two kinds have no common base class."""


@cache
def fonts(size_px: int) -> tuple[Font, ...]:
    """The fonts to try, in this order.

    DejaVu Sans, of the system or where matplotlib is installed, has Latin, Greek, Cyrillic, Arabic and Hebrew letters.
    Pillow's own font has ASCII letters alone.

    Args:
        size_px: height of the letters.
    """
    found: list[Font] = []
    package = importlib.util.find_spec("matplotlib")
    paths = [*LETTER_FONTS, *WIDE_FONTS]
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
        the text, and the first font that has all its letters; or the text with the letters that the first font lacks
        replaced, which is logged as a warning: by the letter without its accent, or else by ``?``.
    """
    line = " ".join(text.split())
    for font in fonts(size_px):
        if all(_has(font, letter) for letter in line):
            return line, font
    font = fonts(size_px)[0]
    _warn("".join(sorted({letter for letter in line if not _has(font, letter)})))
    return "".join(_nearest(font, letter) for letter in line), font


def _nearest(font: Font, letter: str) -> str:
    """A letter, without its accent if a font lacks it, or ``?``."""
    plain = unicodedata.normalize("NFKD", letter)[:1]
    return next((known for known in (letter, plain) if _has(font, known)), "?")


@cache
def _warn(letters: str) -> None:
    """Say once that letters cannot be drawn."""
    logger.warning(
        "no font here has the letters %r of a label; install for example DejaVu Sans or Noto Sans CJK", letters
    )


def text_size(text: str, size_px: int) -> tuple[int, int]:
    """Width and height in pixels of a label with its padding.

    Args:
        text: of the label.
        size_px: height of the letters.
    """
    line, font = writable(text, size_px)
    ascent, descent = font.getmetrics()
    return int(np.ceil(font.getlength(line))) + 2 * PADDING_PX, ascent + descent + 2 * PADDING_PX


def cut(text: str, size_px: int, width_px: int, *, middle: bool = False) -> str:
    """A text that fits into a label of a width, padding included; what does not fit is replaced by ….

    Args:
        text: any.
        size_px: height of the letters.
        width_px: of the label.
        middle: leave out the middle, for names that may differ in their last letters alone; else the end.
    """
    line, font = writable(text, size_px)
    head, tail = (len(line) // 2, -(-len(line) // 2)) if middle else (len(line), 0)
    short = line
    while head + tail > 1 and font.getlength(short) > width_px - 2 * PADDING_PX:
        head, tail = (head, tail - 1) if tail > head else (head - 1, tail)
        short = f"{line[:head].rstrip()}…{line[len(line) - tail :].lstrip()}"
    return short


@dataclass(frozen=True)
class Label:
    """A label where it is drawn.

    Attributes:
        text: of the label.
        color: its background, a hex colour.
        xy: its top left corner in pixels.
        size_wh: width and height in pixels.
        anchor_xy: the point of the object that a line leads to; ``None`` if the label is beside it.
    """

    text: str
    color: str
    xy: tuple[int, int]
    size_wh: tuple[int, int]
    anchor_xy: tuple[int, int] | None


MARGIN_PX = 3
"""Pixels that a label keeps from masks, whose outlines are drawn partly outside of them, and from other labels."""


def place(
    texts: Sequence[str],
    colors: Sequence[str],
    masks: Sequence[BoolImage | ObjectMask | BoxedMask],
    size_px: int,
    *,
    avoid: Sequence[BoolImage | ObjectMask | BoxedMask] = (),
    earlier: Sequence[tuple[int, int] | None] | None = None,
) -> list[Label]:
    """Place a label for each mask, apart from one another and from all masks.

    Each label takes the free place that is nearest to its object, first of places around the object's box, then of the
    whole image; small objects choose first. Only where no place is free does a label cover something: as little of the
    masks as possible, by the fraction of each object, and of other labels.

    Args:
        texts: one a mask; a text wider than the image loses its middle.
        colors: likewise.
        masks: M masks ``(H, W)`` of one size, none of them empty.
        size_px: height of the letters.
        avoid: further masks ``(H, W)`` that labels must not cover.
        earlier: for each label where its top left corner was in the image before, so that labels of a video do not
            jump; it stays there while the place is free and near.

    Returns:
        M labels inside the image, in the order of the masks.
    """
    if not masks:
        return []
    objects = [BoxedMask.of(mask) for mask in masks]
    room = _Room([*objects, *map(BoxedMask.of, avoid)])
    earlier = [None] * len(masks) if earlier is None else earlier
    texts = [cut(text, size_px, objects[0].size_hw[1], middle=True) for text in texts]
    boxes = [mask.box_xyxy for mask in objects]
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    placed: dict[int, Label] = {}
    for index in sorted(range(len(masks)), key=lambda i: (earlier[i] is None, areas[i])):
        w, h = text_size(texts[index], size_px)
        border = _border(objects[index])
        xy = room.find(objects[index], border, (w, h), earlier[index])
        room.taken.append((*xy, xy[0] + w, xy[1] + h))
        gaps = gaps_to_points(np.array([xy]), (w, h), border)[0]
        nearest = border[int(gaps.argmin())]
        anchor = None if gaps.min() <= 2 * MARGIN_PX else (int(nearest[0]), int(nearest[1]))
        placed[index] = Label(texts[index], colors[index], xy, (w, h), anchor)
        if anchor is not None:
            room.lines.append(points_on_lines(np.array([anchor]), np.array([_end(placed[index])]))[0])
    return [placed[index] for index in range(len(masks))]


class _Room:
    """The places for labels in an image.

    Attributes:
        taken: boxes ``x1, y1, x2, y2`` of the labels placed so far.
        lines: ``(24, 2)`` points ``x, y`` of each line from one of them to its object.
    """

    def __init__(self, masks: Sequence[BoxedMask]) -> None:
        self.taken: list[tuple[int, int, int, int]] = []
        self.lines: list[NDArray[np.int64]] = []
        self.size_hw, self._masks = masks[0].size_hw, masks
        self._objects = np.zeros(self.size_hw, dtype=np.bool_)
        for mask in masks:
            self._objects[mask.region] |= mask.pixels
        self._covered = _sums(self._objects.astype(np.uint8))

    @cached_property
    def _worth(self) -> NDArray[Any]:
        """Sums of what it costs to hide a pixel: more for one of a small object, whose fraction hidden counts."""
        worth = np.zeros(self.size_hw)
        for mask in self._masks:
            worth[mask.region] += mask.pixels / max(1, mask.area)
        return _sums(worth)

    def find(
        self,
        mask: BoxedMask,
        border: NDArray[np.int64],
        size_wh: tuple[int, int],
        earlier: tuple[int, int] | None,
    ) -> tuple[int, int]:
        """Top left corner ``x, y`` of a label of width and height ``size_wh``.

        Args:
            mask: of the object.
            border: some of its border's pixels ``x, y``, ``(P, 2)``.
            size_wh: of the label.
            earlier: see :func:`place`.
        """
        (height, width), (w, h) = self.size_hw, size_wh
        low = np.zeros(2, dtype=np.int64), np.array([max(0, width - w), max(0, height - h)])
        if earlier is not None:
            here = np.clip(np.array([earlier]), *low)
            if self._free(here, size_wh)[0] and gaps_to_points(here, size_wh, border).min() <= 2 * h:
                return int(here[0, 0]), int(here[0, 1])
        near = np.clip(_around(mask.box_xyxy, w, h), *low)
        found = self._best(near[self._free(near, size_wh)], size_wh, mask, border)
        if found is not None and gaps_to_points(np.array([found]), size_wh, border).min() <= h:
            return found
        step = max(2, h // 3)
        columns, rows = np.arange(0, low[1][0] + 1, step), np.arange(0, low[1][1] + 1, step)
        everywhere = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        everywhere = np.concatenate([near, everywhere])
        found = self._best(everywhere[self._free(everywhere, size_wh)], size_wh, mask, border)
        if found is not None:
            return found
        hidden = _inside(self._worth, everywhere, size_wh)
        overlap = self._overlap(everywhere, size_wh, 0) / (w * h)
        cost = 8.0 * hidden + 4.0 * overlap + gaps_to_points(everywhere, size_wh, border).min(1) / (6.0 * h)
        x, y = everywhere[int(cost.argmin())]
        return int(x), int(y)

    def _free(self, corners: NDArray[np.int64], size_wh: tuple[int, int]) -> NDArray[np.bool_]:
        """Whether a label at each corner ``(K, 2)`` keeps clear of masks and labels, ``(K,)``."""
        w, h = size_wh
        wider = w + 2 * MARGIN_PX, h + 2 * MARGIN_PX
        free: NDArray[np.bool_] = _inside(self._covered, corners - MARGIN_PX, wider) == 0
        free[free] = self._overlap(corners[free], size_wh, MARGIN_PX) == 0
        return free

    def _overlap(self, corners: NDArray[np.int64], size_wh: tuple[int, int], margin_px: int) -> NDArray[np.int64]:
        """Pixels that a label at each corner ``(K, 2)`` shares with the labels placed so far, ``(K,)``."""
        total = np.zeros(len(corners), dtype=np.int64)
        left, top = (np.ascontiguousarray(side) for side in (corners - margin_px).T)
        right, bottom = left + size_wh[0] + 2 * margin_px, top + size_wh[1] + 2 * margin_px
        for x1, y1, x2, y2 in self.taken:
            across = np.minimum(right, x2) - np.maximum(left, x1)
            down = np.minimum(bottom, y2) - np.maximum(top, y1)
            total += np.maximum(across, 0) * np.maximum(down, 0)
        return total

    def _best(
        self, corners: NDArray[np.int64], size_wh: tuple[int, int], mask: BoxedMask, border: NDArray[np.int64]
    ) -> tuple[int, int] | None:
        """Of places ``(K, 2)`` a near one without confusing lines; ``None`` if there is none.

        The distance counts, and lines: from the label through another object or label, or from another label to its
        object below this one.
        """
        if not len(corners):
            return None
        size = np.array(size_wh)
        # No place is nearer to the border than to the box around it, so that few distances have to be found.
        least = gaps_to_box(corners, size_wh, border)
        nearest = gaps_to_points(corners[[least.argmin()]], size_wh, border).min()
        corners = corners[least <= nearest + 5 * size_wh[1]]
        gaps = gaps_to_points(corners, size_wh, border)
        nearest_of_each = gaps.min(1)
        order = np.argsort(nearest_of_each, kind="stable")
        order = order[nearest_of_each[order] <= nearest_of_each.min() + 5 * size_wh[1]]
        order = order[:: max(1, len(order) // 96)]
        corners, gaps = corners[order], gaps[order]
        start, gap = border[gaps.argmin(1)], gaps.min(1)
        way = points_on_lines(start, np.clip(start, corners, corners + size - 1))
        x, y = (way[..., i].clip(0, self.size_hw[1 - i] - 1) for i in (0, 1))
        crossed = (self._objects[y, x] & ~mask.at(x, y)).mean(1)
        for box in self.taken:
            crossed += between(way, box[:2], box[2:]).mean(1)
        for line in self.lines:
            crossed += between(line, corners[:, None], (corners + size)[:, None]).mean(1)
        crossed[gap <= 2 * MARGIN_PX] *= 0.5  # no line is drawn, but it stands close to something else
        aside = np.abs(corners + size / 2 - border.mean(0)).sum(1) / size.sum()
        best = int((gap / size_wh[1] + 8.0 * crossed + 0.2 * aside).argmin())
        return int(corners[best, 0]), int(corners[best, 1])


def _sums(values: NDArray[Any]) -> NDArray[Any]:
    """Sums of ``(H, W)`` values above and left of each corner of a pixel, ``(H + 1, W + 1)``."""
    import cv2

    return cv2.integral(values)


def _inside(sums: NDArray[Any], corners: NDArray[np.int64], size_wh: tuple[int, int]) -> NDArray[Any]:
    """Sums inside boxes of one size at ``(K, 2)`` top left corners, ``(K,)``; boxes may reach outside."""
    limit = np.array([sums.shape[1] - 1, sums.shape[0] - 1])
    (x1, y1), (x2, y2) = np.clip(corners, 0, limit).T, np.clip(corners + np.array(size_wh), 0, limit).T
    return np.asarray(sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1])


def _border(mask: BoxedMask) -> NDArray[np.int64]:
    """At most 96 pixels ``x, y`` of the border of a mask, ``(P, 2)``."""
    padded = np.pad(mask.pixels, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rows, columns = np.nonzero(padded[1:-1, 1:-1] & ~inner)
    some = np.stack([columns, rows], axis=1)[:: max(1, -(-len(rows) // 96))]
    return (some + np.array([mask.x, mask.y])).astype(np.int64)


def _around(box_xyxy: tuple[int, int, int, int], w: int, h: int) -> NDArray[np.int64]:
    """Top left corners ``(K, 2)`` around the box of an object for a label of width ``w`` and height ``h``."""
    x1, y1, x2, y2 = (v + d * MARGIN_PX for v, d in zip(box_xyxy, (-1, -1, 1, 1), strict=True))
    middle = (x1 + x2 - w) // 2
    found = []
    for step in range(3):
        dx = dy = step * h * 3 // 4
        found += [
            (x1, y1 - h - dy), (middle, y1 - h - dy), (x2 - w, y1 - h - dy), (x1, y2 + dy), (middle, y2 + dy),
            (x2 + dx, y1), (x1 - w - dx, y1), (x2 + dx, y2 - h), (x1 - w - dx, y2 - h), (x2 + dx, y1 - h - dy),
            (x1 - w - dx, y1 - h - dy), (x2 + dx, y2 + dy), (x1 - w - dx, y2 + dy),
        ]  # fmt: skip
    return np.array(found, dtype=np.int64)


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
    thickness = max(1, size_px // 8)
    ways = [(label.anchor_xy, _end(label), label.color) for label in labels if label.anchor_xy is not None]
    for start, end, _ in ways:
        pen.line([start, end], fill="#202020", width=thickness + 2)  # shows on an image of the same colour
    for start, end, color in ways:
        pen.line([start, end], fill=color, width=thickness)
    for label in labels:
        (x, y), (w, h) = label.xy, label.size_wh
        pen.rectangle((x, y, x + w - 1, y + h - 1), fill=label.color)
        line, font = writable(label.text, size_px)
        pen.text((x + PADDING_PX, y + PADDING_PX), line, font=font, fill=_on(label.color))
    return np.asarray(canvas).copy()


def _end(label: Label) -> tuple[int, int]:
    """Where the line from an object meets its label."""
    (x, y), (w, h), anchor = label.xy, label.size_wh, label.anchor_xy or label.xy
    return int(np.clip(anchor[0], x, x + w - 1)), int(np.clip(anchor[1], y, y + h - 1))


def _on(color: str) -> str:
    """Black or white, whichever is read better on a hex colour."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def text_strip(
    width: int, text: str, size_px: int, *, color: str = "#282828", background: str = "#ffffff", align: str = "left"
) -> NDArray[np.uint8]:
    """A strip with one line of text, ``(h, width, 3)`` uint8; a line that is too long is cut.

    Args:
        width: of the strip in pixels.
        text: of the line.
        size_px: height of the letters.
        color: of the letters, in hex.
        background: of the strip, in hex.
        align: ``left`` or ``right``.
    """
    strip = Image.new("RGB", (width, text_size(text, size_px)[1]), background)
    line, font = writable(cut(text, size_px, width), size_px)
    x = PADDING_PX if align == "left" else max(0, width - PADDING_PX - int(np.ceil(font.getlength(line))))
    ImageDraw.Draw(strip).text((x, PADDING_PX), line, font=font, fill=color)
    return np.asarray(strip).copy()


def caption(width: int, text: str, size_px: int) -> NDArray[np.uint8]:
    """A white strip with one line of dark text, ``(h, width, 3)`` uint8; a line that is too long is cut.

    Args:
        width: of the strip in pixels.
        text: of the line.
        size_px: height of the letters.
    """
    return text_strip(width, text, size_px)
