"""Predictions for a take: every method behind one protocol, frame by frame or over the clip."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from counterview.data.dataset import Direction, Take
from counterview.data.pairs import FramePair
from counterview.errors import AnnotationError, ImageError, MaskError, ProposalError, VideoError
from counterview.evaluation.scorer import LONGEST_SIDE_PX
from counterview.inference.predictor import Encoding, Predictor
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.media.files import safe_join
from counterview.proposals import load_proposer
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    import torch

    from counterview.lmeec.model import LMEEC

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one object, pair of cameras and frame.

    Attributes:
        direction: from which view to which.
        pair: the object, cameras and frame.
        mask: at the official size.
        confidence: probability that the object is visible; above 0.5 counts as visible.
        note: why the mask is empty, where it had to be.
    """

    direction: Direction
    pair: FramePair
    mask: ObjectMask
    confidence: float
    note: str | None = None


class TakePredictor(Protocol):
    """Predicts one take. :class:`FramePredictor` goes frame by frame; others may need the frames in order."""

    restartable: bool
    """Whether an interrupted take can continue where it was; if not, it is predicted from its beginning."""

    def settings(self) -> dict[str, Any]:
        """Everything that predictions depend on beside the data."""
        ...

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """Yield the predictions of each frame of ``wanted``, in order, one for each pair."""
        ...


class FramePredictor:
    """A predictor for pairs of images over a take, each frame by itself.

    Args:
        predictor: encodes and matches.
    """

    restartable = True

    def __init__(self, predictor: Predictor[Any]) -> None:
        self.predictor = predictor

    def settings(self) -> dict[str, Any]:
        """Settings of the predictor."""
        return self.predictor.settings()

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """See :class:`TakePredictor`."""
        for frame in sorted(wanted):
            encodings: dict[str, Encoding | str] = {}
            groups: dict[tuple[Direction, str, str], list[FramePair]] = defaultdict(list)
            for direction, pair in wanted[frame]:
                groups[direction, pair.query_camera, pair.target_camera].append(pair)
            results: list[Prediction] = []
            for (direction, query_camera, target_camera), pairs in groups.items():
                for camera in (query_camera, target_camera):
                    if camera not in encodings:
                        encodings[camera] = self._encode(take, camera, frame)
                results += self._match(take, direction, pairs, encodings[query_camera], encodings[target_camera])
            yield frame, results

    def _encode(self, take: Take, camera: str, frame: int) -> Encoding | str:
        """The encoded image, or why there is none."""
        try:
            image = take.frame(camera, frame)
            encoding: Encoding = self.predictor.encode(image, self._stored_proposals(take, camera, frame, image))
            return encoding
        except (ImageError, VideoError) as error:
            logger.warning("%s", error)
            return f"the image of {camera} is not available"

    def _stored_proposals(self, take: Take, camera: str, frame: int, image: RgbImage) -> Proposals | None:
        """Proposals of a folder are below it as images are in the prepared layout: ``take uid/camera/frame``."""
        if not isinstance(self.predictor, ProposalMatcher) or self.predictor.proposer.name != "folder":
            return None
        folder = safe_join(self.predictor.proposer.settings()["path"], take.uid, camera)
        return load_proposer(f"folder:{folder}")(image, str(frame))

    def _match(
        self,
        take: Take,
        direction: Direction,
        pairs: Sequence[FramePair],
        query: Encoding | str,
        target: Encoding | str,
    ) -> list[Prediction]:
        """Predictions for pairs of one frame and two cameras: those without a mask first."""
        size = prediction_size(take, pairs[0].target_camera, None if isinstance(target, str) else target.size_hw)

        def without_mask(pair: FramePair, problem: str) -> Prediction:
            return Prediction(direction, pair, ObjectMask.empty(size), 0.0, problem)

        if isinstance(query, str) or isinstance(target, str):
            problem = query if isinstance(query, str) else str(target)
            return [without_mask(pair, problem) for pair in pairs]
        empty, masks, matched = [], [], []
        for pair in pairs:
            try:
                masks.append(query_mask(take, pair, query.size_hw))
                matched.append(pair)
            except MaskError as error:
                empty.append(without_mask(pair, error.problem))
        if not masks:
            return empty
        names = [str(i) for i in range(len(masks))]
        try:
            matches = self.predictor.match_encoded(query, masks, target, names=names, top_k=1)
        except ProposalError as error:
            return [*empty, *(without_mask(pair, error.problem) for pair in matched)]
        return empty + [
            Prediction(
                direction, pair, resize_mask(match.mask_rle, size), match.visibility, "; ".join(match.notes) or None
            )
            for pair, match in zip(matched, matches, strict=True)
        ]


class ClipPredictor:
    """Follows all objects of a take through both directions, every image encoded once.

    Args:
        model: in eval mode.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.
    """

    restartable = False  # what is predicted for a frame depends on all frames before it

    def __init__(self, model: LMEEC, autocast: torch.dtype | None = None) -> None:
        self.model = model.eval()
        self.autocast = autocast

    def settings(self) -> dict[str, Any]:
        """The model's configuration, a hash of its weights, and the precision."""
        from counterview.config import to_dict

        return {
            "method": "lmeec",
            "model": to_dict(self.model.config),
            "weights": self.model.fingerprint(),
            "autocast": None if self.autocast is None else str(self.autocast),
        }

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """See :class:`TakePredictor`."""
        from counterview.lmeec.inference import predict_take

        for frame, answers in predict_take(self.model, take, wanted, autocast=self.autocast):
            results = []
            for answer in answers:
                result = answer.result
                found = None if result is None else result.mask_rle.size_hw
                size = prediction_size(take, answer.pair.target_camera, found)
                mask = ObjectMask.empty(size) if result is None else resize_mask(result.mask_rle, size)
                confidence = 0.0 if result is None else result.visibility
                results.append(Prediction(answer.direction, answer.pair, mask, confidence, answer.note))
            yield frame, results


def query_mask(take: Take, pair: FramePair, size_hw: tuple[int, int]) -> ObjectMask:
    """The query object's mask at the size of the image, which may be smaller than the annotation.

    A mask that vanishes when it is made smaller keeps one pixel, at its centroid.

    Raises:
        MaskError: there is none, it is malformed, or it has no pixel.
    """
    mask = take.mask(pair.object, pair.query_camera, pair.frame)
    if mask is None or mask.is_empty:
        raise MaskError("the query mask has no pixel")
    small = resize_mask(mask, size_hw)
    if not small.is_empty or mask.centroid_xy is None:
        return small
    x, y = mask.centroid_xy
    dense = np.zeros(size_hw, dtype=np.bool_)
    dense[int(y * size_hw[0] / mask.size_hw[0]), int(x * size_hw[1] / mask.size_hw[1])] = True
    return ObjectMask.from_array(dense)


def prediction_size(take: Take, camera: str, image_hw: tuple[int, int] | None) -> tuple[int, int]:
    """The official size of a prediction for a camera: its masks' size, or its image's, with longer side 480."""
    try:
        return fit_longest_side(take.native_size(camera), LONGEST_SIDE_PX)
    except AnnotationError:
        return fit_longest_side(image_hw or (LONGEST_SIDE_PX, LONGEST_SIDE_PX), LONGEST_SIDE_PX)
