"""Corrections of tracks, from a file: at some time in some camera an object is here, or is not visible.

``{"corrections": [{"object": NAME, "camera": NAME, "time_s": S or "frame": N, and one of "mask": COCO run lengths,
"mask_png": a file beside this one, "point": [x, y] or "X,Y+X,Y-X,Y", "box": [x1, y1, x2, y2] or "X1,Y1,X2,Y2+X,Y-X,Y",
"absent": true}]}``. Here and not in :mod:`counterview.tracking`, so that a correction is a prompt like any other.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from counterview.errors import AnnotationError, InputError, shown
from counterview.inference.prompts import (
    AnyPrompt,
    Box,
    Point,
    Prompt,
    as_box,
    as_point,
    check_prompt,
    prompt_from_text,
)
from counterview.inference.shown import ShownObject
from counterview.masks.png import read_mask
from counterview.masks.rle import from_coco
from counterview.media.files import read_json, safe_join, write_json
from counterview.types import ObjectMask

MAX_BYTES = 1 << 28
"""Size of the largest file of corrections."""

_ABOUT = ("object", "camera", "time_s", "frame")
_KINDS = ("mask", "mask_png", "point", "box", "absent")


def read_corrections(path: str | os.PathLike[str]) -> list[ShownObject]:
    """Read a file of corrections.

    Args:
        path: the file, JSON; see the head of this module.

    Raises:
        AnnotationError: the file is missing, not JSON, or of another form; two entries for one object, camera and time;
            or a mask, point or box that is malformed. It names the file and the number of the entry, from 1 on.
    """
    content = read_json(path, error=AnnotationError, max_bytes=MAX_BYTES)
    entries = content.get("corrections") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise AnnotationError("is not a file of corrections", path=path, expected='{"corrections": [...]}')
    found: dict[tuple[str, str, str, float], int] = {}
    corrections = []
    for number, entry in enumerate(entries, 1):
        try:
            correction = _correction(entry, Path(path), number)
        except InputError as error:
            problem = error.problem if error.path is None else f"{error.path}: {error.problem}"
            raise AnnotationError(
                f"entry {number}: {problem}", path=path, found=error.found, expected=error.expected, fix=error.fix
            ) from None
        where = ("frame", float(correction.frame)) if correction.frame is not None else ("time", correction.time_s or 0)
        earlier = found.setdefault((correction.object, correction.camera, *where), number)
        if earlier != number:
            raise AnnotationError(
                f"entry {number} corrects what entry {earlier} does", path=path,
                found=f"{shown(correction.object)} in {shown(correction.camera)} twice at {where[0]} {where[1]:g}",
                expected="one entry for each object, camera and time", fix="Remove one of them.",
            )  # fmt: skip
        corrections.append(correction)
    return corrections


def write_corrections(path: str | os.PathLike[str], items: Iterable[ShownObject]) -> None:
    """Write a file of corrections, aside and renamed; :func:`read_corrections` gives the same back.

    Args:
        path: the file.
        items: where objects are, or are not visible; points and boxes are kept to a thousandth of a pixel.

    Raises:
        OutputError: it cannot be written.
    """
    entries = []
    for item in items:
        when = {"frame": item.frame} if item.frame is not None else {"time_s": item.time_s or 0.0}
        entries.append({"object": item.object, "camera": item.camera, **when, **_as_json(item.prompt)})
    write_json(path, {"corrections": entries})


def _as_json(prompt: AnyPrompt | None) -> dict[str, Any]:
    """What an entry says of the object; the inverse of :func:`_prompt`."""
    if prompt is None:
        return {"absent": True}
    if isinstance(prompt, ObjectMask):
        return {"mask": prompt.to_coco()}
    if isinstance(prompt, Point):
        prompt = Prompt(points=[prompt])
    elif isinstance(prompt, Box):
        prompt = Prompt(box=prompt)
    points, background = [as_point(p) for p in prompt.points], [as_point(p) for p in prompt.background]
    if prompt.box is not None:
        box = as_box(prompt.box)
        kind, first = "box", [box.x1_px, box.y1_px, box.x2_px, box.y2_px]
    else:
        kind, first = "point", [points[0].x_px, points[0].y_px]
        points = points[1:]
    if not points and not background:
        return {kind: [round(value, 3) for value in first]}
    text = ",".join(f"{value:.3f}" for value in first)
    for sign, several in (("+", points), ("-", background)):
        text += "".join(f"{sign}{point.x_px:.3f},{point.y_px:.3f}" for point in several)
    return {kind: text}


def check_corrections(
    corrections: Collection[ShownObject], sizes_hw: Mapping[str, tuple[int, int]], objects: Collection[str]
) -> None:
    """Check that corrections fit the cameras and objects that they are for, before anything is computed.

    Args:
        corrections: what :func:`read_corrections` gives.
        sizes_hw: height and width of the images of each camera, in pixels.
        objects: names of the objects that are followed.

    Raises:
        InputError: an unknown camera or object, or a point or box outside the image; it names the entry.
        MaskError: a mask of another size than the image, or an empty one.
    """
    for item in corrections:
        for what, name, known in (("camera", item.camera, sizes_hw), ("object", item.object, objects)):
            if name not in known:
                raise InputError(
                    f"{item.source}: no such {what}", found=shown(name), expected=", ".join(map(str, known))
                )
        if item.prompt is None:
            continue
        try:
            check_prompt(item.prompt, sizes_hw[item.camera], item.object)
        except InputError as error:
            raise type(error)(
                f"{item.source}: {error.problem}", found=error.found, expected=error.expected, fix=error.fix
            ) from None


def _correction(entry: Any, path: Path, number: int) -> ShownObject:
    if not isinstance(entry, dict):
        raise InputError("is not an object", found=type(entry).__name__)
    unknown = sorted(set(entry) - {*_ABOUT, *_KINDS})
    if unknown:
        raise InputError("an unknown key", found=shown(unknown[0]), expected=", ".join((*_ABOUT, *_KINDS)))
    for key in ("object", "camera"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise InputError(f"{key} is not a name", found=shown(entry.get(key)), expected="a text")
    time_s, frame = _time(entry)
    given = [kind for kind in _KINDS if kind in entry]
    if len(given) != 1:
        raise InputError(
            "says where the object is in none or several ways", found=", ".join(given) or None,
            expected="one of " + ", ".join(_KINDS),
        )  # fmt: skip
    prompt = _prompt(given[0], entry[given[0]], path)
    return ShownObject(entry["object"], entry["camera"], prompt, time_s, frame, f"{path}: entry {number}")


def _time(entry: Mapping[str, Any]) -> tuple[float | None, int | None]:
    """The time or the frame of an entry."""
    if ("time_s" in entry) == ("frame" in entry):
        raise InputError("has no time, or two", expected="time_s or frame")
    time_s, frame = entry.get("time_s"), entry.get("frame")
    if "frame" in entry:
        if type(frame) is not int or not 0 <= frame < 1 << 53:
            raise InputError("frame is not the number of a frame", found=shown(frame), expected="an integer from 0")
        return None, frame
    if isinstance(time_s, int | float) and not isinstance(time_s, bool) and abs(time_s) < 1 << 53:  # false for NaN
        return float(time_s), None
    raise InputError("time_s is not a time", found=shown(time_s), expected="seconds")


def _prompt(kind: str, value: Any, path: Path) -> AnyPrompt | None:
    """What an entry says of the object; ``None`` if it is not visible."""
    if kind == "absent":
        if value is not True:
            raise InputError("absent is not true", found=shown(value), expected="true, or a mask, point or box")
        return None
    if kind == "mask":
        mask = from_coco(value)
    elif kind == "mask_png":
        if not isinstance(value, str):
            raise InputError("mask_png is not a file name", found=shown(value), expected="a PNG beside the file")
        mask = ObjectMask.from_array(read_mask(safe_join(path.parent, value)))
    elif isinstance(value, str):
        return prompt_from_text(value, "box" if kind == "box" else "point", kind)
    else:
        return as_box(value) if kind == "box" else as_point(value)
    if mask.is_empty:
        raise InputError(f"{kind} is empty", expected="at least one pixel", fix='If not visible, give "absent": true.')
    return mask
