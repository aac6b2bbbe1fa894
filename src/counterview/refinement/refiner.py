"""Draw proposed masks again, each in a window of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterview.geometry.windows import paste_logits
from counterview.media.files import read_bundled
from counterview.nn.weights import decode_tensors, load_strictly
from counterview.proposals.bundled import BoundaryModel, load_boundary
from counterview.refinement.base import Proposed, Refined
from counterview.refinement.evidence import refining_window, window_maps
from counterview.refinement.network import RefinerNet
from counterview.types import RgbImage

NAME = "refiner.safetensors"

VERSION = 1
"""Raised when the same weights give other masks than before."""


def weights_folder() -> Path:
    """The folder of the bundled weights."""
    return Path(str(files("counterview"))) / "assets" / "refiner"


class MaskRefiner:
    """Draws proposed masks again.

    Args:
        net: the network, in evaluation mode; the bundled one by default.
        digest: SHA-256 of its file, in hex.
        boundary: the boundary network; the bundled one by default.

    Raises:
        CheckpointError: bundled weights are missing or damaged.
    """

    def __init__(self, net: RefinerNet | None = None, digest: str = "", boundary: BoundaryModel | None = None) -> None:
        self._net, self._digest = load_refiner() if net is None else (net, digest)
        self._given = boundary

    @cached_property
    def boundary(self) -> BoundaryModel:
        """The boundary network; read when it is first needed."""
        return load_boundary() if self._given is None else self._given

    def settings(self) -> dict[str, Any]:
        """Version of the method, and hashes of the networks."""
        digests = {"weights": self._digest[:16], "boundary": self.boundary.digest[:16]}
        return {"name": "bundled", "version": VERSION, **digests}

    def __call__(self, image: RgbImage, proposed: Sequence[Proposed]) -> list[Refined]:
        """Draw N masks again.

        Args:
            image: ``(H, W, 3)`` uint8.
            proposed: N masks of it.

        Returns:
            N masks of the image's size.

        Raises:
            MaskError: a proposed mask is empty.
        """
        if not proposed:
            return []
        windows = [refining_window(item.mask) for item in proposed]
        maps = np.stack([
            window_maps(image, item.mask, item.others, item.weights, item.query, self.boundary, window)
            for item, window in zip(proposed, windows, strict=True)
        ])  # fmt: skip
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            values = torch.from_numpy(maps).float() / 255
            logits, judged = self._net(values.contiguous(memory_format=torch.channels_last))
        size_hw = image.shape[0], image.shape[1]
        results = []
        for item, window, drawn, (drawn_iou, proposed_iou) in zip(
            proposed, windows, logits.numpy(), judged.sigmoid().tolist(), strict=True
        ):
            mask = paste_logits(drawn, window, size_hw)
            is_better = drawn_iou >= proposed_iou and not mask.is_empty
            results.append(Refined(mask if is_better else item.mask, drawn_iou, proposed_iou))
        return results


def load_refiner(root: Path | None = None) -> tuple[RefinerNet, str]:
    """The bundled network and the SHA-256 of its file.

    Args:
        root: folder to read it from instead.

    Raises:
        CheckpointError: its file is missing, or is not the one of this version.
    """
    path = (root or weights_folder()) / NAME
    data, digest = read_bundled(path.parent, path.name)
    net = RefinerNet()
    load_strictly(net, {k: v.float() for k, v in decode_tensors(data, path).items()}, path)
    net.eval().requires_grad_(False)
    return net.to(memory_format=torch.channels_last), digest  # type: ignore[call-overload]
