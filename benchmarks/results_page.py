"""``docs/results.md`` from the result files: ``python -m benchmarks.results_page [--check]``.

Reads ``benchmarks/results/held_out.json`` (``python -m benchmarks.held_out … --save``), ``tiny_match_ablation.json``
(``python -m benchmarks.tiny_match_ablation … --save``), ``held_out_cameras.json`` and ``photographs.json``
(``python -m benchmarks.held_out_cameras … --save``, ``python -m benchmarks.photographs … --save``), ``tracks.json``
(``python -m benchmarks.tracks … --save``), ``geometric.json`` (``python -m benchmarks.geometric … --save``) and every
``benchmarks/results/reproduce-*.json`` (``counterview reproduce … --save FILE``).
``--check`` writes nothing and reports whether the page is up to date.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, decimals
from counterview.data.dataset import DIRECTIONS
from counterview.evaluation.scorer import MEASURES
from counterview.media.files import atomic_write, read_json
from counterview.reproduce.present import ARROWS, SHORT, markdown_table, page
from counterview.reproduce.tables import TABLES

PAGE = Path(__file__).parents[1] / "docs" / "results.md"

_HEAD = """# Results

Written by `python -m benchmarks.results_page` from the files in `benchmarks/results`; not by hand.

**Every number of ours on this page is on synthetic takes unless its table says otherwise, and none of those is a score
on Ego-Exo4D.** Published numbers are in tables of their own, each with its split and protocol; rows of different
protocols cannot be compared. [Scoring protocols](reference/scoring.md) explains the rules,
[Reproduce](how-to/reproduce.md) has the commands."""


def held_out(results: dict[str, Any]) -> list[str]:
    """The section on held-out synthetic takes."""
    lines = ["## Held-out synthetic takes", ""]
    machine = results["machine"]
    lines += [
        "`python -m benchmarks.held_out NAME=FOLDER … --out FOLDER --save`, both directions together, in brackets 95 % "
        f"intervals over takes. {machine['cpu']}, {machine['cores']} cores, torch {machine.get('torch', '?')}.",
        "",
    ]
    for name, part in results["sets"].items():
        a, b = part["candidates"], part["proposals"]
        lines += [
            f"### {name}: {part['takes']} takes, {part['frames']} frames",
            "",
            f"Top-1 accuracy among the true masks of the target image ({a['mean_candidates']:.1f} on average, "
            f"{a['questions']} object-frames; tiny-match also uses its proposals of both images, for the geometry "
            "between the views):",
            "",
            *markdown_table([
                ["", "accuracy", *(ARROWS[d] for d in DIRECTIONS)],
                *([n, span(r["accuracy"]), *(f"{r[d]['accuracy']:.3f}" for d in DIRECTIONS)]
                  for n, r in a["rows"].items()),
            ]),
            "",
            f"Official protocol, {b['object_frames']} object-frames, {b['visible']} of them visible, "
            f"{b['mean_proposals']:.0f} proposals an image:",
            "",
            *markdown_table([
                ["", *(SHORT[m] for m in MEASURES), *(f"IoU {ARROWS[d]}" for d in DIRECTIONS)],
                *([n, *(span(r.get(m)) for m in MEASURES), *(f"{r[d]['iou']:.3f}" for d in DIRECTIONS)]
                  for n, r in b["rows"].items()),
            ]),
            "",
        ]  # fmt: skip
        errors = {n: r["kinds"] for n, r in b["rows"].items() if "kinds" in r}
        if errors:
            lines += [
                "What the chosen proposals show, as a fraction of the visible objects; and the area under the ROC "
                "curve of visibility, for all visible objects and for those that were found:",
                "",
                *markdown_table([
                    ["", *next(iter(errors.values())), "ROC", "ROC, found"],
                    *([n, *map(decimals, kinds.values()), *map(decimals, b["rows"][n]["visibility"].values())]
                      for n, kinds in errors.items()),
                ]),
                "",
            ]  # fmt: skip
        for what, gains in (("accuracy", a["gains"]), ("IoU", b["gains"])):
            lines += [f"* {n} over {g['over']}, {what}: {span(g, sign=True)}" for n, g in gains.items()]
        lines.append("")
    if results["left_out"]:
        lines += [f"Left out, because they were not available: {', '.join(results['left_out'])}.", ""]
    return lines


def tiny_match_ablation(results: dict[str, Any]) -> list[str]:
    """The section on what each part of tiny-match is worth."""
    lines = [
        "## tiny-match without one part",
        "",
        "`python -m benchmarks.tiny_match_ablation NAME=FOLDER --save`: synthetic takes as above, official protocol, "
        "both directions, the same proposals in every row, without training again; in brackets 95 % intervals over "
        "takes.",
        "",
    ]
    for name, part in results["sets"].items():
        measures = (*MEASURES, "iou_lost")
        lines += [
            f"### {name} without one part: {part['takes']} takes, {part['frames']} frames each",
            "",
            *markdown_table([
                ["", *(SHORT[m] for m in MEASURES), "IoU lost"],
                *([row, *(_triple(values[m]) for m in measures)] for row, values in part["rows"].items()),
            ]),
            "",
        ]  # fmt: skip
    return lines


def geometric(results: dict[str, Any]) -> list[str]:
    """The section on matched points beside nearest neighbour."""
    machine = results["machine"]
    lines = [
        "## Matched points",
        "",
        "`python -m benchmarks.geometric --takes FOLDER --photographs FOLDER --save`: the same `graph` proposals in "
        "every row. IoU of visible objects, 0 where there is no answer; *success*: visible objects with enough "
        "matches for an answer; *false*: absent objects with one. "
        f"{machine['cpu']}, {machine['cores']} cores, one process, other work beside it: seconds are good for their "
        "ratios.",
        "",
    ]
    for name, part in results["sets"].items():
        together = {system: values["together"] for system, values in part["rows"].items()}
        directions = [d for d in next(iter(part["rows"].values())) if d != "together"]
        count = next(iter(together.values()))
        lines += [
            f"### {name.capitalize()}: {count['pairs']} ordered pairs of images, {count['visible']} visible and "
            f"{count['absent']} absent objects",
            "",
            *markdown_table([
                ["", *(f"IoU {ARROWS.get(d, d)}" for d in directions), "IoU", "success", "IoU of answers", "false",
                 "s a pair"],
                *([system, *(decimals(part["rows"][system][d]["iou"]) for d in directions),
                   *(decimals(v[k]) for k in ("iou", "success", "iou_of_answers", "absent_answered")),
                   f"{v['seconds_per_pair']['median_s']:.2f}"] for system, v in together.items()),
            ]),
            "",
        ]  # fmt: skip
    if results["left_out"]:
        lines += [f"Left out, because they were not available: {', '.join(results['left_out'])}.", ""]
    return lines


def _triple(values: list[float | None]) -> str:
    value, low, high = values
    return span({"value": value, "interval": [low, high]})


def span(entry: dict[str, Any] | None, *, sign: bool = False) -> str:
    """A value with its interval."""
    if entry is None or entry["value"] is None:
        return "-"
    form = "+.3f" if sign else ".3f"
    low, high = entry["interval"]
    return f"{entry['value']:{form}}" + ("" if low is None else f" ({low:{form}} to {high:{form}})")


def tracks(results: dict[str, Any]) -> list[str]:
    """The section on following with memory."""
    lines = ["## Following through takes", ""]
    lines += [
        "`python -m benchmarks.tracks NAME=FOLDER … --out FOLDER --save`: takes of 20 s, one annotated frame a second, "
        "two exo cameras, objects that no training saw (*away*: of 120 s with one exo camera, whose wearer looks away "
        "for 30 s). Official protocol, both directions, in brackets 95 % intervals over takes. *given*: the query mask "
        "at every frame; *click*: one point at the first frame in which the object is visible. "
        "[tiny-track](methods/tiny-track.md) says what the rows leave out.",
        "",
    ]
    for name, part in results["sets"].items():
        lines += [f"### {name}: {part['takes']} takes, {part['object_frames']} object-frames", ""]
        columns = ["", "takes", "IoU", "BA", "ego to exo", "exo to ego", "IoU over per frame", "IoU over given"]
        is_timed = any("seconds_a_frame" in r for r in part["rows"].values())
        rows = [[*columns, "s a frame"] if is_timed else columns]
        for system, r in part["rows"].items():
            has_visibility = system != "best proposal"
            differences = (span(r[c]) if c in r else "-" for c in ("gain", "over_given"))
            rows.append([
                system, str(r["takes"]), span(r["iou"]), span(r["balanced_accuracy"]) if has_visibility else "-",
                *(f"{r[d]['iou']:.3f}" for d in DIRECTIONS), *differences,
                *([f"{r['seconds_a_frame']:.2f}" if "seconds_a_frame" in r else "-"] if is_timed else []),
            ])  # fmt: skip
        lines += [*markdown_table(rows), ""]
        for system, r in part.get("returns", {}).items():
            lines += [f"{system}: {r['right']:.2f} of {r['returns']} returns after at least 10 s are right.", ""]
    return lines


def other_cameras(results: dict[str, Any]) -> list[str]:
    """The section on held-out takes of which one image is taken by another camera."""
    lines = ["## Under other cameras", ""]
    lines += [
        "`python -m benchmarks.held_out_cameras NAME=FOLDER … --out FOLDER --save`: the same takes with one image of "
        "every pair taken by another camera, drawn for each image or one of four; proposals are made from the changed "
        "image. "
        "Official protocol, in brackets 95 % intervals over takes; *of plain* is the share of the IoU that is left. "
        "[tiny-match](methods/tiny-match.md#under-other-cameras) says what the cameras do.",
        "",
    ]
    for name, part in results["sets"].items():
        cases = part["cases"]
        plain = cases["plain"]["rows"]
        systems = [n for n in ("k-NN, Lab histogram", "k-NN, classical features", "k-NN, tiny features") if n in plain]
        columns = [
            "",
            "tiny-match",
            "of plain",
            *(ARROWS[d] for d in DIRECTIONS),
            "BA",
            "top-1",
            *systems,
            "best choice",
        ]
        rows = [columns]
        for case, values in cases.items():
            row, best = values["rows"]["tiny-match"], values["rows"]["best choice"]
            rows.append([
                case, span(row["iou"]), f"{row['iou']['value'] / plain['tiny-match']['iou']['value']:.3f}",
                *(f"{row[d]:.3f}" for d in DIRECTIONS), span(row["balanced_accuracy"]), span(row["top1"]),
                *(decimals(values["rows"][n]["iou"]["value"]) for n in systems), decimals(best["iou"]["value"]),
            ])  # fmt: skip
        lines += [f"### {name} under other cameras: {part['takes']} takes", "", *markdown_table(rows), ""]
    return lines


def photographs(results: dict[str, Any]) -> list[str]:
    """The section on photographs."""
    lines = ["## Photographs under other cameras", ""]
    lines += [
        f"`python -m benchmarks.photographs FOLDER --save`: {results['objects']} objects of {results['pairs']} pairs "
        "of photographs, in both directions, each target image also as another camera takes it "
        f"({results['draws']} drawn cameras an image). The photographs are not part of the repository; few as they "
        "are, they show that something works, not how well.",
        "",
    ]
    for kind, table in results["cases"].items():
        cases = list(next(iter(table.values())))
        rows = [["", *cases], *([name, *(decimals(by[c]["iou"]) for c in cases)] for name, by in table.items())]
        called = [
            ["", *cases],
            *(
                [n, *(decimals(by[c]["called_visible"]) for c in cases)]
                for n, by in table.items()
                if n != "best choice"
            ),
        ]
        lines += [f"IoU, {kind}:", "", *markdown_table(rows), ""]
        lines += [f"Share that is called visible (all objects are), {kind}:", "", *markdown_table(called), ""]
    return lines


def tables(files: list[Path]) -> list[str]:
    """The section on the papers' tables: what was measured, and what was published."""
    lines = ["## Tables of the papers", ""]
    measured = {}
    for path in files:
        values = read_json(path)
        measured.setdefault(values["table"], []).append(values)
    for name, table in TABLES.items():
        lines += [f"### {table.title}", ""]
        results = measured.get(name)
        if not results:
            empty = {
                "table": name, "title": table.title, "data": "none", "protocol": table.protocol, "rows": [],
                "fraction": table.fraction, "overrides": [], "skipped": {}, "tabletop": False,
                "split": next(iter(table.splits)),
            }  # fmt: skip
            lines += [f"`counterview reproduce {name}` has not been run for this page.", ""]
            body = page(empty, markdown_table)
            lines += [*body[body.index("") + 1 :], ""]
            continue
        for values in results:
            body = page(values, markdown_table)
            head = body.index("")
            lines += [*(f"{text}  " for text in body[1:head]), "", *body[head + 1 :], ""]
    return lines


def render(folder: Path = RESULTS) -> str:
    """The page."""
    lines = [_HEAD, ""]
    file = folder / "held_out.json"
    if file.is_file():
        lines += held_out(read_json(file))
    file = folder / "tiny_match_ablation.json"
    if file.is_file():
        lines += tiny_match_ablation(read_json(file))
    for name, section in (("held_out_cameras.json", other_cameras), ("photographs.json", photographs)):
        if (folder / name).is_file():
            lines += section(read_json(folder / name))
    file = folder / "tracks.json"
    if file.is_file():
        results = read_json(file)
        away = folder / "tracks_away.json"
        results["sets"] |= read_json(away)["sets"] if away.is_file() else {}
        lines += tracks(results)
    file = folder / "geometric.json"
    if file.is_file():
        lines += geometric(read_json(file))
    lines += tables(sorted(folder.glob("reproduce-*.json")))
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip("\n") + "\n"


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = render()
    if options.check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE}: {'up to date' if same else 'run python -m benchmarks.results_page'}")
        return 0 if same else 1
    with atomic_write(PAGE, "w") as handle:
        handle.write(text)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
