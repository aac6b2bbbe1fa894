"""``counterview predict``: predictions for a data set in one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from counterview.errors import InputError
from counterview.inference.bundled import default_model


def predict(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DATA",
            help="MODEL: knn, tiny, tiny-follow, base, a model folder, a recipe, or a Hub id; "
            f"{default_model()} if left out. DATA: a release, a prepared folder, or HANDAL.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The prediction file to write.")] = Path("predictions.json"),
    direction: Annotated[str, typer.Option(help="ego2exo, exo2ego or both.")] = "both",
    split: Annotated[str, typer.Option(help="train, val, test or test_novel.")] = "test",
    proposals: Annotated[
        str | None,
        typer.Option(help="graph (default of knn), tiny, sam2[:ID or FOLDER], fastsam, or folder:PATH."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="For knn: classical (default), tiny, dinov2-base[-reg], clip, dinov3, a Hub id, or a folder."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder in which proposals are stored for the next run.")] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Open what the model names outside its folder, and read weights that are pickles (FastSAM's).",
        ),
    ] = False,
) -> int:
    """Predict every frame of the official evaluation. Run again to resume a run that was stopped."""
    from counterview.data.dataset import DIRECTIONS, check_direction
    from counterview.data.open import open_dataset
    from counterview.inference.dataset import predict as run
    from counterview.inference.loading import load_take_predictor

    if len(places) > 2:
        raise InputError("too many arguments", found=" ".join(places), expected="[MODEL] DATA")
    *model, data = places
    directions = list(DIRECTIONS) if direction == "both" else [check_direction(direction)]
    dataset = open_dataset(data, split)
    predictor = load_take_predictor(
        model[0] if model else None, proposals=proposals, features=features, device=device, cache=cache, trust=trust
    )
    counts = run(predictor, dataset, directions, out)
    print(f"{counts['predictions']} predictions of {counts['takes']} takes written to {out}")
    for note, number in sorted(counts["empty"].items()):
        print(f"{number} of them: {note}", file=sys.stderr)
    for uid, problem in counts["failed"].items():
        print(f"left out: take {uid}: {problem}", file=sys.stderr)
    return 1 if counts["failed"] else 0
