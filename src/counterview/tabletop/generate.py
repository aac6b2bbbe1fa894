"""A synthetic data set: takes in parallel, resumed where a run was cut off, then the release's index files."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from counterview.errors import InputError
from counterview.jobs.engine import JobEngine
from counterview.jobs.manifest import Manifest, set_aside
from counterview.jobs.run import run
from counterview.media.files import read_json, sha256_file, write_errors, write_json
from counterview.media.outputs import claim_output_folder
from counterview.tabletop.config import TabletopConfig
from counterview.tabletop.objects.catalogue import SPLITS
from counterview.tabletop.take import FORMAT, RECORD, digest, make_take, take_name

__all__ = ["generate", "index_takes", "share_out"]

MANIFEST = "manifest.json"
START = "tabletop.json"
"""Name of the file with the settings, written first: it marks the folder as a data set of ours."""
_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.15, "test_novel": 0.05}


def share_out(takes: int, split: str | None) -> dict[str, int]:
    """How many takes each split gets.

    Args:
        takes: number of takes in all.
        split: a split's name; ``"train=20,val=4"`` (the numbers must add up to ``takes``); or None for 70 % train,
            10 % val, 15 % test and 5 % test_novel, remainders to the largest first.

    Raises:
        InputError: an unknown split, or numbers that do not add up.
    """
    if takes < 1:
        raise InputError("the number of takes is at least 1", found=takes)
    if split is None or split == "all":
        exact = {s: takes * fraction for s, fraction in _FRACTIONS.items()}
        counts = {s: int(x) for s, x in exact.items()}
        for s in sorted(exact, key=lambda s: counts[s] - exact[s])[: takes - sum(counts.values())]:
            counts[s] += 1
        return {s: n for s, n in counts.items() if n}
    counts = {}
    for part in split.split(","):
        name, _, number = part.strip().partition("=")
        if name not in SPLITS or (number and not number.isdecimal()) or name in counts:
            raise InputError(
                "unknown split", found=repr(part), expected=f"one of {', '.join(SPLITS)}, or e.g. train=20,val=4"
            )
        counts[name] = int(number) if number else takes
    if sum(counts.values()) != takes:
        raise InputError("the takes of the splits do not add up", found=sum(counts.values()), expected=takes)
    return {s: n for s, n in counts.items() if n}


def _versions() -> dict[str, str]:
    names = (
        "counterview",
        "numpy",
        "scipy",
        "opencv-python-headless",
        "pillow",
        "embreex",
        "av",
        "pycocotools",
        "lzstring",
    )
    out = {"python": platform.python_version()}
    for name in names:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "unknown"
    return out


TakeItem = tuple[Path, TabletopConfig, int, str, int]
"""Folder of the data set, its settings, its seed, the split, and the take's number in it."""


def _renderer() -> Callable[[TakeItem], None]:
    import cv2

    def render(item: TakeItem) -> None:
        cv2.setNumThreads(1)
        with write_errors(item[0]):
            make_take(*item)

    return render


def _progress(total: int, show: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="take", disable=not show)


def generate(
    out: Path,
    counts: Mapping[str, int],
    config: TabletopConfig,
    seed: int,
    workers: int = 1,
    progress: bool = False,
    *,
    engine: JobEngine | None = None,
) -> Path:
    """Make takes and index them.

    Finished takes are kept, so a run that was killed continues where it was; the result has the same bytes as an
    unbroken one, for any number of workers. More takes can be added by a later call with larger ``counts``.

    Args:
        out: folder of the data set.
        counts: takes per split, see :func:`share_out`.
        config: settings of the data set.
        seed: of the data set; another seed gives other takes.
        workers: processes.
        progress: show a bar on stderr.
        engine: where takes are made; ``workers`` processes of this machine if not given.

    Returns:
        the manifest's path; it is written last.

    Raises:
        ConfigError: settings out of range.
        InputError: the folder holds a data set of other settings or another seed.
        OutputError: the folder holds other files, cannot be written, or another run writes there.
        MissingExtraError: ``embreex`` is not installed.
        TasksFailedError: takes that cannot be made; the others are there, and the data set is not indexed.
    """
    config.check()
    with claim_output_folder(out, "tabletop", is_own=_is_own, overwrite=None):
        return _generate(out, counts, config, seed, engine or JobEngine(workers=workers), progress)


def _is_own(out: Path) -> bool:
    return (out / START).is_file()


