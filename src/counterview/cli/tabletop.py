"""``counterview tabletop``: make synthetic ego-exo takes in the layout of Ego-Exo4D's release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tabletop(
    out: Annotated[Path, typer.Argument(help="Folder of the data set; a run that was cut off is continued.")],
    takes: Annotated[int, typer.Option(help="Number of takes in all.")] = 10,
    split: Annotated[
        str,
        typer.Option(help="train, val, test or test_novel; or counts as in train=20,val=4; or all: 70, 10, 15, 5 %."),
    ] = "all",
    seed: Annotated[int, typer.Option(help="Another seed, other takes.")] = 0,
    preset: Annotated[str, typer.Option(help="easy, standard or hard.")] = "standard",
    seconds: Annotated[int | None, typer.Option(help="Length of a take; one annotated frame a second.")] = None,
    size: Annotated[int | None, typer.Option(help="Height of the videos in pixels; masks have the same size.")] = None,
    cameras: Annotated[int | None, typer.Option(help="Exo cameras, 1 to 4.")] = None,
    rendered_fps: Annotated[
        int | None, typer.Option(help="Frames rendered a second; each is held until the next (video: 30 fps).")
    ] = None,
    pool_size: Annotated[
        int | None, typer.Option(help="Shapes and looks per kind of object: more of them, fewer seen twice.")
    ] = None,
    unknown: Annotated[
        float | None, typer.Option(help="Share of object-frames that nobody annotates; 0 for the most to train on.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes. The takes are the same for any number.")] = 1,
) -> None:
    """Render takes of a table with objects, hands and cameras, annotated as Ego-Exo4D is."""
    from counterview.errors import InputError
    from counterview.tabletop.config import preset as choose
    from counterview.tabletop.generate import generate, share_out

    if seed < 0 or workers < 1:
        raise InputError("out of range", found=f"seed {seed}, workers {workers}", expected="seed >= 0, workers >= 1")
    given: dict[str, int | float | None] = {
        "seconds": seconds,
        "size": size,
        "cameras": cameras,
        "rendered_fps": rendered_fps,
        "pool_size": pool_size,
        "unknown": unknown,
    }
    config = choose(preset, **{k: v for k, v in given.items() if v is not None})
    counts = share_out(takes, split)
    manifest = generate(out, counts, config, seed, workers, progress=True)
    typer.echo(f"Wrote {manifest}: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    typer.echo(f"Look at {out / 'takes'}/*/contact_sheet.jpg; count with: counterview inspect {out}")
