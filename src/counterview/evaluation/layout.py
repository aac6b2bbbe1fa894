"""Which frames a prediction file holds, and masks of which sizes: what is asked for, recorded, and found in the file.

The benchmark asks for every frame with a query mask, with masks at longer side 480 of the target's shape. LM-EEC's
inference visits only the frames in which the target has a mask, and writes 480 x 480 squares. Scores of the two differ,
so that rows of one table must be alike (:func:`check_alike`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterview.config import nearest
from counterview.data.dataset import DIRECTIONS, Direction
from counterview.data.pairs import FramePair, PairFraction, Targets
from counterview.errors import InputError, PredictionError
from counterview.evaluation.groundtruth import GroundTruthTake
from counterview.evaluation.predictions import PredictionFile, PredictionSource, TakePredictions
from counterview.evaluation.scorer import LONGEST_SIDE_PX
from counterview.masks.geometry import fit_longest_side

EVERY_FRAME, VISIBLE_FRAMES, ANY = "every query frame", "frames with a target mask", "either layout"
ASPECT_KEPT = f"longer side {LONGEST_SIDE_PX}, aspect kept"
SQUARE_HW = (LONGEST_SIDE_PX, LONGEST_SIDE_PX)
SQUARES = f"{LONGEST_SIDE_PX} x {LONGEST_SIDE_PX} squares"
RECORD = "holds"
"""Key of the record among a prediction file's settings."""


@dataclass(frozen=True)
class Layout:
    """Which frames are predicted, and at which size masks are written.

    Attributes:
        name: as on the command line.
        frames: :data:`EVERY_FRAME` with a query mask, or :data:`VISIBLE_FRAMES` alone.
        sizes: :data:`ASPECT_KEPT` or :data:`SQUARES`.
    """

    name: str
    frames: str
    sizes: str

    @property
    def targets(self) -> Targets:
        """The pairs to predict."""
        return "visible" if self.frames == VISIBLE_FRAMES else "official"

    @property
    def square(self) -> bool:
        """Whether masks are 480 x 480 squares."""
        return self.sizes == SQUARES

    def __str__(self) -> str:
        return f"{self.frames}, {self.sizes}"


LAYOUTS = {
    "official": Layout("official", EVERY_FRAME, ASPECT_KEPT),
    "lmeec": Layout("lmeec", VISIBLE_FRAMES, SQUARES),
}
OFFICIAL = LAYOUTS["official"]


def get_layout(name: str | Layout) -> Layout:
    """The layout of that name.

    Raises:
        InputError: no such layout.
    """
    if isinstance(name, Layout):
        return name
    if name not in LAYOUTS:
        raise InputError(
            f"there is no layout {name!r}", expected=" or ".join(LAYOUTS), fix=nearest(name, list(LAYOUTS)).capitalize()
        )
    return LAYOUTS[name]


def layout_of_protocol(protocol: str) -> Layout:
    """The layout in which a protocol's published numbers were made; the official one if nothing else is known."""
    return LAYOUTS.get(protocol, OFFICIAL)


# ---------------------------------------------------------------------------------------- what a file says of itself


