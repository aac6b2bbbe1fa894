"""Open a data set whatever its format: the format follows from what the folder holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from counterview.data.clock import ANNOTATION_FPS
from counterview.data.dataset import KEPT_TAKES, Dataset, Take
from counterview.data.formats import handal, prepared, release
from counterview.errors import InputError


def open_dataset(
    root: str | os.PathLike[str],
    split: str | None = None,
    *,
    height: str | None = None,
    kept_takes: int = KEPT_TAKES,
    annotation_fps: float = float(ANNOTATION_FPS),
) -> Dataset:
    """Open a data set. Its format is detected from the contents of the folder.

    ==============  ==================================================================================
    prepared        ``split.json`` and a folder per take with ``annotation.json``, here or in ``processed/``
    release         ``annotations/relations_*.json`` and ``takes/``
    HANDAL          ``handal_dataset_*`` folders, or one of them, with ``train/`` or ``test/``
    ==============  ==================================================================================

    Args:
        root: the folder.
        split: ``"train"``, ``"val"`` or ``"test"``; every take if not given.
        height: for the release, ``"full"`` or ``"448"`` videos; the size that the release holds if not given.
        kept_takes: number of opened takes that are kept in memory.
        annotation_fps: for the release, frames per second that the frame numbers count; videos may have other rates.

    Raises:
        InputError: no such folder, no data set of these formats, or no such split.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise InputError("no such folder", path=folder, expected="a data set")
    if handal.is_handal(folder):
        return handal.open_handal(folder, split, kept_takes=kept_takes)
    if release.is_release(folder):
        return release.open_release(folder, split, height=height, kept_takes=kept_takes, annotation_fps=annotation_fps)
    prepared_root = prepared.find_prepared(folder)
    if prepared_root is not None:
        return prepared.open_prepared(prepared_root, split, kept_takes=kept_takes)
    raise InputError(
        "is not a data set of a known format",
        path=folder,
        expected="split.json with take folders (prepared), annotations/relations_*.json (release) "
        "or handal_dataset_* folders",
        fix="Give the folder that holds them; `counterview prepare` makes a prepared one from a release.",
    )


class _TakeOpener:
    """Opens a take in the one of several data sets that has it. A class, because worker processes pickle it."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self._dataset_of = {uid: dataset for dataset in datasets for uid in dataset.uids}

    def __call__(self, uid: str) -> Take:
        return self._dataset_of[uid].take(uid)


def open_datasets(roots: Sequence[str | os.PathLike[str]], split: str | None = None) -> Dataset:
    """Open several data sets as one: all takes of the first, then those of the next, and so on.

    Args:
        roots: their folders, at least one; errors name the first.
        split: as for :func:`open_dataset`, the same for all.

    Raises:
        InputError: as :func:`open_dataset`, or two data sets hold the same take.
    """
    datasets = [open_dataset(root, split) for root in roots]
    first = datasets[0]
    if len(datasets) == 1:
        return first
    uids = [uid for dataset in datasets for uid in dataset.uids]
    if len(set(uids)) < len(uids):
        duplicate = next(uid for number, uid in enumerate(uids) if uid in uids[:number])
        raise InputError(
            "two data sets hold the same take",
            found=f"{duplicate} in two of {', '.join(str(dataset.root) for dataset in datasets)}",
            fix="Name each folder once.",
        )
    return Dataset(first.root, first.kind, split, uids, _TakeOpener(datasets))
