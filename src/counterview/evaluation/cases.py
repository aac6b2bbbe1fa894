"""The best and the worst cases of a report, drawn as images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from counterview.data.formats.prepared import find_image
from counterview.errors import InputError
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.predictions import PredictionSource
from counterview.evaluation.protocol import Report
from counterview.evaluation.table import FrameScore
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.media.files import safe_join
from counterview.media.images import read_image
from counterview.types import ObjectMask

TILE_PX = 320
FULL_PX = 960
"""Longer side of the whole image before its part is cut out."""
ROOM, SMALLEST_PART = 3, 0.25
"""The part that is shown is so many times as large as the masks, and at least this fraction of the image."""
ONLY_TRUTH, ONLY_PREDICTION, BOTH = (64, 140, 255), (235, 70, 60), (60, 190, 90)


ImageOf = Callable[[str, str, int], NDArray[np.uint8]]
"""Reads the image ``(H, W, 3)`` of a take, a camera and a frame; raises an :class:`InputError` where there is none."""


@dataclass(frozen=True)
class Case:
    """One object in one frame.

    Attributes:
        row: its scores.
        query: the part of the query view around its mask, ``(h, w, 3)`` uint8, longer side :data:`TILE_PX`; ``None``
            if the query mask is missing.
        target: the target view with both masks, likewise.
    """

    row: FrameScore
    query: NDArray[np.uint8] | None
    target: NDArray[np.uint8]


def pick(report: Report, count: int) -> tuple[list[FrameScore], list[FrameScore]]:
    """Best and worst rows with a visible object, by IoU.

    Of one object in one take only its best or worst frame is picked.

    Args:
        report: whose rows.
        count: at most so many of each.

    Returns:
        The best rows, best first, and the worst, worst first.
    """
    visible = np.flatnonzero(report.table["gt_visible"])
    order = visible[np.argsort(report.table["iou"][visible], kind="stable")]
    return _first(report, order[::-1], count), _first(report, order, count)


def _first(report: Report, order: NDArray[np.int64], count: int) -> list[FrameScore]:
    rows: list[FrameScore] = []
    picked: set[tuple[str, str]] = set()
    for index in order.tolist():
        if len(rows) == count:
            break
        row = report.table.row(index)
        if (row.take, row.object) not in picked:
            picked.add((row.take, row.object))
            rows.append(row)
    return rows


def draw_case(
    row: FrameScore, report: Report, truth: GroundTruth, source: PredictionSource, frames: Path | ImageOf | None
) -> Case | None:
    """Draw one row; ``None`` if its masks can no longer be read.

    Args:
        row: to draw.
        report: that it comes from.
        truth: the ground truth of the report.
        source: the predictions of the report.
        frames: a prepared folder with ``<take>/<camera>/<frame>.jpg``, or what reads an image; without it, or where
            there is no image, masks are drawn on grey.
    """
    try:
        take = truth.load(row.take)
        predictions = source.load(report.direction, row.take)
        gt = take.mask(row.object, row.target_camera, row.frame)
        key = (row.object, row.query_camera, row.target_camera, row.frame)
        prediction = None if predictions is None else predictions.get(*key)
        pred = None if prediction is None else prediction.mask()
        query = take.mask(row.object, row.query_camera, row.frame)
    except (InputError, KeyError):
        return None
    if gt is None:
        return None
    target = _paint(_image(frames, row.take, row.target_camera, row.frame), gt, pred)
    image = _image(frames, row.take, row.query_camera, row.frame)
    return Case(row, None if query is None else _paint(image, query, query), target)


def _image(frames: Path | ImageOf | None, take: str, camera: str, frame: int) -> NDArray[np.uint8] | None:
    if frames is None:
        return None
    try:
        if not isinstance(frames, Path):
            return frames(take, camera, frame)
        path = find_image(safe_join(frames, take, camera, follow_links=True), frame)
        return read_image(path) if path.is_file() else None
    except InputError:
        return None


def _paint(image: NDArray[np.uint8] | None, gt: ObjectMask, pred: ObjectMask | None) -> NDArray[np.uint8]:
    """Both masks on the part of the image around them: tints, and an outline of each."""
    size = fit_longest_side(gt.size_hw, FULL_PX)
    if image is None:
        canvas = np.full((*size, 3), 225, dtype=np.uint8)
    else:
        canvas = np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    truth = resize_mask(gt, size).to_array()
    mask = np.zeros(size, dtype=np.bool_) if pred is None else resize_mask(pred, size).to_array()
    rows, columns = _window(truth | mask)
    part = (rows[1] - rows[0], columns[1] - columns[0])
    tile = fit_longest_side(part, TILE_PX)
    shape = (tile[1], tile[0])
    canvas = np.ascontiguousarray(canvas[slice(*rows), slice(*columns)])
    canvas = np.asarray(cv2.resize(canvas, shape, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    truth, mask = (
        cv2.resize(m[slice(*rows), slice(*columns)].astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST) > 0
        for m in (truth, mask)
    )
    for where, color in ((truth & ~mask, ONLY_TRUTH), (mask & ~truth, ONLY_PREDICTION), (truth & mask, BOTH)):
        canvas[where] = (0.65 * canvas[where] + 0.35 * np.array(color)).astype(np.uint8)
    for outlined, color in ((mask, ONLY_PREDICTION), (truth, ONLY_TRUTH)):
        lines, _ = cv2.findContours(outlined.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, lines, -1, color, 2)
    return canvas


def _window(mask: NDArray[np.bool_]) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last row and column (excluded) of the part that is shown: the mask with room around it."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return (0, height), (0, width)
    extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = max(ROOM * int(extent), round(max(height, width) * SMALLEST_PART))

    def span(first: int, last: int, whole: int) -> tuple[int, int]:
        length = min(side, whole)
        start = int(np.clip((first + last + 1 - length) // 2, 0, whole - length))
        return start, start + length

    return span(int(rows[0]), int(rows[-1]), height), span(int(columns[0]), int(columns[-1]), width)


def data_uri(image: NDArray[np.uint8]) -> str:
    """An image ``(H, W, 3)`` uint8 as a ``data:`` URI, to be embedded in a page."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
