"""The pair of pictures that comes with the package: one rendered table scene from near and from far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from counterview.types import ObjectMask, RgbImage


@dataclass(frozen=True)
class BundledView:
    """One of the two pictures.

    Attributes:
        name: ``ego`` or ``exo``.
        image: ``(H, W, 3)`` uint8.
        masks: the annotated objects by name.
    """

    name: str
    image: RgbImage
    masks: Mapping[str, ObjectMask]


@dataclass(frozen=True)
class BundledPair:
    """Both pictures. The same objects are annotated in both."""

    near: BundledView
    far: BundledView
