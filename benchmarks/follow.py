"""A trained tiny-follow on held-out takes, compared with the untrained model and with the query mask at the same place.

``python -m benchmarks.follow MODEL NAME=FOLDER[:SPLIT] ... --out FOLDER [--save]``

Every system predicts all object-frames of the official protocol with the code of ``counterview predict``, and is scored
with that of ``counterview evaluate``. Intervals are 95 % over takes. Prediction files stay in ``--out``; run again to
resume a run that was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import finite, record, show
from benchmarks.held_out import open_set
from counterview.baselines.weightless import same_place
from counterview.data.dataset import DIRECTIONS, Direction, Take
from counterview.data.pairs import FramePair
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.layout import OFFICIAL
from counterview.evaluation.protocol import evaluate
from counterview.evaluation.scorer import MEASURES, totals
from counterview.evaluation.statistics import differences, intervals
from counterview.evaluation.table import FrameTable
from counterview.inference.dataset import predict
from counterview.inference.takes import ClipPredictor, Prediction, TakePredictor, prediction_size
from counterview.tiny.follow import TinyFollow
from counterview.tiny.initial import initialise

SAME_PLACE, UNTRAINED, TRAINED = "same place", "untrained", "trained"
SEED = 123


class SamePlace:
    """Predicts the query mask, stretched to the target image, with confidence 1."""

    restartable = True
    layout = OFFICIAL

    def settings(self) -> dict[str, Any]:
        """The name."""
        return {"method": "same place"}

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """See :meth:`counterview.inference.takes.TakePredictor.predict`."""
        for frame in sorted(wanted):
            predictions = []
            for direction, pair in wanted[frame]:
                mask = take.mask(pair.object, pair.query_camera, pair.frame)
                assert mask is not None  # pairs have a query mask
                size = prediction_size(take, pair.target_camera, None)
                predictions.append(Prediction(direction, pair, same_place(mask, size), 1.0))
            yield frame, predictions


def main() -> None:
    """Predict, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained tiny-follow")
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER[:SPLIT]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    trained = TinyFollow.from_pretrained(arguments.model)
    systems: dict[str, TakePredictor] = {
        SAME_PLACE: SamePlace(),
        UNTRAINED: ClipPredictor(untrained(trained)),
        TRAINED: ClipPredictor(trained),
    }
    result: dict[str, Any] = {
        "weights": trained.fingerprint(),
        "parameters": sum(p.numel() for p in trained.parameters()),
    }
    for text in arguments.sets:
        name, dataset = open_set(text)
        split = text.rpartition(":")[2] if ":" in text else "test"
        truth = GroundTruth(text.partition("=")[2].removesuffix(f":{split}"), split)
        tables = {}
        for system, predictor in systems.items():
            file = arguments.out / f"{name}-{system.replace(' ', '-')}.json"
            arguments.out.mkdir(parents=True, exist_ok=True)
            predict(predictor, dataset, list(DIRECTIONS), file)
            tables[system] = {way: evaluate(truth, file, way).table for way in DIRECTIONS}
        result[name] = scores(tables)
        _print(name, len(truth), result[name])
    record("follow", result, save=arguments.save)


def untrained(model: TinyFollow) -> TinyFollow:
    """The same architecture with its initial weights."""
    torch.manual_seed(SEED)
    other = TinyFollow(model.config)
    initialise(other)
    return other.eval()


def scores(tables: dict[str, dict[str, FrameTable]]) -> dict[str, Any]:
    """Values and intervals of each system and direction, and the gain of training."""
    result: dict[str, Any] = {}
    for system, ways in tables.items():
        result[system] = {"both": _values(_joined(ways)), **{way: _values(table) for way, table in ways.items()}}
    for rival in (SAME_PLACE, UNTRAINED):
        gain = differences(_joined(tables[rival]), _joined(tables[TRAINED]))[0]["iou"]
        result[f"IoU over {rival}"] = [gain.value, gain.interval.low, gain.interval.high]
    return result


def _joined(ways: dict[str, FrameTable]) -> FrameTable:
    both = FrameTable()
    for table in ways.values():
        both.extend(table)
    return both


def _values(table: FrameTable) -> dict[str, list[float | None]]:
    values, spans = totals(table), intervals(table)
    return {m: [finite(v) for v in (getattr(values, m), spans[m].low, spans[m].high)] for m in MEASURES}


def _print(name: str, takes: int, part: dict[str, Any]) -> None:
    rows = []
    for system in (SAME_PLACE, UNTRAINED, TRAINED):
        for way in ("both", *DIRECTIONS):
            values = part[system][way]
            cells = ["-" if v[0] is None else f"{v[0]:.3f} ({v[1]:.3f}..{v[2]:.3f})" for v in values.values()]
            rows.append([system, way, *cells])
    show(f"{name}: {takes} takes", ["", "direction", *MEASURES], rows)
    for rival in (SAME_PLACE, UNTRAINED):
        value, low, high = part[f"IoU over {rival}"]
        print(f"IoU over {rival}: {value:+.3f} ({low:+.3f}..{high:+.3f})")


if __name__ == "__main__":
    main()
