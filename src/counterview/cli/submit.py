"""``counterview submit``: one file for the challenge from two prediction files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from counterview.cli.evaluate import print_lines
from counterview.errors import counted


def submit(
    ego2exo: Annotated[Path, typer.Argument(help="Predictions from ego to exo, a file or folder.", show_default=False)],
    exo2ego: Annotated[Path, typer.Argument(help="Predictions from exo to ego, a file or folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    gt: Annotated[
        Path | None,
        typer.Option(help="relations_*.json, correspondence-gt.json, a release or prepared folder, to check."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a folder, if it has several.")] = None,
    missing: Annotated[
        str, typer.Option(help="error, or count-absent: write an empty mask of confidence 0 for a missing prediction.")
    ] = "error",
    version: Annotated[str, typer.Option(help="Value of the key version in the file.")] = "xx",
    challenge: Annotated[str, typer.Option(help="Value of the key challenge in the file.")] = "xx",
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is not a prediction file, too.")
    ] = False,
) -> None:
    """Merge both directions, resize the masks, and run the checks of the challenge's server."""
    from counterview.errors import InputError
    from counterview.evaluation.predictions import is_prediction_file
    from counterview.evaluation.protocol import IncompletePredictions
    from counterview.evaluation.submission import submit as merge
    from counterview.media.outputs import claim_output_file

    if missing not in ("error", "count-absent"):
        raise InputError("unknown value of --missing", found=missing, expected="error or count-absent")
    for source in (ego2exo, exo2ego):
        if out.exists() and source.exists() and out.samefile(source):
            raise InputError("is read and written", path=out, fix="Give another --out.")
    try:
        with claim_output_file(out, "a prediction file", is_own=is_prediction_file, overwrite=overwrite):
            report = merge(
                ego2exo,
                exo2ego,
                out,
                gt=gt,
                split=split,
                missing=missing,  # type: ignore[arg-type]  # checked above
                version=version,
                challenge=challenge,
            )
    except IncompletePredictions as error:
        print_lines(error.lines)
        raise
    for note in report.notes:
        print(note, file=sys.stderr)
    if as_json:
        summary = {
            "out": str(report.path),
            "takes": report.takes,
            "predictions": report.predictions,
            "resized": report.resized,
            "notes": report.notes,
        }
        print(json.dumps(summary, indent=2))
        return
    for direction, count in report.predictions.items():
        print(f"{direction}: {counted(count, 'prediction')} in {counted(report.takes[direction], 'take')}")
    print(f"{report.resized} masks resized; wrote {report.path}")
