"""Images of a whole run at a glance: a contact sheet over time, and what to check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from counterview.errors import InputError
from counterview.exchange.tracks import TrackedCamera
from counterview.inference.track_drawing import clock, draw_objects, resized
from counterview.masks.draw import overlay
from counterview.masks.geometry import fit_mask
from counterview.masks.labels import caption, text_size
from counterview.tracking.base import Observations
from counterview.tracking.review import ReviewRow
from counterview.types import ObjectMask, RgbImage

FrameOf = Callable[[str, int], RgbImage]
"""Reads the image ``(H, W, 3)`` of a camera with a frame number."""

TILE_PX, TILE_HEIGHT_PX, GAP_PX, LETTERS_PX = 240, 320, 6, 12
EMPTY = 225
"""Grey of a place without an image."""

CROP_PX = (180, 240)
"""Height and width of the image of one row of a review."""

MAX_CROPS = 24


class ContactSheet:
    """Collects small images evenly spread over a run: a row for each camera, a column for each time.

    Args:
        cameras: by name.
        colors: of each object, in hex.
        span_s: first and last time on the query camera's clock, in seconds.
        step_s: seconds from one step to the next.
        columns: number of times.
    """

    def __init__(
        self,
        cameras: Mapping[str, TrackedCamera],
        colors: Mapping[str, str],
        span_s: tuple[float, float],
        step_s: float,
        columns: int = 8,
    ) -> None:
        self._sizes = {name: _fit(camera.size_hw) for name, camera in cameras.items()}
        self._colors, self._step_s = dict(colors), step_s
        self._wanted = list(np.linspace(span_s[0], span_s[1], columns)) if columns > 1 else [span_s[0]]
        self._columns: list[tuple[float, dict[str, RgbImage | None]]] = []
        self._seen: set[str] = set()

    def add(self, time_s: float, images: Mapping[str, RgbImage | None], observations: Observations) -> None:
        """Take the images ``(H, W, 3)`` of one time, if it is one of those wanted.

        Args:
            time_s: on the query camera's clock, in seconds.
            images: by camera.
            observations: of each camera and object.
        """
        if not self._wanted or time_s < self._wanted[0] - self._step_s / 2:
            return
        while self._wanted and self._wanted[0] - self._step_s / 2 <= time_s:
            self._wanted.pop(0)
        tiles: dict[str, RgbImage | None] = {}
        for name, size in self._sizes.items():
            image, seen = images.get(name), observations.get(name, {})
            drawn = None if image is None else draw_objects(image, size, seen, self._colors, with_labels=False)
            tiles[name] = drawn
            self._seen |= {item for item, found in seen.items() if image is not None and found.is_visible}
        self._columns.append((time_s, tiles))

    def sheet(self) -> RgbImage:
        """The sheet, ``(h, w, 3)`` uint8: captions below the images, and names with their colours at the end.

        Raises:
            InputError: no time was taken.
        """
        if not self._columns:
            raise InputError("a contact sheet needs at least one time")
        width = len(self._columns) * (TILE_PX + GAP_PX) + GAP_PX
        rows = []
        for name, (height, tile_width) in self._sizes.items():
            line = text_size("", LETTERS_PX)[1]
            row = np.full((height + line + GAP_PX, width, 3), 255, dtype=np.uint8)
            for index, (time_s, tiles) in enumerate(self._columns):
                x, tile = GAP_PX + index * (TILE_PX + GAP_PX), tiles[name]
                left = x + (TILE_PX - tile_width) // 2
                row[:height, left : left + tile_width] = EMPTY if tile is None else tile
                text = f"{name}  {clock(time_s)}" + ("  no image" if tile is None else "")
                row[height : height + line, x : x + TILE_PX] = caption(TILE_PX, text, LETTERS_PX)
            rows.append(row)
        names = [name for name in self._colors if name in self._seen]
        top = np.full((GAP_PX, width, 3), 255, dtype=np.uint8)
        return np.concatenate([top, *rows, *_legend(names, self._colors, width)])


def review_sheet(
    rows: Sequence[ReviewRow], frame_of: FrameOf, colors: Mapping[str, str], *, columns: int = 6
) -> RgbImage:
    """The worst rows of a review as images: the object's surroundings with its outline, and below when and why.

    Args:
        rows: the worst first; at most :data:`MAX_CROPS` are shown.
        frame_of: reads the image of a row; one that raises an :class:`InputError` leaves its place grey.
        colors: of each object, in hex.
        columns: images side by side.

    Returns:
        ``(h, w, 3)`` uint8.
    """
    shown = list(rows[:MAX_CROPS])
    if not shown:
        return caption(columns * (CROP_PX[1] + GAP_PX) + GAP_PX, "nothing to check", LETTERS_PX)
    crops: dict[int, RgbImage] = {}
    # In the order of the frames: a video is read forwards.
    for index in sorted(range(len(shown)), key=lambda i: (shown[i].camera, shown[i].frame or 0)):
        crops[index] = review_crop(shown[index], frame_of, colors.get(shown[index].object, "#ffffff"))
    line = text_size("", LETTERS_PX)[1]
    cell_h, cell_w = CROP_PX[0] + 3 * line + GAP_PX, CROP_PX[1] + GAP_PX
    columns = min(columns, len(shown))
    sheet = np.full((-(-len(shown) // columns) * cell_h + GAP_PX, columns * cell_w + GAP_PX, 3), 255, dtype=np.uint8)
    for index, row in enumerate(shown):
        x, y = GAP_PX + index % columns * cell_w, GAP_PX + index // columns * cell_h
        sheet[y : y + CROP_PX[0], x : x + CROP_PX[1]] = crops[index]
        until = f" to {clock(row.end_s)}" if row.end_s > row.time_s else ""
        texts = (
            f"{index + 1}. {row.object or 'all objects'}" + (f" and {row.other}" if row.other else ""),
            f"{row.camera}  {clock(row.time_s)}{until}",
            f"{row.reason.replace('_', ' ')}  {row.score:.2f}",
        )
        for number, text in enumerate(texts):
            top = y + CROP_PX[0] + number * line
            sheet[top : top + line, x : x + CROP_PX[1]] = caption(CROP_PX[1], text, LETTERS_PX)
    return sheet


def _fit(size_hw: tuple[int, int]) -> tuple[int, int]:
    """The size of a tile: as wide as the column, unless that is too high."""
    scale = min(TILE_PX / size_hw[1], TILE_HEIGHT_PX / size_hw[0])
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def _legend(names: Sequence[str], colors: Mapping[str, str], width: int) -> list[RgbImage]:
    """Lines with a square of its colour before each name, ``(h, width, 3)`` each."""
    height = text_size("", LETTERS_PX)[1]
    lines: list[RgbImage] = []
    x = width
    for name in names:
        room = min(width - 2 * GAP_PX, text_size(name, LETTERS_PX)[0] + 14)
        if x + room > width:
            lines.append(np.full((height, width, 3), 255, dtype=np.uint8))
            x = GAP_PX
        lines[-1][4:-4, x : x + 10] = [int(colors[name][i : i + 2], 16) for i in (1, 3, 5)]
        lines[-1][:, x + 14 : x + room] = caption(room - 14, name, LETTERS_PX)
        x += room + 2 * GAP_PX
    return lines


def review_crop(row: ReviewRow, frame_of: FrameOf, color: str) -> RgbImage:
    """The surroundings of the object of a row of a review, with its outline.

    Args:
        row: the row.
        frame_of: reads its image; if that raises an :class:`InputError`, or there is none, the result is grey.
        color: of the outline, in hex.

    Returns:
        ``(h, w, 3)`` uint8 of the size :data:`CROP_PX`.
    """
    empty = np.full((*CROP_PX, 3), EMPTY, dtype=np.uint8)
    if row.frame is None:
        return empty
    try:
        image = frame_of(row.camera, row.frame)
    except InputError:  # the row may be there because the frame cannot be read
        return empty
    height, width = image.shape[:2]
    if row.mask_rle is None or row.mask_rle.is_empty:
        scale = min(CROP_PX[0] / height, CROP_PX[1] / width)
        small = resized(image, (max(1, int(height * scale)), max(1, int(width * scale))))
        empty[: small.shape[0], : small.shape[1]] = small
        return empty
    mask = fit_mask(row.mask_rle, (height, width))
    x, y, w, h = mask.box_xywh
    aspect = CROP_PX[1] / CROP_PX[0]
    crop_w = max(2.2 * w, 2.2 * h * aspect, 0.2 * width)
    crop_w = min(crop_w, width, height * aspect)
    crop_h = crop_w / aspect
    left = int(np.clip(x + w / 2 - crop_w / 2, 0, width - crop_w))
    top = int(np.clip(y + h / 2 - crop_h / 2, 0, height - crop_h))
    rows, columns = slice(top, top + max(1, round(crop_h))), slice(left, left + max(1, round(crop_w)))
    part = mask.to_array()[rows, columns]
    inside = fit_mask(ObjectMask.from_array(part), CROP_PX)
    return overlay(resized(image[rows, columns], CROP_PX), [inside], colors=[color], opacity=0.15, thickness_px=2)
