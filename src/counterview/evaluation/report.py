"""A report as one HTML page without scripts or external files, and the same numbers as JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterview import __version__
from counterview.evaluation import plots
from counterview.evaluation.breakdown import KINDS, Group, breakdown
from counterview.evaluation.cases import Case, data_uri, draw_case, pick
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.plots import safe_text
from counterview.evaluation.predictions import PredictionSource
from counterview.evaluation.protocol import Report
from counterview.evaluation.scorer import MEASURES, PROTOCOLS
from counterview.evaluation.statistics import Difference, Interval, differences, intervals
from counterview.media.files import atomic_write, write_json

TITLES = {
    "iou": "IoU",
    "location_error": "Location error",
    "contour_accuracy": "Contour accuracy",
    "balanced_accuracy": "Balanced accuracy",
}
BREAKDOWN_TITLES = {
    "size": "Size of the object in the target view (fraction of the image)",
    "scenario": "Scenario",
    "camera": "Exo camera",
    "visibility": "Visibility: ground truth, prediction",
    "frame": "Frame number",
    "take": "Take",
}
CASES = 6
TOO_FEW = "no interval: too few takes in common"
"""Instead of an interval of a paired difference; a bootstrap over takes needs two."""


@dataclass
class Comparison:
    """Prediction files scored alike, side by side.

    Attributes:
        reports: one for each file, same direction and protocol; the others are compared with the first.
        names: of the reports.
        oracle: the score of the best proposals, optional.
        intervals: for each report.
        differences: for each report after the first, with the number of frames compared.
    """

    reports: list[Report]
    names: list[str]
    oracle: Report | None = None
    intervals: list[dict[str, Interval]] = field(default_factory=list)
    differences: list[tuple[dict[str, Difference], int]] = field(default_factory=list)


def compare(reports: Sequence[Report], oracle: Report | None = None, *, seed: int = 0) -> Comparison:
    """Put reports of one direction and protocol side by side, with intervals and paired differences.

    Args:
        reports: at least one.
        oracle: of :func:`counterview.evaluation.oracle.oracle`.
        seed: of the bootstrap.

    Raises:
        ValueError: no report, or reports of different protocols or directions.
    """
    if len({(r.protocol, r.direction) for r in reports}) != 1:
        raise ValueError("only reports of one protocol and one direction can be compared")
    result = Comparison(list(reports), _names([r.predictions for r in reports]), oracle)
    result.intervals = [intervals(r.table, r.protocol, seed=seed) for r in reports]
    result.differences = [differences(reports[0].table, r.table, r.protocol, seed=seed) for r in reports[1:]]
    return result


def _names(paths: Sequence[Path]) -> list[str]:
    """File names; numbered paths where the names are not unique."""
    names = [p.stem or str(p) for p in paths]
    return names if len(set(names)) == len(names) else [f"{k + 1}: {p}" for k, p in enumerate(paths)]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The content of the page as plain values, without the images."""
    systems = []
    for report, name, spread in zip(comparison.reports, comparison.names, comparison.intervals, strict=True):
        systems.append({
            "name": name,
            "predictions": str(report.predictions),
            **report.to_json(),
            "intervals": {m: [_number(i.low), _number(i.high), i.level] for m, i in spread.items()},
            "breakdown": {kind: [_group(g) for g in _parts(report, kind)] for kind in KINDS},
            "notes": report.notes,
        })  # fmt: skip
    differences_json = [
        {
            "first": comparison.names[0],
            "second": name,
            "frames": frames,
            **{
                m: {
                    "difference": _number(d.value),
                    "interval": [_number(d.interval.low), _number(d.interval.high)],
                    "p_value": _number(d.p_value),
                }
                for m, d in paired.items()
            },
        }
        for name, (paired, frames) in zip(comparison.names[1:], comparison.differences, strict=True)
    ]
    result: dict[str, Any] = {
        "counterview": __version__,
        "ground_truth": str(comparison.reports[0].ground_truth),
        "systems": systems,
        "differences": differences_json,
    }
    if comparison.oracle is not None:
        result["perfect_choice"] = {**comparison.oracle.to_json(), "notes": comparison.oracle.notes}
    return result


def _parts(report: Report, kind: str) -> list[Group]:
    return breakdown(report.table, kind, report.protocol, report.direction)


def _group(group: Group) -> dict[str, Any]:
    return {"label": group.label, "takes": group.takes, **group.totals.to_json()}


