"""Masks drawn on images, and images side by side, through supervision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from counterview.errors import MaskError
from counterview.types import BoolImage, ObjectMask, RgbImage, as_rgb

PALETTE = ("#1f9bff", "#ff5a36", "#2bbf5c", "#c04bff", "#ffb000", "#00c2c7", "#ff4fa3", "#9acd32")
"""Colours that stay apart from one another and from wood and skin; object ``i`` has colour ``i % 8``."""

FAINT = "#bdbdbd"
"""Colour of what was considered and not chosen."""


def _array(mask: BoolImage | ObjectMask) -> BoolImage:
    return mask.to_array() if isinstance(mask, ObjectMask) else mask


def overlay(
    image: RgbImage,
    masks: Sequence[BoolImage | ObjectMask],
    *,
    labels: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    opacity: float = 0.35,
    thickness_px: int | None = None,
) -> RgbImage:
    """Draw masks on a copy of an image: a tint inside, a line around, a label beside.

    Args:
        image: ``(H, W, 3)`` uint8.
        masks: masks of the image's size; empty ones are passed over.
        labels: a text each.
        colors: a hex colour each; :data:`PALETTE` in order if not given.
        opacity: of the tint, 0 to 1.
        thickness_px: of the line; chosen from the image's size if not given.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        MaskError: a mask of another size, or lists of different length.
    """
    import supervision as sv

    as_rgb(image)
    dense = [_array(mask) for mask in masks]
    for mask in dense:
        if mask.shape != image.shape[:2]:
            raise MaskError("a mask does not fit its image", found=mask.shape, expected=image.shape[:2])
    colors = list(colors) if colors is not None else [PALETTE[i % len(PALETTE)] for i in range(len(dense))]
    if len(colors) != len(dense) or (labels is not None and len(labels) != len(dense)):
        raise MaskError("every mask needs its own label and colour", found=f"{len(dense)} masks, {len(colors)} colours")
    keep = [i for i, mask in enumerate(dense) if mask.any()]
    if not keep:
        return image.copy()
    stack = np.stack([dense[i] for i in keep])
    detections = sv.Detections(
        xyxy=sv.mask_to_xyxy(stack).astype(np.float64), mask=stack, class_id=np.arange(len(keep))
    )
    palette = sv.ColorPalette.from_hex([colors[i] for i in keep])
    line = thickness_px or max(2, round(max(image.shape[:2]) / 320))
    scene = np.ascontiguousarray(image[..., ::-1])  # supervision draws in OpenCV's order
    if opacity > 0:
        scene = sv.MaskAnnotator(color=palette, opacity=opacity).annotate(scene, detections)
    scene = sv.PolygonAnnotator(color=palette, thickness=line).annotate(scene, detections)
    if labels is not None:
        annotator = sv.LabelAnnotator(
            color=palette,
            text_color=sv.Color.WHITE,
            text_scale=max(0.35, max(image.shape[:2]) / 2600),
            text_padding=3,
        )
        scene = annotator.annotate(scene, detections, labels=[_ascii(labels[i]) for i in keep])
    return np.ascontiguousarray(scene[..., ::-1])


def _ascii(text: str) -> str:
    # OpenCV's fonts have no other letters and print question marks in threes.
    return text.encode("ascii", "replace").decode("ascii")


def side_by_side(left: RgbImage, right: RgbImage, *, gap_px: int = 8, max_height_px: int = 960) -> RgbImage:
    """Put two images beside each other, scaled to one height.

    Returns:
        ``(h, w, 3)`` uint8 with ``h`` the larger height, at most ``max_height_px``.
    """
    import cv2

    height = min(max(left.shape[0], right.shape[0]), max_height_px)
    parts = []
    for image in (as_rgb(left), as_rgb(right)):
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
        parts.append(cv2.resize(image, (width, height), interpolation=how))
    gap = np.full((height, gap_px, 3), 255, dtype=np.uint8)
    return np.ascontiguousarray(np.concatenate([parts[0], gap, parts[1]], axis=1))


def contact_sheet(
    images: Sequence[RgbImage],
    *,
    columns: int,
    captions: Sequence[str] | None = None,
    tile_height_px: int = 180,
    gap_px: int = 4,
) -> RgbImage:
    """Lay images out in rows of ``columns``, all ``tile_height_px`` high, with a caption under each.

    Raises:
        MaskError: no image, or captions of another number.
    """
    import cv2

    if not images or columns < 1 or (captions is not None and len(captions) != len(images)):
        raise MaskError("a sheet needs images, a column, and a caption for each or none")
    strip = 18 if captions is not None else 0
    tiles = []
    for number, image in enumerate(images):
        width = max(1, round(image.shape[1] * tile_height_px / image.shape[0]))
        how = cv2.INTER_AREA if tile_height_px < image.shape[0] else cv2.INTER_LINEAR
        tile = cv2.resize(as_rgb(image), (width, tile_height_px), interpolation=how)
        if captions is not None:
            bar = np.full((strip, width, 3), 255, dtype=np.uint8)
            cv2.putText(
                bar,
                _ascii(captions[number]),
                (2, 13),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.38,
                (40, 40, 40),
                1,
                cv2.LINE_AA,
            )
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
