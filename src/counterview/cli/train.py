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
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train the model of a RECIPE.

    For several processes or machines use torchrun: python -m torch.distributed.run --nproc_per_node 4 -m
    counterview.cli.main train RECIPE.
    """
    from counterview.inference.zoo import recipe_file
    from counterview.training.fit import fit
    from counterview.training.processes import leave_processes
    from counterview.training.recipe import load_recipe

    recipe = recipe_file(recipe)
    parsed = load_recipe(recipe, overrides or [])
    folder = out if out is not None else Path("runs") / recipe.stem
    task = parsed.build_task()
    result = fit(task, parsed.training, folder, resume=resume, allow_changes=allow_changes, progress=not quiet)
    if result.is_main:
        for name, value in sorted(result.metrics.items()):
            print(f"{name}: {value:.4f}")
        print(f"model of step {result.best_step} of {result.steps} written to {result.model_dir}", file=sys.stderr)
    leave_processes()
