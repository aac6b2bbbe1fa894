"""``counterview train``: train the model of a recipe, from the start or from a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[
        Path, typer.Argument(help="A YAML file, or a recipe by name: tabletop/omama.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Change values of the recipe, for example training.lr=1e-4."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/ and the recipe's name")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the newest complete checkpoint.")] = False,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Resume even if recipe, data or number of processes changed."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove a run in the folder and start again; other files stay.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train the model of a RECIPE.

    For several processes or machines use torchrun: python -m torch.distributed.run --nproc_per_node 4 -m
    counterview.cli.main train RECIPE.
    """
    from counterview.errors import InputError
    from counterview.inference.zoo import recipe_file
    from counterview.media.outputs import check_output_folder
    from counterview.training.fit import fit
    from counterview.training.processes import leave_processes
    from counterview.training.recipe import load_recipe
    from counterview.training.run_folder import is_run

    if resume and overwrite:
        raise InputError("--resume and --overwrite contradict each other", fix="Give one of them.")
    recipe = recipe_file(recipe)
    parsed = load_recipe(recipe, overrides or [])
    folder = out if out is not None else Path("runs") / recipe.stem
    check_output_folder(folder, "train", is_own=is_run, overwrite=overwrite)  # before the data are read
    task = parsed.build_task()
    result = fit(
        task, parsed.training, folder, resume=resume, allow_changes=allow_changes, overwrite=overwrite,
        progress=not quiet,
    )  # fmt: skip
    if result.is_main:
        for name, value in sorted(result.metrics.items()):
            print(f"{name}: {value:.4f}")
        print(f"model of step {result.best_step} of {result.steps} written to {result.model_dir}", file=sys.stderr)
    leave_processes()
