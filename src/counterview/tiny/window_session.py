"""LM-EEC in windows: each object is drawn in an enlarged square around the place where it is expected.

Whole images show an object of 40 pixels in two or three cells. Here each object has a window in either view
(:mod:`counterview.geometry.windows`), cut from the original pixels; all windows of a frame go through the encoder
together. Each object has its banks. What is drawn is pasted back into the image at the exact place, so that windows may
move and change their scale from frame to frame. Ours; neither paper has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from counterview.errors import InputError
from counterview.geometry.windows import ImageWindow, cut_image, cut_mask, paste_logits
from counterview.lmeec.clip_session import ClipSession
from counterview.lmeec.memory import remember
from counterview.lmeec.preprocess import as_mask, normalise
from counterview.lmeec.sam2_parts import Decoded
from counterview.lmeec.session_file import TrackKey
from counterview.lmeec.track_step import QueryView
from counterview.lmeec.window_inputs import WindowInputs
from counterview.types import BoolImage, ObjectMask, RgbImage, as_rgb

ONLY_CAMERA = ""
"""Name under which the memory of an object is kept that has no name of a camera."""


@dataclass(frozen=True, eq=False)
class WindowView:
    """One object in one frame, and where to look for it.

    Attributes:
        query_image: ``(H, W, 3)`` uint8.
        query_mask: the object there, ``(H, W)`` bool; ``None`` or empty: it is not shown, and predicted from memory.
        query_window: around the object; with a mask alone it is needed.
        target_image: ``(H', W', 3)`` uint8.
        target_window: around the place where the object is expected.
        prompt: a mask ``(H', W')`` that is proposed for it; ``None`` for none.
    """

    query_image: RgbImage
    query_mask: BoolImage | ObjectMask | None
    query_window: ImageWindow | None
    target_image: RgbImage
    target_window: ImageWindow
    prompt: BoolImage | ObjectMask | None = None


@dataclass(frozen=True, eq=False)
class WindowResult:
    """One object in one target image, drawn in a window.

    Attributes:
        mask_rle: the mask at the size of the target image, as drawn, whether or not the object is held to be visible.
        logits: ``(h, w)`` float32 mask logits, spread evenly over the window.
        window: where they were drawn.
        object_score: logit of the object's presence, as the network gives it.
        visibility_logit: the same after calibration: its sigmoid is the visibility.
        visibility: probability that the window shows the object, in 0..1.
        certainty: mean probability of the pixels of the mask, from 0.5 to 1; 0 for an empty mask.
        predicted_iou: the network's estimate of the mask's IoU.
    """

    mask_rle: ObjectMask
    logits: NDArray[np.float32]
    window: ImageWindow
    object_score: float
    visibility_logit: float
    visibility: float
    certainty: float
    predicted_iou: float

    @property
    def mask(self) -> BoolImage:
        """``(H, W)`` bool at the size of the target image."""
        return self.mask_rle.to_array()


class WindowSession(ClipSession):
    """One clip, in which each object is drawn in windows of its own. Arguments as for :class:`ClipSession`.

    The model is any LM-EEC. One that was trained in windows is told where they lay; SAM 2's decoder takes the proposed
    mask as its mask prompt.

    Raises:
        InputError: a length, stride or precision that a session cannot have.
    """

    def step(
        self, views: Mapping[str | TrackKey, WindowView], frame: int | None = None
    ) -> dict[str | TrackKey, WindowResult]:
        """Draw objects in one frame, and remember it.

        Args:
            views: by the object's name, or by names of object and camera.
            frame: frame number; the last one plus ``stride`` if not given.

        Returns:
            the results by the same names. An object is left out that has no query mask and is not remembered either.

        Raises:
            InputError: an argument does not fit (:class:`~counterview.errors.ImageError` for images,
                :class:`~counterview.errors.MaskError` for masks). The session is then as it was before the call.
        """
        names = {key: key if isinstance(key, tuple) else (key, ONLY_CAMERA) for key in views}
        for key in names.values():
            if len(key) != 2 or not all(isinstance(name, str) for name in key):
                raise InputError("names of objects and cameras are strings", found=repr(key))
        if len(set(names.values())) < len(names):
            raise InputError("an object has two windows in one camera", found=list(names))
        masks = {key: _query_mask(views[key], names[key][0]) for key in views}
        used = [key for key in views if masks[key] is not None or names[key] in self.tracks]
        cuts = [_cut(self.model.config.image_size, views[key], masks[key]) for key in used]
        number, index = self._number(frame)
        results = self._predict(index, [names[key] for key in used], [views[key] for key in used], cuts)
        self.frame = number
        if self.start is None:
            self.start = number
        return dict(zip(used, results, strict=True))

    def _predict(
        self, index: int, keys: Sequence[TrackKey], views: Sequence[WindowView], cuts: Sequence[_Cut]
    ) -> list[WindowResult]:
        """Predict the tracks of ``keys`` in the frame ``index`` strides after the first, and remember it."""
        if not keys:
            return []
        predictor, model, device = self._predictor, self.model, self.model.device
        shown = [row for row, cut in enumerate(cuts) if cut.query is not None]
        windows = [cut.target for cut in cuts] + [cut.query for cut in cuts if cut.query is not None]
        pixels = torch.from_numpy(np.stack([w.pixels for w in windows])).permute(0, 3, 1, 2)
        with predictor.inference():
            features = model.encode_images(normalise(pixels.to(device).float() / 255), window_inputs(windows, device))
            drawn: dict[int, QueryView] = {}
            if shown:
                queries = features.pick(range(len(cuts), len(windows)))
                objects = torch.from_numpy(np.stack([w.prompt for w in windows[len(cuts) :]])).to(device)
                memory = model.encode_memory(queries.top, model.query_logits(objects))
                drawn = {row: QueryView(memory[i], objects[i], queries.extra, i) for i, row in enumerate(shown)}
        steps = [
            predictor.at(index, key, self.tracks.get(key) or predictor.new_track(), drawn.get(row))
            for row, key in enumerate(keys)
        ]
        results: dict[TrackKey, WindowResult] = {}
        by_key = dict(zip(keys, views, strict=True))
        for group, decoded, remembered in predictor.predict_windows(steps, features.pick(range(len(cuts)))):
            past = [None if item.view is None else item.view.memory for item in group]
            remember([item.track for item in group], index, past, list(remembered), list(decoded.pointer))
            self.tracks.update({item.key: item.track for item in group})
            values = self._results(decoded, [by_key[item.key] for item in group])
            results.update(zip((item.key for item in group), values, strict=True))
        return [results[key] for key in keys]

    def _results(self, decoded: Decoded, views: Sequence[WindowView]) -> list[WindowResult]:
        logits = decoded.best_logits.float()
        scores = decoded.score.float()
        calibrated = self.model.visibility_scale * scores + self.model.visibility_bias
        inside = (logits > 0).float()
        certainty = (logits.sigmoid() * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)
        numbers = torch.stack([scores, calibrated, calibrated.sigmoid(), certainty, decoded.best_iou.float()])
        maps, columns = logits.cpu().numpy(), numbers.T.tolist()
        return [
            WindowResult(
                paste_logits(maps[row], view.target_window, _size_hw(view.target_image)), maps[row].copy(),
                view.target_window, *columns[row],
            )
            for row, view in enumerate(views)
        ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class CutWindow:
    """A window as a network is shown it.

    Attributes:
        pixels: ``(S, S, 3)`` uint8.
        inside: ``(S, S)`` bool, what lies in the image.
        prompt: ``(S, S)`` float32 in 0..1: the object in a query window, a proposed mask in a target window.
        prompted: whether there is one.
        place: :attr:`WindowInputs.places` of the window.
    """

    pixels: RgbImage
    inside: BoolImage
    prompt: NDArray[np.float32]
    prompted: bool
    place: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class _Cut:
    """The windows of one object in one frame; no query window where the object is not shown."""

    target: CutWindow
    query: CutWindow | None


def window_inputs(windows: Sequence[CutWindow], device: torch.device | str = "cpu") -> WindowInputs:
    """What a network is told of windows beside their pixels."""
    return WindowInputs(
        torch.tensor([w.place for w in windows], dtype=torch.float32, device=device),
        torch.from_numpy(np.stack([w.prompt for w in windows])).to(device),
        torch.tensor([w.prompted for w in windows], device=device),
        torch.from_numpy(np.stack([w.inside for w in windows])).to(device),
    )


def window_place(
    window: ImageWindow, other: ImageWindow | None, image_hw: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A row of :attr:`WindowInputs.places`.

    Args:
        window: the window.
        other: that of the other view; the same enlargement is assumed without.
        image_hw: height and width in pixels of the image that the window is of.
    """
    enlargements = [float(np.log2(w.enlargement)) for w in (window, other or window)]
    return enlargements[0], enlargements[1], *window.place(image_hw)


