"""Ablation of ``tiny-match``: the bundled model without one part at a time.

``python -m benchmarks.tiny_match_ablation NAME=FOLDER[:SPLIT] ... [--takes N] [--frames N] [--save]``

Each set is a prepared folder of held-out rendered takes. All rows choose among the same proposals and are scored by the
official protocol, both directions, with 95 % intervals over takes. There is no retraining: a row shows what the model
loses without a part, not what a model trained without it would reach. *k-NN* compares the descriptors alone.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import finite, record, show
from benchmarks.held_out import open_set
from counterview.data.dataset import DIRECTIONS, Dataset, Direction, Take
from counterview.data.pairs import FramePair, pairs_of_take
from counterview.evaluation.scorer import MEASURES, Scorer, totals
from counterview.evaluation.statistics import differences, intervals
from counterview.features.base import Backbone, FeatureMap
from counterview.inference import ImageEncoding, ProposalMatcher, load
from counterview.inference.matchers import HeadMatcher, KnnMatcher, Matcher
from counterview.inference.takes import prediction_size, query_mask
from counterview.masks.geometry import resize_mask
from counterview.tiny import TinyMatch

FULL = "tiny-match"
PRIOR = 0.2
"""Weight of the proposer's score in rows without the re-ranker, as in recipes/tabletop/tiny-match-head.yaml."""


class WithoutColumns:
    """A matcher with some columns of the descriptors set to zero."""

    def __init__(self, matcher: Matcher, columns: slice) -> None:
        self.matcher, self.columns, self.name = matcher, columns, matcher.name

    def settings(self) -> dict[str, Any]:
        """Settings of the matcher, and the columns."""
        return {**self.matcher.settings(), "without": [self.columns.start, self.columns.stop]}

    def describe(self, backbone: Backbone, features: FeatureMap, masks: Any) -> Tensor:
        """``(N, D)``."""
        return self.zeroed(self.matcher.describe(backbone, features, masks))

    def zeroed(self, descriptors: Tensor) -> Tensor:
        """``(N, D)`` with zeros in the columns."""
        descriptors = descriptors.clone()
        descriptors[:, self.columns] = 0
        return descriptors

    def score(self, backbone: Any, query: ImageEncoding, query_masks: Any, target: ImageEncoding) -> Any:
        """See :class:`Matcher`; the descriptors of proposals and of query masks are zeroed alike."""
        query, target = (replace(e, descriptors=self.zeroed(e.descriptors)) for e in (query, target))
        inner = self.matcher.describe
        self.matcher.describe = lambda *args: self.zeroed(inner(*args))  # type: ignore[method-assign]
        try:
            return self.matcher.score(backbone, query, query_masks, target)
        finally:
            del self.matcher.describe


def without(model: TinyMatch, **changes: Any) -> TinyMatch:
    """The same weights with a changed configuration."""
    other = TinyMatch(replace(model.config, **changes))
    state = other.state_dict()
    other.load_state_dict({name: value for name, value in model.state_dict().items() if name in state})
    return other.eval()


def variants(model: TinyMatch) -> dict[str, Matcher]:
    """The rows, in order."""
    config = model.config
    assert config.network is not None
    assert config.reranker is not None
    crops = config.network.learned_channels
    width = config.omama.object_width
    no_homography = replace(config.reranker, homography=replace(config.reranker.homography, min_similarity=1.0))
    plain: dict[str, Any] = {"reranker": None, "proposal_prior": PRIOR}

    def head(other: TinyMatch) -> HeadMatcher:
        return HeadMatcher(other)

    return {
        FULL: head(model),
        "without the colour histogram": WithoutColumns(head(model), slice(crops, width)),
        "without object crops": WithoutColumns(head(model), slice(0, crops)),
        "without homographies": head(without(model, reranker=no_homography)),
        "without the re-ranker": head(without(model, **plain)),
        "... and without the descriptor weight: the O-MaMa head alone": head(
            without(model, **plain, descriptor_weight=0.0)
        ),
        "k-NN on the same descriptors": KnnMatcher(),
    }


