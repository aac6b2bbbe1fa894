"""Two cameras brought to one look before their objects are compared. Ours.

What the two images show of the same scene tells how their cameras differ. Regions (the best proposals of both images)
are paired by descriptors of their grey crops at one brightness, which say nothing of a camera's colours. The colours
of these pairs give a transfer (:mod:`counterview.features.colour_transfer`). One of the images is brought through it to
the look of the other. That it helped shows in how well descriptors then agree; otherwise nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.features.colour_transfer import (
    ColourTransfer,
    fit_transfer,
    mean_chroma,
    recoloured,
    region_colours,
)
from counterview.features.object_crops import CropSource, ObjectCropNet, ObjectCrops
from counterview.features.tiny import HISTOGRAM_PX
from counterview.geometry.boxes import ScoredBoxes
from counterview.geometry.homography import soft_assignment
from counterview.media.images import LUMA
from counterview.proposals.base import Proposals
from counterview.types import RgbImage

_MID_GREY = 0.45
"""Brightness to which grey crops are brought: that of the images of training."""


@dataclass(frozen=True)
class AlignmentConfig:
    """How two cameras are brought to one look.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    regions: int = field(default=100, metadata={"help": "best proposals of both images that are paired"})
    pairs: int = field(default=200, metadata={"help": "likeliest pairs of regions whose colours are compared"})
    temperature: float = field(default=0.07, metadata={"help": "of the soft assignment of regions to each other"})
    min_gain: float = field(
        default=1.05, metadata={"help": "how much better descriptors must agree after a transfer, for it to be used"}
    )
    colourless: float = field(
        default=0.012, metadata={"help": "mean chroma (0 to 1) below which an image is one of a camera without colour"}
    )

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "regions", at_least=1, at_most=10_000),
            *out_of_range(self, "pairs", at_least=1, at_most=1_000_000),
            *out_of_range(self, "temperature", above=0),
            *out_of_range(self, "min_gain", at_least=1, at_most=100),
            *out_of_range(self, "colourless", at_least=0, at_most=1),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class Alignment:
    """How each image of a pair is to be changed; ``None`` leaves it as it is.

    Attributes:
        query: change of the query image's colours.
        target: change of the target image's colours.
        gain: how much better descriptors agree after the change, as a factor.
    """

    query: Recolouring | None = None
    target: Recolouring | None = None
    gain: float = field(default=1.0, compare=False)


@dataclass(frozen=True)
class Recolouring:
    """A transfer, or the way back from it.

    Attributes:
        transfer: from one camera to another.
        backwards: undo it.
    """

    transfer: ColourTransfer
    backwards: bool = False

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Colours ``(..., 3)`` uint8, of the same shape."""
        return self.transfer.undo(pixels) if self.backwards else self.transfer.apply(pixels)


GREY = ColourTransfer(saturation=0.0)


class CameraRegions:
    """What an image tells of its camera; each part is computed once.

    Args:
        network: describes object crops.
        source: the object crops of the image.
        proposals: its N proposals.
        config: constants.
        descriptors: ``(N, D)`` of their object crops, where they are known, of any length.
    """

    def __init__(
        self,
        network: ObjectCropNet,
        source: CropSource,
        proposals: Proposals,
        config: AlignmentConfig,
        descriptors: Tensor | None = None,
    ) -> None:
        self.network, self.source, self.config = network, source, config
        boxes = ScoredBoxes.make(proposals.boxes_xywh, proposals.size_hw, proposals.scores)
        rows = boxes.best(config.regions)
        self.scores = boxes.scores[rows]
        self._masks = [proposals.masks[row] for row in rows]
        self._known = None if descriptors is None else descriptors[torch.from_numpy(rows)]

    @cached_property
    def crops(self) -> ObjectCrops:
        """Of the M best proposals."""
        return self.source.crops(self._masks)

    @cached_property
    def colours(self) -> NDArray[np.float64]:
        """Their colours, ``(M, 3, 3)``."""
        return region_colours(self.crops)

    @cached_property
    def descriptors(self) -> NDArray[np.float32]:
        """``(M, D)`` of unit length, in the image's own colours."""
        return self.describe(self.crops) if self._known is None else _unit(self._known)

    @property
    def _image(self) -> RgbImage:
        return self.source.pyramid.reduced(HISTOGRAM_PX)

    @cached_property
    def mean_colour(self) -> NDArray[np.float64]:
        """``(3,)`` mean of red, green and blue of what is not black, from 0 to 1."""
        sampled = self._image[::4, ::4].reshape(-1, 3)
        lit = sampled[sampled.max(-1) > 8]
        return np.asarray(lit.mean(0) / 255 if len(lit) else np.full(3, 0.5), dtype=np.float64)

    @cached_property
    def grey_descriptors(self) -> NDArray[np.float32]:
        """``(M, D)`` of unit length, of grey crops at one brightness."""
        brightness = float(np.clip(self.mean_colour @ LUMA, 0.05, 0.95))
        to_mid_grey = ColourTransfer(gamma=float(np.log(_MID_GREY) / np.log(brightness)), saturation=0.0)
        return self.describe(recoloured(self.crops, to_mid_grey.apply))

    @cached_property
    def is_colourless(self) -> bool:
        """Whether the image is of a camera without colour."""
        return mean_chroma(self._image) < self.config.colourless

    def describe(self, crops: ObjectCrops) -> NDArray[np.float32]:
        """``(N, D)`` of unit length."""
        return _unit(self.network.describe(crops))

    def describe_changed(self, change: Recolouring) -> NDArray[np.float32]:
        """``(M, D)`` of unit length, in changed colours."""
        return self.describe(recoloured(self.crops, change))

    @property
    def cast(self) -> float:
        """How far the image's mean is from a mid grey, in logarithms."""
        logs = np.log(np.maximum(self.mean_colour, 0.02))
        tint = logs[[0, 2]] - logs[1]
        return float(np.abs(tint).max() + abs(logs.mean() - np.log(_MID_GREY)) / 2)