def _generate(
    out: Path, counts: Mapping[str, int], config: TabletopConfig, seed: int, engine: JobEngine, progress: bool
) -> Path:
    """As :func:`generate`, while no other run writes the folder."""
    begin(out, config, seed)
    with write_errors(out / MANIFEST):
        (out / MANIFEST).unlink(missing_ok=True)
    try:
        members = render_takes(out, counts, config, seed, engine, progress, _renderer)
    finally:
        shutil.rmtree(out / ".partial", ignore_errors=True)
    return index_takes(out, config, seed, members)


def begin(out: Path, config: TabletopConfig, seed: int) -> None:
    """Write the settings of a data set, or check that those that are there are the same.

    Args:
        out: folder of the data set.
        config: settings of the data set.
        seed: of the data set.

    Raises:
        InputError: other settings or another seed.
    """
    request = {"format": FORMAT, "seed": seed, "digest": digest(config), "settings": config.settings()}
    start = out / START
    if not start.exists():
        write_json(start, request)
        return
    old = read_json(start)
    settings, earlier = config.settings(), dict(old.get("settings", {}))
    changed = sorted(k for k in settings.keys() | earlier.keys() if settings.get(k) != earlier.get(k))
    if any(old.get(k) != request[k] for k in ("format", "seed", "digest")):
        raise InputError(
            "holds a data set made with other settings",
            path=out,
            found=", ".join(changed) or f"seed {old.get('seed')}, format {old.get('format')}",
            fix="Choose another output folder, or the settings of the first run.",
        )


def render_takes(
    out: Path,
    counts: Mapping[str, int],
    config: TabletopConfig,
    seed: int,
    engine: JobEngine,
    progress: bool,
    make_renderer: Callable[..., Callable[[TakeItem], None]],
    *arguments: Any,
) -> list[tuple[str, int]]:
    """Render all takes.

    Args:
        out: folder of the data set.
        counts: takes per split.
        config: settings of the data set.
        seed: of the data set.
        engine: where.
        progress: show a bar on stderr.
        make_renderer: makes a worker.
        arguments: of ``make_renderer``.

    Returns:
        (split, index) of each take.

    Raises:
        TasksFailedError: takes that cannot be made, after all others.
    """
    items = [(out, config, seed, split, index) for split in SPLITS for index in range(counts.get(split, 0))]
    manifest = Manifest.of("tabletop", items, key=lambda item: take_name(*item[2:]))
    failed = []
    with _progress(len(items), progress) as bar:
        for outcome in run(make_renderer, arguments, manifest, engine=engine):
            failed += [] if outcome.error is None else [outcome]
            bar.update()
    if len(failed) == 1 and len(items) == 1:
        failed[0].result()
    if failed:
        raise set_aside("tabletop", failed, len(items))
    return [(item[3], item[4]) for item in items]


def index_takes(out: Path, config: TabletopConfig, seed: int, members: Sequence[tuple[str, int]]) -> Path:
    """Write ``takes.json``, the annotations, ``split.json`` and, last, the manifest, for takes that are complete.

    Args:
        out: folder of the data set.
        config: settings of the data set.
        seed: of the data set.
        members: (split, index) of each take, in the order to list them.

    Returns:
        the manifest's path.

    Raises:
        InputError: a take is missing.
    """
    takes: list[dict[str, Any]] = []
    uids: dict[str, list[str]] = {s: [] for s in SPLITS}
    relations: dict[str, dict[str, Any]] = {s: {} for s in SPLITS}
    listing = []
    for split, index in members:
        name = take_name(seed, split, index)
        record = read_json(out / "takes" / name / RECORD)
        takes.append(record["take"])
        uids[split].append(record["take_uid"])
        relations[split][record["take_uid"]] = record["annotation"]
        listing.append(
            {
                "take_uid": record["take_uid"],
                "take_name": name,
                "split": split,
                "instances": record["instances"],
                "files": record["files"],
            }
        )
    write_json(out / "takes.json", takes, indent=1)
    filled = [split for split in SPLITS if relations[split]]
    for split in filled:
        write_json(
            out / "annotations" / f"relations_{split}.json",
            {
                "version": f"tabletop-{FORMAT}",
                "date": "",
                "description": "synthetic takes of Counterview",
                "metadata": {"seed": seed},
                "annotations": relations[split],
            },
            indent=None,
        )
    write_json(out / "split.json", uids, indent=1)
    indices = ["takes.json", "split.json", *(f"annotations/relations_{s}.json" for s in filled)]
    write_json(
        out / MANIFEST,
        {
            "generator": "counterview.tabletop",
            "format": FORMAT,
            "seed": seed,
            "digest": digest(config),
            "settings": config.settings(),
            "versions": _versions(),
            "files": {name: sha256_file(out / name) for name in indices},
            "takes": listing,
        },
        indent=1,
    )
    return out / MANIFEST
