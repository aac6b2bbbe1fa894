"""Put the page together: a heading, and a tab for each kind of work."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
from typing import TYPE_CHECKING

from counterview.app import data_sets, two_images, videos
from counterview.app.events import typed
from counterview.app.messages import error_line, one_line
from counterview.errors import CounterviewError

if TYPE_CHECKING:
    import gradio as gr

    from counterview.app.context import PageContext

TITLE = "Counterview"

TABS = (two_images.build_tab, videos.build_tab, data_sets.build_tab)
"""What builds each tab, in their order: each opens its own ``gr.Tab``."""

_ON_LOAD = "watch('value', () => counterview.begin(props.value));"


def build_page(context: PageContext) -> gr.Blocks:
    """The page.

    Args:
        context: what its tabs share.
    """
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_heading(context), apply_default_css=False, elem_id="cv-heading")
        session = gr.HTML("", html_template="<div></div>", js_on_load=_ON_LOAD, elem_id="cv-session")
        trouble = gr.HTML("", elem_id="cv-trouble")
        with gr.Tabs(elem_id="cv-tabs"):
            for build_tab in TABS:
                build_tab(context)

        async def begin(request: gr.Request) -> tuple[str, str]:
            try:
                found = context.session(request, begin=True)
                async with context.turn(request):
                    pass
            except CounterviewError as error:
                return json.dumps({"error": one_line(error)}), error_line(error)
            return json.dumps({"token": found.token}), ""

        async def stay(request: gr.Request) -> None:
            # Gradio's page closes its stream of answers when nothing is under way, and an event that is sent at that
            # moment is answered into the closed stream: nothing of it is seen until the next event. So one event is
            # under way as long as the page is open.
            with contextlib.suppress(CounterviewError):
                found = context.session(request, begin=True)
                async with context.turn(request):
                    pass
                while not found.ended:
                    await asyncio.sleep(1)

        def end(request: gr.Request) -> None:
            context.end(request)

        page.load(typed(begin), None, [session, trouble], api_visibility="undocumented", show_progress="hidden")
        page.load(typed(stay), None, None, api_visibility="undocumented", show_progress="hidden")
        page.unload(typed(end))
    page.queue(default_concurrency_limit=None)
    return page


def _heading(context: PageContext) -> str:
    hours = context.limits.idle_s / 3600
    kept = f"{hours:g} hours" if hours > 1 else "an hour" if hours == 1 else f"{context.limits.idle_s / 60:g} minutes"
    return (
        '<header class="cv-heading"><h1>Counterview</h1>'
        "<p>Point at an object in one camera; get it in the other camera, and follow it.</p>"
        f"<p class='cv-quiet'>Model: {html.escape(context.model_name)}. Your files stay on this server, only this page "
        f"can read them, and they are removed when you close it, or after {kept} without use. At most "
        f"{context.limits.files} files and {context.limits.session_mb:,.0f} MB at a time.</p></header>"
    )
