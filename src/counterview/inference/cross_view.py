"""A predictor that chooses among proposals, as the tracker reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from counterview.geometry.boxes import ScoredBoxes
from counterview.inference.encoded import ImageEncoding
from counterview.inference.matchers import HeadMatcher
from counterview.tracking.place import small_gray
from counterview.tracking.views import EncodedView, ViewComparison
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    from counterview.inference.proposal_matcher import ProposalMatcher

TEMPERATURE = 0.07
"""Of the softmax over similarities, for methods whose scores are similarities (O-MaMa's loss has the same)."""


class MatcherViews:
    """Views and comparisons of a :class:`~counterview.inference.proposal_matcher.ProposalMatcher`.

    See :class:`counterview.tracking.views.CrossViewModel`.

    Args:
        predictor: encodes and matches.
    """

    def __init__(self, predictor: ProposalMatcher) -> None:
        self.predictor = predictor

    def settings(self) -> dict[str, Any]:
        """See :meth:`CrossViewModel.settings`."""
        return self.predictor.settings()

    def encode(self, image: RgbImage, name: str | None = None) -> EncodedView[ImageEncoding]:
        """See :meth:`CrossViewModel.encode`.

        Args:
            image: ``(H, W, 3)`` uint8.
            name: of the image, for proposals that are stored by it.
        """
        return self.view(self.predictor.encode(image, name=name), small_gray(image))

    def view(self, encoding: ImageEncoding, gray: NDArray[np.uint8]) -> EncodedView[ImageEncoding]:
        """An image that is encoded already.

        Args:
            encoding: with N proposals.
            gray: ``(h, w)`` uint8, see :func:`counterview.tracking.place.small_gray`.
        """
        proposals = encoding.proposals
        boxes = ScoredBoxes.make(proposals.boxes_xywh, encoding.size_hw, proposals.scores)
        return EncodedView(encoding.size_hw, proposals.masks, boxes, self._looks(encoding.descriptors), gray, encoding)

    def describe(self, view: EncodedView[ImageEncoding], masks: Sequence[ObjectMask]) -> NDArray[np.float32]:
        """See :meth:`CrossViewModel.describe`; masks are ``(H, W)``."""
        predictor = self.predictor
        return self._looks(predictor.matcher.describe(predictor.backbone, view.handle.features, masks))

    def compare(
        self, query: EncodedView[ImageEncoding], masks: Sequence[ObjectMask], target: EncodedView[ImageEncoding]
    ) -> ViewComparison:
        """See :meth:`CrossViewModel.compare`; masks are ``(H, W)``."""
        predictor = self.predictor
        scores = predictor.matcher.score(predictor.backbone, query.handle, masks, target.handle)
        logits = np.asarray(scores.score, dtype=np.float64)
        if np.array_equal(scores.score, scores.similarity):  # no re-ranker: a cosine is not a probability
            logits = logits / TEMPERATURE
        shifted = logits - logits.max(1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        similarity, visibility = (np.asarray(v, dtype=np.float64) for v in (scores.similarity, scores.visibility))
        return ViewComparison(similarity, log_probability, visibility)

    def _looks(self, descriptors: torch.Tensor) -> NDArray[np.float32]:
        """The part of descriptors ``(N, D)`` that describes the object alone, at unit length."""
        matcher = self.predictor.matcher
        if isinstance(matcher, HeadMatcher):
            descriptors = descriptors[..., : matcher.omama.object_width]
        values = torch.nn.functional.normalize(descriptors.float(), dim=-1)
        return np.ascontiguousarray(values.cpu().numpy())
