"""Predictions as folders of masks.

PNG masks, as used with V2-SAM and ObjectRelator::

    <root>/<take uid>/<object>/<query camera>_<target camera>/<frame>.png      white inside, any size
    <root>/confidence.json            optional: {take: {object: {pair: {frame: number}}}}

Object and pair are encoded by :func:`folder_name`, which keeps letters, digits, space, ``-``, ``_``, ``.`` and
``~`` and writes every other byte of the UTF-8 name as ``%XX`` (``bolt/nut_0`` is ``bolt%2Fnut_0``). Without
``confidence.json`` an object counts as visible if its mask has a pixel.

LM-EEC's inference writes one JSON file per frame, ``{"size": [480, 480], "counts": "…"}``::

    <root>/<take uid>/<query camera>__<target camera>/<object>/<frame>.json

Confidence is 1 if the mask covers more than 0.1 % of the image, else 0, as in its ``merge_results.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from counterview.data.dataset import DIRECTIONS, Direction, is_ego
from counterview.errors import InputError, PathError, PredictionError
from counterview.evaluation.predictions import PredictedMask, check_mask_size
from counterview.masks.png import read_mask
from counterview.media.files import check_name, read_json, safe_join
from counterview.types import ObjectMask

LMEEC_MIN_FRACTION = 0.001


def folder_name(name: str) -> str:
    """A name from an annotation as one path component; different names give different ones, letter case apart.

    Encoded names of more than 150 bytes are shortened and end in ``%~`` and a hash.

    >>> folder_name("bolt/nut_0")
    'bolt%2Fnut_0'
    """
    text = quote(name.encode("utf-8", "surrogatepass"), safe=" -_.~")
    if len(text) > 150:
        text = f"{text[:100]}%~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"
    if text[-1:] in (".", " "):
        text = f"{text[:-1]}%{ord(text[-1]):02X}"
    try:
        return check_name(text)
    except PathError:  # empty, or a name that Windows reserves
        return f"%{ord(text[0]):02X}{text[1:]}" if text else "%"


def png_path(root: Path, take: str, name: str, query: str, target: str, frame: int) -> Path:
    """Path of a predicted mask in a folder of PNG masks, always below ``root``.

    Args:
        root: of the folder.
        take: uid of the take.
        name: of the object.
        query: camera.
        target: camera.
        frame: number.

    Raises:
        PathError: the uid of the take is not a valid file name.
    """
    return safe_join(root, check_name(take), folder_name(name), folder_name(f"{query}_{target}"), f"{int(frame)}.png")


@dataclass(frozen=True)
class _MaskFile(PredictedMask):
    """A mask in a file of its own. Without ``raw_confidence`` the mask's area decides on visibility."""

    path: Path = Path()
    min_fraction: float = 0.0

    def mask(self) -> ObjectMask:
        if self.path.suffix == ".json":
            try:
                content = read_json(self.path)
            except InputError as error:
                raise PredictionError(str(error)) from None
            return PredictedMask(content, None).mask()
        try:
            mask = ObjectMask.from_array(read_mask(self.path))
        except InputError as error:
            raise PredictionError(str(error)) from None
        return check_mask_size(mask, self.path)

    def size_hw(self) -> tuple[int, int] | None:
        try:
            if self.path.suffix == ".json":
                return PredictedMask(read_json(self.path), None).size_hw()
            with self.path.open("rb") as handle:
                header = handle.read(24)  # a PNG file begins with its size, which needs no decoding
        except (InputError, OSError):
            return None
        if not header.startswith(b"\x89PNG\r\n\x1a\n") or len(header) < 24:
            return None
        width, height = struct.unpack(">II", header[16:])
        return height, width

    def confidence(self) -> float:
        if self.raw_confidence is not None:
            return super().confidence()
        mask = self.mask()
        return float(mask.area > self.min_fraction * mask.size_hw[0] * mask.size_hw[1])


