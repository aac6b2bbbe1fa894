"""``counterview predict``: a whole data set into one prediction file."""

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
            help="A model (knn, tiny, tiny-follow, base, a trained folder, a recipe, a Hub id; "
            f"{default_model()} if not given), then a release, a prepared folder, or HANDAL.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The prediction file to write.")] = Path("predictions.json"),
    direction: Annotated[str, typer.Option(help="ego2exo, exo2ego or both.")] = "both",
    split: Annotated[str, typer.Option(help="train, val, test or test_novel.")] = "test",
    proposals: Annotated[
        str | None, typer.Option(help="graph (knn's default), tiny, sam2[:ID or FOLDER], fastsam, folder:PATH.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Of knn: classical, dinov2-base[-reg], clip, dinov3, a Hub id, or a folder.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Keep proposals in this folder and use them again.")] = None,
) -> int:
    """Predict every frame that the official evaluation asks for. A killed run goes on where it was."""
    from counterview.data.dataset import DIRECTIONS, check_direction
    from counterview.data.open import open_dataset
    from counterview.inference.dataset import predict as run
    from counterview.inference.loading import load_take_predictor

    if len(places) > 2:
        raise InputError("too many arguments", found=" ".join(places), expected="[MODEL] DATA")
    *model, data = places
    directions = list(DIRECTIONS) if direction == "both" else [check_direction(direction)]
    dataset = open_dataset(data, split)
    found = load_take_predictor(
        model[0] if model else None, proposals=proposals, features=features, device=device, cache=cache
    )
    counts = run(found, dataset, directions, out)
    print(f"{counts['predictions']} predictions of {counts['takes']} takes written to {out}")
    for note, number in sorted(counts["empty"].items()):
        print(f"{number} of them: {note}", file=sys.stderr)
    for uid, problem in counts["failed"].items():
        print(f"left out: take {uid}: {problem}", file=sys.stderr)
    return 1 if counts["failed"] else 0