def _writable(value: Any) -> Any:
    """Lone surrogates, which JSON names may hold and UTF-8 files may not, as escapes."""
    if isinstance(value, dict):
        return {k: _writable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_writable(v) for v in value]
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_report(
    folder: str | os.PathLike[str],
    comparison: Comparison,
    truth: GroundTruth,
    sources: Sequence[PredictionSource],
    *,
    frames: str | os.PathLike[str] | None = None,
    cases: int = CASES,
    stem: str = "index",
    others: Sequence[str] = (),
) -> Path:
    """Write ``<stem>.html`` and ``<stem>.json`` into ``folder``.

    Args:
        folder: made if it does not exist.
        comparison: to show.
        truth: the ground truth of the reports.
        sources: the predictions, in the order of the reports.
        frames: a prepared folder with images, for the best and worst cases.
        cases: number of best and of worst cases.
        stem: name of the files.
        others: stems of further pages in the folder, to which the page links.

    Returns:
        Path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    page = Path(folder) / f"{stem}.html"
    body = [_links(others), _header(comparison), _scores(comparison), _paired(comparison), _curves(comparison)]
    body += [_breakdown(comparison, kind) for kind in KINDS]
    for report, name, source in zip(comparison.reports, comparison.names, sources, strict=True):
        best, worst = pick(report, cases)
        for title, rows in (("Best cases", best), ("Worst cases", worst)):
            drawn = [draw_case(row, report, truth, source, Path(frames) if frames else None) for row in rows]
            body.append(_cases(f"{title}: {name}" if len(sources) > 1 else title, [c for c in drawn if c is not None]))
    body.append(_notes(comparison))
    write_json(Path(folder) / f"{stem}.json", _writable(to_json(comparison)))
    title = f"Scores: {', '.join(comparison.names)}"
    with atomic_write(page, "w") as handle:
        handle.write(_PAGE.format(title=safe_text(title), body="\n".join(body)))
    return page


def write_index(folder: str | os.PathLike[str], pages: Sequence[tuple[str, Comparison]]) -> Path:
    """Write ``index.html`` that leads to several pages of :func:`write_report`, with the totals of each.

    Args:
        folder: of the pages.
        pages: stem and comparison of each.

    Returns:
        Path of the index.

    Raises:
        OSError: the folder cannot be written.
    """
    body = ["<h1>Scores</h1>"]
    for stem, comparison in pages:
        first = comparison.reports[0]
        title = safe_text(f"{first.direction}, {first.protocol}")
        body.append(f'<h2><a href="{safe_text(stem)}.html">{title}</a></h2>')
        body.append(_scores(comparison).replace("<h2>Totals</h2>", ""))
    page = Path(folder) / "index.html"
    with atomic_write(page, "w") as handle:
        handle.write(_PAGE.format(title="Scores", body="\n".join(body)))
    return page


def _links(stems: Sequence[str]) -> str:
    """Links to the other pages of a folder and to their index; nothing without other pages."""
    if not stems:
        return ""
    links = "".join(f'<a href="{safe_text(stem)}.html">{safe_text(stem)}</a>' for stem in ["index", *stems])
    return f"<nav>{links}</nav>"


def _value(value: float, digits: int = 4) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{h}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _header(comparison: Comparison) -> str:
    first = comparison.reports[0]
    facts = [
        ("Direction", first.direction),
        ("Protocol", f"{first.protocol}: {PROTOCOLS[first.protocol].title}"),
        ("Ground truth", first.ground_truth),
        ("Counterview", __version__),
    ]
    return "<h1>Scores</h1>" + _table((), [(f"<b>{safe_text(k)}</b>", safe_text(v)) for k, v in facts])


def _scores(comparison: Comparison) -> str:
    rows = []
    for report, name, spread in zip(comparison.reports, comparison.names, comparison.intervals, strict=True):
        totals = report.totals
        cells = [safe_text(name)]
        for measure in MEASURES:
            i = spread[measure]
            interval = "" if math.isnan(i.low) else f"<br><small>{i.low:.4f} to {i.high:.4f}</small>"
            cells.append(_value(getattr(totals, measure)) + interval)
        rows.append([*cells, *(str(getattr(totals, n)) for n in ("frames", "visible", "absent", "missing"))])
    if comparison.oracle is not None:
        totals = comparison.oracle.totals
        cells = [_value(getattr(totals, m)) if m != "balanced_accuracy" else "–" for m in MEASURES]
        counts = [str(getattr(totals, n)) for n in ("frames", "visible", "absent", "missing")]
        rows.append(["<i>oracle: best proposals</i>", *cells, *counts])
    head = ["Predictions", *TITLES.values(), "Object-frames", "Visible", "Absent", "Missing"]
    return (
        "<h2>Totals</h2>" + _table(head, rows) + "<p class=note>Below each score: 95 % interval, bootstrap over takes. "
        "Location error: smaller is better.</p>"
    )


def _interval(difference: Difference) -> str:
    if math.isnan(difference.interval.low):
        return TOO_FEW
    return f"{_value(difference.interval.low)} to {_value(difference.interval.high)}"


def _paired(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    rows = []
    for name, (paired, frames) in zip(comparison.names[1:], comparison.differences, strict=True):
        for measure in MEASURES:
            d = paired[measure]
            rows.append([
                safe_text(f"{name} − {comparison.names[0]}"), TITLES[measure], f"{d.value:+.4f}",
                _interval(d), _value(d.p_value), str(frames),
            ])  # fmt: skip
    head = ["Difference", "Measure", "Value", "95 % interval", "p (two-sided)", "Object-frames in common"]
    return "<h2>Paired differences</h2>" + _table(head, rows)


def _curves(comparison: Comparison) -> str:
    shown = [*zip(comparison.names, comparison.reports, strict=True)]
    if comparison.oracle is not None:
        shown.append(("oracle", comparison.oracle))
    curve = plots.success_curve([(n, r.table["iou"][r.table["gt_visible"]]) for n, r in shown])
    return f"<h2>Fraction of objects above an IoU</h2>{curve}"


def _breakdown(comparison: Comparison, kind: str) -> str:
    parts = [_parts(report, kind) for report in comparison.reports]
    labels = list(dict.fromkeys(g.label for groups in parts for g in groups))
    if not labels:
        return ""
    by_label = [{g.label: g.totals.iou for g in groups} for groups in parts]
    values = [
        (n, [scores.get(k, math.nan) for k in labels]) for n, scores in zip(comparison.names, by_label, strict=True)
    ]
    plot = plots.bars(values, labels, "IoU") if len(labels) <= 24 else ""
    rows = [
        [
            safe_text(name),
            safe_text(g.label),
            *(_value(getattr(g.totals, m), 3) for m in MEASURES),
            str(g.totals.frames),
            str(g.takes),
        ]
        for name, groups in zip(comparison.names, parts, strict=True)
        for g in groups
    ]
    head = ["Predictions", BREAKDOWN_TITLES[kind], *TITLES.values(), "Object-frames", "Takes"]
    shown = _table(head, rows)
    if len(rows) > 40:
        shown = f"<details><summary>{len(rows)} rows</summary>{shown}</details>"
    return f"<h2>By {safe_text(kind)}</h2>{plot}{shown}"


def _cases(title: str, cases: Sequence[Case]) -> str:
    if not cases:
        return ""
    figures = []
    for case in cases:
        row = case.row
        images = "".join(
            f'<img src="{data_uri(p)}" alt="{alt}">'
            for p, alt in ((case.query, "query"), (case.target, "target"))
            if p is not None
        )
        text = (
            f"{row.object}, frame {row.frame}: IoU {_value(row.iou, 3)}, contours {_value(row.contour_accuracy, 3)}, "
            f"location {_value(row.location_error, 3)}. {row.query_camera} to {row.target_camera}, take {row.take}"
        )
        figures.append(f"<figure>{images}<figcaption>{safe_text(text)}</figcaption></figure>")
    legend = (
        "<p class=note>Left: query; right: target, each the part of the image around the object. Blue outline: ground "
        "truth; red outline: prediction. Tint: blue only ground truth, red only prediction, green both.</p>"
    )
    return f"<h2>{safe_text(title)}</h2>{legend}<div class=cases>{''.join(figures)}</div>"


def _notes(comparison: Comparison) -> str:
    systems = [(n, r.notes) for n, r in zip(comparison.names, comparison.reports, strict=True) if r.notes]
    if comparison.oracle is not None and comparison.oracle.notes:
        systems.append(("oracle", comparison.oracle.notes))
    if not systems:
        return ""
    lists = [
        f"<h3>{safe_text(n)}</h3><ul>{''.join(f'<li>{safe_text(x)}</li>' for x in notes)}</ul>" for n, notes in systems
    ]
    return "<h2>Notes</h2>" + "".join(lists)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1b1f24; }}
table {{ border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .7rem; border-bottom: 1px solid #dde1e6; text-align: left; vertical-align: top; }}
th {{ font-weight: 600; background: #f4f6f8; }}
h2 {{ margin-top: 2rem; border-bottom: 2px solid #1f77b4; padding-bottom: .2rem; }}
small, .note {{ color: #5b6470; }}
svg text {{ font: 11px system-ui, sans-serif; fill: #444; }} svg .grid {{ stroke: #e3e6ea; }}
.cases {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(480px, 100%), 1fr)); gap: 1rem; }}
.wide {{ overflow-x: auto; }} svg {{ max-width: 100%; height: auto; }} h1, h2, td {{ overflow-wrap: anywhere; }}
.wide td {{ min-width: 3.5rem; }} nav a {{ margin-right: 1rem; }}
figure {{ margin: 0; }} figure img {{ max-width: 49%; margin-right: 1%; vertical-align: top; }}
figcaption {{ font-size: 13px; color: #444; overflow-wrap: anywhere; }}
</style></head><body>
{body}
</body></html>
"""
