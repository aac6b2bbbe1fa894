"""Run the steps of a plan: train or load, predict, score. Finished steps are kept and not repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from counterview.data.dataset import Direction
from counterview.data.formats.release import annotation_path, is_release
from counterview.data.pairs import enumerate_pairs, subset
from counterview.errors import InputError
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.open import open_predictions
from counterview.evaluation.predictions import PredictionSource
from counterview.evaluation.protocol import Missing, evaluate
from counterview.evaluation.scorer import MEASURES, totals
from counterview.evaluation.statistics import intervals
from counterview.evaluation.table import KEY, FrameTable
from counterview.inference import bundled
from counterview.inference.loading import load_take_predictor
from counterview.inference.zoo import TRACKERS, method_of
from counterview.media.files import atomic_write, read_json, sha256_file, write_json
from counterview.reproduce.plan import Plan, Unit
from counterview.training.identity import current_recipe, flat
from counterview.training.recipe import FREE_TO_CHANGE

PAIRS_SEED = 42
"""Seed of the fraction of pairs that some tables score; the published selection is not known."""


def run(plan: Plan, *, device: str = "auto", progress: bool = True) -> Iterator[dict[str, Any]]:
    """Reproduce the rows of a plan, one after the other.

    Args:
        plan: of :func:`counterview.reproduce.plan.make_plan`.
        device: of the networks.
        progress: show bars on standard error.

    Yields:
        One result for each row and direction; see :func:`score`.

    Raises:
        InputError: the folder holds results of another recipe or other data.
        CounterviewError: any error of training, predicting and scoring.
    """
    for unit in plan.units:
        about = _model(unit, progress=progress)
        predictions = unit.predictions(plan.split, plan.takes)
        about["predict_s"] = _predict(plan, unit, predictions, device, progress)
        for direction in unit.directions:
            result = score(plan, predictions, direction, name=unit.row.name, title=unit.row.title)
            yield {**result, "kind": "ours", **about}


def external(plan: Plan, name: str, path: Path, missing: Missing = "error") -> Iterator[dict[str, Any]]:
    """Score the predictions of another system beside ours, in the directions that the file holds.

    Raises:
        InputError: it holds none of the table's directions.
    """
    source = open_predictions(path)
    ways = [d for d in plan.table.directions if d in source.directions]
    if not ways:
        raise InputError(
            "holds no predictions of the table's directions", path=path, expected=" or ".join(plan.table.directions)
        )
    for direction in ways:
        yield {**score(plan, source, direction, name=name, title=name, missing=missing), "kind": "external"}


# ------------------------------------------------------------------------------------------------------ steps


def _model(unit: Unit, *, progress: bool) -> dict[str, Any]:
    """Train, unless that is done; a description of the model for the results."""
    if unit.recipe is None:
        return {"model": f"{unit.model.bundled}, bundled"}
    from counterview.training.fit import fit

    path, recipe = unit.recipe
    about: dict[str, Any] = {"recipe": f"{path.parent.name}/{path.name}", "overrides": list(unit.model.overrides)}
    if not unit.is_trained:
        values = recipe.to_dict()
        _keep(unit.folder / "recipe.yaml", json.dumps(values, indent=1))  # JSON is YAML
        return about
    done = unit.base / "model" / "config.json"
    if not (done.is_file() and (unit.base / "result.json").is_file()):
        start = time.perf_counter()
        resume = (unit.base / "checkpoints").is_dir()
        fit(recipe.build_task(), recipe.training, unit.base, resume=resume, progress=progress)
        write_json(unit.base / "time.json", {"train_s": time.perf_counter() - start, "resumed": resume})
    _check_trained(unit)
    result = read_json(unit.base / "result.json")
    about |= {"steps": result.get("steps"), "validation": result.get("metrics", {})}
    if (unit.base / "time.json").is_file():
        about |= read_json(unit.base / "time.json")
    if unit.model.settings:
        _derive(unit)
        about["settings"] = dict(unit.model.settings)
    about["weights_sha256"] = sha256_file(unit.base / "model" / "model.safetensors")
    return about


def _check_trained(unit: Unit) -> None:
    """An existing run must be of this recipe: compare with the recipe in its newest checkpoint."""
    assert unit.recipe is not None
    states = sorted(unit.base.glob("checkpoints/step_*/state/trainer.json"))
    if not states:
        return  # weights that were copied here without their run
    recipe = unit.recipe[1]
    trained = flat(current_recipe(read_json(states[-1]).get("recipe", {}), type(recipe.config)))
    wanted = flat({k: v for k, v in json.loads(json.dumps(recipe.to_dict())).items() if k != "method"})
    free = {f"training.{name}" for name in FREE_TO_CHANGE}
    other = [k for k in sorted({*trained, *wanted}) if k not in free and trained.get(k) != wanted.get(k)]
    if other:
        raise InputError(
            "was trained by another recipe or on other data", path=unit.base,
            found=f"other {', '.join(other[:5])}", fix="Give another --out, or remove the folder.",
        )  # fmt: skip


def _derive(unit: Unit) -> None:
    """The trained LM-EEC with other settings of inference, as a folder of its own."""
    from counterview.nn.checkpoint import read_header
    from counterview.tiny.follow import follow_class

    source, target = unit.base / "model", unit.folder / "model"
    cls = follow_class(read_header(source))
    model = cls.from_pretrained(source).with_settings(**unit.model.settings)
    if (target / "config.json").is_file() and cls.from_pretrained(target).fingerprint() == model.fingerprint():
        return
    model.save_pretrained(target)


def _keep(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise InputError(
            "belongs to other settings or data", path=path, fix="Give another --out, or remove its folder."
        )
    with atomic_write(path, "w") as handle:
        handle.write(text)


def _source(unit: Unit) -> Path:
    if unit.recipe is None:
        return bundled.bundled_folder(unit.model.bundled)
    if not unit.is_trained:
        return unit.folder / "recipe.yaml"
    return unit.folder / "model" if unit.model.settings else unit.base / "model"


def _predict(plan: Plan, unit: Unit, out: Path, device: str, progress: bool) -> float | None:
    """Predict, unless that is done; the seconds it took, ``None`` if not recorded."""
    from counterview.inference.dataset import predict

    source = _source(unit)
    weights = source if source.is_file() else source / "model.safetensors"
    key = {
        "weights": sha256_file(weights),
        "directions": list(unit.directions),
        "takes": [plan.split, len(plan.dataset), plan.dataset.uids[0]],
    }
    note = out.with_suffix(".made.json")
    if out.is_file() and note.is_file():
        record = read_json(note)
        if record.get("key") == key:
            return record.get("seconds")
    cache = None
    if source.is_file() or method_of(source) not in TRACKERS:
        cache = plan.out / "proposals"
    # What this command trained names what the recipes name, and these are the user's word.
    predictor = load_take_predictor(source, device=device, cache=cache, trust=unit.is_trained)
    start = time.perf_counter()
    counts = predict(predictor, plan.dataset, unit.directions, out, progress=progress)
    if counts["failed"]:
        uid, problem = next(iter(counts["failed"].items()))
        raise InputError(f"{len(counts['failed'])} takes could not be predicted, {uid} the first: {problem}", path=out)
    seconds = time.perf_counter() - start
    write_json(note, {"key": key, "seconds": seconds, "empty": counts["empty"]})
    return seconds


def score(
    plan: Plan,
    predictions: PredictionSource | Path,
    direction: Direction,
    *,
    name: str,
    title: str,
    missing: Missing = "error",
) -> dict[str, Any]:
    """Score one prediction file in one direction by the table's protocol.

    Returns:
        Row, title, direction, protocol, each measure with its 95 % interval over takes, counts, and notes.

    Raises:
        IncompletePredictions: predictions are missing or malformed, unless ``missing`` is ``"count-absent"``.
    """
    truth = ground_truth(plan)
    report = evaluate(
        truth, predictions, direction, protocol=plan.table.protocol, missing=missing, allow_missing_takes=True
    )
    table = report.table
    if plan.table.fraction < 1:
        table = _fraction(plan, table, direction)
    spans = intervals(table, report.protocol)
    values = totals(table, report.protocol).to_json()
    return {
        "row": name,
        "title": title,
        "direction": direction,
        "protocol": report.protocol,
        "scores": {
            m: {"value": values[m], "interval": [_finite(spans[m].low), _finite(spans[m].high)]} for m in MEASURES
        },
        "counts": values["counts"],
        "notes": report.notes,
    }


def ground_truth(plan: Plan) -> GroundTruth:
    """The ground truth, restricted to the takes of the plan."""
    if is_release(plan.data):
        truth = GroundTruth(annotation_path(plan.data, plan.split))
    else:
        truth = GroundTruth(plan.data, plan.split)
    planned = set(plan.dataset.uids)
    truth.takes = tuple(uid for uid in truth.takes if uid in planned)
    return truth


def _fraction(plan: Plan, table: FrameTable, direction: Direction) -> FrameTable:
    """The rows of a fraction of the pairs, the same on every machine."""
    pairs = subset(
        enumerate_pairs(plan.dataset, direction, targets="annotated", need_images=False),
        plan.table.fraction,
        PAIRS_SEED,
    )
    wanted = {(p.take, p.object, p.query_camera, p.target_camera, p.frame) for p in pairs}
    rows = zip(*(table[column].tolist() for column in KEY), strict=True)
    return table.select(np.array([row in wanted for row in rows], dtype=np.bool_))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def results(plan: Plan, rows: list[dict[str, Any]], machine: Mapping[str, Any]) -> dict[str, Any]:
    """All results as plain values, in the form of the benchmarks' results."""
    return {
        "benchmark": f"reproduce-{plan.table.name}",
        "machine": dict(machine),
        "table": plan.table.name,
        "title": plan.table.title,
        "data": plan.data_title,
        "tabletop": plan.tabletop,
        "split": plan.split,
        "takes": len(plan.dataset),
        "protocol": plan.table.protocol,
        "fraction": plan.table.fraction,
        "overrides": list(plan.overrides),
        "skipped": plan.skipped,
        "rows": rows,
    }