def score_take(
    base: ProposalMatcher, rows: dict[str, Matcher], take: Take, frames: int, scorers: Callable[[str], Scorer]
) -> None:
    """Score every row on ``frames`` frames of a take, both directions."""
    wanted: dict[int, list[tuple[Direction, FramePair]]] = defaultdict(list)
    for direction in DIRECTIONS:
        for pair in pairs_of_take(take, direction, targets="annotated"):
            wanted[pair.frame].append((direction, pair))
    numbers = sorted(wanted)
    for number in [numbers[int(i)] for i in np.linspace(0, len(numbers) - 1, min(frames, len(numbers))).round()]:
        encodings: dict[str, ImageEncoding] = {}
        groups: dict[tuple[str, str], list[FramePair]] = defaultdict(list)
        for _, pair in wanted[number]:
            groups[pair.query_camera, pair.target_camera].append(pair)
        for cameras, pairs in groups.items():
            for camera in cameras:
                if camera not in encodings:
                    encodings[camera] = base.encode(take.frame(camera, number))
            query, target = (encodings[camera] for camera in cameras)
            size = prediction_size(take, cameras[1], target.size_hw)
            masks = [query_mask(take, pair, query.size_hw) for pair in pairs]
            for name, matcher in rows.items():
                is_knn = isinstance(matcher, KnnMatcher)
                views = [_objects_alone(e) if is_knn else e for e in (query, target)]
                scores = matcher.score(base.backbone, views[0], masks, views[1])
                for index, pair in enumerate(pairs):
                    chosen = target.proposals.masks[int(scores.score[index].argmax())]
                    truth = take.mask(pair.object, pair.target_camera, number) if pair.target_visible else None
                    scorers(name).add(
                        take.uid, pair.object, *cameras, number, gt=truth, pred=resize_mask(chosen, size),
                        confidence=float(scores.visibility[index]), resize=True,
                    )  # fmt: skip


def _objects_alone(encoding: ImageEncoding) -> ImageEncoding:
    """The object part of ``[object; context]``, which nearest neighbour compares."""
    channels = encoding.features.channels
    return replace(encoding, descriptors=encoding.descriptors[:, : encoding.descriptors.shape[1] - channels])


def measure(dataset: Dataset, takes: int | None, frames: int) -> dict[str, Any]:
    """All rows of one set."""
    base = load("tiny-match", device="cpu")
    assert isinstance(base, ProposalMatcher)
    assert isinstance(base.matcher, HeadMatcher)
    model = base.matcher.model
    assert isinstance(model, TinyMatch)
    rows = variants(model)
    scorers = {name: Scorer("official") for name in rows}
    start = time.perf_counter()
    uids = dataset.uids[:takes]
    for uid in tqdm(uids, "takes"):
        score_take(base, rows, dataset.take(uid), frames, scorers.__getitem__)
    full = scorers[FULL].table
    result: dict[str, Any] = {"takes": len(uids), "frames": frames, "seconds": time.perf_counter() - start, "rows": {}}
    for name, scorer in scorers.items():
        values, spans = totals(scorer.table), intervals(scorer.table)
        loss = differences(scorer.table, full)[0]["iou"]
        result["rows"][name] = {
            **{m: [finite(v) for v in (getattr(values, m), spans[m].low, spans[m].high)] for m in MEASURES},
            "iou_lost": [loss.value, loss.interval.low, loss.interval.high],
        }
    return result


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER[:SPLIT]")
    parser.add_argument("--takes", type=int)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    result = {}
    for text in arguments.sets:
        name, dataset = open_set(text)
        result[name] = measure(dataset, arguments.takes, arguments.frames)
        table = [
            [row, *("-" if None in v else f"{v[0]:.3f} ({v[1]:.3f}..{v[2]:.3f})" for v in values.values())]
            for row, values in result[name]["rows"].items()
        ]
        show(f"{name}: {result[name]['takes']} takes", ["", *MEASURES, "IoU lost"], table)
    record("tiny_match_ablation", {"sets": result}, save=arguments.save)


if __name__ == "__main__":
    main()
