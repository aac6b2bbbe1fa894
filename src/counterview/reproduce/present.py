"""Our rows beside the published ones, as text and as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from counterview.data.dataset import DIRECTIONS, Direction
from counterview.evaluation.layout import layout_of_protocol
from counterview.evaluation.published import PublishedScore, load_published
from counterview.evaluation.scorer import MEASURES, PROTOCOLS
from counterview.reproduce.tables import PaperTable, get_table

SHORT = {"iou": "IoU", "location_error": "LE", "contour_accuracy": "CA", "balanced_accuracy": "BA"}
ARROWS: dict[Direction, str] = {"ego2exo": "ego to exo", "exo2ego": "exo to ego"}
TOTAL, PARAMETERS = "Total IoU", "trainable parameters (M)"

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
        f"frames and sizes: {layout_of_protocol(rules.name)}",
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
    cells = [[ARROWS[direction], *(SHORT[m] for m in MEASURES), PARAMETERS, "frames", "sizes"]]
    for row in results["rows"]:
        if row["direction"] == direction:
            found = row.get("contents", {})
            about = [_millions(row.get("trainable_parameters")), found.get("frames", "-"), found.get("sizes", "-")]
            cells.append([_title(row), *(_score(row["scores"][m], spans) for m in MEASURES), *about])
    return cells


def total_rows(results: Mapping[str, Any]) -> Cells:
    """A header and a line for each row that has both directions: both IoU, and Total IoU, their mean."""
    cells = [["both directions", *(f"IoU {ARROWS[d]}" for d in DIRECTIONS), TOTAL]]
    for row in results.get("totals", ()):
        values = [*(row["iou"].get(d) for d in DIRECTIONS), row["total_iou"]]
        cells.append([_title(row), *("-" if v is None else f"{v:.3f}" for v in values)])
    return cells


def _title(row: Mapping[str, Any]) -> str:
    return str(row["title"]) + (" (from its file)" if row["kind"] == "external" else "")


def _millions(count: float | None) -> str:
    """A number of parameters in millions."""
    if count is None:
        return "-"
    millions = count / 1e6
    return f"{millions:.1f}" if millions >= 1 or not millions else f"{millions:.3f}"


def published_rows(results: Mapping[str, Any]) -> tuple[Cells, Cells]:
    """Published rows of the split that was scored, and those of other splits; each with its protocol and source."""
    table = get_table(results["table"])
    comparable = table.splits[results["split"]]
    ways = " / ".join(ARROWS[d] for d in table.directions)
    header = [f"published: {ways}", *(SHORT[m] for m in MEASURES), TOTAL, PARAMETERS, "split", "protocol", "source"]
    same, other = [header], [header]
    sources = load_published().sources
    for entry in load_published().of_table(table.name):
        source = str(sources[entry.source]) + ("" if entry.read == "paper" else ", as compiled by others")
        total = entry.total_iou if table.directions == DIRECTIONS else None
        more = ["-" if total is None else f"{total:.4g}"]
        more.append(_millions(None if entry.parameters_m is None else entry.parameters_m * 1e6))
        line = [entry.system, *_published(entry, table), *more, entry.split, entry.protocol, source]
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
        if len(both := total_rows(results)) > 1:
            lines += [*draw(both), ""]
    for title, why in results["skipped"].items():
        lines += [f"left out: {title}: {why}", ""]
    same, other = published_rows(results)
    if results["tabletop"]:
        lines += [
            "",
            "Published on Ego-Exo4D, other data: not to be compared with the rows above, which are synthetic.",
            "",
        ]
        lines += [*draw([same[0], *same[1:], *other[1:]]), ""]
    else:
        lines += [*draw(same), ""] if len(same) > 1 else []
        lines += ["Published on another split:", "", *draw(other), ""] if len(other) > 1 else []
    lines += published_notes(results["table"])
    return lines[:-1] if not lines[-1] else lines


def published_notes(table: str) -> list[str]:
    """What the publications say beside their tables, and their speeds with the hardware, a line each."""
    published = load_published()
    lines = [f"* {s.system}, {published.sources[s.source]}: {s.note}" for s in published.of_table(table) if s.note]
    for speed in published.speeds:
        if table in speed.tables:
            hardware = f"on {speed.hardware}" if speed.hardware else "hardware not stated"
            source = published.sources[speed.source]
            lines.append(f"* {speed.system}, {source}: {speed.value:g} {speed.unit}, {hardware}; {speed.what}")
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
