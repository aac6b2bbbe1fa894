"""The two networks of the ``tiny`` proposer that come with the package, each file checked against its hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from counterview.errors import CheckpointError
from counterview.media.files import read_bundled, sha256_file
from counterview.nn.weights import decode_tensors, load_strictly, read_tensors, shortened
from counterview.proposals.boundary import PLACE_PX, STRIDE, BoundaryNet, placed
from counterview.proposals.objectness import FEATURES, predict
from counterview.types import RgbImage

BOUNDARY, RANKER = "boundary.safetensors", "ranker.safetensors"
_REINSTALL = "Install the package again; --proposals graph needs no weights."


def bundled_folder() -> Path:
    """The folder of the bundled networks."""
    return Path(str(files("counterview"))) / "assets" / "proposer"


@dataclass(frozen=True, eq=False)
class DensePrediction:
    """Per-pixel output of the boundary network, at the image's size.

    Attributes:
        edge: ``(h, w)`` uint8, 255 times the probability of an instance boundary.
        embedding: ``(h, w, 8)`` float32, similar within an instance.
        extent: ``(h, w, 5)`` float32, of the pixel's instance: centre (x and y, pixels of the image), log standard
            deviations along x and y, log area.
    """

    edge: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    extent: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BoundaryModel:
    """The boundary network, ready for use.

    Attributes:
        net: on the CPU, in float32.
        digest: SHA-256 of its file, in hex.
    """

    net: BoundaryNet
    digest: str

    def __call__(self, image: RgbImage) -> DensePrediction:
        """Predict boundaries, embeddings and extents.

        Args:
            image: ``(h, w, 3)`` uint8, RGB, of any size.
        """
        height, width = image.shape[:2]
        # The border is repeated until the sides are multiples of the stride.
        padded = np.pad(image, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), mode="edge")
        values = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1
        # Also amid training in half precision the masks of an image are the same.
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            logits, *halves = self.net(values.contiguous(memory_format=torch.channels_last))
            edge = (torch.sigmoid(logits[0, 0]) * 255 + 0.5).to(torch.uint8).numpy()[:height, :width]
            embedding, extent = (placed(half)[0].permute(1, 2, 0).contiguous().numpy() for half in halves)
        extent[..., :2] *= PLACE_PX
        embedding, extent = (_doubled(half)[:height, :width] for half in (embedding, extent))
        return DensePrediction(edge, embedding, extent)


def _doubled(half: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map ``(h, w, c)`` enlarged to ``(2h, 2w, c)``."""
    size_wh = (2 * half.shape[1], 2 * half.shape[0])
    return np.asarray(cv2.resize(half, size_wh, interpolation=cv2.INTER_LINEAR), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class NodeRanker:
    """The ranking network, ready for use.

    Attributes:
        weights: float32 arrays by name, see :func:`counterview.proposals.objectness.predict`.
        digest: SHA-256 of its file, in hex.
    """

    weights: dict[str, NDArray[np.float32]]
    digest: str

    def __call__(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Predicted IoU and selection logit ``(m,)`` each, of nodes with features ``(m, 26)``."""
        return predict(self.weights, features)


def load_boundary(root: Path | None = None) -> BoundaryModel:
    """The bundled boundary network.

    Args:
        root: folder to read it from instead.

    Raises:
        CheckpointError: its file is missing, or is not the one of this version.
    """
    path = (root or bundled_folder()) / BOUNDARY
    data, digest = read_bundled(path.parent, path.name, _REINSTALL)
    return _boundary_model(decode_tensors(data, path), digest, path)


def read_boundary(path: Path) -> BoundaryModel:
    """A boundary network from any file that training wrote.

    Raises:
        CheckpointError: missing, damaged, or the weights of another network.
    """
    return _boundary_model(read_tensors(path), sha256_file(path), path)


def _boundary_model(state: Mapping[str, torch.Tensor], digest: str, path: Path) -> BoundaryModel:
    net = BoundaryNet()
    load_strictly(net, state, path)
    net.eval().requires_grad_(False)
    return BoundaryModel(net.to(memory_format=torch.channels_last), digest)  # type: ignore[call-overload]


def load_ranker(root: Path | None = None) -> NodeRanker:
    """The bundled ranking network.

    Args:
        root: folder to read it from instead.

    Raises:
        CheckpointError: its file is missing, or is not the one of this version.
    """
    path = (root or bundled_folder()) / RANKER
    data, digest = read_bundled(path.parent, path.name, _REINSTALL)
    weights = {name: value.float().numpy() for name, value in decode_tensors(data, path).items()}
    if problems := _ranker_problems(weights):
        raise CheckpointError(
            f"the weights are not those of a ranking network: {shortened(problems)}", path=path, fix=_REINSTALL
        )
    return NodeRanker(weights, digest)


def _ranker_problems(weights: Mapping[str, NDArray[np.float32]]) -> list[str]:
    """What keeps weights from being a network from the features of a node to its two outputs."""
    width = len(FEATURES)
    shapes: dict[str, tuple[int, ...]] = {"mean": (width,), "scale": (width,)}
    for layer in range(sum(name.startswith("w") for name in weights)):
        outputs = weights[f"b{layer}"].shape[-1] if f"b{layer}" in weights else 0
        shapes |= {f"w{layer}": (width, outputs), f"b{layer}": (outputs,)}
        width = outputs
    problems = [f"{name} is missing" for name in shapes if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in shapes]
    problems += [
        f"{name} is {weights[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in weights and weights[name].shape != shape
    ]
    return problems if problems or width == 2 else [f"{width} outputs, expected 2"]
