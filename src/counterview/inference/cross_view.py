"""A predictor that chooses among proposals, as the tracker reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from counterview.geometry.boxes import ScoredBoxes
from counterview.inference.encoded import ImageEncoding
from counterview.inference.frame_sharing import KeptImage, renewed
from counterview.inference.kept_alignments import ClipFrame, KeptAlignments
from counterview.inference.matchers import HeadMatcher
from counterview.inference.refining import redrawn
from counterview.refinement.evidence import QueryColours
from counterview.tracking.drawing import ChosenCandidate, MaskDrawer
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
        """Encode an image by itself, with its candidates.

        Args:
            image: ``(H, W, 3)`` uint8.
            name: of the image, for proposals that are stored by it.
        """
        return self.view(self.predictor.encode(image, name=name), small_gray(image))

    def clip(self, *, share_frames: bool = False, keep_alignments: bool = False) -> MatcherClip:
        """See :meth:`CrossViewModel.clip`."""
        return MatcherClip(self, share_frames, keep_alignments)

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

    def drawer(self) -> MaskDrawer[ImageEncoding] | None:
        """What draws the masks of a tracker again, if the predictor refines its masks."""
        return None if self.predictor.refiner is None else MaskDrawer(self)

    def colours(self, view: EncodedView[ImageEncoding], mask: ObjectMask) -> QueryColours | None:
        """See :meth:`counterview.tracking.drawing.MaskDrawing.colours`; the mask is ``(H, W)``."""
        image = view.handle.image
        return None if image is None else QueryColours.of(image, mask)

    def redraw(self, view: EncodedView[ImageEncoding], chosen: Sequence[ChosenCandidate]) -> list[ObjectMask]:
        """See :meth:`counterview.tracking.drawing.MaskDrawing.redraw`; masks are ``(H, W)``."""
        image, refiner, masks = view.handle.image, self.predictor.refiner, view.masks
        if image is None or refiner is None:
            return [masks[int(one.order[0])] for one in chosen]
        return redrawn(refiner, image, masks, [(one.order, one.similarity, one.colours) for one in chosen])

    def _looks(self, descriptors: torch.Tensor) -> NDArray[np.float32]:
        """The part of descriptors ``(N, D)`` that describes the object alone, at unit length."""
        matcher = self.predictor.matcher
        if isinstance(matcher, HeadMatcher):
            descriptors = descriptors[..., : matcher.omama.object_width]
        values = torch.nn.functional.normalize(descriptors.float(), dim=-1)
        return np.ascontiguousarray(values.cpu().numpy())


class MatcherClip:
    """The images of a clip, encoded. See :class:`counterview.tracking.views.ClipViews`.

    Args:
        views: of a predictor.
        share_frames: keep what does not change between two images (:mod:`counterview.inference.frame_sharing`).
        keep_alignments: find how cameras differ in colour once for the clip
            (:mod:`counterview.inference.kept_alignments`).
    """

    def __init__(self, views: MatcherViews, share_frames: bool, keep_alignments: bool) -> None:
        self._views, self._share = views, share_frames
        self._alignments = KeptAlignments() if keep_alignments else None
        self._numbers: dict[str, int] = defaultdict(int)
        self._kept: dict[str, KeptImage] = {}

    def encode(self, image: RgbImage, camera: str, name: str | None = None) -> EncodedView[ImageEncoding]:
        """See :meth:`counterview.tracking.views.ClipViews.encode`.

        Args:
            image: ``(H, W, 3)`` uint8.
            camera: its name.
            name: of the image, for proposals that are stored by it.
        """
        if self._share:
            encoding, self._kept[camera] = renewed(self._views.predictor, image, self._kept.get(camera), name)
        else:
            encoding = self._views.predictor.encode(image, name=name)
        if self._alignments is not None:
            encoding = replace(encoding, clip=ClipFrame(camera, self._numbers[camera], self._alignments))
        self._numbers[camera] += 1
        return self._views.view(encoding, small_gray(image))

    def state(self) -> dict[str, Any]:
        """See :meth:`counterview.tracking.views.ClipViews.state`."""
        alignments = None if self._alignments is None else self._alignments.state()
        kept = {camera: image.state() for camera, image in self._kept.items()}
        return {"numbers": dict(self._numbers), "alignments": alignments, "kept": kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`counterview.tracking.views.ClipViews.restore`."""
        self._numbers = defaultdict(int, {c: int(n) for c, n in state.get("numbers", {}).items()})
        if self._alignments is not None:
            self._alignments.restore(state.get("alignments") or ())
        device = getattr(self._views.predictor.backbone, "device", "cpu")
        self._kept = {c: KeptImage.from_state(s, device) for c, s in state.get("kept", {}).items()}
