"""Held-out synthetic takes with one image of every pair taken by another camera.

``python -m benchmarks.held_out_cameras standard=FOLDER hard=FOLDER … --out FOLDER [--frames 1] [--save]``

As :mod:`benchmarks.held_out`, once as the takes are and once for each change of camera
(:mod:`counterview.evaluation.camera_change`) and each image of the pair. Proposals are made from the changed image.
Results of each take are stored in the folder of ``--out``: run again to resume.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.common import RESULTS, record, show
from benchmarks.held_out import DIRECTIONS, cell, open_set, summary, take_rows
from benchmarks.held_out_systems import BEST, DRAWN, MATCH, OtherCamera, Records, Systems
from counterview.errors import CounterviewError
from counterview.evaluation.camera_change import CHANGES
from counterview.media.files import read_json

PLAIN = "plain"
CASES: Mapping[str, OtherCamera | None] = {
    PLAIN: None,
    **{f"{change}, target": OtherCamera(change, "target") for change in (DRAWN, *CHANGES)},
    **{f"{change}, query": OtherCamera(change, "query") for change in (DRAWN, *CHANGES)},
}


def main() -> int:
    """Predict, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER[:SPLIT]")
    parser.add_argument("--out", type=Path, required=True, help="folder in which results are stored")
    parser.add_argument("--takes", type=int, help="only the first takes of each set")
    parser.add_argument("--frames", type=int, help="only this number of frames of each take, evenly spread")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), help="only these")
    parser.add_argument("--no-baselines", action="store_true", help="tiny-match alone, beside the best choice")
    parser.add_argument("--match", help="matcher to measure, any model name; by default the bundled tiny-match")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="held_out_cameras", help="name of the results file, with --save")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    try:
        sets = [open_set(text) for text in options.sets]
        systems = Systems.make(options.match, None, None, str(options.out / "proposals"), options.device)
        kept = {n: s for n, s in systems.matchers.items() if n == MATCH or not options.no_baselines}
        systems = replace(systems, follower=None, matchers=kept)
        result: dict[str, Any] = {}
        for name, dataset in sets:
            rows: dict[str, list[dict[str, Any]]] = {case: [] for case in options.cases or CASES}
            uids = dataset.uids[: options.takes]
            for uid in tqdm(uids, desc=name, unit="take", dynamic_ncols=True, disable=None):
                records: Records = {}
                for case, taken in rows.items():
                    changed = replace(systems, other_camera=CASES[case])
                    out = options.out / name / case.replace(", ", "-")
                    taken.append(take_rows(changed, dataset, uid, options.frames, out, records))
            cases = {case: _kept(summary(dataset, taken)) for case, taken in rows.items()}
            result[name] = {"takes": len(uids), "cases": cases}
    except CounterviewError as error:
        print(f"held_out_cameras: {error}")
        return error.exit_code
    for name, part in result.items():
        print_set(name, part)
    saved = RESULTS / f"{options.name}.json"
    if options.save and saved.is_file():  # sets that were measured before stay
        result = read_json(saved)["sets"] | result
    record(options.name, {"frames": options.frames, "sets": result}, save=options.save)
    return 0


def _kept(part: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a set: for each system, its scores with intervals."""
    top1 = part["candidates"]["rows"]
    rows = {}
    for name, row in part["proposals"]["rows"].items():
        rows[name] = {"iou": row["iou"], **{d: row[d]["iou"] for d in DIRECTIONS}}
        if "balanced_accuracy" in row:
            rows[name]["balanced_accuracy"] = row["balanced_accuracy"]
        if name in top1:
            rows[name]["top1"] = top1[name]["accuracy"]
    return {"object_frames": part["proposals"]["object_frames"], "rows": rows}


def print_set(title: str, part: Mapping[str, Any]) -> None:
    """IoU of every system by change, and all measures of tiny-match."""
    cases = part["cases"]
    names = list(next(iter(cases.values()))["rows"])
    show(
        f"\n{title}: {part['takes']} takes, IoU",
        ["", *names],
        [[case, *(f"{values['rows'][n]['iou']['value']:.3f}" for n in names)] for case, values in cases.items()],
    )
    rows = []
    for case, values in cases.items():
        row, best = values["rows"][MATCH], values["rows"][BEST]
        plain = cases.get(PLAIN, values)["rows"][MATCH]["iou"]["value"]
        rows.append([
            case, cell(row["iou"]), f"{row['iou']['value'] / plain:.3f}",
            *(f"{row[d]:.3f}" for d in DIRECTIONS), f"{row['balanced_accuracy']['value']:.3f}",
            f"{row['top1']['value']:.3f}", f"{best['iou']['value']:.3f}",
        ])  # fmt: skip
    columns = ["", "IoU (95 % over takes)", "of plain", *DIRECTIONS, "BA", "top-1", "best choice"]
    show(f"\n{title}: {MATCH}", columns, rows)


if __name__ == "__main__":
    raise SystemExit(main())
