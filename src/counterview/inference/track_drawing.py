"""Draw objects in several cameras at one time: the cameras side by side, and below them when each object is visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from counterview.errors import InputError
from counterview.exchange.tracks import TrackedCamera, Tracks
from counterview.masks.boxed import BoxedMask
from counterview.masks.draw import object_colors, overlay
from counterview.masks.geometry import fit_mask
from counterview.masks.labels import Label, cut, draw_labels, place, text_size, text_strip
from counterview.tracking.base import Observation, Observations
from counterview.types import RgbImage

BACKGROUND, TEXT, FAINT = "#181818", "#f2f2f2", "#9a9a9a"
NOT_VISIBLE, NOT_YET, UNKNOWN_STRIPE = (64, 64, 64), (36, 36, 36), (130, 130, 130)
GAP_PX = 6
HEADER_PX, SMALL_PX = 14, 11
"""Heights of letters: of the line above a camera, and of the strip below."""

MIN_CAMERA_PX = 240
"""Cameras are put in a second row before they are lower than this."""

STRIP_PX = 200
"""Height of the strip; where all objects need more, it gets more columns, and shows the first objects alone."""

BAR_PX = 5
"""Height of the bar of one object in one camera."""


def clock(time_s: float) -> str:
    """A time as minutes and seconds.

    >>> clock(63.5), clock(-0.25)
    ('1:03.50', '-0:00.25')
    """
    hundredths = round(abs(time_s) * 100)
    return f"{'-' if time_s < 0 else ''}{hundredths // 6000}:{hundredths % 6000 / 100:05.2f}"


def resized(image: RgbImage, size_hw: tuple[int, int]) -> RgbImage:
    """An image ``(H, W, 3)`` at another size, ``(h, w, 3)`` uint8.

    Args:
        image: uint8 RGB.
        size_hw: height and width after, in pixels.
    """
    import cv2

    smaller = size_hw[0] < image.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size_hw[1], size_hw[0]), interpolation=how), dtype=np.uint8)


def draw_objects(
    image: RgbImage,
    size_hw: tuple[int, int],
    observations: Mapping[str, Observation],
    colors: Mapping[str, str],
    *,
    earlier: dict[str, tuple[Label, tuple[int, int]]] | None = None,
    with_labels: bool = True,
    size_px: int = 12,
) -> RgbImage:
    """An image at some size, with the objects that are visible in it; others are not drawn.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        size_hw: height and width of the result in pixels.
        observations: by object, with masks ``(H, W)``.
        colors: of each object, in hex.
        earlier: labels of the image before with the middles of their objects, by object, so that they do not jump; it
            is replaced by those of this image.
        with_labels: write the names beside the objects.
        size_px: height of their letters.

    Returns:
        ``(h, w, 3)`` uint8.
    """
    seen = {n: o.mask_rle for n, o in observations.items() if o.is_visible and o.mask_rle and not o.mask_rle.is_empty}
    masks = {name: fit_mask(mask, size_hw) for name, mask in seen.items()}
    boxed = [BoxedMask.of(mask) for mask in masks.values()]
    chosen = [colors[name] for name in masks]
    thickness = 2 if min(size_hw) >= MIN_CAMERA_PX else 1
    drawn = overlay(resized(image, size_hw), boxed, colors=chosen, thickness_px=thickness)
    if not with_labels or not masks:
        return drawn
    middles = {n: (x + w // 2, y + h // 2) for n, (x, y, w, h) in ((n, m.box_xywh) for n, m in masks.items())}
    before = [_moved(earlier, name, middles[name]) for name in masks]
    texts = [cut(name, size_px, max(60, size_hw[1] // 2), middle=True) for name in masks]
    placed = place(texts, chosen, boxed, size_px, earlier=before)
    if earlier is not None:
        earlier.clear()
        earlier.update({name: (label, middles[name]) for name, label in zip(masks, placed, strict=True)})
    return draw_labels(drawn, placed, size_px)


def _moved(
    earlier: Mapping[str, tuple[Label, tuple[int, int]]] | None, name: str, middle: tuple[int, int]
) -> tuple[int, int] | None:
    """Where a label would be if it moved with its object; it does not follow what trembles."""
    if earlier is None or name not in earlier:
        return None
    label, (x, y) = earlier[name]
    dx, dy = middle[0] - x, middle[1] - y
    return label.xy if max(abs(dx), abs(dy)) <= 3 else (label.xy[0] + dx, label.xy[1] + dy)


@dataclass(frozen=True)
class _Panel:
    """Where a camera is drawn: its image, and the line above it."""

    x: int
    y: int
    width: int
    height: int


class TrackDrawing:
    """Draws the images of a run one after the other, all of one size. Nothing of them is kept.

    The cameras are side by side at equal height, the query camera first; every object has one colour in all of them.
    Below, each object has a bar for each camera: bright where it is visible, grey where it is not, striped where
    nothing is known. It is filled as the images come, or from the start if the tracks are known.

    Args:
        cameras: by name, the query camera first.
        objects: names of all objects.
        span_s: first and last time on the query camera's clock, in seconds.
        step_s: seconds from one image to the next.
        tracks: of the same cameras and objects, if they are known.
        camera_height_px: largest height of a camera's image.
        width_px: largest width of the drawing.

    Attributes:
        size_hw: height and width of the drawing in pixels; both are even.
        colors: of each object, in hex.

    Raises:
        InputError: no camera, no object, or times that do not ascend.
    """

    def __init__(
        self,
        cameras: Mapping[str, TrackedCamera],
        objects: Sequence[str],
        span_s: tuple[float, float],
        step_s: float,
        *,
        tracks: Tracks | None = None,
        camera_height_px: int = 480,
        width_px: int = 1920,
    ) -> None:
        if not cameras or not objects or not span_s[0] <= span_s[1] or step_s <= 0:
            raise InputError(
                "nothing to draw", found=f"{len(cameras)} cameras, {len(objects)} objects, {span_s[0]} to {span_s[1]} s"
            )
        self.cameras, self.objects = dict(cameras), tuple(objects)
        self.span_s, self.step_s = span_s, step_s
        self.colors = dict(zip(self.objects, object_colors(len(self.objects)), strict=True))
        self._header_px = text_size("", HEADER_PX)[1]
        self._panels, width, height = _arrange(
            {name: camera.size_hw for name, camera in cameras.items()}, camera_height_px, width_px, self._header_px
        )
        self._earlier: dict[str, dict[str, tuple[Label, tuple[int, int]]]] = {name: {} for name in cameras}
        strip = self._strip(width, height)
        self.size_hw = height + strip.shape[0] + (height + strip.shape[0]) % 2, width
        self._canvas = np.empty((*self.size_hw, 3), dtype=np.uint8)
        self._canvas[:] = _rgb(BACKGROUND)
        self._canvas[height : height + strip.shape[0]] = strip
        for name, panel in self._panels.items():
            self._canvas[panel.y - self._header_px : panel.y, panel.x : panel.x + panel.width] = self._header(name)
        self._is_known = tracks is not None
        if tracks is not None:
            self._fill_all(tracks)

    def draw(
        self,
        time_s: float,
        images: Mapping[str, RgbImage | None],
        observations: Observations,
        camera_times: Mapping[str, float] | None = None,
    ) -> RgbImage:
        """Draw all cameras at one time.

        Args:
            time_s: on the query camera's clock, in seconds.
            images: ``(H, W, 3)`` uint8 by camera; ``None``, or no entry, where a camera has no image.
            observations: of each camera and object.
            camera_times: the time of each image on its camera's own clock, shown where the clocks differ.

        Returns:
            ``(h, w, 3)`` uint8 of the size :attr:`size_hw`.
        """
        if not self._is_known:
            for camera, by_object in observations.items():
                for name, seen in by_object.items():
                    self._fill(camera, name, time_s, seen.visibility)
        canvas = self._canvas.copy()
        for position, (name, panel) in enumerate(self._panels.items()):
            image = images.get(name)
            size = panel.height, panel.width
            if image is None:
                drawn = np.full((*size, 3), _rgb("#2a2a2a"), dtype=np.uint8)
                note = text_strip(panel.width, "no image", HEADER_PX, color=FAINT, background="#2a2a2a")
                drawn[: note.shape[0]] = note[: panel.height]
            else:
                letters = max(11, round(panel.height / 36))
                drawn = draw_objects(
                    image, size, observations.get(name, {}), self.colors, earlier=self._earlier[name], size_px=letters
                )
            canvas[panel.y : panel.y + panel.height, panel.x : panel.x + panel.width] = drawn
            own = (camera_times or {}).get(name, time_s)
            if position == 0 or abs(own - time_s) > 0.005:
                text = clock(time_s if position == 0 else own)
                w = min(panel.width, text_size(text, HEADER_PX)[0])
                stamp = text_strip(w, text, HEADER_PX, color=TEXT, background=BACKGROUND, align="right")
                right = panel.x + panel.width
                canvas[panel.y - self._header_px : panel.y, right - w : right] = stamp
        for x1, x2, y1, y2 in self._blocks:
            x = self._column(time_s, x1, x2)
            canvas[y1:y2, max(x1, x - 1) : x + 1] = 255
        return canvas

    def _header(self, name: str) -> RgbImage:
        """The line above a camera: its name, and whether objects were shown in it."""
        width = self._panels[name].width
        line = text_strip(width, name, HEADER_PX, color=TEXT, background=BACKGROUND)
        if name == next(iter(self.cameras)):
            mark = text_strip(text_size("query", HEADER_PX)[0], "query", HEADER_PX, color="#000000", background=TEXT)
            room = mark.shape[1] + GAP_PX
            if room < width:
                line = np.full_like(line, _rgb(BACKGROUND))
                line[:, : mark.shape[1]] = mark
                line[:, room:] = text_strip(width - room, name, HEADER_PX, color=TEXT, background=BACKGROUND)
        return line

    # -------------------------------------------------------------------------------------------------- the strip

    def _strip(self, width: int, top: int) -> RgbImage:
        """The strip below the cameras with empty bars, ``(h, width, 3)``; it begins at the row ``top``."""
        line = text_size("", SMALL_PX)[1]
        bar = max(2, min(BAR_PX, 40 // len(self.cameras)))
        row = max(line, len(self.cameras) * (bar + 1)) + 4
        most = max(1, STRIP_PX // row)
        columns = min(max(1, width // 420), -(-len(self.objects) // most))
        rows = min(-(-len(self.objects) // columns), 2 * most)
        shown = self.objects[: rows * columns]
        strip = np.empty((GAP_PX + rows * row + line + GAP_PX, width, 3), dtype=np.uint8)
        strip[:] = _rgb(BACKGROUND)
        self._bars: dict[tuple[str, str], tuple[int, int, int, int]] = {}
        self._blocks: list[tuple[int, int, int, int]] = []
        block = width // columns
        names = min(block // 3, max(text_size(name, SMALL_PX)[0] for name in shown) + 14)
        for index, name in enumerate(shown):
            x, y = index // rows * block + GAP_PX, GAP_PX + index % rows * row
            middle = y + (row - line) // 2
            strip[middle + 3 : middle + line - 3, x : x + 8] = _rgb(self.colors[name])
            short = cut(name, SMALL_PX, names - 12, middle=True)
            text = text_strip(names - 12, short, SMALL_PX, color=TEXT, background=BACKGROUND)
            strip[middle : middle + line, x + 12 : x + names] = text
            first = y + (row - len(self.cameras) * (bar + 1)) // 2
            x1, x2 = x + names + GAP_PX, (index // rows + 1) * block - GAP_PX
            for number, camera in enumerate(self.cameras):
                y1 = first + number * (bar + 1)
                strip[y1 : y1 + bar, x1:x2] = NOT_YET
                self._bars[camera, name] = x1, x2, y1 + top, y1 + bar + top
            if index % rows == 0:
                in_block = min(rows, len(shown) - index)
                self._blocks.append((x1, x2, GAP_PX + top - 2, GAP_PX + in_block * row + top - 2))
        note = "bright: visible, grey: not visible, striped: unknown"
        if len(self.cameras) > 1:
            note += "; bars of each object from above: " + ", ".join(self.cameras)
        if len(shown) < len(self.objects):
            note = f"and {len(self.objects) - len(shown)} objects more; {note}"
        strip[-line - GAP_PX // 2 : -(GAP_PX // 2)] = text_strip(
            width, note, SMALL_PX, color=FAINT, background=BACKGROUND
        )
        return strip

    def _column(self, time_s: float, x1: int, x2: int) -> int:
        """The column of a time in a bar from ``x1`` to ``x2``."""
        start, end = self.span_s[0], self.span_s[1] + self.step_s
        return int(np.clip(x1 + (time_s - start) / (end - start) * (x2 - x1), x1, x2 - 1))

    def _fill(self, camera: str, name: str, time_s: float, visibility: float | None, until_s: float = 0.0) -> None:
        """Fill the bar of an object from a time on, for one step or until another time."""
        if (camera, name) not in self._bars:
            return
        x1, x2, y1, y2 = self._bars[camera, name]
        start = self._column(time_s, x1, x2)
        end = max(start + 1, self._column(until_s or time_s + self.step_s, x1, x2) + 1)
        bar = self._canvas[y1:y2, start:end]
        if visibility is None:
            stripes = (np.arange(start, end)[None] + np.arange(y2 - y1)[:, None]) // 3 % 2 == 0
            bar[:] = np.where(stripes[..., None], np.array(UNKNOWN_STRIPE), np.array(NOT_YET))
        elif visibility > 0.5:
            weight = 0.4 + 0.6 * visibility
            bar[:] = (weight * np.array(_rgb(self.colors[name])) + (1 - weight) * np.array(NOT_VISIBLE)).astype(
                np.uint8
            )
        else:
            bar[:] = NOT_VISIBLE

    def _fill_all(self, tracks: Tracks) -> None:
        for name, by_camera in tracks.objects.items():
            for camera, items in by_camera.items():
                about = tracks.cameras[camera]
                for item, after in pairwise([*items, None]):
                    if item is not None:
                        start = about.query_time(item.time_s)
                        end = start + self.step_s if after is None else about.query_time(after.time_s)
                        self._fill(camera, name, start, item.visibility, min(end, start + 1.5 * self.step_s))


def _arrange(
    sizes_hw: Mapping[str, tuple[int, int]], height_px: int, width_px: int, header_px: int
) -> tuple[dict[str, _Panel], int, int]:
    """Where each camera is drawn, and the width and height of all of them."""
    names = list(sizes_hw)
    aspects = [sizes_hw[name][1] / sizes_hw[name][0] for name in names]
    best, chosen = 0, [names]
    for rows in range(1, len(names) + 1):
        length = -(-len(names) // rows)
        parts = [range(i, min(i + length, len(names))) for i in range(0, len(names), length)]
        room = [(width_px - GAP_PX * (len(part) - 1)) / sum(aspects[i] for i in part) for part in parts]
        height = int(min(height_px, *room, 1080 / rows))
        if height > best:
            best, chosen = height, [[names[i] for i in part] for part in parts]
        if best >= min(MIN_CAMERA_PX, height_px):
            break
    height = max(16, best)
    widths = {name: max(16, int(aspect * height)) for name, aspect in zip(names, aspects, strict=True)}
    lengths = [sum(widths[name] for name in row) + GAP_PX * (len(row) - 1) for row in chosen]
    total = max(640, *lengths)
    total += total % 2
    panels: dict[str, _Panel] = {}
    y = 0
    for row, length in zip(chosen, lengths, strict=True):
        x, y = (total - length) // 2, y + header_px
        for name in row:
            panels[name] = _Panel(x, y, widths[name], height)
            x += widths[name] + GAP_PX
        y += height
    return panels, total, y


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