def _unit(descriptors: Tensor) -> NDArray[np.float32]:
    """``(N, D)`` of unit length."""
    return np.asarray(functional.normalize(descriptors.float(), dim=1).cpu().numpy(), dtype=np.float32)


def align(query: CameraRegions, target: CameraRegions, config: AlignmentConfig) -> Alignment:
    """Find how to bring two images to one look.

    Args:
        query: regions of one image.
        target: regions of the other; which of them is called the query makes no difference.
        config: constants.
    """
    if query.is_colourless != target.is_colourless:
        grey = Recolouring(GREY)
        return Alignment(target=grey) if query.is_colourless else Alignment(query=grey)
    if not len(query.scores) or not len(target.scores):
        return Alignment()
    # The image with the stronger cast is brought to the look of the other, which is nearer to what was learned from.
    target_moves = target.cast >= query.cast
    fixed, moved = (query, target) if target_moves else (target, query)
    rows, columns, weights = _pairs(fixed.grey_descriptors @ moved.grey_descriptors.T, fixed, moved, config)
    transfer = fit_transfer(fixed.colours[rows], moved.colours[columns], weights)
    change = Recolouring(transfer, backwards=True)
    gain = _gain(fixed, moved, change, config)
    if gain < config.min_gain:
        return Alignment()
    return Alignment(target=change, gain=gain) if target_moves else Alignment(query=change, gain=gain)


def gain_of(alignment: Alignment, query: CameraRegions, target: CameraRegions, config: AlignmentConfig) -> float:
    """How much better the descriptors of two images agree after an alignment that was found before, as a factor.

    Args:
        alignment: of their cameras, in this order.
        query: regions of one image.
        target: regions of the other.
        config: constants.
    """
    if not len(query.scores) or not len(target.scores):
        return 1.0
    if alignment.target is not None:
        return _gain(query, target, alignment.target, config)
    return 1.0 if alignment.query is None else _gain(target, query, alignment.query, config)


def _gain(fixed: CameraRegions, moved: CameraRegions, change: Recolouring, config: AlignmentConfig) -> float:
    before, after = (fixed.descriptors @ d.T for d in (moved.descriptors, moved.describe_changed(change)))
    agreement = [_agreement(similarity, fixed, moved, config) for similarity in (before, after)]
    return agreement[1] / max(agreement[0], 1e-9)


def _pairs(
    similarity: NDArray[np.floating], query: CameraRegions, target: CameraRegions, config: AlignmentConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows, columns and weights ``(P,)`` of the likeliest pairs, from ``(M, N)`` cosines."""
    # Squared, it is how likely a pair is seen from one side, times that from the other.
    likely = soft_assignment(np.asarray(similarity, dtype=np.float64), config.temperature) ** 2
    weights = likely * query.scores[:, None] * target.scores
    best = np.argsort(-weights, axis=None, kind="stable")[: config.pairs]
    rows, columns = np.unravel_index(best, weights.shape)
    return rows, columns, np.asarray(weights[rows, columns], dtype=np.float64)


def _agreement(
    similarity: NDArray[np.floating], query: CameraRegions, target: CameraRegions, config: AlignmentConfig
) -> float:
    """Summed similarity of the likeliest pairs, each by its weight."""
    rows, columns, weights = _pairs(similarity, query, target, config)
    return float((weights * similarity[rows, columns]).sum())
