"""Cameras paired by time, never by frame number.

Each camera counts seconds after its own first image. A :class:`Clock` says what time that is for the query camera. The
steps of a :class:`Timeline` are times of the query camera, at each of them the frame that every camera shows then. A
frame is listed once, at the step that is nearest to it, however often a slow camera is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from counterview.errors import InputError
from counterview.media.frame_source import FrameResult, FrameSource

MAX_STEPS = 5_000_000
"""Steps of a timeline at most: 46 hours at 30 a second."""


@dataclass(frozen=True)
class Clock:
    """How the time of a camera and the query camera's time belong together.

    Attributes:
        offset_s: what is added to a time of this camera to get the query camera's, in seconds: the query camera's time
            at this camera's first image. Positive: this camera started later.
        drift_ppm: by how much this clock is slow, in millionths.

    Raises:
        InputError: not finite, or a clock that stands still.

    >>> Clock(offset_s=1.5).query_time(2.0), Clock(offset_s=1.5).own_time(3.5)
    (3.5, 2.0)
    """

    offset_s: float = 0.0
    drift_ppm: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.offset_s) or not abs(self.drift_ppm) < 500_000:
            raise InputError(
                "a clock is out of range", found=f"offset {self.offset_s} s, drift {self.drift_ppm} ppm",
                expected="seconds, and a drift within 500000 ppm",
            )  # fmt: skip

    def query_time(self, time_s: float) -> float:
        """The query camera's time at ``time_s`` of this camera, in seconds."""
        return self.offset_s + time_s * (1 + self.drift_ppm / 1e6)

    def own_time(self, query_time_s: float) -> float:
        """The time of this camera at ``query_time_s`` of the query camera, in seconds."""
        return (query_time_s - self.offset_s) / (1 + self.drift_ppm / 1e6)


@dataclass(frozen=True)
class TimeStep:
    """One time, and what cameras show then.

    Attributes:
        time_s: of the query camera, in seconds; that of its frame where it has a new one.
        frames: camera to the number of its frame; ``None`` where it has none, or none that was not in a step already.
    """

    time_s: float
    frames: Mapping[str, int | None]


@dataclass(frozen=True)
class Timeline:
    """The steps through several cameras.

    Attributes:
        query: name of the query camera.
        steps: in ascending order of time; at least one camera has a frame in each.
        unpaired: camera to the number of steps with a query frame at whose time the camera shows nothing, as before its
            start. A frame that was dropped inside a video is missed only when it is read.
        repeated: camera to the number of steps with a query frame at which the camera still shows a frame of another
            step.
    """

    query: str
    steps: Sequence[TimeStep]
    unpaired: Mapping[str, int]
    repeated: Mapping[str, int]

    def numbers(self, camera: str) -> list[int]:
        """The frames of a camera that are used, ascending.

        Args:
            camera: its name.
        """
        return [number for step in self.steps if (number := step.frames[camera]) is not None]

    def read(
        self, sources: Mapping[str, FrameSource], first: int = 0
    ) -> Iterator[tuple[TimeStep, dict[str, FrameResult]]]:
        """Read the images of the steps, every video in one go.

        Args:
            sources: the cameras by name.
            first: step to begin with.

        Yields:
            each step, and for each camera its frame, the error why it cannot be read, or ``None`` if it has none.
        """
        steps = self.steps[first:]
        readers = {}
        for camera, source in sources.items():
            wanted = [number for step in steps if (number := step.frames[camera]) is not None]
            readers[camera] = source.read_numbers(wanted)
        for step in steps:
            yield step, {c: None if step.frames[c] is None else next(readers[c])[1] for c in sources}


