"""The two networks of the ``tiny`` proposer, from the files that come with the package, each checked by its hash."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_numpy
from safetensors.torch import load as load_torch

from counterview.errors import CheckpointError
from counterview.media.files import read_shipped
from counterview.proposals.boundary import PLACE_PX, STRIDE, BoundaryNet, placed
from counterview.proposals.objectness import FEATURES, predict
from counterview.types import RgbImage

BOUNDARY, RANKER = "boundary.safetensors", "ranker.safetensors"
_AGAIN = "Install the package again; --proposals graph needs no weights."


def folder() -> Path:
    """Where the shipped files lie."""
    return Path(str(files("counterview"))) / "assets" / "proposer"


@dataclass(frozen=True, eq=False)
class Seen:
    """What the boundary network says of every pixel of an image.

    Attributes:
        edge: ``(h, w)`` uint8, 255 times the probability that a body ends here.
        embedding: ``(h, w, 8)`` float32, alike within a body.
        extent: ``(h, w, 5)`` float32, middle (x and y, pixels), log deviations along x and y and log area of the body
            that the pixel belongs to.
    """

    edge: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    extent: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Boundary:
    """The boundary network, ready for use.

    Attributes:
        net: on the processor, in float32.
        digest: SHA-256 of the file it came from, in hex.
    """

    net: BoundaryNet
    digest: str

    def __call__(self, image: RgbImage) -> Seen:
        """What is seen in an image ``(h, w, 3)`` uint8."""
        height, width = image.shape[:2]
        # The rim is repeated until the sides are multiples of the stride.
        padded = np.pad(image, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), mode="edge")
        values = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            logits, *halves = self.net(values.contiguous(memory_format=torch.channels_last))
            edge = (torch.sigmoid(logits[0, 0]) * 255 + 0.5).to(torch.uint8).numpy()[:height, :width]
            embedding, extent = (placed(half)[0].permute(1, 2, 0).contiguous().numpy() for half in halves)
        extent[..., :2] *= PLACE_PX
        embedding, extent = (_whole(half)[:height, :width] for half in (embedding, extent))
        return Seen(edge, embedding, extent)


def _whole(half: NDArray[np.float32]) -> NDArray[np.float32]:
    """Twice the size, ``(h, w, c)`` to ``(2h, 2w, c)``."""
    size_wh = (2 * half.shape[1], 2 * half.shape[0])
    return np.asarray(cv2.resize(half, size_wh, interpolation=cv2.INTER_LINEAR), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Ranker:
    """The ranking network. Attributes: weights by name, float32; SHA-256 of the file they came from."""

    weights: dict[str, NDArray[np.float32]]
    digest: str

    def __call__(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Quality and promise of nodes, ``(m, k)`` to ``(m,)`` each: see :mod:`counterview.proposals.objectness`."""
        return predict(self.weights, features)


def load_boundary(root: Path | None = None) -> Boundary:
    """The shipped boundary network.

    Raises:
        CheckpointError: its file is missing, or is not what was shipped.
    """
    data, digest = read_shipped(root or folder(), BOUNDARY, _AGAIN)
    path = (root or folder()) / BOUNDARY
    return boundary_from(data, digest, path)


def boundary_from(data: bytes, digest: str, path: Path) -> Boundary:
    """A boundary network from the bytes of a safetensors file. Errors as for :func:`load_boundary`."""
    net = BoundaryNet()
    try:
        net.load_state_dict({name: value.float() for name, value in load_torch(data).items()})
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            "is no boundary network of this version", path=path, found=str(error).splitlines()[0][:120], fix=_AGAIN
        ) from None
    net.eval().requires_grad_(False)
    return Boundary(net.to(memory_format=torch.channels_last), digest)  # type: ignore[call-overload]


def load_ranker(root: Path | None = None) -> Ranker:
    """The shipped ranking network. Errors as for :func:`load_boundary`."""
    data, digest = read_shipped(root or folder(), RANKER, _AGAIN)
    path = (root or folder()) / RANKER
    try:
        weights = {name: np.asarray(value, dtype=np.float32) for name, value in load_numpy(data).items()}
    except SafetensorError as error:
        raise CheckpointError("cannot be read", path=path, found=str(error)[:120], fix=_AGAIN) from None
    known = weights.get("mean", np.zeros(0)).shape
    if known != (len(FEATURES),):
        raise CheckpointError("is for other features", path=path, found=known, expected=(len(FEATURES),), fix=_AGAIN)
    return Ranker(weights, digest)
