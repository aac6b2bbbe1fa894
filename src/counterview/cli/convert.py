"""``counterview convert``: released weights of a method into Counterview's own format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from counterview.config import nearest
from counterview.errors import InputError


def convert(
    method: Annotated[str, typer.Argument(help="omama")],
    file: Annotated[Path, typer.Argument(help="The released weights: a torch file or .safetensors.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    direction: Annotated[
        str | None, typer.Option(help="ego2exo or exo2ego, to be checked; read from the weights if not given.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is already there.")] = False,
) -> None:
    """Convert released weights. Every tensor of the file is used and named, or the file is refused."""
    if method not in _METHODS:
        raise InputError("no such method", found=repr(method), fix=nearest(method, list(_METHODS)).capitalize())
    if (out / "config.json").exists() and not overwrite:
        raise InputError("there is a model already", path=out, fix="Choose another folder, or add --overwrite.")
    _METHODS[method](file, out, direction)


def _omama(file: Path, out: Path, direction: str | None) -> None:
    from counterview.omama.released import load_released, released_names

    model = load_released(file, direction)  # type: ignore[arg-type]
    state = model.state_dict()
    for old, new in released_names().items():
        typer.echo(f"{old:42s} -> {new:42s} {'x'.join(map(str, state[new].shape))}")
    model.save_pretrained(out)
    typer.echo(
        f"\nWrote {out}. visibility_head.mlp is in the file but unused by the released code; this model answers "
        "visibility as that code does, with the sigmoid of the best cosine."
    )


_METHODS: dict[str, Callable[[Path, Path, str | None], None]] = {"omama": _omama}
