"""What a person should check in tracks: where they are doubtful and why, the worst first, and ``review.csv``.

Reasons are either seen in the tracks alone (an object that appears in the middle of the image, a jump, two objects with
one mask), so that the list is there for tracks of any origin, or told by the engine (``doubts`` of an observation).
"""

from __future__ import annotations

import csv
import heapq
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from types import MappingProxyType
from typing import Literal

from counterview.errors import InputError
from counterview.exchange.tracks import Tracks
from counterview.masks.geometry import iou
from counterview.media.files import atomic_write
from counterview.tracking.base import Observation
from counterview.types import ObjectMask

Reason = Literal[
    "low_score", "way_back", "cameras_disagree", "appeared", "vanished", "merged", "jumped", "flow_failed", "unknown"
]
"""Why a place of a track is doubtful."""

REASONS: Mapping[Reason, str] = MappingProxyType(
    {
        "low_score": "the model is not sure whether this is the object",
        "way_back": "matched back into the query camera, it is another object",
        "cameras_disagree": "the cameras do not agree on where it is",
        "appeared": "it appears in the middle of the image",
        "vanished": "it vanishes in the middle of the image",
        "merged": "its mask is also that of another object",
        "jumped": "it is somewhere else, or of another size, than just before and after",
        "flow_failed": "it could not be followed from one sampled time to the next",
        "unknown": "nothing is known of it here",
    }
)
"""What each reason means, for people."""

LIMIT = 200
"""Rows that are kept."""

NEIGHBOUR_S = 0.5
"""Doubts of one kind that are at most this far apart, or in neighbouring frames, are one row."""

UNSURE_BELOW = 0.75
"""A visibility below this, and above one minus it, is a low score."""

MERGED_IOU = 0.3
"""Two objects whose masks have at least this IoU may be one."""

JUMP = 1.5
"""A mask that is further from both neighbours than this many times its size, and than they are from one another,
jumped."""

GROWTH = 2.5
"""Likewise for a mask that is this many times larger or smaller than both."""

BORDER = 0.02
"""Fraction of an image's side: what is this close to the border comes from outside, or leaves."""


@dataclass(frozen=True)
class ReviewRow:
    """A place to check: one reason for one object in one camera, over neighbouring frames.

    Attributes:
        time_s: of the first frame, on the query camera's clock, in seconds.
        end_s: of the last one.
        camera: its name.
        camera_time_s: of the first frame, on the camera's own clock.
        camera_end_s: of the last one.
        object: the object's name; empty if nothing is known of any object in the camera.
        reason: why.
        score: how doubtful the worst of the frames is, 0 to 1.
        frame: number of the worst frame, in the camera; ``None`` where the camera has no image.
        worst_s: its time on the query camera's clock.
        mask_rle: the object there, or where it was last, ``(H, W)``; ``None`` if it was never seen before.
        other: the object that it may be one with, where the reason is *merged*.
    """

    time_s: float
    end_s: float
    camera: str
    camera_time_s: float
    camera_end_s: float
    object: str
    reason: Reason
    score: float
    frame: int | None
    worst_s: float
    mask_rle: ObjectMask | None = None
    other: str = ""

    @property
    def why(self) -> str:
        """The reason as a sentence."""
        return REASONS[self.reason] + (f": {self.other}" if self.other else "")


@dataclass(frozen=True)
class _Moment:
    """One object in one frame: what the reasons need of it."""

    step: int
    time_s: float
    camera_time_s: float
    frame: int | None
    visibility: float
    mask_rle: ObjectMask | None
    is_given: bool


@dataclass
class _Recent:
    """What is remembered of one object in one camera: the moments before this one, and its last mask."""

    moments: list[_Moment] = field(default_factory=list)
    mask_rle: ObjectMask | None = None


_Key = tuple[str, str, Reason, str]


