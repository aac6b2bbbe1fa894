"""Draw matches."""

from __future__ import annotations

from collections.abc import Sequence

from counterview.masks.draw import FAINT, PALETTE, overlay, side_by_side
from counterview.types import Match, ObjectMask, RgbImage, View, as_rgb


def draw_match(
    query_image: RgbImage | View,
    query_masks: Sequence[ObjectMask],
    target_image: RgbImage | View,
    matches: Sequence[Match],
) -> RgbImage:
    """Draw query and target side by side: an object and its match in one colour, the other candidates in faint lines.

    If an object is probably not visible, its match is still outlined, and the label has a note.

    Args:
        query_image: ``(H, W, 3)`` uint8, or a view.
        query_masks: M masks ``(H, W)``.
        target_image: ``(H', W', 3)`` uint8, or a view.
        matches: M matches, in the order of the masks.

    Returns:
        one image, ``(h, w, 3)`` uint8.

    Raises:
        ImageError: an image that is not RGB.
        MaskError: a mask of another size than its image.
    """
    query_rgb, target_rgb = as_rgb(query_image, what="query image"), as_rgb(target_image, what="target image")
    colors = [PALETTE[i % len(PALETTE)] for i in range(len(matches))]
    left = overlay(query_rgb, query_masks, labels=[m.name for m in matches], colors=colors)
    runners_up = [c.mask_rle for m in matches for c in m.candidates[1:]]
    right = overlay(target_rgb, runners_up, colors=[FAINT] * len(runners_up), opacity=0.0, thickness_px=1)
    labels = [f"{m.name} {m.visibility:.2f}" + ("" if m.visibility > 0.5 else " not visible?") for m in matches]
    right = overlay(right, [m.mask_rle for m in matches], labels=labels, colors=colors)
    return side_by_side(left, right)
