"""Matches as images."""

from __future__ import annotations

from collections.abc import Sequence

from counterview.masks.draw import FAINT, PALETTE, overlay, side_by_side
from counterview.types import Match, ObjectMask, RgbImage


def draw_match(
    query_image: RgbImage, query_masks: Sequence[ObjectMask], target_image: RgbImage, matches: Sequence[Match]
) -> RgbImage:
    """Query and target beside each other: object and answer outlined in one colour, runners-up faint.

    An object that is probably not visible keeps its answer's outline, and its label says so.
    """
    colors = [PALETTE[i % len(PALETTE)] for i in range(len(matches))]
    left = overlay(query_image, query_masks, labels=[m.name for m in matches], colors=colors)
    runners_up = [c.mask_rle for m in matches for c in m.candidates[1:]]
    right = overlay(target_image, runners_up, colors=[FAINT] * len(runners_up), opacity=0.0, thickness_px=1)
    labels = [f"{m.name} {m.visibility:.2f}" + ("" if m.visibility > 0.5 else " not visible?") for m in matches]
    right = overlay(right, [m.mask_rle for m in matches], labels=labels, colors=colors)
    return side_by_side(left, right)
