"""Where a visitor shows objects in videos: marks that can be taken back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from counterview.app.marks import AGAIN
from counterview.errors import InputError, counted
from counterview.inference.prompts import AnyPrompt, Box, Point, Prompt, as_point, check_prompt
from counterview.inference.shown import ShownObject
from counterview.types import ObjectMask

MAX_OBJECTS, MAX_MARKS, MAX_UNDO = 40, 2000, 50

Place = tuple[str, str, int]
"""Object, camera and number of a frame."""


class MarkedObjects:
    """Objects by name, and where they are shown.

    Attributes:
        names: of the objects, in the order in which they were named.
        prompts: where they are shown; ``None``: not visible there. Replaced at each change, never changed: several
            threads read it.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.prompts: dict[Place, AnyPrompt | None] = {}
        self._history: list[dict[Place, AnyPrompt | None]] = []

    def add(self, name: str = "") -> str:
        """Name a further object.

        Args:
            name: its name; a free one if empty.

        Returns:
            the name.

        Raises:
            InputError: it is taken, or there are too many objects.
        """
        if len(self.names) >= MAX_OBJECTS:
            raise InputError(f"there are {counted(MAX_OBJECTS, 'object')} already", expected="no more")
        text = object_name(name) if name.strip() else self._free()
        if text in self.names:
            raise InputError("there is an object of this name", found=text, expected="another name")
        self.names.append(text)
        return text

    def _free(self) -> str:
        first = len(self.names) + 1
        return next(text for n in range(first, first + MAX_OBJECTS) if (text := f"object {n}") not in self.names)

    def rename(self, name: str, new: str) -> str:
        """Give an object another name.

        Args:
            name: of the object.
            new: its name from now on.

        Returns:
            the new name.

        Raises:
            InputError: no such object, or a name that is taken.
        """
        text = object_name(new)
        if text == name:
            return name
        if name not in self.names or text in self.names:
            raise InputError("the object cannot have this name", found=text, expected="a name that is not taken")
        self.names[self.names.index(name)] = text
        self.prompts = {(text if o == name else o, c, n): p for (o, c, n), p in self.prompts.items()}
        self._history.clear()
        return text

    def remove(self, name: str) -> None:
        """Forget an object.

        Args:
            name: of the object.
        """
        self.names = [other for other in self.names if other != name]
        self.prompts = {place: prompt for place, prompt in self.prompts.items() if place[0] != name}
        self._history.clear()

    def check(self, name: str) -> None:
        """Check that there is an object.

        Args:
            name: of the object.

        Raises:
            InputError: there is none of this name.
        """
        if name not in self.names:
            raise InputError("there is no such object", found=name, expected=", ".join(self.names) or "a new object")

    def mark(self, place: Place, kind: str, points: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> None:
        """Say where an object is in a frame; what was said of it there before is added to.

        A point on an earlier point takes that one away.

        Args:
            place: object, camera and number of the frame.
            kind: ``point``, ``away`` (a point that is not of the object), ``box`` or ``absent`` (not visible).
            points: pixels; one, or two opposite corners of a box.
            size_hw: height and width of the frame, in pixels.

        Raises:
            InputError: no such object, a pixel outside, a point of the background before any of the object, or too many
                marks.
        """
        self.check(place[0])
        if len(self.prompts) >= MAX_MARKS and place not in self.prompts:
            raise InputError(f"objects are shown in {counted(MAX_MARKS, 'place')} already", expected="no more")
        prompt = None if kind == "absent" else _added(self.prompts.get(place), kind, points, AGAIN * max(size_hw))
        if prompt is not None:
            check_prompt(prompt, size_hw, place[0])
        self._remember()
        if prompt is None and kind != "absent":
            self.prompts = _without(self.prompts, place)
        else:
            self.prompts = {**self.prompts, place: prompt}

    def paint(self, place: Place, mask: ObjectMask) -> None:
        """Say where an object is in a frame by its mask.

        Args:
            place: object, camera and number of the frame.
            mask: ``(H, W)`` at the size of the frame.

        Raises:
            InputError: no such object, or nothing is left of the mask.
        """
        self.check(place[0])
        if mask.is_empty:
            raise InputError("nothing is left of the mask", fix="If the object is not visible, press Not visible here.")
        self._remember()
        self.prompts = {**self.prompts, place: mask}

    def unmark(self, place: Place) -> None:
        """Forget what was said of an object in a frame.

        Args:
            place: object, camera and number of the frame.
        """
        if place in self.prompts:
            self._remember()
            self.prompts = _without(self.prompts, place)

    def undo(self) -> None:
        """Take back the last mark."""
        if self._history:
            self.prompts = self._history.pop()

    def take_back(self, place: Place, prompt: AnyPrompt) -> None:
        """Take back one mark, also out of what can be undone; marks that came later stay.

        Args:
            place: where it is.
            prompt: as it was set there; if it was changed since, nothing is done.
        """
        if self.prompts.get(place) is not prompt:
            return
        states = [*self._history, self.prompts]
        before = next((s for s in reversed(states) if s.get(place) is not prompt), {})
        kept = {place: before[place]} if place in before else {}
        states = [{**_without(s, place), **kept} if s.get(place) is prompt else s for s in states]
        self._history = [state for state, after in pairwise(states) if state != after]
        self.prompts = states[-1]

    def _remember(self) -> None:
        self._history = [*self._history[1 - MAX_UNDO :], self.prompts]

    def shown_in(self, camera: str, number: int) -> dict[str, AnyPrompt | None]:
        """What was said of objects in a frame.

        Args:
            camera: its name.
            number: of the frame.
        """
        return {name: prompt for (name, c, n), prompt in self.prompts.items() if (c, n) == (camera, number)}

    def shown(self) -> list[ShownObject]:
        """All that was said, the objects in the order in which they were named."""
        items = sorted(self.prompts.items(), key=lambda item: self.names.index(item[0][0]))
        return [
            ShownObject(name, camera, prompt, frame=number, source=f"{name} in {camera}, frame {number}")
            for (name, camera, number), prompt in items
        ]


def _without(prompts: dict[Place, AnyPrompt | None], place: Place) -> dict[Place, AnyPrompt | None]:
    return {other: prompt for other, prompt in prompts.items() if other != place}


def _added(before: AnyPrompt | None, kind: str, points: Sequence[Sequence[float]], reach_px: float) -> AnyPrompt | None:
    """A prompt with a further point, one less, or another box; ``None`` if nothing of the object is left."""
    if isinstance(before, Point):
        before = Prompt(points=(before,))
    elif isinstance(before, Box):
        before = Prompt(box=before)
    elif isinstance(before, ObjectMask):  # a point or a box says it anew
        before = None
    try:
        pixels = [(round(float(x), 2), round(float(y), 2)) for x, y in points]  # as they are saved
        first, last = pixels[0], pixels[-1]
    except (TypeError, ValueError, IndexError):
        raise InputError("a mark has no pixel", found=str(points)[:80], expected="[[x, y], …]") from None
    positive, background, box = (before.points, before.background, before.box) if before is not None else ((), (), None)
    if kind == "box":
        (left, right), (top, bottom) = sorted((first[0], last[0])), sorted((first[1], last[1]))
        return Prompt(points=positive, background=background, box=(left, top, right, bottom))
    if kind == "point":
        positive = _toggled(positive, first, reach_px)
        return None if not positive and box is None else Prompt(points=positive, background=background, box=box)
    if kind != "away":
        raise InputError("there is no such mark", found=kind, expected="point, away, box or absent")
    if before is None:
        raise InputError("nothing to take away from", fix="Click the object first, then what does not belong to it.")
    return Prompt(points=positive, background=_toggled(background, first, reach_px), box=box)


def _toggled(points: Sequence[Any], pixel: tuple[float, float], reach_px: float) -> tuple[Any, ...]:
    """Points with a further one, or without the one that it is on."""
    known = [as_point(point) for point in points]
    left = [point for point in known if math.dist((point.x_px, point.y_px), pixel) > reach_px]
    return tuple(left) if len(left) < len(known) else (*known, Point(*pixel))


def object_name(text: str) -> str:
    """A name of an object in one line, without what cannot be shown.

    Args:
        text: as a visitor wrote it.

    Raises:
        InputError: nothing is left of it.
    """
    name = " ".join("".join(c for c in text if c.isprintable()).split())[:60]
    if not name:
        raise InputError("an object needs a name", fix="Write what it is, such as mug.")
    return name
