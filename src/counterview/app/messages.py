"""What the page says: errors in one line where they happened, progress, and the place in the queue."""

from __future__ import annotations

import html
import logging
import re

from counterview.app.jobs import Job, JobCancelled
from counterview.app.sessions import PageSession
from counterview.errors import CounterviewError, counted

logger = logging.getLogger(__name__)

STOPPING = "Stopping after this step…"
"""What is said of a job from when it is told to stop until it has."""


def one_line(error: BaseException, session: PageSession | None = None) -> str:
    """An error as a line for the page: without a traceback, and without paths of the server.

    Args:
        error: any.
        session: whose files are called by their own names.
    """
    if isinstance(error, CounterviewError):
        text = str(error)
    else:
        logger.error("the page failed", exc_info=error)
        detail = " ".join(str(error).split())[:200]
        text = f"failed with {type(error).__name__}" + (f": {detail}" if detail else "")
    if session is not None:
        for upload in list(session.uploads.values()):
            text = text.replace(str(upload.path), upload.name).replace(upload.path.name, upload.name)
        text = text.replace(str(session.folder), "the session's folder").replace(session.token, "…")
    return re.sub(r"(?<![\w:/.])/(?:[\w.@+-]+/)+", "…/", text)


def error_line(error: BaseException, session: PageSession | None = None) -> str:
    """:func:`one_line` as HTML that screen readers announce.

    Args:
        error: any; one that was asked for (a stopped job) is said quietly.
        session: whose files are called by their own names.
    """
    if isinstance(error, JobCancelled):
        return note_line("Stopped.")
    text = one_line(error, session)
    if re.match("[a-z]+ ", text):  # a word, and not the name of a file
        text = text[0].upper() + text[1:]
    return f'<p class="cv-error" role="alert">{html.escape(text)}</p>'


def note_line(text: str) -> str:
    """A line of plain text as HTML.

    Args:
        text: any.
    """
    return f'<p class="cv-note" role="status">{html.escape(text)}</p>' if text else ""


def progress_line(job: Job[object], place: int) -> str:
    """Where a job is, as HTML: its place in the queue, or what it does and for how long.

    Args:
        job: the job.
        place: number of jobs that begin before it.
    """
    if job.state == "waiting":
        ahead = "next in the queue" if place == 0 else f"{counted(place, 'job')} ahead in the queue"
        return note_line(f"Waiting: {ahead} ({job.seconds:.0f} s)")
    if job.is_stopping:
        return note_line(STOPPING)
    bar = ""
    if job.fraction is not None:
        percent = round(100 * min(1.0, max(0.0, job.fraction)))
        bar = f'<progress class="cv-progress" max="100" value="{percent}" aria-label="progress"></progress>'
    text = f"{job.text or 'Working'} ({job.seconds:.0f} s)"
    return f'<p class="cv-note" role="status">{bar}{html.escape(text)}</p>'