def plan_times(
    query: FrameSource,
    targets: Mapping[str, FrameSource],
    clocks: Mapping[str, Clock] | None = None,
    *,
    fps: float | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    query_name: str | None = None,
    also_s: Sequence[float] = (),
) -> Timeline:
    """The steps through a query camera and its targets.

    Args:
        query: the camera whose time counts.
        targets: the other cameras by name.
        clocks: of targets by name; those without one have the query camera's time.
        fps: steps a second, counted from ``start_s``; every frame of the query camera if ``None``.
        start_s: first time, of the query camera; its first image if ``None``.
        end_s: last time, itself included; its end if ``None``.
        query_name: name of the query camera in the steps; the source's own if not given.
        also_s: further times, of the query camera, that are steps of their own.

    Raises:
        InputError: a target that has no time in common with the query camera, an offset beyond its end, a start after
            the end or outside the video, a rate that is not positive, a name that is there twice or unknown.
    """
    name = query.name if query_name is None else query_name
    clocks = clocks or {}
    if name in targets:
        raise InputError("two cameras have the same name", found=name, fix="Give one of them another name.")
    if unknown := sorted(set(clocks) - set(targets)):
        raise InputError("an offset of a camera that is not there", found=unknown[0], expected=", ".join(targets))
    first_s, last_s = _span(query, start_s, end_s)
    nominal = _nominal_times(query, fps, first_s, last_s)
    nominal = sorted({*nominal, *(time for time in also_s if first_s <= time <= last_s)})
    own = _once([query.number_at(time) for time in nominal], nominal, query)
    times = [time if number is None else query.time_of(number) for time, number in zip(nominal, own, strict=True)]
    frames: dict[str, list[int | None]] = {name: own}
    unpaired, repeated = {}, {}
    for camera, target in targets.items():
        clock = clocks.get(camera, Clock())
        there = [clock.own_time(time) for time in times]
        shown = [target.number_at(time) for time in there]
        if not any(number is not None for number in shown):
            raise _nothing_common(query, camera, target, clock, nominal)
        frames[camera] = _once(shown, there, target)
        asked = [place for place, number in enumerate(own) if number is not None]
        unpaired[camera] = sum(shown[place] is None for place in asked)
        repeated[camera] = sum(frames[camera][place] is None for place in asked) - unpaired[camera]
    steps = [
        TimeStep(time, dict(zip(frames, numbers, strict=True)))
        for time, *numbers in zip(times, *frames.values(), strict=True)
        if any(number is not None for number in numbers)
    ]
    return Timeline(name, steps, unpaired, repeated)


def _span(query: FrameSource, start_s: float | None, end_s: float | None) -> tuple[float, float]:
    """First and last time of the query camera, checked."""
    start, end = start_s if start_s is not None else 0.0, end_s if end_s is not None else query.duration_s
    span = f"0 to {query.duration_s:.3f} s"
    if not (math.isfinite(start) and math.isfinite(end)):
        raise InputError("a start or an end is not a time", found=f"{start} to {end}", expected=span)
    if start >= query.duration_s or start < 0:
        raise InputError("the start is outside the video", path=query.path, found=f"{start:g} s", expected=span)
    if start > end:
        raise InputError("the start is after the end", path=query.path, found=f"{start:g} to {end:g} s", expected=span)
    return start, min(end, query.duration_s)


def _nominal_times(query: FrameSource, fps: float | None, start: float, end: float) -> list[float]:
    """The times, of the query camera, at which frames are looked for."""
    if fps is None:
        times = [time for number in query.numbers if start <= (time := query.time_of(number)) <= end]
    elif not (math.isfinite(fps) and fps > 0):
        raise InputError("the steps a second are not positive", found=fps, expected="a number above 0, such as 2")
    else:
        count = (end - start) * fps
        if count > MAX_STEPS:
            raise InputError("there are too many steps", found=f"{count:.0f}", expected=f"at most {MAX_STEPS}")
        # At the very end of a video its last image has been shown: it has no step of its own there.
        times = [start + n / fps for n in range(math.floor(count + 1e-9) + 1)]
        times = [time for time in times if time < query.duration_s or time == start]
    if not times:
        raise InputError(
            "has no frame between the start and the end", path=query.path, found=f"{start:g} to {end:g} s",
            expected=f"frames within 0 to {query.duration_s:.3f} s",
        )  # fmt: skip
    return times


def _once(shown: Sequence[int | None], times: Sequence[float], source: FrameSource) -> list[int | None]:
    """Keep each number at the time nearest to its frame alone, the earlier one of two."""
    kept: list[int | None] = [None] * len(shown)
    place = 0
    while place < len(shown):
        number, after = shown[place], place + 1
        while after < len(shown) and shown[after] == number:
            after += 1
        if number is not None:
            when = source.time_of(number)
            kept[min(range(place, after), key=lambda at: abs(times[at] - when))] = number
        place = after
    return kept


def _nothing_common(
    query: FrameSource, camera: str, target: FrameSource, clock: Clock, times: Sequence[float]
) -> InputError:
    """The error that a target shows nothing at the times of the query camera."""
    first, last = clock.query_time(0.0), clock.query_time(target.duration_s)
    moved = clock.offset_s != 0 and (first >= query.duration_s or last <= 0)
    problem = "the offset lies beyond the end of" if moved else "has no time in common with"
    return InputError(
        f"camera {camera}: {problem} {query.name}", path=target.path,
        found=f"{camera} lasts from {first:.3f} to {last:.3f} s of {query.name}'s time",
        expected=f"frames from {times[0]:.3f} to {times[-1]:.3f} s",
        fix=f"Correct --offset {camera}=SECONDS: {camera}'s time + offset = {query.name}'s time.",
    )  # fmt: skip
