"""What is followed through which cameras at which times: checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from counterview.data.sources import open_source
from counterview.errors import InputError, shown
from counterview.exchange.tracks import TrackedCamera
from counterview.inference.prompts import check_prompt
from counterview.inference.shown import ShownLike, ShownObject, shown_objects
from counterview.media.frame_source import FrameSource
from counterview.media.sync import SyncResult, synchronise
from counterview.media.timeline import Clock, plan_times

if TYPE_CHECKING:
    import os

DEFAULT_FPS = 2.0
"""Steps a second."""


class FollowPlan:
    """The cameras, where objects are shown in them, and the steps of a run.

    Args:
        query: the camera in which objects are shown.
        targets: the other cameras, by name; without any, objects are followed in their own camera.
        objects: where they are shown, in any camera.
        query_name: name of the query camera; its source's if not given.
        fps: steps a second; ``None``: every frame of the query camera.
        start_s: first time, on the query camera's clock.
        end_s: last time.
        clocks: of targets; those without one are found as ``sync`` says.
        sync: ``none``, ``audio``, ``motion`` or ``auto``, see :func:`counterview.media.sync.synchronise`.

    Attributes:
        query: name of the query camera.
        sources: the cameras by name, the query camera first.
        clocks: of targets.
        found_clocks: of targets, how their clocks were found.
        objects: where they are shown.
        timeline: the steps.

    Raises:
        InputError: a target that is the query camera, no time in common, an object shown outside the image or at a time
            without a frame, two different prompts of one object at one time, or an offset beyond the end.
        MaskError: a mask of another size than its image, or an empty one.
        VideoError: a file that is not a video.
    """

    def __init__(
        self,
        query: str | os.PathLike[str] | FrameSource,
        targets: Mapping[str, str | os.PathLike[str] | FrameSource],
        objects: Sequence[ShownObject] | Mapping[str, ShownLike],
        *,
        query_name: str | None = None,
        fps: float | None = DEFAULT_FPS,
        start_s: float | None = None,
        end_s: float | None = None,
        clocks: Mapping[str, Clock] | None = None,
        sync: str = "none",
    ) -> None:
        source = open_source(query)
        self.query = source.name if query_name is None else query_name
        self.sources: dict[str, FrameSource] = {self.query: source}
        for name, target in targets.items():
            opened = open_source(target)
            self._check_target(name, opened)
            self.sources[name] = opened
        self.objects = list(objects if isinstance(objects, Sequence) else shown_objects(objects, self.query))
        self._check_objects()
        known = dict(clocks or {})
        others = {name: s for name, s in self.sources.items() if name != self.query}
        if unknown := sorted(set(known) - set(others)):
            raise InputError("an offset of a camera that is not there", found=unknown[0], expected=", ".join(others))
        self.found_clocks: dict[str, SyncResult] = {}
        for name, other in others.items():
            if name not in known and sync != "none":
                self.found_clocks[name] = synchronise(source, other, sync)
                known[name] = self.found_clocks[name].clock
        self.clocks = {name: known.get(name, Clock()) for name in others}
        self.fps, self.start_s, self.end_s = fps, start_s, end_s
        self.include(())

    def include(self, times: Sequence[float]) -> None:
        """Make further times steps of their own.

        Args:
            times: on the query camera's clock, in seconds.

        Raises:
            InputError: an object is shown outside what is followed.
        """
        others = {name: s for name, s in self.sources.items() if name != self.query}
        self.timeline = plan_times(
            self.sources[self.query], others, self.clocks, fps=self.fps, start_s=self.start_s, end_s=self.end_s,
            query_name=self.query, also_s=[*self._shown_at(), *times],
        )  # fmt: skip
        self._shown = self._by_step()

    # ------------------------------------------------------------------------------------------ checks

    def _check_target(self, name: str, target: FrameSource) -> None:
        if name in self.sources:
            raise InputError("two cameras have the same name", found=shown(name), fix="Give one of them another name.")
        for other, source in self.sources.items():
            if target.path is not None and source.path is not None and same_images(target, source):
                what = "the query" if other == self.query else "another target"
                raise InputError(f"the target {name} is {what}", path=target.path, fix="Give another video.")

    def _check_objects(self) -> None:
        if not any(item.prompt is not None for item in self.objects):
            raise InputError("no object was given", expected="at least one mask, point or box")
        places: dict[tuple[str, str, int], ShownObject] = {}
        kept = []
        for item in self.objects:
            if item.camera not in self.sources:
                known = ", ".join(self.sources)
                raise InputError(f"{item.source}: no such camera", found=shown(item.camera), expected=known)
            if item.prompt is not None:
                check_prompt(item.prompt, self.sources[item.camera].size_hw, item.object)
            number = self.number_of(item)
            earlier = places.setdefault((item.object, item.camera, number), item)
            if earlier is item:
                kept.append(item)
            elif earlier.prompt != item.prompt:
                when = self.sources[item.camera].time_of(number)
                raise InputError(
                    f"{item.source}: {shown(item.object)} is shown twice at one time, in two places",
                    found=f"frame {number} of {item.camera}, {when:.3f} s", expected="one prompt for each time",
                    fix="Give the objects different names, or remove one prompt.",
                )  # fmt: skip
        self.objects = kept

    def number_of(self, item: ShownObject) -> int:
        """The frame of its camera in which an object is shown.

        Args:
            item: says the frame, or the time.

        Raises:
            InputError: there is no frame.
        """
        source = self.sources[item.camera]
        number = item.frame if item.frame is not None else source.number_at(item.time_s or 0.0)
        if number is None or number >= source.frame_count:
            when = f"{item.time_s:g} s" if item.frame is None else f"frame {item.frame}"
            raise InputError(
                f"{item.source}: {shown(item.object)} is shown at a time without a frame", path=source.path,
                found=when, expected=f"a time from 0 to {source.duration_s:.3f} s, {source.frame_count} frames",
            )  # fmt: skip
        return number

    def _shown_at(self) -> list[float]:
        """The times at which objects are shown, on the query camera's clock: each is a step of its own."""
        times = []
        for item in self.objects:
            own = self.sources[item.camera].time_of(self.number_of(item))
            times.append(own if item.camera == self.query else self.clocks[item.camera].query_time(own))
        return times

    def _by_step(self) -> dict[int, list[ShownObject]]:
        steps = {
            (camera, number): index
            for index, step in enumerate(self.timeline.steps)
            for camera, number in step.frames.items()
            if number is not None
        }
        result: dict[int, list[ShownObject]] = {}
        for item in self.objects:
            place = item.camera, self.number_of(item)
            if place not in steps:
                raise InputError(
                    f"{item.source}: {shown(item.object)} is shown outside what is followed",
                    found=f"frame {place[1]} of {place[0]}", expected="a time between the start and the end",
                )  # fmt: skip
            result.setdefault(steps[place], []).append(item)
        return result

    # ------------------------------------------------------------------------------------------ contents

    def shown_in(self, step: int) -> Sequence[ShownObject]:
        """The objects that are shown, or corrected, in a step.

        Args:
            step: its number.
        """
        return self._shown.get(step, [])

    @property
    def names(self) -> list[str]:
        """Names of the objects, in the order in which they were given."""
        return list(dict.fromkeys(item.object for item in self.objects if item.prompt is not None))

    @property
    def cameras(self) -> dict[str, TrackedCamera]:
        """The cameras as results have them."""
        result = {}
        for name, source in self.sources.items():
            clock = self.clocks.get(name, Clock())
            path = None if source.path is None else str(source.path)
            result[name] = TrackedCamera(path, source.size_hw, source.fps, clock.offset_s, clock.drift_ppm)
        return result

    def close(self) -> None:
        """Close all sources."""
        for source in self.sources.values():
            source.close()

    def __enter__(self) -> FollowPlan:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def same_images(one: FrameSource, other: FrameSource) -> bool:
    """Whether two sources are one; cameras of a prepared take share a folder, and differ in name.

    Args:
        one: a source.
        other: another one.
    """
    if one.path is None or other.path is None:
        return False
    try:
        same = one.path.samefile(other.path)
    except OSError:
        same = one.path == other.path
    return same and (one.path.is_file() or one.name == other.name)
