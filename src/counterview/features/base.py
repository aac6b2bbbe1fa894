"""The protocol of feature extractors: a feature map of an image, and descriptors of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from counterview.errors import InputError
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    from torch import Tensor

PoolingKind = Literal["mask", "box", "box_max", "centroid"]
"""Mean over the mask, mean or maximum over its box, value at its centroid (the rows of O-MaMa's Table 4)."""

Fallback = Literal["zeros", "centre"]
"""Descriptor of a mask without a point of the pooling grid: zeros, as released, or the value at its centroid."""


@dataclass(frozen=True)
class PoolGrid:
    """The sizes that relate an image to a feature map, without the map itself.

    Attributes:
        image_hw: size of the image in which masks are given, in pixels.
        input_hw: size of the extractor's input, in pixels.
        cells_hw: size of the feature map.
        reduction: pooling happens on the map upsampled bilinearly to ``input_hw // reduction``.

    Raises:
        InputError: a size or a reduction below 1.
    """

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    cells_hw: tuple[int, int]
    reduction: int = 4

    def __post_init__(self) -> None:
        for name in ("image_hw", "input_hw", "cells_hw"):
            size = tuple(int(v) for v in getattr(self, name))
            if len(size) != 2 or min(size) < 1:
                raise InputError(f"{name} is a height and a width of at least 1", found=size)
            object.__setattr__(self, name, size)
        if self.reduction < 1:
            raise InputError("the reduction of a pooling grid is at least 1", found=self.reduction)

    @property
    def points_hw(self) -> tuple[int, int]:
        """Size of the pooling grid: a quarter of the input for a reduction of 4."""
        return max(1, self.input_hw[0] // self.reduction), max(1, self.input_hw[1] // self.reduction)


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features of one image.

    Attributes:
        tensor: ``(C, h, w)`` floating point.
        image_hw: size of the image, in pixels; masks to pool are of this size.
        input_hw: size of the extractor's input, in pixels.
        reduction: see :class:`PoolGrid`.
        extra: private to the extractor, for its ``describe``.

    Raises:
        InputError: a tensor of another rank or dtype, or a size below 1.
    """

    tensor: Tensor
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    reduction: int = 4
    extra: Any = None

    def __post_init__(self) -> None:
        if self.tensor.ndim != 3 or not self.tensor.is_floating_point():
            raise InputError(
                "a feature map is (C, h, w) floating point", found=f"{self.tensor.dtype} {tuple(self.tensor.shape)}"
            )
        _ = self.grid

    @property
    def grid(self) -> PoolGrid:
        """The sizes, without the map."""
        return PoolGrid(self.image_hw, self.input_hw, (self.tensor.shape[1], self.tensor.shape[2]), self.reduction)

    @property
    def channels(self) -> int:
        """Number of channels ``C``."""
        return int(self.tensor.shape[0])


@runtime_checkable
class Backbone(Protocol):
    """A feature extractor.

    Attributes:
        name: under which it was loaded.
        channels: channels ``C`` of its maps.
        stride: pixels of the extractor's input from one cell to the next.
    """

    name: str
    channels: int
    stride: int

    def settings(self) -> dict[str, Any]:
        """Everything that its output depends on, as JSON values: part of cache keys."""
        ...

    def encode(self, image: RgbImage) -> FeatureMap:
        """The feature map of an image.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.

        Raises:
            ImageError: another shape or dtype.
        """
        ...

    def __call__(self, images: Sequence[RgbImage]) -> list[FeatureMap]:
        """The feature maps of several images ``(H, W, 3)`` of any sizes, in their order."""
        ...

    def describe(
        self,
        features: FeatureMap,
        masks: Sequence[ObjectMask],
        kind: PoolingKind = "mask",
        *,
        context_px: int | None = None,
        fallback: Fallback = "centre",
    ) -> Tensor:
        """Descriptors of masks, to be compared by cosine.

        Networks pool their map (:func:`counterview.features.pooling.describe`); others may describe masks from the
        image itself.

        Args:
            features: of the image, from :meth:`encode`.
            masks: N masks at the size of the image.
            kind: what is pooled.
            context_px: also append the mean over each mask's box grown by this many pixels of the input.
            fallback: for masks too small for the pooling grid.

        Returns:
            ``(N, D)``, one row a mask.

        Raises:
            MaskError: a mask of another size than the image.
        """
        ...
