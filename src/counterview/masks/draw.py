"""Draw masks on images and arrange images side by side, with OpenCV."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import ImageColor

from counterview.errors import MaskError
from counterview.masks.boxed import BoxedMask
from counterview.masks.labels import caption, draw_labels, place, text_size
from counterview.types import BoolImage, ImageLike, ObjectMask, RgbImage, as_rgb

PALETTE = ("#1f9bff", "#aaee00", "#bb3399", "#dd3300", "#4455ff", "#00eeff", "#dddd77", "#ff88bb")
"""Colours far from one another, also for an eye without green cones, and from white, wood and skin. See
:func:`object_colors` for more objects than these."""

CAPTION_PX = 11
"""Height of the letters below the images of a contact sheet."""

TRUTH = "#ffffff"
"""Colour of the outlines of an annotation, in every image; no other mask has a white outline."""


def object_colors(count: int) -> list[str]:
    """A hex colour for each of several objects: :data:`PALETTE`, then darker shades of it, then again.

    Args:
        count: number of objects.

    >>> object_colors(9)[0], object_colors(9)[8]
    ('#1f9bff', '#13609e')
    """
    darker = ["#" + "".join(f"{int(0.62 * int(c[i : i + 2], 16)):02x}" for i in (1, 3, 5)) for c in PALETTE]
    shades = [*PALETTE, *darker]
    return [shades[i % len(shades)] for i in range(count)]


def overlay(
    image: ImageLike,
    masks: Sequence[BoolImage | ObjectMask | BoxedMask],
    *,
    labels: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    opacity: float = 0.35,
    thickness_px: int | None = None,
    avoid: Sequence[BoolImage | ObjectMask] = (),
    letters_px: int | None = None,
) -> RgbImage:
    """Draw masks on a copy of an image: a tint inside, an outline and a label.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, or a view.
        masks: masks of the image's size, ``(H, W)`` bool or run lengths; empty ones are skipped.
        labels: one text per mask, placed apart from one another and from all masks; a line leads from a label to an
            object that is further away. See :mod:`counterview.masks.labels` for the letters.
        colors: one hex colour per mask; :func:`object_colors` in order if not given.
        opacity: of the tint, 0 to 1.
        thickness_px: of the outline; proportional to the image's size if not given.
        avoid: further masks ``(H, W)`` that labels must not cover: what is drawn before or after.
        letters_px: height of a label's letters; proportional to the image's size if not given.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ImageError: the image is not an RGB array.
        MaskError: a mask has another size than the image, or the lists differ in length.
    """
    image = as_rgb(image)
    boxed, others = [BoxedMask.of(mask) for mask in masks], [*map(BoxedMask.of, avoid)] if labels is not None else []
    for mask in (*boxed, *others):
        if mask.size_hw != image.shape[:2]:
            raise MaskError("a mask does not fit its image", found=mask.size_hw, expected=image.shape[:2])
    colors = list(colors) if colors is not None else object_colors(len(boxed))
    if len(colors) != len(boxed) or (labels is not None and len(labels) != len(boxed)):
        raise MaskError("every mask needs its own label and colour", found=f"{len(boxed)} masks, {len(colors)} colours")
    keep = [i for i, mask in enumerate(boxed) if mask.area]
    if not keep:
        return image.copy()
    chosen_masks, rgb = [boxed[i] for i in keep], [_rgb(colors[i]) for i in keep]
    line = thickness_px or max(2, round(max(image.shape[:2]) / 320))
    drawn: RgbImage = np.array(image, order="C")
    if opacity > 0:
        _tint(drawn, chosen_masks, rgb, opacity)
    for mask, color in zip(chosen_masks, rgb, strict=True):
        _outline(drawn, mask, color, line)
    if labels is None:
        return drawn
    size_px = letters_px or max(11, round(max(image.shape[:2]) / 85))
    placed = place([labels[i] for i in keep], [colors[i] for i in keep], chosen_masks, size_px, avoid=others)
    return draw_labels(drawn, placed, size_px)


def _rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue of a hex colour, 0 to 255."""
    red, green, blue = ImageColor.getrgb(color)[:3]
    return red, green, blue


def _tint(image: RgbImage, masks: Sequence[BoxedMask], colors: Sequence[tuple[int, int, int]], opacity: float) -> None:
    """Tint the insides of masks in place; where masks overlap, the smallest is seen."""
    import cv2

    painted = image.copy()
    for index in sorted(range(len(masks)), key=lambda i: -masks[i].area):
        painted[masks[index].region][masks[index].pixels] = colors[index]
    cv2.addWeighted(painted, opacity, image, 1 - opacity, 0, dst=image)


