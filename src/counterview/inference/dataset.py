"""Predictions for a data set, in the official format (Ego-Exo4D Correspondence).

Every image goes through the backbone once, whatever the number of objects, cameras and directions. Finished frames are
written beside the output, one line a frame and one file a take, so that a run that was killed can be resumed; memory
holds the images of one frame.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from counterview.cost import MEASURED_IMAGES, MIN_IMAGES, Cost, announce
from counterview.data.dataset import DIRECTIONS, Dataset, Direction, check_direction
from counterview.data.pairs import FramePair, PairFraction, pairs_of_take
from counterview.errors import ConfigError, CounterviewError, InputError, OutputError, counted
from counterview.evaluation.layout import OFFICIAL, RECORD, Record
from counterview.evaluation.predictions import is_prediction_file
from counterview.inference.finished import counts_of, held_takes, is_made_by, other_settings
from counterview.inference.take_parts import (
    VERSION,
    Step,
    TakeWork,
    fingerprint,
    image_count,
    make_take_worker,
    merge_parts,
    part_path,
    remaining_of,
    wanted_of,
)
from counterview.inference.takes import TakePredictor
from counterview.jobs.engine import JobEngine
from counterview.jobs.manifest import JobTask, Manifest
from counterview.jobs.run import run
from counterview.media.files import read_json, write_json
from counterview.media.outputs import claim_output_file, remove_parts

logger = logging.getLogger(__name__)


def predict(
    predictor: TakePredictor,
    dataset: Dataset,
    directions: Sequence[Direction],
    out: str | os.PathLike[str],
    *,
    fraction: float = 1.0,
    seed: int = 42,
    overwrite: bool = False,
    progress: bool = True,
    engine: JobEngine | None = None,
    make_predictor: Callable[[], TakePredictor] | None = None,
) -> dict[str, Any]:
    """Predict a data set and write one prediction file.

    Nothing is computed if ``out`` holds these predictions already: it records the model with its weights, every
    setting, the layout, the fraction and the takes, and its number of predictions of each take is that of the pairs.

    Args:
        predictor: the method.
        dataset: the takes. Every frame with a query mask is predicted, also where the target is absent, as the official
            server expects; with the predictor's layout ``lmeec``, only frames in which the target has a mask.
        directions: one or both.
        out: the file. Finished frames are kept in ``out.parts`` beside it until the file is complete.
        fraction: of the pairs that are scored, to predict no others: those that
            :func:`counterview.data.pairs.subset` selects from each direction. The file records it.
        seed: of this selection.
        overwrite: compute the file again if it is finished, and replace a file of other settings or of another kind, as
            well as an unfinished run with other settings.
        progress: show a progress bar on standard error.
        engine: where takes are predicted; in this process if not given.
        make_predictor: loads the same method in another process. Picklable; needed where ``engine`` has several.

    Returns:
        Counts: ``predictions``, ``takes``, ``empty`` (number of empty predictions by reason), ``failed`` (uid to
        problem of each take that was left out) and ``finished_before`` (whether nothing was left to do).

    Raises:
        ConfigError: several processes without ``make_predictor``.
        InputError: no direction, nothing to predict, a fraction outside 0 to 1, or an unfinished run with other
            settings or data.
        OutputError: ``out`` is a folder, a file of another kind or of other settings, being written by another run, or
            cannot be written; or it holds a take that can no longer be predicted, and stays as it is.
    """
    directions = [check_direction(d) for d in dict.fromkeys(directions)]
    if not directions:
        raise InputError("no direction was given", expected=" or ".join(DIRECTIONS))
    out = Path(out)
    with claim_output_file(out, "a prediction file", is_own=is_prediction_file, overwrite=overwrite):
        run_takes = partial(_run_takes, predictor, make_predictor, engine or JobEngine())
        return _predict(predictor, dataset, directions, out, fraction, seed, overwrite, progress, run_takes)


def _predict(
    predictor: TakePredictor,
    dataset: Dataset,
    directions: list[Direction],
    out: Path,
    fraction: float,
    seed: int,
    overwrite: bool,
    progress: bool,
    run_takes: Callable[..., dict[str, str]],
) -> dict[str, Any]:
    """As :func:`predict`, while no other run writes ``out``."""
    parts = out.with_name(out.name + ".parts")
    pairs = {} if fraction == 1 else {d: _part_of_pairs(dataset, d, fraction, seed) for d in directions}
    record = Record(predictor.layout, dataset.uids, pairs)
    header: dict[str, Any] = {
        "format": VERSION,
        "directions": directions,
        "settings": predictor.settings(),
        "data": fingerprint(dataset),
    }
    if record.layout != OFFICIAL or pairs:  # an unfinished run of an earlier version is resumed
        header["record"] = {**record.to_json(), "takes": None}
    settings = {**header["settings"], "data": dataset.image_source()}
    work: list[_Work] | None = None
    if out.exists() and not overwrite:
        if not is_made_by(out, directions, settings, record):
            raise other_settings(out)
        work = list(_work(predictor, dataset, directions, parts, pairs))
        if _holds_every_take(out, work):
            _remove_finished(parts, header)
            return {**counts_of(out), "takes": len(dataset), "failed": {}, "finished_before": True}
    _open_parts(parts, header, overwrite)  # which may discard finished frames, so that these are counted afterwards
    work = list(_work(predictor, dataset, directions, parts, pairs)) if work is None else work
    frames, images = sum(take.frames for take in work), sum(take.images for take in work)
    if progress and images >= MIN_IMAGES:
        tqdm.write(
            f"{images} images to encode, in {counted(frames, 'frame')} of {counted(len(dataset), 'take')}",
            file=sys.stderr,
        )
    with tqdm(total=frames, unit="frame", disable=None if progress else True, dynamic_ncols=True) as bar:
        failed = run_takes(dataset, directions, pairs, parts, _Pace(bar, images, predictor, progress))
    lost = sorted(set(held_takes(out)) & set(failed)) if failed and out.exists() and not overwrite else []
    if lost:
        raise _lost_take(out, lost[0], failed[lost[0]])
    counts = merge_parts(parts, out, dataset, directions, {**settings, RECORD: record.to_json()}, failed)
    shutil.rmtree(parts)
    return {**counts, "takes": len(dataset), "failed": failed, "finished_before": False}


def _run_takes(
    predictor: TakePredictor,
    make_predictor: Callable[[], TakePredictor] | None,
    engine: JobEngine,
    dataset: Dataset,
    directions: Sequence[Direction],
    pairs: Mapping[Direction, PairFraction],
    parts: Path,
    pace: _Pace,
) -> dict[str, str]:
    """Predict all takes; uid to problem of each that was left out."""
    step: Step | None = pace.step
    if engine.is_inline:
        make_predictor = partial(_same, predictor)
    elif make_predictor is None:
        raise ConfigError("several processes need a way to load the model", found="no make_predictor")
    else:
        step = None
    work = TakeWork(make_predictor, predictor.settings(), dataset, directions, pairs, parts.absolute())
    manifest = Manifest("predict", tuple(JobTask(uid, uid) for uid in dataset.uids))
    failed = {}
    for outcome in run(make_take_worker, (work, step), manifest, engine=engine, on_steps=pace.steps):
        if outcome.error is not None:
            if engine.is_inline and not isinstance(outcome.error, CounterviewError):
                raise outcome.error
            failed[outcome.task.key] = str(outcome.error)
            logger.warning("take %s is left out: %s", outcome.task.key, outcome.error)
    return {uid: failed[uid] for uid in dataset.uids if uid in failed}


def _same(predictor: TakePredictor) -> TakePredictor:
    return predictor


@dataclass(frozen=True)
class _Work:
    """What is to be done of a take: pairs in all, frames and images that are left, or why it cannot be read."""

    uid: str
    pairs: int = 0
    frames: int = 0
    images: int = 0
    problem: str | None = None


def _work(
    predictor: TakePredictor,
    dataset: Dataset,
    directions: Sequence[Direction],
    parts: Path,
    fractions: Mapping[Direction, PairFraction],
) -> Iterator[_Work]:
    """Count what is to be done of each take."""
    for uid in dataset.uids:
        try:
            wanted = wanted_of(predictor, dataset.take(uid), directions, fractions)
        except CounterviewError as error:
            yield _Work(uid, problem=str(error))
            continue
        remaining, _ = remaining_of(predictor, wanted, part_path(parts, uid))
        images = sum(image_count(pairs) for pairs in remaining.values())
        yield _Work(uid, sum(len(pairs) for pairs in wanted.values()), len(remaining), images)


def _holds_every_take(out: Path, work: Sequence[_Work]) -> bool:
    """Whether a file of these settings has every pair; a take that was left out, in part or whole, is tried again."""
    held = held_takes(out)
    for take in work:
        if take.problem is not None and take.uid in held:  # before the other takes are computed
            raise _lost_take(out, take.uid, take.problem)
    return all(take.problem is None and take.pairs == held.get(take.uid, 0) for take in work)


def _lost_take(out: Path, uid: str, problem: str) -> OutputError:
    return OutputError(
        f"holds take {uid}, which can no longer be predicted, and stays as it is: {problem}", path=out,
        fix="Mend the data, give another --out, or add --overwrite.",
    )  # fmt: skip


def _part_of_pairs(dataset: Dataset, direction: Direction, fraction: float, seed: int) -> PairFraction:
    """The fraction of the pairs that are scored; takes that cannot be read have none, and are reported later."""

    def scored() -> Iterator[FramePair]:
        for uid in dataset.uids:
            with contextlib.suppress(CounterviewError):
                yield from list(pairs_of_take(dataset.take(uid), direction, targets="annotated", need_images=False))

    return PairFraction.of(scored(), fraction, seed)


def _open_parts(parts: Path, header: dict[str, Any], overwrite: bool) -> None:
    marker = parts / "run.json"
    if parts.is_dir() and not marker.exists() and any(p.suffix != ".part" for p in parts.iterdir()):
        raise OutputError(
            "is not empty and not of an unfinished run", path=parts, expected=f"a file {marker.name}",
            fix="Give another --out, or move the folder: unfinished predictions are kept there.",
        )  # fmt: skip
    if marker.exists():
        try:
            earlier = read_json(marker)
        except InputError:
            earlier = None
        if earlier == json.loads(json.dumps(header)):
            remove_parts(parts)
            return
        if not overwrite:
            raise InputError(
                "holds an unfinished run with other settings or data",
                path=parts,
                fix="Finish that run with its own settings, or start again with --overwrite.",
            )
        shutil.rmtree(parts)
    write_json(marker, header)


_PART_NAME = re.compile(r"[0-9a-f]{24}\.jsonl")


def _remove_finished(parts: Path, header: dict[str, Any]) -> None:
    """Remove what a run left that was stopped after its file was complete: all of its parts, or some of them."""
    marker = parts / "run.json"
    if not parts.is_dir():
        return
    if marker.exists():
        with contextlib.suppress(InputError):
            if read_json(marker) == json.loads(json.dumps(header)):
                shutil.rmtree(parts)
    elif all(_PART_NAME.fullmatch(p.name) or p.suffix == ".part" for p in parts.iterdir()):
        shutil.rmtree(parts)


class _Pace:
    """Moves the bar, and says once, after the first few frames, what the rest will cost."""

    def __init__(self, bar: tqdm[Any], images: int, predictor: TakePredictor, progress: bool) -> None:
        self.bar, self.left, self.predictor, self.progress = bar, images, predictor, progress
        self.timed = -1  # the first frame is not timed: it also loads libraries
        self.start = time.perf_counter()
        self.bytes_before = 0

    def steps(self, number: int) -> None:
        """Count frames of other processes."""
        self.bar.update(number)

    def step(self, images: int, text: str) -> None:
        """Count one frame with so many images."""
        self.bar.update()
        self.bar.set_postfix_str(text, refresh=False)
        self.left -= images
        if self.timed < 0:
            self.timed, self.start, self.bytes_before = 0, time.perf_counter(), self._cache()[1]
        elif self.timed < MEASURED_IMAGES:
            self.timed += images
            if self.timed >= MEASURED_IMAGES:
                seconds = (time.perf_counter() - self.start) / self.timed
                folder, nbytes = self._cache()
                announce(
                    Cost(self.left, 0, seconds, (nbytes - self.bytes_before) / self.timed, folder),
                    progress=self.progress,
                )

    def _cache(self) -> tuple[Path | None, int]:
        cache = getattr(self.predictor, "cache", None)
        return (None, 0) if cache is None else (cache.folder, cache.written)
