"""``counterview reproduce``: a table of the papers, with our rows beside the published rows."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterview.cli.options import Workers
from counterview.errors import InputError

if TYPE_CHECKING:
    from counterview.reproduce.plan import Plan


def reproduce(
    table: Annotated[
        str,
        typer.Argument(help="omama-main, omama-modules, omama-descriptors, lmeec-main or lmeec-ablations; or list."),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Prepared folder or release, of Ego-Exo4D or of synthetic takes.")
    ] = None,
    tabletop: Annotated[
        bool, typer.Option("--tabletop", help="Use the small recipes, for synthetic takes of `counterview tabletop`.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="Split to score; by default the split of the table.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for runs, predictions and scores.", show_default="runs/reproduce")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Only these rows, separated by commas; none: only the rows of --row.")
    ] = None,
    row: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="Score another system's predictions as a row.")
    ] = None,
    missing: Annotated[
        str, typer.Option(help="For --row: error, or count-absent: a missing prediction is 'not visible, empty mask'.")
    ] = "error",
    takes: Annotated[int | None, typer.Option(min=1, help="Score only the first takes.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value in every recipe.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipes and data, print the steps, and stop.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Workers = 1,
    save: Annotated[Path | None, typer.Option(help="Also write the results to this JSON file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Reproduce a TABLE of the papers: train or load the models, predict, score and print.

    Run again to resume a run that was stopped; finished rows are kept.
    """
    from counterview.devices import check_device
    from counterview.media.files import write_json
    from counterview.media.outputs import claim_output_file, claim_output_folder
    from counterview.reproduce.commands import commands
    from counterview.reproduce.plan import check_images, make_plan
    from counterview.reproduce.present import machine, notes, page
    from counterview.reproduce.run import external, inspect_external, results, run
    from counterview.reproduce.tables import TABLES, get_table

    if table == "list":
        for each in TABLES.values():
            print(f"{each.name}: {each.title}; rows {', '.join(r.name for r in each.rows)}")
        return
    if missing not in ("error", "count-absent"):
        raise InputError("unknown value of --missing", found=missing, expected="error or count-absent")
    check_device(device)
    files = dict(_named(text) for text in row or [])
    selected = None if rows is None else [r for r in rows.split(",") if r not in ("", "none")]
    folder = out or Path("runs") / "reproduce"
    plan = make_plan(
        get_table(table), data, folder, tabletop=tabletop, split=split, rows=selected, takes=takes,
        overrides=change or [],
    )  # fmt: skip
    inspected = [found for name, path in files.items() for found in inspect_external(plan, name, path)]
    empty = results(plan, [], machine())
    if dry_run:
        print("\n".join(page(empty)))
        print(f"\ndata: {check_images(plan)}")
        print("\nsteps:")
        for number, line in enumerate(commands(plan), start=1):
            print(f"{number:3d}. {line}")
        for found in inspected:
            contents = found["contents"]
            print(f"row from a file: {found['title']}, {found['direction']}: {contents['frames']}, {contents['sizes']}")
        return
    if plan.stand_in:
        print("Synthetic takes in the place of Ego-Exo4D: the rows are not scores on Ego-Exo4D.", file=sys.stderr)
    finished = []
    kind = "tabletop" if plan.tabletop else "egoexo4d"
    file = folder / f"{plan.table.name}-{kind}-{plan.split}.json"
    with ExitStack() as claims:
        claimed = claims.enter_context(
            claim_output_folder(folder, "reproduce", is_own=lambda f: _is_own(f, plan), overwrite=None)
        )
        if save is not None:
            claims.enter_context(claim_output_file(save, "results of reproduce", is_own=_is_results, overwrite=None))
        claimed.mark()
        for result in run(plan, device=device, progress=not quiet, workers=workers):
            finished.append(result)
            print(f"{result['title']}, {result['direction']}: IoU {result['scores']['iou']['value']}", file=sys.stderr)
        for name, path in files.items():
            finished += external(plan, name, path, missing)  # type: ignore[arg-type]  # checked above
        values = results(plan, finished, machine())
        for target in [file, *([save] if save else [])]:
            write_json(target, values)
    print("\n".join(page(values)))
    for note in notes(finished):
        print(note, file=sys.stderr)
    print(f"\nresults in {file}")


def _is_own(folder: Path, plan: Plan) -> bool:
    """Whether a folder without a marker was begun by this command, or by hand for it, as the printed steps do."""
    units = {path.relative_to(folder).parts[0] for unit in plan.units for path in (unit.folder, unit.base)}
    present = {path.name for path in folder.iterdir()}
    return bool(present & (units | {"proposals"})) or any(_is_results(path) for path in folder.glob("*-*-*.json"))


def _is_results(path: Path) -> bool:
    """Whether a file holds results of this command."""
    from counterview.media.files import read_json

    try:
        values = read_json(path)
    except InputError:
        return False
    return isinstance(values, dict) and str(values.get("benchmark", "")).startswith("reproduce-")


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name.strip() or not path:
        raise InputError("--row is malformed", found=repr(text), expected="NAME=FILE")
    if not Path(path).exists():
        raise InputError("no such file", path=path, expected=f"the predictions of {name}")
    return name.strip(), Path(path)