@dataclass(frozen=True)
class Record:
    """What ``counterview predict`` writes about a prediction file, beside the settings of the method.

    Attributes:
        layout: frames and sizes.
        takes: the takes that were asked for; ``None`` in files of versions that did not record them.
        pairs: the fraction of the pairs in each direction; empty if all were predicted.
    """

    layout: Layout
    takes: tuple[str, ...] | None = None
    pairs: Mapping[Direction, PairFraction] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; :func:`read_record` reads them back."""
        values: dict[str, Any] = {
            "layout": self.layout.name,
            "frames": self.layout.frames,
            "sizes": self.layout.sizes,
            "takes": None if self.takes is None else list(self.takes),
        }
        for direction, part in self.pairs.items():
            values.setdefault("pairs", {"fraction": part.fraction, "seed": part.seed, "largest_hash": {}})
            values["pairs"]["largest_hash"][direction] = f"{part.limit:x}"
        return values


def read_record(source: PredictionSource) -> Record | None:
    """The record of a prediction file; ``None`` if it has none, as files of other systems.

    Raises:
        PredictionError: a record that is malformed.
    """
    if not isinstance(source, PredictionFile):
        return None
    settings = source.settings()
    values = settings.get(RECORD) if isinstance(settings, dict) else None
    if values is None:
        return None
    try:
        takes, pairs = values.get("takes"), values.get("pairs")
        limits = {} if pairs is None else {d: int(h, 16) for d, h in pairs["largest_hash"].items() if d in DIRECTIONS}
        return Record(
            LAYOUTS[values["layout"]],
            None if takes is None else tuple(map(str, takes)),
            {d: PairFraction(float(pairs["fraction"]), int(pairs["seed"]), limit) for d, limit in limits.items()},
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise PredictionError(
            "the record of its frames and sizes is malformed", path=source.path, found=repr(values)[:80],
            fix="Predict again, or remove counterview.holds from the file.",
        ) from None  # fmt: skip


def chosen_part(
    record: Record | None, part: PairFraction | None, direction: Direction, source: PredictionSource
) -> PairFraction | None:
    """The fraction of the pairs to score: the one that is asked for, which a file that records its own has to hold.

    Args:
        record: of the file.
        part: that is asked for.
        direction: of the predictions.
        source: the file.

    Raises:
        PredictionError: the file holds another fraction than is asked for.
    """
    own = None if record is None else record.pairs.get(direction)
    if part is None or own is None or own == part:
        return part or own
    raise PredictionError(
        "holds another selection of pairs", path=source.path,
        found=f"{own.fraction:.4g} of them, seed {own.seed}, largest hash {own.limit:x}",
        expected=f"{part.fraction:.4g} of them, seed {part.seed}, largest hash {part.limit:x}",
        fix="Predict it again from the same takes.",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- what is found in a file


@dataclass
class Contents:
    """Counts over the predictions of one direction, against a ground truth.

    Attributes:
        visible: predictions for frames in which the target has a mask.
        visible_missing: such frames without a prediction.
        other: predictions for frames in which it has none.
        other_missing: such frames with a query mask, without a prediction.
        sizes: number of the masks of ``visible`` by size, in words; sizes that tell nothing are :data:`ANY`.
    """

    visible: int = 0
    visible_missing: int = 0
    other: int = 0
    other_missing: int = 0
    sizes: Counter[str] = field(default_factory=Counter)

    def add(self, more: Contents) -> None:
        """Add the counts of other takes."""
        self.visible += more.visible
        self.visible_missing += more.visible_missing
        self.other += more.other
        self.other_missing += more.other_missing
        self.sizes.update(more.sizes)

    def add_pair(
        self,
        take: GroundTruthTake,
        predictions: TakePredictions | None,
        key: tuple[str, str, str],
        part: PairFraction | None = None,
    ) -> None:
        """Count one object in one pair of cameras.

        Args:
            take: the ground truth.
            predictions: of the take, if there are any.
            key: object, query camera and target camera.
            part: of all pairs, to which the file is limited.
        """
        name, query, target = key
        tracks = take.objects[name]
        native, annotated = take.stored_size(name, target), tracks[target].annotated_frames
        predicted = frozenset() if predictions is None else frozenset(predictions.frames(*key))
        for frame in {*tracks[query].masks, *predicted}:
            if part is not None and FramePair(take.uid, name, query, target, frame, None) not in part:
                continue
            is_visible = frame in tracks[target].masks
            if predictions is not None and frame in predicted:
                self.visible += is_visible
                self.other += not is_visible
                prediction = predictions.get(*key, frame) if is_visible else None
                size = None if prediction is None else prediction.size_hw()
                if size is not None:
                    self.sizes[_in_words(size, native)] += 1
            elif is_visible:
                self.visible_missing += 1
            # Of a fraction, frames that were not annotated are no part.
            elif part is None or annotated is None or frame in annotated:
                self.other_missing += 1

    @property
    def frames(self) -> str:
        """:data:`EVERY_FRAME`, :data:`VISIBLE_FRAMES`, or :data:`ANY` if the ground truth has no others."""
        if self.other:
            return EVERY_FRAME
        return VISIBLE_FRAMES if self.visible and self.other_missing else ANY

    @property
    def size(self) -> str:
        """:data:`ASPECT_KEPT`, :data:`SQUARES` or other sizes in words; :data:`ANY` if squares keep the aspect."""
        return "; ".join(sorted(name for name in self.sizes if name != ANY)) or ANY

    def __str__(self) -> str:
        return f"{self.frames}, {self.size}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        counts = {k: getattr(self, k) for k in ("visible", "visible_missing", "other", "other_missing")}
        return {"frames": self.frames, "sizes": self.size, "counts": counts}


def _in_words(size_hw: tuple[int, int], native_hw: tuple[int, int] | None) -> str:
    """``longer side N, aspect kept``, ``N x N squares`` or ``H x W``; :data:`ANY` if it is both of the first."""
    longest = max(size_hw)
    keeps = native_hw is None or size_hw == fit_longest_side(native_hw, longest)
    is_square = size_hw[0] == size_hw[1]
    if keeps and is_square and longest == LONGEST_SIDE_PX:
        return ANY
    if keeps:
        return f"longer side {longest}, aspect kept"
    return f"{longest} x {longest} squares" if is_square else f"{size_hw[0]} x {size_hw[1]}"


def find_contents(
    takes: Iterable[GroundTruthTake], source: PredictionSource, direction: Direction, part: PairFraction | None = None
) -> Contents:
    """Count the predictions of a source without decoding or scoring a mask. Arguments as :meth:`Contents.add_pair`."""
    found = Contents()
    for take in takes:
        predictions = source.load(direction, take.uid)
        for key in take.pairs(direction):
            found.add_pair(take, predictions, key, part)
    return found


def check_record(record: Record | None, found: Contents, source: PredictionSource) -> None:
    """Check that a file holds what it records.

    Raises:
        PredictionError: it does not.
    """
    if record is None or (_alike(record.layout.frames, found.frames) and _alike(record.layout.sizes, found.size)):
        return
    raise PredictionError(
        "does not hold the frames and sizes that it records", path=source.path, found=found, expected=record.layout,
        fix="Score it against the ground truth that it was predicted from, or predict again.",
    )  # fmt: skip


def check_alike(rows: Sequence[tuple[str, str, str]]) -> None:
    """Check that rows of one table and direction are of the same frames and sizes.

    Args:
        rows: name, frames and sizes of each, in the words of :class:`Layout` or :class:`Contents`.

    Raises:
        PredictionError: two of them differ.
    """
    for index, (name, frames, sizes) in enumerate(rows):
        for other, other_frames, other_sizes in rows[:index]:
            if not (_alike(frames, other_frames) and _alike(sizes, other_sizes)):
                raise PredictionError(
                    f"{name} and {other} are of other frames or sizes and cannot stand side by side",
                    found=f"{name}: {frames}, {sizes}; {other}: {other_frames}, {other_sizes}",
                    fix="Predict both with the same --layout, or leave one out; `counterview submit` brings masks to "
                    "the official sizes.",
                )


def _alike(one: str, other: str) -> bool:
    return ANY in (one, other) or one == other
