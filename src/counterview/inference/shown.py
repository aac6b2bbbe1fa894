"""Where an object is at one time in one camera, as a user says: what following starts from, and what corrects it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterview.errors import InputError, shown
from counterview.inference.prompts import AnyPrompt, Box, Point, Prompt, PromptLike, as_prompt
from counterview.types import ObjectMask


@dataclass(frozen=True)
class ShownObject:
    """Where an object is at one time in one camera, as a user says.

    Attributes:
        object: the object's name.
        camera: the camera's name.
        prompt: a mask ``(H, W)``, point, box or prompt; ``None`` if the object is not visible.
        time_s: the time on the camera's own clock, in seconds; ``None`` if the frame is given.
        frame: number of the frame in the camera; ``None`` if the time is given.
        source: what a user wrote, for error messages.
    """

    object: str
    camera: str
    prompt: AnyPrompt | None
    time_s: float | None = None
    frame: int | None = None
    source: str = "corrections"


@dataclass(frozen=True)
class TimedPrompt:
    """A prompt of any kind with the time at which it holds, for masks and for what is seen in another camera.

    Attributes:
        prompt: a mask ``(H, W)``, point, box or prompt; ``None`` if the object is not visible then.
        time_s: in seconds after the first image of the camera.
        camera: in which it is shown; the query camera if ``None``.

    Raises:
        InputError: a time that is not a number of 0 or more.
    """

    prompt: PromptLike | None
    time_s: float = 0.0
    camera: str | None = None

    def __post_init__(self) -> None:
        _check_time(self.time_s, "a prompt")


ShownLike = PromptLike | TimedPrompt | Sequence[TimedPrompt | Point | Box | Prompt]
"""What says where one object is: one prompt, or several at different times."""


def shown_objects(objects: Mapping[str, ShownLike], query: str) -> list[ShownObject]:
    """Objects by name in the form of a list, in the order of their names as given.

    Args:
        objects: name to prompt; a point, a box or a prompt has its time in ``time_s``, a mask in :class:`TimedPrompt`.
            Without a time it is that of the camera's first image.
        query: name of the query camera.

    Raises:
        InputError: no object, a name that is not a text, or a prompt or time of another form.
        MaskError: an array that is not a 2-D mask.

    >>> shown_objects({"mug": Point(410, 260, time_s=3.2)}, "ego")
    [ShownObject(object='mug', camera='ego', prompt=Point(x_px=410, y_px=260), time_s=3.2, frame=None, ...)]
    """
    if not isinstance(objects, Mapping) or not objects:
        raise InputError(
            "objects are given by name", found=type(objects).__name__ if not isinstance(objects, Mapping) else "none",
            expected='a dictionary such as {"mug": counterview.Point(410, 260, time_s=3.2)}',
        )  # fmt: skip
    result: list[ShownObject] = []
    for name, value in objects.items():
        if not isinstance(name, str) or not name:
            raise InputError("an object's name is a text", found=shown(name))
        for prompt in _several(value):
            result.append(_one(name, prompt, query))
    return result


def _several(value: Any) -> list[Any]:
    several = isinstance(value, list | tuple) and any(isinstance(v, TimedPrompt | Point | Box | Prompt) for v in value)
    return list(value) if several else [value]


def _one(name: str, value: Any, query: str) -> ShownObject:
    if isinstance(value, TimedPrompt):
        prompt = None if value.prompt is None else as_prompt(value.prompt, name)
        return ShownObject(name, value.camera or query, prompt, value.time_s, source=f"object {name!r}")
    prompt = as_prompt(value, name)
    time_s = 0.0 if isinstance(prompt, ObjectMask) else prompt.time_s or 0.0
    _check_time(time_s, f"the prompt of {name!r}")
    return ShownObject(name, query, prompt, time_s, source=f"object {name!r}")


def _check_time(time_s: Any, what: str) -> None:
    is_number = isinstance(time_s, int | float) and not isinstance(time_s, bool)
    if not is_number or not math.isfinite(time_s) or time_s < 0:
        raise InputError(f"the time of {what} is not a time", found=shown(time_s), expected="seconds, 0 or more")
