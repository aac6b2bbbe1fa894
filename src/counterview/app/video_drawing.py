"""What the tab "Videos" draws of prompts and where there is no image."""

from __future__ import annotations

from typing import Any

import numpy as np

from counterview.inference.prompts import AnyPrompt, Box, Point, Prompt, as_box, as_point
from counterview.types import ObjectMask, RgbImage


def grey_image() -> RgbImage:
    """What stands where a camera shows nothing, ``(2, 2, 3)`` uint8."""
    return np.full((2, 2, 3), 60, dtype=np.uint8)


def scaled_prompt(prompt: AnyPrompt, scale: float) -> AnyPrompt:
    """A prompt in the pixels of an image that was scaled; a mask stays as it is.

    Args:
        prompt: in pixels of the original.
        scale: pixels of the scaled image for one of the original.
    """
    if isinstance(prompt, ObjectMask):
        return prompt

    def point(value: Any) -> Point:
        at = as_point(value)
        return Point(at.x_px * scale, at.y_px * scale)

    def box(value: Any) -> Box:
        at = as_box(value)
        return Box(at.x1_px * scale, at.y1_px * scale, at.x2_px * scale, at.y2_px * scale)

    if isinstance(prompt, Point):
        return point(prompt)
    if isinstance(prompt, Box):
        return box(prompt)
    around = None if prompt.box is None else box(prompt.box)
    return Prompt(points=[*map(point, prompt.points)], background=[*map(point, prompt.background)], box=around)
