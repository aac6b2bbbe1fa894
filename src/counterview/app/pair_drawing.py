"""How two images of the page are drawn: with objects, marks, matches, and candidates as thumbnails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from counterview.app.marks import prompt_of
from counterview.app.pair import PageImage, PagePair
from counterview.inference.drawing import draw_answers, draw_prompts
from counterview.inference.prompts import AnyPrompt, Box, Point, Prompt, as_box, as_point
from counterview.inference.track_drawing import resized
from counterview.masks.draw import overlay
from counterview.masks.geometry import fit_mask
from counterview.types import ObjectMask, RgbImage

THUMBNAIL_HW = (96, 128)
LETTERS_PX = 12
"""Height of the letters of labels, in CSS pixels."""


def draw_query(pair: PagePair) -> RgbImage:
    """The query image with all objects and marks, ``(h, w, 3)`` uint8 as it is shown.

    Args:
        pair: with a query image.
    """
    image = pair.image("query")
    blank = ObjectMask.empty((image.small.shape[0], image.small.shape[1]))
    masks = [blank if item.selection is None else image.shrunk(item.selection.mask_rle) for item in pair.objects]
    scale = image.small.shape[1] / image.size_hw[1]
    prompts: dict[str, AnyPrompt] = {item.name: _scaled(prompt_of(item.marks), scale) or blank for item in pair.objects}
    return draw_prompts(image.small, prompts, masks, letters_px=_letters_px(pair, image))


def draw_target(pair: PagePair) -> RgbImage:
    """The target image with all matches, ``(h, w, 3)`` uint8 as it is shown.

    Args:
        pair: with a target image.
    """
    image = pair.image("target")
    matches, colors = [], []
    for item, color in zip(pair.objects, pair.colors, strict=True):
        if item.match is None:
            continue
        others = item.match.candidates if item.match is item.found else ()  # of a choice by hand there are none
        candidates = tuple(replace(c, mask_rle=image.shrunk(c.mask_rle)) for c in others)
        small = image.shrunk(item.match.mask_rle)
        matches.append(replace(item.match, mask_rle=small, candidates=candidates))
        colors.append(color)
    return draw_answers(image.small, matches, colors, letters_px=_letters_px(pair, image))


def _letters_px(pair: PagePair, image: PageImage) -> int:
    """Height of letters on an image that is scaled to the visitor's screen."""
    return max(8, round(LETTERS_PX * image.small.shape[1] / pair.shown_px))


def thumbnails(pair: PagePair, index: int) -> list[RgbImage]:
    """The candidates of an object as the model found them, each cut out of the target image with its outline.

    Args:
        pair: with a target image.
        index: of the object.

    Returns:
        images of :data:`THUMBNAIL_HW`, the model's own match first.
    """
    item, image = pair.objects[index], pair.image("target")
    if item.found is None:
        return []
    color = pair.colors[index]
    return [_thumbnail(image, candidate.mask_rle, color) for candidate in item.found.candidates]


def _scaled(prompt: AnyPrompt | None, scale: float) -> AnyPrompt | None:
    """A prompt on an image of another size."""
    if not isinstance(prompt, Prompt):
        return None
    points, background = (
        [Point(p.x_px * scale, p.y_px * scale) for p in map(as_point, given)]
        for given in (prompt.points, prompt.background)
    )
    box = None if prompt.box is None else as_box(prompt.box)
    if box is not None:
        box = Box(box.x1_px * scale, box.y1_px * scale, box.x2_px * scale, box.y2_px * scale)
    return Prompt(points=points, background=background, box=box)


def _thumbnail(image: PageImage, mask: ObjectMask, color: str) -> RgbImage:
    """A candidate with what surrounds it, of :data:`THUMBNAIL_HW`."""
    (height, width), (rows, columns) = image.size_hw, THUMBNAIL_HW
    x, y, w, h = mask.box_xywh
    window_h = min(height, max(h * 1.8, w * 1.8 * rows / columns, rows / 2), width * rows / columns)
    window_w = window_h * columns / rows
    left = int(np.clip(x + w / 2 - window_w / 2, 0, width - window_w))
    top = int(np.clip(y + h / 2 - window_h / 2, 0, height - window_h))
    part = (slice(top, top + max(1, int(window_h))), slice(left, left + max(1, int(window_w))))
    crop = resized(np.ascontiguousarray(image.image[part]), THUMBNAIL_HW)
    inside = fit_mask(ObjectMask.from_array(mask.to_array()[part]), THUMBNAIL_HW)
    return overlay(crop, [inside], colors=[color], opacity=0.25, thickness_px=2)
