"""Proposals cached on disk, under a hash of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from counterview.errors import CounterviewError, InputError
from counterview.guard import library_errors
from counterview.masks.geometry import same_aspect
from counterview.masks.rle import decode_counts, encode_counts
from counterview.media.files import read_json, write_json
from counterview.media.outputs import remove_parts
from counterview.proposals.base import Proposals, Proposer
from counterview.types import RgbImage, as_rgb

FORMAT = 1
"""Version of the entries; one of another version is ignored and made again."""
MAX_BYTES = 1 << 28
"""Size of the largest entry that is read."""

_log = logging.getLogger(__name__)


class CachedProposer:
    """A proposer with a cache on disk.

    An entry is one JSON file of COCO run lengths, named by the SHA-256 of the pixels, the proposer's name, its settings
    and :data:`FORMAT`. Entries are written aside and renamed, so that several processes can share a folder: at worst
    two do the same work and write the same bytes. An entry that is damaged, or belongs to another key, is made again,
    with a warning.

    Args:
        proposer: makes missing entries.
        folder: of the entries; created with the first.
    """

    def __init__(self, proposer: Proposer, folder: str | os.PathLike[str]) -> None:
        self.proposer = proposer
        self.folder = Path(folder)
        self.name = proposer.name
        self.written = 0
        """Bytes that this object has written."""

    def settings(self) -> dict[str, Any]:
        """Those of the proposer: a cache does not change results."""
        return self.proposer.settings()

    def path(self, image: RgbImage) -> Path:
        """The file of an image's entry, whether it exists or not.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
        """
        key = cache_key(image, self.proposer)
        return self.folder / key[:2] / f"{key}.json"

    def __call__(self, image: RgbImage, name: str | None = None) -> Proposals:
        """The cached proposals of an image, or new ones, which are then cached.

        A disk that cannot be written costs a warning, not the result. Proposals of ``folder`` are not cached, since the
        folder may change.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            name: as for the proposer.

        Raises:
            ImageError: another shape or dtype.
        """
        image = as_rgb(image)
        if self.name == "folder":
            return self.proposer(image, name)
        path = self.path(image)
        entry = self._read(path, image)
        if entry is not None:
            return entry
        proposals = self.proposer(image, name)
        try:
            remove_parts(path.parent, path.name, shared=True)
            write_json(path, _to_json(proposals, path.stem), indent=None)
            self.written += path.stat().st_size
        except OSError as error:
            _log.warning("%s: the proposals cannot be cached (%s) and will be made again", path, error.strerror)
        return proposals

    def _read(self, path: Path, image: RgbImage) -> Proposals | None:
        if not path.is_file():
            return None
        try:
            with library_errors(InputError, "its contents cannot be read"):
                return _from_json(read_json(path, max_bytes=MAX_BYTES), path.stem, (image.shape[0], image.shape[1]))
        except CounterviewError as error:
            _log.warning("%s: this entry cannot be used and is made again: %s", path, error.problem)
            return None


def cache_key(image: RgbImage, proposer: Proposer) -> str:
    """SHA-256, in hex, of everything that proposals depend on: image, proposer, settings and format.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        proposer: its name and settings count.
    """
    digest = hashlib.sha256()
    about = {
        "format": FORMAT,
        "proposer": proposer.name,
        "settings": proposer.settings(),
        "shape": list(image.shape),
    }
    digest.update(json.dumps(about, sort_keys=True, allow_nan=False).encode())
    digest.update(b"\0")
    digest.update(image.tobytes())
    return digest.hexdigest()


def _to_json(proposals: Proposals, key: str) -> dict[str, Any]:
    counts = [encode_counts(mask) for mask in proposals.masks]
    body: dict[str, Any] = {
        "size": list(proposals.size_hw),
        "counts": counts,
        # Nine digits identify a float32 exactly.
        "scores": [float(f"{value:.9g}") for value in proposals.scores],
        "boxes_xywh": [[float(f"{value:.9g}") for value in box] for box in proposals.boxes_xywh],
    }
    return {"format": FORMAT, "key": key, "check": _checksum(body), **body}


def uncached(proposer: Proposer) -> Proposer:
    """The proposer itself, without the cache that it may stand behind."""
    return proposer.proposer if isinstance(proposer, CachedProposer) else proposer


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _from_json(entry: Any, key: str, size_hw: tuple[int, int]) -> Proposals:
    """Rebuild an entry.

    Raises:
        CounterviewError: it is damaged, of another format, or of another image.
    """
    if not isinstance(entry, dict) or entry.get("format") != FORMAT or entry.get("key") != key:
        raise InputError("it is of another format or another image")
    body = {name: entry.get(name) for name in ("size", "counts", "scores", "boxes_xywh")}
    size = body["size"]
    if entry.get("check") != _checksum(body) or not isinstance(size, list) or len(size) != 2:
        raise InputError("its contents were changed")
    if not all(type(v) is int and v > 0 for v in size) or not same_aspect((size[0], size[1]), size_hw):
        raise InputError("its masks are of another size")
    size_hw = (size[0], size[1])
    with library_errors(InputError, "its contents do not fit"), np.errstate(over="ignore"):
        masks = tuple(decode_counts(text, size_hw) for text in entry["counts"])
        boxes, scores = (np.array(body[name], dtype=np.float32) for name in ("boxes_xywh", "scores"))
        return Proposals(size_hw, masks, scores, boxes.reshape(-1, 4))
