"""``counterview serve``: the page in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterview.cli.options import Device, Refine, Trust
from counterview.errors import ConfigError, InputError
from counterview.nn.bundled import default_model


def serve(
    host: Annotated[str, typer.Option(help="Address to listen to; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    model: Annotated[
        str | None,
        typer.Option(
            help="As of match: a bundled model, a folder, a recipe, or a Hub id.", show_default=default_model()
        ),
    ] = None,
    proposals: Annotated[str | None, typer.Option(help="As of match.")] = None,
    features: Annotated[str | None, typer.Option(help="As of match, for knn.")] = None,
    auth: Annotated[
        str | None,
        typer.Option(metavar="USER:FILE", help="User and the file that holds the password, for every request."),
    ] = None,
    share_nothing: Annotated[
        bool,
        typer.Option(
            "--share-nothing",
            help="Nothing computed for one visitor serves another, the bundled examples included, and no model is "
            "fetched from the Hub.",
        ),
    ] = False,
    max_image_mb: Annotated[float, typer.Option(help="Largest image file, in MB.")] = 30,
    max_megapixels: Annotated[float, typer.Option(help="Largest image, in megapixels.")] = 40,
    max_video_mb: Annotated[float, typer.Option(help="Largest video file, in MB.")] = 500,
    max_video_seconds: Annotated[float, typer.Option(help="Longest video, in seconds.")] = 600,
    data: Annotated[
        Path | None,
        typer.Option(metavar="ROOT", help="A release or prepared folder that visitors may browse.", show_default=False),
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="Predictions for --data, shown beside the annotation; give two to compare them."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split of --data.", show_default=False)] = None,
    keep: Annotated[float, typer.Option(help="Seconds without use after which a session's files are removed.")] = 3600,
    refine: Refine = "none",
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Serve the page: match two images and follow through videos in a browser. Needs the extra [app]."""
    import importlib.util
    import os

    from counterview.app.limits import PageLimits
    from counterview.app.memory import keep_one_heap
    from counterview.devices import resolve_device
    from counterview.errors import MissingExtraError

    if importlib.util.find_spec("gradio") is None:
        raise MissingExtraError("app", "the page in the browser")
    if data is None and (predictions or split is not None):
        raise InputError("--predictions and --split are of a data set", fix="Name it with --data ROOT.")
    keep_one_heap()
    limits = PageLimits(
        image_mb=max_image_mb, image_megapixels=max_megapixels, video_mb=max_video_mb, video_s=max_video_seconds,
        idle_s=keep,
    )  # fmt: skip
    password = None if auth is None else read_auth(auth)
    resolve_device(device)
    if share_nothing:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
    from counterview.app.context import PageContext
    from counterview.app.server import LOOPBACK, make_app, run
    from counterview.cli.progress import stage
    from counterview.inference.loading import load
    from counterview.inference.prompted import PromptedPredictor

    with stage("loading the model"):
        predictor = load(model, proposals=proposals, features=features, device=device, trust=trust, refine=refine)
    if not isinstance(predictor, PromptedPredictor):
        raise ConfigError("the page cannot work with this model", found=type(predictor).__name__)
    name = default_model() if model is None else model
    context = PageContext(predictor, name, limits, share_nothing, data, tuple(predictions or ()), split)
    try:
        app = make_app(context, auth=password, loopback=host in LOOPBACK)
        if host not in LOOPBACK and password is None:
            typer.echo(f"counterview: {host} is open to other machines, without a password; see --auth", err=True)
        run(app, host, port, lambda address: typer.echo(f"serving {address}  (Ctrl-C stops)"))
    finally:
        context.close()


def read_auth(text: str) -> tuple[str, str]:
    """User and password of ``--auth``.

    Args:
        text: ``USER:FILE``; the file's first line is the password.

    Raises:
        InputError: another form, a file that cannot be read, or no password in it.
    """
    from counterview.guard import read_file

    user, colon, name = text.partition(":")
    if not user or not colon or not name:
        raise InputError("--auth is malformed", found=text, expected="USER:FILE, the file with the password")
    first = read_file(Path(name), InputError, max_bytes=10_000).decode("utf-8", "replace").split("\n")[0]
    password = first.rstrip("\r")
    if len(password) < 8:
        raise InputError(
            "the password is too short", path=name, found=f"{len(password)} characters", expected="8 or more"
        )
    return user, password
