"""A predictor that chooses among candidate masks: k-NN, O-MaMa and tiny-match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from counterview.errors import InputError, ProposalError
from counterview.inference.encoded import ImageEncoding
from counterview.inference.predictor import QueryMasks, match_images, name_masks
from counterview.inference.prompts import DOUBTFUL_VISIBILITY, Box, Point, check_query_mask, doubts_on, mask_at
from counterview.masks.geometry import same_aspect
from counterview.proposals.base import Proposals, fit_proposals
from counterview.types import Candidate, Match, ObjectMask, RgbImage, View, as_rgb

if TYPE_CHECKING:
    from counterview.features.base import Backbone
    from counterview.inference.matchers import Matcher
    from counterview.proposals.base import Proposer


class ProposalMatcher:
    """Finds objects of a query image among the proposals of a target image.

    Args:
        proposer: makes the candidate masks of an image.
        backbone: makes its feature map.
        matcher: describes masks, and scores candidates for query objects.

    >>> import counterview
    >>> import numpy as np
    >>> image = np.full((60, 80, 3), 90, dtype=np.uint8)
    >>> image[10:30, 10:30], image[25:50, 45:70] = (200, 30, 30), (30, 60, 200)
    >>> red, blue = (image == (200, 30, 30)).all(-1), (image == (30, 60, 200)).all(-1)
    >>> mirrored = np.ascontiguousarray(image[:, ::-1])
    >>> matches = counterview.load("knn").match(image, {"red": red, "blue": blue}, mirrored)
    >>> [(match.name, match.mask_rle.box_xywh, match.similarity > 0.9) for match in matches]
    [('red', (50, 10, 20, 20), True), ('blue', (10, 25, 25, 25), True)]
    >>> matches[0].mask.shape
    (60, 80)
    """

    def __init__(self, proposer: Proposer, backbone: Backbone, matcher: Matcher) -> None:
        self.proposer = proposer
        self.backbone = backbone
        self.matcher = matcher

    def settings(self) -> dict[str, Any]:
        """See :meth:`counterview.Predictor.settings`."""
        return {
            "matcher": {"name": self.matcher.name, **self.matcher.settings()},
            "proposals": {"name": self.proposer.name, **self.proposer.settings()},
            "features": {"name": self.backbone.name, **self.backbone.settings()},
        }

    def encode(
        self, image: RgbImage | View, proposals: Proposals | None = None, *, name: str | None = None
    ) -> ImageEncoding:
        """Propose and describe the masks of an image ``(H, W, 3)``. See :meth:`counterview.Predictor.encode`."""
        rgb = as_rgb(image)
        candidates = self.proposer(rgb, name) if proposals is None else proposals
        size = (rgb.shape[0], rgb.shape[1])
        if not same_aspect(candidates.size_hw, size):
            raise ProposalError("the proposals do not fit the image", found=candidates.size_hw, expected=size)
        fitted = fit_proposals(candidates, size)
        described = candidates if self.matcher.takes_any_size else fitted
        features = self.backbone.encode(rgb)
        descriptors = self.matcher.describe(self.backbone, features, described.masks, described.stored_boxes())
        return ImageEncoding(size, features, fitted, descriptors)

    def encode_query(self, image: RgbImage | View, *, name: str | None = None) -> ImageEncoding:
        """Encode an image ``(H, W, 3)`` with query masks: without proposals, unless the matcher reads them.

        A point or a box is resolved among proposals: then the image goes through :meth:`encode`.

        Args:
            image: ``(H, W, 3)`` uint8, or a view.
            name: as for :meth:`encode`.

        Raises:
            ImageError: not an RGB image.
        """
        rgb = as_rgb(image)
        size = (rgb.shape[0], rgb.shape[1])
        return self.encode(rgb, None if self.matcher.uses_query_proposals else Proposals.none(size), name=name)

    def resolve(self, query: ImageEncoding, prompt: ObjectMask | Point | Box, name: str = "object") -> ObjectMask:
        """See :meth:`counterview.Predictor.resolve`; a point or a box chooses among the image's proposals."""
        if isinstance(prompt, ObjectMask):
            check_query_mask(prompt, query.size_hw, name)
            return prompt
        return mask_at(prompt, query.proposals)

    def match(
        self,
        query_image: RgbImage | View,
        query_masks: QueryMasks,
        target_image: RgbImage | View,
        *,
        names: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Match]:
        """Find objects ``(H, W)`` of one image in another. See :meth:`counterview.Predictor.match`."""
        return match_images(self, query_image, query_masks, target_image, names, top_k, self.encode_query)

    def match_encoded(
        self,
        query: ImageEncoding,
        query_masks: Sequence[ObjectMask],
        target: ImageEncoding,
        *,
        names: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Match]:
        """See :meth:`counterview.Predictor.match_encoded`.

        A matcher that takes any size resizes masks itself; they may be of another resolution than the query image.
        """
        masks, names = name_masks(list(query_masks), names)
        if top_k < 1:
            raise InputError("top_k is at least 1", found=top_k)
        for mask, name in zip(masks, names, strict=True):
            is_resized = self.matcher.takes_any_size and same_aspect(mask.size_hw, query.size_hw)
            check_query_mask(mask, mask.size_hw if is_resized else query.size_hw, name)
        if not target.proposals.masks:
            raise ProposalError(
                "the target image has no proposals",
                fix="Try another proposer, or give masks with --proposals folder:PATH.",
            )
        scores = self.matcher.score(self.backbone, query, masks, target)
        order = (-scores.score).argsort(axis=1, kind="stable")[:, :top_k]
        matches = []
        for row, name in enumerate(names):
            candidates = tuple(
                Candidate(
                    target.proposals.masks[i], float(scores.similarity[row, i]), int(i), float(scores.score[row, i])
                )
                for i in order[row]
            )
            best, visibility, doubts = candidates[0], float(scores.visibility[row]), doubts_on(masks[row])
            if doubts and self.matcher.judges_visibility:
                visibility = min(visibility, DOUBTFUL_VISIBILITY)
            notes = (*doubts, *scores.notes[row])
            matches.append(Match(name, best.mask_rle, best.similarity, visibility, candidates, notes))
        return matches
