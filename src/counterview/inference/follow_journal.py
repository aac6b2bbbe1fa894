"""A run of following on disk, so that it can be killed at any moment and go on, and be corrected when it is done.

``OUT/.follow/unfinished/`` has what the run is of (``run.json``), one line for each step as the engine gave it
(``steps.jsonl``), and every few seconds of work the engine's state with the length of that file (``state.bin``). When
all steps are there and smoothed, ``results.jsonl`` has one line for each step, and the folder becomes
``OUT/.follow/finished/``. Numbers are written exactly, so that a run that was killed ends in the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from counterview.errors import AnnotationError, InputError, OutputError
from counterview.geometry.homography import Homography
from counterview.guard import library_errors
from counterview.inference.follow_step import FollowStep
from counterview.masks.rle import from_coco
from counterview.media.files import atomic_write, read_json, write_errors, write_json
from counterview.media.outputs import remove_parts
from counterview.tracking.base import Observation
from counterview.tracking.state_file import read_state, write_state
from counterview.types import ObjectMask

FOLDER = ".follow"
"""Name of the folder in the output folder."""

VERSION = 1
"""Raised when a run of this version could not go on with earlier programs."""

_RUN, _STEPS, _STATE, _RESULTS = "run.json", "steps.jsonl", "state.bin", "results.jsonl"
_ANEW = "Give another --out, or start again with --overwrite."

RunKey = Mapping[str, Any]
"""What a run is of, as plain values: ``request`` (videos and times), ``engine``, and ``objects``, which has for each
name where the object is shown."""


def step_to_json(step: FollowStep, *, is_final: bool = False) -> dict[str, Any]:
    """A step as plain values; a mask ``(H, W)`` that several objects share is there once.

    Args:
        step: the step.
        is_final: leave out what is needed to smooth it.
    """
    masks: dict[ObjectMask, int] = {}

    def number(mask: ObjectMask | None) -> int | None:
        return None if mask is None else masks.setdefault(mask, len(masks))

    seen = {
        camera: {
            name: [
                number(o.mask_rle),
                None if o.visibility is None else float(o.visibility),
                o.source,
                {reason: float(score) for reason, score in o.doubts.items()},
                [] if is_final else [[number(mask), float(value)] for mask, value in o.alternatives],
            ]
            for name, o in objects.items()
        }
        for camera, objects in step.observations.items()
    }
    motions = {
        camera: None if m is None else [m.query_to_target.tolist(), float(m.inlier_weight), float(m.inlier_fraction)]
        for camera, m in ({} if is_final else step.motions).items()
    }
    return {
        "time_s": float(step.time_s),
        "frames": {camera: [number, float(time_s)] for camera, (number, time_s) in step.frames.items()},
        "unreadable": list(step.unreadable),
        "seen": seen,
        "motions": motions,
        "masks": [mask.to_coco() for mask in masks],
    }


def step_from_json(value: Mapping[str, Any]) -> FollowStep:
    """The inverse of :func:`step_to_json`.

    Args:
        value: the plain values.

    Raises:
        MaskError: a mask ``(H, W)`` that is malformed.
    """
    masks = [from_coco(mask) for mask in value["masks"]]
    observations = {
        camera: {
            name: Observation(
                None if mask is None else masks[mask],
                visibility,
                source,
                tuple((masks[index], score) for index, score in alternatives),
                doubts,
            )
            for name, (mask, visibility, source, doubts, alternatives) in objects.items()
        }
        for camera, objects in value["seen"].items()
    }
    motions = {
        camera: None if m is None else Homography(np.array(m[0], dtype=np.float64), m[1], m[2])
        for camera, m in value["motions"].items()
    }
    frames = {camera: (int(number), float(time_s)) for camera, (number, time_s) in value["frames"].items()}
    return FollowStep(float(value["time_s"]), frames, observations, motions, tuple(value["unreadable"]))


class FollowJournal:
    """The folder ``OUT/.follow`` of one run; the output folder is locked by its command.

    Args:
        out: the output folder.

    Attributes:
        changed: names of the objects that are followed; others are as the finished run has them. ``None``: all.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.folder = Path(out) / FOLDER
        self._unfinished, self._finished = self.folder / "unfinished", self.folder / "finished"
        self.changed: frozenset[str] | None = None
        self._steps: BinaryIO | None = None

    def notes(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was noted when a run of this request was begun; ``None`` if there was no such run.

        Args:
            request: of the run, see :data:`RunKey`.
        """
        for place in (self._unfinished, self._finished):
            run = _run(place)
            if run is not None and run["key"].get("request") == _plain(request):
                return dict(run["notes"])
        return None

    def begin(self, key: RunKey, notes: Mapping[str, Any], *, overwrite: bool = False) -> bool:
        """Decide what there is to do for a run: nothing, the rest, the objects that changed, or everything.

        Args:
            key: what the run is of.
            notes: further plain values that are kept with it.
            overwrite: begin anew, whatever there is.

        Returns:
            whether anything has to be followed; :attr:`changed` says what.

        Raises:
            InputError: there is a run of something else.
            OutputError: the folder cannot be written.
        """
        wanted = _plain(key)
        if (self._unfinished / _RESULTS).exists():  # killed between its last step and its new name
            self._finish()
        unfinished, finished = _run(self._unfinished), _run(self._finished)
        is_there = self.folder.exists() and any(self.folder.iterdir())
        if overwrite and is_there:
            self._remove(self.folder)
            unfinished = finished = None
            is_there = False
        if unfinished is not None and unfinished["key"] == wanted:
            self.changed = None if unfinished["changed"] is None else frozenset(unfinished["changed"])
            return True
        if finished is not None and finished["key"] == wanted:
            self._remove(self._unfinished)
            return False
        changed = None if finished is None else _changed(finished["key"], wanted)
        if is_there and changed is None:
            what = "an unfinished run" if unfinished is not None else "a run"
            raise InputError(f"holds {what} of other settings, videos or objects", path=self.folder.parent, fix=_ANEW)
        self._remove(self._unfinished)
        self.changed = changed
        with write_errors(self._unfinished):
            self._unfinished.mkdir(parents=True)
        run = {
            "version": VERSION,
            "key": wanted,
            "notes": _plain(notes),
            "changed": None if changed is None else sorted(changed),
        }
        write_json(self._unfinished / _RUN, run)
        return True

    # -------------------------------------------------------------------------------------------- steps

    def resume(self) -> tuple[int, dict[str, Any] | None]:
        """Open the steps for writing, behind the last one that the engine's state knows.

        Returns:
            the number of steps that are done, and the engine's state after them; ``None`` if there is none.

        Raises:
            OutputError: the file cannot be written.
        """
        remove_parts(self._unfinished)
        done, length, state = 0, 0, None
        path = self._unfinished / _STEPS
        if (self._unfinished / _STATE).exists():
            try:
                saved = read_state(self._unfinished / _STATE)
                done, length, state = int(saved["steps"]), int(saved["length"]), saved["engine"]
                if path.stat().st_size < length:
                    raise InputError("is shorter than its state says", path=path)
            except (InputError, OSError, LookupError, TypeError, ValueError):
                done, length, state = 0, 0, None  # damaged: everything is followed anew
        with write_errors(path, only=True):
            self._steps = path.open("r+b" if path.exists() else "w+b")
            self._steps.truncate(length)
            self._steps.seek(length)
        self._done = done
        return done, state

    def append(self, step: FollowStep) -> None:
        """Write a step.

        Args:
            step: the next one.

        Raises:
            OutputError: the disk is full.
        """
        handle = self._opened()
        line = json.dumps(step_to_json(step), separators=(",", ":")).encode("ascii") + b"\n"
        with write_errors(self._unfinished / _STEPS, only=True):
            handle.write(line)
            handle.flush()
        self._done += 1

    def save(self, engine_state: Mapping[str, Any]) -> None:
        """Keep the engine's state after the last step: a run that is killed goes on from here.

        Args:
            engine_state: what :meth:`~counterview.tracking.base.Engine.state` gives.

        Raises:
            OutputError: the disk is full.
        """
        handle = self._opened()
        with write_errors(self._unfinished / _STEPS, only=True):
            os.fsync(handle.fileno())
        state = {"steps": self._done, "length": handle.tell(), "engine": engine_state}
        write_state(self._unfinished / _STATE, state)

    def close(self) -> None:
        """Close the file of the steps."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _opened(self) -> BinaryIO:
        if self._steps is None:
            raise AssertionError("the steps are opened by resume()")
        return self._steps

    def steps(self) -> Iterator[FollowStep]:
        """The steps so far, one by one.

        Raises:
            InputError: a line is damaged.
        """
        self.close()
        return read_steps(self._unfinished / _STEPS)

    # ------------------------------------------------------------------------------------------ results

    def finish(self, results: Iterable[FollowStep]) -> None:
        """Write the results; the run then is the finished one.

        Args:
            results: the steps, smoothed.

        Raises:
            OutputError: the disk is full.
        """
        with atomic_write(self._unfinished / _RESULTS) as handle:
            for step in results:
                text = json.dumps(step_to_json(step, is_final=True), separators=(",", ":"))
                handle.write(text.encode("ascii") + b"\n")
        self._finish()

    def _finish(self) -> None:
        self.close()
        with write_errors(self.folder):
            for name in (_STEPS, _STATE):
                (self._unfinished / name).unlink(missing_ok=True)
            self._remove(self._finished)
            self._unfinished.rename(self._finished)

    def results(self) -> Iterator[FollowStep]:
        """The steps of the finished run, smoothed, one by one.

        Raises:
            InputError: a line is damaged.
        """
        return read_steps(self._finished / _RESULTS)

    def base(self) -> list[FollowStep]:
        """The finished run's steps without the objects that change; empty if all objects are followed.

        Raises:
            InputError: a line is damaged.
        """
        if self.changed is None:
            return []
        changed = self.changed
        return [
            FollowStep(
                step.time_s,
                step.frames,
                {c: {n: o for n, o in seen.items() if n not in changed} for c, seen in step.observations.items()},
                {},
                step.unreadable,
            )
            for step in self.results()
        ]

    # ------------------------------------------------------------------------------------------ outputs

    def written(self) -> Any:
        """What :meth:`note_written` noted of the finished run; ``None`` if nothing was written since."""
        try:
            return read_json(self._finished / "written.json")
        except InputError:
            return None

    def note_written(self, what: Mapping[str, Any]) -> None:
        """Note which files show the finished run.

        Args:
            what: plain values.
        """
        write_json(self._finished / "written.json", what)

    def beside_results(self, name: str) -> Path:
        """A file that belongs to the results, and goes with them.

        Args:
            name: its name.
        """
        return self._finished / name

    def _remove(self, place: Path) -> None:
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise OutputError("is not a folder of ours", path=place, fix="Remove it, or give another --out.")
        with write_errors(place):
            shutil.rmtree(place, ignore_errors=not place.exists())


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _run(place: Path) -> dict[str, Any] | None:
    """What is noted of the run in a folder; ``None`` if there is none, or one that cannot go on."""
    try:
        run = read_json(place / _RUN)
    except InputError:
        return None
    is_ours = isinstance(run, dict) and run.get("version") == VERSION and isinstance(run.get("key"), dict)
    return run if is_ours and isinstance(run.get("notes"), dict) and "changed" in run else None


def _changed(earlier: dict[str, Any], wanted: dict[str, Any]) -> frozenset[str] | None:
    """The objects that are shown otherwise than in an earlier run; ``None`` if more than that differs."""
    before, now = (dict(key.get("objects", {})) for key in (earlier, wanted))
    rest_before, rest_now = ({k: v for k, v in key.items() if k != "objects"} for key in (earlier, wanted))
    if rest_before != rest_now or set(before) != set(now):
        return None
    return frozenset(name for name in now if before[name] != now[name])


def read_steps(path: Path) -> Iterator[FollowStep]:
    """The steps of a file, one by one.

    Args:
        path: the file.

    Raises:
        AnnotationError: a line is damaged.
    """
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                with library_errors(AnnotationError, f"line {number} is damaged", path=path):
                    step = step_from_json(json.loads(line))
            except InputError as error:
                problem = error.problem if error.path is not None else f"line {number}: {error.problem}"
                raise AnnotationError(problem, path=path, found=error.found, expected=error.expected) from None
            yield step
