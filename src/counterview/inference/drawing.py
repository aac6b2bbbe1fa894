"""Draw matches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from counterview.errors import MaskError
from counterview.inference.prompts import AnyPrompt, Box, Point, Prompt, as_box, as_point
from counterview.mask_formats import detections
from counterview.masks.draw import at_common_height, object_colors, overlay, side_by_side, with_legend
from counterview.masks.geometry import fit_mask
from counterview.types import Match, ObjectMask, RgbImage, View, as_rgb

if TYPE_CHECKING:
    import supervision as sv


def draw_match(
    query_image: RgbImage | View,
    query_masks: Sequence[ObjectMask],
    target_image: RgbImage | View,
    matches: Sequence[Match],
) -> RgbImage:
    """Draw query and target side by side: an object and its match in one colour, its runners-up in thin lines of it.

    If an object is probably not visible, its match is still outlined, and the label has a note. A legend stands below.

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
    # Drawn at the size of the result: at that of the images, 16 objects of 12 megapixels take seconds and a gigabyte.
    left, right = at_common_height(query_rgb, target_rgb)
    query_masks = [_fitted(mask, query_rgb, left) for mask in query_masks]
    matches = [_fitted_match(match, target_rgb, right) for match in matches]
    left = overlay(left, query_masks, labels=[m.name for m in matches], colors=object_colors(len(matches)))
    right = draw_answers(right, matches)
    meaning = "left: query; right: target. filled: match, with its visibility"
    has_others = any(m.candidates[1:] for m in matches)
    return with_legend(side_by_side(left, right), meaning + ("; thin line: runner-up" if has_others else ""))


def draw_answers(
    target_image: RgbImage | View,
    matches: Sequence[Match],
    colors: Sequence[str] | None = None,
    *,
    letters_px: int | None = None,
) -> RgbImage:
    """Draw matches on the target image: each filled, with its visibility, and its runners-up in thin lines.

    Args:
        target_image: ``(H, W, 3)`` uint8, or a view.
        matches: of objects in that image; the empty mask of one is not drawn.
        colors: one hex colour per match; :func:`~counterview.masks.draw.object_colors` in order if not given.
        letters_px: height of a label's letters; proportional to the image's size if not given.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ImageError: an image that is not RGB.
        MaskError: a mask of another size than the image.
    """
    colors = object_colors(len(matches)) if colors is None else colors
    runners_up = [(c.mask_rle, color) for m, color in zip(matches, colors, strict=True) for c in m.candidates[1:]]
    others, other_colors = [mask for mask, _ in runners_up], [color for _, color in runners_up]
    right = overlay(target_image, others, colors=other_colors, opacity=0.0, thickness_px=1)
    labels = [f"{m.name} {m.visibility:.2f}" + ("" if m.visibility > 0.5 else " not visible?") for m in matches]
    masks = [m.mask_rle for m in matches]
    return overlay(right, masks, labels=labels, colors=colors, avoid=others, letters_px=letters_px)


def _fitted(mask: ObjectMask, image: RgbImage, drawn: RgbImage) -> ObjectMask:
    """A mask of an image ``(H, W, 3)`` at the size at which it is drawn ``(h, w, 3)``.

    Raises:
        MaskError: a mask of another size than its image.
    """
    if mask.size_hw != image.shape[:2]:
        raise MaskError("a mask does not fit its image", found=mask.size_hw, expected=image.shape[:2])
    return fit_mask(mask, (drawn.shape[0], drawn.shape[1]))


def _fitted_match(match: Match, image: RgbImage, drawn: RgbImage) -> Match:
    """A match with all of its masks at the size at which its image is drawn; see :func:`_fitted`."""
    candidates = tuple(replace(item, mask_rle=_fitted(item.mask_rle, image, drawn)) for item in match.candidates)
    return replace(match, mask_rle=_fitted(match.mask_rle, image, drawn), candidates=candidates)


def draw_prompts(
    query_image: RgbImage | View,
    prompts: Mapping[str, AnyPrompt],
    masks: Sequence[ObjectMask],
    *,
    letters_px: int | None = None,
) -> RgbImage:
    """Draw what was taken for query objects: the masks, and the points and boxes that chose them.

    A point of the object is a white plus, a point of the background a white cross, a box white lines.

    Args:
        query_image: ``(H, W, 3)`` uint8, or a view.
        prompts: M prompts by the names of the objects.
        masks: the M masks ``(H, W)`` that they chose.
        letters_px: height of a label's letters; proportional to the image's size if not given.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ImageError: an image that is not RGB.
        MaskError: a mask of another size than the image.
    """
    drawn = overlay(query_image, masks, labels=list(prompts), letters_px=letters_px)
    return mark_prompts(drawn, prompts.values())


def mark_prompts(image: RgbImage, prompts: Iterable[AnyPrompt]) -> RgbImage:
    """Mark points and boxes on an image: a plus, a cross for the background, lines around a box.

    Args:
        image: ``(H, W, 3)`` uint8, which is drawn on.
        prompts: masks among them are not drawn.

    Returns:
        the image.
    """
    import cv2

    size = max(8, round(max(image.shape[:2]) / 60))
    kinds = {True: cv2.MARKER_CROSS, False: cv2.MARKER_TILTED_CROSS}
    for prompt in prompts:
        if isinstance(prompt, ObjectMask):
            continue
        wanted = Prompt(points=(prompt,)) if isinstance(prompt, Point) else prompt
        wanted = Prompt(box=wanted) if isinstance(wanted, Box) else wanted
        for line, color in ((4, (0, 0, 0)), (2, (255, 255, 255))):  # black below white shows on any image
            if wanted.box is not None:
                box = as_box(wanted.box)
                corners = (int(box.x1_px), int(box.y1_px)), (int(box.x2_px) - 1, int(box.y2_px) - 1)
                cv2.rectangle(image, *corners, color, line)
            for points, is_object in ((wanted.points, True), (wanted.background, False)):
                for point in map(as_point, points):
                    at = int(point.x_px), int(point.y_px)
                    cv2.drawMarker(image, at, color, kinds[is_object], size, line)
    return image


def to_supervision(matches: Sequence[Match]) -> sv.Detections:
    """Matches in one target image as ``supervision.Detections``; those without a mask are left out.

    Args:
        matches: M matches with masks ``(H', W')``.

    Returns:
        one row a match, with its mask, its visibility as confidence, its index as ``class_id`` and its name in
        ``data["class_name"]``.

    Raises:
        MissingExtraError: supervision is not installed.
    """
    return detections([m.mask for m in matches], [m.visibility for m in matches], [m.name for m in matches])
