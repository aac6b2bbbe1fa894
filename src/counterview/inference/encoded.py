"""What predictors that choose among proposals compute from one image alone."""

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
        features: the feature map, ``(C, H, W)``.
        proposals: the N candidate masks.
        descriptors: ``(N, D)`` float, one row a proposal.
        context: the same image with the masks of a proposer, if :attr:`proposals` come from elsewhere (for example the
            true masks). The homographies between the views are estimated from these; they are not candidates.
    """

    size_hw: tuple[int, int]
    features: FeatureMap
    proposals: Proposals
    descriptors: Tensor
    context: ImageEncoding | None = None
