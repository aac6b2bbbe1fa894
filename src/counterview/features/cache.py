"""Frozen features cached on disk, under a hash of everything that they depend on.

A half-precision store rounds to 11 significant bits: values come back within a relative ``2**-11`` (absolute ``2**-25``
near zero) of what was computed. A ``float32`` store is exact, at twice the space. The first call returns the stored
array as well, so that a run gives the same numbers with an empty and with a full cache.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from counterview.errors import CounterviewError, InputError, OutputError
from counterview.features.base import Backbone, Fallback, FeatureMap, PoolingKind
from counterview.guard import library_errors
from counterview.media.files import atomic_write, write_json
from counterview.media.npy import read_header
from counterview.media.outputs import remove_parts
from counterview.types import ObjectMask, RgbImage, as_rgb

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Storage = Literal["float16", "float32"]
Entry = tuple[np.ndarray, Mapping[str, Any]]
"""An array of any shape, and its JSON note."""
_MAGIC = b"cvarray1"
_TAIL = struct.Struct("<QI8s")  # length of the JSON note, CRC-32 of all before the tail, magic


class ArrayStore:
    """Arrays on disk under text keys, memory-mapped, each in one file that is written completely or not at all.

    A file is a ``.npy`` (NumPy reads it), then a JSON note, then a checksum. It is checked when this object first opens
    it; a damaged one is logged and made again. Several processes may use one store at the same time: equal keys give
    equal content, and the last writer wins.

    Args:
        root: folder of all stores.
        settings: JSON values on which the arrays depend beside their keys; other settings are another store.
        storage: dtype in which floating-point arrays are stored; other arrays keep theirs.

    Raises:
        InputError: the settings are not JSON, or ``storage`` is neither of the two.
    """

    def __init__(
        self, root: str | os.PathLike[str], settings: Mapping[str, Any], *, storage: Storage = "float16"
    ) -> None:
        if storage not in ("float16", "float32"):
            raise InputError("arrays are stored as float16 or float32", found=repr(storage))
        self.storage = storage
        content = {"settings": dict(settings), "storage": storage}
        try:
            text = json.dumps(content, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError("the settings of a cache must be JSON", found=str(error)) from None
        self.folder = Path(root) / hashlib.sha256(text.encode()).hexdigest()[:20]
        if not (self.folder / "settings.json").is_file():
            with _room(self.folder):
                remove_parts(self.folder, "settings.json", shared=True)
                write_json(self.folder / "settings.json", json.loads(text))
        self._checked: set[str] = set()
        self.written = 0
        """Bytes that this object has written."""

    def path(self, key: str) -> Path:
        """The file of a key, whether it exists or not."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / digest[:2] / f"{digest}.npy"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob("??/*.npy"))

    def get(self, key: str) -> Entry | None:
        """The array of a key, of any shape, read-only and memory-mapped, and its note; ``None`` if there is none."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with library_errors(InputError, "cannot be read"):
                note = _read_note(path, check=key not in self._checked)
                with path.open("rb") as handle:
                    shape, _, dtype = read_header(handle, path, InputError)
                if math.prod(shape) != note.get("size"):
                    raise InputError("its array is another one", found=f"{dtype} {shape}")
                # An empty array, of an image without masks, cannot be mapped.
                array = np.load(path, mmap_mode="r" if note["size"] else None, allow_pickle=False)
                if key not in self._checked and array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise InputError("holds values that are not finite")  # which put would not have stored
        except InputError as error:
            logger.warning("%s: a damaged cache entry is made again (%s)", path, error.found or error.problem)
            return None
        if note.get("key") != key:
            logger.warning("%s: a cache entry of another key is made again", path)
            return None
        self._checked.add(key)
        return array, note["note"]

    def put(self, key: str, array: np.ndarray, note: Mapping[str, Any] | None = None) -> Entry:
        """Store an array of any shape, and return it as :meth:`get` does.

        Raises:
            InputError: a value is not finite, or too large for half precision.
            OutputError: the disk is full.
        """
        array = np.asarray(array)
        if array.dtype.hasobject:
            raise InputError("only arrays of numbers can be cached", found=array.dtype)
        if array.dtype.kind == "f":
            if not np.isfinite(array).all():
                raise InputError("features with NaN or infinity are not cached", path=self.path(key), found=key)
            with np.errstate(over="ignore"):
                stored = array.astype(self.storage)
            if not np.isfinite(stored).all():
                raise InputError(
                    "features are too large for half precision",
                    found=f"{np.abs(array).max():.3g}",
                    expected="at most 65504",
                    fix="Store them as float32.",
                )
            array = stored
        text = json.dumps({"key": key, "size": int(array.size), "note": dict(note or {})}, sort_keys=True).encode()
        path = self.path(key)
        remove_parts(path.parent, path.name, shared=True)
        with _room(path), atomic_write(path) as handle:
            counted = _Checksum(handle)
            np.lib.format.write_array(counted, np.ascontiguousarray(array), allow_pickle=False)
            counted.write(text)
            handle.write(_TAIL.pack(len(text), counted.crc, _MAGIC))
            self.written += handle.tell()
        self._checked.discard(key)
        entry = self.get(key)
        if entry is None:
            raise CounterviewError("a cache entry cannot be read back", path=path, fix="Check the disk.")
        return entry

    def get_or_make(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, read-only: from disk, or made, stored and read back."""
        entry = self.get(key)
        return (entry if entry is not None else self.put(key, make()))[0]


class _Checksum:
    """A file handle that keeps the CRC-32 of what passes through it."""

    def __init__(self, handle: Any) -> None:
        self._handle, self.crc = handle, 0

    def write(self, data: Any) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return int(self._handle.write(data))


def _read_note(path: Path, *, check: bool) -> dict[str, Any]:
    with path.open("rb") as handle:
        handle.seek(0, os.SEEK_END)
        size = handle.tell()
        if size < _TAIL.size:
            raise ValueError("cut short")
        handle.seek(size - _TAIL.size)
        length, crc, magic = _TAIL.unpack(handle.read(_TAIL.size))
        if magic != _MAGIC or length > size - _TAIL.size:
            raise ValueError("cut short")
        if check:
            handle.seek(0)
            left, checksum = size - _TAIL.size, 0
            while left:
                chunk = handle.read(min(left, 1 << 20))
                if not chunk:
                    raise ValueError("cut short")
                checksum = zlib.crc32(chunk, checksum)
                left -= len(chunk)
            if checksum != crc:
                raise ValueError("its checksum differs")
        handle.seek(size - _TAIL.size - length)
        note = json.loads(handle.read(length))
    if not isinstance(note, dict) or not isinstance(note.get("note"), dict):
        raise ValueError("its note is damaged")
    return note


@contextlib.contextmanager
def _room(path: Path) -> Iterator[None]:
    """Turn a full disk into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        raise OutputError(
            "the disk is full", path=path, fix="Entries written so far are complete; free some space and run again.",
            errno=error.errno,
        ) from None  # fmt: skip


def image_key(image: RgbImage) -> str:
    """SHA-256, in hex, of an image's size and pixels ``(H, W, 3)``: its name in a cache, wherever its file is."""
    image = as_rgb(image)
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _Origin:
    """Origin of a cached map, with the image if the backbone cannot describe masks without it."""

    key: str
    image: RgbImage | Callable[[], RgbImage] | None


class CachedBackbone:
    """A backbone whose maps and descriptors are cached on disk.

    It is a :class:`~counterview.features.base.Backbone` itself. Maps are stored under a hash of the image, or under a
    key of the caller's, which saves decoding the image (:meth:`map`).

    Args:
        backbone: computes missing entries. Its ``settings()`` are part of every key.
        root: folder of the cache.
        storage: ``"float16"``, or ``"float32"`` for exact values.

    Maps and descriptors come back as float32 tensors on the CPU.
    """

    def __init__(self, backbone: Backbone, root: str | os.PathLike[str], *, storage: Storage = "float16") -> None:
        self.backbone = backbone
        self.name, self.channels, self.stride = backbone.name, backbone.channels, backbone.stride
        self.store = ArrayStore(root, backbone.settings(), storage=storage)
        self.passes = 0
        self._last: tuple[str, FeatureMap] | None = None

    def settings(self) -> dict[str, Any]:
        """Those of the backbone, and how its output is stored."""
        return {**self.backbone.settings(), "storage": self.store.storage}

    def encode(self, image: RgbImage) -> FeatureMap:
        """The feature map of an image ``(H, W, 3)`` uint8, see :meth:`map`."""
        return self.map(image_key(image), image)

    def __call__(self, images: Sequence[RgbImage]) -> list[FeatureMap]:
        """The feature maps of several images ``(H, W, 3)``, in their order; missing ones are computed as one batch."""
        keys = [image_key(image) for image in images]
        self._make(dict(zip(keys, images, strict=True)))
        return [self.map(key, image) for key, image in zip(keys, images, strict=True)]

    def map(self, key: str, image: RgbImage | Callable[[], RgbImage]) -> FeatureMap:
        """The feature map of an image under a key.

        Args:
            key: identifies the image's content, such as a hash of its file, or of the data set with take, camera and
                frame.
            image: ``(H, W, 3)`` uint8, or a function that reads it, called only if the map is missing.
        """
        entry = self.store.get(f"map/{key}")
        if entry is None:
            self._make({key: image})
            entry = self.store.get(f"map/{key}")
        if entry is None:
            raise CounterviewError("a cache entry cannot be read back", path=self.store.path(f"map/{key}"))
        array, note = entry
        with library_errors(InputError, "a cache entry is not a feature map", path=self.store.path(f"map/{key}")):
            return FeatureMap(
                tensor=_tensor(array),
                image_hw=(note["image_hw"][0], note["image_hw"][1]),
                input_hw=(note["input_hw"][0], note["input_hw"][1]),
                reduction=note["reduction"],
                extra=_Origin(key, image if note.get("needs_image", note.get("needs_picture")) else None),
            )

    def _make(self, images: Mapping[str, RgbImage | Callable[[], RgbImage]]) -> None:
        missing = {k: image for k, image in images.items() if self.store.get(f"map/{k}") is None}
        if not missing:
            return
        decoded = [image() if callable(image) else image for image in missing.values()]
        self.passes += len(decoded)
        for key, features in zip(missing, self.backbone(decoded), strict=True):
            note = {
                "image_hw": list(features.image_hw),
                "input_hw": list(features.input_hw),
                "reduction": features.reduction,
                "needs_image": features.extra is not None,
            }
            self.store.put(f"map/{key}", features.tensor.detach().float().cpu().numpy(), note)
            if features.extra is not None:
                self._last = (key, features)  # its masks come next, and need more than the map

    def describe(
        self,
        features: FeatureMap,
        masks: Sequence[ObjectMask],
        kind: PoolingKind = "mask",
        *,
        context_px: int | None = None,
        fallback: Fallback = "centre",
    ) -> Tensor:
        """Descriptors ``(N, D)`` of masks, cached for each image and set of masks.

        Arguments and errors as for :meth:`~counterview.features.base.Backbone.describe`.
        """
        origin = features.extra
        if not isinstance(origin, _Origin):
            return self.backbone.describe(features, masks, kind, context_px=context_px, fallback=fallback)
        digest = hashlib.sha256()
        for mask in masks:
            digest.update(json.dumps([list(mask.size_hw), [int(run) for run in mask.runs]]).encode())
        key = f"descriptors/{origin.key}/{digest.hexdigest()}/{kind}/{context_px}/{fallback}"

        def make() -> np.ndarray:
            source = features
            if origin.image is not None and self._last is not None and self._last[0] == origin.key:
                source = self._last[1]
            elif origin.image is not None:
                source = self.backbone.encode(origin.image() if callable(origin.image) else origin.image)
                self._last = (origin.key, source)
                self.passes += 1
            table = self.backbone.describe(source, masks, kind, context_px=context_px, fallback=fallback)
            return np.asarray(table.detach().float().cpu().numpy())

        return _tensor(self.store.get_or_make(key, make))

    def fill(
        self,
        items: Iterable[tuple[str, Callable[[], RgbImage]]],
        *,
        total: int | None = None,
        batch_size: int = 1,
        progress: bool = True,
    ) -> tuple[int, int]:
        """Compute the maps of many images; cached ones are skipped.

        Args:
            items: keys as for :meth:`map`, and functions that read the images ``(H, W, 3)``.
            total: their number, for the progress bar.
            batch_size: images that go through the backbone together.
            progress: show a bar on stderr.

        Returns:
            number of maps computed, and number of maps that were cached.
        """
        computed = cached = 0
        waiting: dict[str, RgbImage | Callable[[], RgbImage]] = {}
        for key, read in tqdm(items, total=total, desc="features", unit="image", disable=not progress):
            if key in waiting or self.store.get(f"map/{key}") is not None:
                cached += 1
                continue
            waiting[key] = read
            if len(waiting) >= batch_size:
                self._make(waiting)
                computed += len(waiting)
                waiting = {}
        self._make(waiting)
        return computed + len(waiting), cached


def _tensor(array: np.ndarray) -> Tensor:
    import torch

    # A copy: the file is mapped read-only, which torch cannot express.
    return torch.from_numpy(np.array(array, dtype=np.float32))
