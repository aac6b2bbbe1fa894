"""What the tab "Videos" shows of results, and what can be downloaded."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path

from counterview.app.canvas import data_url
from counterview.app.messages import note_line
from counterview.app.sessions import PageSession
from counterview.app.video_results import strip_html
from counterview.app.video_view import SHOWN_ROWS, VideoView
from counterview.app.work_archive import work_files, write_archive
from counterview.errors import InputError
from counterview.inference.follow_folder import output_files
from counterview.inference.follow_output import NAMES
from counterview.inference.track_drawing import clock
from counterview.tracking.review import ReviewRow

RESULTS, WORK = "results.zip", "work.zip"
"""Names of archives that can be downloaded."""


def objects_value(view: VideoView) -> str:
    """The objects, for ``counterview.objects`` of ``page.js``: names, colours, and where they are marked.

    Args:
        view: with the objects.
    """
    names, colors, values = view.work.objects.names, view.colors(), []
    for name in names:
        places = [(camera, number) for o, camera, number in view.work.objects.prompts if o == name]
        if not places:
            detail = "not marked yet"
        elif len(places) == 1:
            camera, number = places[0]
            detail = f"{camera} {clock(view.work.cameras.source(camera).time_of(number))}"
        else:
            detail = f"marked in {len(places)} frames"
        values.append({"name": name, "color": colors[name], "detail": detail})
    current = names.index(view.current) if view.current in names else 0
    return json.dumps({"objects": values, "current": current, "message": "", "version": view.version})


def results_value(session: PageSession, view: VideoView) -> str:
    """What was found, for ``counterview.results`` of ``videos.js``.

    Args:
        session: offers the files.
        view: with the results.
    """
    if not view.work.cameras.names:
        return json.dumps({"message": "", "version": view.version})
    links = _links(session, view)
    if view.results is None:
        return json.dumps({"message": links if view.work.objects.names else "", "version": view.version})
    video = session.offer("overlay.mp4", lambda folder: view.work.out / "overlay.mp4")
    stale = "Something was changed since: press Follow to take it in." if view.is_stale else ""
    thumbs = view.thumbnails()
    rows = [
        {
            "index": index, "thumb": data_url(thumbs[index], 80), "title": row_title(row), "why": row.why,
            "current": view.pinned.get(row.camera) == row.frame and row.object in (view.current, ""),
        }
        for index, row in enumerate(view.results.rows[:SHOWN_ROWS])
    ]  # fmt: skip
    note = "Click one: the videos go there. Click where the object is, or say that it is not visible, and follow again."
    if len(view.results.rows) > SHOWN_ROWS:
        note += f" {len(view.results.rows) - SHOWN_ROWS} less doubtful ones are in review.csv."
    return json.dumps({
        "video": f"{video}?show=1&run={view.runs}", "strip": strip_html(view.results), "review": rows, "note": note,
        "message": note_line(stale), "said": said_html(view.said), "downloads": links,
        "version": view.version,
    })  # fmt: skip


def _links(session: PageSession, view: VideoView) -> str:
    offers: dict[str, tuple[str, Callable[[Path], Path]]] = {}
    if view.results is not None:
        offers[RESULTS] = "all results", lambda folder: _results(folder, view)
        for name in NAMES:
            offers[name] = name, lambda folder, name=name: view.work.out / name  # type: ignore[misc]
    offers[WORK] = "the work, to go on later", lambda folder: _work(folder, view)
    links = [
        f'<a class="cv-link" download="{name}" href="{session.offer(name, make)}" '
        f'title="{html.escape(title)}">{name}</a>'
        for name, (title, make) in offers.items()
    ]
    return '<nav class="cv-downloads" aria-label="Downloads"><span>Download</span>' + "".join(links) + "</nav>"


def _results(folder: Path, view: VideoView) -> Path:
    """All results as one archive."""
    files = output_files(view.work.out, view.work.settings.formats)
    return write_archive(folder / RESULTS, view.work.out, files)


def _work(folder: Path, view: VideoView) -> Path:
    """The work as one archive, with its videos."""
    if view.work.is_running:
        raise InputError("objects are being followed", fix="Wait for it, or stop it.")
    return write_archive(folder / WORK, view.work.folder, work_files(view.work.folder))


def row_title(row: ReviewRow) -> str:
    """What a place to check is, in one line.

    Args:
        row: the place.
    """
    return f"{row.object or 'all objects'}, {row.camera}, {clock(row.worst_s)}"


def said_html(lines: list[str]) -> str:
    """Lines about a run as HTML.

    Args:
        lines: of plain text.
    """
    return f'<pre class="cv-said">{html.escape(chr(10).join(lines))}</pre>' if lines else ""
