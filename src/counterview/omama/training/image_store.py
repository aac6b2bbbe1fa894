"""What training reads of an image, computed once and kept on disk: map, proposals, their descriptors.

The backbone is frozen, so that after the first pass over a data set only small arrays are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from counterview.config import to_dict
from counterview.data.dataset import Take
from counterview.errors import AnnotationError, MaskError
from counterview.features import Backbone, FeatureMap, load_backbone
from counterview.features.cache import ArrayStore, CachedBackbone, image_key
from counterview.masks.geometry import fit_mask, resize_nearest
from counterview.masks.rle import to_coco
from counterview.media.files import sha256_file
from counterview.omama.config import OMaMaConfig
from counterview.omama.descriptors import describe_each, describe_masks, sampling_size
from counterview.omama.training.mining import representatives
from counterview.omama.training.neighbours import adjacency, centroids_yx
from counterview.proposals import CachedProposer, Proposals, Proposer, load_proposer
from counterview.proposals.base import StoredProposer, fit_proposals, frame_name
from counterview.proposals.cache import uncached
from counterview.types import ObjectMask, RgbImage

ImageName = tuple[str, str, int]
"""A take's uid, a camera, a frame."""

_LAYOUT = 1  # raised when the stored arrays change their meaning


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """What training reads of an image with N proposals: C channels, a map of ``h x w`` cells.

    Attributes:
        size_hw: at which masks are sampled and boxes measured, in pixels.
        map: ``(C, h, w)`` float16; its mean ``(C, 1, 1)`` where the model reads no map.
        descriptors: ``(N, 2C)`` float16 of the proposals.
        boxes_xywh: ``(N, 4)`` float32, pixels.
        neighbours: ``(N, N)`` bool, see :func:`counterview.omama.adjacency`.
        representative: ``(N,)`` int32, see :func:`counterview.omama.training.mining.representatives`.
    """

    size_hw: tuple[int, int]
    map: NDArray[np.float16]
    descriptors: NDArray[np.float16]
    boxes_xywh: NDArray[np.float32]
    neighbours: NDArray[np.bool_]
    representative: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        arrays = (self.map, self.descriptors, self.boxes_xywh, self.neighbours, self.representative)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """The K annotated objects of an image with N proposals.

    Attributes:
        names: K names.
        descriptors: ``(K, 2C)`` float16 of the ground-truth masks.
        overlap: ``(K, N)`` float32, IoU of each with each proposal; N is 0 where they were not asked for.
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
        """Row of an object; ``None`` if the image has no mask of it that decodes."""
        return self.names.index(name) if name in self.names else None

    def usable_row(self, name: str) -> int | None:
        """Row of an object whose mask has a pixel; ``None`` if it has none."""
        row = self.row(name)
        return None if row is None or self.empty[row] else row


class ImageStore:
    """Computes and stores :class:`ImageRecord` and :class:`ImageObjects`.

    What is computed for an image (by the bytes of its file), masks and settings serves every take and data set that
    holds the same. Several processes may use the folder at once.

    Args:
        config: names backbone and proposer, and how masks are described.
        root: folder of the cache.
        order: order of neighbours.
        duplicate_iou: see :func:`counterview.omama.training.mining.representatives`.
        memory_mb: largest size of what is kept in memory.
        backbone: loaded by its name in ``config`` if not given.
        proposer: likewise.
        device: where a backbone that is loaded computes.
        stretch_portrait: bring portrait images to landscape shape, as the released code does in training.

    Raises:
        ConfigError: an unknown backbone or proposer, or settings that it does not have.
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
        stretch_portrait: bool = False,
    ) -> None:
        self.config, self.root, self.stretch_portrait = config, Path(root), stretch_portrait
        self.order, self.duplicate_iou, self.memory_bytes = order, duplicate_iou, memory_mb * 1_000_000
        self.passed_backbone = backbone  # other processes need it: one that a model holds has no name to load it by
        backbone = backbone or load_backbone(config.backbone, device=device, **config.backbone_settings)
        self.proposer = CachedProposer(
            proposer or load_proposer(config.proposer, **config.proposer_settings), self.root / "proposals"
        )
        self.backbone = CachedBackbone(backbone, self.root / "features")
        settings = {
            "layout": _LAYOUT,
            "backbone": self.backbone.settings(),
            "proposer": [self.proposer.name, self.proposer.settings()],
            "descriptor": _descriptor_settings(config),
        }
        self.descriptor_store = ArrayStore(self.root / "descriptors", settings)
        settings = {**settings, "order": order, "duplicate_iou": duplicate_iou}
        self.layout_store = ArrayStore(self.root / "layout", settings, storage="float32")
        self.keeps_maps = config.cross_attention  # nothing else reads one
        self._last: tuple[str, FeatureMap] | None = None
        self._keys: dict[ImageName, str] = {}
        self._contents: dict[ImageName, str] = {}
        self._memory: OrderedDict[Any, Any] = OrderedDict()
        self._bytes_in_memory = 0

    def widths(self) -> dict[str, int]:
        """``channels`` of the maps and ``object_channels`` of the descriptors, as :class:`OMaMaConfig` has them."""
        size = (64, 64)
        backbone = self.backbone.backbone
        features = backbone.encode(np.zeros((*size, 3), dtype=np.uint8))
        width = describe_masks(self.config.descriptor, backbone, features, [ObjectMask.empty(size)]).shape[1]
        return {"channels": backbone.channels, "object_channels": int(width) - backbone.channels}

    def key(self, take: Take, camera: str, frame: int) -> str:
        """The image's name in the cache: a hash of its file, or of its pixels where it comes out of a video."""
        name = (take.uid, camera, frame)
        if name not in self._keys:
            frame_path = getattr(take, "frame_path", None)
            path = frame_path(camera, frame) if frame_path is not None else None
            key = sha256_file(path) if path is not None and path.is_file() else image_key(take.frame(camera, frame))
            self._keys[name] = f"{key}/landscape" if self._is_stretched(take, camera) else key
        return self._keys[name]

    def image(self, take: Take, camera: str, frame: int) -> RgbImage:
        """The image ``(H, W, 3)`` as it is described; a portrait one that is stretched has its sides swapped."""
        image = take.frame(camera, frame)
        if self._is_stretched(take, camera) and image.shape[0] > image.shape[1]:
            image = np.asarray(resize_nearest(image, (image.shape[1], image.shape[0])), dtype=np.uint8)
        return image

    def _is_stretched(self, take: Take, camera: str) -> bool:
        if not self.stretch_portrait:
            return False
        try:
            height, width = take.native_size(camera)
        except AnnotationError:  # no mask in this camera
            return False
        return height > width

    def record(self, take: Take, camera: str, frame: int) -> ImageRecord:
        """What training reads of an image; computed at first use."""
        key = self._proposals_key(take, camera, frame)
        return cast(ImageRecord, self._in_memory(("image", key), lambda: self._record(key, take, camera, frame)))

    def map(self, take: Take, camera: str, frame: int) -> NDArray[np.float16]:
        """The map ``(C, h, w)`` of an image whose proposals are not needed, such as a query image."""
        key = ("map", self.key(take, camera, frame))
        return cast(
            NDArray[np.float16],
            self._in_memory(key, lambda: self._stored_map(take, camera, frame).tensor.half().numpy()),
        )

    def objects(self, take: Take, camera: str, frame: int, *, overlap: bool = True) -> ImageObjects:
        """The annotated objects of an image; computed at first use. Masks that do not decode are left out.

        Args:
            take: the take.
            camera: one of its cameras.
            frame: frame number.
            overlap: compare them with the image's proposals.
        """
        name, names = self.objects_key(self.key(take, camera, frame), take, camera, frame)
        content = self._proposals_key(take, camera, frame) if overlap else None
        return cast(
            ImageObjects,
            self._in_memory((*name, content), lambda: self._objects(name, content, take, camera, frame, names)),
        )

    def objects_key(
        self, key: str, take: Take, camera: str, frame: int
    ) -> tuple[tuple[str, str, str], tuple[str, ...]]:
        """The name in the cache of the objects of an image with this key, which depends on their masks.

        Returns:
            That name in three parts, and the names of the objects.
        """
        raw = {n: take.raw_masks[n][camera][frame] for n in take.objects if frame in take.raw_masks[n].get(camera, {})}
        digest = hashlib.sha256(json.dumps(raw, sort_keys=True, default=str).encode()).hexdigest()
        return ("objects", key, digest), tuple(raw)

    def has(self, take: Take, camera: str, frame: int, *, proposals: bool = True) -> bool:
        """Whether everything of an image is on disk. Nothing is read; a damaged file is replaced at first use.

        Args:
            take: the take.
            camera: one of its cameras.
            frame: frame number.
            proposals: whether they belong to it; a query image needs none.
        """
        key = self.key(take, camera, frame)
        name = self.objects_key(key, take, camera, frame)[0]
        has_map = f"map/{key}" in self.backbone.store or (
            not self.keeps_maps and f"pooled/{key}" in self.descriptor_store
        )
        if not has_map or "/".join(name) not in self.descriptor_store:
            return False
        if not proposals:
            return _layout_name(name, None) in self.layout_store
        content = self._proposals_key(take, camera, frame)
        return (
            f"proposals/{content}" in self.descriptor_store
            and f"layout/{content}" in self.layout_store
            and f"neighbours/{content}" in self.layout_store
            and _layout_name(name, content) in self.layout_store
        )

    def proposals(self, take: Take, camera: str, frame: int) -> Proposals:
        """The N proposals at the size of sampling, in the order of :attr:`ImageRecord.descriptors`."""

        def make() -> Proposals:
            proposals = self.proposer(self.image(take, camera, frame), frame_name(take.uid, camera, frame))
            size_hw = sampling_size(self.config.descriptor, self._stored_map(take, camera, frame))
            return fit_proposals(proposals, size_hw)

        return cast(Proposals, self._in_memory(("proposals", take.uid, camera, frame), make, size=200_000))

    def _proposals_key(self, take: Take, camera: str, frame: int) -> str:
        """The image's name in the cache, with that of its proposals where these were made beforehand."""
        key = self.key(take, camera, frame)
        proposer = uncached(self.proposer)
        if not isinstance(proposer, StoredProposer):
            return key
        name = (take.uid, camera, frame)
        if name not in self._contents:
            self._contents[name] = f"{key}/{proposer.content_key(frame_name(*name))}"
        return self._contents[name]

    def features(self, take: Take, camera: str, frame: int) -> FeatureMap:
        """The backbone's map ``(C, h, w)``, from the cache or computed."""
        key = self.key(take, camera, frame)
        if self.keeps_maps or f"map/{key}" in self.backbone.store:
            return self.backbone.map(key, lambda: self.image(take, camera, frame))
        if self._last is None or self._last[0] != key:
            features = self.backbone.backbone.encode(self.image(take, camera, frame))
            rounded = features.tensor.detach().cpu().half().float()  # as the cache would give it back
            self._last = key, replace(features, tensor=rounded)
        return self._last[1]

    def _stored_map(self, take: Take, camera: str, frame: int) -> FeatureMap:
        """The map of an image; where the model reads no map, its mean ``(C, 1, 1)``, which is all that is stored."""
        key = self.key(take, camera, frame)
        if self.keeps_maps or f"map/{key}" in self.backbone.store:
            return self.features(take, camera, frame)
        entry = self.descriptor_store.get(f"pooled/{key}")
        if entry is None:
            features = self.features(take, camera, frame)
            sizes = {"image_hw": list(features.image_hw), "input_hw": list(features.input_hw)}
            mean = features.tensor.mean(dim=(1, 2), keepdim=True).numpy()
            entry = self.descriptor_store.put(f"pooled/{key}", mean, sizes)
        array, note = entry
        image_hw, input_hw = ((int(note[name][0]), int(note[name][1])) for name in ("image_hw", "input_hw"))
        return FeatureMap(torch.from_numpy(np.array(array, dtype=np.float32)), image_hw, input_hw)

    def _record(self, key: str, take: Take, camera: str, frame: int) -> ImageRecord:
        stored_map = self._stored_map(take, camera, frame)
        descriptors = self.descriptor_store.get(f"proposals/{key}")
        layout, packed = self.layout_store.get(f"layout/{key}"), self.layout_store.get(f"neighbours/{key}")
        if descriptors is None or layout is None or packed is None:
            proposals, features = self.proposals(take, camera, frame), self.features(take, camera, frame)
            described = describe_masks(
                self.config.descriptor, self.backbone, features, proposals.masks, proposals.stored_boxes()
            )
            descriptors = self.descriptor_store.put(f"proposals/{key}", described.detach().cpu().numpy())
            representative = representatives(mask_overlaps(proposals.masks, proposals.masks), self.duplicate_iou)
            columns = [proposals.boxes_xywh.astype(np.float32), representative[:, None].astype(np.float32)]
            layout = self.layout_store.put(f"layout/{key}", np.concatenate(columns, axis=1))
            neighbours = adjacency(centroids_yx(proposals.masks), self.order)
            packed = self.layout_store.put(f"neighbours/{key}", np.packbits(neighbours, axis=1))
        count = len(layout[0])
        return ImageRecord(
            sampling_size(self.config.descriptor, stored_map),
            stored_map.tensor.half().numpy(),
            np.array(descriptors[0]),
            np.array(layout[0][:, :4]),
            np.unpackbits(packed[0], axis=1, count=count).astype(bool) if count else np.zeros((0, 0), bool),
            np.array(layout[0][:, 4]).astype(np.int32),
        )

    def _objects(
        self, name: tuple[str, str, str], content: str | None, take: Take, camera: str, frame: int, names: Sequence[str]
    ) -> ImageObjects:
        stored_name, layout_name = "/".join(name), _layout_name(name, content)
        descriptors, layout = self.descriptor_store.get(stored_name), self.layout_store.get(layout_name)
        if descriptors is None or layout is None:
            features = self.features(take, camera, frame)
            masks: dict[str, ObjectMask] = {}
            for object_name in names:
                try:
                    mask = take.mask(object_name, camera, frame)
                except MaskError as error:
                    take.note(str(error))
                    continue
                if mask is not None:
                    masks[object_name] = mask
            described = describe_each(self.config.descriptor, self.backbone, features, list(masks.values()))
            size_hw = sampling_size(self.config.descriptor, features)
            fitted = [fit_mask(mask, size_hw) for mask in masks.values()]
            boxes = np.array([m.box_xywh for m in fitted], dtype=np.float32).reshape(-1, 4)
            empty = np.array([[m.is_empty] for m in fitted], dtype=np.float32).reshape(-1, 1)
            columns = [boxes, empty]
            if content is not None:
                columns.append(mask_overlaps(fitted, self.proposals(take, camera, frame).masks))
            note = {"names": list(masks)}
            descriptors = self.descriptor_store.put(stored_name, described.detach().cpu().numpy(), note)
            layout = self.layout_store.put(layout_name, np.concatenate(columns, axis=1))
        table = np.array(layout[0])
        return ImageObjects(
            names=tuple(descriptors[1]["names"]),
            descriptors=np.array(descriptors[0]),
            overlap=table[:, 5:],
            boxes_xywh=table[:, :4],
            empty=table[:, 4].astype(bool),
        )

    def _in_memory(self, key: Any, make: Callable[[], Any], size: int | None = None) -> Any:
        """What is kept in memory under a key, made if it is not; the least recently used is dropped for it."""
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key][0]
        value = make()
        nbytes = value.nbytes if size is None else size
        self._memory[key] = value, nbytes
        self._bytes_in_memory += nbytes
        while self._bytes_in_memory > self.memory_bytes and len(self._memory) > 4:
            self._bytes_in_memory -= self._memory.popitem(last=False)[1][1]
        return value

    def forget(self) -> None:
        """Drop what is kept in memory."""
        self._memory.clear()
        self._bytes_in_memory = 0


