"""``counterview convert``: released weights of O-MaMa or LM-EEC to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterview.config import nearest
from counterview.errors import InputError, OutputError

METHODS = ("omama", "lmeec")
MODEL_FILES = ("README.md", "config.json", "model.safetensors")


def convert(
    method: Annotated[str, typer.Argument(help="omama or lmeec.")],
    file: Annotated[Path, typer.Argument(help="The released weights: a torch file or .safetensors.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    direction: Annotated[
        str | None, typer.Option(help="For omama: ego2exo or exo2ego, as a check; by default read from the weights.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="For lmeec: image encoder of the weights.")] = "hiera-b+",
    image_size: Annotated[int, typer.Option(help="For lmeec: side of the training images in pixels.")] = 480,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model.")] = False,
) -> None:
    """Convert released weights to a model folder. A file with missing or surplus tensors is refused."""
    if file.is_dir():
        raise InputError("is a folder", path=file, expected="a file of weights", fix="Give the file inside it.")
    if method not in METHODS:
        raise InputError("no such method", found=repr(method), fix=nearest(method, list(METHODS)).capitalize())
    from counterview.media.outputs import check_output_folder, claim_output_folder

    # A model is work that someone may have nowhere else: it is never replaced unasked, even if it is ours.
    if (out / "config.json").exists() and not overwrite:
        raise OutputError("a model exists already", path=out, fix="Choose another folder, or add --overwrite.")
    check_output_folder(out, "convert", overwrite=overwrite)
    with claim_output_folder(out, "convert", overwrite=overwrite) as folder, folder.replace(MODEL_FILES) as staged:
        if method == "omama":
            _omama(file, out, direction, staged)
        else:
            _lmeec(file, out, backbone, image_size, staged)


def _omama(file: Path, out: Path, direction: str | None, staged: Path) -> None:
    from counterview.omama.model import OMaMa
    from counterview.omama.released import released_names

    model = OMaMa.from_released(file, direction)  # type: ignore[arg-type]
    state = model.state_dict()
    for old, new in released_names(OMaMa).items():
        typer.echo(f"{old:42s} -> {new:42s} {'x'.join(map(str, state[new].shape))}")
    model.save_pretrained(staged)
    typer.echo(
        f"\nWrote {out}. visibility_head.mlp is in the file but unused by the released code; the visibility of "
        "this model is that code's, the sigmoid of the best cosine."
    )


def _lmeec(file: Path, out: Path, backbone: str, image_size: int, staged: Path) -> None:
    from counterview.lmeec.model import LMEEC

    model = LMEEC.from_released(file, backbone=backbone, image_size=image_size)
    model.save_pretrained(staged)
    typer.echo(
        f"Wrote {out}: {len(model.state_dict())} tensors, {sum(p.numel() for p in model.parameters()):,} parameters, "
        "in released behaviour. Set behaviour to paper in its config.json to run it as the paper describes."
    )
