"""Parts of the page that ``page.js`` and ``videos.js`` draw, and the list of objects that two tabs have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

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


_SLIDER_JS = """
counterview.slider(element, OPTIONS, (name, data) => {
    if (name === 'set') trigger('set', data);
    if (name === 'rest') trigger('rest', data);
}, (draw) => { watch('value', () => draw(props.value)); draw(props.value); });
"""


def slider(label: str, elem_id: str) -> gr.HTML:
    """A number that the visitor sets and the server may change, in steps of 0.01.

    Its events are ``set`` (``value``, and ``edit``: how many times the visitor set it) and ``rest``, when it is let go.
    Its value is made by :meth:`Sliders.value`. Unlike Gradio's slider it never takes back what the visitor set: values
    that the server sent before it knew of that are passed over.

    Args:
        label: what the number is.
        elem_id: of the element.
    """
    # Options of a component in a closed accordion are not known when its script runs.
    return scripted("", _SLIDER_JS.replace("OPTIONS", json.dumps({"label": label})), elem_id)


class Sliders:
    """What a visitor set the sliders of a tab to last."""

    def __init__(self) -> None:
        self._edits: dict[str, int] = {}

    def takes(self, name: str, edit: Any) -> bool:
        """Whether an edit is newer than those that were taken into account; it is from now on.

        Args:
            name: of the slider.
            edit: its number, as a browser sent it.
        """
        if type(edit) is not int or edit <= self._edits.get(name, 0):
            return False
        self._edits[name] = edit
        return True

    def value(self, name: str, low: float, high: float, value: float, version: int) -> str:
        """What a :func:`slider` shows.

        Args:
            name: of the slider.
            low: least number.
            high: largest number.
            value: the number.
            version: of the state that it is of.
        """
        rounded = {"low": low, "high": round(high, 2), "value": round(value, 3)}
        return json.dumps({**rounded, "edit": self._edits.get(name, 0), "version": version})


def scripted(value: str, script: str, elem_id: str) -> gr.HTML:
    """A part that a script draws from its value.

    Args:
        value: JSON or HTML, as the script takes it.
        script: runs when the part is there.
        elem_id: of the element.
    """
    import gradio as gr

    return gr.HTML(value, html_template="<div></div>", js_on_load=script, apply_default_css=False, elem_id=elem_id)
