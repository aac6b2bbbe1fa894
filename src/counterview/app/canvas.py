"""The image on the page that a visitor drops, clicks, boxes and paints on: ``assets/page/page.js`` draws it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from counterview.app.limits import Kind
from counterview.types import RgbImage

if TYPE_CHECKING:
    import gradio as gr

Tool = Literal["point", "away", "box", "brush", "erase"]
"""What a click does: show a point of the object, or one that is not; draw a box; paint the mask, or take away of it."""

SIDE_PX = 1200
"""Longest side of an image as it is sent to a browser; clicks come back in pixels of the original."""

_ON_LOAD = """
const options = JSON.parse(props.options);
counterview.canvas(element, options, (name, data) => {
    if (name === 'upload') trigger('upload', data);
    if (name === 'mark') trigger('mark', data);
    if (name === 'undo') trigger('undo', data);
}, (draw) => { watch('value', () => draw(props.value)); draw(props.value); });
"""


def image_canvas(
    *,
    label: str,
    empty: str,
    limits: str,
    tools: Sequence[Tool],
    kind: Kind | None = "image",
    other: str = "Other file",
    elem_id: str,
) -> gr.HTML:
    """An image that can be dropped and marked.

    It has three events: ``upload`` with the ``id`` of an upload, ``mark`` with a ``kind`` (a :data:`Tool`) and its
    ``points`` (``[[x, y], …]`` in pixels of the original) and, for a brush, its ``radius`` in pixels; and ``undo``.
    The first two have ``shown``, the width of the canvas in CSS pixels. Its value is made by :func:`canvas_value`.

    Args:
        label: names it for screen readers, and above it.
        empty: what to do while there is no image.
        limits: what may be dropped.
        tools: what a visitor may do with the image; the first is chosen.
        kind: what may be dropped; ``None``: nothing.
        other: on the button that drops a further file.
        elem_id: of the element.
    """
    import gradio as gr

    options = {"label": label, "empty": empty, "limits": limits, "tools": list(tools), "kind": kind, "other": other}
    options["id"] = elem_id
    return gr.HTML(
        canvas_value(None), html_template="<div class='cv-canvas'></div>", js_on_load=_ON_LOAD,
        apply_default_css=False, elem_id=elem_id, options=json.dumps(options),
    )  # fmt: skip


def canvas_value(
    image: RgbImage | None,
    size_hw: tuple[int, int] | None = None,
    *,
    name: str = "",
    message: str = "",
    busy: bool = False,
    color: str = "#1f9bff",
    marks: bool = True,
    **more: Any,
) -> str:
    """What an :func:`image_canvas` shows.

    Args:
        image: ``(h, w, 3)`` uint8 as it is drawn, or ``None``.
        size_hw: height and width of the original, in whose pixels clicks are told; those of ``image`` by default.
        name: of the file.
        message: HTML of an error, a note or a job's progress, shown below the image.
        busy: whether something is computed that the visitor waits for.
        color: of the object that is marked, in hex; brushes paint in it.
        marks: whether it can be marked now.
        more: further plain values for scripts of a tab.
    """
    value: dict[str, Any] = {
        "src": None, "name": name, "message": message, "busy": busy, "color": color,
        "marks": marks, **more,
    }  # fmt: skip
    if image is not None:
        height, width = size_hw if size_hw is not None else (image.shape[0], image.shape[1])
        value |= {"src": data_url(image), "w": width, "h": height}
    return json.dumps(value)


def canvas_message(message: str, *, busy: bool = False, version: int = 0) -> str:
    """Change what an :func:`image_canvas` says, and keep its image.

    Args:
        message: HTML of an error, a note or a job's progress.
        busy: whether something is computed that the visitor waits for.
        version: of the state that it is about: nothing is said if a later one is shown already. 0: always.
    """
    return json.dumps({"keep": True, "message": message, "busy": busy, "version": version})


def data_url(image: RgbImage, quality: int = 88) -> str:
    """An image ``(H, W, 3)`` as an address that holds it, so that no file of it lies anywhere.

    Args:
        image: uint8.
        quality: of the JPEG file, 1 to 95.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
