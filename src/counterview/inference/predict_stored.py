"""Predictions for takes in object storage, and into it: each worker fetches a take, predicts it and stores the part."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from counterview.data.dataset import Direction
from counterview.data.stored import StoredDataset
from counterview.errors import InputError, counted
from counterview.evaluation.layout import OFFICIAL, RECORD, Record
from counterview.inference.finished import counts_of, held_takes, is_made_by, other_settings
from counterview.inference.take_parts import (
    VERSION,
    TakeWork,
    fingerprint,
    make_take_worker,
    merge_parts,
    part_path,
)
from counterview.inference.takes import TakePredictor
from counterview.jobs.engine import JobEngine
from counterview.jobs.manifest import JobTask, Manifest
from counterview.jobs.run import run
from counterview.media.files import read_json, write_json
from counterview.media.storage import ObjectFolder, split_url

_HEADER = "run.json"


@dataclass(frozen=True)
class StoredWork:
    """What a worker needs beside the model.

    Attributes:
        data: the takes.
        parts: folder of finished takes in the storage.
        work: everything else; its data set and folder are replaced in each process.
    """

    data: StoredDataset
    parts: ObjectFolder
    work: TakeWork


def make_stored_worker(stored: StoredWork) -> Callable[[str], None]:
    """A worker that predicts takes of a storage, given their uids.

    Args:
        stored: what it needs.

    Raises:
        InputError: the model of this process is not that of the run, or the storage cannot be read.
    """
    scratch = tempfile.TemporaryDirectory(prefix="counterview-")
    dataset = stored.data.open(Path(scratch.name) / "data")
    parts = Path(scratch.name) / "parts"
    parts.mkdir()
    worker = make_take_worker(replace(stored.work, dataset=dataset, parts=parts))

    def predict(uid: str) -> None:
        assert scratch  # the folder lives as long as the worker
        part = part_path(parts, uid)
        stored.data.fetch(dataset, uid)
        try:
            worker(uid)
            part.touch()  # of a take without anything to predict
            stored.parts.store(part, part.name)
        finally:
            part.unlink(missing_ok=True)
            stored.data.drop(dataset, uid)

    return predict


def predict_stored(
    predictor: TakePredictor,
    data: StoredDataset,
    directions: Sequence[Direction],
    out: str,
    *,
    make_predictor: Callable[[], TakePredictor],
    takes: int | None = None,
    overwrite: bool = False,
    engine: JobEngine | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Predict a data set in object storage and store one prediction file there: that of a folder, to the last byte.

    Finished takes are kept in ``out.parts`` until the file is complete; a run that was stopped goes on after them.
    Unlike in a folder, nothing keeps two runs of one file apart.

    Args:
        predictor: the method.
        data: the takes.
        directions: one or both.
        out: address of the file.
        make_predictor: loads the method in another process.
        takes: only the first ones.
        overwrite: replace what is there.
        engine: where takes are predicted; in this process if not given.
        progress: show a progress bar on standard error.

    Returns:
        counts, as :func:`counterview.inference.dataset.predict` gives them.

    Raises:
        InputError: no data set, nothing to predict, or an unfinished run with other settings.
        OutputError: the file is of other settings, or cannot be stored.
    """
    folder, name = split_url(out)
    parts = ObjectFolder(f"{out}.parts")
    with tempfile.TemporaryDirectory(prefix="counterview-") as scratch:
        place = Path(scratch)
        dataset = data.open(place / "data")
        dataset = dataset if takes is None else dataset.first(takes)
        if not dataset.uids:
            raise InputError("there is nothing to predict", path=data.source.url, found="no take")
        data.name_images(dataset, dataset.uids[0])
        record = Record(predictor.layout, dataset.uids, {})
        settings = {**predictor.settings(), "data": dataset.image_source()}
        header: dict[str, Any] = {
            "format": VERSION, "directions": list(directions), "settings": predictor.settings(),
            "data": fingerprint(dataset),
        }  # fmt: skip
        if record.layout != OFFICIAL:
            header["record"] = {**record.to_json(), "takes": None}
        file = place / "predictions.json"
        if folder.has(name) and not overwrite:
            folder.fetch(name, file)
            if not is_made_by(file, directions, settings, record):
                raise other_settings(Path(out))
            if set(held_takes(file)) == set(dataset.uids):
                return {**counts_of(file), "takes": len(dataset), "failed": {}, "finished_before": True}
        _open_parts(parts, header, place / _HEADER, overwrite)
        done = set(parts.files())
        work = TakeWork(make_predictor, predictor.settings(), dataset, directions, {}, place)
        left = [uid for uid in dataset.uids if part_path(Path(), uid).name not in done]
        manifest = Manifest("predict", tuple(JobTask(uid, uid) for uid in left))
        failed: dict[str, str] = {}
        total = len(dataset)
        with tqdm(total=total, initial=total - len(left), unit="take", disable=None if progress else True) as bar:
            for outcome in run(make_stored_worker, (StoredWork(data, parts, work),), manifest, engine=engine):
                bar.update()
                if outcome.error is not None:
                    failed[outcome.task.key] = str(outcome.error)
        local = place / "parts"
        parts.fetch_all((each for each in parts.files() if each != _HEADER), local)
        counts = merge_parts(local, file, dataset, directions, {**settings, RECORD: record.to_json()}, failed)
        folder.store(file, name)
        parts.remove(parts.files())
    return {**counts, "takes": total, "failed": failed, "finished_before": False}


def _open_parts(parts: ObjectFolder, header: dict[str, Any], file: Path, overwrite: bool) -> None:
    write_json(file, header)
    if parts.has(_HEADER):
        earlier = file.with_name("earlier.json")
        parts.fetch(_HEADER, earlier)
        if read_json(earlier) == read_json(file):
            return
        if not overwrite:
            raise InputError(
                "holds an unfinished run with other settings or data", path=parts.url,
                found=counted(len(parts.files()), "file"),
                fix="Finish that run with its own settings, or start again with --overwrite.",
            )  # fmt: skip
        parts.remove(parts.files())
    parts.store(file, _HEADER)
