"""Validation of tiny-window: drawing alone, with the true places, and drawing where a matcher would have it draw."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from counterview.data.clips import ClipSource
from counterview.data.dataset import Dataset
from counterview.evaluation.scorer import CONFIDENCE_THRESHOLD
from counterview.geometry.windows import paste_logits
from counterview.lmeec.sam2_parts import Decoded
from counterview.lmeec.training.unroll import unroll
from counterview.masks.draw import PALETTE, contact_sheet, overlay, side_by_side
from counterview.masks.geometry import iou, resize_mask
from counterview.tiny.training.window_recipe import WindowDrawConfig
from counterview.tiny.training.window_samples import WindowReader, WindowSample, collate_windows
from counterview.tiny.window import TinyWindow
from counterview.types import ObjectMask, RgbImage

AT_A_TIME = 16
SHEET_TILES = 12

TRUE_PLACES = WindowDrawConfig(
    margin_min=2.0, margin_max=2.0, centre=0, far_prob=0, scale=0, wrong_place_prob=0, decoy_prob=0, no_prompt_prob=1,
    camera_prob=0, downscale_prob=0, flip=0,
)  # fmt: skip
"""How windows are drawn to see what drawing alone is worth."""


@dataclass(frozen=True)
class WindowScore:
    """One answer.

    Attributes:
        true_place: whether the window was around the object, without a proposed mask.
        visible: whether the window shows the object.
        score: object score, a logit.
        visibility: predicted probability.
        iou: of the mask pasted into the image with the object; of a true place within the window. ``None`` where the
            object is not in the window.
        proposed: IoU of the proposed mask; ``None`` without one.
    """

    true_place: bool
    visible: bool
    score: float
    visibility: float
    iou: float | None
    proposed: float | None

    def to_json(self) -> list[Any]:
        """For :meth:`from_json`."""
        return list(astuple(self))

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> WindowScore:
        """Back from :meth:`to_json`."""
        return cls(*values)


class WindowValidator:
    """Draws the objects of validation takes, and scores what is drawn.

    Args:
        dataset: the takes.
        sources: objects in pairs of cameras.
        size: side of the windows in pixels.
        config: how they are drawn in training; here none is mirrored.
        questions: most questions, evenly spread over all; all if not given.
    """

    def __init__(
        self, dataset: Dataset, sources: Sequence[ClipSource], size: int, config: WindowDrawConfig,
        questions: int | None = None,
    ) -> None:  # fmt: skip
        self.dataset = dataset
        every = [replace(source, frames=(frame,)) for source in sources for frame in source.frames]
        count = len(every) if questions is None else min(questions, len(every))
        self.questions = [every[int(i)] for i in np.linspace(0, len(every) - 1, count).astype(int)]
        self.readers = {
            True: WindowReader(dataset, sources, size, TRUE_PLACES),
            False: WindowReader(dataset, sources, size, replace(config, flip=0.0)),
        }

    def identity(self) -> dict[str, Any]:
        """What is validated on, as flat JSON."""
        text = "\n".join(
            f"{q.take}\0{q.query_camera}\0{q.target_camera}\0{q.object}\0{q.frames}" for q in self.questions
        )
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return {"validation_questions": len(self.questions), "validation_hash": digest}

    def scores(
        self, model: TinyWindow, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1
    ) -> Iterator[WindowScore]:
        """Scores of this process's part of the questions, each at its true place and at one that is drawn."""
        for true_place in (True, False):
            for questions, samples, decoded in self._drawn(model, device, true_place, rank, world_size):
                for row, (question, sample) in enumerate(zip(questions, samples, strict=True)):
                    yield self._score(model, question, sample, decoded, row, true_place)

    def _drawn(
        self, model: TinyWindow, device: torch.device | str, true_place: bool, rank: int, world_size: int
    ) -> Iterator[tuple[list[ClipSource], list[WindowSample], Decoded]]:
        """Questions, their samples, and what is drawn, some at a time."""
        numbers = range(rank, len(self.questions), world_size)
        if true_place:  # of an absent object there is none
            numbers = [n for n in numbers if self.questions[n].frames[0] in self.questions[n].visible]  # type: ignore[assignment]
        for first in range(0, len(numbers), AT_A_TIME):
            part = numbers[first : first + AT_A_TIME]
            questions = [self.questions[n] for n in part]
            rngs = (np.random.default_rng([n, 11]) for n in part)
            samples = [self.readers[true_place].read(q, 1, rng) for q, rng in zip(questions, rngs, strict=True)]
            with torch.no_grad():
                [decoded] = unroll(model, collate_windows(samples).to(device))
            yield questions, samples, decoded

    def _score(
        self,
        model: TinyWindow,
        question: ClipSource,
        sample: WindowSample,
        decoded: Decoded,
        row: int,
        true_place: bool,
    ) -> WindowScore:
        logits = decoded.best_logits[row].float().cpu().numpy()
        score = decoded.score[row].float()
        visible = bool(sample.truths[0].any())
        value = proposed = None
        if visible and true_place:
            value = window_iou(logits, sample.truths[0])
        elif visible:
            truth = self._truth(question)
            window, target = sample.windows[0], sample.targets[0]
            value = iou(paste_logits(logits, window, truth.size_hw), truth)
            if target.prompted:
                proposed = iou(paste_logits(target.prompt - 0.5, window, truth.size_hw), truth)
        visibility = float(model.visibility(score[None])[0])
        return WindowScore(true_place, visible, float(score), visibility, value, proposed)

    def _truth(self, question: ClipSource) -> ObjectMask:
        take = self.dataset.take(question.take)
        mask = take.mask(question.object, question.target_camera, question.frames[0])
        assert mask is not None
        return mask

    def sheet(self, model: TinyWindow, device: torch.device | str = "cpu", count: int = SHEET_TILES) -> RgbImage | None:
        """Query window, and target window with what is drawn (red) and the truth (green), ``(H, W, 3)`` uint8."""
        tiles, captions = [], []
        for questions, samples, decoded in self._drawn(model, device, False, 0, max(1, len(self.questions) // count)):
            for row, (question, sample) in enumerate(zip(questions, samples, strict=True)):
                query, target, truth = sample.queries[0], sample.targets[0], sample.truths[0]
                size = query.pixels.shape[:2]
                drawn = ObjectMask.from_array(decoded.best_logits[row].float().cpu().numpy() > 0)
                masks = [resize_mask(drawn, size), ObjectMask.from_array(truth > 0.5)]
                left = overlay(query.pixels, [ObjectMask.from_array(query.prompt > 0.5)], colors=[PALETTE[0]])
                right = overlay(target.pixels, masks, colors=[PALETTE[1], PALETTE[2]])
                tiles.append(side_by_side(left, right))
                visibility = float(model.visibility(decoded.score[row][None].float())[0])
                captions.append(f"{question.object}: {'' if truth.any() else 'absent, '}visible {visibility:.2f}")
        return contact_sheet(tiles[:count], columns=3, captions=captions[:count], tile_height_px=200) if tiles else None


def window_iou(logits: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """IoU within a window: logits ``(h, w)`` above 0 with what ``(S, S)`` fills at least half; S is a multiple of h."""
    factor = truth.shape[0] // logits.shape[0]
    small = truth.reshape(logits.shape[0], factor, logits.shape[1], factor).mean(axis=(1, 3)) >= 0.5
    drawn = logits > 0
    union = np.count_nonzero(small | drawn)
    return float(np.count_nonzero(small & drawn) / union) if union else 0.0


def summarise_windows(scores: Sequence[WindowScore]) -> dict[str, float]:
    """Means over all scores; undefined ones are left out.

    ``iou`` is that of masks pasted into the image from the places that were drawn; ``true_place_iou`` that within
    windows around the object; ``prompted_iou`` and ``proposed_iou`` are those of drawn and proposed masks where one was
    proposed; ``balanced_accuracy`` is that of visibility at the places that were drawn.
    """
    placed = [score for score in scores if not score.true_place]
    prompted = [score for score in placed if score.proposed is not None]
    values = {
        "iou": [score.iou for score in placed if score.iou is not None],
        "true_place_iou": [score.iou for score in scores if score.true_place and score.iou is not None],
        "prompted_iou": [score.iou for score in prompted if score.iou is not None],
        "proposed_iou": [score.proposed for score in prompted if score.proposed is not None],
    }
    metrics = {"questions": float(len(placed))}
    metrics |= {name: float(np.mean(part)) for name, part in values.items() if part}
    recalls = [
        np.mean([(score.visibility > CONFIDENCE_THRESHOLD) == truth for score in placed if score.visible == truth])
        for truth in (False, True)
        if any(score.visible == truth for score in placed)
    ]
    if recalls:
        metrics["balanced_accuracy"] = float(np.mean(recalls))
    return metrics
