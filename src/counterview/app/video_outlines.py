"""Outline what is marked in the videos that are shown, while the visitor goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from counterview.app.canvas import canvas_message
from counterview.app.context import IMAGES
from counterview.app.events import progress
from counterview.app.messages import error_line
from counterview.app.video_output import objects_value

if TYPE_CHECKING:
    import gradio as gr

    from counterview.app.context import PageContext
    from counterview.app.jobs import Job
    from counterview.app.sessions import PageSession
    from counterview.app.video_view import VideoView


class VideoOutlines:
    """Finds the masks of what is marked, as jobs: one at a time for a video, which takes what is marked meanwhile.

    Args:
        context: what the tabs share.
        first: shows the first video.
        second: shows the other one.
        objects: lists the objects.
    """

    def __init__(self, context: PageContext, first: gr.HTML, second: gr.HTML, objects: gr.HTML) -> None:
        self._context, self._first, self._second, self._objects = context, first, second, objects

    async def find(self, session: PageSession, view: VideoView) -> AsyncIterator[dict[Any, Any]]:
        """Find the masks that are missing in the frames that are shown.

        Args:
            session: whose jobs they are.
            view: gets the masks.

        Yields:
            new values of the parts that change.

        Raises:
            InputError: too many jobs of the session are waiting.
        """
        for camera in (view.first, view.other):
            if camera is None or camera in view.outlining:  # what is under way takes the newest marks as well
                continue
            view.outlining.add(camera)
            try:
                async for update in self._find_in(session, view, camera):
                    yield update
            finally:
                view.outlining.discard(camera)

    async def _find_in(self, session: PageSession, view: VideoView, camera: str) -> AsyncIterator[dict[Any, Any]]:
        # Nothing is awaited between the last look at what is missing and the end: no mark is passed over.
        while self._canvas(view, camera) is not None and view.lacks_outline(camera):
            videos, number = view.work, view.number(camera)
            if number is None:
                continue

            def work(job: Job[Any], number: int = number) -> Any:
                job.report("Looking at the image")
                return view.outline(self._context.predictor, camera, number)

            job = self._context.jobs.submit(IMAGES, session, f"outline {camera}", work)
            async for line in progress(self._context, session, job):
                canvas = self._canvas(view, camera)
                if canvas is not None:
                    yield {canvas: canvas_message(line, busy=True, version=view.version)}
            if session.ended:
                return
            if view.work is not videos:  # they were put away meanwhile
                continue
            failed = job.error or job.result
            if failed is not None:  # kept in the view: another outline that ends now must not hide it
                view.refused[camera] = error_line(failed, session)
            yield await asyncio.to_thread(self._outlined, session, view, camera)
            if job.error is not None and view.work is videos and view.number(camera) == number:
                return

    def _canvas(self, view: VideoView, camera: str) -> gr.HTML | None:
        """Where a camera is shown now; ``None`` if another one has taken its place."""
        return self._first if camera == view.first else self._second if camera == view.other else None

    def _outlined(self, session: PageSession, view: VideoView, camera: str) -> dict[Any, Any]:
        with session.lock:
            view.version += 1
            values, canvas = {self._objects: objects_value(view)}, self._canvas(view, camera)
            if canvas is not None:
                values[canvas] = view.canvas(camera)
            return values
