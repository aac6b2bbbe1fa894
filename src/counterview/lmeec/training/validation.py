"""Scores on validation takes by the official protocol, in sessions over whole takes as at test time."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from counterview.data.dataset import Dataset, Direction, Take
from counterview.data.pairs import pairs_of_take
from counterview.evaluation.scorer import CONFIDENCE_THRESHOLD, LONGEST_SIDE_PX, get_protocol, score_frame
from counterview.lmeec.inference import Answer, Asked, predict_take
from counterview.lmeec.model import LMEEC
from counterview.masks.draw import PALETTE, contact_sheet, overlay, side_by_side
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.types import ObjectMask, RgbImage

MEASURES = ("iou", "location_error", "contour_accuracy")
SHEET_TILES = 12


@dataclass(frozen=True)
class Row:
    """One answer, scored.

    Attributes:
        direction: which way.
        key: identity of the question.
        visible: whether the object is in the target image.
        score: object score; ``None`` where nothing was predicted.
        visibility: probability that it is visible, as the model says.
        iou: ``None`` for all three where the object is not visible.
        location_error: official, by boxes.
        contour_accuracy: official.
    """

    direction: str
    key: str
    visible: bool
    score: float | None
    visibility: float
    iou: float | None = None
    location_error: float | None = None
    contour_accuracy: float | None = None

    def to_json(self) -> list[Any]:
        """For :meth:`from_json`."""
        return list(astuple(self))

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Row:
        """Back from :meth:`to_json`."""
        return cls(*values)


class Validator:
    """Predicts validation takes and scores the answers.

    Args:
        dataset: the takes.
        directions: which ways.
        takes: number of takes, evenly spread over the data set; all if not given.
        frames: number of frames of each, from its first; all if not given.
    """

    def __init__(
        self, dataset: Dataset, directions: Sequence[Direction], takes: int | None = None, frames: int | None = None
    ) -> None:
        self.dataset, self.directions, self.frames = dataset, tuple(directions), frames
        count = len(dataset.uids)
        places = range(count) if takes is None or takes >= count else np.linspace(0, count - 1, takes).astype(int)
        self.uids = [dataset.uids[int(i)] for i in dict.fromkeys(places)]
        self.protocol = get_protocol("official")

    def wanted(self, take: Take) -> dict[int, list[Asked]]:
        """The questions of a take, by frame: every one whose answer is known, absent targets included."""
        wanted: dict[int, list[Asked]] = defaultdict(list)
        for direction in self.directions:
            for pair in pairs_of_take(take, direction, targets="annotated"):
                wanted[pair.frame].append((direction, pair))
        return {frame: wanted[frame] for frame in sorted(wanted)[: self.frames]}

    def rows(self, model: LMEEC, rank: int = 0, world_size: int = 1) -> Iterator[Row]:
        """The answers to this process's share of the takes."""
        for uid in self.uids[rank::world_size]:
            take = self.dataset.take(uid)
            for _, answers in predict_take(model, take, self.wanted(take)):
                for answer in answers:
                    yield self._score(take, answer)

    def identity(self) -> dict[str, Any]:
        """What is validated on, as flat JSON."""
        digest = hashlib.sha256()
        questions = 0
        for uid in self.uids:
            for asked in self.wanted(self.dataset.take(uid)).values():
                for direction, pair in asked:
                    questions += 1
                    digest.update(f"{direction}\0{pair.key}\0{pair.target_visible}\n".encode("utf-8", "surrogatepass"))
        return {"validation_questions": questions, "validation_hash": digest.hexdigest()[:16]}

    def sheet(self, model: LMEEC, count: int = SHEET_TILES) -> RgbImage | None:
        """Query, answer (red) and truth (green) of one object a take, from the middle of the takes."""
        tiles, captions = [], []
        for uid in self.uids[:count]:
            take = self.dataset.take(uid)
            wanted = self.wanted(take)
            numbers = list(wanted)[: min(len(wanted), 5)]
            last: list[Answer] = []
            for _, answers in predict_take(model, take, {n: wanted[n] for n in numbers}):
                last = answers
            shown = next((a for a in last if a.pair.target_visible), last[0] if last else None)
            if shown is not None:
                tile, caption = self._tile(take, shown)
                tiles.append(tile)
                captions.append(caption)
        return contact_sheet(tiles, columns=3, captions=captions, tile_height_px=200) if tiles else None

    def _score(self, take: Take, answer: Answer) -> Row:
        pair, result = answer.pair, answer.result
        truth = take.mask(pair.object, pair.target_camera, pair.frame) if pair.target_visible else None
        scores: tuple[float, ...] = ()
        if truth is not None:
            size = fit_longest_side(truth.size_hw, LONGEST_SIDE_PX)
            found = ObjectMask.empty(size) if result is None else resize_mask(result.mask_rle, size)
            values = score_frame(self.protocol, truth, found)
            if values is not None:
                scores = tuple(float(values[name]) for name in MEASURES)
        visibility = 0.0 if result is None else result.visibility
        score = None if result is None else result.object_score
        return Row(answer.direction, pair.key, bool(pair.target_visible), score, visibility, *scores)

    def _tile(self, take: Take, answer: Answer) -> tuple[RgbImage, str]:
        pair = answer.pair
        sides = []
        for camera, colours in ((pair.query_camera, (PALETTE[0],)), (pair.target_camera, (PALETTE[2], PALETTE[1]))):
            image = take.frame(camera, pair.frame)
            masks = [take.mask(pair.object, camera, pair.frame)]
            if camera == pair.target_camera and answer.result is not None:
                masks.append(answer.result.mask_rle)
            drawn = [(m, c) for m, c in zip(masks, colours, strict=False) if m is not None]
            fitted = [resize_mask(m, image.shape[:2]) for m, _ in drawn]
            sides.append(overlay(image, fitted, colors=[c for _, c in drawn]))
        row = self._score(take, answer)
        said = f"IoU {row.iou:.2f}" if row.iou is not None else "absent"
        return side_by_side(*sides), f"{pair.object}: {said}, visible {row.visibility:.2f}"


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """Metrics over all rows, as the official evaluation has them; undefined ones are left out."""
    seen = [row for row in rows if row.iou is not None]
    metrics: dict[str, float] = {"questions": float(len(rows))}
    for name in MEASURES:
        if seen:
            metrics[name] = math.fsum(getattr(row, name) for row in seen) / len(seen)
    recalls = [
        np.mean([(row.visibility > CONFIDENCE_THRESHOLD) == truth for row in rows if row.visible == truth])
        for truth in (False, True)
        if any(row.visible == truth for row in rows)
    ]
    if recalls:
        metrics["balanced_accuracy"] = float(np.mean(recalls))
    return metrics
