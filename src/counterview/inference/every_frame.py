"""Masks in every frame: between the times at which objects were looked for, they move with the image.

Each camera is gone through once, frame by frame, and what is found is written line by line, so that a run that is
killed goes on from the last frame in which all objects were looked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from counterview.errors import InputError
from counterview.inference.follow_journal import FollowJournal, read_steps, step_from_json, step_to_json
from counterview.inference.follow_step import FollowStep
from counterview.media.files import write_errors
from counterview.media.frame_source import SourceFrame
from counterview.media.timeline import Clock, Timeline, plan_times
from counterview.tracking.base import Observation
from counterview.tracking.dense import DenseSettings, densify
from counterview.types import RgbImage

if TYPE_CHECKING:
    from counterview.inference.follow_plan import FollowPlan

MAX_LOOKAHEAD = 300
"""Frames that wait for the next time at which objects were looked for, at most."""

Keys = dict[str, list[tuple[int, Observation]]]


class EveryFrame:
    """The frames between the steps of a finished run.

    Args:
        plan: of the run.
        journal: of the run, finished.

    Attributes:
        timeline: every frame of the query camera, and what the others show then.
    """

    def __init__(self, plan: FollowPlan, journal: FollowJournal) -> None:
        self._plan, self._journal = plan, journal
        query, *others = plan.sources
        self.timeline: Timeline = plan_times(
            plan.sources[query], {c: plan.sources[c] for c in others}, plan.clocks, fps=None, start_s=plan.start_s,
            end_s=plan.end_s, query_name=query,
        )  # fmt: skip
        self._keys: dict[str, Keys] = {camera: {} for camera in plan.sources}
        self._shown: dict[str, list[int]] = {camera: [] for camera in plan.sources}
        for step in journal.results():
            for camera, (number, _) in step.frames.items():
                self._shown[camera].append(number)
                for name, seen in step.observations.get(camera, {}).items():
                    self._keys[camera].setdefault(name, []).append((number, seen))

    @property
    def total(self) -> int:
        """Number of frames of all cameras."""
        return sum(len(self._numbers(camera)) for camera in self._plan.sources)

    def _query_time(self, camera: str, number: int) -> float:
        own = self._plan.sources[camera].time_of(number)
        return self._plan.clocks.get(camera, Clock()).query_time(own)

    def _numbers(self, camera: str) -> list[int]:
        """The frames of a camera from the first step to the end of the run."""
        shown = self._shown[camera]
        if not shown:
            return []
        end = self._plan.end_s if self._plan.end_s is not None else self._plan.sources[self._plan.query].duration_s
        numbers = self._plan.sources[camera].numbers
        return [n for n in numbers if n >= shown[0] and (n <= shown[-1] or self._query_time(camera, n) <= end)]

    def _path(self, camera: str) -> Path:
        return self._journal.beside_results(f"every_frame-{list(self._plan.sources).index(camera)}.jsonl")

    def settings(self, camera: str) -> DenseSettings:
        """How masks move in a camera: enough frames wait for the next step.

        Args:
            camera: its name.
        """
        gaps = [after - before for before, after in pairwise(self._shown[camera])]
        default = DenseSettings()
        return DenseSettings(lookahead=min(MAX_LOOKAHEAD, max([default.lookahead, *(gap + 1 for gap in gaps)])))

    def run(self, progress: Callable[[int], object] = lambda frames: None) -> None:
        """Go through all cameras, or what is left of them.

        Args:
            progress: told the number of frames that were done.

        Raises:
            OutputError: the disk is full.
        """
        for camera in self._plan.sources:
            self._go_through(camera, progress)

    def _go_through(self, camera: str, progress: Callable[[int], object]) -> None:
        path, keys, numbers = self._path(camera), self._keys[camera], self._numbers(camera)
        done, length, is_finished = _what_is_done(path, keys, numbers)
        left = numbers[done:]
        progress(done)
        if is_finished:
            return
        first = left[0] if left else 0
        later = {name: [(n, seen) for n, seen in found if n >= first] for name, found in keys.items()}
        since = {name: found[0][0] for name, found in keys.items()}
        source, unreadable = self._plan.sources[camera], set[int]()

        def images() -> Iterator[tuple[int, RgbImage | None]]:
            for number, frame in source.read_numbers(left):
                if isinstance(frame, Exception):
                    unreadable.add(number)
                yield number, frame.image if isinstance(frame, SourceFrame) else None

        with write_errors(path, only=True), path.open("r+b" if path.exists() else "w+b") as handle:
            handle.truncate(length)
            handle.seek(length)
            for number, found in densify(images(), later, self.settings(camera)):
                seen = {name: found[name] for name in self._plan.names if name in found and number >= since[name]}
                step = FollowStep(
                    self._query_time(camera, number), {camera: (number, source.time_of(number))}, {camera: seen}, {},
                    (camera,) if number in unreadable else (),
                )  # fmt: skip
                handle.write(json.dumps(step_to_json(step, is_final=True), separators=(",", ":")).encode() + b"\n")
                handle.flush()
                progress(1)

    def by_camera(self) -> Iterator[FollowStep]:
        """All frames of one camera after the other, each as a step.

        Raises:
            InputError: a line is damaged.
        """
        for camera in self._plan.sources:
            yield from read_steps(self._path(camera))

    def steps(self) -> Iterator[FollowStep]:
        """All frames of the query camera, with what the others show then.

        Raises:
            InputError: a line is damaged.
        """
        streams = {camera: read_steps(self._path(camera)) for camera in self._plan.sources}
        now: dict[str, FollowStep | None] = {camera: next(stream, None) for camera, stream in streams.items()}
        for step in self.timeline.steps:
            frames: dict[str, tuple[int, float]] = {}
            observations: dict[str, Mapping[str, Observation]] = {}
            unreadable: list[str] = []
            for camera, number in step.frames.items():
                while number is not None and (at := now[camera]) is not None and at.frames[camera][0] < number:
                    now[camera] = next(streams[camera], None)
                at = now[camera]
                if number is None or at is None or at.frames[camera][0] != number:
                    continue
                frames[camera], observations[camera] = at.frames[camera], at.observations[camera]
                unreadable += at.unreadable
            if frames:
                yield FollowStep(step.time_s, frames, observations, {}, tuple(unreadable))


def _what_is_done(path: Path, keys: Keys, numbers: Sequence[int]) -> tuple[int, int, bool]:
    """The frames of a camera that an earlier run has written, their length in bytes, and whether that is all.

    A run goes on with a frame in which all objects that were shown before it were looked for: from there on, nothing
    depends on frames before.
    """
    if not path.exists():
        return 0, 0, not numbers
    at = {name: {number for number, _ in found} for name, found in keys.items()}
    first = {name: found[0][0] for name, found in keys.items()}
    count, length, done = 0, 0, (0, 0)
    with path.open("rb") as handle:
        for line in handle:
            try:
                if not line.endswith(b"\n"):
                    break
                ((number, _),) = step_from_json(json.loads(line)).frames.values()
            except (InputError, ValueError, LookupError, TypeError, AttributeError):
                break
            if count >= len(numbers) or number != numbers[count]:
                break
            if all(number in at[name] for name in at if first[name] < number):
                done = count, length
            count, length = count + 1, length + len(line)
    return (count, length, True) if count == len(numbers) else (*done, False)
