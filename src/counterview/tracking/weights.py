"""The weights that come with the package: how evidence is weighed."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from counterview.errors import CheckpointError
from counterview.guard import library_errors
from counterview.media.files import read_bundled
from counterview.nn.weights import load_strictly
from counterview.tracking.weighing import EvidenceWeighing, WeighingConfig

NAME = "weighing.safetensors"


def weights_folder() -> Path:
    """The folder of the weights."""
    return Path(str(files("counterview"))) / "assets" / "tracking"


def load_weighing() -> EvidenceWeighing:
    """The network that weighs evidence, with the weights of the package.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    from safetensors.torch import load

    content, _ = read_bundled(weights_folder(), NAME)
    with library_errors(CheckpointError, "cannot be read", path=weights_folder() / NAME):
        tensors = load(content)
    network = EvidenceWeighing(WeighingConfig())
    load_strictly(network, tensors, weights_folder() / NAME)
    return network.eval()
