"""A run of following in a folder: what goes on where it was stopped, is corrected when it is done, and is written out.

``counterview follow`` and the page in the browser do the same here, in five steps: open the folder (which pairs the
cameras), begin with a model, follow, write. Each may be asked to stop, and then goes on from where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterview import __version__
from counterview.config import to_dict
from counterview.errors import InputError, OutputError, counted
from counterview.inference.every_frame import EveryFrame
from counterview.inference.follow_journal import FollowJournal
from counterview.inference.follow_output import NAMES, collect, write_follow_files
from counterview.inference.follow_plan import DEFAULT_FPS, FollowPlan
from counterview.inference.follow_run import Progress, follow_plan, objects_of, source_identity
from counterview.inference.prompted import PromptedPredictor
from counterview.inference.track_drawing import clock
from counterview.media.outputs import OutputFolder, claim_output_folder
from counterview.media.timeline import Clock

if TYPE_CHECKING:
    import os

    from counterview.exchange.tracks import Tracks
    from counterview.inference.follow_step import FollowStep
    from counterview.inference.shown import ShownObject
    from counterview.media.frame_source import FrameSource
    from counterview.tracking.base import Engine
    from counterview.tracking.review import Review
    from counterview.tracking.tracker_config import TrackerConfig

COMMAND = "follow"
"""Whose the folder is."""


@dataclass(frozen=True)
class FollowSettings:
    """How objects are followed and what is written.

    Attributes:
        fps: steps a second.
        start_s: first second of the query camera; its first image if ``None``.
        end_s: last second; its end if ``None``.
        offsets: clocks of targets that are known.
        sync: how the clocks of the others are found, see :func:`counterview.media.sync.synchronise`.
        formats: further formats, names of :data:`counterview.exchange.FORMATS`.
        every_frame: masks also in the frames between the steps.
        paths: what the results call the files of cameras, where not by where they lie.
        share_frames: keep what does not change between two images of a camera that stands still, and how cameras
            differ in colour.
    """

    fps: float = DEFAULT_FPS
    start_s: float | None = None
    end_s: float | None = None
    offsets: Mapping[str, Clock] = field(default_factory=dict)
    sync: str = "none"
    formats: Sequence[str] = ()
    every_frame: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)
    share_frames: bool = False

    def request(self, cameras: Mapping[str, FrameSource]) -> dict[str, Any]:
        """What the steps depend on beside objects and model, as plain values.

        Args:
            cameras: by name, the query camera first.

        Raises:
            VideoError: a camera's file cannot be read.
        """
        return {
            "cameras": {c: source_identity(s) for c, s in cameras.items()},
            "fps": self.fps, "start_s": self.start_s, "end_s": self.end_s, "sync": self.sync,
            "offsets": {c: clock.offset_s for c, clock in self.offsets.items()},
        }  # fmt: skip


class FollowFolder:
    """An output folder with a run of following; made by :func:`open_follow_folder`.

    Args:
        folder: the folder, claimed.
        plan: the cameras, the objects and the steps.
        settings: how objects are followed and what is written.
        request: of the settings.
        notes: what is kept with the run: the clocks, and how they were found.
        overwrite: begin anew, whatever there is.

    Attributes:
        plan: as given.
        journal: of the run.
        is_new: whether anything has to be followed; known after :meth:`begin`.
    """

    def __init__(
        self,
        folder: OutputFolder,
        plan: FollowPlan,
        settings: FollowSettings,
        request: Mapping[str, Any],
        notes: Mapping[str, Any],
        *,
        overwrite: bool,
    ) -> None:
        self.plan, self.journal, self.is_new = plan, FollowJournal(folder.path), True
        self._folder, self._settings, self._request = folder, settings, dict(request)
        self._notes, self._overwrite = dict(notes), overwrite
        self._predictor: PromptedPredictor[Any] | None = None
        self._engine: Engine | None = None
        self._key: dict[str, Any] = {}

    def _config(self) -> TrackerConfig | None:
        from counterview.tracking.tracker_config import TrackerConfig

        return TrackerConfig(share_frames=True, keep_alignments=True) if self._settings.share_frames else None

    def begin(self, predictor: Any, *, anew: bool = False) -> bool:
        """Find out what there is to do with a model: nothing, the rest, what changed, or everything.

        Args:
            predictor: the model.
            anew: where the folder has a run of something else, follow everything anew, instead of the error.

        Returns:
            whether anything has to be followed.

        Raises:
            ConfigError: a model that nothing can be followed with.
            InputError: likewise, or there is a run of something else.
            OutputError: the folder cannot be written.
        """
        if not isinstance(predictor, PromptedPredictor):
            raise InputError("objects cannot be followed with this model", found=type(predictor).__name__)
        self._predictor = predictor
        self._engine = predictor.make_engine(list(self.plan.sources), self._config())
        self._key = {
            "request": self._request,
            "engine": self._engine.settings(),
            "prompts": predictor.prompt_settings(),
            "objects": objects_of(self.plan),
        }
        self._folder.mark(self._folder.files())  # a run that is killed leaves a folder that is known as ours
        try:
            self.is_new = self.journal.begin(self._key, self._notes, overwrite=self._overwrite)
        except OutputError:
            raise
        except InputError:
            if not anew:
                raise
            self.is_new = self.journal.begin(self._key, self._notes, overwrite=True)
        return self.is_new

    def follow(
        self, *, should_stop: Callable[[], bool] = lambda: False, progress: Progress = lambda done, total: None
    ) -> None:
        """Follow what has to be followed.

        Args:
            should_stop: asked after each step.
            progress: told of each step.

        Raises:
            StoppedError: ``should_stop`` said so.
            InputError: a prompt whose frame cannot be read, or no proposal at a point or in a box.
            OutputError: the disk is full.
        """
        if self._predictor is None or self._engine is None:
            raise AssertionError("a run begins with begin()")
        follow_plan(self._predictor, self.plan, self.journal, self._engine, should_stop=should_stop, progress=progress)

    def written(self) -> list[str] | None:
        """The summary of the files that are there, if they show the finished run and none is missing."""
        files = self._folder.files()
        noted = None if self.is_new else self.journal.written()
        if not isinstance(noted, dict) or noted.get("of") != self._wanted() or not files:
            return None
        return list(noted["said"]) if all((self._folder.path / name).is_file() for name in files) else None

    def write(self, progress: Callable[[str, int, int], object] = lambda what, done, total: None) -> list[str]:
        """Write all files of the finished run; they replace those of the run before.

        Args:
            progress: told what is done (``every frame``, then ``drawing``), and how many frames of how many are done.
                What it raises ends the work, and leaves the files of the run before.

        Returns:
            a summary, in lines for people.

        Raises:
            InputError: there is no step, or a format cannot hold the tracks.
            MissingExtraError: ``rerun`` without rerun-sdk.
            OutputError: the disk is full.
        """
        plan, journal = self.plan, self.journal
        settings = {**self._key, "every_frame": self._settings.every_frame, "version": __version__}
        steps, found, timeline, fps = journal.results, journal.results, plan.timeline, plan.fps or 1.0
        if self._settings.every_frame:
            dense = EveryFrame(plan, journal)
            settings["every_frame"] = {camera: to_dict(dense.settings(camera)) for camera in plan.sources}
            dense.run(_counting("every frame", dense.total, progress))
            steps, found, timeline = dense.steps, dense.by_camera, dense.timeline
            fps = plan.sources[plan.query].fps or fps
        named = self._settings.paths
        cameras = {name: replace(camera, path=named.get(name, camera.path)) for name, camera in plan.cameras.items()}
        tracks, review = collect(found(), cameras, plan.names, settings)
        with self._folder.replace() as staged:
            write_follow_files(
                staged, plan.sources, tracks, review, steps, fps=fps, formats=self._settings.formats,
                progress=_counting("drawing", sum(1 for _ in steps()), progress),
            )  # fmt: skip
        said = summary(tracks, review, found(), timeline.unpaired, self._notes.get("sync", {}))
        journal.note_written({"of": self._wanted(), "said": said})
        return said

    def _wanted(self) -> dict[str, Any]:
        formats = list(self._settings.formats)
        return {"formats": formats, "every_frame": self._settings.every_frame, "version": __version__}


def _counting(what: str, total: int, progress: Callable[[str, int, int], object]) -> Callable[..., None]:
    """Tells of each call, or of as many frames as it is given, how many are done."""
    done = 0

    def step(count: int = 1) -> None:
        nonlocal done
        done += count
        progress(what, done, total)

    progress(what, 0, total)
    return step


@contextmanager
def open_follow_folder(
    out: str | os.PathLike[str],
    cameras: Mapping[str, FrameSource],
    objects: Sequence[ShownObject],
    settings: FollowSettings,
    *,
    overwrite: bool = False,
) -> Iterator[FollowFolder]:
    """Hold a folder for a run, and pair its cameras; a run that goes on keeps the clocks that it found.

    Args:
        out: the folder.
        cameras: by name, the query camera first; they are closed at the end.
        objects: where they are shown.
        settings: how they are followed and what is written.
        overwrite: begin anew, and write into a folder with other files.

    Yields:
        the folder.

    Raises:
        InputError: as of :class:`~counterview.inference.follow_plan.FollowPlan`.
        VideoError: a file that cannot be read.
        OutputError: a folder with other contents, or that another run writes.
    """
    query, *targets = cameras
    request = settings.request(cameras)
    with claim_output_folder(out, COMMAND, overwrite=overwrite) as folder:
        folder.check_free(output_parts(settings.formats), {name.partition("/")[0] for name in folder.files()})
        noted = None if overwrite else FollowJournal(out).notes(request)
        clocks = {c: Clock(*values) for c, values in noted["clocks"].items()} if noted else dict(settings.offsets)
        plan = FollowPlan(
            cameras[query], {c: cameras[c] for c in targets}, objects, query_name=query, fps=settings.fps,
            start_s=settings.start_s, end_s=settings.end_s, clocks=clocks, sync=settings.sync,
        )  # fmt: skip
        notes = noted or {
            "clocks": {c: [clock.offset_s, clock.drift_ppm] for c, clock in plan.clocks.items()},
            "sync": {c: str(result) for c, result in plan.found_clocks.items()},
        }
        with plan:
            yield FollowFolder(folder, plan, settings, request, notes, overwrite=overwrite)


def output_parts(formats: Sequence[str]) -> list[str]:
    """Names of what is written, relative to the output folder: files, and a folder for each format.

    Args:
        formats: further formats.
    """
    return [*NAMES, *formats]


def output_files(out: str | os.PathLike[str], formats: Sequence[str]) -> list[Path]:
    """The files of a finished run that are there, in the order of :func:`output_parts`.

    Args:
        out: the folder.
        formats: further formats.
    """
    found: list[Path] = []
    for part in output_parts(formats):
        place = Path(out) / part
        found += [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    return found


def summary(
    tracks: Tracks,
    review: Review,
    steps: Iterable[FollowStep],
    unpaired: Mapping[str, int],
    sync: Mapping[str, str],
) -> list[str]:
    """What was found, in lines for people.

    Args:
        tracks: all that was found.
        review: what to check.
        steps: of the run.
        unpaired: camera to the number of frames of the query camera without a partner in it.
        sync: camera to how its clock was found.
    """
    rows = review.rows()
    checks = Counter((row.object, row.camera) for row in rows)
    unreadable = Counter(camera for step in steps for camera in step.unreadable)
    width = max(len(camera) for camera in tracks.cameras)
    lines = [f"{camera}: {text}" for camera, text in sync.items()]
    for name, by_camera in tracks.objects.items():
        lines.append(name)
        for camera, masks in by_camera.items():
            known = [item for item in masks if item.visibility is not None]
            visible = [item for item in known if item.mask_rle is not None]
            text = f"never visible in {counted(len(known), 'frame')}"
            if visible:
                share = f"{100 * len(visible) / len(known):.0f} %"
                first, last = clock(visible[0].time_s), clock(visible[-1].time_s)
                text = f"visible in {share} of {counted(len(known), 'frame')}, {first} to {last}"
            check = checks[name, camera]
            lines.append(f"  {camera:<{width}}  {text}" + (f", {check} to check" if check else ""))
    for camera, number in unpaired.items():
        if number:
            lines.append(f"{camera}: no frame at the time of {counted(number, 'frame')} of {tracks.query_camera}")
    for camera, number in sorted(unreadable.items()):
        lines.append(f"{camera}: {counted(number, 'frame')} cannot be read, and nothing is known of them")
    left_out = f", and {review.left_out} less doubtful ones" if review.left_out else ""
    if rows:
        lines.append(
            f"{counted(len(rows), 'place')} to check{left_out}: review.csv, the worst first; review.jpg shows them"
        )
    return lines
