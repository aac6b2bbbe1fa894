"""Convert an Ego-Exo4D release to the prepared layout that the methods of this field read.

The unit of work is one take. A run can be interrupted anywhere and repeated: finished takes are skipped, and an
unfinished take continues after its last image. The result does not depend on interruptions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from counterview.data.dataset import DIRECTIONS, OFFICIAL_SPLITS, SPLITS, Direction
from counterview.data.formats.prepared import SPLIT_FILE, TAKES_FILE, open_prepared, read_splits
from counterview.data.formats.release import annotation_path, check_height, is_release
from counterview.data.pairs import PAIR_LIST_SETTINGS, pair_paths, pairs_of_take
from counterview.data.prepare.listings import Listings
from counterview.data.prepare.report import USABLE, PrepareReport, TakeReport
from counterview.data.prepare.settings import IMAGE_FORMATS, PrepareSettings
from counterview.data.prepare.stored import Places, make_preparer, open_places
from counterview.data.prepare.take import STATE_FOLDER, TakeJob, WriteError, read_record
from counterview.errors import ConfigError, InputError, OutputError, PathError
from counterview.jobs.engine import JobEngine
from counterview.jobs.manifest import JobTask, Manifest
from counterview.jobs.run import run
from counterview.media.files import atomic_write, check_name, read_json, write_json
from counterview.media.outputs import locked
from counterview.media.storage import is_url

REPORT_FILE = "prepare-report.json"

Progress = Callable[[int, TakeReport | None], None]
"""Called with the number of takes and a report: ``None`` at the start, then the report of each finished take."""


def prepare_release(
    release: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = OFFICIAL_SPLITS,
    height: str | None = None,
    workers: int = 1,
    engine: JobEngine | None = None,
    takes: Sequence[str] | None = None,
    split_file: str | os.PathLike[str] | None = None,
    every_second: bool = False,
    quality: int = 95,
    images: str = "jpg",
    annotation_fps: float = 30.0,
    progress: Progress | None = None,
) -> PrepareReport:
    """Prepare the takes of some splits. Run it again to continue, to add splits, or after further downloads.

    Args:
        release: the release's folder, or its address in object storage (``s3://…``).
        out: the output folder or address: new, empty, or from an earlier run with the same settings.
        splits: among ``"train"``, ``"val"`` and ``"test"``; ``None`` for those that are annotated.
        height: ``"full"`` or ``"448"`` videos; the size that the release holds if not given.
        workers: number of parallel processes.
        engine: where takes are prepared; ``workers`` processes of this machine if not given.
        takes: only these take uids; all of the splits if not given.
        split_file: the baselines' ``split.json``, if it is not in the release or its ``annotations/``. If there is
            one, only its takes are prepared, in its order.
        every_second: write every 30th frame of the ego video, as the official preparation does, in addition to the
            annotated frames.
        quality: of the JPEG files, 1 to 95.
        images: ``"jpg"``, which all readers of the layout expect, or without loss ``"png"`` or ``"webp-lossless"``.
        annotation_fps: frames per second that the frame numbers of the annotation count; 30 in every version of the
            release. Videos of other rates are read by time.
        progress: is called for each finished take.

    Returns:
        the outcome for every take and camera; it is also written to ``<out>/prepare-report.json``.

    Raises:
        InputError: not a release, no such split or take, or an output folder with other contents.
        ConfigError: the output folder was started with other settings.
        AnnotationError: an annotation file, ``takes.json`` or the split file is malformed.
        WriteError: the output folder cannot be written.
    """
    with open_places(release, out) as places:
        return _prepare_release(
            places, str(release), str(out), splits=splits, height=places.height(height),
            engine=engine or JobEngine(workers=workers), takes=takes, split_file=split_file, every_second=every_second,
            quality=quality, images=images, annotation_fps=annotation_fps, progress=progress,
        )  # fmt: skip


def _prepare_release(
    places: Places,
    release: str,
    out: str,
    *,
    splits: Sequence[str] | None,
    height: str | None,
    engine: JobEngine,
    takes: Sequence[str] | None,
    split_file: str | os.PathLike[str] | None,
    every_second: bool,
    quality: int,
    images: str,
    annotation_fps: float,
    progress: Progress | None,
) -> PrepareReport:
    """As :func:`prepare_release`."""
    root, target = places.root, places.out
    annotated = [s for s in SPLITS if annotation_path(root, s).is_file()]
    splits = _check_splits(root, (annotated or OFFICIAL_SPLITS) if splits is None else splits)
    if not 1 <= quality <= 95:
        raise InputError("quality is from 1 to 95", found=quality)
    if images not in IMAGE_FORMATS:
        raise InputError("no such image format", found=repr(images), expected=" or ".join(IMAGE_FORMATS))
    if not 0 < annotation_fps <= 1000:
        raise InputError("the annotation counts a positive number of frames a second", found=annotation_fps)
    settings = PrepareSettings(check_height(height, root), every_second, quality, images, float(annotation_fps))
    listings = Listings.read(root, _read_split_file(root, split_file))
    report = PrepareReport(release=release, height=settings.height, splits=list(splits))
    _start(target, settings)
    places.begin()
    with _write_errors(target), locked(target / STATE_FOLDER / "lock", target):
        for part in (*target.glob(".*.part"), *(target / STATE_FOLDER).glob("**/.*.part")):
            part.unlink()  # partial files of a killed run; those of takes are removed when the take is prepared
        jobs: list[TakeJob] = []
        rejected: dict[str, TakeReport] = {}
        threads = 0 if engine.is_inline else max(1, (os.cpu_count() or 1) // engine.workers)
        for split in splits:
            source = annotation_path(root, split)
            for uid in listings.candidates(split):
                rejection = listings.reject(uid, split)
                if rejection is not None:
                    rejected.setdefault(uid, rejection)
                    continue
                fact, is_listed = (listings.facts or {}).get(uid), listings.facts is not None
                span = listings.spans[split][uid]
                jobs.append(TakeJob(uid, split, root, target, source, span, fact, is_listed, settings, threads))
        selected = _select(jobs, rejected, takes)
        reports = dict(rejected)
        for uid, (take, was_done) in _run(selected, engine, progress, places).items():
            reports[uid] = take
            report.done_before += was_done
        report.takes = [
            reports[uid] for uid in dict.fromkeys(u for s in splits for u in listings.candidates(s)) if uid in reports
        ]
        report.not_annotated = listings.not_annotated({take.take_name for take in report.takes})
        places.collect(dict.fromkeys(uid for split in splits for uid in listings.candidates(split)))
        _write_lists(target, splits, listings, report, out)
        write_json(target / REPORT_FILE, report.to_dict())
        places.publish()
    return report


def _check_splits(root: Path, splits: Sequence[str]) -> tuple[str, ...]:
    if not root.is_dir():
        raise InputError("no such folder", path=root, expected="an Ego-Exo4D release")
    if not is_release(root):
        raise InputError("is not an Ego-Exo4D release", path=root, expected="annotations/relations_*.json and takes/")
    for split in splits:
        if split not in SPLITS:
            raise InputError("no such split", found=repr(split), expected=" or ".join(SPLITS))
        if not annotation_path(root, split).is_file():
            available = [s for s in SPLITS if annotation_path(root, s).is_file()]
            raise InputError(
                "no such file", path=annotation_path(root, split), fix=f"Available splits: {', '.join(available)}."
            )
    return tuple(dict.fromkeys(splits))


def _read_split_file(root: Path, split_file: str | os.PathLike[str] | None) -> dict[str, tuple[str, ...]] | None:
    if split_file is not None:
        path = Path(split_file)
        if not path.is_file():
            raise InputError("no such file", path=path, expected="split.json of the baselines")
        return read_splits(path.parent, path.name)
    for folder in (root / "annotations", root):
        splits = read_splits(folder)
        if splits is not None:
            return splits
    return None


def _select(jobs: list[TakeJob], rejected: dict[str, TakeReport], takes: Sequence[str] | None) -> list[TakeJob]:
    """The jobs of the requested takes; reports of other takes are removed from ``rejected``."""
    if takes is None:
        return jobs
    uids = {job.uid for job in jobs} | set(rejected)
    unknown = [uid for uid in takes if uid not in uids]
    if unknown:
        raise InputError(f"{len(unknown)} takes are in none of the splits", found=", ".join(unknown[:5]))
    for uid in [uid for uid in rejected if uid not in takes]:
        del rejected[uid]
    return [job for job in jobs if job.uid in set(takes)]


def _start(out: Path, settings: PrepareSettings) -> None:
    """Create the output folder, or check that an earlier run started it with the same settings."""
    path = out / STATE_FOLDER / "settings.json"
    if out.exists() and not out.is_dir():
        raise InputError("is not a folder", path=out)
    if path.is_file():
        earlier, current = read_json(path), asdict(settings)
        defaults = asdict(PrepareSettings())  # settings that an earlier version did not have
        values = {**defaults, **earlier} if isinstance(earlier, dict) else {}
        if values != current:
            changed = [f"{k} {values.get(k)!r} instead of {v!r}" for k, v in current.items() if values.get(k) != v]
            raise ConfigError(
                "was started with other settings",
                path=out,
                found=", ".join(changed) or earlier,
                fix="Give the same settings, or another folder.",
            )
        return
    if out.is_dir() and any(p.name != STATE_FOLDER for p in out.iterdir()):
        raise InputError(
            "is not empty and is not the output of counterview prepare",
            path=out,
            fix="Give a new folder: your files are never overwritten.",
        )
    with _write_errors(out):
        write_json(path, asdict(settings))


@contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    """A disk that is full, or that cannot be written, as the error of this command."""
    try:
        yield
    except OutputError as error:
        if error.errno is None:  # another run has the lock
            raise
        raise WriteError(
            error.problem, path=error.path or out, found=error.found, fix=error.fix, errno=error.errno
        ) from None


def _run(
    jobs: list[TakeJob], engine: JobEngine, progress: Progress | None, places: Places
) -> dict[str, tuple[TakeReport, bool]]:
    results: dict[str, tuple[TakeReport, bool]] = {}
    if progress is not None:
        progress(len(jobs), None)
    manifest = Manifest("prepare", tuple(JobTask(job.uid, job) for job in jobs))
    for outcome in run(make_preparer, (places,), manifest, engine=engine):
        job: TakeJob = outcome.task.item
        if outcome.error is None:
            results[job.uid] = outcome.value
        else:  # of its process: what is wrong with a take is in its report
            name = job.facts.name if job.facts else ""
            results[job.uid] = TakeReport(job.uid, job.split, "damaged", name, problems=[str(outcome.error)]), False
        if progress is not None:
            progress(len(jobs), results[job.uid][0])
    return results


def _write_lists(out: Path, splits: Sequence[str], listings: Listings, report: PrepareReport, base: str) -> None:
    """Write ``split.json``, ``takes.json`` and the pair lists of all usable takes, of this run or earlier ones."""
    lists: dict[str, list[str]] = {name: list(uids) for name, uids in (read_splits(out) or {}).items()}
    records: dict[str, dict[str, Any]] = {}
    for split in splits:
        # An earlier run may have prepared what is contradicted now.
        rejected = {take.take_uid for take in report.takes if take.split == split and take.status not in USABLE}
        order = [uid for uid in dict.fromkeys(listings.order(split)) if uid not in rejected]
        lists[split] = [uid for uid in order if _usable(out, uid) is not None]
    lists = {
        name: [uid for uid in lists.get(name, []) if not listings.is_withdrawn(uid)]
        for name in dict.fromkeys([*OFFICIAL_SPLITS, *lists])
    }
    write_json(out / SPLIT_FILE, lists)
    for uid in (uid for uids in lists.values() for uid in uids):
        records[uid] = _usable(out, uid) or {}
    write_json(
        out / TAKES_FILE,
        [
            {"take_uid": uid, "take_name": record.get("take_name", ""), "scenario": record.get("scenario", "")}
            for uid, record in records.items()
        ],
    )
    for split in splits:
        for direction in DIRECTIONS:
            _write_pairs(out, split, direction, report, base)


def _usable(out: Path, uid: str) -> dict[str, Any] | None:
    """The recorded report of a take, as JSON values, if it is usable."""
    try:
        check_name(uid)
    except PathError:
        return None
    record = read_record(out, uid)
    report = record["report"] if record is not None else None
    return report if report is not None and report["status"] in USABLE else None


def _write_pairs(out: Path, split: str, direction: Direction, report: PrepareReport, base: str) -> None:
    name = f"{split}_{PAIR_LIST_SETTINGS[direction]}_pairs.json"
    count = left_out = 0
    root = base if is_url(base) else Path(base).as_posix()
    with atomic_write(out / name, "w") as handle:
        handle.write("[")
        for take in open_prepared(out, split, kept_takes=1):
            with_images = {pair.key for pair in pairs_of_take(take, direction)}
            for pair in pairs_of_take(take, direction, need_images=False):
                paths = pair_paths(root, pair, direction) if pair.key in with_images else None
                if paths is None:
                    left_out += 1
                    continue
                handle.write((", " if count else "") + json.dumps(paths))
                count += 1
        handle.write("]")
    report.pairs[name] = count
    if left_out:
        report.pairs_left_out[name] = left_out
