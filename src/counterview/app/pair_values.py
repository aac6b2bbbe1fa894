"""What the tab "Two images" shows of a pair, as texts for the browser."""

from __future__ import annotations

import html
import json

from counterview.app.canvas import data_url
from counterview.app.messages import note_line
from counterview.app.pair import PageImage, PagePair, Side, visibility_words
from counterview.app.pair_drawing import thumbnails
from counterview.app.pair_output import downloads
from counterview.app.sessions import PageSession


def steps() -> str:
    """What to do, in four steps, as HTML."""
    lines = (
        "Drop an image that shows the object, or take an example.",
        "Drop an image of the same scene from another camera.",
        "Click the object. It is outlined at once; click again to add to it, or use <i>Not this</i> to take away.",
        "Press <i>Match</i>. Wrong? Choose another candidate, or click the right place in the target image.",
    )
    return '<ol class="cv-steps">' + "".join(f"<li>{step}</li>" for step in lines) + "</ol>"


def objects_value(pair: PagePair, message: str = "") -> str:
    """The list of objects, as ``assets/page/page.js`` draws it.

    Args:
        pair: whose objects.
        message: HTML below them.
    """
    items = [
        {
            "name": item.name,
            "color": color,
            "detail": "not shown yet" if item.selection is None else f"{item.selection.mask_rle.area:,} pixels",
        }
        for item, color in zip(pair.objects, pair.colors, strict=True)
    ]
    shown = items if "query" in pair.images else []
    return json.dumps({"objects": shown, "current": pair.current, "message": message, "version": pair.version})


def answers_value(pair: PagePair, message: str = "") -> str:
    """The list of answers, as ``assets/page/page.js`` draws it.

    Args:
        pair: whose objects were matched.
        message: HTML above them.
    """
    answers = []
    for index, (item, color) in enumerate(zip(pair.objects, pair.colors, strict=True)):
        if item.match is None or item.found is None:
            continue
        candidates = [c.mask_rle for c in item.found.candidates]
        chosen = candidates.index(item.match.mask_rle) if item.match.mask_rle in candidates else -1
        by_hand = item.match is not item.found
        words = visibility_words(item.match.visibility) + (", as you said" if by_hand else "")
        detail = "" if by_hand else f"probability {item.match.visibility:.2f}, similarity {item.match.similarity:.2f}"
        answers.append(
            {
                "index": index, "name": item.name, "color": color, "words": words, "detail": detail,
                "notes": list(item.match.notes), "current": index == pair.current, "chosen": chosen,
                "thumbs": [data_url(image, 80) for image in thumbnails(pair, index)],
            }
        )  # fmt: skip
    return json.dumps({"answers": answers, "message": message, "version": pair.version})


def about_image(image: PageImage, side: Side) -> str:
    """What is said below an image that was just looked at.

    Args:
        image: the image.
        side: which of the two it is.
    """
    what = "Click an object." if side == "query" else "Ready."
    return note_line(f"{what} (looked at in {image.seconds:.1f} s)" if image.seconds >= 0.05 else what)


def about_side(pair: PagePair, side: Side) -> str:
    """What is said below an image when it was looked at: what was done on it meanwhile counts more.

    Args:
        pair: with that image.
        side: which of the two it is.
    """
    if side in pair.refused:
        return pair.refused[side]
    if side == "query" and pair.shown:
        return about_object(pair)
    if side == "target" and pair.matched:
        return about_answer(pair)
    return about_image(pair.images[side], side)


def about_object(pair: PagePair) -> str:
    """What is said below the query image.

    Args:
        pair: with a current object.
    """
    item = pair.objects[pair.current]
    if item.selection is None:
        return note_line(f"Click {item.name}.")
    took = "" if pair.mark_s is None else f" Outlined in {pair.mark_s:.2f} s."
    lines = [f"Click to add to {item.name}, or add an object below.{took}"]
    return "".join(note_line(line) for line in (*lines, *(f"{item.name}: {note}" for note in item.selection.notes)))


def about_answer(pair: PagePair) -> str:
    """What is said below the target image.

    Args:
        pair: with a current object.
    """
    if not pair.matched:
        return ""
    name = pair.objects[pair.current].name
    return note_line(f"Wrong? Click {name} here.")


def download_links(session: PageSession, pair: PagePair) -> str:
    """Links to what can be taken home, which is made when it is fetched.

    Args:
        session: hands the files out.
        pair: of which they are.
    """
    if not pair.matched:
        return ""
    links = [
        f'<a class="cv-link" download="{name}" href="{session.offer(name, make)}">{html.escape(title)}</a>'
        for name, (title, make) in downloads(pair).items()
    ]
    return '<nav class="cv-downloads" aria-label="Downloads"><span>Download</span>' + "".join(links) + "</nav>"
