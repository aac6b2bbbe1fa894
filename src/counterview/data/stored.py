"""Data sets in object storage: the index is fetched, then one take after the other, by the machine that works on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from counterview.data.dataset import SPLITS, Dataset
from counterview.data.formats.prepared import ANNOTATION, SPLIT_FILE, TAKES_FILE, open_prepared
from counterview.data.formats.release import Height, ReleaseTake, annotation_path, is_release, open_release
from counterview.errors import InputError
from counterview.media.files import check_name, safe_join
from counterview.media.storage import ObjectFolder


@dataclass(frozen=True)
class StoredDataset:
    """A release or a prepared data set in object storage.

    Attributes:
        source: where it is.
        split: ``"train"``, ``"val"`` or ``"test"``; every take if ``None``.
    """

    source: ObjectFolder
    split: str | None = None

    def open(self, root: Path) -> Dataset:
        """The data set, with its index in a folder of this machine; its takes have no images yet.

        Args:
            root: an empty or a new folder.

        Raises:
            InputError: no data set, or no such split.
        """
        fetch_index(self.source, root, self.split)
        if is_release(root):
            height = stored_height(self.source)
            return open_release(root, self.split, height=height, kept_takes=1)
        if (root / SPLIT_FILE).is_file():
            return open_prepared(root, self.split, kept_takes=1)
        raise InputError(
            "is not a data set of a known format", path=self.source.url,
            expected="annotations/relations_*.json (release), or split.json with take folders (prepared)",
        )  # fmt: skip

    def name_images(self, dataset: Dataset, uid: str) -> None:
        """Make a take's image files as empty ones: their names say what there is.

        Args:
            dataset: as it was opened.
            uid: of the take.
        """
        if dataset.kind == "prepared":
            for name in self.source.files(check_name(uid)):
                path = safe_join(dataset.root, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.name == ANNOTATION:
                    self.source.fetch(name, path)
                else:
                    path.touch()

    def fetch(self, dataset: Dataset, uid: str) -> None:
        """Get a take's images.

        Args:
            dataset: as it was opened.
            uid: of the take.

        Raises:
            InputError: no such take, or it cannot be read.
            OutputError: the disk is full.
        """
        if dataset.kind == "prepared":
            self.source.fetch_all(self.source.files(check_name(uid)), dataset.root)
            return
        take = dataset.take(uid)
        assert isinstance(take, ReleaseTake)
        name_videos(self.source, take, dataset.root)
        fetch_videos(self.source, take, dataset.root)

    def drop(self, dataset: Dataset, uid: str) -> None:
        """Remove a take's images from this machine.

        Args:
            dataset: as it was opened.
            uid: of the take.
        """
        if dataset.kind == "prepared":
            shutil.rmtree(safe_join(dataset.root, uid), ignore_errors=True)
            return
        take = dataset.take(uid)
        assert isinstance(take, ReleaseTake)
        take.close()
        for folder in _folders(take):
            shutil.rmtree(safe_join(dataset.root, folder), ignore_errors=True)


def fetch_index(source: ObjectFolder, root: Path, split: str | None = None) -> None:
    """Get the annotations and lists of a data set.

    Args:
        source: the data set.
        root: where to.
        split: of the annotation; all if not given.

    Raises:
        InputError: it cannot be read.
    """
    root.mkdir(parents=True, exist_ok=True)
    top = set(source.names())
    source.fetch_all((name for name in (TAKES_FILE, SPLIT_FILE) if name in top), root)
    other = [] if split is None else [annotation_path(Path(), s).name for s in SPLITS if s != split]
    annotations = [name for name in source.files("annotations") if name.endswith(".json")]
    source.fetch_all((name for name in annotations if name.rpartition("/")[2] not in other), root)


def stored_height(source: ObjectFolder) -> Height:
    """The size of the videos of a release, as :func:`counterview.data.formats.release.detect_height` tells it.

    Args:
        source: the release.
    """
    videos = [name.split("/")[3:] for name in source.files("takes") if "/frame_aligned_videos/" in name]
    is_full = any(len(rest) == 1 and rest[0].endswith(".mp4") for rest in videos)
    return "448" if not is_full and any(rest[:2] == ["downscaled", "448"] for rest in videos) else "full"


def name_videos(source: ObjectFolder, take: ReleaseTake, root: Path) -> None:
    """Make the videos of a take as files of their size and time, without contents and without room on the disk.

    Args:
        source: the release.
        take: the take.
        root: folder of this machine in the place of the release.
    """
    for folder in _folders(take):
        for name, (size, changed_s) in source.files(folder).items():
            if name.endswith(".mp4"):
                path = safe_join(root, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as handle:
                    handle.truncate(size)
                os.utime(path, (changed_s, changed_s))


def fetch_videos(source: ObjectFolder, take: ReleaseTake, root: Path) -> None:
    """Get the videos of the cameras that are annotated, after :func:`name_videos`.

    Args:
        source: the release.
        take: the take.
        root: folder of this machine in the place of the release.

    Raises:
        InputError: one cannot be read.
    """
    for camera in take.cameras:
        video = take.video_path(camera)
        if video is not None:
            source.fetch(video.relative_to(root).as_posix(), video)


def _folders(take: ReleaseTake) -> Iterable[str]:
    return dict.fromkeys((take.facts.folder.strip("/"), f"takes/{check_name(take.name)}"))