def shown_mask(mask: BoolImage | ObjectMask, window: ImageWindow) -> NDArray[np.float32]:
    """A query mask ``(H, W)`` in its window: ``(S, S)`` of 0 and 1, 1 in pixels at least half full.

    A mask so thin that nothing would be left keeps the pixels that are at least half as full as the fullest.
    """
    soft = cut_mask(mask, window)
    hard = soft >= 0.5
    if not hard.any() and soft.max() > 0:
        hard = soft >= soft.max() / 2
    return hard.astype(np.float32)


def _query_mask(view: WindowView, name: str) -> BoolImage | ObjectMask | None:
    """The query mask of a view, checked; ``None`` where the object is not shown."""
    mask = view.query_mask
    if isinstance(mask, ObjectMask):
        mask = None if mask.is_empty else mask
        if mask is not None and mask.size_hw != _size_hw(view.query_image):
            as_mask(mask, _size_hw(view.query_image), name)  # raises
    else:
        mask = as_mask(mask, _size_hw(view.query_image), name)
    if mask is not None and view.query_window is None:
        raise InputError(
            f"{name!r} has a query mask and no query window",
            fix="Pass counterview.geometry.windows.query_window(mask, size).",
        )
    return mask


def _cut(size: int, view: WindowView, mask: BoolImage | ObjectMask | None) -> _Cut:
    """Cut the windows of a view at the model's size."""
    target = ImageWindow(view.target_window.centre_xy, view.target_window.side, size)
    query = None if mask is None or view.query_window is None else view.query_window
    query = None if query is None else ImageWindow(query.centre_xy, query.side, size)
    pixels, inside = cut_image(view.target_image, target)
    prompt = view.prompt
    if prompt is not None:
        area_hw = prompt.size_hw if isinstance(prompt, ObjectMask) else prompt.shape
        if tuple(area_hw) != _size_hw(view.target_image):
            raise InputError(
                "a proposed mask has another size than its image", found=area_hw, expected=_size_hw(view.target_image)
            )
    values = np.zeros((size, size), np.float32) if prompt is None else cut_mask(prompt, target)
    place = window_place(target, query, _size_hw(view.target_image))
    cut = CutWindow(pixels, inside, values, bool(values.any()), place)
    if mask is None or query is None:
        return _Cut(cut, None)
    pixels, inside = cut_image(view.query_image, query)
    shown = shown_mask(mask, query)
    if not shown.any():
        raise InputError("a query window does not show its object", found=query, expected="a window around the mask")
    return _Cut(
        cut, CutWindow(pixels, inside, shown, True, window_place(query, target, _size_hw(view.query_image)))
    )  # fmt: skip


def _size_hw(image: RgbImage) -> tuple[int, int]:
    image = as_rgb(image)
    return image.shape[0], image.shape[1]
