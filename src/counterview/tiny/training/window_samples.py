"""Training samples of tiny-window: windows of both views, placed as wrongly as a matcher places them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterview.data.clips import ClipSource
from counterview.data.dataset import Dataset, Take
from counterview.evaluation.camera_change import CameraChange, draw_change
from counterview.geometry.windows import (
    ImageWindow,
    box_centre,
    cut_image,
    cut_mask,
    object_size,
    query_window,
    target_window,
)
from counterview.lmeec.sam2_parts import ImageFeatures
from counterview.lmeec.training.unroll import ClipBatch, encode_frames
from counterview.lmeec.window_inputs import WindowInputs
from counterview.tiny.training.window_prompts import draw_prompt
from counterview.tiny.training.window_recipe import WindowDrawConfig
from counterview.tiny.window_session import CutWindow, shown_mask, window_inputs, window_place
from counterview.types import ObjectMask, RgbImage

PRESENT = 0.25
"""Fraction of an object that a window has to hold for the object to be in it; windows with less of it are not drawn."""

TRIES = 4
"""Windows that are drawn before one is put around the object."""

SMALLEST_PX = 16
"""Sides of a window that is shown as if from farther away have at least so many pixels of its own."""


@dataclass(frozen=True, eq=False)
class WindowSample:
    """One object over T frames.

    Attributes:
        queries: T query windows.
        targets: T target windows.
        truths: ``(T, S, S)`` float32 in 0..1, the object in the target windows.
        windows: where the T target windows lay.
    """

    queries: tuple[CutWindow, ...]
    targets: tuple[CutWindow, ...]
    truths: NDArray[np.float32]
    windows: tuple[ImageWindow, ...]


@dataclass
class WindowBatch(ClipBatch):
    """N clips of T frames of one object each, in windows. S is the side of a window.

    ``target_masks`` are the fraction of each pixel that the object fills, ``(N, T, S, S)`` float32.

    Attributes:
        query_places: ``(N, T, 4)``, see :class:`WindowInputs`, as all below.
        target_places: ``(N, T, 4)``.
        query_inside: ``(N, T, S, S)``.
        target_inside: ``(N, T, S, S)``.
        prompts: ``(N, T, S, S)``, masks that are proposed in the target windows.
        prompted: ``(N, T)``.
    """

    query_places: Tensor
    target_places: Tensor
    query_inside: Tensor
    target_inside: Tensor
    prompts: Tensor
    prompted: Tensor

    def features(self, model: Any, images_at_a_time: int | None = None) -> tuple[ImageFeatures, ImageFeatures]:
        """Features of the N * T query windows and target windows, see :class:`ClipBatch`."""
        masks = self.query_masks.flatten(0, 1).float()
        shown = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
        query = WindowInputs(self.query_places.flatten(0, 1), masks, shown, self.query_inside.flatten(0, 1))
        target = WindowInputs(
            self.target_places.flatten(0, 1), self.prompts.flatten(0, 1), self.prompted.flatten(),
            self.target_inside.flatten(0, 1),
        )  # fmt: skip
        return (
            encode_frames(model, self.query_images, images_at_a_time, query),
            encode_frames(model, self.target_images, images_at_a_time, target),
        )


class WindowReader:
    """Draws samples of a data set.

    Args:
        dataset: the takes.
        sources: objects in pairs of cameras, with the frames that may be used.
        size: side of the windows, S.
        config: how they are drawn.
        cache_mb: most megabytes of images kept in memory.
    """

    def __init__(
        self, dataset: Dataset, sources: Sequence[ClipSource], size: int, config: WindowDrawConfig, cache_mb: int = 0
    ) -> None:
        self.dataset, self.sources, self.size, self.config = dataset, tuple(sources), size, config
        self._room, self._held = cache_mb * 1_000_000, 0
        self._cache: OrderedDict[tuple[str, str, int], RgbImage] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_held": 0}

    def read(self, source: ClipSource, length: int, rng: np.random.Generator) -> WindowSample:
        """A sample of a source; the same for the same state of ``rng``.

        Args:
            source: the object and its cameras.
            length: T. A source with fewer frames repeats its last one, in other windows.
            rng: the only source of randomness.
        """
        config = self.config
        frames = _consecutive(source, length, rng)
        decoy = self._other_take(source, rng) if rng.random() < config.decoy_prob else None
        query_frames = frames if decoy is None else _consecutive(decoy, length, rng)
        misplaced = decoy is None and rng.random() < config.wrong_place_prob
        mirrored = bool(rng.random() < config.flip)
        cameras = [draw_change(rng) if rng.random() < config.camera_prob else CameraChange() for _ in range(2)]
        if rng.random() < 0.5:  # else both cameras differ from the renderer's
            cameras[0] = CameraChange()
        parts = [
            self._frame(source, frame, decoy or source, query_frame, misplaced, decoy is not None, cameras, rng)
            for frame, query_frame in zip(frames, query_frames, strict=True)
        ]
        queries, targets, truths, windows = zip(*parts, strict=True)
        if mirrored:
            queries, targets = (tuple(_mirrored(w) for w in views) for views in (queries, targets))
            truths = tuple(truth[:, ::-1] for truth in truths)
        return WindowSample(queries, targets, np.stack(truths), windows)

    def _frame(
        self, source: ClipSource, frame: int, query_source: ClipSource, query_frame: int, misplaced: bool,
        is_decoy: bool, cameras: Sequence[CameraChange], rng: np.random.Generator,
    ) -> tuple[CutWindow, CutWindow, NDArray[np.float32], ImageWindow]:  # fmt: skip
        """One frame: query window, target window, truth in it, and where it lay."""
        take, query_take = self.dataset.take(source.take), self.dataset.take(query_source.take)
        query_mask = query_take.mask(query_source.object, query_source.query_camera, query_frame)
        assert query_mask is not None  # sources have such frames alone
        query_image = self._image(query_take, query_source.query_camera, query_frame)
        target_image = self._image(take, source.target_camera, frame)
        image_hw = (target_image.shape[0], target_image.shape[1])
        margin = float(rng.uniform(self.config.margin_min, self.config.margin_max))
        query = query_window(query_mask, self.size, margin)
        query = query.moved(*(rng.normal(0, 0.05, 2) * query.side))
        masks = _masks_in(take, source.target_camera, frame)
        # Of a decoy nothing is in the image; what would be the object is one of those that are there.
        sought = None if is_decoy else masks.pop(source.object, None)
        ratio = self._ratio(take, source, frame, masks)
        window, around = self._place(sought, list(masks.values()), misplaced, query_mask, query, ratio, image_hw, rng)
        truth = np.zeros((self.size, self.size), np.float32) if sought is None else cut_mask(sought, window)
        others = [cut_mask(mask, window) for mask in masks.values()]
        prompt, prompted = np.zeros_like(truth), bool(rng.random() >= self.config.no_prompt_prob)
        if prompted:
            wrong = bool(rng.random() < self.config.wrong_prompt_prob)
            meant = truth if truth.any() or around is None else cut_mask(around, window)
            prompt = draw_prompt(meant, others, wrong, rng)
        q_pixels, q_inside = self._cut(query_image, query, cameras[0], rng)
        t_pixels, t_inside = self._cut(target_image, window, cameras[1], rng)
        query_hw = (query_image.shape[0], query_image.shape[1])
        shown = shown_mask(query_mask, query)
        return (
            CutWindow(q_pixels, q_inside, shown, True, window_place(query, window, query_hw)),
            CutWindow(t_pixels, t_inside, prompt, prompted, window_place(window, query, image_hw)),
            truth,
            window,
        )

    def _place(
        self, sought: ObjectMask | None, others: Sequence[ObjectMask], misplaced: bool, query_mask: ObjectMask,
        query: ImageWindow, ratio: float, image_hw: tuple[int, int], rng: np.random.Generator,
    ) -> tuple[ImageWindow, ObjectMask | None]:  # fmt: skip
        """A target window and the object that it is around, if there is one.

        It shows at least :data:`PRESENT` of the object that is sought, or nothing of it.
        """
        query_px = object_size(query_mask)
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            around = sought
            if sought is None or (misplaced and not last):
                around = others[int(rng.integers(len(others)))] if others and rng.random() < 0.8 else None
            size = object_size(around) if around is not None else query_px * ratio
            far = rng.random() < self.config.far_prob and not last
            sigma = self.config.far_centre if far else self.config.centre
            if around is not None:
                centre = np.array(box_centre(around)) + rng.normal(0, sigma, 2).clip(-1, 1) * size
            else:
                centre = rng.uniform(0, 1, 2) * image_hw[::-1]
            expected = size * float(np.exp(rng.normal(0, self.config.scale)))
            window = target_window((float(centre[0]), float(centre[1])), expected, query_px, query)
            if sought is None:
                break
            held = _held(sought, window)
            if held >= PRESENT or held == 0:
                break
        return window, around

    def _ratio(self, take: Take, source: ClipSource, frame: int, masks: dict[str, ObjectMask]) -> float:
        """How much larger things are in the target than in the query: the median over objects in both."""
        ratios = []
        for name, mask in masks.items():
            other = take.mask(name, source.query_camera, frame)
            if other is not None and not other.is_empty:
                ratios.append(object_size(mask) / object_size(other))
        return float(np.median(ratios)) if ratios else 1.0

    def _cut(
        self, image: RgbImage, window: ImageWindow, camera: CameraChange, rng: np.random.Generator
    ) -> tuple[RgbImage, NDArray[np.bool_]]:
        """A window of an image as another camera, or one farther away, would have stored it."""
        pixels, inside = cut_image(image, window)
        if rng.random() < self.config.downscale_prob:
            # Never from closer by: what the image has no pixels for is blurred already.
            side = min(window.size, max(SMALLEST_PX, round(min(window.size, window.side) / rng.uniform(1, 4))))
            small, _ = cut_image(image, replace(window, size=side))
            pixels = np.asarray(cv2.resize(small, (window.size, window.size)), dtype=np.uint8)
        blur = min(camera.blur_px * image.shape[1] / window.side, 8.0)  # of pixels of the image
        camera = replace(camera, blur_px=blur if blur * window.size / 1000 > 0.2 else 0.0)
        return camera.apply(pixels, int(rng.integers(1 << 31))), inside

    def _other_take(self, source: ClipSource, rng: np.random.Generator) -> ClipSource | None:
        """An object of another take; ``None`` if there is none."""
        for _ in range(8):
            other = self.sources[int(rng.integers(len(self.sources)))]
            if other.take != source.take:
                return other
        return None

    def _image(self, take: Take, camera: str, frame: int) -> RgbImage:
        key = (take.uid, camera, frame)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        image = take.frame(camera, frame)
        if self._room:
            self._cache[key] = image
            self._held += image.nbytes
            while self._held > self._room:
                self._held -= self._cache.popitem(last=False)[1].nbytes
        return image


def collate_windows(samples: Sequence[WindowSample]) -> WindowBatch:
    """Samples of equal length and size as one batch."""
    count, frames = len(samples), len(samples[0].queries)
    query = window_inputs([w for s in samples for w in s.queries])
    target = window_inputs([w for s in samples for w in s.targets])

    def shaped(values: Tensor) -> Tensor:
        return values.unflatten(0, (count, frames))

    return WindowBatch(
        torch.from_numpy(np.stack([np.stack([w.pixels for w in s.queries]) for s in samples])),
        torch.from_numpy(np.stack([np.stack([w.pixels for w in s.targets]) for s in samples])),
        shaped(query.prompts) > 0.5,
        torch.from_numpy(np.stack([s.truths for s in samples])),
        torch.arange(count),
        shaped(query.places),
        shaped(target.places),
        shaped(query.inside),
        shaped(target.inside),
        shaped(target.prompts),
        shaped(target.prompted),
    )


def _consecutive(source: ClipSource, length: int, rng: np.random.Generator) -> tuple[int, ...]:
    """``length`` frames of a source, consecutive ones; the last is repeated where there are too few."""
    start = int(rng.integers(max(1, len(source.frames) - length + 1)))
    frames = source.frames[start : start + length]
    return (*frames, *[frames[-1]] * (length - len(frames)))


def _masks_in(take: Take, camera: str, frame: int) -> dict[str, ObjectMask]:
    """Visible objects of an image by name."""
    masks = {name: take.mask(name, camera, frame) for name in take.objects}
    return {name: mask for name, mask in masks.items() if mask is not None and not mask.is_empty}


def _held(mask: ObjectMask, window: ImageWindow) -> float:
    """Fraction of a mask that a window holds."""
    return float(cut_mask(mask, window).sum()) * (window.side / window.size) ** 2 / mask.area


def _mirrored(window: CutWindow) -> CutWindow:
    """A window of the mirrored image."""
    own, other, x, y = window.place
    arrays = (np.ascontiguousarray(a[:, ::-1]) for a in (window.pixels, window.inside, window.prompt))
    pixels, inside, prompt = arrays
    return CutWindow(pixels, inside, prompt, window.prompted, (own, other, -x, y))  # type: ignore[arg-type]
