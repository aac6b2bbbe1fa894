"""The paper's module ablation on any data set: loss, context, adjacent negatives, cross-attention; several seeds.

``python -m benchmarks.omama_ablation RECIPE --out FOLDER [--seeds 0 1 2] [--test-split test] [KEY=VALUE ...] [--save]``

Every row is the recipe with other modules, trained on the same cached features and scored on held-out takes by the
official protocol. A row with a result in FOLDER is not trained again. Intervals are 95 %, by bootstrap over takes, of
the mean over the seeds. The gain is over nearest neighbour on the same takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record, show
from counterview.config import to_dict
from counterview.data.open import open_dataset
from counterview.evaluation.statistics import differences, intervals
from counterview.evaluation.table import FrameTable
from counterview.media.files import read_json, write_json
from counterview.nn.checkpoint import Pretrained
from counterview.omama import OMaMa, OMaMaConfig
from counterview.omama.training.task import OMaMaTask
from counterview.omama.training.validation import ScoredMatch, summarise
from counterview.training.fit import fit
from counterview.training.recipe import Recipe, load_recipe, task_class_of

ROWS: dict[str, tuple[bool, bool, bool]] = {
    "A loss": (False, False, False),
    "B loss, context": (True, False, False),
    "C loss, context, adjacent": (True, True, False),
    "D loss, context, cross-attention": (True, False, True),
    "E loss, context, adjacent, cross-attention": (True, True, True),
}
"""Context, adjacent negatives, cross-attention. Rows A, C and E are in the paper."""
BASELINE = "nearest neighbour"


def variant(recipe: Recipe, modules: tuple[bool, bool, bool], seed: int) -> Recipe:
    """The recipe with modules on or off."""
    context, adjacent, cross = modules
    config, model = recipe.config, recipe.config.model
    head = dataclasses.replace(head_of(model), context=context, cross_attention=cross)
    config = dataclasses.replace(
        config,
        model=head if isinstance(model, OMaMaConfig) else dataclasses.replace(model, omama=head),
        sampling=dataclasses.replace(config.sampling, mining="adjacent" if adjacent else "random"),
    )
    return dataclasses.replace(recipe, config=config, training=dataclasses.replace(recipe.training, seed=seed))


def head_of(model: Any) -> OMaMaConfig:
    """The configuration of the O-MaMa head in that of a model, which may be a tiny-match."""
    return model if isinstance(model, OMaMaConfig) else model.omama


def scored(task: OMaMaTask, model: Any, out: Path, key: dict[str, Any]) -> list[ScoredMatch]:
    """Match the held-out pairs, and store the scores in ``out``."""
    rows = list(task.validator.rows(model.eval()))
    write_json(out, {"key": key, "rows": [row.to_json() for row in rows]}, indent=None)
    return rows


def stored(out: Path, key: dict[str, Any]) -> list[ScoredMatch] | None:
    """Scores of an earlier run with the same settings; ``None`` without one."""
    if not out.is_file():
        return None
    values = read_json(out)
    is_same = values.get("key") == json.loads(json.dumps(key))
    return [ScoredMatch.from_json(row) for row in values["rows"]] if is_same else None


def average(tables: list[FrameTable]) -> FrameTable:
    """One table with the mean of each score over the seeds; its intervals over takes are those of the mean."""
    if len(tables) == 1:
        return tables[0]
    result = FrameTable()
    for number in range(len(tables[0])):
        parts = [table.row(number) for table in tables]
        means = {
            name: float(np.mean([getattr(part, name) for part in parts]))
            for name in ("iou", "location_error", "contour_accuracy", "confidence")
        }
        votes = sum(part.pred_visible for part in parts) * 2 > len(parts)
        result.append(dataclasses.replace(parts[0], pred_visible=votes, **means))
    return result


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    held_out = dataclasses.replace(
        recipe.config, data=dataclasses.replace(recipe.config.data, val_split=options.test_split)
    )
    task_class = task_class_of(recipe.method)
    test: OMaMaTask = task_class(held_out)
    config = head_of(recipe.config.model)
    model_class: type[Pretrained] = type(test.new_model())

    systems: dict[str, list[list[ScoredMatch]]] = {}
    knn = OMaMa(OMaMaConfig.knn(config.channels, object_channels=config.object_channels))
    key = {"features": test.fingerprint()}
    file = options.out / "knn.json"
    systems[BASELINE] = [stored(file, key) or scored(test, knn, file, key)]
    for name, modules in ROWS.items():
        systems[name] = []
        for seed in options.seeds:
            row = variant(recipe, modules, seed)
            key = {"recipe": to_dict(row.training) | to_dict(row.config), "test": test.fingerprint()}
            file = options.out / f"{name[0]}-{seed}.json"
            rows = stored(file, key)
            if rows is None:
                folder = options.out / f"{name[0]}-{seed}"
                result = fit(task_class(row.config), row.training, folder, resume=True)
                rows = scored(test, model_class.from_pretrained(result.model_dir), file, key)
            systems[name].append(rows)

    lines, report = [], {}
    directions = [d for d, _ in test.validator.pairs]
    baseline = test.validator.table(systems[BASELINE][0])
    for name, seeds in systems.items():
        table = average([test.validator.table(rows) for rows in seeds])
        metrics = [summarise(rows) for rows in seeds]
        spans = intervals(table)
        entry: dict[str, Any] = {
            measure: {
                "mean": float(np.mean([m[measure] for m in metrics])),
                "seeds": [m[measure] for m in metrics],
                "interval": [spans[measure].low, spans[measure].high],
            }
            for measure in ("iou", "location_error", "contour_accuracy", "balanced_accuracy")
        }
        for direction in dict.fromkeys(directions):
            each = [summarise([r for r in rows if directions[r.number] == direction])["iou"] for rows in seeds]
            entry[f"iou_{direction}"] = float(np.mean(each))
        if name != BASELINE:
            gain = differences(baseline, table)[0]["iou"]
            entry["gain"] = {"mean": gain.value, "interval": [gain.interval.low, gain.interval.high]}
        report[name] = entry
        iou = entry["iou"]
        lines.append(
            [
                name,
                *(f"{100 * entry[f'iou_{d}']:.1f}" for d in dict.fromkeys(directions)),
                f"{100 * iou['mean']:.1f} ({100 * iou['interval'][0]:.1f} to {100 * iou['interval'][1]:.1f})",
                " ".join(f"{100 * v:.1f}" for v in iou["seeds"]),
                _gain(entry),
                f"{entry['location_error']['mean']:.3f}",
                f"{entry['contour_accuracy']['mean']:.3f}",
                f"{100 * entry['balanced_accuracy']['mean']:.1f}",
            ]
        )
    possible = summarise(systems[BASELINE][0])["possible_iou"]
    columns = ["row", *dict.fromkeys(directions), "IoU (95 %)", "seeds", "gain (95 %)", "LE", "CA", "BA"]
    show(f"{len(open_dataset(recipe.config.data.root, options.test_split))} held-out takes, {len(baseline)} pairs; "
         f"the best choice among the proposals has IoU {100 * possible:.1f}", columns, lines)  # fmt: skip
    record("omama_ablation", {"rows": report, "possible_iou": possible, "pairs": len(baseline)}, save=options.save)


def _gain(entry: dict[str, Any]) -> str:
    if "gain" not in entry:
        return ""
    gain = entry["gain"]
    return f"{100 * gain['mean']:+.1f} ({100 * gain['interval'][0]:+.1f} to {100 * gain['interval'][1]:+.1f})"


if __name__ == "__main__":
    main()
