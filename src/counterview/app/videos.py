"""The tab "Videos": show objects once, follow them through all videos, check and mend what was found."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterview.app import video_changes as changes
from counterview.app.canvas import Tool, canvas_message, image_canvas
from counterview.app.context import IMAGES, VIDEOS
from counterview.app.events import listen, progress
from counterview.app.messages import STOPPING, error_line, note_line
from counterview.app.scripted import OBJECTS_JS, scripted, slider
from counterview.app.video_cameras import length
from counterview.app.video_changes import example_videos, following
from counterview.app.video_outlines import VideoOutlines
from counterview.app.video_output import objects_value, results_value
from counterview.app.video_parts import OPENER_JS, RESULTS_JS, steps_html
from counterview.app.video_view import VideoView
from counterview.app.video_work import VideoWork
from counterview.app.work_archive import read_archive
from counterview.errors import CounterviewError, InputError
from counterview.exchange.formats import FORMATS

if TYPE_CHECKING:
    import gradio as gr

    from counterview.app.context import PageContext
    from counterview.app.jobs import Job
    from counterview.app.sessions import PageSession

TAB, FOLLOW, WORK = "videos", "follow", "work"
FORMAT_NAMES = tuple(name for name in FORMATS if name not in ("tracks", "rerun"))

_TOOLS: tuple[Tool, ...] = ("point", "away", "box", "brush", "erase")


def build_tab(context: PageContext) -> None:
    """Build the tab.

    Args:
        context: what the tabs share.
    """
    VideosTab(context).build()


class VideosTab:
    """The tab: its parts, and what happens when they are used.

    Args:
        context: what the tabs share.
    """

    def __init__(self, context: PageContext) -> None:
        self.context = context

    def build(self) -> None:
        """Build the tab inside ``gr.Tabs``."""
        import gradio as gr

        buttons: dict[str, gr.Button] = {}
        limits = self.context.limits.said("video")
        with gr.Tab("Videos", id=TAB):
            gr.HTML(steps_html(), apply_default_css=False)
            self.opener = scripted("", OPENER_JS, "cv-video-opener")
            with gr.Row(equal_height=False):
                with gr.Column(min_width=330):
                    self.first = image_canvas(
                        label="First video", empty="1. Drop the video that shows the object.", limits=limits,
                        tools=_TOOLS, kind="video", other="Add a video", elem_id="cv-first",
                    )  # fmt: skip
                    buttons["first absent"] = gr.Button(
                        "Not visible here", size="sm", visible=False, elem_id="cv-first-absent"
                    )
                with gr.Column(min_width=330):
                    self.second = image_canvas(
                        label="Other video", empty="2. Drop the video of another camera.", limits=limits, tools=_TOOLS,
                        kind="video", other="Add a video", elem_id="cv-second",
                    )  # fmt: skip
                    buttons["second absent"] = gr.Button(
                        "Not visible here", size="sm", visible=False, elem_id="cv-second-absent"
                    )
                    self.camera = gr.Radio([], label="Other video", visible=False, elem_id="cv-camera")
            with gr.Column(visible=False) as self.controls:  # nothing to be done without a video
                with gr.Row(equal_height=True, elem_classes="cv-time"):
                    with gr.Column(scale=8, min_width=320):
                        self.time = slider("Time of the first video (s)", "cv-time")
                    buttons["back"] = gr.Button("◀ frame", size="sm", elem_id="cv-back", scale=1, min_width=90)
                    buttons["forth"] = gr.Button("frame ▶", size="sm", elem_id="cv-forth", scale=1, min_width=90)
                with gr.Accordion("When did the other video begin?", open=False, elem_id="cv-clock"):
                    self.offset = slider("Seconds after the first one; below 0 before it", "cv-offset")
                    with gr.Row():
                        buttons["by sound"] = gr.Button("Find by sound", size="sm", elem_id="cv-by-sound")
                        buttons["by motion"] = gr.Button("Find by what moves", size="sm", elem_id="cv-by-motion")
                    self.clock = gr.HTML("", apply_default_css=False, elem_id="cv-clock-status")
                self.objects = scripted('{"objects": []}', OBJECTS_JS, "cv-video-objects")
                with gr.Accordion("Settings and formats", open=False, elem_id="cv-settings"):
                    with gr.Row():
                        self.fps = gr.Slider(
                            0.5, 10, 2, step=0.5, label="Times a second that objects are looked for", elem_id="cv-fps"
                        )
                        self.start = gr.Number(None, label="First second (empty: the beginning)", minimum=0)
                        self.end = gr.Number(None, label="Last second (empty: the end)", minimum=0, elem_id="cv-end")
                    self.every_frame = gr.Checkbox(False, label="Masks in every frame (takes longer)")
                    self.formats = gr.CheckboxGroup(list(FORMAT_NAMES), label="Write also as", elem_id="cv-formats")
                with gr.Row(elem_classes="cv-actions"):
                    buttons["follow"] = gr.Button(
                        "Follow", variant="primary", elem_id="cv-follow", scale=2, min_width=120
                    )
                    buttons["stop"] = gr.Button("Stop", elem_id="cv-follow-stop", scale=1, min_width=80)
                self.status = gr.HTML("", apply_default_css=False, elem_id="cv-follow-status")
                self.results = scripted("{}", RESULTS_JS, "cv-results")
            self._settings = [self.fps, self.start, self.end, self.every_frame, self.formats]
            self._every = [
                self.opener, self.first, self.second, self.camera, self.time, self.offset, self.clock, self.objects,
                *self._settings, self.status, self.results, self.controls, buttons["first absent"],
                buttons["second absent"],
            ]  # fmt: skip
            self.outlines = VideoOutlines(self.context, self.first, self.second, self.objects)
            self._absent = buttons["first absent"], buttons["second absent"]
            self._connect(buttons)

    def _connect(self, buttons: Mapping[str, gr.Button]) -> None:
        first, second, status = self.first, self.second, self.status
        predictor = self.context.predictor
        listen(self.context, self.opener.example, self.example, None, self._every)
        listen(self.context, self.opener.open, self.open, None, self._every)
        self._on(self.opener.clear, lambda session, view, _: view.clear(), "all", where=self.opener)
        for canvas, side in ((first, "first"), (second, "second")):
            self._on(canvas.upload, changes.upload, "all", where=canvas)
            self._on(canvas.mark, changes.marks(side, predictor), side, "objects", "results", where=canvas)
            self._on(canvas.undo, changes.undo, "first", "second", "objects", "results", where=canvas)
            absent = buttons[f"{side} absent"].click
            self._on(absent, changes.absent(side, predictor), side, "objects", "results", where=canvas)
        self._on(self.time.set, changes.time, "time", "first", "second")
        self._on(buttons["back"].click, lambda s, view, _: view.step(-1), "first", "second", "time")
        self._on(buttons["forth"].click, lambda s, view, _: view.step(1), "first", "second", "time")
        self._on(self.camera.input, changes.camera, "second", "clock", value=self.camera)
        self._on(self.offset.set, changes.offset, "clock", "second", "results", where=self.clock)
        self._on(self.objects.pick, changes.pick, "objects", "first", "second")
        self._on(self.objects.rename, changes.rename, "objects", "first", "second", "results")
        self._on(self.objects.remove, changes.remove, "objects", "first", "second", "results")
        self._on(self.objects.more, changes.more, "objects", "first", "second")
        self._on(self.results.choose, lambda s, view, event: view.go_to_row(event.index), "time", "first", "second",
                 "camera", "clock", "objects", "results")  # fmt: skip
        self._on(self.results.time, changes.go_to, "time", "first", "second", where=status)
        for name, method in (("by sound", "audio"), ("by motion", "motion")):
            listen(self.context, buttons[name].click, self._clock_finder(method), None, self._every)
        listen(self.context, self.time.rest, self.prepare)
        listen(self.context, buttons["follow"].click, self.follow, self._settings, self._every)
        listen(self.context, buttons["stop"].click, self.stop, None, status, waits=False)

    # ------------------------------------------------------------------------------------------ what happens

    def _view(self, request: Any) -> tuple[PageSession, VideoView]:
        session = self.context.session(request)
        return session, session.kept(TAB, lambda: VideoView(VideoWork(session.place(WORK, "x").parent, session.limits)))

    def _on(self, event: Any, work: changes.Change, *parts: str, where: Any = None, value: Any = None) -> None:
        """Change the view at an event, and show the parts that changed; an error is shown at ``where``."""
        place = self.status if where is None else where

        async def act(request: Any, given: Any) -> AsyncIterator[dict[Any, Any]]:
            session, view = None, None
            try:
                session, view = self._view(request)

                def run() -> dict[Any, Any]:
                    with session.lock:
                        view.refused.clear()
                        work(session, view, given)
                        return self._show(session, view, *parts)

                yield await asyncio.to_thread(run)
                async for update in self.outlines.find(session, view):
                    yield update
                if "all" in parts:
                    await self.prepare(request)
            except Exception as error:
                yield await asyncio.to_thread(self._refuse, session, view, place, error)

        if value is None:

            async def handler(request: Any, event: Any) -> AsyncIterator[dict[Any, Any]]:
                async for update in act(request, event):
                    yield update

            listen(self.context, event, handler, None, self._every)
            return

        async def handler_of_value(given: Any, request: Any) -> AsyncIterator[dict[Any, Any]]:
            async for update in act(request, given):
                yield update

        listen(self.context, event, handler_of_value, [value], self._every, newest=True)

    def _refuse(
        self, session: PageSession | None, view: VideoView | None, place: Any, error: BaseException
    ) -> dict[Any, Any]:
        """Say where it happened what went wrong, so that an outline that ends now does not hide it."""
        line = error_line(error, session)
        if place is not self.first and place is not self.second:
            return {place: line}
        camera = None if view is None else view.first if place is self.first else view.other
        if session is None or view is None or camera is None:
            return {place: canvas_message(line)}
        with session.lock:
            view.version += 1
            view.refused[camera] = line
            return {place: canvas_message(line, version=view.version)}

    async def prepare(self, request: Any) -> None:
        """Look at the frames that are shown before they are clicked. Nobody waits for this, so no error is shown.

        Args:
            request: of the visitor.
        """
        with suppress(CounterviewError):
            session, view = self._view(request)
            wanted = [(c, n) for c in (view.first, view.other) if c is not None and (n := view.number(c)) is not None]

            def work(job: Job[None]) -> None:
                for camera, number in wanted:
                    job.check()
                    view.work.encoded(self.context.predictor, camera, number)

            self.context.jobs.submit(IMAGES, session, "prepare", work)

    # ------------------------------------------------------------------------------------------ videos

    async def example(self, request: Any) -> AsyncIterator[dict[Any, Any]]:
        """Take the bundled videos.

        Args:
            request: of the visitor.

        Yields:
            new values of the tab's parts.
        """
        session = None
        try:
            session, view = self._view(request)

            def run() -> dict[Any, Any]:
                with session.lock:
                    view.clear()
                    for path in example_videos():
                        copy = Path(shutil.copy(path, session.place(WORK, f"{path.stem}.copy.mp4")))
                        view.work.add_video(copy, path.name)
                    view.work_changed()
                    return self._show(session, view, "all")

            yield await asyncio.to_thread(run)
            await self.prepare(request)
        except Exception as error:
            yield {self.opener: error_line(error, session)}

    async def open(self, request: Any, event: Any) -> AsyncIterator[dict[Any, Any]]:
        """Open work that was taken away. Arguments and results: :meth:`example`, with the upload's ``id``."""
        session = None
        try:
            session, view = self._view(request)

            def run() -> dict[Any, Any]:
                upload = session.uploaded(event.id)
                place = session.place("opened", secrets.token_hex(8), "x").parent
                try:
                    room = int(session.limits.session_mb * 1e6) - session.held_bytes()
                    read_archive(upload.path, place, room)
                    VideoWork(place, session.limits).close()  # an error, if anything of it is damaged
                    with session.lock:
                        view.replace_work(place)
                        return {**self._show(session, view, "all"), self.opener: note_line(f"Opened {upload.name}.")}
                except CounterviewError as error:
                    if error.path == str(upload.path):
                        error.path = upload.name
                    raise
                finally:
                    session.forget(event.id)
                    shutil.rmtree(place, ignore_errors=True)

            yield await asyncio.to_thread(run)
            async for update in self.outlines.find(session, view):
                yield update
        except Exception as error:  # the id makes a new value of the same words, which is drawn again
            yield {self.opener: f"{error_line(error, session)}<!--{event.id}-->"}

    def _clock_finder(self, method: str) -> Callable[..., AsyncIterator[dict[Any, Any]]]:
        """What finds when the other video began."""

        async def find(request: Any) -> AsyncIterator[dict[Any, Any]]:
            session = None
            try:
                session, view = self._view(request)
                camera = view.other
                if camera is None:
                    raise InputError("there is no other video", fix="Drop the video of another camera.")

                def work(job: Job[str]) -> str:
                    job.report("Listening to both videos" if method == "audio" else "Watching what moves in both")
                    return str(view.work.find_clock(camera, method))

                job = self.context.jobs.submit(VIDEOS, session, "clock", work)
                async for line in progress(self.context, session, job):
                    yield {self.clock: line}
                if job.is_replaced:
                    return
                found = job.wait(0)
                view.clock_changed()
                yield {**self._show(session, view, "second", "clock", "results"), self.clock: note_line(found)}
            except Exception as error:
                yield {self.clock: error_line(error, session)}

        return find

    # ------------------------------------------------------------------------------------------ following

    async def follow(
        self, fps: Any, start: Any, end: Any, every_frame: Any, formats: Any, request: Any
    ) -> AsyncIterator[dict[Any, Any]]:
        """Follow the objects, and show what was found.

        Args:
            fps: steps a second.
            start: first second, or ``None``.
            end: last second, or ``None``.
            every_frame: whether masks are wanted in every frame.
            formats: names of further formats.
            request: of the visitor.

        Yields:
            new values of the tab's parts.
        """
        session = None
        try:
            session, view = self._view(request)
            wanted = [name for name in FORMAT_NAMES if name in (formats or [])]
            view.refused.clear()
            view.work.set(fps=float(fps), start_s=start, end_s=end, every_frame=bool(every_frame), formats=wanted)
            job = self.context.jobs.submit(VIDEOS, session, FOLLOW, following(session, view, self.context.predictor))
            async for line in progress(self.context, session, job):
                yield {self.status: line}
            if job.is_replaced:
                return
            outcome = job.wait(0)
            if outcome.is_stopped:
                yield {self.status: note_line(" ".join(outcome.said))}
                return
            took = note_line(f"Done in {length(job.seconds)}.")
            yield {**await asyncio.to_thread(self._show, session, view, "first", "second", "objects", "results"),
                   self.status: took}  # fmt: skip
        except Exception as error:
            yield {self.status: error_line(error, session)}

    def stop(self, request: Any) -> str:
        """Stop following. What is done until then is kept.

        Args:
            request: of the visitor.

        Returns:
            HTML for the status line.
        """
        try:
            told = self.context.jobs.cancel(self.context.session(request), FOLLOW)
        except Exception as error:
            return error_line(error)
        return note_line(STOPPING if told else "Nothing is being followed.")

    # ------------------------------------------------------------------------------------------ what is shown

    def _show(self, session: PageSession, view: VideoView, *parts: str) -> dict[Any, Any]:
        """New values of parts of the tab."""
        with session.lock:
            view.version += 1
            return self._values(session, view, set(parts))

    def _values(self, session: PageSession, view: VideoView, wanted: set[str]) -> dict[Any, Any]:
        import gradio as gr

        if "all" in wanted:
            wanted = {"opener", "first", "second", "time", "camera", "clock", "objects", "settings", "results"}
        values: dict[Any, Any] = {self.status: ""}
        others = view.work.cameras.names[1:]
        if "opener" in wanted:
            values[self.opener] = ""
            values[self.controls] = gr.Column(visible=bool(view.work.cameras.names))
            for button, camera in zip(self._absent, (view.first, view.other), strict=True):
                values[button] = gr.Button(visible=camera is not None)
        if "first" in wanted:
            values[self.first] = view.canvas(view.first)
        if "second" in wanted:
            values[self.second] = view.canvas(view.other)
        if "time" in wanted:
            values[self.time] = view.sliders.value("time", 0, view.work.cameras.duration_s, view.time_s, view.version)
        if "camera" in wanted:
            values[self.camera] = gr.Radio(others, value=view.other, visible=len(others) > 1)
        if "clock" in wanted and view.other is not None:
            limit = max(60.0, view.work.cameras.duration_s)
            offset = view.work.cameras.clock(view.other).offset_s
            values[self.offset] = view.sliders.value("offset", -limit, limit, offset, view.version)
            values[self.clock] = ""
        if "objects" in wanted:
            values[self.objects] = objects_value(view)
        if "settings" in wanted:
            settings = view.work.settings
            values |= dict(zip(self._settings, (settings.fps, settings.start_s, settings.end_s, settings.every_frame,
                                                list(settings.formats)), strict=True))  # fmt: skip
        if "results" in wanted:
            values[self.results] = results_value(session, view)
        return values
