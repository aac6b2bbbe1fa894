"""Run the steps of a plan: train or load, predict, score. Finished steps are kept and not repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from counterview.data.dataset import DIRECTIONS, Direction
from counterview.data.formats.release import annotation_path, is_release
from counterview.data.pairs import PairFraction, enumerate_pairs
from counterview.errors import InputError, MissingExtraError, WeightsError, counted
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.layout import (
    OFFICIAL,
    Record,
    check_alike,
    chosen_part,
    find_contents,
    read_record,
)
from counterview.evaluation.open import open_predictions
from counterview.evaluation.predictions import PredictionSource
from counterview.evaluation.protocol import Missing, evaluate
from counterview.evaluation.published import total_iou
from counterview.evaluation.scorer import MEASURES
from counterview.evaluation.statistics import intervals
from counterview.inference.finished import is_made_by
from counterview.inference.loading import load_take_predictor
from counterview.inference.networks import trainable_parameters
from counterview.jobs.engine import JobEngine
from counterview.media.files import atomic_write, read_json, sha256_file, write_json
from counterview.nn import bundled
from counterview.reproduce.commands import follows
from counterview.reproduce.plan import PAIRS_SEED, Plan, Unit
from counterview.training.identity import current_recipe, flat
from counterview.training.recipe import FREE_TO_CHANGE


def run(plan: Plan, *, device: str = "auto", progress: bool = True, workers: int = 1) -> Iterator[dict[str, Any]]:
    """Reproduce the rows of a plan, one after the other.

    Args:
        plan: of :func:`counterview.reproduce.plan.make_plan`.
        device: of the networks.
        progress: show bars on standard error.
        workers: processes that predict and score; the results do not depend on it.

    Yields:
        One result for each row and direction; see :func:`score`. A row whose model is loaded by name and needs an
        extra or weights that are not there goes into ``plan.skipped``.

    Raises:
        InputError: the folder holds results of another recipe or other data.
        CounterviewError: any error of training, predicting and scoring.
    """
    for unit in plan.units:
        about = _model(unit, progress=progress)
        try:
            about["predict_s"] = _predict(plan, unit, device, progress, workers)
        except (MissingExtraError, WeightsError) as error:
            if not unit.model.name:
                raise
            plan.skipped[unit.row.title] = str(error)
            continue
        for direction in unit.directions:
            result = score(
                plan, plan.predictions(unit), direction, name=unit.row.name, title=unit.row.title, workers=workers
            )
            check_rows(plan, [result])
            yield {**result, "kind": "ours", **about}


def external(plan: Plan, name: str, path: Path, missing: Missing = "error") -> Iterator[dict[str, Any]]:
    """Score the predictions of another system beside ours, in the directions that the file holds.

    Raises:
        InputError: it holds none of the table's directions, or other frames or sizes than the table is of.
    """
    for direction, source in _ways(plan, path):
        result = {**score(plan, source, direction, name=name, title=name, missing=missing), "kind": "external"}
        check_rows(plan, [result])
        yield result


def inspect_external(plan: Plan, name: str, path: Path) -> list[dict[str, Any]]:
    """What the predictions of another system hold, without scoring them: name, direction, frames and sizes.

    Raises:
        InputError: it holds none of the table's directions, or other frames or sizes than the table is of.
    """
    found = []
    for direction, source in _ways(plan, path):
        truth = ground_truth(plan)
        part = chosen_part(read_record(source), pair_fraction(plan, direction), direction, source)
        contents = find_contents((truth.load(uid) for uid in truth.takes), source, direction, part)
        found.append({"title": name, "direction": direction, "contents": contents.to_json()})
    check_rows(plan, found)
    return found


def _ways(plan: Plan, path: Path) -> list[tuple[Direction, PredictionSource]]:
    source = open_predictions(path)
    ways = [(d, source) for d in plan.table.directions if d in source.directions]
    if not ways:
        raise InputError(
            "holds no predictions of the table's directions", path=path, expected=" or ".join(plan.table.directions)
        )
    return ways


def check_rows(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> None:
    """Check that rows are of the frames and sizes that the table is of, and so of the same.

    Raises:
        InputError: a row is not.
    """
    table = (f"the table {plan.table.name}", plan.layout.frames, plan.layout.sizes)
    for row in rows:
        check_alike([table, (row["title"], row["contents"]["frames"], row["contents"]["sizes"])])


# ------------------------------------------------------------------------------------------------------ steps


def _model(unit: Unit, *, progress: bool) -> dict[str, Any]:
    """Train, unless that is done; a description of the model for the results."""
    if unit.recipe is None:
        if unit.model.bundled:
            trainable = trainable_parameters(unit.model.bundled)
            return {"model": f"{unit.model.bundled}, bundled", "trainable_parameters": trainable}
        return {"model": unit.model.name, "trainable_parameters": 0}
    from counterview.training.fit import fit

    path, recipe = unit.recipe
    about: dict[str, Any] = {"recipe": f"{path.parent.name}/{path.name}", "overrides": list(unit.model.overrides)}
    if not unit.is_trained:
        values = recipe.to_dict()
        _keep(unit.folder / "recipe.yaml", json.dumps(values, indent=1))  # JSON is YAML
        return about | {"trainable_parameters": 0}
    done = unit.base / "model" / "config.json"
    if not (done.is_file() and (unit.base / "result.json").is_file()):
        start = time.perf_counter()
        resume = (unit.base / "checkpoints").is_dir()
        fit(recipe.build_task(), recipe.training, unit.base, resume=resume, progress=progress)
        write_json(unit.base / "time.json", {"train_s": time.perf_counter() - start, "resumed": resume})
    _check_trained(unit)
    result = read_json(unit.base / "result.json")
    about |= {"steps": result.get("steps"), "validation": result.get("metrics", {})}
    about["trainable_parameters"] = result.get("trainable_parameters")  # earlier versions did not write it
    if (unit.base / "time.json").is_file():
        about |= read_json(unit.base / "time.json")
    if unit.model.settings:
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


def _keep(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise InputError(
            "belongs to other settings or data", path=path, fix="Give another --out, or remove its folder."
        )
    with atomic_write(path, "w") as handle:
        handle.write(text)


def _predict(plan: Plan, unit: Unit, device: str, progress: bool, workers: int = 1) -> float | None:
    """Predict, unless that is done; the seconds it took, ``None`` if not recorded."""
    from counterview.inference.dataset import predict

    out = plan.predictions(unit)
    key: dict[str, Any] = {
        "weights": _weights(unit),
        "directions": list(unit.directions),
        "takes": [plan.split, len(plan.dataset), plan.dataset.uids[0]],
    }
    if unit.source_overrides and unit.is_trained:
        key["settings"] = list(unit.source_overrides)
    if plan.layout != OFFICIAL or plan.table.fraction < 1:
        key["layout"], key["fraction"] = plan.layout.name, [plan.table.fraction, PAIRS_SEED]
    note = out.with_suffix(".made.json")
    if out.is_file() and note.is_file():
        record = read_json(note)
        if record.get("key") == key:
            return record.get("seconds")
    make_predictor = partial(
        load_take_predictor, unit.source, device=device, cache=None if follows(unit) else plan.out / "proposals",
        layout=plan.layout, overrides=unit.source_overrides,
        trust=unit.is_trained,  # what this command trained names what the recipes name: the user's word
    )  # fmt: skip
    predictor = make_predictor()
    if out.is_file() and _is_made(plan, unit, out, predictor.settings()):
        return None  # by the printed command
    start = time.perf_counter()
    # The folder is ours, and the file was found to be of other weights or settings.
    counts = predict(
        predictor, plan.dataset, unit.directions, out, fraction=plan.table.fraction, seed=PAIRS_SEED,
        overwrite=out.is_file(), progress=progress, engine=JobEngine(workers=workers), make_predictor=make_predictor,
    )  # fmt: skip
    if counts["failed"]:
        uid, problem = next(iter(counts["failed"].items()))
        raise InputError(f"{len(counts['failed'])} takes could not be predicted, {uid} the first: {problem}", path=out)
    seconds = time.perf_counter() - start
    write_json(note, {"key": key, "seconds": seconds, "empty": counts["empty"]})
    return seconds


def _weights(unit: Unit) -> str:
    """A hash of what a model's predictions depend on, beside settings of inference."""
    if unit.model.bundled:
        return sha256_file(bundled.bundled_folder(unit.model.bundled) / "model.safetensors")
    if unit.recipe is None:
        return unit.model.name
    return sha256_file(unit.base / "model" / "model.safetensors" if unit.is_trained else unit.folder / "recipe.yaml")


