"""Parts of the page that ``page.js`` and ``videos.js`` draw, and the list of objects that two tabs have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

OBJECTS_JS = """
counterview.objects(element, (name, data) => {
    if (name === 'pick') trigger('pick', data);
    if (name === 'rename') trigger('rename', data);
    if (name === 'remove') trigger('remove', data);
    if (name === 'more') trigger('more', data);
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
