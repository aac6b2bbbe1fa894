"""Everything that training needs of an image, made once and kept on disk: map, proposals, their descriptors.

The backbone is frozen, so after the first pass over a data set only small arrays are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from counterview.config import to_dict
from counterview.data.dataset import Dataset, Take
from counterview.data.open import open_datasets
from counterview.errors import MaskError
from counterview.features import Backbone, FeatureMap, load_backbone
from counterview.features.cache import ArrayStore, CachedBackbone, image_key
from counterview.masks.geometry import fit_mask
from counterview.masks.rle import to_coco
from counterview.media.files import sha256_file
from counterview.omama.config import OMaMaConfig
from counterview.omama.descriptors import describe_masks
from counterview.omama.training.mining import representatives
from counterview.omama.training.neighbours import adjacency, centroids_yx
from counterview.proposals import CachedProposer, Proposals, Proposer, load_proposer
from counterview.types import ObjectMask
from counterview.workers import MIN_POOL_ITEMS, for_each_item

ImageName = tuple[str, str, int]
"""A take's uid, a camera, a frame."""

_LAYOUT = 1  # raised when the kept arrays change their meaning


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """What is known of an image. N proposals, C channels, a map of ``h x w`` cells.

    Attributes:
        size_hw: of the image, in pixels.
        map: ``(C, h, w)`` float16.
        descriptors: ``(N, 2C)`` float16 of the proposals.
        boxes_xywh: ``(N, 4)`` float32, pixels.
        neighbours: ``(N, N)`` bool, see :func:`counterview.omama.adjacency`.
        same: ``(N,)`` int32, see :func:`counterview.omama.training.mining.representatives`.
    """

    size_hw: tuple[int, int]
    map: NDArray[np.float16]
    descriptors: NDArray[np.float16]
    boxes_xywh: NDArray[np.float32]
    neighbours: NDArray[np.bool_]
    same: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(getattr(self, n).nbytes for n in ("map", "descriptors", "boxes_xywh", "neighbours", "same"))


@dataclass(frozen=True, eq=False)
class Objects:
    """The annotated objects of an image. K objects, N proposals.

    Attributes:
        names: K names.
        descriptors: ``(K, 2C)`` float16 of the ground-truth masks.
        overlap: ``(K, N)`` float32, IoU of each with each proposal at the image's size.
        boxes_xywh: ``(K, 4)`` float32, pixels.
        empty: ``(K,)`` bool, whether the mask has no pixel.
    """

    names: tuple[str, ...]
    descriptors: NDArray[np.float16]
    overlap: NDArray[np.float32]
    boxes_xywh: NDArray[np.float32]
    empty: NDArray[np.bool_]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.descriptors.nbytes + self.overlap.nbytes + 100 * len(self.names)

    def row(self, name: str) -> int | None:
        """Place of an object; ``None`` if it has no usable mask here."""
        return self.names.index(name) if name in self.names else None

    def usable(self, name: str) -> int | None:
        """Place of an object whose mask has a pixel; ``None`` if there is no such one."""
        row = self.row(name)
        return None if row is None or self.empty[row] else row