class Review:
    """Collects what is doubtful, frame by frame. What is kept does not grow with time.

    Masks that the user gave are not doubted.

    Args:
        limit: rows that are kept, the worst of all.

    Attributes:
        limit: likewise.

    Raises:
        InputError: a limit below 1.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        if limit < 1:
            raise InputError("a review keeps at least one row", found=limit)
        self.limit, self._dropped = limit, 0
        self._recent: dict[tuple[str, str], _Recent] = {}
        self._open: dict[_Key, tuple[int, ReviewRow]] = {}
        self._kept: list[tuple[float, int, ReviewRow]] = []
        self._steps: dict[str, int] = {}
        self._count = 0

    def add(
        self,
        camera: str,
        time_s: float,
        observations: Mapping[str, Observation],
        *,
        frame: int | None,
        camera_time_s: float | None = None,
    ) -> None:
        """Take the next frame of one camera.

        Args:
            camera: its name.
            time_s: on the query camera's clock, in seconds; later than the frame before.
            observations: by object.
            frame: number of the frame in the camera; ``None`` if it has no image at this time.
            camera_time_s: the time on the camera's own clock; ``time_s`` if not given.

        Raises:
            InputError: a doubt of an unknown name.
        """
        step = self._steps[camera] = self._steps.get(camera, -1) + 1
        own_s = time_s if camera_time_s is None else camera_time_s
        nothing = [name for name, seen in observations.items() if seen.visibility is None and not seen.doubts]
        if len(nothing) == len(observations) and nothing and (len(nothing) > 1 or frame is None):
            where = _Moment(step, time_s, own_s, frame, 0.0, None, False)
            self._note(camera, "", "unknown", 0.5, where)
            self._close(camera, step - 1, time_s)
            return
        for name, seen in observations.items():
            recent = self._recent.setdefault((camera, name), _Recent())
            mask = seen.mask_rle if seen.is_visible else None
            given = seen.source == "given"
            moment = _Moment(step, time_s, own_s, frame, seen.visibility or 0.0, mask, given)
            for reason, score in seen.doubts.items():
                self._note(camera, name, _reason(reason), score, moment, recent.mask_rle)
            if seen.visibility is None:
                if not seen.doubts:
                    self._note(camera, name, "unknown", 0.5, moment, recent.mask_rle)
                continue
            unsure = 1 - abs(2 * seen.visibility - 1)
            if not given and 1 - UNSURE_BELOW < seen.visibility < UNSURE_BELOW:
                self._note(camera, name, "low_score", unsure, moment, seen.mask_rle)
            self._changes(camera, name, recent, moment)
            recent.moments = [*recent.moments[-1:], moment]
            recent.mask_rle = mask or recent.mask_rle
        self._overlaps(camera, observations, _Moment(step, time_s, own_s, frame, 0.0, None, False))
        self._close(camera, step - 1, time_s)  # a jump is told one frame late

    def _changes(self, camera: str, name: str, recent: _Recent, now: _Moment) -> None:
        """Doubts that the moments before this one raise."""
        if not recent.moments or now.is_given:
            return
        before = recent.moments[-1]
        appeared = before.mask_rle is None
        mask = now.mask_rle if appeared else before.mask_rle
        if appeared == (now.mask_rle is not None) and mask is not None and not _is_at_border(mask):
            # One that was covered bit by bit is less doubtful, one that is hesitantly called visible or not is more.
            earlier = None if appeared or len(recent.moments) < 2 else recent.moments[0].mask_rle
            kept = 1.0 if earlier is None else min(1.0, mask.area / max(1, earlier.area))
            unsure = 1 - abs(2 * now.visibility - 1)
            self._note(camera, name, "appeared" if appeared else "vanished", 0.2 + 0.3 * kept + 0.4 * unsure, now, mask)
        if len(recent.moments) == 2 and not before.is_given:
            score = _jump(recent.moments[0].mask_rle, before.mask_rle, now.mask_rle)
            if score > 0:
                self._note(camera, name, "jumped", score, before, before.mask_rle)

    def _overlaps(self, camera: str, observations: Mapping[str, Observation], now: _Moment) -> None:
        masks = {name: seen.mask_rle for name, seen in observations.items() if seen.is_visible and seen.mask_rle}
        boxes = {name: mask.box_xywh for name, mask in masks.items()}
        for first, second in combinations(masks, 2):
            (ax, ay, aw, ah), (bx, by, bw, bh) = boxes[first], boxes[second]
            if ax >= bx + bw or bx >= ax + aw or ay >= by + bh or by >= ay + ah:
                continue
            a, b = masks[first], masks[second]
            if a.size_hw != b.size_hw or min(a.area, b.area) < MERGED_IOU * max(a.area, b.area):
                continue
            shared = iou(a, b)
            if shared >= MERGED_IOU:
                self._note(camera, first, "merged", shared, replace(now, mask_rle=a), other=second)

    def _note(
        self,
        camera: str,
        name: str,
        reason: Reason,
        score: float,
        where: _Moment,
        mask: ObjectMask | None = None,
        other: str = "",
    ) -> None:
        """Add a doubt to the row that is open for it, or open one."""
        score = float(score)
        if not math.isfinite(score) or score <= 0:
            return
        score = min(score, 1.0)
        mask = where.mask_rle or mask
        key = (camera, name, reason, other)
        last, row = self._open.get(key, (0, None))
        if row is not None and not _are_neighbours(last, row, where.step, where.time_s):
            self._keep(row)
            row = None
        if row is not None:
            row = replace(row, end_s=max(row.end_s, where.time_s),
                          camera_end_s=max(row.camera_end_s, where.camera_time_s))  # fmt: skip
            if score > row.score:
                row = replace(row, score=score, frame=where.frame, worst_s=where.time_s, mask_rle=mask or row.mask_rle)
        else:
            row = ReviewRow(
                where.time_s, where.time_s, camera, where.camera_time_s, where.camera_time_s, name, reason, score,
                where.frame, where.time_s, mask, other,
            )  # fmt: skip
        self._open[key] = (where.step, row)

    def _close(self, camera: str, step: int, time_s: float) -> None:
        """Keep the rows to which nothing can be added any more."""
        for key in [key for key in self._open if key[0] == camera]:
            last, row = self._open[key]
            if not _are_neighbours(last, row, step, time_s):
                del self._open[key]
                self._keep(row)

    def _keep(self, row: ReviewRow) -> None:
        self._count += 1
        heapq.heappush(self._kept, (row.score, -self._count, row))
        if len(self._kept) > self.limit:
            heapq.heappop(self._kept)
            self._dropped += 1

    @property
    def left_out(self) -> int:
        """Number of rows that are less doubtful than those of :meth:`rows`, which has at most ``limit``."""
        return self._dropped + max(0, len(self._kept) + len(self._open) - self.limit)

    def rows(self) -> list[ReviewRow]:
        """What to check, the worst first."""
        rows = [row for _, _, row in self._kept] + [row for _, row in self._open.values()]
        return sorted(rows, key=lambda r: (-r.score, r.time_s, r.camera, r.object, r.reason, r.other))[: self.limit]


def review_tracks(tracks: Tracks, limit: int = LIMIT) -> Review:
    """What to check in tracks without an engine's own doubts, for example those of a file.

    Args:
        tracks: the tracks.
        limit: rows that are kept.
    """
    review = Review(limit)
    for camera, about in tracks.cameras.items():
        frames: dict[int, dict[str, Observation]] = {}
        times: dict[int, float] = {}
        for name, by_camera in tracks.objects.items():
            for item in by_camera.get(camera, ()):
                frames.setdefault(item.frame, {})[name] = Observation(item.mask_rle, item.visibility, item.source)
                times[item.frame] = item.time_s
        for frame, observations in sorted(frames.items()):
            own_s = times[frame]
            review.add(camera, about.query_time(own_s), observations, frame=frame, camera_time_s=own_s)
    return review


COLUMNS = (
    "time_s", "end_s", "camera", "camera_time_s", "camera_end_s", "frame", "object", "other", "reason", "why", "score",
)  # fmt: skip
"""Columns of ``review.csv``."""


def write_review_csv(path: str | os.PathLike[str], rows: Iterable[ReviewRow]) -> None:
    """Write ``review.csv``: UTF-8, a header, one line a row, aside and renamed.

    A name that a spreadsheet would take for a formula gets a quote before it.

    Args:
        path: the file.
        rows: the worst first.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for row in rows:
        times = [f"{t:.3f}" for t in (row.time_s, row.end_s, row.camera_time_s, row.camera_end_s)]
        frame = "" if row.frame is None else row.frame
        names = [_cell(name) for name in (row.camera, row.object, row.other, row.why)]
        table.writerow([*times[:2], names[0], *times[2:], frame, *names[1:3], row.reason, names[3], f"{row.score:.3f}"])
    with atomic_write(path) as handle:
        handle.write(text.getvalue().encode("utf-8", "backslashreplace"))


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") and text else text