def _outline(image: RgbImage, mask: BoxedMask, color: tuple[int, int, int], thickness_px: int) -> None:
    """Draw the outlines of a mask, those of its holes too, in place."""
    import cv2

    pixels = np.ascontiguousarray(mask.pixels).astype(np.uint8)
    contours, _ = cv2.findContours(pixels, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE, offset=(mask.x, mask.y))
    closed = [contour for contour in contours if len(contour) >= 3]
    if closed:
        cv2.polylines(image, closed, True, color, thickness_px)
    for contour in contours:
        if len(contour) < 3:  # a point or a line: closed, a point would not be drawn
            cv2.polylines(image, [np.concatenate([contour, contour[-1:]])], False, color, thickness_px)


def with_legend(image: ImageLike, text: str) -> RgbImage:
    """An image with a line below it that says what its lines and colours mean.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, or a view.
        text: the line.

    Returns:
        ``(H + h, W, 3)`` uint8 RGB.

    Raises:
        ImageError: not an RGB array.
    """
    rgb = as_rgb(image)
    strip = caption(rgb.shape[1], text, max(11, round(rgb.shape[1] / 110)))
    return np.concatenate([rgb, strip])


def at_common_height(*images: ImageLike, max_height_px: int = 960) -> list[RgbImage]:
    """Images scaled to the height of the highest, aspect kept.

    Args:
        images: ``(H, W, 3)`` uint8 RGB each, or views.
        max_height_px: largest height of the results.

    Returns:
        ``(h, w, 3)`` uint8 each, with one ``h``.

    Raises:
        ImageError: one of them is not an RGB array.
    """
    import cv2

    arrays = [as_rgb(image) for image in images]
    height = min(max(image.shape[0] for image in arrays), max_height_px)
    scaled = []
    for image in arrays:
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        interpolation = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
        fits = image.shape[:2] == (height, width)
        scaled.append(image if fits else cv2.resize(image, (width, height), interpolation=interpolation))
    return [np.asarray(image, dtype=np.uint8) for image in scaled]


def side_by_side(left: ImageLike, right: ImageLike, *, gap_px: int = 8, max_height_px: int = 960) -> RgbImage:
    """Place two images side by side, scaled to the same height.

    Args:
        left: ``(H, W, 3)`` uint8 RGB, or a view.
        right: ``(H', W', 3)`` uint8 RGB, or a view.
        gap_px: width of the white gap between them.
        max_height_px: largest height of the result.

    Returns:
        ``(h, w, 3)`` uint8 RGB, with ``h`` the larger of the two heights, at most ``max_height_px``.

    Raises:
        ImageError: one of them is not an RGB array.
    """
    parts = at_common_height(left, right, max_height_px=max_height_px)
    height = parts[0].shape[0]
    gap = np.full((height, gap_px, 3), 255, dtype=np.uint8)
    return np.ascontiguousarray(np.concatenate([parts[0], gap, parts[1]], axis=1))


def contact_sheet(
    images: Sequence[ImageLike],
    *,
    columns: int,
    captions: Sequence[str] | None = None,
    tile_height_px: int = 180,
    gap_px: int = 4,
) -> RgbImage:
    """Arrange images in rows of ``columns``, with a caption below each.

    Args:
        images: ``(H, W, 3)`` uint8 RGB each, or views; they may differ in size.
        columns: number of images per row.
        captions: one text per image; no captions if not given.
        tile_height_px: height to which each image is scaled, aspect kept.
        gap_px: width of the white gap between images.

    Returns:
        ``(h, w, 3)`` uint8 RGB.

    Raises:
        ImageError: an entry is not an RGB array.
        MaskError: no image, no column, or captions of another number.
    """
    import cv2

    if not images or columns < 1 or (captions is not None and len(captions) != len(images)):
        raise MaskError(
            "a contact sheet needs images, at least one column, and one caption per image or no captions",
            found=f"{len(images)} images, {columns} columns, {'no' if captions is None else len(captions)} captions",
        )
    strip = text_size("", CAPTION_PX)[1] if captions is not None else 0
    tiles = []
    for number, image in enumerate(map(as_rgb, images)):
        width = max(1, round(image.shape[1] * tile_height_px / image.shape[0]))
        interpolation = cv2.INTER_AREA if tile_height_px < image.shape[0] else cv2.INTER_LINEAR
        tile = cv2.resize(image, (width, tile_height_px), interpolation=interpolation)
        if captions is not None:
            bar = caption(width, captions[number], CAPTION_PX)
            tile = np.concatenate([tile, bar])
        tiles.append(tile)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    sheet_width = max(sum(t.shape[1] for t in row) + gap_px * (len(row) - 1) for row in rows)
    height = tile_height_px + strip
    sheet = np.full((len(rows) * (height + gap_px) - gap_px, sheet_width, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        x = 0
        for tile in row:
            sheet[r * (height + gap_px) : r * (height + gap_px) + height, x : x + tile.shape[1]] = tile
            x += tile.shape[1] + gap_px
    return sheet