class ImageStore:
    """Makes and keeps :class:`ImageRecord` and :class:`Objects`.

    Equal images (by the bytes of their files), masks and settings are made once, whatever take or data set
    they belong to. Several processes may share the folder.

    Args:
        config: names backbone and proposer, and says how masks are described.
        root: folder of the cache.
        order: order of neighbours.
        duplicate_iou: see :func:`counterview.omama.training.mining.representatives`.
        memory_mb: what is kept in memory at most.
        backbone, proposer: loaded by name if not given.
    """

    def __init__(
        self,
        config: OMaMaConfig,
        root: str | os.PathLike[str],
        *,
        order: int = 2,
        duplicate_iou: float = 0.95,
        memory_mb: int = 2000,
        backbone: Backbone | None = None,
        proposer: Proposer | None = None,
        device: str = "auto",
    ) -> None:
        self.config, self.root = config, Path(root)
        self.order, self.duplicate_iou, self.memory = order, duplicate_iou, memory_mb * 1_000_000
        self.given_backbone = backbone  # one that the model itself holds cannot be loaded by name
        backbone = backbone or load_backbone(config.backbone, device=device, **config.backbone_settings)
        self.proposer: Proposer = CachedProposer(
            proposer or load_proposer(config.proposer, **config.proposer_settings), self.root / "proposals"
        )
        self.backbone = CachedBackbone(backbone, self.root / "features")
        settings = {
            "layout": _LAYOUT,
            "backbone": self.backbone.settings(),
            "proposer": [self.proposer.name, self.proposer.settings()],
            "descriptor": to_dict(config.descriptor),
        }
        self.half = ArrayStore(self.root / "descriptors", settings)
        exact = {**settings, "order": order, "duplicate_iou": duplicate_iou}
        self.exact = ArrayStore(self.root / "layout", exact, storage="float32")
        self._keys: dict[ImageName, str] = {}
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._bytes = 0

    def widths(self) -> dict[str, int]:
        """Channels of the maps, and of object descriptors, as the model's configuration calls them."""
        size = (64, 64)
        backbone = self.backbone.backbone
        features = backbone.encode(np.zeros((*size, 3), dtype=np.uint8))
        width = describe_masks(self.config.descriptor, backbone, features, [ObjectMask.empty(size)]).shape[1]
        return {"channels": backbone.channels, "object_channels": int(width) - backbone.channels}

    def key(self, take: Take, camera: str, frame: int) -> str:
        """The image's name in the cache: a hash of its file, or of its pixels where it comes out of a video."""
        name = (take.uid, camera, frame)
        if name not in self._keys:
            path = getattr(take, "frame_path", None)
            place = path(camera, frame) if path is not None else None
            if place is not None and place.is_file():
                self._keys[name] = sha256_file(place)
            else:
                self._keys[name] = image_key(take.frame(camera, frame))
        return self._keys[name]

    def record(self, take: Take, camera: str, frame: int) -> ImageRecord:
        """What is known of an image, made if it was not."""
        key = self.key(take, camera, frame)
        return cast(ImageRecord, self._keep(("image", key), lambda: self._record(key, take, camera, frame)))

    def objects(self, take: Take, camera: str, frame: int) -> Objects:
        """The annotated objects of an image, made if they were not. Masks that do not decode are left out."""
        name, asked = self.objects_name(self.key(take, camera, frame), take, camera, frame)
        return cast(Objects, self._keep(name, lambda: self._objects(name, take, camera, frame, asked)))

    def objects_name(
        self, key: str, take: Take, camera: str, frame: int
    ) -> tuple[tuple[str, str, str], tuple[str, ...]]:
        """Under what the objects of an image with this key are kept, which hangs on their masks; and their names."""
        raw = {n: take.raw_masks[n][camera][frame] for n in take.objects if frame in take.raw_masks[n].get(camera, {})}
        digest = hashlib.sha256(json.dumps(raw, sort_keys=True, default=str).encode()).hexdigest()
        return ("objects", key, digest), tuple(raw)

    def has(self, take: Take, camera: str, frame: int) -> bool:
        """Whether everything of an image lies on disk. Nothing is read; damage is found, and mended, at first use."""
        key = self.key(take, camera, frame)
        about = "/".join(self.objects_name(key, take, camera, frame)[0])
        return (
            f"map/{key}" in self.backbone.store
            and f"proposals/{key}" in self.half
            and f"layout/{key}" in self.exact
            and f"neighbours/{key}" in self.exact
            and about in self.half
            and about in self.exact
        )

    def proposals(self, take: Take, camera: str, frame: int) -> Proposals:
        """The proposals themselves, in the order of :attr:`ImageRecord.descriptors`."""
        key = ("proposals", take.uid, camera, frame)
        return cast(
            Proposals, self._keep(key, lambda: self.proposer(take.frame(camera, frame), str(frame)), size=200_000)
        )

    def features(self, take: Take, camera: str, frame: int) -> FeatureMap:
        """The backbone's map, from the cache if it is there."""
        return self.backbone.map(self.key(take, camera, frame), lambda: take.frame(camera, frame))

    def _record(self, key: str, take: Take, camera: str, frame: int) -> ImageRecord:
        features = self.backbone.map(key, lambda: take.frame(camera, frame))
        table, layout = self.half.get(f"proposals/{key}"), self.exact.get(f"layout/{key}")
        links = self.exact.get(f"neighbours/{key}")
        if table is None or layout is None or links is None:
            found = self.proposals(take, camera, frame)
            described = describe_masks(self.config.descriptor, self.backbone, features, found.masks)
            table = self.half.put(f"proposals/{key}", described.detach().cpu().numpy())
            same = representatives(mask_overlaps(found.masks, found.masks), self.duplicate_iou)
            columns = [found.boxes_xywh.astype(np.float32), same[:, None].astype(np.float32)]
            layout = self.exact.put(f"layout/{key}", np.concatenate(columns, axis=1))
            near = adjacency(centroids_yx(found.masks), self.order)
            links = self.exact.put(f"neighbours/{key}", np.packbits(near, axis=1))
        count = len(layout[0])
        return ImageRecord(
            features.image_hw,
            features.tensor.half().numpy(),
            np.array(table[0]),
            np.array(layout[0][:, :4]),
            np.unpackbits(links[0], axis=1, count=count).astype(bool) if count else np.zeros((0, 0), bool),
            np.array(layout[0][:, 4]).astype(np.int32),
        )

    def _objects(
        self, name: tuple[str, str, str], take: Take, camera: str, frame: int, asked: Sequence[str]
    ) -> Objects:
        about = "/".join(name)
        table, rest = self.half.get(about), self.exact.get(about)
        if table is None or rest is None:
            features = self.features(take, camera, frame)
            masks: dict[str, ObjectMask] = {}
            for object_name in asked:
                try:
                    mask = take.mask(object_name, camera, frame)
                except MaskError as error:
                    take.note(str(error))
                    continue
                if mask is not None:
                    masks[object_name] = fit_mask(mask, features.image_hw)
            described = describe_masks(self.config.descriptor, self.backbone, features, list(masks.values()))
            overlap = mask_overlaps(list(masks.values()), self.proposals(take, camera, frame).masks)
            boxes = np.array([m.box_xywh for m in masks.values()], dtype=np.float32).reshape(-1, 4)
            empty = np.array([[m.is_empty] for m in masks.values()], dtype=np.float32).reshape(-1, 1)
            table = self.half.put(about, described.detach().cpu().numpy(), {"names": list(masks)})
            rest = self.exact.put(about, np.concatenate([boxes, empty, overlap], axis=1))
        values = np.array(rest[0])
        return Objects(
            tuple(table[1]["names"]), np.array(table[0]), values[:, 5:], values[:, :4], values[:, 4].astype(bool)
        )

    def _keep(self, key: Any, make: Any, size: int | None = None) -> Any:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        value = make()
        cost = value.nbytes if size is None else size
        self._kept[key] = value, cost
        self._bytes += cost
        while self._bytes > self.memory and len(self._kept) > 4:
            self._bytes -= self._kept.popitem(last=False)[1][1]
        return value

    def forget(self) -> None:
        """Drop what is kept in memory."""
        self._kept.clear()
        self._bytes = 0


