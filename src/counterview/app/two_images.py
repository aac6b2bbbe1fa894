"""The tab "Two images": show objects in one image, get them in the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from counterview.app.canvas import canvas_message, canvas_value, data_url, image_canvas
from counterview.app.context import IMAGES
from counterview.app.events import listen, progress
from counterview.app.examples import PageExample, load_examples
from counterview.app.marks import read_mark
from counterview.app.messages import error_line, note_line
from counterview.app.pair import PageImage, PagePair, Side
from counterview.app.pair_drawing import draw_query, draw_target
from counterview.app.pair_values import (
    about_answer,
    about_object,
    about_side,
    answers_value,
    download_links,
    objects_value,
    steps,
)
from counterview.app.scripted import OBJECTS_JS, scripted
from counterview.errors import InputError, counted
from counterview.inference.track_drawing import resized
from counterview.masks.geometry import fit_longest_side
from counterview.media.images import read_image

if TYPE_CHECKING:
    import gradio as gr

    from counterview.app.context import PageContext
    from counterview.app.sessions import PageSession

TAB = "two-images"

_ANSWERS_JS = """
counterview.answers(element, (name, data) => {
    if (name === 'choose') trigger('choose', data);
    if (name === 'absent') trigger('absent', data);
    if (name === 'pick') trigger('pick', data);
}, (draw) => { watch('value', () => draw(props.value)); draw(props.value); });
"""
_EXAMPLES_JS = """
counterview.examples(element, (data) => trigger('take', data), (draw) => draw(props.value));
"""


def build_tab(context: PageContext) -> None:
    """Build the tab.

    Args:
        context: what the tabs share.
    """
    TwoImagesTab(context).build()


class TwoImagesTab:
    """The tab: its parts, and what happens when they are used.

    Args:
        context: what the tabs share.
    """

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.examples = load_examples()

    def build(self) -> None:
        """Build the tab inside ``gr.Tabs``."""
        import gradio as gr

        def listing(value: Any, script: str, name: str) -> gr.HTML:
            return scripted(json.dumps(value), script, name)

        limits = self.context.limits.said("image")
        with gr.Tab("Two images", id=TAB):
            gr.HTML(steps(), apply_default_css=False, elem_id="cv-steps")
            shown = [{"title": e.title, "images": [_thumbnail(image) for _, image in e.images.values()]}
                     for e in self.examples]  # fmt: skip
            examples = listing(shown, _EXAMPLES_JS, "cv-examples")
            with gr.Row(equal_height=False, elem_classes="cv-pair"):
                with gr.Column(min_width=330):
                    self.query = image_canvas(
                        label="Query image", empty="1. Drop the image that shows the object.", limits=limits,
                        tools=("point", "away", "box", "brush", "erase"), elem_id="cv-query",
                    )  # fmt: skip
                    self.objects = listing({"objects": []}, OBJECTS_JS, "cv-objects")
                with gr.Column(min_width=330):
                    self.target = image_canvas(
                        label="Target image", empty="2. Drop the image of the other camera.", limits=limits,
                        tools=("point", "away", "box", "brush", "erase"), elem_id="cv-target",
                    )  # fmt: skip
                    with gr.Row(elem_classes="cv-actions"):
                        match = gr.Button("Match", variant="primary", elem_id="cv-match", scale=2, min_width=120)
                        stop = gr.Button("Stop", elem_id="cv-stop", scale=1, min_width=80)
                    self.status = gr.HTML("", apply_default_css=False, elem_id="cv-status")
                    self.answers = listing({"answers": []}, _ANSWERS_JS, "cv-answers")
                    self.downloads = gr.HTML("", apply_default_css=False, elem_id="cv-downloads")
            self._connect(examples, match, stop)

    def _connect(self, examples: gr.HTML, match: gr.Button, stop: gr.Button) -> None:
        every = [self.query, self.objects, self.status, self.target, self.answers, self.downloads]
        listen(self.context, examples.take, self.take_example, None, every)
        listen(self.context, self.query.upload, self.upload_query, None, every)
        listen(self.context, self.target.upload, self.upload_target, None, every)
        listen(self.context, self.query.mark, self.mark_query, None, every)
        listen(self.context, self.query.undo, self.undo_query, None, every)
        listen(self.context, self.target.mark, self.mark_target, None, every)
        listen(self.context, self.target.undo, self.undo_target, None, every)
        for name in ("pick", "rename", "remove", "more"):
            listen(self.context, getattr(self.objects, name), getattr(self, name), None, every)
        listen(self.context, self.answers.choose, self.choose, None, every)
        listen(self.context, self.answers.absent, self.absent, None, every)
        listen(self.context, self.answers.pick, self.pick, None, every)
        listen(self.context, match.click, self.match, None, every)
        listen(self.context, stop.click, self.stop, None, self.status, waits=False)

    # ------------------------------------------------------------------------------------------ images

    async def take_example(self, request: Any, event: Any) -> AsyncIterator[dict[Any, Any]]:
        """Take both images of an example.

        Args:
            request: of the visitor.
            event: with the example's number, ``index``.

        Yields:
            new values of the tab's parts.
        """
        session, pair = None, None
        try:
            session, pair = self._work(request)
            pair.see(getattr(event, "shown", None))
            if event.index not in range(len(self.examples)):
                raise InputError("there is no such example", found=str(event.index))
            example = self.examples[event.index]
            for side in ("query", "target"):
                name, image = example.images[side]
                pair.put(side, PageImage(name, image))
            async for update in self._encode(session, pair, ("query", "target"), example):
                yield update
        except Exception as error:
            yield {self.status: error_line(error, session)}

    async def upload_query(self, request: Any, event: Any) -> AsyncIterator[dict[Any, Any]]:
        """Take an uploaded query image. Arguments and results: :meth:`take_example`, with the upload's ``id``."""
        async for update in self._upload("query", request, event):
            yield update

    async def upload_target(self, request: Any, event: Any) -> AsyncIterator[dict[Any, Any]]:
        """Take an uploaded target image. Arguments and results: :meth:`take_example`, with the upload's ``id``."""
        async for update in self._upload("target", request, event):
            yield update

    async def _upload(self, side: Side, request: Any, event: Any) -> AsyncIterator[dict[Any, Any]]:
        session, pair = None, None
        try:
            session, pair = self._work(request)
            upload = session.uploaded(event.id)
            pair.see(getattr(event, "shown", None))
            most = int(1e6 * self.context.limits.image_megapixels)
            refused = None
            try:
                image = await asyncio.to_thread(read_image, upload.path, max_pixels=most)
                pair.put(side, PageImage(upload.name, image))
            except Exception as error:
                refused = await asyncio.to_thread(self._refuse, session, pair, side, error)
            finally:
                session.forget(event.id)  # its pixels are all that is needed; gone before anything is said
            if refused is not None:
                yield refused
                return
            async for update in self._encode(session, pair, (side,)):
                yield update
        except Exception as error:
            yield await asyncio.to_thread(self._refuse, session, pair, side, error)

    async def _encode(
        self, session: PageSession, pair: PagePair, sides: tuple[Side, ...], example: PageExample | None = None
    ) -> AsyncIterator[dict[Any, Any]]:
        """Show images, and compute what marks and matches need of them, as a job."""
        images = {side: pair.images[side] for side in sides}

        def work(job: Any) -> None:
            for side in sides:
                if pair.images.get(side) is images[side]:
                    self._encode_one(pair, side, job, example)

        try:  # before they are shown, so that a mark on them finds the job to wait for
            job = self.context.jobs.submit(IMAGES, session, "encode " + " ".join(sides), work)
        except Exception:
            yield await asyncio.to_thread(self._show, session, pair, *sides)
            raise
        yield await asyncio.to_thread(self._show, session, pair, *sides)
        canvases = {"query": self.query, "target": self.target}
        async for line in progress(self.context, session, job):
            yield {canvases[side]: canvas_message(line, busy=True, version=pair.version) for side in sides
                   if pair.images.get(side) is images[side] and images[side].encoding is None}  # fmt: skip
        for side in sides:
            if pair.images.get(side) is not images[side]:
                continue
            if job.error is not None:
                yield await asyncio.to_thread(self._refuse, session, pair, side, job.error)
            else:
                yield await asyncio.to_thread(self._looked_at, session, pair, side)

    def _looked_at(self, session: PageSession, pair: PagePair, side: Side) -> dict[Any, Any]:
        """Say that an image is ready, or what a mark on it came to meanwhile."""
        with session.lock:
            canvas = self.query if side == "query" else self.target
            return {canvas: canvas_message(about_side(pair, side), version=pair.version)}

    def _encode_one(self, pair: PagePair, side: Side, job: Any, example: PageExample | None) -> None:
        """Encode an image, or take what an earlier visitor's page computed of the same example."""
        image = pair.images[side]
        if example is None or self.context.share_nothing:
            pair.encode(side, job)
            return
        key = (example.title, side)
        known = self.context.shared.get(key)
        if known is None:
            pair.encode(side, job)
            self.context.shared[key] = image.encoding
        else:
            image.encoding = known

    # ------------------------------------------------------------------------------------------ objects

    async def mark_query(self, request: Any, event: Any) -> dict[Any, Any]:
        """Show the current object by a mark.

        Args:
            request: of the visitor.
            event: with the mark's ``kind``, ``points`` and ``radius``.

        Returns:
            new values of the tab's parts.
        """

        def work(pair: PagePair) -> None:
            pair.see(getattr(event, "shown", None))
            pair.mark(read_mark(event, pair.image("query").size_hw))

        return await self._act(request, self.query, work, "query", "objects", "answers", wait="query")

    async def undo_query(self, request: Any) -> dict[Any, Any]:
        """Take back the last mark. Arguments and results: :meth:`mark_query`."""
        return await self._act(request, self.query, PagePair.undo, "query", "objects", "answers", wait="query")

    async def mark_target(self, request: Any, event: Any) -> dict[Any, Any]:
        """Correct the current object. Arguments and results: :meth:`mark_query`."""

        def work(pair: PagePair) -> None:
            pair.correct(read_mark(event, pair.image("target").size_hw))

        return await self._act(request, self.target, work, "target", "answers", wait="target")

    async def undo_target(self, request: Any) -> dict[Any, Any]:
        """Take back the last correction. Arguments and results: :meth:`mark_query`."""
        return await self._act(request, self.target, PagePair.undo_correction, "target", "answers", wait="target")

    async def pick(self, request: Any, event: Any) -> dict[Any, Any]:
        """Mark another object from now on: ``index``. Arguments and results: :meth:`mark_query`."""
        return await self._act(request, self.objects, lambda pair: pair.pick(event.index), "objects", "answers")

    async def rename(self, request: Any, event: Any) -> dict[Any, Any]:
        """Name an object: ``index``, ``name``. Arguments and results: :meth:`mark_query`."""

        def work(pair: PagePair) -> None:
            pair.rename(event.index, str(event.name))

        return await self._act(request, self.objects, work, "query", "objects", "target", "answers")

    async def remove(self, request: Any, event: Any) -> dict[Any, Any]:
        """Remove an object: ``index``. Arguments and results: :meth:`mark_query`."""

        def work(pair: PagePair) -> None:
            pair.remove(event.index)

        return await self._act(request, self.objects, work, "query", "objects", "target", "answers")

    async def more(self, request: Any) -> dict[Any, Any]:
        """Add an object. Arguments and results: :meth:`mark_query`."""
        return await self._act(request, self.objects, PagePair.add, "query", "objects", "answers")

    async def choose(self, request: Any, event: Any) -> dict[Any, Any]:
        """Take a candidate: ``index``, ``candidate``. Arguments and results: :meth:`mark_query`."""

        def work(pair: PagePair) -> None:
            pair.choose(event.index, event.candidate)

        return await self._act(request, self.answers, work, "target", "answers")

    async def absent(self, request: Any, event: Any) -> dict[Any, Any]:
        """Say that an object is not visible: ``index``. Arguments and results: :meth:`mark_query`."""
        return await self._act(request, self.answers, lambda pair: pair.absent(event.index), "target", "answers")

    async def _act(
        self, request: Any, where: Any, work: Callable[[PagePair], None], *parts: str, wait: Side | None = None
    ) -> dict[Any, Any]:
        """Change the pair and show the parts that changed; an error is shown where it happened."""
        session, pair = None, None
        try:
            session, pair = self._work(request)
            while wait in pair.images and pair.images[wait].encoding is None and self.context.jobs.running(session):
                await asyncio.sleep(0.05)

            def run() -> dict[Any, Any]:
                with session.lock:
                    pair.refused.clear()
                    before = _matched(pair)
                    work(pair)
                    changed = {*parts, "target"} if _matched(pair) != before and "target" in pair.images else {*parts}
                    return self._show(session, pair, *changed)

            return await asyncio.to_thread(run)
        except Exception as error:
            if where is self.query or where is self.target:
                side: Side = "query" if where is self.query else "target"
                return await asyncio.to_thread(self._refuse, session, pair, side, error)
            line = error_line(error, session)
            if pair is None:
                return {self.status: line}
            value = objects_value(pair, line) if where is self.objects else answers_value(pair, line)
            return {where: value}

    def _refuse(
        self, session: PageSession | None, pair: PagePair | None, side: Side, error: BaseException
    ) -> dict[Any, Any]:
        """Say at an image what went wrong there, so that nothing said before it can hide it."""
        line, canvas = error_line(error, session), self.query if side == "query" else self.target
        if session is None or pair is None:
            return {canvas: canvas_message(line)}
        with session.lock:
            pair.version += 1
            pair.refused[side] = line
            return {canvas: canvas_message(line, version=pair.version)}

    # ------------------------------------------------------------------------------------------ match

    async def match(self, request: Any) -> AsyncIterator[dict[Any, Any]]:
        """Find all objects in the target image.

        Args:
            request: of the visitor.

        Yields:
            new values of the tab's parts.
        """
        session = None
        try:
            session, pair = self._work(request)
            pair.check_ready()
            job = self.context.jobs.submit(IMAGES, session, "match", pair.match)
            async for line in progress(self.context, session, job):
                yield {self.status: line}
            if job.is_replaced:
                return
            job.wait(0)
            shown = await asyncio.to_thread(self._show, session, pair, "objects", "target", "answers")
            count, seconds = counted(len(pair.matched), "object"), pair.match_s or 0.0
            yield {**shown, self.status: note_line(f"{count} matched in {seconds:.2f} s.")}
        except Exception as error:
            yield {self.status: error_line(error, session)}

    def stop(self, request: Any) -> str:
        """Stop what is computed for this page.

        Args:
            request: of the visitor.

        Returns:
            a line for the page.
        """
        try:
            told = self.context.jobs.cancel(self.context.session(request))
        except Exception as error:
            return error_line(error)
        return note_line("Stopped." if told else "Nothing was running.")

    # ------------------------------------------------------------------------------------------ values

    def _work(self, request: Any) -> tuple[PageSession, PagePair]:
        session = self.context.session(request)
        return session, session.kept(TAB, lambda: PagePair(self.context.predictor))

    def _show(self, session: PageSession, pair: PagePair, *parts: str) -> dict[Any, Any]:
        """New values of the parts that changed, and of those that depend on them."""
        with session.lock:
            return self._values(session, pair, parts)

    def _values(self, session: PageSession, pair: PagePair, parts: Sequence[str]) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        pair.version += 1
        color = pair.colors[pair.current]
        if "query" in parts and "query" in pair.images:
            image = pair.images["query"]
            note = about_object(pair) if image.encoding is not None else ""
            values[self.query] = canvas_value(
                draw_query(pair), image.size_hw, name=image.name, message=note, color=color, version=pair.version
            )
            values[self.objects] = objects_value(pair)
        if "target" in parts and "target" in pair.images:
            image = pair.images["target"]
            values[self.target] = canvas_value(
                draw_target(pair), image.size_hw, name=image.name, message=about_answer(pair), color=color,
                marks=bool(pair.matched), version=pair.version,
            )  # fmt: skip
            values[self.answers] = answers_value(pair)
        if "objects" in parts:
            values[self.objects] = objects_value(pair)
        if "answers" in parts:
            values[self.answers] = answers_value(pair)
        if self.answers in values:
            values[self.downloads] = download_links(session, pair)
            values[self.status] = ""
        return values


def _thumbnail(image: Any) -> str:
    return data_url(resized(image, fit_longest_side((image.shape[0], image.shape[1]), 160)), 80)


def _matched(pair: PagePair) -> list[int]:
    return [id(item.match) for item in pair.matched]
