"""A release or prepared folder, and predictions for it, as the tab "Data sets" shows them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from counterview.data.dataset import DIRECTIONS, Direction, Take
from counterview.data.formats.prepared import read_facts
from counterview.data.formats.takes_json import read_takes_json
from counterview.data.inspect import Inspection, inspect_dataset
from counterview.data.open import open_dataset
from counterview.data.pairs import FramePair
from counterview.errors import InputError, counted
from counterview.evaluation.cases import Case, draw_case, pick
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.open import open_predictions
from counterview.evaluation.predictions import PredictionSource
from counterview.evaluation.protocol import Report
from counterview.evaluation.side_by_side import evaluate_alike
from counterview.evaluation.table import KEY, FrameScore, FrameTable
from counterview.inference.take_overlay import draw_against_annotation, draw_annotation
from counterview.inference.takes import Prediction
from counterview.types import ObjectMask, RgbImage

CASES = 24
"""Cases that are shown."""

MAX_FILES = 2

LETTERS = 46
"""Height of letters as a fraction of the longer side, one in so many."""

Told = Callable[[str, float | None], object]
"""Is told what is done, and how much of it, 0 to 1; what it raises ends the work."""


@dataclass(frozen=True)
class Order:
    """What the worst cases are: the lowest IoU of a file, or where one falls behind the other.

    Attributes:
        title: for people.
        file: index of the file.
        against: index of the file that it falls behind; ``None``: the annotation alone.
    """

    title: str
    file: int
    against: int | None = None


@dataclass(frozen=True)
class WorstCases:
    """The worst cases of a direction.

    Attributes:
        direction: of the predictions.
        order: what counts as bad.
        cases: the worst first, drawn.
        said: the scores of each file, and notes, in lines.
    """

    direction: Direction
    order: Order
    cases: Sequence[Case]
    said: Sequence[str]


@dataclass(frozen=True)
class FrameView:
    """One frame of a take in two cameras.

    Attributes:
        query: with the annotated masks, ``(H, W, 3)`` uint8.
        targets: name of a prediction file to the target frame with its predictions, ``(H', W', 3)``; without files,
            the annotation alone under an empty name.
        problems: why something is not shown, one line each.
    """

    query: RgbImage | None
    targets: dict[str, RgbImage]
    problems: list[str]


class DataBrowser:
    """A data set and predictions for it. Nothing is written, and it may be used from several threads.

    Args:
        root: a release, a prepared folder, or HANDAL.
        predictions: files or folders of predictions, two at most.
        split: only this split.

    Attributes:
        root: likewise.
        names: of the prediction files.
        uids: of the takes, in order.

    Raises:
        InputError: no data set, no such split, no takes, or more than two files.
        PredictionError: a file of another form.
    """

    def __init__(self, root: Path, predictions: Sequence[Path] = (), split: str | None = None) -> None:
        if len(predictions) > MAX_FILES:
            raise InputError(
                "too many prediction files to browse", found=len(predictions), expected=f"at most {MAX_FILES}"
            )
        self.root, self._split = root, split
        self._dataset = open_dataset(root, split)
        if not len(self._dataset):
            raise InputError("has no takes", path=root)
        self._sources: list[PredictionSource] = [open_predictions(path) for path in predictions]
        stems = [path.stem for path in predictions]
        self.names = stems if len(set(stems)) == len(stems) else [f"{n}: {s}" for n, s in enumerate(stems, 1)]
        self.uids = self._dataset.uids
        self._lock = threading.RLock()
        self._reports: dict[Direction, list[Report]] = {}

    # ------------------------------------------------------------------------------------------ takes

    def titles(self) -> list[str]:
        """A line for each take: its name, and its scenario where a file lists it."""
        facts: dict[str, tuple[str, str]] = {}
        with suppress(InputError):
            if self._dataset.kind == "release":
                facts = {uid: (f.name, "") for uid, f in (read_takes_json(self._dataset.root) or {}).items()}
            elif self._dataset.kind == "prepared":
                facts = read_facts(self._dataset.root)
        titles = []
        for uid in self.uids:
            name, scenario = facts.get(uid, ("", ""))
            titles.append((name or uid) + (f" ({scenario})" if scenario else ""))
        return titles if len(set(titles)) == len(titles) else list(self.uids)

    def take(self, uid: str) -> Take:
        """A take.

        Args:
            uid: its identifier.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        with self._lock:
            return self._dataset.take(uid)

    def frames(self, uid: str, camera: str) -> list[int]:
        """The frames of a camera in which an object is annotated, ascending.

        Args:
            uid: of the take.
            camera: its name.

        Raises:
            InputError: no such take or camera.
        """
        take = self.take(uid)
        with self._lock:
            frames: set[int] = set()
            for name in take.objects:
                if camera in take.cameras_of(name):
                    frames |= set(take.annotated_frames(name, camera))
        return sorted(frames)

    def about(self, uid: str) -> str:
        """What is in a take, in a line.

        Args:
            uid: its identifier.
        """
        take = self.take(uid)
        with self._lock:
            masks = sum(take.mask_count(name, camera) for name in take.objects for camera in take.cameras_of(name))
        cameras = f"{counted(len(take.ego_cameras), 'ego camera')} and {counted(len(take.exo_cameras), 'exo camera')}"
        line = f"{take.name}: {cameras}, {counted(len(take.objects), 'object')}, {counted(masks, 'mask')}"
        return line + (f"; {'; '.join(take.problems[:3])}" if take.problems else "")

    def draw(self, uid: str, query: str, target: str, frame: int, names: Sequence[str]) -> FrameView:
        """Draw a frame: the annotation in the query camera, and predictions beside it in the target camera.

        Args:
            uid: of the take.
            query: name of a camera.
            target: of another one.
            frame: number of the frame.
            names: of the objects that are drawn.

        Raises:
            InputError: no such take or camera.
        """
        take, problems = self.take(uid), []
        for camera in (query, target):
            if camera not in take.cameras:
                raise InputError("there is no such camera", found=camera, expected=", ".join(take.cameras))
        known = [name for name in take.objects if name in names]

        def attempt(draw: Callable[[], RgbImage], what: str) -> RgbImage | None:
            try:
                with self._lock:
                    return draw()
            except InputError as error:
                problems.append(f"{what}: {error.problem}")
                return None

        def in_camera(camera: str) -> list[str]:
            return [name for name in known if camera in take.cameras_of(name)]

        left = attempt(lambda: draw_annotation(take, query, frame, in_camera(query), _letters_px(take, query)), query)
        targets: dict[str, RgbImage | None] = {}
        direction = _direction(take, query, target)
        for name, source in zip(self.names, self._sources, strict=True):
            if direction is None:
                problems.append(f"{name}: predictions are between an ego and an exo camera")
                break
            made = self._predicted(source, take, direction, (query, target), frame, known, problems, name)
            draw = partial(draw_against_annotation, take, target, frame, made, _letters_px(take, target))
            targets[name] = attempt(draw, target)
        if not targets:
            targets[""] = attempt(
                lambda: draw_annotation(take, target, frame, in_camera(target), _letters_px(take, target)), target
            )
        return FrameView(left, {name: image for name, image in targets.items() if image is not None}, problems)

    def _predicted(
        self, source: PredictionSource, take: Take, direction: Direction, cameras: tuple[str, str], frame: int,
        names: Sequence[str], problems: list[str], file: str,
    ) -> list[Prediction]:  # fmt: skip
        """What a file has of a frame; for objects that it lacks, an empty mask that is not visible."""
        found = source.load(direction, take.uid)
        made, missing = [], 0
        for name in names:
            if not {*cameras} <= {*take.cameras_of(name)}:
                continue
            pair = FramePair(take.uid, name, *cameras, frame, None)
            entry = None if found is None else found.get(name, *cameras, frame)
            missing += entry is None
            mask, confidence = ObjectMask.empty(take.native_size(cameras[1])), 0.0
            if entry is not None:
                try:
                    mask, confidence = entry.mask(), entry.confidence()
                except InputError as error:
                    problems.append(f"{file}, {name}: {error.problem}")
            made.append(Prediction(direction, pair, mask, confidence))
        if missing:
            problems.append(f"{file}: has no prediction here for {counted(missing, 'object')}")
        return made

    # ------------------------------------------------------------------------------------------ scores

    @property
    def directions(self) -> list[Direction]:
        """The directions that all files hold."""
        return [d for d in DIRECTIONS if self._sources and all(d in source.directions for source in self._sources)]

    def orders(self) -> list[Order]:
        """What the worst cases may be."""
        orders = [Order(f"lowest IoU of {name}", index) for index, name in enumerate(self.names)]
        if len(self.names) == 2:
            orders += [
                Order(f"{self.names[index]} behind {self.names[1 - index]}", index, 1 - index) for index in range(2)
            ]
        return orders

    def worst(self, direction: Direction, order: Order, told: Told = lambda text, part: None) -> WorstCases:
        """Score the files by the official protocol, and draw the worst cases. Missing predictions are left out.

        Args:
            direction: of the predictions.
            order: what counts as bad.
            told: of what is done.

        Raises:
            InputError: a file that cannot be scored, or read.
        """
        truth = GroundTruth(self.root, self._split)
        reports = self._reports.get(direction)
        if reports is None:
            done = [0]

            def scored(takes: int, total: int) -> None:
                done[0] += 1
                told(f"Scoring: take {takes} of {total}", done[0] / max(1, total * len(self._sources)))

            reports = evaluate_alike(
                truth, self._sources, direction, protocol="official", missing="count-absent", allow_missing_takes=True,
                progress=scored,
            )  # fmt: skip
            self._reports[direction] = reports
        report = reports[order.file]
        rows = self._rows(reports, order)
        cases = []
        for number, row in enumerate(rows, 1):
            told(f"Drawing: case {number} of {len(rows)}", number / len(rows))
            case = draw_case(row, report, truth, self._sources[order.file], self._image)
            cases += [] if case is None else [case]
        said = [
            f"{name}: IoU {r.totals.iou:.4f}, {counted(r.totals.frames, 'object-frame')}, {r.totals.missing} missing"
            for name, r in zip(self.names, reports, strict=True)
        ]
        return WorstCases(direction, order, cases, [*said, *report.notes])

    def _rows(self, reports: Sequence[Report], order: Order) -> list[FrameScore]:
        report = reports[order.file]
        table = report.table.select(~report.table["missing"])
        if order.against is None:
            return pick(replace(report, table=table), CASES)[1]
        other = reports[order.against].table
        scores = dict(zip(_keys(other), other["iou"].tolist(), strict=True))
        behind = np.array([scores.get(key, -1.0) for key in _keys(table)]) - table["iou"]
        part = np.flatnonzero((behind > 0) & table["gt_visible"])
        rows: list[FrameScore] = []
        for index in part[np.argsort(-behind[part], kind="stable")].tolist():
            row = table.row(index)
            if all((row.take, row.object) != (r.take, r.object) for r in rows):
                rows.append(row)
            if len(rows) == CASES:
                break
        return rows

    def _image(self, uid: str, camera: str, frame: int) -> RgbImage:
        take = self.take(uid)
        with self._lock:
            return take.frame(camera, frame)

    def statistics(self, told: Told = lambda text, part: None) -> Inspection:
        """What ``counterview inspect`` counts.

        Args:
            told: of what is done.

        Raises:
            InputError: a take that cannot be read.
        """
        total = len(self.uids)
        return inspect_dataset(
            self.root,
            self._split,
            progress=lambda takes: told(f"Counting: take {takes} of {total}", min(1.0, takes / total)),
        )


def _letters_px(take: Take, camera: str) -> int:
    """Height of letters that can be read where an image is shown at half a screen's width."""
    return max(8, round(max(take.image_hw(camera) or take.native_size(camera)) / LETTERS))


def _direction(take: Take, query: str, target: str) -> Direction | None:
    sides: tuple[bool, bool] = take.is_ego(query), take.is_ego(target)
    if sides[0] == sides[1]:
        return None
    way: Literal["ego2exo", "exo2ego"] = "ego2exo" if sides[0] else "exo2ego"
    return way


def _keys(table: FrameTable) -> list[tuple[object, ...]]:
    return list(zip(*(table[name].tolist() for name in KEY), strict=True))