def _is_made(plan: Plan, unit: Unit, out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a prediction file is of this model, data, layout and fraction, by what it records."""
    parts = {d: part for d in unit.directions if (part := pair_fraction(plan, d)) is not None}
    settings = {**settings, "data": plan.dataset.image_source()}
    return is_made_by(out, unit.directions, settings, Record(plan.layout, plan.dataset.uids, parts))


def score(
    plan: Plan,
    predictions: PredictionSource | Path,
    direction: Direction,
    *,
    name: str,
    title: str,
    missing: Missing = "error",
    workers: int = 1,
) -> dict[str, Any]:
    """Score one prediction file in one direction by the table's protocol.

    Returns:
        Row, title, direction, protocol, each measure with its 95 % interval over takes, counts, the frames and sizes
        that were found in the file, and notes.

    Raises:
        InputError: the file was asked for other takes than the plan's.
        IncompletePredictions: predictions are missing or malformed, unless ``missing`` is ``"count-absent"``.
    """
    source = open_predictions(predictions) if isinstance(predictions, Path) else predictions
    record = read_record(source)
    if record is not None and record.takes is not None and not {*plan.dataset.uids} <= {*record.takes}:
        raise InputError(
            "was predicted for other takes", path=source.path, found=counted(len(record.takes), "take"),
            expected=f"the {len(plan.dataset)} takes of the table, {plan.dataset.uids[0]} the first",
        )  # fmt: skip
    report = evaluate(
        ground_truth(plan), source, direction, protocol=plan.table.protocol, missing=missing,
        allow_missing_takes=True, part=pair_fraction(plan, direction), workers=workers,
    )  # fmt: skip
    spans = intervals(report.table, report.protocol)
    values = report.totals.to_json()
    return {
        "row": name,
        "title": title,
        "direction": direction,
        "protocol": report.protocol,
        "scores": {
            m: {"value": values[m], "interval": [_finite(spans[m].low), _finite(spans[m].high)]} for m in MEASURES
        },
        "counts": values["counts"],
        "contents": report.contents.to_json(),
        "notes": report.notes,
    }


def ground_truth(plan: Plan) -> GroundTruth:
    """The ground truth, restricted to the takes of the plan."""
    if is_release(plan.data):
        truth = GroundTruth(annotation_path(plan.data, plan.split))
    else:
        truth = GroundTruth(plan.data, plan.split)
    return truth.only(plan.dataset.uids)


def pair_fraction(plan: Plan, direction: Direction) -> PairFraction | None:
    """The fraction of the pairs that the table is of, the same on every machine; ``None`` for all of them."""
    if plan.table.fraction == 1:
        return None
    pairs = enumerate_pairs(plan.dataset, direction, targets="annotated", need_images=False)
    return PairFraction.of(pairs, plan.table.fraction, PAIRS_SEED)


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
        "layout": {"name": plan.layout.name, "frames": plan.layout.frames, "sizes": plan.layout.sizes},
        "fraction": plan.table.fraction,
        "overrides": list(plan.overrides),
        "skipped": plan.skipped,
        "rows": rows,
        "totals": total_scores(plan, rows),
    }


def total_scores(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Total IoU of each row that has both directions; see :func:`counterview.evaluation.published.total_iou`.

    Args:
        plan: of the table.
        rows: results of :func:`score`.
    """
    if plan.table.directions != DIRECTIONS:
        return []
    scores: dict[tuple[str, str], dict[str, float | None]] = {}
    for row in rows:
        scores.setdefault((row["title"], row["kind"]), {})[row["direction"]] = row["scores"]["iou"]["value"]
    return [
        {"title": title, "kind": kind, "iou": iou, "total_iou": total_iou(*(iou.get(d) for d in DIRECTIONS))}
        for (title, kind), iou in scores.items()
    ]
