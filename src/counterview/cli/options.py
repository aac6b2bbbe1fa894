"""Options that mean the same in several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
"""Where networks run."""

Dtype = Annotated[
    str, typer.Option(help="float32, or for LM-EEC bfloat16 or float16: faster where the device computes in them.")
]
"""In which precision networks compute."""

ProposalCache = Annotated[Path | None, typer.Option(help="Folder in which proposals are stored for the next run.")]
"""Where proposals are stored."""

Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Open what the model names outside its folder, and read weights that are pickles (FastSAM's)."
    ),
]
"""Whether a model may reach outside its folder."""
