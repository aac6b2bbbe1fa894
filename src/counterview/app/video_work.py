"""What a visitor does with videos, in one folder: cameras with their clocks, objects shown in them, and following.

The folder holds ``videos/``, ``work.json`` (cameras, clocks, objects, settings), ``prompts.json`` (where objects are
shown, a file of corrections as ``counterview follow`` reads it) and ``out/``, an output folder of ``counterview
follow``. Everything is written as it is done, so that the folder can be taken away and opened again at any time.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from counterview.app.limits import PageLimits
from counterview.app.marked_objects import MarkedObjects, object_name
from counterview.app.video_cameras import VideoCameras, length
from counterview.config import load_config, to_dict
from counterview.errors import ConfigError, InputError
from counterview.inference.corrections import read_corrections, write_corrections
from counterview.inference.follow_folder import FollowFolder, FollowSettings, open_follow_folder
from counterview.inference.follow_plan import DEFAULT_FPS
from counterview.inference.follow_run import StoppedError, stopped
from counterview.inference.prompted import PromptedPredictor
from counterview.inference.prompts import AnyPrompt, check_prompt
from counterview.media.files import check_name, safe_join, write_json
from counterview.media.sources import VideoFrames
from counterview.media.sync import SyncResult
from counterview.media.timeline import Clock
from counterview.types import ObjectMask

VERSION = 1
"""Raised when a folder of this version could not be opened by earlier programs."""

WORK, PROMPTS, VIDEOS, OUT = "work.json", "prompts.json", "videos", "out"
"""Names in the folder."""

KEPT_ENCODINGS = 4
"""Encoded images that are kept so that the next click is answered at once."""

Report = Callable[[str, float | None], object]
"""Is told what is done, and how much of it, 0 to 1."""


@dataclass(frozen=True)
class WorkSettings:
    """How objects are followed, and what is written.

    Attributes:
        fps: steps a second.
        start_s: first second of the first video; its beginning if ``None``.
        end_s: last second; its end if ``None``.
        every_frame: masks also between the steps.
        formats: further formats of the results.

    Raises:
        ConfigError: a rate out of range.
    """

    fps: float = DEFAULT_FPS
    start_s: float | None = None
    end_s: float | None = None
    every_frame: bool = False
    formats: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0.1 <= self.fps <= 30:
            raise ConfigError("the steps a second are out of range", found=self.fps, expected="0.1 to 30")


@dataclass(frozen=True)
class SavedWork:
    """The contents of ``work.json``.

    Attributes:
        version: of the form of the folder.
        cameras: name to file name in ``videos/``, the first one in which time counts first.
        clocks: camera to offset in seconds and drift in millionths.
        objects: their names.
        settings: how they are followed.
    """

    version: int = VERSION
    cameras: dict[str, str] = field(default_factory=dict)
    clocks: dict[str, list[float]] = field(default_factory=dict)
    objects: list[str] = field(default_factory=list)
    settings: WorkSettings = field(default_factory=WorkSettings)


@dataclass(frozen=True)
class FollowOutcome:
    """What came of following.

    Attributes:
        said: lines for people.
        is_stopped: whether it was stopped before its end.
    """

    said: Sequence[str]
    is_stopped: bool = False


class VideoWork:
    """Work with videos in one folder. Safe to use from several threads.

    Args:
        folder: of the work; it is made if need be, and opened if it holds work.
        limits: of videos.

    Attributes:
        folder: likewise.
        cameras: the videos.
        objects: where objects are shown.
        settings: how they are followed.

    Raises:
        InputError: a folder whose work is damaged, or of another version.
        VideoError: one of its videos cannot be read.
    """

    def __init__(self, folder: Path, limits: PageLimits) -> None:
        self.folder, self.settings = folder, WorkSettings()
        self.cameras, self.objects = VideoCameras(folder / VIDEOS, limits), MarkedObjects()
        self._encodings: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock, self._running, self._encoding = threading.RLock(), threading.Lock(), threading.Lock()
        if (folder / WORK).is_file():
            try:
                self._open(load_config(SavedWork, folder / WORK))
            except BaseException:
                self.close()
                raise

    def _open(self, saved: SavedWork) -> None:
        if saved.version != VERSION:
            raise ConfigError("is of another version", path=self.folder / WORK, found=saved.version, expected=VERSION)
        for name, file in saved.cameras.items():
            self.cameras.open_video(check_name(name), safe_join(self.folder / VIDEOS, check_name(file)))
        for name, values in saved.clocks.items():
            if len(values) != 2:
                raise ConfigError(f"the clock of {name} is malformed", path=self.folder / WORK, found=values)
            self.cameras.set_clock(name, Clock(*values))
        for name in saved.objects:
            self.objects.add(object_name(name))
        self.settings = saved.settings
        for item in read_corrections(self.folder / PROMPTS) if (self.folder / PROMPTS).is_file() else []:
            self.objects.check(item.object)
            source, number = self.cameras.source(item.camera), item.frame
            if number is None or number >= source.frame_count:
                raise ConfigError(f"{item.camera} has no such frame", path=self.folder / PROMPTS, found=number)
            if item.prompt is not None:
                check_prompt(item.prompt, source.size_hw, item.object)
            self.objects.prompts = {**self.objects.prompts, (item.object, item.camera, number): item.prompt}

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Hold the work while it is changed, and write what it is opened with again.

        Raises:
            OutputError: the disk is full.
        """
        with self._lock:
            yield
            saved = SavedWork(
                cameras={name: path.name for name, path in self.cameras.paths().items()},
                clocks={name: [c.offset_s, c.drift_ppm] for name, c in self.cameras.clocks().items()},
                objects=self.objects.names, settings=self.settings,
            )  # fmt: skip
            write_json(self.folder / WORK, to_dict(saved))
            write_corrections(self.folder / PROMPTS, self.objects.shown())

    @property
    def is_running(self) -> bool:
        """Whether objects are being followed."""
        return self._running.locked()

    def close(self) -> None:
        """Close all videos."""
        self.cameras.close()

    # ------------------------------------------------------------------------------------------ changes

    def add_video(self, path: Path, name: str) -> str:
        """Take a video into the folder. See :meth:`VideoCameras.add`.

        Args:
            path: where it lies; it is moved from there.
            name: as its owner calls it.

        Returns:
            the name of its camera.

        Raises:
            InputError: too many videos.
            VideoError: not a video, or a longer or larger one than may be.
        """
        with self.changed():
            return self.cameras.add(path, name)

    def find_clock(self, camera: str, method: str) -> SyncResult:
        """Find when a camera began from sounds or motions, and keep it.

        Args:
            camera: not the first one.
            method: of :func:`counterview.media.sync.synchronise`.

        Raises:
            InputError: no sound, or sounds or motions that do not belong together.
            VideoError: a video cannot be read.
        """
        try:
            found = self.cameras.find_clock(camera, method)
        except InputError as error:  # its fix names options of the command line
            raise InputError(error.problem, found=error.found, fix="Move the slider instead.") from None
        with self.changed():
            self.cameras.set_clock(camera, found.clock)
        return found

    def mark(self, name: str, camera: str, number: int, kind: str, points: Sequence[Sequence[float]]) -> None:
        """Say where an object is in a frame. See :meth:`MarkedObjects.mark`.

        Args:
            name: of the object.
            camera: which shows it.
            number: of the frame.
            kind: ``point``, ``away``, ``box`` or ``absent``.
            points: pixels.

        Raises:
            InputError: no such object, frame or camera, or marks that do not fit.
        """
        source = self.cameras.source(camera)
        if not 0 <= number < source.frame_count:
            raise InputError(f"{camera} has no such frame", found=number)
        with self.changed():
            self.objects.mark((name, camera, number), kind, points, source.size_hw)

    def set(self, **changes: Any) -> None:
        """Change settings.

        Args:
            changes: fields of :class:`WorkSettings`.

        Raises:
            ConfigError: a value out of range.
        """
        settings = replace(self.settings, **changes)
        if settings != self.settings:
            with self.changed():
                self.settings = settings

    def outline(
        self, predictor: PromptedPredictor[Any], camera: str, number: int, name: str, prompt: AnyPrompt
    ) -> ObjectMask:
        """The mask ``(H, W)`` of an object that is shown in a frame.

        Args:
            predictor: makes the proposals that points choose among, once for the image.
            camera: its name.
            number: of the frame.
            name: of the object.
            prompt: where it is.

        Raises:
            ProposalError: no proposal at a point or in a box.
            VideoError: the frame cannot be read.
        """
        return predictor.select(self.encoded(predictor, camera, number), prompt, name).mask_rle

    def encoded(self, predictor: PromptedPredictor[Any], camera: str, number: int) -> Any:
        """A frame as a model encodes it; kept, so that the next click in it is answered at once.

        Args:
            predictor: the model.
            camera: its name.
            number: of the frame.

        Raises:
            VideoError: the frame cannot be read.
        """
        key = camera, number
        with self._encoding:  # one thread looks at an image, the other then has it
            if key not in self._encodings:
                self._encodings[key] = predictor.encode_query(self.cameras.image(camera, number))
                while len(self._encodings) > KEPT_ENCODINGS:
                    self._encodings.popitem(last=False)
            return self._encodings[key]

    # ------------------------------------------------------------------------------------------ following

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.folder / OUT

    def follow(
        self,
        predictor: PromptedPredictor[Any],
        *,
        report: Report,
        should_stop: Callable[[], bool],
    ) -> FollowOutcome:
        """Follow all objects, the rest of a run that was stopped, or those that were corrected, and write the results.

        Args:
            predictor: the model.
            report: told what is done and how much of it, 0 to 1.
            should_stop: asked after each step; what is done until then is kept.

        Raises:
            InputError: no object is shown, following is under way already, or as of ``counterview follow``.
            OutputError: the disk is full.
        """
        if not self._running.acquire(blocking=False):
            raise InputError("the objects are being followed already", fix="Wait for it, or stop it.")
        try:
            with self._lock:
                shown, settings = self.objects.shown(), self.settings
                paths, clocks = self.cameras.paths(), self.cameras.clocks()
            named = {item.object for item in shown if item.prompt is not None}
            if not paths or not named:
                raise InputError("no object is shown", fix="Click an object in one of the videos.")
            wanted = FollowSettings(
                settings.fps, settings.start_s, settings.end_s, clocks, formats=settings.formats,
                every_frame=settings.every_frame, paths={name: path.name for name, path in paths.items()},
            )  # fmt: skip
            report("Pairing the videos by time", None)
            with ExitStack() as stack:
                cameras = {name: stack.enter_context(VideoFrames(path, name)) for name, path in paths.items()}
                shown = [item for item in shown if item.object in named]
                run = stack.enter_context(open_follow_folder(self.out, cameras, shown, wanted))
                return FollowOutcome(_follow(run, predictor, report, should_stop))
        except StoppedError as stop:
            text = f"{stop.problem[:1].upper()}{stop.problem[1:]}. Press Follow to go on from there."
            return FollowOutcome([text], True)
        finally:
            self._running.release()


