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
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    from counterview.inference.proposal_matcher import ProposalMatcher
    from counterview.refinement.base import Refiner
    from counterview.refinement.evidence import QueryColours

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
    from counterview.refinement.evidence import QueryColours

    colours = [QueryColours.of(query.image, fit_mask(mask, query.size_hw)) for mask in masks]
    return redrawn(refiner, target.image, target.proposals.masks, list(zip(order, similarity, colours, strict=True)))


def redrawn(
    refiner: Refiner,
    image: RgbImage,
    proposals: Sequence[ObjectMask],
    chosen: Sequence[tuple[NDArray[np.int64], NDArray[np.floating], QueryColours]],
) -> list[ObjectMask]:
    """Chosen proposals of an image, drawn again.

    Args:
        refiner: draws.
        image: ``(H, W, 3)`` uint8.
        proposals: N masks of it.
        chosen: for each object the ``(N,)`` rows of the proposals, the best first; the ``(N,)`` cosines of all with the
            object; and the object's colours.
    """
    from counterview.refinement.base import Proposed
    from counterview.refinement.evidence import vote_weights

    proposed = []
    for order, similarity, colours in chosen:
        best = order[:VOTERS]
        weights = vote_weights(similarity[best], float(similarity[best[0]]))
        proposed.append(Proposed(proposals[int(best[0])], colours, [proposals[int(i)] for i in best], weights))
    return [refined.mask for refined in refiner(image, proposed)]
