"""Prediction files in the official format of Ego-Exo4D Correspondence, which O-MaMa and LM-EEC write, take by take.

``{"ego-exo": {"version", "challenge", "results": {take: {"masks": {object: {"<query>_<target>": {frame:
{"pred_mask": {"size", "counts"}, "confidence"}}}}, "subsample_idx"}}}, "exo-ego": …}``. Folders of masks are read
by :mod:`counterview.evaluation.folders`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from counterview.data.dataset import DIRECTIONS, Direction, frame_number, is_ego
from counterview.errors import MaskError, PredictionError
from counterview.masks import rle
from counterview.media.jsonstream import Span, index_object, iter_object, read_span
from counterview.types import ObjectMask

KEY_OF: dict[Direction, str] = {"ego2exo": "ego-exo", "exo2ego": "exo-ego"}
MAX_MASK_PIXELS, MAX_MASK_SIDE = 36_000_000, 8192
"""Largest predicted mask that is accepted; an 8K frame has 7680 x 4320 pixels. Contours are matched at its own size,
within a distance that grows with its sides."""
MAX_SETTINGS_BYTES = 10_000_000
"""Settings of a prediction file beyond this are not read."""


@dataclass(frozen=True)
class PredictedMask:
    """The prediction for one object in one frame, not yet decoded.

    Attributes:
        raw_mask: as stored: COCO run lengths, or an :class:`ObjectMask`.
        raw_confidence: as stored.
    """

    raw_mask: Any
    raw_confidence: Any

    def confidence(self) -> float:
        """The confidence as a finite number. A list of one number, as O-MaMa's script writes it, is unwrapped.

        Raises:
            PredictionError: anything else, NaN and infinity among them.
        """
        value = self.raw_confidence
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, (int, float)) or not _finite(value):
            raise PredictionError("the confidence is not a finite number", found=repr(self.raw_confidence)[:40])
        return float(value)

    def mask(self) -> ObjectMask:
        """The decoded mask.

        Raises:
            PredictionError: malformed, ``null`` or too large.
        """
        if isinstance(self.raw_mask, ObjectMask):
            return self.raw_mask
        if self.raw_mask is None:
            raise PredictionError("the predicted mask is null")
        try:
            mask = rle.from_coco(self.raw_mask)
        except MaskError as error:
            raise PredictionError(f"the predicted mask is malformed: {error}") from None
        return check_mask_size(mask)

    def size_hw(self) -> tuple[int, int] | None:
        """``(H, W)`` of the mask in pixels, as stored and not decoded; ``None`` if it is malformed."""
        if isinstance(self.raw_mask, ObjectMask):
            return self.raw_mask.size_hw
        size = self.raw_mask.get("size") if isinstance(self.raw_mask, Mapping) else None
        if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
            return size[0], size[1]
        return None


def check_mask_size(mask: ObjectMask, path: Path | None = None) -> ObjectMask:
    """The mask itself, if it is not too large to be scored.

    Args:
        mask: the prediction.
        path: its file, for the message.

    Raises:
        PredictionError: larger than :data:`MAX_MASK_PIXELS`, or with a side above :data:`MAX_MASK_SIDE`.
    """
    height, width = mask.size_hw
    if height * width > MAX_MASK_PIXELS or max(height, width) > MAX_MASK_SIDE:
        raise PredictionError(
            "the predicted mask is too large", path=path, found=f"{height} x {width}",
            expected=f"at most {MAX_MASK_PIXELS} pixels, and {MAX_MASK_SIDE} a side",
        )  # fmt: skip
    return mask


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a float
        return False


class TakePredictions(Protocol):
    """The predictions of one take."""

    problems: list[str]

    def get(self, name: str, query: str, target: str, frame: int) -> PredictedMask | None:
        """The prediction for an object in a frame; ``None`` if there is no entry."""
        ...

    def frames(self, name: str, query: str, target: str) -> tuple[int, ...]:
        """The frames with a prediction, in order."""
        ...

    def pairs(self) -> Iterator[tuple[str, str, int]]:
        """``(object, pair of cameras as written, number of frames)`` of every entry."""
        ...


class PredictionSource(Protocol):
    """Predictions of one system."""

    path: Path
    notes: list[str]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions that it holds."""
        ...

    def takes(self, direction: Direction) -> tuple[str, ...]:
        """The takes with predictions."""
        ...

    def load(self, direction: Direction, uid: str) -> TakePredictions | None:
        """The predictions of one take; ``None`` if it has no entry."""
        ...


