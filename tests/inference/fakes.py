"""A proposer and a backbone with known right matches: squares of one colour, described by that colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from counterview.features.base import FeatureMap
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask

COLOURS = {"red": (200, 20, 20), "green": (20, 180, 20), "blue": (30, 30, 220), "yellow": (210, 200, 10)}


def scene(places: dict[str, tuple[int, int]], size_hw: tuple[int, int] = (80, 120), side: int = 16):
    """A grey image with a square of each colour at ``(x, y)``, and the squares' masks."""
    image = np.full((*size_hw, 3), 90, np.uint8)
    masks = {}
    for name, (x, y) in places.items():
        dense = np.zeros(size_hw, bool)
        dense[y : y + side, x : x + side] = True
        image[dense] = COLOURS[name]
        masks[name] = ObjectMask.from_array(dense)
    return image, masks


class ColourProposer:
    """Proposes every area of one colour."""

    name = "colour"

    def __init__(self) -> None:
        self.calls = 0

    def settings(self):
        return {"areas": "flat"}

    def __call__(self, image, name=None):
        self.calls += 1
        masks = [ObjectMask.from_array((image == c).all(-1)) for c in np.unique(image.reshape(-1, 3), axis=0)]
        kept = [m for m in masks if m.area < 0.5 * image.shape[0] * image.shape[1]]
        return Proposals(image.shape[:2], tuple(kept), np.linspace(1, 0.5, len(kept)))


class NoProposer(ColourProposer):
    """Proposes nothing."""

    def __call__(self, image, name=None):
        return Proposals.none(image.shape[:2])


class ColourBackbone:
    """A map of the image's own colours, and their mean over a mask as descriptor."""

    name = "colour"
    channels = 3
    stride = 1

    def __init__(self) -> None:
        self.calls = 0

    def settings(self):
        return {"kind": "mean colour"}

    def encode(self, image):
        self.calls += 1
        tensor = torch.from_numpy(image.astype(np.float32) / 255 - 90 / 255).permute(2, 0, 1).contiguous()
        return FeatureMap(tensor, image.shape[:2], image.shape[:2], reduction=1)

    def __call__(self, images: Sequence[np.ndarray]):
        return [self.encode(image) for image in images]

    def describe(self, features, masks, kind="mask", *, context_px=None, fallback="centre"):
        rows = [features.tensor[:, torch.from_numpy(m.to_array())].mean(1) for m in masks]
        return torch.stack(rows) if rows else torch.zeros(0, 3)
