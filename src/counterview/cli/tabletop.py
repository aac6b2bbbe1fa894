"""``counterview tabletop``: render synthetic ego-exo takes in the layout of an Ego-Exo4D release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterview.cli.options import TaskTimeout, Where


def tabletop(
    out: Annotated[
        str, typer.Argument(help="Folder or s3:// address of the data set. Run again to resume a run that was stopped.")
    ],
    takes: Annotated[int, typer.Option(help="Number of takes in total.")] = 10,
    split: Annotated[
        str,
        typer.Option(help="train, val, test or test_novel; or counts, as in train=20,val=4; or all: 70, 10, 15, 5 %."),
    ] = "all",
    seed: Annotated[int, typer.Option(help="Random seed of the takes.")] = 0,
    preset: Annotated[
        str, typer.Option(help="easy, standard, hard, or cameras: standard with cameras that differ.")
    ] = "standard",
    seconds: Annotated[int | None, typer.Option(help="Length of a take; it has one annotated frame a second.")] = None,
    size: Annotated[int | None, typer.Option(help="Height of the videos in pixels; masks have the same size.")] = None,
    cameras: Annotated[int | None, typer.Option(help="Exo cameras, 1 to 4.")] = None,
    rendered_fps: Annotated[
        int | None, typer.Option(help="Rendered frames a second; the video of 30 fps repeats them.")
    ] = None,
    pool_size: Annotated[
        int | None, typer.Option(help="Number of shapes and materials for each kind of object.")
    ] = None,
    unknown: Annotated[
        float | None, typer.Option(help="Fraction of object-frames without annotation; 0 for the most training data.")
    ] = None,
    camera_difference: Annotated[
        float | None,
        typer.Option(help="How far the cameras differ in colour, tone and compression, 0 to 1; else the preset's."),
    ] = None,
    away: Annotated[
        int | None,
        typer.Option(help="Seconds in the middle in which the wearer looks away from the table: 0, or 5 and more."),
    ] = None,
    engine: Where = "local",
    workers: Annotated[int, typer.Option(help="Number of processes; the takes do not depend on it.")] = 1,
    task_timeout: TaskTimeout = 3600,
) -> None:
    """Render takes of a table with objects and hands, with the annotation of Ego-Exo4D."""
    from counterview.errors import InputError
    from counterview.jobs.engine import JobEngine
    from counterview.media.storage import is_url
    from counterview.tabletop.config import preset as choose
    from counterview.tabletop.generate import generate, share_out
    from counterview.tabletop.stored import generate_stored

    if seed < 0 or workers < 1:
        raise InputError("out of range", found=f"seed {seed}, workers {workers}", expected="seed >= 0, workers >= 1")
    options: dict[str, int | float | None] = {
        "seconds": seconds,
        "size": size,
        "cameras": cameras,
        "rendered_fps": rendered_fps,
        "pool_size": pool_size,
        "unknown": unknown,
        "away_s": away,
        "camera_difference": camera_difference,
    }
    config = choose(preset, **{k: v for k, v in options.items() if v is not None})
    counts = share_out(takes, split)
    where = JobEngine.parse(engine, workers, timeout_s=task_timeout)
    if is_url(out):
        stored = generate_stored(out, counts, config, seed, progress=True, engine=where)
        typer.echo(f"Wrote {stored}: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
        return
    manifest = generate(Path(out), counts, config, seed, progress=True, engine=where)
    typer.echo(f"Wrote {manifest}: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    typer.echo(f"See {Path(out) / 'takes'}/*/contact_sheet.jpg; for statistics: counterview inspect {out}")
