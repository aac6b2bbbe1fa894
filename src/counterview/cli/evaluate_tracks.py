"""``counterview evaluate`` for tracks and the annotations of tools."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from counterview.evaluation.tracks import TracksReport


def score_tracks(
    gt: Path,
    predictions: Sequence[Path],
    *,
    protocol: str,
    missing: str,
    per_frame: Path | None,
    as_json: bool,
    overwrite: bool,
    other_options: Mapping[str, object],
) -> int:
    """Score tracks against annotations, and print the scores of each pair of cameras.

    Args:
        gt: tracks or annotations.
        predictions: likewise.
        protocol: name of the protocol.
        missing: ``error`` or ``count-absent``.
        per_frame: table of every object-frame to write.
        as_json: print JSON.
        overwrite: replace a file of another origin by that table.
        other_options: options of the command that only takes have, with their values.

    Raises:
        InputError: an option that only takes have, or a file of another kind.
    """
    from counterview.errors import InputError
    from counterview.evaluation.protocol import IncompletePredictions
    from counterview.evaluation.table import check_table_path, is_table
    from counterview.evaluation.tracks import evaluate_tracks, is_annotations
    from counterview.media.outputs import check_output_file

    for path in (gt, *predictions):
        if not is_annotations(path):
            raise InputError(
                "is not tracks or annotations, as the other files are", path=path,
                expected="tracks.json, or a format of counterview.exchange, for --gt and for --pred",
            )  # fmt: skip
    for name, value in other_options.items():
        if value:
            raise InputError(f"{name} is for the takes of a data set, not for tracks", found=str(value))
    if per_frame is not None:
        if len(predictions) > 1:
            raise InputError("--per-frame takes one file of tracks", found=f"{len(predictions)} files")
        check_table_path(per_frame)
        check_output_file(per_frame, "a table of object-frames", is_own=is_table, overwrite=overwrite)
    reports = []
    for path in predictions:
        try:
            reports.append(evaluate_tracks(gt, path, protocol=protocol, missing=missing))  # type: ignore[arg-type]  # checked there
        except IncompletePredictions as error:
            for line in error.lines[:200]:
                print(f"  {line}", file=sys.stderr)
            raise
    for report in reports:
        for note in report.notes:
            print(f"{report.predictions.name}: {note}", file=sys.stderr)
    if per_frame is not None:
        reports[0].table.write(per_frame)
        print(f"wrote {per_frame}", file=sys.stderr)
    if as_json:
        values = [report.to_json() for report in reports]
        print(json.dumps(values[0] if len(values) == 1 else values, indent=2))
    else:
        for report in reports:
            _print(report)
    return 0


def _print(report: TracksReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from counterview.evaluation.report import TITLES
    from counterview.evaluation.scorer import MEASURES, PROTOCOLS

    console = Console()
    console.print(escape(f"{report.predictions}, protocol {report.protocol}: {PROTOCOLS[report.protocol].title}"))
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("")
    columns = [(f"{query} -> {target}", values) for (query, target), values in report.pairs.items()]
    columns += [("targets", report.totals)] if len(columns) > 1 else []
    for name, _ in columns:
        table.add_column(escape(name), justify="right", overflow="fold")
    for measure in MEASURES:
        scores = [getattr(values, measure) for _, values in columns]
        table.add_row(TITLES[measure], *("-" if math.isnan(score) else f"{score:.4f}" for score in scores))
    for name in ("frames", "visible", "absent", "missing"):
        table.add_row(name, *(str(getattr(values, name)) for _, values in columns), style="dim")
    console.print(table)
