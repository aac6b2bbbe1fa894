"""How matches become an answer, and the names ``geometric:MATCHER[+hull][:WEIGHTS]``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from counterview.config import nearest, out_of_range
from counterview.errors import ConfigError

MATCHERS = ("sift", "lightglue", "loftr", "roma", "xfeat")
"""Names of matchers, the default first."""
WITH_WEIGHTS = ("lightglue", "loftr", "roma", "xfeat")
"""Matchers whose name may be followed by weights."""

Select = Literal["proposal", "hull"]

NAMES = ("geometric", *(f"geometric:{matcher}{hull}" for matcher in MATCHERS for hull in ("", "+hull")))
"""All names, without weights."""


@dataclass(frozen=True)
class GeometricConfig:
    """How the matches of two images carry a mask from one to the other.

    Raises:
        ConfigError: a value out of range.
    """

    select: Select = field(
        default="proposal",
        metadata={"help": "answer: the proposal with the matches of the object, or their convex hull"},
    )
    min_matches: int = field(
        default=4, metadata={"help": "matches of an object below which there is no answer; 4 fix a homography"}
    )
    vote: Literal["overlap", "count"] = field(
        default="overlap",
        metadata={"help": "order of proposals: IoU over matches, or the number of the object's matches inside"},
    )

    def __post_init__(self) -> None:
        problems = out_of_range(self, "min_matches", at_least=1)
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class GeometricName:
    """What a name says.

    Attributes:
        matcher: one of :data:`MATCHERS`.
        select: ``proposal`` or ``hull``.
        weights: a Hub id, folder or file; empty for the matcher's own.
    """

    matcher: str
    select: Select
    weights: str = ""


def is_geometric(name: str) -> bool:
    """Whether a name of a model begins with ``geometric``, alone or in front of a colon."""
    return name.partition(":")[0] == "geometric"


def parse_name(name: str) -> GeometricName:
    """Read a name ``geometric[:MATCHER[+hull][:WEIGHTS]]``.

    Raises:
        ConfigError: an unknown matcher or way to select (the error names the nearest name), or weights for ``sift``.

    >>> parse_name("geometric")
    GeometricName(matcher='sift', select='proposal', weights='')
    >>> parse_name("geometric:lightglue+hull:models/lightglue")
    GeometricName(matcher='lightglue', select='hull', weights='models/lightglue')
    >>> parse_name("geometric:sfit")
    Traceback (most recent call last):
    counterview.errors.ConfigError: there is no model 'geometric:sfit'; ... Did you mean 'geometric:sift'?
    """
    head, colon, weights = name.removeprefix("geometric").removeprefix(":").partition(":")
    matcher, plus, select = (head or "sift").partition("+")
    bare = name == "geometric"
    if matcher not in MATCHERS or (plus and select not in ("hull", "proposal")) or not (bare or head):
        raise ConfigError(
            f"there is no model {name!r}",
            expected="geometric:MATCHER, with +hull for the hull of the matches, and :WEIGHTS for other weights",
            fix=nearest(f"geometric:{head}", NAMES[1:]).capitalize(),
        )
    if colon and matcher not in WITH_WEIGHTS:
        raise ConfigError(f"{matcher} has no weights", found=repr(name), expected=repr(f"geometric:{head}"))
    if colon and not weights:
        raise ConfigError(f"nothing follows the last colon in {name!r}", expected=f"geometric:{head}:WEIGHTS")
    return GeometricName(matcher, "hull" if select == "hull" else "proposal", weights)
