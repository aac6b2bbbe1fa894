"""The tab "Two images": show objects in one image, get them in the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.app.canvas import canvas_value, image_canvas
from counterview.app.events import listen

if TYPE_CHECKING:
    from counterview.app.context import PageContext

TAB = "two images"


def build_tab(context: PageContext) -> None:
    """Build the tab.

    Args:
        context: what the tabs share.
    """
    import gradio as gr

    limits = context.limits.said("image")
    with gr.Tab("Two images", id=TAB):
        with gr.Row():
            query = image_canvas(
                label="Query image", empty="Drop the image with the object here.", limits=limits,
                tools=("point", "away", "box", "brush", "erase"), elem_id="cv-query",
            )  # fmt: skip

        def uploaded(request: gr.Request, event: gr.EventData) -> str:
            from counterview.media.images import read_image

            image = read_image(context.session(request).uploaded(event.id).path)
            return canvas_value(image)

        listen(query.upload, uploaded, None, query)