def _follow(
    run: FollowFolder, predictor: PromptedPredictor[Any], report: Report, should_stop: Callable[[], bool]
) -> list[str]:
    """Do what there is to do, and return the summary."""
    if run.begin(predictor, anew=True):
        what = "Following"
        if run.journal.changed is not None:
            what += " again what was changed: " + ", ".join(sorted(run.journal.changed))
        run.follow(should_stop=should_stop, progress=_progress(what, "step", report))
    said = run.written()
    if said is not None:
        return said
    parts = {
        "every frame": _progress("Moving masks through every frame", "frame", report),
        "drawing": _progress("Drawing", "step", report),
    }

    def written(part: str, done: int, total: int) -> None:
        if should_stop():
            raise stopped(" while the results were drawn")
        parts[part](done, total)

    return run.write(written)


def _progress(what: str, unit: str, report: Report) -> Callable[[int, int], None]:
    """Reports how much is done and about how long the rest takes, at the pace since it began."""
    began: list[tuple[float, int]] = []

    def progress(done: int, total: int) -> None:
        now = time.monotonic()
        if not began:
            began.append((now, done))
        since, first = began[0]
        left = ""
        if done > first and done < total:
            left = f", about {length((total - done) * (now - since) / (done - first))} left"
        report(f"{what}: {unit} {done} of {total}{left}", done / total if total else None)

    return progress