class _FolderTake:
    """The masks of one take. A folder is listed at its first use."""

    def __init__(
        self, folder: Path, kind: Literal["png", "lmeec"], confidence: Any, *, has_confidences: bool = False
    ) -> None:
        self.folder, self.kind, self.has_confidences = folder, kind, has_confidences
        self.problems: list[str] = []
        self._confidence = confidence if isinstance(confidence, dict) else {}
        self._listed: dict[tuple[str, str, str], dict[int, Path]] = {}

    def _files(self, name: str, query: str, target: str) -> dict[int, Path]:
        key = (name, query, target)
        if key not in self._listed:
            self._listed[key] = self._list(name, query, target)
        return self._listed[key]

    def _list(self, name: str, query: str, target: str) -> dict[int, Path]:
        if self.kind == "png":
            candidates = [self.folder / folder_name(name) / folder_name(f"{query}_{target}")]
        else:
            pair = self.folder / folder_name(f"{query}__{target}")
            candidates = [pair / folder_name(name)]
            with contextlib.suppress(PathError):  # LM-EEC's script joins names with a slash unencoded
                candidates.append(safe_join(pair, name, follow_links=True))
        for folder in candidates:
            if folder.is_dir():
                return self._frames(folder)
        return {}

    def _frames(self, folder: Path) -> dict[int, Path]:
        ending = ".png" if self.kind == "png" else ".json"
        files: dict[int, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() != ending:
                continue
            if not (path.stem.isascii() and path.stem.isdigit() and len(path.stem) < 12):
                self.problems.append(f"{path.name}: not a frame number")
            elif int(path.stem) in files:
                self.problems.append(f"{path.name}: frame {int(path.stem)} has two files")
            else:
                files[int(path.stem)] = path
        return files

    def get(self, name: str, query: str, target: str, frame: int) -> PredictedMask | None:
        """See :class:`counterview.evaluation.predictions.TakePredictions`."""
        path = self._files(name, query, target).get(frame)
        if path is None:
            return None
        if self.kind == "lmeec":
            return _MaskFile(None, None, path, LMEEC_MIN_FRACTION)
        value: Any = self._confidence
        for step in (name, f"{query}_{target}", str(frame)):
            value = value.get(step) if isinstance(value, dict) else None
        if value is None and self.has_confidences:
            problem = f"object {name!r}, {query}_{target}: not in confidence.json, so that the mask's area decides"
            if problem not in self.problems:
                self.problems.append(problem)
        return _MaskFile(None, value, path)

    def frames(self, name: str, query: str, target: str) -> tuple[int, ...]:
        """See :class:`counterview.evaluation.predictions.TakePredictions`."""
        return tuple(sorted(self._files(name, query, target)))

    def pairs(self) -> Iterator[tuple[str, str, int]]:
        """See :class:`counterview.evaluation.predictions.TakePredictions`."""
        for outer in _folders(self.folder):
            for inner in _folders(outer):
                name, pair = (inner, outer) if self.kind == "lmeec" else (outer, inner)
                yield unquote(name.name), unquote(pair.name), sum(1 for _ in inner.iterdir())


class MaskFolder:
    """A folder of masks, one file per frame.

    Args:
        path: the folder.
        kind: ``"png"`` or ``"lmeec"``, see the module's text.

    Raises:
        PredictionError: the folder has no masks in that layout.
    """

    def __init__(self, path: Path, kind: Literal["png", "lmeec"]) -> None:
        self.path, self.kind = path, kind
        self.notes: list[str] = []
        content = read_json(path / "confidence.json") if (path / "confidence.json").is_file() else {}
        if not isinstance(content, dict):
            raise PredictionError("is not a JSON object", path=path / "confidence.json")
        self._confidence: dict[str, Any] = content
        if kind == "png" and not content:
            self.notes.append("no confidence.json: an object counts as visible if its mask has a pixel")
        self._takes: dict[Direction, list[str]] = {d: [] for d in DIRECTIONS}
        for take in _folders(path):
            ways = set()
            for pair in _pair_folders(take, kind):
                first = unquote(pair).split("_")[0]
                ways.add(DIRECTIONS[0] if is_ego(first) else DIRECTIONS[1])
            for way in ways:
                self._takes[way].append(take.name)
        if not self.directions:
            raise PredictionError("holds no predicted masks", path=path, expected=_LAYOUTS)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions that the folder holds."""
        return tuple(d for d in DIRECTIONS if self._takes[d])

    def takes(self, direction: Direction) -> tuple[str, ...]:
        """The takes with predictions."""
        return tuple(self._takes[direction])

    def load(self, direction: Direction, uid: str) -> _FolderTake | None:
        """The predictions of one take; ``None`` if there are none."""
        if uid not in self._takes[direction]:
            return None
        confidence = self._confidence.get(uid)
        return _FolderTake(self.path / uid, self.kind, confidence, has_confidences=bool(self._confidence))


_LAYOUTS = "<take>/<object>/<query>_<target>/<frame>.png, or LM-EEC's <take>/<query>__<target>/<object>/<frame>.json"


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _pair_folders(take: Path, kind: str) -> list[str]:
    if kind == "lmeec":
        return [p.name for p in _folders(take) if "__" in p.name]
    return sorted({pair.name for name in _folders(take) for pair in _folders(name)})


def open_folder(path: Path) -> MaskFolder:
    """Open a folder of predictions; the ``__`` between its cameras marks LM-EEC's layout.

    Raises:
        PredictionError: neither layout.
    """
    for take in _folders(path):
        for pair in (p for p in _folders(take) if "__" in p.name):
            # rglob does not follow links.
            if next(chain(pair.glob("*/*.json"), pair.rglob("*.json")), None) is not None:
                return MaskFolder(path, "lmeec")
    return MaskFolder(path, "png")
