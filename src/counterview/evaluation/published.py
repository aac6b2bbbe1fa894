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
SPLITS = ("v2-test", "v1-val", "val", "val-10%", "test", UNSTATED)
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

    Attributes:
        tables: of ``counterview reproduce`` that show it.
        system: what was scored.
        source: key of the publication.
        split: of the data set.
        protocol: of the scores.
        iou_percent: of both directions.
        read: whether it stands in a table of the source, or comes from a compilation.
        place: where in the source.
        row: our row that it is compared with.
        total_iou_percent: IoU of both directions together, as printed; see :attr:`total_iou`.
        location_error: as a fraction.
        contour_accuracy: as a fraction.
        balanced_accuracy_percent: in percent.
        parameters_m: trainable parameters in millions.
        success_percent: fraction of the pairs of images that geometric matching could relate at all, in percent.
        note: what else the source says.
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
    total_iou_percent: float | None = None
    location_error: Pair = (None, None)
    contour_accuracy: Pair = (None, None)
    balanced_accuracy_percent: Pair = (None, None)
    parameters_m: float | None = None
    success_percent: float | None = None
    note: str = ""

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
        for name in ("total_iou_percent", "success_percent"):
            if (single := getattr(self, name)) is not None and not 0 <= single <= 100:
                problems.append(f"{name} is {single}, expected 0 to 100")
        if self.iou_percent == (None, None) and self.total_iou_percent is None:
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

    @property
    def total_iou(self) -> float | None:
        """Total IoU in ``[0, 1]``: as printed, else the mean of both directions; ``None`` if one is unpublished."""
        if self.total_iou_percent is not None:
            return round(self.total_iou_percent / 100, 6)
        return total_iou(*(self.score("iou", direction) for direction in DIRECTIONS))


def total_iou(ego2exo: float | None, exo2ego: float | None) -> float | None:
    """Total IoU: the mean of both directions, whatever their numbers of pairs; ``None`` if one is missing.

    It is the criterion of the Ego-Exo4D Correspondence Challenge as CCMP (arXiv 2602.18996, section 4.1) gives it.

    >>> total_iou(0.25, 0.75)
    0.5
    """
    return None if ego2exo is None or exo2ego is None else round((ego2exo + exo2ego) / 2, 6)


@dataclass(frozen=True)
class PublishedSpeed:
    """A published speed.

    Attributes:
        tables: of ``counterview reproduce`` that show it.
        system: what was timed.
        source: key of the publication.
        value: in ``unit``.
        unit: milliseconds, or frames a second.
        what: what the time is of, in the source's words.
        read: as for :class:`PublishedScore`.
        hardware: on which; ``None`` if not stated.
        place: where in the source.
    """

    tables: tuple[str, ...]
    system: str
    source: str
    value: float
    unit: Literal["ms", "FPS"]
    what: str
    read: Literal["paper", "compiled"]
    hardware: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Published:
    """All published scores and speeds.

    Attributes:
        sources: by the keys of :attr:`PublishedScore.source`.
        scores: every row.
        speeds: every speed.
    """

    sources: dict[str, PaperSource] = field(default_factory=dict)
    scores: tuple[PublishedScore, ...] = ()
    speeds: tuple[PublishedSpeed, ...] = ()

    def __post_init__(self) -> None:
        used = {s.source for s in self.scores} | {s.source for s in self.speeds}
        unknown = sorted(used - set(self.sources))
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
