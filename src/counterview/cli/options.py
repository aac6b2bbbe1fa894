"""Options that mean the same in several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
"""Where networks run."""

ProposalCache = Annotated[Path | None, typer.Option(help="Folder in which proposals are stored for the next run.")]
"""Where proposals are stored."""

Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Open what the model names outside its folder, and read weights that are pickles (FastSAM's)."
    ),
]
"""Whether a model may reach outside its folder."""

Runtime = Annotated[
    str,
    typer.Option(
        metavar="torch|onnx[:FOLDER]",
        help="What computes the networks of tiny-match and O-MaMa: torch, or ONNX Runtime (they are exported once; or "
        "FOLDER of `counterview export onnx`).",
    ),
]
"""What computes the networks."""
