"""``takes.json`` of a release: names, folders and videos of the takes by uid. Withdrawn takes are not in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterview.errors import AnnotationError
from counterview.media.files import read_json


@dataclass(frozen=True)
class TakeFacts:
    """The entry of a take in ``takes.json``.

    Attributes:
        name: the take's name.
        folder: its folder relative to the release, ``takes/<name>`` unless the entry has another.
        videos: path of each stream relative to ``folder``, by ``<camera>_<stream>`` and, for fixed cameras, by name.
    """

    name: str
    folder: str
    videos: Mapping[str, str] = field(default_factory=dict)


def read_takes_json(root: Path) -> dict[str, TakeFacts] | None:
    """Facts of every take by uid; ``None`` if the release has no ``takes.json``.

    Raises:
        AnnotationError: the file is not a list of takes, or gives a take two names. Entries without uid or name are
            skipped.
    """
    path = root / "takes.json"
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, list):
        raise AnnotationError("is not a list of takes", path=path, found=type(content).__name__, expected="a list")
    facts: dict[str, TakeFacts] = {}
    for entry in content:
        if not isinstance(entry, dict):
            continue
        uid, name = entry.get("take_uid"), entry.get("take_name")
        if not isinstance(uid, str) or not isinstance(name, str):
            continue
        if uid in facts and facts[uid].name != name:
            raise AnnotationError(f"lists take {uid} twice", path=path, found=f"{facts[uid].name} and {name}")
        folder = entry.get("root_dir")
        facts[uid] = TakeFacts(name, folder if isinstance(folder, str) else f"takes/{name}", _videos(entry))
    return facts


def split_withdrawn(
    root: Path, uids: Iterable[str], facts: Mapping[str, TakeFacts] | None
) -> tuple[list[str], list[str]]:
    """The annotated takes that ``takes.json`` lists, and those that were withdrawn from the release since.

    Args:
        root: the release.
        uids: of the annotated takes.
        facts: of :func:`read_takes_json`; without the file, no take counts as withdrawn.

    Raises:
        AnnotationError: it lists none of them, so that nothing is left.
    """
    annotated = list(uids)
    listed = [uid for uid in annotated if facts is None or uid in facts]
    if annotated and not listed:
        raise AnnotationError(
            f"lists none of the {len(annotated)} annotated takes", path=root / "takes.json",
            found=f"{len(facts or ())} takes",
            fix="All of them were withdrawn, or the file is of another release or incomplete: download it again.",
        )  # fmt: skip
    return listed, [uid for uid in annotated if facts is not None and uid not in facts]


def _videos(entry: Mapping[str, Any]) -> dict[str, str]:
    paths: dict[str, str] = {}
    cameras = entry.get("frame_aligned_videos")
    for camera, streams in cameras.items() if isinstance(cameras, dict) else ():
        for stream, facts in streams.items() if isinstance(streams, dict) else ():
            path = facts.get("relative_path") if isinstance(facts, dict) else None
            if isinstance(path, str):
                paths[f"{camera}_{stream}"] = path
                if stream == "0":
                    paths[camera] = path
    return paths
