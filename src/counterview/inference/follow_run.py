"""One run of following from its plan to its results, step by step on disk, so that it can stop at any moment."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from counterview.errors import CounterviewError, InputError
from counterview.inference.follow_journal import FollowJournal
from counterview.inference.follow_step import FollowStep
from counterview.inference.following import Following, Known, smoothed
from counterview.media.frame_source import FrameSource, SourceFrame
from counterview.tracking.base import Engine, Observation
from counterview.types import ObjectMask

if TYPE_CHECKING:
    from counterview.inference.follow_plan import FollowPlan
    from counterview.inference.prompted import PromptedPredictor
    from counterview.inference.prompts import AnyPrompt
    from counterview.inference.shown import ShownObject

SAVE_EVERY_S = 5.0
"""Seconds of work after which the engine's state is saved: what is done again, at most, after a kill."""

_HEAD_BYTES = 1 << 16

Progress = Callable[[int, int], None]
"""Is told the number of steps that are done, and of all steps."""


class StoppedError(CounterviewError):
    """A run was asked to stop, and has saved what is done."""

    exit_code = 130


def stopped(where: str = "") -> StoppedError:
    """The error of a run that was stopped.

    Args:
        where: what was done until then.
    """
    return StoppedError(f"stopped{where}", fix="Run the same command again to go on.")


def follow_plan(
    predictor: PromptedPredictor[Any],
    plan: FollowPlan,
    journal: FollowJournal,
    engine: Engine,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Follow all objects, or those that changed, and leave the results in the journal.

    Args:
        predictor: the model.
        plan: what is followed.
        journal: of this run, begun; see :meth:`FollowJournal.begin`.
        engine: of the model for these cameras, as it was made.
        should_stop: asked after each step.
        progress: told of each step.

    Raises:
        StoppedError: ``should_stop`` said so.
        InputError: a prompt whose frame cannot be read, or no proposal at a point or in a box.
        OutputError: the disk is full.
    """
    base = journal.base()
    if base:
        plan.include([step.time_s for step in base])  # what was found then has a step again
    known, found = _known(base), _by_frame(base)
    run = Following.through(predictor, plan, engine, known)
    done, state = journal.resume()
    if state is not None:
        run.engine.restore(state)
    total = len(plan.timeline.steps)
    progress(done, total)
    saved = time.monotonic()
    try:
        for step in run.steps(done):
            journal.append(step)
            done += 1
            progress(done, total)
            stops = should_stop() and done < total
            if stops or done == total or time.monotonic() - saved >= SAVE_EVERY_S:
                journal.save(run.engine.state())
                saved = time.monotonic()
            if stops:
                raise stopped(f" after step {done} of {total}")
    finally:
        journal.close()
    results = smoothed(journal.steps(), run.engine)
    journal.finish(_merged(results, found, plan.names))


def _known(base: list[FollowStep]) -> Known:
    """Where objects that do not change are; where nothing is known of one, the engine says it."""
    known: dict[tuple[str, int], dict[str, ObjectMask | None]] = {}
    for (camera, number), objects in _by_frame(base).items():
        for name, seen in objects.items():
            if seen.visibility is not None:
                known.setdefault((camera, number), {})[name] = seen.mask_rle if seen.is_visible else None
    return known


def _by_frame(base: list[FollowStep]) -> dict[tuple[str, int], Mapping[str, Observation]]:
    return {
        (camera, number): step.observations.get(camera, {})
        for step in base
        for camera, (number, _) in step.frames.items()
    }


def _merged(
    steps: Iterator[FollowStep], found: Mapping[tuple[str, int], Mapping[str, Observation]], names: list[str]
) -> Iterator[FollowStep]:
    """Steps with what was found of other objects before, in the order of the names."""
    for step in steps:
        observations = {}
        for camera, (number, _) in step.frames.items():
            both = {**step.observations.get(camera, {}), **found.get((camera, number), {})}
            observations[camera] = {name: both[name] for name in names if name in both}
        yield FollowStep(step.time_s, step.frames, observations, {}, step.unreadable)


# ------------------------------------------------------------------------------------------------------ what it is of


def source_identity(source: FrameSource) -> dict[str, Any]:
    """What tells a camera's images from others, without reading them all, as plain values.

    Args:
        source: the camera.

    Raises:
        VideoError: its file cannot be read.
    """
    identity: dict[str, Any] = {
        "frames": source.frame_count,
        "duration_s": source.duration_s,
        "size_hw": list(source.size_hw),
        "numbers": hashlib.sha256(repr(list(source.numbers)[:100_000]).encode()).hexdigest()[:16],
    }
    path = source.path
    if path is not None and path.is_file():
        size = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
            handle.seek(max(0, size - _HEAD_BYTES))
            identity |= {"bytes": size, "hash": hashlib.sha256(head + handle.read(_HEAD_BYTES)).hexdigest()[:16]}
        return identity
    for _, frame in source.read_numbers(list(source.numbers)[:1]):
        if isinstance(frame, SourceFrame):
            identity["hash"] = hashlib.sha256(frame.image.tobytes()).hexdigest()[:16]
    return identity


def objects_of(plan: FollowPlan) -> dict[str, list[dict[str, Any]]]:
    """Where objects are shown, by name, as plain values.

    Args:
        plan: says it.
    """
    result: dict[str, list[dict[str, Any]]] = {name: [] for name in plan.names}
    for item in plan.objects:
        shown = {"camera": item.camera, "frame": plan.number_of(item), **_prompt(item.prompt)}
        if item.object not in result:
            raise InputError(
                f"{item.source}: {item.object!r} is said not to be visible, and is shown nowhere",
                expected="a mask, point or box of it at some time",
            )
        result[item.object].append(shown)
    return {name: sorted(items, key=lambda i: (i["frame"], i["camera"])) for name, items in result.items()}


def _prompt(prompt: AnyPrompt | None) -> dict[str, Any]:
    from counterview.inference.prompts import Box, Point, Prompt, as_box, as_point

    if prompt is None:
        return {"absent": True}
    if isinstance(prompt, ObjectMask):
        return {"mask": prompt.to_coco()}
    if isinstance(prompt, Point):
        return {"points": [[prompt.x_px, prompt.y_px]]}
    if isinstance(prompt, Box):
        return {"box": [prompt.x1_px, prompt.y1_px, prompt.x2_px, prompt.y2_px]}
    assert isinstance(prompt, Prompt)
    values: dict[str, Any] = {}
    for kind, points in (("points", prompt.points), ("background", prompt.background)):
        if points:
            values[kind] = [[p.x_px, p.y_px] for p in map(as_point, points)]
    if prompt.box is not None:
        box = as_box(prompt.box)
        values["box"] = [box.x1_px, box.y1_px, box.x2_px, box.y2_px]
    return values


def with_corrections(
    objects: Sequence[ShownObject], corrections: Sequence[ShownObject], sources: Mapping[str, FrameSource]
) -> list[ShownObject]:
    """Objects with corrections, which count where both say something of one frame.

    Args:
        objects: where they are shown.
        corrections: likewise.
        sources: the cameras by name.
    """

    def place(item: ShownObject) -> tuple[str, str, int | None]:
        number = item.frame if item.frame is not None else sources[item.camera].number_at(item.time_s or 0.0)
        return item.object, item.camera, number

    corrected = {place(item) for item in corrections}
    return [*(item for item in objects if item.camera not in sources or place(item) not in corrected), *corrections]
