"""The masks of matches, drawn again in windows around the matched proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from counterview.errors import ConfigError, shown
from counterview.inference.encoded import ImageEncoding
from counterview.inference.matchers import HeadMatcher
from counterview.masks.geometry import fit_mask
from counterview.proposals.cache import uncached
from counterview.types import ObjectMask

if TYPE_CHECKING:
    from counterview.inference.proposal_matcher import ProposalMatcher
    from counterview.refinement.base import Refiner

REFINE = ("none", "auto")
"""Whether masks are drawn again."""

VOTERS = 60
"""Proposals that may vote on where the object ends: the best ones."""


def check_refine(refine: str) -> None:
    """Check the option.

    Raises:
        ConfigError: not one of :data:`REFINE`.
    """
    if refine not in REFINE:
        raise ConfigError("unknown way to refine masks", found=shown(refine), expected=" or ".join(REFINE))


def refiner_for(predictor: ProposalMatcher) -> Refiner | None:
    """What draws the masks of a predictor again: SAM 2 where it proposes, the bundled network for a tiny-match."""
    proposer = uncached(predictor.proposer)
    if proposer.name == "sam2":
        from counterview.refinement.sam2 import Sam2Refiner

        return Sam2Refiner(proposer.model)  # type: ignore[attr-defined]
    matcher = predictor.matcher
    if isinstance(matcher, HeadMatcher) and matcher.model.method == "tiny-match" and proposer.name == "tiny":
        from counterview.refinement.refiner import MaskRefiner

        return MaskRefiner()
    return None


def drawn_again(
    refiner: Refiner,
    query: ImageEncoding,
    masks: Sequence[ObjectMask],
    target: ImageEncoding,
    similarity: NDArray[np.floating],
    order: NDArray[np.int64],
) -> list[ObjectMask] | None:
    """The best proposal of each query object, drawn again; ``None`` for encodings that hold no image.

    Args:
        refiner: draws.
        query: the query image.
        masks: M query masks.
        target: the target image, with N proposals.
        similarity: ``(M, N)``.
        order: ``(M, N)`` proposals of each query object, the best first.
    """
    if query.image is None or target.image is None:
        return None
    from counterview.refinement.base import Proposed
    from counterview.refinement.evidence import QueryColours, vote_weights

    proposals, proposed = target.proposals.masks, []
    for row, mask in enumerate(masks):
        best = order[row, :VOTERS]
        weights = vote_weights(similarity[row, best], float(similarity[row, best[0]]))
        colours = QueryColours.of(query.image, fit_mask(mask, query.size_hw))
        proposed.append(Proposed(proposals[best[0]], colours, [proposals[i] for i in best], weights))
    return [refined.mask for refined in refiner(target.image, proposed)]