def mask_overlaps(first: Sequence[ObjectMask], second: Sequence[ObjectMask]) -> NDArray[np.float32]:
    """IoU of each mask with each, ``(len(first), len(second))``; all masks of one size. Empty masks overlap nothing."""
    from pycocotools import mask as coco

    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)), dtype=np.float32)
    encoded = [
        [{"size": list(m.size_hw), "counts": to_coco(m)["counts"].encode("ascii")} for m in part]
        for part in (first, second)
    ]
    values = np.asarray(coco.iou(encoded[0], encoded[1], [0] * len(second)), dtype=np.float32)
    return np.nan_to_num(values.reshape(len(first), len(second)))


def prepare(
    store: ImageStore,
    takes: Iterable[tuple[tuple[str, ...], Take]],
    wanted: Mapping[tuple[tuple[str, ...], str], set[tuple[str, int]]],
    *,
    workers: int = 1,
    progress: bool = True,
) -> int:
    """Make everything of many images that is not there yet.

    Args:
        store: where it is kept.
        takes: roots of a data set (:func:`counterview.data.open.open_datasets`) and takes, of which those in
            ``wanted`` are used.
        wanted: (roots, take uid) to cameras and frames.
        workers: processes.
        progress: show a bar on standard error.

    Returns:
        Number of images looked at.
    """
    items = [
        (roots, take.uid, camera, frame)
        for roots, take in takes
        for camera, frame in sorted(wanted.get((roots, take.uid), ()))
    ]
    if workers <= 1 or len(items) < MIN_POOL_ITEMS:
        for_each_item(_preparer, (store,), items, workers=1, label="features", progress=progress)
    else:
        given = store.given_backbone
        arguments = (store.config, os.fspath(store.root), store.order, store.duplicate_iou, given)
        for_each_item(_store_preparer, arguments, items, workers=workers, label="features", progress=progress)
    store.forget()
    return len(items)


def _store_preparer(
    config: OMaMaConfig, root: str, order: int, duplicate_iou: float, own: Backbone | None
) -> Callable[[tuple[tuple[str, ...], str, str, int]], None]:
    return _preparer(ImageStore(config, root, order=order, duplicate_iou=duplicate_iou, memory_mb=50, backbone=own))


def _preparer(store: ImageStore) -> Callable[[tuple[tuple[str, ...], str, str, int]], None]:
    opened: dict[tuple[str, ...], Dataset] = {}

    def prepare_one(item: tuple[tuple[str, ...], str, str, int]) -> None:
        roots, uid, camera, frame = item
        if roots not in opened:
            opened[roots] = open_datasets(roots)
        take = opened[roots].take(uid)
        if not store.has(take, camera, frame):
            store.record(take, camera, frame)
            store.objects(take, camera, frame)

    return prepare_one
