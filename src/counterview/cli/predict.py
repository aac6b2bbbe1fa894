"""``counterview predict``: predictions for a data set in one file."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from counterview.cli.options import Device, Dtype, ProposalCache, Refine, TaskTimeout, Trust, Where, WorkerGpus, Workers
from counterview.errors import InputError, counted
from counterview.nn.bundled import default_model


def predict(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL [model.KEY=VALUE]...] DATA",
            help="MODEL: knn, tiny, tiny-track (with memory; tiny-track:click from one click), tiny-follow, base, "
            "geometric[:MATCHER], a model folder, a recipe, or a Hub id; "
            f"{default_model()} if left out. model.KEY=VALUE: change a recipe that needs no training, or the settings "
            "of a trained LM-EEC. DATA: a release or a prepared folder, also as s3:// address, or HANDAL.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option(help="The prediction file to write, or its s3:// address.")] = "predictions.json",
    direction: Annotated[str, typer.Option(help="ego2exo, exo2ego or both.")] = "both",
    split: Annotated[str, typer.Option(help="train, val, test or test_novel.")] = "test",
    proposals: Annotated[
        str | None,
        typer.Option(help="graph (default of knn and geometric), tiny, sam2[:ID or FOLDER], fastsam, or folder:PATH."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="For knn: classical (default), tiny, dinov2-base[-reg], clip, dinov3, a Hub id, or a folder."
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="official: every frame, masks at longer side 480; lmeec: as LM-EEC's tables, frames in which the "
            "target has a mask, 480 x 480 squares."
        ),
    ] = "official",
    fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Predict only this fraction of the pairs that are scored.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of --fraction.")] = 42,
    takes: Annotated[int | None, typer.Option(min=1, help="Predict only the first takes.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    cache: ProposalCache = None,
    trust: Trust = False,
    refine: Refine = "none",
    engine: Where = "local",
    workers: Workers = 1,
    task_timeout: TaskTimeout = 3600,
    worker_gpus: WorkerGpus = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Compute again and replace OUT, whatever it holds.")
    ] = False,
) -> int:
    """Predict every frame of the official evaluation, or what --layout and --fraction say.

    Run again to resume a run that was stopped; a finished one is not repeated.
    """
    from functools import partial

    from counterview.data.dataset import DIRECTIONS, check_direction
    from counterview.data.open import open_dataset
    from counterview.data.stored import StoredDataset
    from counterview.devices import check_device
    from counterview.evaluation.predictions import is_prediction_file
    from counterview.inference.dataset import predict as run
    from counterview.inference.loading import load_take_predictor
    from counterview.inference.predict_stored import predict_stored
    from counterview.jobs.engine import JobEngine
    from counterview.media.outputs import check_cache_folder, check_output_file
    from counterview.media.storage import ObjectFolder, is_url

    check_device(device, dtype)
    where = JobEngine.parse(engine, workers, timeout_s=task_timeout, worker_gpus=worker_gpus)
    if not is_url(out):
        check_output_file(out, "a prediction file", is_own=is_prediction_file, overwrite=overwrite)
    check_cache_folder(cache)
    overrides = [text for text in places[1:-1] if text.startswith("model.") and "=" in text]
    *model, data = [text for text in places if text not in overrides]
    if len(model) > 1:
        raise InputError("too many arguments", found=" ".join(places), expected="[MODEL] DATA")
    directions = list(DIRECTIONS) if direction == "both" else [check_direction(direction)]
    is_stored = is_url(data) or is_url(out)
    if is_stored and not (is_url(data) and is_url(out) and fraction == 1):
        raise InputError(
            "object storage is used for both or none", found=f"{data} and {out}, --fraction {fraction:g}",
            expected="s3:// addresses of DATA and --out, and no --fraction",
        )  # fmt: skip
    dataset = None if is_stored else open_dataset(data, split)
    make_predictor = partial(
        load_take_predictor, model[0] if model else None, proposals=proposals, features=features, device=device,
        dtype=dtype, cache=cache, layout=layout, overrides=overrides, trust=trust, refine=refine,
    )  # fmt: skip
    predictor = make_predictor()
    if dataset is None:
        counts = predict_stored(
            predictor, StoredDataset(ObjectFolder(data), split), directions, out, make_predictor=make_predictor,
            takes=takes, overwrite=overwrite, engine=where,
        )  # fmt: skip
    else:
        dataset = dataset if takes is None else dataset.first(takes)
        counts = run(
            predictor, dataset, directions, out, fraction=fraction, seed=seed, overwrite=overwrite, engine=where,
            make_predictor=make_predictor,
        )  # fmt: skip
    if counts["finished_before"]:
        print("finished already: the file records this model, these settings and takes, and holds every pair")
        print("Compute it again with --overwrite.", file=sys.stderr)
    done = "are in" if counts["finished_before"] else "written to"
    print(f"{counted(counts['predictions'], 'prediction')} of {counted(counts['takes'], 'take')} {done} {out}")
    for note, number in sorted(counts["empty"].items()):
        print(f"{number} of them: {note}", file=sys.stderr)
    for uid, problem in counts["failed"].items():
        print(f"left out: take {uid}: {problem}", file=sys.stderr)
    return 1 if counts["failed"] else 0
