"""How a user says which object of the query image is meant: by a mask, points, a box, or points and a box."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from counterview.errors import ImageError, InputError, MaskError, shown
from counterview.masks.png import read_mask
from counterview.types import BoolImage, ObjectMask


@dataclass(frozen=True)
class Point:
    """A pixel of the query image.

    Attributes:
        x_px: column, counted from the left edge.
        y_px: row, counted from the top edge.
        time_s: when it is shown, in seconds after the first image of its camera, where it is one of a video.

    >>> Point(12, 7.5).check((480, 640))
    >>> Point(640, 0).check((480, 640))
    Traceback (most recent call last):
    counterview.errors.InputError: the point 640,0 is outside the query image; expected x from 0 to 639 and y from ...
    """

    x_px: float
    y_px: float
    time_s: float | None = field(default=None, kw_only=True, repr=False)

    def check(self, size_hw: tuple[int, int]) -> None:
        """Check that the point is inside an image of height and width ``size_hw``.

        Raises:
            InputError: the point is outside.
        """
        height, width = size_hw
        if not (0 <= self.x_px < width and 0 <= self.y_px < height):
            raise InputError(
                f"the point {self.x_px:g},{self.y_px:g} is outside the query image",
                expected=f"x from 0 to {width - 1} and y from 0 to {height - 1}",
            )


@dataclass(frozen=True)
class Box:
    """A box around an object of the query image.

    It covers the pixels ``x1_px <= x < x2_px`` and ``y1_px <= y < y2_px``.

    Attributes:
        x1_px: left edge.
        y1_px: top edge.
        x2_px: right edge, exclusive.
        y2_px: bottom edge, exclusive.
        time_s: when it is shown, in seconds after the first image of its camera, where it is one of a video.

    >>> Box(10, 20, 60, 80).check((480, 640))
    >>> Box(10, 20, 10, 80).check((480, 640))
    Traceback (most recent call last):
    counterview.errors.InputError: the box 10,20,10,80 is empty; expected X1 < X2 and Y1 < Y2
    """

    x1_px: float
    y1_px: float
    x2_px: float
    y2_px: float
    time_s: float | None = field(default=None, kw_only=True, repr=False)

    def check(self, size_hw: tuple[int, int]) -> None:
        """Check that the box is not empty and is inside an image of height and width ``size_hw``.

        Raises:
            InputError: the box is empty or reaches outside the image.
        """
        height, width = size_hw
        text = f"the box {self.x1_px:g},{self.y1_px:g},{self.x2_px:g},{self.y2_px:g}"
        if not (self.x1_px < self.x2_px and self.y1_px < self.y2_px):
            raise InputError(f"{text} is empty", expected="X1 < X2 and Y1 < Y2")
        if self.x1_px < 0 or self.y1_px < 0 or self.x2_px > width or self.y2_px > height:
            raise InputError(
                f"{text} reaches outside the query image",
                expected=f"x from 0 to {width} and y from 0 to {height}",
            )


@dataclass(frozen=True)
class Prompt:
    """One object of the query image by several points, a box, or both.

    Attributes:
        points: pixels of the object: :class:`Point`, or ``(x, y)``.
        background: pixels that are not of the object, likewise.
        box: around the object: :class:`Box`, or ``(x1, y1, x2, y2)``.
        time_s: when it is shown, in seconds after the first image of its camera, where it is one of a video.

    Raises:
        InputError: neither a point nor a box, or a point or box of another form.

    >>> Prompt(points=[(410, 260), (430, 280)], background=[(500, 300)])
    Prompt(points=(Point(x_px=410, y_px=260), Point(x_px=430, y_px=280)), ...)
    >>> Prompt(background=[(500, 300)])
    Traceback (most recent call last):
    counterview.errors.InputError: a prompt has a point or a box; found 1 background points alone
    """

    points: Sequence[Point | tuple[float, float]] = ()
    background: Sequence[Point | tuple[float, float]] = ()
    box: Box | tuple[float, float, float, float] | None = None
    time_s: float | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        for name in ("points", "background"):
            object.__setattr__(self, name, _as_points(getattr(self, name)))
        if self.box is not None:
            object.__setattr__(self, "box", as_box(self.box))
        if not self.points and self.box is None:
            found = f"{len(self.background)} background points alone" if self.background else None
            raise InputError("a prompt has a point or a box", found=found)

    def check(self, size_hw: tuple[int, int]) -> None:
        """Check that points and box are inside an image of height and width ``size_hw``.

        Raises:
            InputError: one is outside, or the box is empty.
        """
        for point in (*self.points, *self.background):
            as_point(point).check(size_hw)
        if self.box is not None:
            as_box(self.box).check(size_hw)


AnyPrompt = ObjectMask | Point | Box | Prompt
"""What says which object of the query image is meant."""

PromptLike = AnyPrompt | BoolImage | tuple[float, float] | str | os.PathLike[str]
"""What a call takes for it: also a mask ``(H, W)`` as an array, a point as ``(x, y)``, or the file of a mask."""

QueryObjects = PromptLike | Sequence[PromptLike] | Mapping[str, PromptLike]
"""One query object, several, or several by name."""


def as_point(value: Any) -> Point:
    """A point, or two numbers as one.

    Raises:
        InputError: another number of values, or values that are not finite numbers.

    >>> as_point((410, 260))
    Point(x_px=410, y_px=260)
    """
    if isinstance(value, Point):
        return value
    coordinates = _numbers(value)
    if coordinates is None or len(coordinates) != 2:
        raise InputError(
            "a point is (x, y) in pixels", found=_shown(value), fix="For a box, use counterview.Box(x1, y1, x2, y2)."
        )
    return Point(*coordinates)


def as_box(value: Any) -> Box:
    """A box, or four numbers ``x1, y1, x2, y2`` as one.

    Raises:
        InputError: another number of values, or values that are not finite numbers.
    """
    if isinstance(value, Box):
        return value
    coordinates = _numbers(value)
    if coordinates is None or len(coordinates) != 4:
        raise InputError("a box is (x1, y1, x2, y2) in pixels", found=_shown(value))
    return Box(*coordinates)


def as_prompt(value: Any, name: str = "object") -> AnyPrompt:
    """What says which object is meant, in one of four forms.

    Args:
        value: a mask ``(H, W)`` as an array, :class:`ObjectMask` or file; a point, as :class:`Point` or ``(x, y)``; a
            :class:`Box`; or a :class:`Prompt`.
        name: of the object, for error messages.

    Raises:
        MaskError: ``None``, an array that is not a 2-D mask, or a file that is not a mask.
        InputError: anything else.
    """
    if isinstance(value, ObjectMask | Point | Box | Prompt):
        return value
    if value is None:
        raise MaskError(f"the query object {name!r} is None", expected="a mask, a point, a box or a counterview.Prompt")
    if isinstance(value, str | os.PathLike):
        return ObjectMask.from_array(read_mask(value))
    if isinstance(value, tuple | list) and (len(value) == 0 or all(isinstance(v, numbers.Real) for v in value)):
        return as_point(value)
    array = np.asarray(value) if hasattr(value, "__array__") or isinstance(value, Sequence) else None
    if array is None or array.dtype == object:
        raise InputError(
            f"the query object {name!r} is of an unknown kind", found=type(value).__name__,
            expected="a mask, a point, a box or a counterview.Prompt",
        )  # fmt: skip
    return ObjectMask.from_array(array)


_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SIGNED_POINTS = re.compile(rf"(?P<first>.+?)(?P<points>(?:[+-]{_NUMBER},{_NUMBER})*)")


def prompt_from_text(text: str, kind: Literal["point", "box"], what: str) -> Point | Box | Prompt:
    """A point or box with its further points, in characters that no shell reads.

    Args:
        text: ``X,Y`` or ``X1,Y1,X2,Y2`` in pixels, then points of the object as ``+X,Y`` and of the background as
            ``-X,Y``.
        kind: what it begins with.
        what: names it in the error message.

    Raises:
        InputError: a text of another form.

    >>> prompt_from_text("410,260", "point", "--point")
    Point(x_px=410.0, y_px=260.0)
    >>> prompt_from_text("400,250,440,300-500,300", "box", "--box").background
    (Point(x_px=500.0, y_px=300.0),)
    """
    bare = "".join(text.split())
    form, count = ("X1,Y1,X2,Y2", 4) if kind == "box" else ("X,Y", 2)
    parts = _SIGNED_POINTS.fullmatch(bare)
    try:
        values = [float(part) for part in (parts["first"] if parts else bare).split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise InputError(f"{what} is malformed", found=_shown(text), expected=f"{form} in pixels, then +X,Y or -X,Y")
    signed = re.findall(rf"([+-])({_NUMBER}),({_NUMBER})", parts["points"] if parts else "")
    if not signed:
        return Box(*values) if kind == "box" else Point(*values)
    more = [Point(float(x), float(y)) for sign, x, y in signed if sign == "+"]
    background = [Point(float(x), float(y)) for sign, x, y in signed if sign == "-"]
    if kind == "box":
        return Prompt(points=more, background=background, box=Box(*values))
    return Prompt(points=[Point(*values), *more], background=background)


def name_prompts(prompts: Any, names: Sequence[str] | None = None) -> tuple[list[AnyPrompt], list[str]]:
    """Bring query objects into the form of a list, with a name for each.

    Args:
        prompts: see :data:`QueryObjects`; masks are ``(H, W)``.
        names: one for each; by default the keys of ``prompts``, or ``object 1``, ``object 2``, …

    Returns:
        the prompts and their names.

    Raises:
        MaskError: ``None``, or an array that is not a 2-D mask.
        InputError: no object, a point of another form, another number of names than of objects, or a name twice.

    >>> name_prompts({"mug": (12, 7), "knife": Box(3, 4, 30, 9)})
    ([Point(x_px=12, y_px=7), Box(x1_px=3, y1_px=4, x2_px=30, y2_px=9)], ['mug', 'knife'])
    """
    if isinstance(prompts, Mapping):
        names = list(prompts) if names is None else names
        values = list(prompts.values())
    elif _is_one(prompts):
        values = [prompts]
    else:
        values = list(prompts)
    if not values:
        raise InputError("no query object was given", expected="at least one mask, point or box")
    given = [f"object {i}" for i in range(1, len(values) + 1)] if names is None else [str(n) for n in names]
    if len(given) != len(values) or len(set(given)) != len(given):
        raise InputError("the names of query objects are not unique", found=f"{len(values)} masks and {given}")
    return [as_prompt(value, name) for value, name in zip(values, given, strict=True)], given


def _is_one(prompts: Any) -> bool:
    """Whether a value is one query object, and not a list of them."""
    if prompts is None or isinstance(prompts, ObjectMask | Point | Box | Prompt | str | os.PathLike):
        return True
    if isinstance(prompts, tuple | list):
        return bool(prompts) and all(isinstance(v, numbers.Real) for v in prompts)
    return getattr(prompts, "ndim", 0) == 2 or not hasattr(prompts, "__iter__")


def _as_points(value: Any) -> tuple[Point, ...]:
    """Points of a prompt; a single one stands for a list of one."""
    if isinstance(value, Point) or (_numbers(value) is not None and len(value) == 2):
        return (as_point(value),)
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
        raise InputError("the points of a prompt are a list of (x, y)", found=_shown(value))
    return tuple(as_point(point) for point in value)


def _numbers(value: Any) -> list[float] | None:
    """The values of a tuple, list or array of finite numbers; ``None`` for anything else."""
    if not isinstance(value, tuple | list | np.ndarray) or len(value) == 0:
        return None
    if not all(isinstance(v, numbers.Real) and not isinstance(v, bool) and _is_finite(v) for v in value):
        return None
    return [v.item() if isinstance(v, np.generic) else v for v in value]


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is larger than any float
        return False


def _shown(value: Any) -> str:
    return shown(value, 60)


def check_query_mask(mask: ObjectMask, size_hw: tuple[int, int], name: str) -> None:
    """Check that a query mask ``(H, W)`` has the size of its image and is not empty.

    Args:
        mask: the mask.
        size_hw: height and width of the image in pixels.
        name: of the object, for the error message.

    Raises:
        MaskError: the mask is empty or of another size.
    """
    if mask.size_hw != tuple(size_hw):
        raise MaskError(
            f"the mask {name!r} does not fit the query image",
            found=f"{mask.size_hw[1]} x {mask.size_hw[0]}",
            expected=f"{size_hw[1]} x {size_hw[0]}",
            fix="Draw the mask on the image at its own size.",
        )
    if mask.is_empty:
        raise MaskError(f"the mask {name!r} is empty", expected="at least one pixel")


def check_prompt(prompt: AnyPrompt, size_hw: tuple[int, int], name: str) -> None:
    """Check that a mask, a point, a box or a prompt fits its image, before anything is computed.

    Args:
        prompt: the mask ``(H, W)``, point, box or prompt.
        size_hw: height and width of the image in pixels.
        name: of the object, for the error message.

    Raises:
        MaskError: a mask that is empty or of another size.
        InputError: a point or box outside the image, or an empty box.
    """
    if isinstance(prompt, ObjectMask):
        check_query_mask(prompt, size_hw, name)
    else:
        prompt.check(size_hw)


MAX_ASPECT = 20
"""Images that are longer than this many times their other side are refused: strips, not views of a scene."""


def check_shape(size_hw: tuple[int, int], what: str) -> None:
    """Check that an image may be a view of a scene, before anything is computed.

    Args:
        size_hw: its height and width in pixels.
        what: names it in the error message.

    Raises:
        ImageError: a strip.
    """
    if max(size_hw) > MAX_ASPECT * min(size_hw):
        raise ImageError(
            f"the {what} is a strip", found=f"{size_hw[1]} x {size_hw[0]}",
            expected=f"a longer side of at most {MAX_ASPECT} times the shorter", fix="Give the whole image.",
        )  # fmt: skip


MIN_PIXELS = 4
"""A query mask with fewer pixels describes nothing."""

MAX_QUERY_FRACTION = 0.8
"""A query mask that covers more of its image is background, or inverted."""

DOUBTFUL_VISIBILITY = 0.5
"""Largest visibility for a query mask that :func:`doubts_on` doubts: not called visible, whatever the match."""


def doubts_on(mask: ObjectMask) -> tuple[str, ...]:
    """Why a query mask ``(H, W)`` hardly shows an object, in sentences for the user; empty if it may.

    Args:
        mask: with at least one pixel.

    >>> dense = np.zeros((40, 60), dtype=bool)
    >>> dense[10:12, 10:20] = True
    >>> doubts_on(ObjectMask.from_array(dense))
    ()
    >>> doubts_on(ObjectMask.from_array(~dense))
    ('the query mask covers 99 % of its image: it may be inverted, or the background',)
    """
    fraction = mask.area / (mask.size_hw[0] * mask.size_hw[1])
    if mask.area < MIN_PIXELS:
        number = f"{mask.area} pixel" + ("" if mask.area == 1 else "s")
        return (f"the query mask has {number}: too few to describe an object",)
    if fraction > MAX_QUERY_FRACTION:
        what = "all" if fraction == 1 else f"{fraction:.0%}".replace("%", " %")
        return (f"the query mask covers {what} of its image: it may be inverted, or the background",)
    return ()
