"""Preparing from and into object storage: each take is fetched, prepared on the machine of its worker, and stored.

A machine holds the videos of the takes that it works on, and no others. A take's record is stored after its files, so
that a take with a record is complete.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from counterview.data.formats.prepared import ANNOTATION, SPLIT_FILE, TAKES_FILE
from counterview.data.formats.release import ReleaseTake
from counterview.data.prepare.report import TakeReport
from counterview.data.prepare.take import STATE_FOLDER, TakeJob, is_finished, prepare_take, record_path
from counterview.data.stored import fetch_index, fetch_videos, name_videos, stored_height
from counterview.errors import CounterviewError, InputError
from counterview.media.files import safe_join, write_json
from counterview.media.jsonstream import Span
from counterview.media.storage import ObjectFolder, is_url

_SETTINGS = f"{STATE_FOLDER}/settings.json"


@dataclass(frozen=True)
class Places:
    """Where a release is and where its prepared form goes, each a folder or an address.

    Attributes:
        root: the release, or a folder with its index alone: annotations, lists, and empty folders of takes.
        out: the prepared folder, or one with its lists, records and names of images alone.
        source: the release in object storage; ``None`` for a folder.
        target: the prepared folder in object storage; ``None`` for a folder.
    """

    root: Path
    out: Path
    source: ObjectFolder | None = None
    target: ObjectFolder | None = None

    def height(self, given: str | None) -> str | None:
        """The size of the videos: what is given, or what the storage holds; ``None`` where the folder tells it.

        Args:
            given: by the user.
        """
        if given is not None or self.source is None:
            return given
        return stored_height(self.source)

    def begin(self) -> None:
        """Store the settings: the folder is known by them."""
        if self.target is not None:
            self.target.store(self.out / _SETTINGS, _SETTINGS)

    def collect(self, uids: Iterable[str]) -> None:
        """Get what the lists are made from: annotation, names and one image of each camera of prepared takes.

        Args:
            uids: of the takes.
        """
        if self.target is None:
            return
        self.target.fetch_all(self.target.files(f"{STATE_FOLDER}/takes"), self.out)
        for uid in uids:
            with suppress(CounterviewError):  # a uid that is no file name was not prepared
                folder = safe_join(self.out, uid)
                names = self.target.files(uid) if not (folder / ANNOTATION).is_file() else {}
                self._collect_take(list(names))

    def _collect_take(self, names: list[str]) -> None:
        assert self.target is not None
        first: dict[str, Path] = {}
        for name in names:
            path = safe_join(self.out, name)
            camera = name.rpartition("/")[0]
            if path.name == ANNOTATION or camera not in first:
                self.target.fetch(name, path)
                first[camera] = path
            else:  # of the other images, their name and size in pixels count
                os.link(first[camera], path)

    def publish(self) -> None:
        """Store the lists and the report."""
        if self.target is not None:
            for path in sorted(self.out.glob("*.json")):
                self.target.store(path, path.name)


@contextmanager
def open_places(release: str | os.PathLike[str], out: str | os.PathLike[str]) -> Iterator[Places]:
    """The places of a release and of a prepared folder; what is needed of storage lies in a temporary folder.

    Args:
        release: a folder, or an address.
        out: likewise.

    Yields:
        the places.

    Raises:
        InputError: the storage cannot be read, or the output holds something else.
        MissingExtraError: the extra ``[s3]`` is not installed.
    """
    if not is_url(release) and not is_url(out):
        yield Places(Path(release), Path(out))
        return
    with tempfile.TemporaryDirectory(prefix="counterview-") as scratch:
        source = ObjectFolder(os.fspath(release)) if is_url(release) else None
        target = ObjectFolder(os.fspath(out)) if is_url(out) else None
        places = Places(
            Path(scratch) / "release" if source else Path(release), Path(scratch) / "out" if target else Path(out),
            source, target,
        )  # fmt: skip
        if source is not None:
            _fetch_index(source, places.root)
        if target is not None:
            _fetch_state(target, places.out)
        yield places


def _fetch_index(source: ObjectFolder, root: Path) -> None:
    fetch_index(source, root)
    for name in source.names("takes"):
        with suppress(CounterviewError):
            safe_join(root, "takes", name).mkdir(parents=True, exist_ok=True)


def _fetch_state(target: ObjectFolder, out: Path) -> None:
    top = set(target.names())
    if not top:
        return
    if not target.has(_SETTINGS):
        raise InputError(
            "is not empty and is not the output of counterview prepare", path=target.url,
            fix="Give a new address: your files are never overwritten.",
        )  # fmt: skip
    names = [name for name in (SPLIT_FILE, TAKES_FILE) if name in top]
    target.fetch_all([*names, *target.files(STATE_FOLDER)], out)


def make_preparer(places: Places) -> Callable[[TakeJob], tuple[TakeReport, bool]]:
    """A worker that prepares the takes it is given.

    Args:
        places: of the run.
    """
    if places.source is None and places.target is None:
        return prepare_take

    def prepare(job: TakeJob) -> tuple[TakeReport, bool]:
        with tempfile.TemporaryDirectory(prefix="counterview-") as scratch:
            return _prepare_stored(job, places, Path(scratch))

    return prepare


def _prepare_stored(job: TakeJob, places: Places, scratch: Path) -> tuple[TakeReport, bool]:
    """:func:`prepare_take` of a take whose files are fetched and stored."""
    record = f"{STATE_FOLDER}/takes/{job.uid}.json"
    if places.target is not None:
        job = replace(job, out=scratch / "out")
        kept = places.target.files(job.uid)
        places.target.fetch_all([name for name in (record,) if places.target.has(name)], job.out)
        for name in kept:  # names of images are enough to see that they are there
            path = safe_join(job.out, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    if places.source is not None:
        job = _with_videos(job, places.source, scratch / "release")
    report, was_done = prepare_take(job)
    for address, folder in ((places.source, job.release), (places.target, job.out)):
        if address is not None and not was_done:
            report = _with_addresses(report, job, folder, address.url)
    if places.target is not None and not was_done:
        written = [path for path in (job.out / job.uid).rglob("*") if path.is_file()]
        for path in written:
            if path.stat().st_size:
                places.target.store(path, path.relative_to(job.out).as_posix())
        places.target.remove(set(kept) - {path.relative_to(job.out).as_posix() for path in written})
        if (job.out / record).is_file():
            places.target.store(job.out / record, record)
    return report, was_done


def _with_addresses(report: TakeReport, job: TakeJob, folder: Path, url: str) -> TakeReport:
    """The report, and the record of it, with addresses in the place of a folder that is gone afterwards."""
    path = record_path(job.out, job.uid)
    if path.is_file():
        write_json(path, json.loads(path.read_text(encoding="utf-8").replace(str(folder), url)))
    return TakeReport.from_dict(json.loads(json.dumps(report.to_dict()).replace(str(folder), url)))


def _with_videos(job: TakeJob, source: ObjectFolder, root: Path) -> TakeJob:
    """The job with the take's annotation and videos on this machine; without the videos' contents if it is done."""
    raw = source.read(f"annotations/{job.source.name}", job.span.start, job.span.end)
    annotation = root / "annotations" / job.source.name
    annotation.parent.mkdir(parents=True)
    annotation.write_bytes(raw)
    job = replace(job, release=root, source=annotation, span=Span(0, len(raw)))
    try:
        take = ReleaseTake(root, annotation, job.uid, json.loads(raw), job.facts, height=job.settings.height)
    except (CounterviewError, ValueError):
        return job  # prepare_take says what is wrong with it
    name_videos(source, take, root)
    if not is_finished(job):
        fetch_videos(source, take, root)
    return job
