"""``counterview inspect``: statistics of a data set, real or synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterview.cli.options import Workers


def inspect(
    root: Annotated[Path, typer.Argument(help="A release, a prepared folder, or HANDAL.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    image: Annotated[Path | None, typer.Option(help="Also draw the distributions to this file (.png or .jpg).")] = None,
    workers: Workers = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --image.")] = False,
) -> None:
    """Count takes, cameras, objects and masks, and show how large and how often visible objects are."""
    import json
    from contextlib import ExitStack

    from counterview.data.inspect import draw_inspection, inspect_dataset
    from counterview.media.images import check_image_name
    from counterview.media.outputs import claim_output_file

    with ExitStack() as claims:
        if image is not None:
            check_image_name(image)
            claims.enter_context(claim_output_file(image, "an image", overwrite=overwrite))
        inspection = inspect_dataset(root, split, workers=workers)
        if image is not None:
            draw_inspection(inspection, image)
    if as_json:
        typer.echo(json.dumps(inspection.summary(), indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    numbers = inspection.summary()
    table = Table(title=str(root), show_header=True)
    table.add_column("")
    table.add_column("ego", justify="right")
    table.add_column("exo", justify="right")
    table.add_row("masks", *(str(numbers[s]["masks"]) for s in ("ego", "exo")))
    for label, key in (("masks below 0.1 % of the image", "below_0.1%"), ("masks below 0.5 %", "below_0.5%")):
        table.add_row(label, *(f"{numbers[s][key]:.1%}" for s in ("ego", "exo")))
    for k, q in enumerate((10, 25, 50, 75, 90)):
        cells = (numbers[s]["area_quantiles"] for s in ("ego", "exo"))
        table.add_row(f"mask area, {q}th percentile", *(f"{c[k]:.3%}" if c else "-" for c in cells))
    table.add_row("tracks (object and camera)", *(str(numbers[s]["tracks"]) for s in ("ego", "exo")))
    table.add_row("median masks a track", *(f"{numbers[s]['track_length_median']:g}" for s in ("ego", "exo")))
    console = Console()
    numbers_of = [(getattr(inspection, name), name) for name in ("takes", "cameras", "objects", "masks")]
    counts = [f"{count} {name.removesuffix('s') if count == 1 else name}" for count, name in numbers_of]
    console.print(", ".join(counts))
    console.print(table)
    for name, count in inspection.directions.items():
        console.print(f"{name}: {count.frames} query frames, target not visible in {count.not_visible_fraction:.1%}")
    if inspection.unreadable:
        console.print(f"{inspection.unreadable} masks cannot be decoded")
    if inspection.empty_takes:
        console.print(f"{len(inspection.empty_takes)} takes without a mask: {', '.join(inspection.empty_takes[:5])}")
