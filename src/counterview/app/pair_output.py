"""What a visitor takes home from the tab "Two images": masks and overlay, and the files of annotation tools."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path, PurePath

from counterview.app.pair import PagePair
from counterview.errors import InputError
from counterview.exchange.formats import write as write_format
from counterview.exchange.pairs import tracks_of_matches
from counterview.exchange.tracks import Tracks
from counterview.inference.match_output import describe, write
from counterview.masks.png import write_mask_png
from counterview.types import Match, ObjectMask

FORMATS = {"coco": "COCO", "cvat": "CVAT", "labelstudio": "Label Studio", "tracks": "tracks.json"}
"""Formats of annotation tools that the tab offers, and what they are called on the page."""


def downloads(pair: PagePair) -> dict[str, tuple[str, Callable[[Path], Path]]]:
    """The files that are offered: name to what the page calls it, and what makes it in an empty folder.

    Args:
        pair: of which at least one object is matched.
    """
    made: dict[str, tuple[str, Callable[[Path], Path]]] = {
        "overlay.png": ("Overlay", lambda folder: _written(pair, folder, "overlay.png")),
        "masks.zip": ("Masks", lambda folder: _masks(pair, folder)),
        "match.json": ("match.json", lambda folder: _written(pair, folder, "match.json")),
    }
    for name, title in FORMATS.items():
        is_file = name in ("coco", "tracks")
        file = f"{name}.json" if is_file else f"{name}.zip"
        made[file] = (title, _exporter(pair, name, file))
    return made


def _results(pair: PagePair) -> tuple[list[ObjectMask], list[Match]]:
    """The query masks ``(H, W)`` and the matches of all matched objects."""
    found = [(item.selection, item.match) for item in pair.matched]
    masks = [selection.mask_rle for selection, _ in found if selection is not None]
    matches = [match for _, match in found if match is not None]
    if not matches:
        raise InputError("no object is matched", fix="Match first.")
    return masks, matches


def _written(pair: PagePair, folder: Path, name: str) -> Path:
    """One of the files that ``counterview match`` writes."""
    query, target = pair.images["query"], pair.images["target"]
    masks, matches = _results(pair)
    settings = {**pair.predictor.settings(), "prompt_proposals": pair.predictor.prompt_settings()}
    result = describe(query.name, target.name, query.image, target.image, masks, matches, settings)
    write(folder, result, query.image, target.image, masks, matches)
    return folder / name


def _masks(pair: PagePair, folder: Path) -> Path:
    """The masks of both images as PNG files in an archive: ``query/NAME.png`` and ``target/NAME.png``."""
    masks, matches = _results(pair)
    for mask, match in zip(masks, matches, strict=True):
        for side, one in (("query", mask), ("target", match.mask_rle)):
            (folder / side).mkdir(exist_ok=True)
            write_mask_png(folder / side / f"{match.name}.png", one)
    return _archive(folder, "masks.zip", [*folder.rglob("*.png")])


def _exporter(pair: PagePair, name: str, file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        paths = write_format(tracks_of(pair), name, folder)
        if file.endswith(".json"):
            return paths[0].rename(folder / file)
        return _archive(folder, file, paths)

    return make


def tracks_of(pair: PagePair) -> Tracks:
    """The matches as tracks of one frame.

    Args:
        pair: of which at least one object is matched.

    Raises:
        InputError: no object is matched.
    """
    query, target = pair.images["query"], pair.images["target"]
    masks, matches = _results(pair)
    names = [PurePath(image.name).stem or side for side, image in (("query", query), ("target", target))]
    if names[0] == names[1]:
        names = [f"{names[0]}-query", f"{names[1]}-target"]
    by_name = {match.name: mask for match, mask in zip(matches, masks, strict=True)}
    return tracks_of_matches(
        names[0], query.size_hw, by_name, names[1], target.size_hw, matches, (query.name, target.name),
        pair.predictor.settings(),
    )  # fmt: skip


def _archive(folder: Path, name: str, paths: list[Path]) -> Path:
    """A zip file of files below a folder."""
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(paths):
            archive.write(path, path.relative_to(folder).as_posix())
    return folder / name
