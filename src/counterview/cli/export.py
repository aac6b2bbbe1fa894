"""``counterview export``: a trained model in the format of another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterview.config import nearest
from counterview.errors import ConfigError, InputError

FORMATS = ("onnx",)


def export(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help="onnx.", show_default=False)],
    model: Annotated[
        str,
        typer.Argument(
            help="tiny, or the folder, recipe or Hub id of a trained tiny-match or O-MaMa.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder with other files; only files of equal name go.")
    ] = False,
) -> None:
    """Export the networks of a model: a file for each, checked against torch, and a manifest with their hashes.

    `counterview match --runtime onnx:OUT` runs them, and so does any other program that reads the format.
    """
    from counterview.deploy.export import export_model
    from counterview.deploy.networks import omama_config
    from counterview.deploy.runtime import require_onnx
    from counterview.inference.networks import load_head
    from counterview.inference.zoo import resolve
    from counterview.media.outputs import check_output_folder, claim_output_folder

    if format not in FORMATS:
        raise InputError("no such format", found=repr(format), fix=nearest(format, list(FORMATS)).capitalize())
    require_onnx(exporting=True)
    check_output_folder(out, "export", overwrite=overwrite)
    source = resolve(model)
    if source.method not in ("omama", "tiny-match"):
        raise ConfigError("cannot be exported", path=model, found=source.method, expected="a tiny-match or an O-MaMa")
    head = load_head(source)
    with claim_output_folder(out, "export", overwrite=overwrite) as folder, folder.replace() as staged:
        manifest = export_model(head, staged, proposer=omama_config(head).proposer, name=model)
    for name, entry in manifest.networks.items():
        typer.echo(
            f"{name + '.onnx':15s} {entry.size / 1e6:7.2f} MB  largest difference from torch {entry.difference:.1e}"
        )
    typer.echo(f"written: {out}")
