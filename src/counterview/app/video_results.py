"""What following found, for the page: masks by frame, when objects are visible, and what to check."""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks, read_tracks
from counterview.inference.follow_journal import FollowJournal
from counterview.inference.follow_output import TRACKS, collect
from counterview.inference.track_drawing import clock
from counterview.masks.draw import object_colors
from counterview.tracking.review import ReviewRow
from counterview.types import ObjectMask

State = Literal["visible", "not visible", "unknown"]

MAX_GAP_S = 60.0
"""A moment stands for at most this long."""


@dataclass(frozen=True)
class VisibleSpan:
    """A time in which one thing is true of an object in a camera.

    Attributes:
        start_s: on the first camera's clock, in seconds.
        end_s: likewise.
        state: whether the object is visible.
    """

    start_s: float
    end_s: float
    state: State


class VideoResults:
    """The results of a finished run.

    Args:
        out: its output folder.

    Attributes:
        tracks: all that was found.
        rows: what to check, the worst first.

    Raises:
        InputError: there is no finished run, or its files are damaged.
    """

    def __init__(self, out: Path) -> None:
        self.tracks: Tracks = read_tracks(out / TRACKS)
        steps = list(FollowJournal(out).results())
        _, review = collect(steps, self.tracks.cameras, list(self.tracks.objects), {})
        self.rows: list[ReviewRow] = review.rows()
        self.times = [step.time_s for step in steps]
        self._masks: dict[tuple[str, int], dict[str, TrackedMask]] = {}
        for name, by_camera in self.tracks.objects.items():
            for camera, items in by_camera.items():
                for item in items:
                    self._masks.setdefault((camera, item.frame), {})[name] = item

    @property
    def names(self) -> list[str]:
        """Names of the objects."""
        return list(self.tracks.objects)

    def colors(self) -> dict[str, str]:
        """The colour of each object in the drawings of the run, in hex."""
        return dict(zip(self.names, object_colors(len(self.names)), strict=True))

    def masks_in(self, camera: str, number: int) -> Mapping[str, TrackedMask]:
        """What was found in a frame, by object; empty where nothing was looked for.

        Args:
            camera: its name.
            number: of the frame.
        """
        return self._masks.get((camera, number), {})

    def visible_in(self, camera: str, number: int) -> dict[str, ObjectMask]:
        """The masks ``(H, W)`` of the objects that are visible in a frame.

        Args:
            camera: its name.
            number: of the frame.
        """
        found = self.masks_in(camera, number)
        return {name: item.mask_rle for name, item in found.items() if item.mask_rle is not None}

    def step_near(self, time_s: float) -> float:
        """The time nearest to another one at which objects were looked for, in seconds.

        Args:
            time_s: on the first camera's clock.
        """
        after = bisect_left(self.times, time_s)
        near = self.times[max(0, after - 1) : after + 1]
        return min(near, key=lambda t: abs(t - time_s)) if near else time_s

    def span_s(self) -> tuple[float, float]:
        """First and last time of the run, in seconds; the last moment stands for as long as the one before."""
        if not self.times:
            return 0.0, 0.0
        last = self.times[-1] - self.times[-2] if len(self.times) > 1 else 0.5
        return self.times[0], self.times[-1] + min(last, MAX_GAP_S)

    def spans(self, name: str, camera: str) -> list[VisibleSpan]:
        """When an object is visible in a camera.

        Args:
            name: of the object.
            camera: its name.
        """
        about, end = self.tracks.cameras[camera], self.span_s()[1]
        items = self.tracks.objects[name].get(camera, ())
        return visible_spans(items, about, end)


def visible_spans(items: Sequence[TrackedMask], about: TrackedCamera, end_s: float) -> list[VisibleSpan]:
    """The entries of a track as times, neighbours of one kind joined.

    Args:
        items: in ascending order of frames.
        about: their camera.
        end_s: when the last one ends, on the first camera's clock.
    """
    starts = [about.query_time(item.time_s) for item in items]
    ends = [*starts[1:], max([end_s, *starts[-1:]])]
    spans: list[VisibleSpan] = []
    for item, start, end in zip(items, starts, ends[: len(items)], strict=True):
        state: State = (
            "unknown" if item.visibility is None else "visible" if item.mask_rle is not None else "not visible"
        )
        end = min(end, start + MAX_GAP_S)
        if spans and spans[-1].state == state and start - spans[-1].end_s < 1e-6:
            spans[-1] = VisibleSpan(spans[-1].start_s, end, state)
        else:
            spans.append(VisibleSpan(start, end, state))
    return spans


def strip_html(results: VideoResults) -> str:
    """When each object is visible in each camera, as HTML: a bar for each track, with what to check marked on it.

    Args:
        results: of the run.
    """
    first, last = results.span_s()
    whole = max(last - first, 1e-9)
    colors, rows = results.colors(), []

    def percent(seconds: float) -> str:
        return f"{100 * min(1.0, max(0.0, seconds / whole)):.2f}%"

    for name in results.names:
        for camera in results.tracks.cameras:
            spans = results.spans(name, camera)
            kinds = {"visible": "cv-visible", "not visible": "cv-hidden", "unknown": "cv-unknown"}
            bars = "".join(
                f'<i class="{kinds[s.state]}" style="left:{percent(s.start_s - first)};'
                f'width:{percent(s.end_s - s.start_s)};--cv-color:{colors[name]}" '
                f'title="{s.state} {clock(s.start_s)} to {clock(s.end_s)}"></i>'
                for s in spans
            )
            checks = [row for row in results.rows if (row.object, row.camera) == (name, camera)]
            bars += "".join(f'<b style="left:{percent(row.worst_s - first)}" title="to check"></b>' for row in checks)
            seen = ", ".join(f"{clock(s.start_s)} to {clock(s.end_s)}" for s in spans if s.state == "visible")
            about = f"{name} in {camera}: visible {seen}" if seen else f"{name} in {camera}: never visible"
            rows.append(
                f'<div class="cv-track"><span class="cv-track-name">{html.escape(name)} '
                f'<span class="cv-quiet">{html.escape(camera)}</span></span>'
                f'<div class="cv-bar" role="img" aria-label="{html.escape(about, quote=True)}">{bars}</div></div>'
            )
    legend = (
        '<p class="cv-quiet cv-legend"><i class="cv-visible"></i> visible <i class="cv-hidden"></i> not visible '
        '<i class="cv-unknown"></i> unknown <b></b> to check. Click a bar to go there.</p>'
    )
    scale = f'<div class="cv-scale cv-quiet"><span>{clock(first)}</span><span>{clock(last)}</span></div>'
    return f'<div class="cv-strip" data-first="{first}" data-last="{last}">{"".join(rows)}{scale}{legend}</div>'
