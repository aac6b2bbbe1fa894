"""Published scores of other systems, with source, split and protocol.

They are in ``published.yaml`` beside this module. Numbers are comparable only where split and protocol are the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from counterview.config import load_config
from counterview.data.dataset import DIRECTIONS, Direction
from counterview.errors import ConfigError
from counterview.evaluation.scorer import MEASURES, PROTOCOLS

FILE = Path(__file__).with_name("published.yaml")
UNSTATED = "unstated"
SPLITS = ("v2-test", "v1-val", "val", "val-10%", "test")
_PERCENT = {"iou": "iou_percent", "balanced_accuracy": "balanced_accuracy_percent"}

Pair = tuple[float | None, float | None]


@dataclass(frozen=True)
class PaperSource:
    """A publication.

    Attributes:
        title: its title, or the name of the system.
        venue: conference and year.
        arxiv: identifier, if it has one.
    """

    title: str
    venue: str
    arxiv: str | None = None

    def __str__(self) -> str:
        return f"{self.venue}, arXiv {self.arxiv}" if self.arxiv else self.venue


@dataclass(frozen=True)
class PublishedScore:
    """One published row, both directions. Lists are ``[ego2exo, exo2ego]``, in the units of the file.

    Raises:
        ConfigError: an unknown split or protocol, a number out of range, or no IoU.
    """

    tables: tuple[str, ...]
    system: str
    source: str
    split: str
    protocol: str
    iou_percent: Pair
    read: Literal["paper", "compiled"]
    place: str | None = None
    row: str | None = None
    location_error: Pair = (None, None)
    contour_accuracy: Pair = (None, None)
    balanced_accuracy_percent: Pair = (None, None)
    parameters_m: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.split not in SPLITS:
            problems.append(f"split is {self.split!r}, expected {' or '.join(SPLITS)}")
        if self.protocol not in (*PROTOCOLS, UNSTATED):
            problems.append(f"protocol is {self.protocol!r}, expected {UNSTATED}, {', '.join(PROTOCOLS)}")
        for name, top in (("iou_percent", 100), ("balanced_accuracy_percent", 100), ("location_error", 1),
                          ("contour_accuracy", 1)):  # fmt: skip
            if any(v is not None and not 0 <= v <= top for v in getattr(self, name)):
                problems.append(f"{name} is {list(getattr(self, name))}, expected 0 to {top}")
        if self.iou_percent == (None, None):
            problems.append(f"{self.system}: no IoU")
        if problems:
            raise ConfigError("; ".join(problems))

    def score(self, measure: str, direction: Direction) -> float | None:
        """A measure of :data:`counterview.evaluation.scorer.MEASURES` in ``[0, 1]``; ``None`` if unpublished.

        Raises:
            KeyError: no such measure.
        """
        if measure not in MEASURES:
            raise KeyError(measure)
        percent = measure in _PERCENT
        value = getattr(self, _PERCENT.get(measure, measure))[DIRECTIONS.index(direction)]
        return value if value is None or not percent else round(value / 100, 6)


@dataclass(frozen=True)
class Published:
    """All published scores.

    Attributes:
        sources: by the keys of :attr:`PublishedScore.source`.
        scores: every row.
    """

    sources: dict[str, PaperSource] = field(default_factory=dict)
    scores: tuple[PublishedScore, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted({s.source for s in self.scores} - set(self.sources))
        if unknown:
            raise ConfigError(f"sources that are not listed: {', '.join(unknown)}")

    def of_table(self, table: str) -> list[PublishedScore]:
        """The rows of one table, in the order of the file."""
        return [score for score in self.scores if table in score.tables]


def load_published(path: str | os.PathLike[str] = FILE) -> Published:
    """Read published scores.

    Args:
        path: a YAML file in the form of ``published.yaml``.

    Raises:
        ConfigError: the file is missing or malformed; every problem is named.
    """
    return _bundled() if Path(path) == FILE else load_config(Published, path)


@cache
def _bundled() -> Published:
    return load_config(Published, FILE)
