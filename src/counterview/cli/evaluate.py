"""``counterview evaluate``: scores of prediction files."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from counterview.errors import PredictionError
    from counterview.evaluation.predictions import PredictionSource
    from counterview.evaluation.protocol import Report
    from counterview.evaluation.report import Comparison
    from counterview.evaluation.statistics import Difference, Interval

SHOWN_LINES = 200
ALL = "all"
"""Value of ``--protocol`` for every protocol, one after the other."""


def evaluate(
    pred: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE…",
            help="Prediction files or folders of masks, or tracks. The first is the baseline of the others.",
        ),
    ],
    gt: Annotated[
        Path,
        typer.Option(help="relations_*.json, correspondence-gt.json, a release or prepared folder; or annotations."),
    ],
    # Typer passes the files after the first one of --pred as arguments.
    more: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
    direction: Annotated[
        str | None, typer.Option(help="ego2exo or exo2ego; by default every direction in the files.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="official, omama, lmeec, macro, visible or corrected; or all, one after the other. See "
            "docs/reference/scoring.md."
        ),
    ] = "official",
    missing: Annotated[
        str, typer.Option(help="error, or count-absent: a missing prediction is 'not visible, empty mask'.")
    ] = "error",
    split: Annotated[str | None, typer.Option(help="Split of a folder, if it has several.")] = None,
    allow_missing_takes: Annotated[
        bool,
        typer.Option(
            "--allow-missing-takes",
            help="Score the takes that were prepared, of a split that is not complete, and that the file records as "
            "asked for.",
        ),
    ] = False,
    proposals: Annotated[
        Path | None,
        typer.Option(help="Also score the oracle: the best of these proposals for every object (folder or JSON)."),
    ] = None,
    per_frame: Annotated[
        Path | None, typer.Option(help="Write every object-frame to this .csv or .parquet file.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page and its numbers as JSON to this folder.")
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(help="Prepared folder with the images for the HTML page; by default that of --gt."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes; 0: one a core.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the bootstrap.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON: an object, or a list of several.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="For --report and --per-frame: replace files that are not of this command."),
    ] = False,
) -> int:
    """Score prediction files against the ground truth, by the official or another protocol.

    --gt and --pred may also both be tracks, as counterview follow writes them, or annotations of a tool (COCO, DAVIS,
    CVAT, Label Studio, LabelMe, YOLO): objects and cameras are matched by name, frames by number.

    With --protocol all there is a block for each protocol, and those that a file cannot be scored by are named with the
    reason; the exit status is then 1.
    """
    from counterview.cli.evaluate_tracks import score_tracks
    from counterview.data.dataset import check_direction
    from counterview.errors import InputError, PredictionError
    from counterview.evaluation.groundtruth import GroundTruth
    from counterview.evaluation.open import open_predictions
    from counterview.evaluation.oracle import oracle
    from counterview.evaluation.protocol import IncompletePredictions
    from counterview.evaluation.report import compare, write_index, write_report
    from counterview.evaluation.scorer import PROTOCOLS, get_protocol
    from counterview.evaluation.side_by_side import common_ground, evaluate_alike
    from counterview.evaluation.table import check_table_path, is_table
    from counterview.evaluation.tracks import is_annotations
    from counterview.media.outputs import check_output_file, claim_output_file, claim_output_folder

    paths = [*pred, *(more or [])]
    if any(is_annotations(path) for path in (gt, *paths)):
        of_takes = {
            "--direction": direction, "--split": split, "--proposals": proposals, "--report": report,
            "--frames": frames, "--allow-missing-takes": allow_missing_takes,
        }  # fmt: skip
        return score_tracks(
            gt, paths, protocol=protocol, missing=missing, per_frame=per_frame, as_json=as_json, overwrite=overwrite,
            other_options=of_takes,
        )  # fmt: skip
    protocols = list(PROTOCOLS) if protocol == ALL else [get_protocol(protocol).name]
    if per_frame is not None:
        check_table_path(per_frame)
        for name in _table_names(per_frame):
            check_output_file(name, "a table of object-frames", is_own=is_table, overwrite=overwrite)
    with ExitStack() as claims:
        folder, earlier = None, list[str]()
        if report is not None:
            folder = claims.enter_context(claim_output_folder(report, "evaluate", is_own=_is_own, overwrite=overwrite))
            earlier = _pages(report)
        if per_frame is not None:
            claim = claim_output_file(per_frame, "a table of object-frames", is_own=is_table, overwrite=overwrite)
            claims.enter_context(claim)
        truth = GroundTruth(gt, split)
        sources = [open_predictions(path) for path in paths]
        every = dict.fromkeys(d for s in sources for d in s.directions)
        directions = list(every) if direction is None else [check_direction(direction)]
        count = worker_count(workers, len(truth))
        comparisons: list[tuple[Comparison, list[PredictionSource]]] = []
        refused: list[tuple[str, str, PredictionError]] = []
        for rules in protocols:
            for each in directions:
                scored = [s for s in sources if direction is not None or each in s.directions]
                try:
                    with progress_bar(f"{rules} {each}") as tick:
                        reports = evaluate_alike(
                            truth, scored, each, protocol=rules, missing=missing,  # type: ignore[arg-type]  # checked there
                            allow_missing_takes=allow_missing_takes, workers=count, progress=tick,
                        )  # fmt: skip
                    best = None
                    # There is no best proposal where only what was predicted counts.
                    if proposals is not None and not (protocol == ALL and PROTOCOLS[rules].walks == "prediction"):
                        ground = common_ground(truth, scored, each, allow_missing_takes=allow_missing_takes)
                        with progress_bar(f"proposals {each}") as tick:
                            best = oracle(
                                ground.truth, proposals, each, protocol=rules, workers=count, progress=tick,
                                part=ground.part,
                            )  # fmt: skip
                except PredictionError as error:
                    if isinstance(error, IncompletePredictions) and protocol != ALL:
                        print_lines(error.lines)
                    if protocol != ALL:
                        raise
                    refused.append((rules, each, error))
                    continue
                for note in [f"{r.predictions.name}: {note}" for r in reports for note in r.notes]:
                    print(note, file=sys.stderr)
                comparisons.append((compare(reports, best, seed=seed), scored))
        if not comparisons and refused:
            raise refused[0][2]
        if not comparisons:
            raise InputError("no predictions to score", found=", ".join(map(str, pred)))
        results = [r for comparison, _ in comparisons for r in comparison.reports]
        if per_frame is not None:
            _write_tables(per_frame, results, with_protocol=protocol == ALL)
        if folder is not None:
            images = frames or (truth.path if truth.kind == "prepared" else None)
            pages, stems = [], []
            for comparison, _ in comparisons:
                first = comparison.reports[0]
                parts = [first.protocol] if protocol == ALL else []
                parts += [first.direction] if len(directions) > 1 else []
                stems.append("-".join(parts) or "index")
            with folder.replace(earlier) as staged:
                for stem, (comparison, scored) in zip(stems, comparisons, strict=True):
                    others = [other for other in stems if other != stem]
                    pages.append(
                        write_report(staged, comparison, truth, scored, frames=images, stem=stem, others=others)
                    )
                if stems != ["index"]:
                    listed = list(zip(stems, (c for c, _ in comparisons), strict=True))
                    pages.append(write_index(staged, listed))
            for page in pages:
                print(f"wrote {folder.final(page)}", file=sys.stderr)
        if as_json:
            values = [r.to_json() for r in results]
            values += [{"protocol": rules, "direction": way, "not_scored": _reason(e)} for rules, way, e in refused]
            print(json.dumps(values[0] if len(values) == 1 else values, indent=2))
        else:
            _print_blocks(protocols, [comparison for comparison, _ in comparisons], refused)
    return 1 if refused else 0


def _table_names(path: Path) -> list[Path]:
    """The file of ``--per-frame``, and the files beside it that stand for it if there are several reports."""
    numbered = re.compile(re.escape(path.stem) + r"-\d+-[a-z0-9-]+")
    others = path.parent.glob(f"*{path.suffix}") if path.parent.is_dir() else ()
    return [path, *(p for p in others if numbered.fullmatch(p.stem))]


def _pages(folder: Path) -> list[str]:
    """The files of a folder without a marker, if they are pages of an earlier version: each with its numbers."""
    from counterview.media.outputs import MARKER

    names = [p for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []
    paired = all(
        p.suffix in (".html", ".json") and p.with_suffix(".html").is_file() and p.with_suffix(".json").is_file()
        for p in names
    )
    return [p.name for p in names] if paired and not (folder / MARKER).exists() else []


def _is_own(folder: Path) -> bool:
    """Whether a folder without a marker was written by this command."""
    return bool(_pages(folder))


def worker_count(workers: int, takes: int) -> int:
    """The number of worker processes for a number of takes, for the option ``--workers``.

    Args:
        workers: the option; 0 stands for one a core, but only one process for up to 15 takes.
        takes: the number of takes.
    """
    if workers:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, takes // 8))


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over takes on standard error, if that is a terminal.

    Args:
        title: text before the bar.

    Yields:
        a function that takes the number of finished takes and the number of all.
    """
    from tqdm import tqdm

    with tqdm(desc=title, unit="take", disable=None, file=sys.stderr, leave=False) as bar:

        def tick(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tick


def print_lines(lines: list[str]) -> None:
    """Print the lines of a report to standard error, indented; at most :data:`SHOWN_LINES`."""
    for line in lines[:SHOWN_LINES]:
        print(f"  {' '.join(line.split())}", file=sys.stderr)
    if len(lines) > SHOWN_LINES:
        print(f"  … and {len(lines) - SHOWN_LINES} more lines", file=sys.stderr)


def _write_tables(path: Path, reports: list[Report], *, with_protocol: bool) -> None:
    for number, report in enumerate(reports, start=1):
        file = path
        if len(reports) > 1:
            name = f"{report.protocol}-{report.direction}" if with_protocol else report.direction
            file = path.with_name(f"{path.stem}-{number}-{name}{path.suffix}")
        report.table.write(file)
        print(f"wrote {file}", file=sys.stderr)


def _print_blocks(
    protocols: list[str], comparisons: list[Comparison], refused: list[tuple[str, str, PredictionError]]
) -> None:
    """A block for each protocol, in their order, with its title; never two protocols in one table."""
    from counterview.evaluation.scorer import PROTOCOLS

    for rules in protocols:
        for comparison in comparisons:
            if comparison.reports[0].protocol == rules:
                _print_tables(comparison)
        for _, way, error in (r for r in refused if r[0] == rules):
            print(f"{way}, protocol {rules}: {PROTOCOLS[rules].title}\nnot scored: {_reason(error)}\n")


def _reason(error: PredictionError) -> str:
    """Why a file cannot be scored, in one line: of a list of faults, the first."""
    lines = getattr(error, "lines", [])
    return f"{error.path}: {error.problem}, the first: {lines[0]}" if lines else str(error)


def _print_tables(comparison: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from counterview.evaluation.report import TITLES
    from counterview.evaluation.scorer import MEASURES, PROTOCOLS

    console = Console()
    first = comparison.reports[0]
    console.print(f"{first.direction}, protocol {first.protocol}: {PROTOCOLS[first.protocol].title}")
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("")
    columns = [*zip(comparison.names, comparison.reports, strict=True)]
    if comparison.oracle is not None:
        columns.append(("oracle", comparison.oracle))
        for note in comparison.oracle.notes:
            print(f"oracle: {note}", file=sys.stderr)
    for name, _ in columns:
        table.add_column(escape(name), justify="right", overflow="fold")
    for measure in MEASURES:
        cells = [_cell(r, measure, comparison.intervals, k) for k, (_, r) in enumerate(columns)]
        table.add_row(TITLES[measure], *cells)
    for name in ("frames", "visible", "absent", "missing"):
        table.add_row(name, *(str(getattr(r.totals, name)) for _, r in columns), style="dim")
    held = [r.contents if r is not comparison.oracle else None for _, r in columns]
    table.add_row("holds", *("-" if c is None else c.frames for c in held), style="dim")
    table.add_row("sizes", *("-" if c is None else c.size for c in held), style="dim")
    console.print(table)
    for name, (differences, frames) in zip(comparison.names[1:], comparison.differences, strict=True):
        parts = [f"{TITLES[m]} {d.value:+.4f} ({_spread(d)})" for m, d in differences.items()]
        console.print(escape(f"{name} - {comparison.names[0]} on {frames} frames: {'; '.join(parts)}"))


def _spread(difference: Difference) -> str:
    from counterview.evaluation.report import TOO_FEW

    if math.isnan(difference.interval.low):
        return TOO_FEW
    return f"{difference.interval.low:+.4f}..{difference.interval.high:+.4f}, p {difference.p_value:.3g}"


def _cell(report: Report, measure: str, intervals: list[dict[str, Interval]], column: int) -> str:
    value = getattr(report.totals, measure)
    if math.isnan(value) or (column >= len(intervals) and measure == "balanced_accuracy"):
        return "-"
    if column >= len(intervals) or math.isnan(intervals[column][measure].low):
        return f"{value:.4f}"
    return f"{value:.4f} ({intervals[column][measure].low:.3f}..{intervals[column][measure].high:.3f})"
