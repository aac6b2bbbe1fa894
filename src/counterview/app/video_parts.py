"""Parts of the tab "Videos" that ``videos.js`` and ``page.js`` draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

OPENER_JS = """
counterview.opener(element, (name, data) => {
    if (name === 'example') trigger('example', data);
    if (name === 'open') trigger('open', data);
    if (name === 'clear') trigger('clear', data);
}, (draw) => { watch('value', () => draw(props.value)); draw(props.value); });
"""
OBJECTS_JS = """
counterview.objects(element, (name, data) => {
    if (name === 'pick') trigger('pick', data);
    if (name === 'rename') trigger('rename', data);
    if (name === 'remove') trigger('remove', data);
    if (name === 'more') trigger('more', data);
}, (draw) => { watch('value', () => draw(props.value)); draw(props.value); });
"""
RESULTS_JS = """
counterview.results(element, (name, data) => {
    if (name === 'choose') trigger('choose', data);
    if (name === 'time') trigger('time', data);
}, (draw) => { watch('value', () => draw(props.value)); draw(props.value); });
"""


def scripted(value: str, script: str, elem_id: str) -> gr.HTML:
    """A part that a script draws from its value.

    Args:
        value: JSON or HTML, as the script takes it.
        script: runs when the part is there.
        elem_id: of the element.
    """
    import gradio as gr

    return gr.HTML(value, html_template="<div></div>", js_on_load=script, apply_default_css=False, elem_id=elem_id)


def steps_html() -> str:
    """What to do, as HTML."""
    steps = (
        "Drop a video that shows the object, or take the example.",
        "Drop a video of the same scene from another camera. If it began at another time, say so below.",
        "Choose a time, and click the object in either video. It is outlined at once.",
        "Press <i>Follow</i>. What the model doubts is listed below, the worst first: click it, mend it, follow again.",
    )
    return '<ol class="cv-steps">' + "".join(f"<li>{step}</li>" for step in steps) + "</ol>"
