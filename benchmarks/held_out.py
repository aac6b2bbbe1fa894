"""All systems on held-out synthetic takes, both directions, with 95 % intervals over takes.

``python -m benchmarks.held_out standard=FOLDER hard=FOLDER novel=FOLDER:test_novel --out FOLDER [--save]``

Each set is a prepared folder, with the split after a colon (by default ``test``, or ``test_novel`` if there is no
``test``). There are three parts for each set:

* *candidates*: top-1 accuracy among the true masks of all annotated objects of the target image; chance is the mean of
  one over their number. LM-EEC draws a mask; its choice is the object with the largest overlap. tiny-match also sees
  its proposals of both images, from which it estimates homographies.
* *proposals*: IoU, location error, contour accuracy and balanced accuracy by the official protocol. All systems choose
  among the same proposals (those that tiny-match was trained with); LM-EEC draws its masks. *best choice* is the best
  proposal for each object; *ground-truth candidates* is tiny-match among the true masks.
* *errors*: what the wrong proposals show, and how well the visibility separates visible from absent objects.

``--match MODEL --name NAME`` measures another model in the rows of tiny-match, with its features and proposals, and
saves the result under another name. The results of each take are stored in the folder of ``--out``: run again to resume
a run that was stopped; with other settings they are computed again. ``--takes`` and ``--frames`` limit a run. Systems
that are not available are reported and left out.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.common import decimals, finite, record, show
from benchmarks.held_out_errors import KINDS, ranked
from benchmarks.held_out_systems import (
    BEST,
    CHANCE,
    CLASSICAL,
    FOLLOW,
    LAB,
    MATCH,
    PLACE,
    TINY,
    TRUE_MASKS,
    WEIGHT_FREE,
    Records,
    Systems,
    TakeResults,
    run_systems,
)
from counterview.data.dataset import DIRECTIONS, Dataset
from counterview.data.formats.prepared import read_splits
from counterview.data.open import open_dataset
from counterview.errors import CounterviewError, InputError
from counterview.evaluation.scorer import MEASURES, totals
from counterview.evaluation.statistics import differences, intervals
from counterview.evaluation.table import FrameScore, FrameTable
from counterview.media.files import read_json, write_json

ORDER = (CHANCE, PLACE, LAB, CLASSICAL, TINY, MATCH, FOLLOW, BEST, TRUE_MASKS)
WITHOUT_VISIBILITY = (CHANCE, PLACE, BEST)
"""Rows with a constant or known visibility, for which balanced accuracy is meaningless."""
LEARNED = (MATCH, FOLLOW)


def open_set(text: str) -> tuple[str, Dataset]:
    """``NAME=FOLDER[:SPLIT]`` as a name and takes."""
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise InputError("a set is malformed", found=repr(text), expected="NAME=FOLDER or NAME=FOLDER:SPLIT")
    folder, _, split = path.rpartition(":") if not Path(path).is_dir() else (path, "", "")
    if not split:
        splits = read_splits(Path(folder)) or {}
        split = "test" if splits.get("test") or not splits.get("test_novel") else "test_novel"
    return name, open_dataset(folder, split)


def take_rows(
    systems: Systems, dataset: Dataset, uid: str, frames: int | None, out: Path, records: Records | None = None
) -> dict[str, Any]:
    """The results of one take as plain values: read from ``out``, or computed and stored there."""
    key = json.loads(json.dumps({"take": uid, "frames": frames, **systems.settings}))
    path = out / f"{hashlib.sha256(uid.encode()).hexdigest()[:24]}.json"
    if path.is_file():
        values = read_json(path)
        if isinstance(values, dict) and values.get("key") == key:
            return values
    start, processor = time.perf_counter(), time.process_time()
    results: TakeResults = run_systems(systems, dataset.take(uid), frames, records)
    values = {
        "key": key,
        "seconds": time.perf_counter() - start,
        "processor_s": time.process_time() - processor,
        "proposals": results.proposals,
        "choices": results.choices,
        "kinds": results.kinds,
        "rows": {
            name: [[direction, _plain(asdict(row))] for direction, row in rows] for name, rows in results.rows().items()
        },
    }
    write_json(path, values, indent=None)
    return json.loads(json.dumps(values))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if not (isinstance(v, float) and math.isnan(v))}


def score_table(rows: Iterable[dict[str, Any]]) -> FrameTable:
    """Scored predictions as a table; missing values are NaN."""
    table = FrameTable()
    for row in rows:
        table.append(FrameScore(**{**{"confidence": math.nan}, **row}))
    return table


def accuracy_table(choices: Iterable[dict[str, Any]], system: str) -> FrameTable:
    """Choices as a table, with "right" in the place of IoU: intervals and differences are computed in the same way."""
    table = FrameTable()
    for c in choices:
        if system in c["right"]:
            table.append(FrameScore(
                c["take"], c["object"], c["query"], c["target"], c["frame"], gt_visible=True, pred_visible=True,
                confidence=1.0, iou=c["right"][system],
            ))  # fmt: skip
    return table


def candidates_part(choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The part *candidates* of a set."""
    names = [n for n in ORDER if any(n in c["right"] for c in choices)]
    rows: dict[str, Any] = {}
    tables = {name: accuracy_table(choices, name) for name in names}
    for name in names:
        entry: dict[str, Any] = {"accuracy": _values(tables[name], ["iou"])["iou"]}
        for direction in DIRECTIONS:
            part = accuracy_table([c for c in choices if c["direction"] == direction], name)
            entry[direction] = {"accuracy": totals(part).iou if len(part) else None}
        rows[name] = entry
    return {
        "questions": len(choices),
        "mean_candidates": float(np.mean([c["candidates"] for c in choices])) if choices else None,
        "rows": rows,
        "gains": _gains(tables),
    }


