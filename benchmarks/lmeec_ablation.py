"""The ablation of LM-EEC's paper on a small configuration: one command, one table.

``python -m benchmarks.lmeec_ablation RECIPE --out FOLDER [--seeds 3] [--rows full no-cross-view ...] [key=value ...]``

Every row is the recipe with one setting changed, trained with the same seeds and validated by the official protocol.
Rows that change only inference (``fifo``, ``drop``, ``weighted``) are not trained: they use the weights of the full
model. Finished runs in FOLDER are kept: run again to resume a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import record, show
from counterview.lmeec.model import LMEEC
from counterview.lmeec.training.task import LMEECTask
from counterview.training.fit import fit
from counterview.training.recipe import load_recipe

TRAINED: dict[str, list[str]] = {
    "full": [],
    "no-cross-view": ["model.cross_view_prompt=false"],
    "add": ["model.fusion=add"],
    "concat": ["model.fusion=concat"],
    "no-query-memory": ["model.query_memory=false"],
    "no-target-memory": ["model.target_memory=false"],
    "no-pointers": ["model.pointers=false"],
}
"""Rows that are trained, with the settings that they change."""

TESTED = {"fifo": "fifo", "drop": "drop", "weighted": "weighted"}
"""Rows of the full model with another compression."""

MEASURES = ("iou", "location_error", "contour_accuracy", "balanced_accuracy")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=[*TRAINED, *TESTED], choices=[*TRAINED, *TESTED])
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {row: [] for row in arguments.rows}
    for seed in range(arguments.seeds):
        for row in arguments.rows:
            results[row].append(_run(arguments, row, seed))
    table = [_line(row, values) for row, values in results.items()]
    show("Validation, mean and standard deviation over seeds", ["row", *MEASURES], table)
    settings = {"recipe": Path(arguments.recipe).name, "overrides": [o for o in arguments.overrides if "/" not in o]}
    record("lmeec_ablation", {**settings, "rows": results}, save=arguments.save)


def _run(arguments: argparse.Namespace, row: str, seed: int) -> dict[str, float]:
    trained = row if row in TRAINED else "full"
    overrides = [*arguments.overrides, *TRAINED[trained], f"training.seed={123 + seed}"]
    recipe = load_recipe(arguments.recipe, overrides)
    folder = arguments.out / f"{trained}-{seed}"
    done = arguments.out / f"{row}-{seed}.json"
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    task: Any = recipe.build_task()
    if not (folder / "model").is_dir():
        fit(task, recipe.training, folder, resume=True)
    model = task.model_class.from_pretrained(folder / "model")
    if row in TESTED:
        model = model.with_settings(compression=TESTED[row])
    metrics = _validate(task, model)
    done.write_text(json.dumps(metrics), encoding="utf-8")
    return metrics


def _validate(task: Any, model: LMEEC) -> dict[str, float]:
    if not isinstance(task, LMEECTask):
        raise SystemExit("the recipe is not of LM-EEC")
    with torch.no_grad():
        return task.summarise([task.validate(model, model.device)])


def _line(row: str, values: list[dict[str, float]]) -> list[str]:
    cells = [row]
    for name in MEASURES:
        numbers = [v[name] for v in values if name in v]
        if not numbers:
            cells.append("-")
            continue
        spread = f" ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else ""
        cells.append(f"{statistics.fmean(numbers):.4f}{spread}")
    return cells


if __name__ == "__main__":
    main()
