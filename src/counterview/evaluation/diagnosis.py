"""What is odd about a prediction file: entries that look like the missing ones, and confidences of another scale."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from counterview.evaluation.predictions import TakePredictions
from counterview.evaluation.scorer import CONFIDENCE_THRESHOLD

FPS = 30
"""Frame numbers per second of an Ego-Exo4D annotation."""

_ADVICE = {
    "case": "under names in another letter case",
    "spelling": "under names that are spelled otherwise",
    "order": "under the pair of cameras in the other order, which is query_target",
    "padded": "under padded frame numbers, which are written without zeros in front",
    "seconds": f"under times in seconds, or counts of the annotated frames: a frame number is {FPS} times the second",
    "take": "under another name of the take, which is its take_uid",
}


@dataclass
class Lookalikes:
    """Entries of a prediction file that look like missing ones, by the kind of difference.

    Attributes:
        found: kind to the number of missing predictions that it explains and one example.
        surplus: number of predicted frames, of objects with missing ones, that are not asked for.
    """

    found: dict[str, tuple[int, str]] = field(default_factory=dict)
    surplus: tuple[int, str] = (0, "")

    def add(
        self,
        predictions: TakePredictions | None,
        key: tuple[str, str, str],
        missing: Sequence[int],
        asked: Iterable[int],
    ) -> None:
        """Look for the missing frames of one object and pair of cameras.

        Args:
            predictions: of the take; ``None`` if it has none.
            key: object, query camera and target camera.
            missing: frame numbers without a prediction.
            asked: every frame number that needs one.
        """
        if predictions is None:
            return
        name, query, target = key
        wanted = frozenset(asked)
        surplus = [frame for frame in predictions.frames(*key) if frame not in wanted]
        odd = _odd_frames(predictions, key)
        in_seconds = {second * FPS: str(second) for second in surplus}
        in_seconds |= {round(float(text) * FPS): text for text in odd if not text.isdigit()}
        padded = {int(text): text for text in odd if text.isdigit()}
        for kind, there in (("padded", padded), ("seconds", in_seconds)):
            explained = [frame for frame in missing if frame in there]
            if explained:
                self._count(kind, len(explained), f"{there[explained[-1]]!r} for {explained[-1]}")
        if surplus and not any(frame in in_seconds for frame in missing):
            shown = ", ".join(map(str, surplus[:3]))
            self.surplus = (self.surplus[0] + len(surplus), self.surplus[1] or shown)
        if not surplus and not odd:
            self._add_names(predictions, name, f"{query}_{target}", f"{target}_{query}", len(missing))

    def _add_names(self, predictions: TakePredictions, name: str, pair: str, reverse: str, missing: int) -> None:
        for other, other_pair, frames in predictions.pairs():
            straight = other_pair.replace("__", "_")
            if (other, straight) == (name, pair) or _plain(other) != _plain(name):
                continue
            if _plain(straight) == _plain(pair):
                is_case = (other.casefold(), straight.casefold()) == (name.casefold(), pair.casefold())
                example = f"{other!r} for {name!r}" if other != name else f"{straight!r} for {pair!r}"
                self._count("case" if is_case else "spelling", min(missing, frames), example)
                return
            if _plain(straight) == _plain(reverse):
                self._count("order", min(missing, frames), f"{other_pair!r} for {pair!r}")
                return

    def add_take(self, uid: str, name: str, missing: int, predicted: Iterable[str]) -> None:
        """Look for a take without predictions among those that have some.

        Args:
            uid: of the take.
            name: its readable name, or an empty text.
            missing: number of its missing predictions.
            predicted: the takes with predictions.
        """
        if not missing:
            return
        for other in predicted:
            if other.casefold() in (uid.casefold(), name.casefold()) and other != uid:
                self._count("take", missing, f"{other!r} for {uid!r}")
                return

    def merge(self, other: Lookalikes) -> None:
        """Add what was found in another take."""
        for kind, (count, example) in other.found.items():
            self._count(kind, count, example)
        self.surplus = (self.surplus[0] + other.surplus[0], self.surplus[1] or other.surplus[1])

    def _count(self, kind: str, count: int, example: str) -> None:
        earlier, first = self.found.get(kind, (0, example))
        self.found[kind] = (earlier + count, first)

    def __str__(self) -> str:
        parts = [
            f"{count} of them seem to be there {_ADVICE[kind]}, such as {example}"
            for kind, (count, example) in self.found.items()
        ]
        if self.surplus[0]:
            parts.append(f"it has {self.surplus[0]} frames that are not asked for, such as {self.surplus[1]}")
        return ". ".join(part[0].upper() + part[1:] for part in parts)


def _plain(text: str) -> str:
    """A name without case, separators and the two names of a colour stream."""
    return re.sub(r"[\W_]+", "", text.casefold()).replace("rgb", "2141")


def _odd_frames(predictions: TakePredictions, key: tuple[str, str, str]) -> list[str]:
    """Frame numbers of the file that are not written as such, but are numbers."""
    texts: Mapping[tuple[str, str], Sequence[str]] = getattr(predictions, "odd_frames", {})
    name, query, target = key
    found = [t for pair in (f"{query}_{target}", f"{query}__{target}") for t in texts.get((name, pair), ())]
    return [text for text in found if re.fullmatch(r"\d{1,11}(\.\d{1,6})?", text, re.ASCII)]


def confidence_notes(confidences: ArrayLike) -> list[str]:
    """A note if confidences are no probabilities, with what they look like and what follows for the scores.

    Args:
        confidences: ``(N,)`` finite numbers, as they stand in the file.

    >>> confidence_notes([0.2, 0.9])
    []
    >>> confidence_notes([20.0, 90.0, 75.0])[0].partition(". ")[0]
    '3 of 3 confidences are outside 0 to 1 (20 to 90): they look like percent'
    """
    values = np.asarray(confidences, dtype=np.float64)
    outside = (values < 0) | (values > 1)
    if not outside.any():
        return []
    above = int((values > CONFIDENCE_THRESHOLD).sum())
    count = f"{above} of {len(values)} are above {CONFIDENCE_THRESHOLD}, which counts as visible"
    if above == len(values):
        count = f"All are above {CONFIDENCE_THRESHOLD}, so every object counts as visible"
    elif above == 0:
        count = f"None is above {CONFIDENCE_THRESHOLD}, so every object counts as not visible"
    fractions = int(((values > 0) & (values < 1)).sum())
    would = ""
    if values.min() < 0:
        kind = "logits, whose threshold is 0"
        would = f"; as logits, {int((values > 0).sum())} would be"
    elif values.max() > 100:
        kind = "scores without a bound"
    elif fractions > 0.05 * len(values):
        kind = f"percent mixed with {fractions} fractions"
    else:
        kind = "percent"
        would = f"; as percent, {int((values > 100 * CONFIDENCE_THRESHOLD).sum())} would be"
    return [
        f"{int(outside.sum())} of {len(values)} confidences are outside 0 to 1 ({values.min():.4g} to "
        f"{values.max():.4g}): they look like {kind}. {count}{would}. Write probabilities."
    ]
