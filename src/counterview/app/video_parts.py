"""Parts of the tab "Videos" that ``videos.js`` and ``page.js`` draw."""

from __future__ import annotations

OPENER_JS = """
counterview.opener(element, (name, data) => {
    if (name === 'example') trigger('example', data);
    if (name === 'open') trigger('open', data);
    if (name === 'clear') trigger('clear', data);
}, (draw) => { watch('value', () => draw(props.value)); draw(props.value); });
"""
RESULTS_JS = """
counterview.results(element, (name, data) => {
    if (name === 'choose') trigger('choose', data);
    if (name === 'time') trigger('time', data);
}, (draw) => { watch('value', () => draw(props.value)); draw(props.value); });
"""


def steps_html() -> str:
    """What to do, as HTML."""
    steps = (
        "Drop a video that shows the object, or take the example.",
        "Drop a video of the same scene from another camera. If it began at another time, say so below.",
        "Choose a time, and click the object in either video. It is outlined at once.",
        "Press <i>Follow</i>. What the model doubts is listed below, the worst first: click it, mend it, follow again.",
    )
    return '<ol class="cv-steps">' + "".join(f"<li>{step}</li>" for step in steps) + "</ol>"
