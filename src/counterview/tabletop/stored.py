"""A synthetic data set in object storage: each take is rendered on the machine of its worker, and stored."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from counterview.errors import OutputError
from counterview.jobs.engine import JobEngine
from counterview.media.storage import ObjectFolder
from counterview.tabletop.config import TabletopConfig
from counterview.tabletop.generate import MANIFEST, START, TakeItem, begin, index_takes, render_takes
from counterview.tabletop.take import RECORD, make_take, take_name


def make_stored_renderer(target: ObjectFolder) -> Callable[[TakeItem], None]:
    """A worker that renders takes and stores them, the record last; a take with a record is kept.

    Args:
        target: the data set.
    """

    def render(item: TakeItem) -> None:
        _, config, seed, split, index = item
        place = f"takes/{take_name(seed, split, index)}"
        if target.has(f"{place}/{RECORD}"):
            return
        with tempfile.TemporaryDirectory(prefix="counterview-") as scratch:
            folder = make_take(Path(scratch), config, seed, split, index)
            names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
            for name in [*(name for name in names if name != RECORD), RECORD]:
                target.store(folder / name, f"{place}/{name}")

    return render


def generate_stored(
    url: str,
    counts: Mapping[str, int],
    config: TabletopConfig,
    seed: int,
    *,
    engine: JobEngine | None = None,
    progress: bool = False,
) -> str:
    """As :func:`counterview.tabletop.generate.generate`, into object storage; the files have the same bytes.

    Args:
        url: of the data set.
        counts: takes per split.
        config: settings of the data set.
        seed: of the data set.
        engine: where takes are made; in this process if not given.
        progress: show a bar on stderr.

    Returns:
        the manifest's address; it is stored last.

    Raises:
        ConfigError: settings out of range.
        InputError: the address holds a data set of other settings or another seed.
        OutputError: it holds other files, or cannot be written.
        TasksFailedError: takes that cannot be made; the others are there, and the data set is not indexed.
    """
    config.check()
    target = ObjectFolder(url)
    names = target.names()
    if names and START not in names:
        raise OutputError(
            "is not empty and not an output of counterview tabletop", path=url, found=", ".join(names[:3]),
            fix="Give another address.",
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="counterview-") as scratch:
        out = Path(scratch)
        if START in names:
            target.fetch(START, out / START)
        begin(out, config, seed)
        target.store(out / START, START)
        target.remove([MANIFEST])
        members = render_takes(out, counts, config, seed, engine or JobEngine(), progress, make_stored_renderer, target)
        for split, index in members:
            name = f"takes/{take_name(seed, split, index)}/{RECORD}"
            target.fetch(name, out / name)
        index_takes(out, config, seed, members)
        shutil.rmtree(out / "takes")
        lists = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.json"))
        for name in [*(name for name in lists if name not in (START, MANIFEST)), MANIFEST]:
            target.store(out / name, name)
    return f"{target.url}/{MANIFEST}"