def _reason(name: str) -> Reason:
    for reason in REASONS:
        if reason == name:
            return reason
    raise InputError("no such reason for a doubt", found=name, expected=", ".join(REASONS))


def _are_neighbours(last: int, row: ReviewRow, step: int, time_s: float) -> bool:
    """Whether a doubt at a step belongs to a row whose last one was at ``last``."""
    return step - last <= 1 or time_s - row.end_s <= NEIGHBOUR_S


def _is_at_border(mask: ObjectMask) -> bool:
    """Whether a mask ``(H, W)`` reaches the border of its image."""
    (x, y, w, h), (height, width) = mask.box_xywh, mask.size_hw
    dx, dy = max(1, round(BORDER * width)), max(1, round(BORDER * height))
    return x < dx or y < dy or x + w > width - dx or y + h > height - dy


def _jump(before: ObjectMask | None, mask: ObjectMask | None, after: ObjectMask | None) -> float:
    """How much a mask ``(H, W)`` differs in place or size from both its neighbours, 0 to 1; 0 if they differ as much.

    Args:
        before: the mask in the frame before.
        mask: the mask in question.
        after: the one in the frame after.
    """
    if before is None or mask is None or after is None or before.is_empty or mask.is_empty or after.is_empty:
        return 0.0
    places = [m.centroid_xy or (0.0, 0.0) for m in (before, mask, after)]
    size = math.sqrt(math.sqrt(before.area * after.area))
    away = min(math.dist(places[0], places[1]), math.dist(places[1], places[2])) / size
    apart = math.dist(places[0], places[2]) / size
    place = away if away > JUMP and away > JUMP * apart else 0.0
    growths = math.log(mask.area / before.area), math.log(mask.area / after.area)
    growth = min(map(abs, growths)) if growths[0] * growths[1] > 0 else 0.0
    grown = growth / math.log(GROWTH)
    return max(1 - 0.5 * JUMP / place if place else 0.0, 1 - 0.5 / grown if grown > 1 else 0.0)
