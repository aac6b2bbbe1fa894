"""An image after everything that depends on it alone, for predictors that choose among proposals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.features.base import FeatureMap
    from counterview.proposals.base import Proposals


@dataclass(frozen=True, eq=False)
class ImageEncoding:
    """An image with its feature map and its described proposals.

    Attributes:
        size_hw: height and width of the image in pixels.
        features: its feature map.
        proposals: its N candidate masks.
        descriptors: ``(N, D)`` float, one a proposal.
        context: the same image with its own proposals, where :attr:`proposals` are chosen masks. They give the
            homographies between the views, and are not candidates.
    """

    size_hw: tuple[int, int]
    features: FeatureMap
    proposals: Proposals
    descriptors: Tensor
    context: ImageEncoding | None = None
