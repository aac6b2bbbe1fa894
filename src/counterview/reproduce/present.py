"""Our rows beside the published ones, as text and as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from counterview.data.dataset import Direction
from counterview.evaluation.published import PublishedScore, load_published
from counterview.evaluation.scorer import MEASURES, PROTOCOLS
from counterview.reproduce.tables import PaperTable, get_table

SHORT = {"iou": "IoU", "location_error": "LE", "contour_accuracy": "CA", "balanced_accuracy": "BA"}
ARROWS: dict[Direction, str] = {"ego2exo": "ego to exo", "exo2ego": "exo to ego"}

Cells = list[list[str]]


def headline(results: Mapping[str, Any]) -> list[str]:
    """Table, data set and protocol, one line each."""
    fraction = ""
    if results["fraction"] < 1:
        fraction = f", {results['fraction']:.0%} of the pairs (our choice: the published one is not known)"
    rules = PROTOCOLS[results["protocol"]]
    lines = [
        f"{results['table']}: {results['title']}",
        f"data: {results['data']}{fraction}",
        f"protocol: {rules.name} ({rules.title})",
    ]
    if results["overrides"]:
        lines.append(f"recipes changed by: {' '.join(results['overrides'])}")
    return lines


def our_rows(results: Mapping[str, Any], direction: Direction, *, spans: bool = True) -> Cells:
    """A header and a line for each of our rows and of those scored from files, in one direction.

    Args:
        results: of :func:`counterview.reproduce.run.results`.
        direction: of the rows.
        spans: add the 95 % intervals.
    """
    cells = [[ARROWS[direction], *(SHORT[m] for m in MEASURES)]]
    for row in results["rows"]:
        if row["direction"] == direction:
            mark = " (from its file)" if row["kind"] == "external" else ""
            cells.append([row["title"] + mark, *(_score(row["scores"][m], spans) for m in MEASURES)])
    return cells


def published_rows(results: Mapping[str, Any]) -> tuple[Cells, Cells]:
    """Published rows of the split that was scored, and those of other splits; each with its protocol and source."""
    table = get_table(results["table"])
    comparable = table.splits[results["split"]]
    ways = " / ".join(ARROWS[d] for d in table.directions)
    header = [f"published: {ways}", *(SHORT[m] for m in MEASURES), "split", "protocol", "source"]
    same, other = [header], [header]
    sources = load_published().sources
    for entry in load_published().of_table(table.name):
        source = str(sources[entry.source]) + ("" if entry.read == "paper" else ", as compiled by others")
        line = [entry.system, *_published(entry, table), entry.split, entry.protocol, source]
        (same if entry.split in comparable else other).append(line)
    return same, other


def _published(entry: PublishedScore, table: PaperTable) -> list[str]:
    cells = []
    for measure in MEASURES:
        values = [entry.score(measure, d) for d in table.directions]
        published = any(v is not None for v in values)
        cells.append(" / ".join("-" if v is None else f"{v:.4g}" for v in values) if published else "-")
    return cells


def _score(entry: Mapping[str, Any] | None, spans: bool) -> str:
    if entry is None or entry["value"] is None:
        return "-"
    low, high = entry["interval"]
    return f"{entry['value']:.3f}" + (f" ({low:.3f}..{high:.3f})" if spans and low is not None else "")


def text_table(cells: Cells) -> list[str]:
    """Lines with aligned columns; columns without a value are left out."""
    keep = [i for i in range(len(cells[0])) if i == 0 or any(row[i] not in ("-", "") for row in cells[1:])]
    rows = [[row[i] for i in keep] for row in cells]
    widths = [max(len(row[i]) for row in rows) for i in range(len(keep))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def markdown_table(cells: Cells) -> list[str]:
    """The same as Markdown."""
    keep = [i for i in range(len(cells[0])) if i == 0 or any(row[i] not in ("-", "") for row in cells[1:])]
    rows = [[row[i].replace("|", "\\|") for i in keep] for row in cells]
    return ["| " + " | ".join(row) + " |" for row in (rows[0], ["---"] * len(keep), *rows[1:])]


def page(results: Mapping[str, Any], draw: Any = text_table) -> list[str]:
    """A whole page for one table, line by line. Synthetic and real data never share a table.

    Args:
        results: of :func:`counterview.reproduce.run.results`.
        draw: :func:`text_table` or :func:`markdown_table`.
    """
    lines = [*headline(results), ""]
    if results["rows"]:
        for direction in get_table(results["table"]).directions:
            lines += [*draw(our_rows(results, direction)), ""]
    for title, why in results["skipped"].items():
        lines += [f"left out: {title}: {why}", ""]
    same, other = published_rows(results)
    if results["tabletop"]:
        lines += [
            "",
            "Published on Ego-Exo4D, other data: not to be compared with the rows above, which are synthetic.",
            "",
        ]
        return [*lines, *draw([same[0], *same[1:], *other[1:]])]
    if len(same) > 1:
        lines += [*draw(same), ""]
    if len(other) > 1:
        lines += ["Published on another split:", "", *draw(other)]
    return lines


def machine() -> dict[str, Any]:
    """Processor, cores, system and versions."""
    names: dict[str, Any] = {}
    for name in ("counterview", "torch", "transformers", "numpy", "scipy"):
        try:
            names[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **names,
    }


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The notes of scoring, without repetitions."""
    return list(dict.fromkeys(f"{row['title']}, {row['direction']}: {n}" for row in rows for n in row["notes"]))
