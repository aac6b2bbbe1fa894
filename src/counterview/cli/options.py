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

Where = Annotated[
    str,
    typer.Option(
        metavar="local|ray[:ADDRESS]",
        help="Where the work is done: by processes of this machine, or by a Ray cluster (RAY_ADDRESS, or one started "
        "here). Every machine needs the same paths, or s3:// addresses.",
    ),
]
"""Where bulk work is done."""

Workers = Annotated[int, typer.Option(min=1, help="Number of processes; the result does not depend on it.")]
"""How many processes do it."""

TaskTimeout = Annotated[
    float,
    typer.Option(
        "--task-timeout",
        min=1,
        metavar="S",
        help="Seconds without progress after which a process is replaced, and its task tried once more.",
    ),
]
"""When a worker counts as hanging."""

WorkerGpus = Annotated[
    float, typer.Option("--worker-gpus", min=0, help="On Ray: GPUs of each process; 0.5 lets two share one.")
]
"""GPUs of a worker on Ray."""

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

Refine = Annotated[
    str,
    typer.Option(
        metavar="none|auto",
        help="auto: draw each match again, enlarged, with tiny-match, or where SAM 2 proposes, as with base.",
    ),
]
"""Whether masks are drawn again."""
