"""The tab "Data sets": takes of a release or prepared folder, truth beside predictions, worst cases first."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from counterview.app.canvas import data_url
from counterview.app.context import VIDEOS
from counterview.app.data_browser import DataBrowser, Order, WorstCases
from counterview.app.events import listen, progress
from counterview.app.messages import error_line, note_line
from counterview.app.scripted import scripted
from counterview.data.inspect import Inspection, inspection_image
from counterview.errors import InputError, counted, shown
from counterview.inference.track_drawing import resized
from counterview.masks.geometry import fit_longest_side
from counterview.types import RgbImage

if TYPE_CHECKING:
    import gradio as gr

    from counterview.app.context import PageContext
    from counterview.app.jobs import Job
    from counterview.app.sessions import PageSession

TAB = "data-sets"
SHOWN_PX = 1100
"""Longer side of an image, at most."""

LEGEND = "Filled: prediction, with its IoU. Thin line: predicted, but not visible. White line: annotation."
CASES_LEGEND = (
    "Blue line: annotation. Red line: prediction. Tint: blue only annotation, red only prediction, green both."
)

_GALLERY_JS = """
counterview.gallery(element, { label: 'Worst cases' }, (name, data) => {
    if (name === 'choose') trigger('choose', data);
}, (draw) => { watch('value', () => draw(props.value)); draw(props.value); });
"""


@dataclass(eq=False)
class DataView:
    """What a visitor looks at.

    Attributes:
        uid: of the take.
        query: name of the query camera.
        target: name of the target camera.
        frame: number of the frame.
        names: of the objects that are drawn.
        worst: the worst cases, once they were asked for.
    """

    uid: str
    query: str = ""
    target: str = ""
    frame: int = 0
    names: list[str] = field(default_factory=list)
    worst: WorstCases | None = None


def build_tab(context: PageContext) -> None:
    """Build the tab, if there is a data set to browse.

    Args:
        context: what the tabs share.
    """
    if context.data is not None:
        DataSetsTab(context, DataBrowser(context.data, context.predictions, context.split)).build()


class DataSetsTab:
    """The tab: its parts, and what happens when they are used.

    Args:
        context: what the tabs share.
        browser: the data set.
    """

    def __init__(self, context: PageContext, browser: DataBrowser) -> None:
        self.context, self.browser = context, browser
        self._orders = {order.title: order for order in browser.orders()}

    def build(self) -> None:
        """Build the tab inside ``gr.Tabs``."""
        import gradio as gr

        browser, view = self.browser, self._first_view()
        take = browser.take(view.uid)
        frames = browser.frames(view.uid, view.query)
        takes = list(zip(browser.titles(), browser.uids, strict=True))
        with gr.Tab("Data sets", id=TAB):
            gr.HTML(_heading(browser), apply_default_css=False)
            with gr.Row():
                self.take = gr.Dropdown(
                    takes, value=view.uid, label=f"Take, of {len(takes)}", elem_id="cv-take", min_width=260
                )  # fmt: skip
                self.query = gr.Dropdown(
                    list(take.cameras), value=view.query, label="Query camera", elem_id="cv-data-query", min_width=160
                )
                self.target = gr.Dropdown(
                    list(take.cameras),
                    value=view.target,
                    label="Target camera",
                    elem_id="cv-data-target",
                    min_width=160,
                )
            with gr.Row(equal_height=True):
                self.frame = gr.Slider(
                    1, max(2, len(frames)), 1, step=1, label=_frame_label(frames, view.frame), elem_id="cv-data-frame",
                    scale=8, min_width=320,
                )  # fmt: skip
                back = gr.Button("◀ frame", size="sm", elem_id="cv-data-back", scale=1, min_width=90)
                forth = gr.Button("frame ▶", size="sm", elem_id="cv-data-forth", scale=1, min_width=90)
            self.objects = gr.CheckboxGroup(
                list(take.objects), value=list(take.objects), label="Objects", elem_id="cv-data-objects"
            )
            self.images = gr.HTML(self._images(view), apply_default_css=False, elem_id="cv-data-images")
            self.order, self.direction = None, None
            find = None
            if browser.directions:
                with gr.Row(equal_height=True):
                    self.direction = gr.Radio(browser.directions, value=browser.directions[0], label="Direction")
                    self.order = gr.Radio(list(self._orders), value=next(iter(self._orders)), label="Worst first by")
                find = gr.Button("Score, and show the worst cases", variant="primary", elem_id="cv-data-find")
            self.status = gr.HTML("", apply_default_css=False, elem_id="cv-data-status")
            self.cases = scripted("{}", _GALLERY_JS, "cv-cases")
            with gr.Accordion("Statistics of the data set", open=False, elem_id="cv-data-statistics"):
                count = gr.Button("Count", size="sm", elem_id="cv-data-count")
                self.statistics = gr.HTML("", apply_default_css=False, elem_id="cv-data-numbers")
            self._every = [
                self.take, self.query, self.target, self.frame, self.objects, self.images, self.status, self.cases,
                self.statistics,
            ]  # fmt: skip
            self._connect(back, forth, find, count)

    def _connect(self, back: gr.Button, forth: gr.Button, find: gr.Button | None, count: gr.Button) -> None:
        self._on(self.take.input, self._take, self.take)
        self._on(self.query.input, self._query, self.query)
        self._on(self.target.input, self._target, self.target)
        self._on(self.frame.input, self._frame, self.frame)
        self._on(self.objects.input, self._objects, self.objects)
        self._on(back.click, lambda view, _: self._step(view, -1))
        self._on(forth.click, lambda view, _: self._step(view, 1))
        self._on(self.cases.choose, self._case)
        if find is not None:
            listen(self.context, find.click, self.find, [self.direction, self.order], self._every)
        listen(self.context, count.click, self.count, None, self._every)

    # ------------------------------------------------------------------------------------------ what is looked at

    def _first_view(self) -> DataView:
        view = DataView("")
        self._take(view, self.browser.uids[0])
        return view

    def _view(self, request: Any) -> tuple[PageSession, DataView]:
        session = self.context.session(request)
        return session, session.kept(TAB, self._first_view)

    def _on(self, event: Any, change: Callable[[DataView, Any], object], value: Any = None) -> None:
        """Change the view at an event, and show it; an error is shown below it."""

        async def act(request: Any, given: Any) -> dict[Any, Any]:
            session = None
            try:
                session, view = self._view(request)

                def run() -> dict[Any, Any]:
                    with session.lock:
                        change(view, given)
                        return self._show(view)

                return await asyncio.to_thread(run)
            except Exception as error:
                return {self.status: error_line(error, session)}

        if value is None:

            async def handler(request: Any, event: Any) -> dict[Any, Any]:
                return await act(request, event)

            listen(self.context, event, handler, None, self._every)
            return

        async def handler_of_value(given: Any, request: Any) -> dict[Any, Any]:
            return await act(request, given)

        listen(self.context, event, handler_of_value, [value], self._every, newest=True)

    def _take(self, view: DataView, uid: Any) -> None:
        if uid not in self.browser.uids:
            raise InputError("there is no such take", found=shown(uid))
        take = self.browser.take(uid)
        view.uid, view.names = uid, list(take.objects)
        view.query = (take.ego_cameras or take.cameras)[0]
        others = [camera for camera in (*take.exo_cameras, *take.cameras) if camera != view.query]
        view.target = others[0] if others else view.query
        view.frame = next(iter(self.browser.frames(uid, view.query)), 0)

    def _query(self, view: DataView, camera: Any) -> None:
        if camera == view.target:
            view.target = view.query
        view.query = str(camera)
        frames = self.browser.frames(view.uid, view.query)
        view.frame = min(frames, key=lambda n: abs(n - view.frame), default=0)

    def _target(self, view: DataView, camera: Any) -> None:
        if camera == view.query:
            self._query(view, view.target)
        view.target = str(camera)

    def _frame(self, view: DataView, place: Any) -> None:
        frames = self.browser.frames(view.uid, view.query)
        if frames:
            view.frame = frames[min(max(1, int(place)), len(frames)) - 1]

    def _step(self, view: DataView, by: int) -> None:
        frames = self.browser.frames(view.uid, view.query)
        if frames:
            now = min(range(len(frames)), key=lambda i: abs(frames[i] - view.frame))
            view.frame = frames[min(max(0, now + by), len(frames) - 1)]

    def _objects(self, view: DataView, names: Any) -> None:
        view.names = [name for name in self.browser.take(view.uid).objects if name in (names or [])]

    def _case(self, view: DataView, event: Any) -> None:
        cases = [] if view.worst is None else view.worst.cases
        if type(event.index) is not int or event.index not in range(len(cases)):
            raise InputError("there is no such case", found=shown(event.index))
        row = cases[event.index].row
        view.uid, view.query, view.target, view.frame = row.take, row.query_camera, row.target_camera, row.frame
        view.names = [row.object]

    # ------------------------------------------------------------------------------------------ jobs

    async def find(self, direction: Any, order: Any, request: Any) -> AsyncIterator[dict[Any, Any]]:
        """Score the files, and show the worst cases.

        Args:
            direction: of the predictions.
            order: title of what counts as bad.
            request: of the visitor.

        Yields:
            new values of the tab's parts.
        """
        session = None
        try:
            session, view = self._view(request)
            way = next((d for d in self.browser.directions if d == direction), None)
            wanted: Order | None = self._orders.get(str(order))
            if way is None or wanted is None:
                raise InputError("there is no such direction or order", found=shown([direction, order]))

            def work(job: Job[WorstCases]) -> WorstCases:
                return self.browser.worst(way, wanted, job.report)

            job = self.context.jobs.submit(VIDEOS, session, "worst cases", work)
            async for line in progress(self.context, session, job):
                yield {self.status: line}
            if job.is_replaced:
                return
            view.worst = job.wait(0)
            yield {self.status: "", self.cases: self._cases(view)}
        except Exception as error:
            yield {self.status: error_line(error, session)}

    async def count(self, request: Any) -> AsyncIterator[dict[Any, Any]]:
        """Show what ``counterview inspect`` counts.

        Args:
            request: of the visitor.

        Yields:
            new values of the tab's parts.
        """
        session = None
        try:
            session, _ = self._view(request)

            def work(job: Job[Inspection]) -> Inspection:
                return self.browser.statistics(job.report)

            job = self.context.jobs.submit(VIDEOS, session, "statistics", work)
            async for line in progress(self.context, session, job):
                yield {self.statistics: line}
            if job.is_replaced:
                return
            yield {self.statistics: await asyncio.to_thread(_statistics, job.wait(0))}
        except Exception as error:
            yield {self.statistics: error_line(error, session)}

    # ------------------------------------------------------------------------------------------ what is shown

    def _show(self, view: DataView) -> dict[Any, Any]:
        import gradio as gr

        take, frames = self.browser.take(view.uid), self.browser.frames(view.uid, view.query)
        place = min(range(len(frames)), key=lambda i: abs(frames[i] - view.frame), default=0) + 1
        return {
            self.take: view.uid,
            self.query: gr.Dropdown(list(take.cameras), value=view.query),
            self.target: gr.Dropdown(list(take.cameras), value=view.target),
            self.frame: gr.Slider(1, max(2, len(frames)), place, label=_frame_label(frames, view.frame)),
            self.objects: gr.CheckboxGroup(list(take.objects), value=view.names),
            self.images: self._images(view),
            self.status: "",
            self.cases: self._cases(view),
        }

    def _images(self, view: DataView) -> str:
        """The images of a frame as HTML, and what is in the take."""
        found = self.browser.draw(view.uid, view.query, view.target, view.frame, view.names)
        figures = [] if found.query is None else [_figure(found.query, f"{view.query}: annotation")]
        for name, image in found.targets.items():
            figures.append(_figure(image, f"{view.target}: {name or 'annotation'}"))
        legend = f'<p class="cv-quiet">{LEGEND}</p>' if self.browser.names else ""
        problems = "".join(note_line(line) for line in found.problems)
        return (
            f'<p class="cv-quiet">{html.escape(self.browser.about(view.uid))}; frame {view.frame}</p>'
            f'<div class="cv-figures">{"".join(figures)}</div>{legend}{problems}'
        )

    def _cases(self, view: DataView) -> str:
        """The worst cases for ``counterview.gallery`` of ``videos.js``."""
        if view.worst is None:
            return "{}"
        items, names = [], dict(zip(self.browser.uids, self.browser.titles(), strict=True))
        for index, case in enumerate(view.worst.cases):
            row = case.row
            is_current = (row.take, row.query_camera, row.target_camera, row.frame, [row.object]) == (
                view.uid, view.query, view.target, view.frame, view.names,
            )  # fmt: skip
            thumbs = [data_url(image, 80) for image in (case.query, case.target) if image is not None]
            where = f"{names.get(row.take, row.take)}: {row.query_camera} to {row.target_camera}, frame {row.frame}"
            title = f"{row.object}: IoU {row.iou:.3f}"
            items.append({"index": index, "thumbs": thumbs, "title": title, "current": is_current, "why": where})
        lines = [*view.worst.said, f"{view.worst.order.title}, {view.worst.direction}. {CASES_LEGEND}"]
        if not items:
            lines.append("There is no such case.")
        return json.dumps({"items": items, "message": "".join(note_line(line) for line in lines)})


def _heading(browser: DataBrowser) -> str:
    files = f", with predictions of {' and '.join(browser.names)}" if browser.names else ""
    text = f"{browser.root.name}: {counted(len(browser.uids), 'take')}{files}."
    return f'<p class="cv-note">{html.escape(text)}</p>'


def _frame_label(frames: list[int], frame: int) -> str:
    return f"Annotated frame, of {len(frames)} (number {frame})"


def _figure(image: RgbImage, caption: str) -> str:
    size = (image.shape[0], image.shape[1])
    if max(size) > SHOWN_PX:
        image = resized(image, fit_longest_side(size, SHOWN_PX))
    text = html.escape(caption, quote=True)
    return (
        f'<figure class="cv-figure"><figcaption>{text}</figcaption>'
        f'<img class="cv-image-plain" src="{data_url(image)}" alt="{text}"></figure>'
    )


def _statistics(inspection: Inspection) -> str:
    numbers = inspection.summary()
    text = f"{counted(inspection.cameras, 'camera')}, {counted(inspection.unreadable, 'mask')} that do not decode, "
    text += f"{counted(len(inspection.empty_takes), 'take')} without a mask."
    sides = "".join(
        f"<tr><th>{side}</th><td>{numbers[side]['masks']}</td><td>{numbers[side]['below_0.1%']:.1%}</td>"
        f"<td>{numbers[side]['below_0.5%']:.1%}</td><td>{numbers[side]['track_length_median']:g}</td></tr>"
        for side in ("ego", "exo")
    )
    return (
        _figure(inspection_image(inspection), "Mask areas, visibility and track lengths")
        + '<table class="cv-table"><thead><tr><th></th><th>masks</th><th>below 0.1 %</th><th>below 0.5 %</th>'
        f"<th>median track</th></tr></thead><tbody>{sides}</tbody></table>" + note_line(text)
    )
