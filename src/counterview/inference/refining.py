"""The masks of matches, drawn again in windows around the matched proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from counterview.errors import ConfigError, shown
from counterview.proposals.cache import uncached
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    from counterview.inference.proposal_matcher import ProposalMatcher

REFINE = ("none", "auto")
"""Whether masks are drawn again."""


class Refiner(Protocol):
    """Draws masks of an image again."""

    name: str

    def settings(self) -> dict[str, Any]:
        """What the masks depend on."""
        ...

    def __call__(self, image: RgbImage, masks: Sequence[ObjectMask]) -> list[ObjectMask]:
        """Draw N masks of an image ``(H, W, 3)`` uint8 again."""
        ...


def check_refine(refine: str) -> None:
    """Check the option.

    Raises:
        ConfigError: not one of :data:`REFINE`.
    """
    if refine not in REFINE:
        raise ConfigError("unknown way to refine masks", found=shown(refine), expected=" or ".join(REFINE))


def refiner_for(predictor: ProposalMatcher) -> Refiner | None:
    """What draws the masks of a predictor again: SAM 2 where it proposes; ``None`` otherwise."""
    proposer = uncached(predictor.proposer)
    if proposer.name != "sam2":
        return None
    from counterview.refinement.sam2 import Sam2Refiner

    return Sam2Refiner(proposer.model)  # type: ignore[attr-defined]