def _descriptor_settings(config: OMaMaConfig) -> dict[str, Any]:
    """How masks are described; what is not set apart does not change the names of older caches."""
    settings = to_dict(config.descriptor)
    if settings["mask_size"] == "image":
        del settings["mask_size"]
    return settings


def _layout_name(name: tuple[str, str, str], content: str | None) -> str:
    """The name in the cache of the boxes of an image's objects, and of their overlap with its proposals."""
    stored = "/".join(name)
    if content is None:
        return f"boxes/{stored}"
    return stored if content == name[1] else f"{stored}/{content}"


def mask_overlaps(first: Sequence[ObjectMask], second: Sequence[ObjectMask]) -> NDArray[np.float32]:
    """IoU of each mask with each; 0 where either is empty.

    Args:
        first: M masks.
        second: N masks of the same size.

    Returns:
        ``(M, N)`` float32.
    """
    from pycocotools import mask as coco

    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)), dtype=np.float32)
    encoded = [
        [{"size": list(m.size_hw), "counts": to_coco(m)["counts"].encode("ascii")} for m in masks]
        for masks in (first, second)
    ]
    values = np.asarray(coco.iou(encoded[0], encoded[1], [0] * len(second)), dtype=np.float32)
    return np.nan_to_num(values.reshape(len(first), len(second)))