def proposals_part(takes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The parts *proposals* and *errors* of a set."""
    names = [n for n in ORDER if any(n in t["rows"] for t in takes)]
    rows: dict[str, Any] = {}
    tables = {}
    for name in names:
        scored = [pair for t in takes for pair in t["rows"].get(name, [])]
        tables[name] = score_table(row for _, row in scored)
        counts = {k: sum(t["kinds"].get(name, {}).get(k, 0) for t in takes) for k in KINDS}
        measures = [m for m in MEASURES if m != "balanced_accuracy" or name not in WITHOUT_VISIBILITY]
        entry = _values(tables[name], measures)
        for direction in DIRECTIONS:
            part = totals(score_table(row for d, row in scored if d == direction))
            entry[direction] = {m: finite(getattr(part, m)) for m in measures}
        if any(counts.values()):
            entry["kinds"] = {k: n / sum(counts.values()) for k, n in counts.items()}
        if name not in WITHOUT_VISIBILITY:
            entry["visibility"] = ranked([row for _, row in scored])
        rows[name] = entry
    counts_of_all = totals(tables[names[0]]) if names else None
    return {
        "object_frames": counts_of_all.frames if counts_of_all else 0,
        "visible": counts_of_all.visible if counts_of_all else 0,
        "mean_proposals": float(np.mean([n for t in takes for n in t["proposals"]])),
        "rows": rows,
        "gains": _gains(tables),
    }


def _values(table: FrameTable, measures: Sequence[str]) -> dict[str, Any]:
    """Score and interval of each measure."""
    values, spans = totals(table), intervals(table)
    return {
        m: {"value": finite(getattr(values, m)), "interval": [finite(spans[m].low), finite(spans[m].high)]}
        for m in measures
    }


def _gains(tables: dict[str, FrameTable]) -> dict[str, Any]:
    """Gains of learned systems over the best descriptor without weights, and of tiny-match's head over its features.

    All on the same objects and frames. The column IoU of a table holds what is compared, accuracy or IoU.
    """
    rivals = [n for n in WEIGHT_FREE if n in tables and len(tables[n])]
    versus = [(name, max(rivals, key=lambda n: totals(tables[n]).iou), name) for name in LEARNED if rivals]
    result: dict[str, Any] = {}
    for name, rival, label in [*versus, (MATCH, TINY, f"{MATCH}'s head")]:
        if all(n in tables and len(tables[n]) for n in (name, rival)):
            gain = differences(tables[rival], tables[name])[0]["iou"]
            interval = [finite(gain.interval.low), finite(gain.interval.high)]
            result[label] = {"over": rival, "value": finite(gain.value), "interval": interval}
    return result


def cell(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return "-"
    low, high = entry["interval"]
    return f"{entry['value']:.3f}" + ("" if low is None else f" ({low:.3f}..{high:.3f})")


def print_set(title: str, part: dict[str, Any]) -> None:
    """All tables of a set."""
    a, b = part["candidates"], part["proposals"]
    show(
        f"\n{title}: {part['takes']} takes, {part['frames']} frames. Top-1 accuracy among the true masks of the target "
        f"image, {a['mean_candidates']:.1f} on average; {a['questions']} query objects",
        ["", "both ways (95 % over takes)", *DIRECTIONS],
        [[n, cell(r["accuracy"]), *(f"{r[d]['accuracy']:.3f}" for d in DIRECTIONS)] for n, r in a["rows"].items()],
    )
    show(
        f"\n{title}: official protocol, {b['object_frames']} object-frames, {b['mean_proposals']:.0f} proposals each",
        ["", "IoU", "LE", "CA", "BA", *(f"IoU {d}" for d in DIRECTIONS)],
        [
            [n, *(cell(r.get(m)) for m in MEASURES), *(f"{r[d]['iou']:.3f}" for d in DIRECTIONS)]
            for n, r in b["rows"].items()
        ],
    )
    show(
        f"\n{title}: what the chosen proposals show, fraction of visible objects",
        ["", *KINDS],
        [[n, *(f"{r['kinds'][k]:.3f}" for k in KINDS)] for n, r in b["rows"].items() if "kinds" in r],
    )
    show(
        f"\n{title}: visibility, area under the ROC curve",
        ["", "all visible objects", "those with IoU > 0.5"],
        [[n, *(decimals(v) for v in r["visibility"].values())] for n, r in b["rows"].items() if "visibility" in r],
    )
    for what, gains in (("accuracy", a["gains"]), ("IoU", b["gains"])):
        for name, gain in gains.items():
            print(f"{name} over {gain['over']}, {what}: {cell(gain)}")


def main() -> int:
    """Predict, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER[:SPLIT]")
    parser.add_argument("--out", type=Path, required=True, help="folder in which results are stored")
    parser.add_argument("--takes", type=int, help="only the first takes of each set")
    parser.add_argument("--frames", type=int, help="only this number of frames of each take, evenly spread")
    parser.add_argument("--match", help="matcher to measure, any model name; by default the bundled tiny-match")
    parser.add_argument("--follow", help="LM-EEC to measure, any model name; by default the bundled tiny-follow")
    parser.add_argument("--proposals", help="proposer for all systems; by default that of tiny-match")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="held_out", help="name of the results file, with --save")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    try:
        sets = [open_set(text) for text in options.sets]
        systems = Systems.make(
            options.match, options.follow, options.proposals, str(options.out / "proposals"), options.device
        )
        result = {name: run_set(systems, name, dataset, options) for name, dataset in sets}
    except CounterviewError as error:
        print(f"held_out: {error}")
        return error.exit_code
    for name, part in result.items():
        print_set(name, part)
    for name, why in systems.missing.items():
        print(f"left out: {name}: {why}")
    settings = copy.deepcopy({k: v for k, v in systems.settings.items() if k != "version"})
    for _, matcher in (system["matcher"] for system in settings["systems"].values()):
        if "source" in matcher:  # without the folders of this machine
            matcher["source"] = Path(matcher["source"]).name
    record(options.name, {"sets": result, "settings": settings, "left_out": sorted(systems.missing)}, save=options.save)
    return 0


def run_set(systems: Systems, name: str, dataset: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """Run all systems on the takes of a set, and summarise."""
    uids = dataset.uids[: options.takes]
    rows = [
        take_rows(systems, dataset, uid, options.frames, options.out / name)
        for uid in tqdm(uids, desc=name, unit="take", dynamic_ncols=True, disable=None)
    ]
    return summary(dataset, rows)


def summary(dataset: Dataset, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All parts of a set, from the results of its takes."""
    choices = [c for take in rows for c in take["choices"]]
    frames = {(t["key"]["take"], row["frame"]) for t in rows for scored in t["rows"].values() for _, row in scored}
    return {
        "split": dataset.split,
        "takes": len(rows),
        "frames": len(frames),
        "seconds": sum(t["seconds"] for t in rows),
        "processor_s": sum(t["processor_s"] for t in rows),
        "candidates": candidates_part(choices),
        "proposals": proposals_part(rows),
    }


if __name__ == "__main__":
    raise SystemExit(main())