class JsonTake:
    """The ``{"masks", "subsample_idx"}`` of one take.

    Args:
        content: the parsed JSON.

    Attributes:
        objects: object to pair of cameras to frame number to entry.
        odd_frames: keys that are not frame numbers, by object and pair of cameras as written.
        problems: what was left out, one line each.
    """

    def __init__(self, content: Any) -> None:
        self.problems: list[str] = []
        self.odd_frames: dict[tuple[str, str], list[str]] = {}
        self.subsample_idx = content.get("subsample_idx") if isinstance(content, dict) else None
        masks = content.get("masks") if isinstance(content, dict) else None
        if not isinstance(masks, dict):
            self.problems.append("has no 'masks'")
            masks = {}
        self.objects: dict[str, dict[str, dict[int, Any]]] = {}
        for name, pairs in masks.items():
            by_pair = self.objects.setdefault(name, {})
            if not isinstance(pairs, dict):
                self.problems.append(f"object {name!r}: no pairs of cameras")
                continue
            for pair, frames in pairs.items():
                by_pair[pair] = self._frames(name, pair, frames)

    def _frames(self, name: str, pair: str, frames: Any) -> dict[int, Any]:
        where = f"object {name!r}, cameras {pair!r}"
        if not isinstance(frames, dict):
            self.problems.append(f"{where}: no frames")
            return {}
        result = {}
        for text, entry in frames.items():
            try:
                result[frame_number(text)] = entry
            except ValueError as error:
                self.problems.append(f"{where}: {error}")
                self.odd_frames.setdefault((name, pair), []).append(str(text))
        return result

    def _pair(self, name: str, query: str, target: str) -> Mapping[int, Any]:
        pairs = self.objects.get(name, {})
        return pairs.get(f"{query}_{target}") or pairs.get(f"{query}__{target}") or {}

    def get(self, name: str, query: str, target: str, frame: int) -> PredictedMask | None:
        """See :class:`TakePredictions`."""
        entries = self._pair(name, query, target)
        if frame not in entries:
            return None
        entry = entries[frame]
        if not isinstance(entry, dict):
            return PredictedMask(None, None)
        return PredictedMask(entry.get("pred_mask"), entry.get("confidence"))

    def frames(self, name: str, query: str, target: str) -> tuple[int, ...]:
        """See :class:`TakePredictions`."""
        return tuple(sorted(self._pair(name, query, target)))

    def pairs(self) -> Iterator[tuple[str, str, int]]:
        """See :class:`TakePredictions`."""
        for name, pairs in self.objects.items():
            for pair, frames in pairs.items():
                yield name, pair, len(frames)


class PredictionFile:
    """A prediction file, indexed when it is opened; a take is read when it is loaded.

    LM-EEC's script writes the key ``ego-exo`` for both directions. The direction of the camera pairs takes precedence
    over the key; :attr:`notes` reports it.

    Args:
        path: the file.

    Raises:
        PredictionError: missing, not JSON, or without a direction.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self._spans: dict[Direction, dict[str, Span]] = {}
        keys = index_object(self.path, (), error=PredictionError)
        present = [(direction, key) for direction, key in KEY_OF.items() if key in keys]
        if not present:
            raise PredictionError(
                "is not a prediction file",
                path=path,
                found="the keys " + (", ".join(repr(k[:40]) for k in sorted(keys)[:5]) or "of an empty object"),
                expected="'ego-exo' or 'exo-ego'",
            )
        self._keys = [key for _, key in present]
        self._settings: list[Any] | None = None
        for direction, key in present:
            spans = index_object(self.path, (key, "results"), error=PredictionError)
            actual = self._direction_of(spans) or direction
            if actual != direction and KEY_OF[actual] not in keys:
                self.notes.append(f"the key is {key!r}, but the camera pairs are {actual}: read as {actual}")
                direction = actual
            self._spans[direction] = spans

    def _direction_of(self, spans: Mapping[str, Span]) -> Direction | None:
        """The direction of the first pair of cameras; ``None`` if no pair shows it."""
        for uid, span in list(spans.items())[:20]:
            for _, pair, _ in JsonTake(read_span(self.path, span, uid, error=PredictionError)).pairs():
                first = is_ego(pair.split("_")[0])
                if first != is_ego(pair[len(pair.split("_")[0]) :]):
                    return "ego2exo" if first else "exo2ego"
        return None

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions that the file holds."""
        return tuple(d for d in DIRECTIONS if d in self._spans)

    def takes(self, direction: Direction) -> tuple[str, ...]:
        """The takes with predictions."""
        return tuple(self._spans.get(direction, ()))

    def load(self, direction: Direction, uid: str) -> JsonTake | None:
        """The predictions of one take; ``None`` if it has no entry."""
        span = self._spans.get(direction, {}).get(uid)
        return None if span is None else JsonTake(read_span(self.path, span, uid, error=PredictionError))

    def settings(self) -> Any:
        """What ``counterview predict`` wrote about the method and the file, from its first direction.

        ``None`` in files of other systems.
        """
        if self._settings is None:
            self._settings = [None]
            key = next(iter(self._keys), None)
            span = index_object(self.path, (key,), error=PredictionError).get("counterview") if key else None
            if span is not None and span.end - span.start <= MAX_SETTINGS_BYTES:
                self._settings = [read_span(self.path, span, "counterview", error=PredictionError)]
        return self._settings[0]

    def header(self, direction: Direction) -> dict[str, Any]:
        """``version`` and ``challenge``, which are stored beside ``results``."""
        for key in KEY_OF.values():
            if key == KEY_OF[direction]:
                names = index_object(self.path, (key,), error=PredictionError)
                wanted = {
                    n: names[n] for n in ("version", "challenge") if n in names and names[n].end - names[n].start < 1000
                }
                return {n: read_span(self.path, span, n, error=PredictionError) for n, span in wanted.items()}
        return {}


def is_prediction_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a prediction file by its keys; its takes are not read."""
    try:
        return any(key in KEY_OF.values() for key in index_object(path, (), error=PredictionError))
    except PredictionError:
        return False


def iter_takes(path: str | os.PathLike[str], direction: Direction) -> Iterator[tuple[str, Any]]:
    """The uid and parsed content of each take of one direction of a prediction file, as stored."""
    return iter_object(path, (KEY_OF[direction], "results"), error=PredictionError)
