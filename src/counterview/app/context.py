"""What all tabs of the page share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterview.app.jobs import Jobs
from counterview.app.limits import PageLimits
from counterview.app.sessions import PageSession, SessionError, Sessions
from counterview.app.turns import HEADER, Turn, Turns, event_number

if TYPE_CHECKING:
    import gradio as gr

    from counterview.inference.prompted import PromptedPredictor

COOKIE = "counterview"
"""Name of the cookie that holds a browser's secret."""

IMAGES, VIDEOS = "images", "videos"
"""The queues: matching images does not wait for videos."""


@dataclass(eq=False)
class PageContext:
    """What all tabs of the page share.

    Attributes:
        predictor: the model.
        model_name: as it was asked for.
        limits: of each session.
        share_nothing: compute everything anew in each session.
        data: a folder of takes to browse; ``None`` without one.
        predictions: files of predictions for it.
        split: of the takes that are browsed; all of them if ``None``.
        jobs: the queues.
        sessions: the visitors.
        shared: what was computed of the bundled examples, for all visitors.
    """

    predictor: PromptedPredictor[Any]
    model_name: str
    limits: PageLimits
    share_nothing: bool = False
    data: Path | None = None
    predictions: tuple[Path, ...] = ()
    split: str | None = None

    def __post_init__(self) -> None:
        self.jobs = Jobs({IMAGES: 1, VIDEOS: 1}, self.limits.waiting)
        self.sessions = Sessions(self.limits, self._ended)
        self.shared: dict[object, Any] = {}

    def _ended(self, session: PageSession) -> None:
        self.jobs.cancel(session)

    def session(self, request: gr.Request, *, begin: bool = False) -> PageSession:
        """The session of a request.

        Args:
            request: as Gradio gives it to a function.
            begin: begin a session if there is none.

        Raises:
            SessionError: no cookie, another visitor's session, an ended one, or no room for a further one.
        """
        return self.sessions.of(request.session_hash, request.cookies.get(COOKIE), begin=begin)

    @asynccontextmanager
    async def turn(self, request: gr.Request, *, waits: bool = True) -> AsyncIterator[Turn]:
        """Wait until what the same page did before has taken effect.

        Args:
            request: as Gradio gives it to a function.
            waits: whether to wait; later events wait for this one in any case.

        Yields:
            the turn, at whose end later events go on.
        """
        number = event_number(request.headers.get(HEADER))
        try:
            turns = self.session(request).turns
        except SessionError:  # the function itself will say so
            turns, number = Turns(), None
        async with turns.turn(number, waits=waits) as turn:
            yield turn

    def end(self, request: gr.Request) -> None:
        """End the session of a request, whose page was closed.

        Args:
            request: as Gradio gives it to a function.
        """
        self.sessions.end(request.session_hash, request.cookies.get(COOKIE))

    def close(self) -> None:
        """Stop all jobs and remove all files."""
        self.jobs.close()
        self.sessions.close()
