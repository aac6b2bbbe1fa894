"""Weights of matchers that are single files, and what to do without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from counterview.errors import WeightsError

ADVICE = "geometric:sift needs no weights."


def read_weights(path: Path, what: str) -> dict[str, Any]:
    """The state dict in a file, without running code from it.

    Args:
        path: the file.
        what: what the weights are for, for messages.

    Raises:
        WeightsError: no such file.
        CheckpointError: damaged, or holding more than tensors and plain values.
    """
    from counterview.nn.weights import read_released

    if not path.is_file():
        raise WeightsError(f"{what}: no such file of weights", path=path, fix=ADVICE)
    return read_released(path)


def fetch_weights(url: str, what: str) -> Path:
    """A published file of weights: from torch's folder of checkpoints on this machine, else downloaded into it.

    Args:
        url: where it is published.
        what: what the weights are for, for messages.

    Raises:
        WeightsError: not on this machine, and not downloadable.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, ValueError) as error:  # URLError is an OSError
        raise WeightsError(
            f"{what}: the weights are not on this machine and {url} cannot be downloaded ({type(error).__name__})",
            fix=f"Put the file at {path}, or give a file. {ADVICE}",
        ) from None
    return path
