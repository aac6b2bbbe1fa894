"""An image after everything that depends on it alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.features.base import FeatureMap
    from counterview.proposals.base import Proposals


@dataclass(frozen=True, eq=False)
class EncodedView:
    """An image after everything that depends on it alone.

    Attributes:
        size_hw: height and width of the image in pixels.
        features: its feature map.
        proposals: its N candidate masks.
        descriptors: ``(N, D)`` float, one a proposal.
        around: the same image with the proposals of its own, where :attr:`proposals` are chosen masks. They say how
            the views lie to each other, and are no candidates.
    """

    size_hw: tuple[int, int]
    features: FeatureMap
    proposals: Proposals
    descriptors: Tensor
    around: EncodedView | None = None
