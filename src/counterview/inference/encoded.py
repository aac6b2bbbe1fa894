"""What predictors that choose among proposals compute from one image alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.features.base import FeatureMap
    from counterview.inference.kept_alignments import ClipFrame
    from counterview.proposals.base import Proposals
    from counterview.types import RgbImage


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
        image: ``(H, W, 3)`` uint8, if it is kept.
        prompt_source: makes the masks that points and boxes choose among; :attr:`proposals` by default.
        clip: which frame of which clip it is, where it is followed.
    """

    size_hw: tuple[int, int]
    features: FeatureMap
    proposals: Proposals
    descriptors: Tensor
    context: ImageEncoding | None = None
    image: RgbImage | None = field(default=None, repr=False)
    prompt_source: Callable[[], Proposals] | None = field(default=None, repr=False)
    clip: ClipFrame | None = field(default=None, repr=False)

    @cached_property
    def prompt_proposals(self) -> Proposals:
        """The masks ``(H, W)`` that points and boxes choose among; made on first use."""
        return self.proposals if self.prompt_source is None else self.prompt_source()
