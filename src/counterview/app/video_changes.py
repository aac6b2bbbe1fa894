"""What a visitor changes in the tab "Videos", and the work of following as a job."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from counterview.app.jobs import Job, JobCancelled
from counterview.app.marks import read_mark
from counterview.app.sessions import PageSession
from counterview.app.video_view import VideoView
from counterview.app.video_work import FollowOutcome
from counterview.errors import InputError, shown
from counterview.media.timeline import Clock

Change = Callable[[PageSession, VideoView, Any], object]
"""Changes the view at an event: gets the session, the view, and the event or a component's value."""


def following(session: PageSession, view: VideoView, predictor: Any) -> Callable[[Job[FollowOutcome]], FollowOutcome]:
    """The work of a job that follows; a job that is told to stop keeps what is done.

    Args:
        session: whose work it is.
        view: gets the results.
        predictor: the model.
    """

    def work(job: Job[FollowOutcome]) -> FollowOutcome:
        def report(text: str, fraction: float | None) -> None:
            job.text, job.fraction = text, fraction

        def should_stop() -> bool:
            try:
                job.check()
            except JobCancelled:
                return True
            return False

        try:
            outcome = view.work.follow(predictor, report=report, should_stop=should_stop)
            if not outcome.is_stopped:
                report("Reading the results", None)
                view.take_results(list(outcome.said))
            return outcome
        finally:
            if session.ended:  # its folder was removed while this wrote into it
                shutil.rmtree(session.folder, ignore_errors=True)

    return work


def example_videos() -> list[Path]:
    """The videos of the bundled take, the one of the ego camera first."""
    folder = Path(str(files("counterview"))) / "assets" / "take" / "takes"
    return sorted(
        folder.glob("*/frame_aligned_videos/*.mp4"), key=lambda path: (path.stem.startswith("cam"), path.stem)
    )


# ---------------------------------------------------------------------------------------------- changes of the view


def upload(session: PageSession, view: VideoView, event: Any) -> None:
    """Take an uploaded video: its ``id``."""
    found = session.uploaded(event.id)
    try:
        view.add_camera(view.work.add_video(found.path, found.name))
    finally:
        session.forget(event.id)


def marks(side: str, predictor: Any) -> Change:
    """Mark the current object in one of the videos.

    Args:
        side: ``first`` or ``second``.
        predictor: the model.
    """

    def work(session: PageSession, view: VideoView, event: Any) -> None:
        camera = view.camera_of(side)
        size_hw = view.work.cameras.source(camera).size_hw
        view.mark(camera, read_mark(event, size_hw), predictor)

    return work


def absent(side: str, predictor: Any) -> Change:
    """Say that the current object is not visible in the frame of one of the videos.

    Args:
        side: ``first`` or ``second``.
        predictor: the model.
    """
    return lambda session, view, event: view.mark(view.camera_of(side), None, predictor)


def undo(session: PageSession, view: VideoView, event: Any) -> None:
    """Take back the last mark."""
    with view.work.changed():
        view.work.objects.undo()


def camera(session: PageSession, view: VideoView, value: Any) -> None:
    """Show another camera beside the first one: its name."""
    view.work.cameras.source(str(value))
    view.other = str(value)


def time(session: PageSession, view: VideoView, event: Any) -> None:
    """Show another time: ``value`` in seconds, the visitor's ``edit`` of it."""
    if view.sliders.takes("time", event.edit):
        view.go_to(float(event.value))


def offset(session: PageSession, view: VideoView, event: Any) -> None:
    """Say when the other camera began: ``value`` in seconds, the visitor's ``edit`` of it."""
    if not view.sliders.takes("offset", event.edit):
        return
    if view.other is None:
        raise InputError("there is no other video", fix="Drop the video of another camera.")
    with view.work.changed():
        view.work.cameras.set_clock(view.other, Clock(float(event.value)))
    view.clock_changed()


def _name_at(view: VideoView, index: Any) -> str:
    names = view.work.objects.names
    if type(index) is not int or index not in range(len(names)):
        raise InputError("there is no such object", found=shown(index))
    return names[index]


def pick(session: PageSession, view: VideoView, event: Any) -> None:
    """Mark another object from now on: ``index``."""
    view.current = _name_at(view, event.index)


def rename(session: PageSession, view: VideoView, event: Any) -> None:
    """Name an object: ``index``, ``name``."""
    name = _name_at(view, event.index)
    with view.work.changed():
        new = view.work.objects.rename(name, str(event.name))
    view.renamed(name, new)


def remove(session: PageSession, view: VideoView, event: Any) -> None:
    """Forget an object: ``index``."""
    with view.work.changed():
        view.work.objects.remove(_name_at(view, event.index))
    view.work_changed()


def more(session: PageSession, view: VideoView, event: Any) -> None:
    """Begin another object."""
    with view.work.changed():
        view.current = view.work.objects.add()


def go_to(session: PageSession, view: VideoView, event: Any) -> None:
    """Show the time nearest to ``time_s`` at which objects were looked for."""
    time_s = float(event.time_s)
    view.go_to(view.results.step_near(time_s) if view.results is not None else time_s)
