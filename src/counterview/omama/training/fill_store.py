"""Filling an image store before training: what is missing of many images, in several processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping

from counterview.cost import MEASURED_IMAGES, MIN_IMAGES, Cost, announce
from counterview.data.dataset import Dataset, Take
from counterview.data.open import open_datasets
from counterview.features import Backbone
from counterview.jobs.engine import JobEngine
from counterview.jobs.run import MIN_POOL_ITEMS, for_each_item
from counterview.omama.config import OMaMaConfig
from counterview.omama.training.image_store import ImageStore

ImageItem = tuple[tuple[str, ...], str, str, int, bool]
"""Roots of a data set, take uid, camera, frame, and whether the image's proposals are needed."""


def fill_store(
    store: ImageStore,
    takes: Iterable[tuple[tuple[str, ...], Take]],
    images: Mapping[tuple[tuple[str, ...], str], Mapping[tuple[str, int], bool]],
    *,
    engine: JobEngine | None = None,
    limit_gb: float | None = None,
    progress: bool = True,
) -> int:
    """Compute and store what is missing of many images. What it will cost is measured on the first few, and said.

    Args:
        store: the store.
        takes: roots of a data set (:func:`counterview.data.open.open_datasets`) and takes, of which those in
            ``images`` are read.
        images: (roots, take uid) to cameras and frames, and whether the proposals of each are needed.
        engine: where; in the calling process if not given.
        limit_gb: largest size of what is added to the cache, in gigabytes; that of the disk if not given.
        progress: show a bar on standard error.

    Returns:
        Number of images, stored before or now.

    Raises:
        CounterviewError: what is missing would not fit into the limit, or onto the disk.
    """
    engine = engine or JobEngine()
    items, count = [], 0
    for roots, take in takes:
        for (camera, frame), proposals in sorted(images.get((roots, take.uid), {}).items()):
            count += 1
            if not store.has(take, camera, frame, proposals=proposals):
                items.append((roots, take.uid, camera, frame, proposals))
    if len(items) >= MIN_IMAGES:
        cost, items = _measure(store, items, count, engine.workers)
        announce(cost, progress=progress)
        cost.check(None if limit_gb is None else limit_gb * 1e9, "data.cache_gb")
    if engine.is_inline or len(items) < MIN_POOL_ITEMS:
        for_each_item(_filler, (store,), items, engine=JobEngine(), label="features", progress=progress)
    else:
        arguments = (
            store.config, os.fspath(store.root), store.order, store.duplicate_iou, store.passed_backbone,
            store.stretch_portrait,
        )  # fmt: skip
        for_each_item(_filler_of_new_store, arguments, items, engine=engine, label="features", progress=progress)
    store.forget()
    return count


def _measure(store: ImageStore, items: list[ImageItem], count: int, workers: int) -> tuple[Cost, list[ImageItem]]:
    """The cost of many images by the time and space that the first few take, and the images that are left."""
    fill = _filler(store)
    fill(items[0])
    before, start = _stored_bytes(store), time.perf_counter()
    for item in items[1 : 1 + MEASURED_IMAGES]:
        fill(item)
    seconds = (time.perf_counter() - start) / MEASURED_IMAGES
    nbytes = (_stored_bytes(store) - before) / MEASURED_IMAGES
    left = items[1 + MEASURED_IMAGES :]
    return Cost(len(left), count - len(left), seconds, nbytes, store.root, workers), left


def _stored_bytes(store: ImageStore) -> int:
    return store.backbone.store.written + store.descriptor_store.written + store.layout_store.written


def _filler_of_new_store(
    config: OMaMaConfig, root: str, order: int, duplicate_iou: float, backbone: Backbone | None, stretch: bool
) -> Callable[[ImageItem], None]:
    """:func:`_filler` in a process of its own."""
    store = ImageStore(
        config, root, order=order, duplicate_iou=duplicate_iou, memory_mb=50, backbone=backbone,
        stretch_portrait=stretch,
    )  # fmt: skip
    return _filler(store)


def _filler(store: ImageStore) -> Callable[[ImageItem], None]:
    """A function that computes what a store lacks of an image."""
    datasets: dict[tuple[str, ...], Dataset] = {}

    def fill(item: ImageItem) -> None:
        roots, uid, camera, frame, proposals = item
        if roots not in datasets:
            datasets[roots] = open_datasets(roots)
        take = datasets[roots].take(uid)
        if not store.has(take, camera, frame, proposals=proposals):
            if proposals:
                store.record(take, camera, frame)
            store.objects(take, camera, frame, overlap=proposals)

    return fill
