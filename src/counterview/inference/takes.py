"""Predictions for takes: frame by frame, or with the memory of LM-EEC over the clip."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from counterview.data.dataset import Direction, Take
from counterview.data.pairs import FramePair
from counterview.errors import AnnotationError, ImageError, MaskError, ProposalError, VideoError
from counterview.evaluation.scorer import LONGEST_SIDE_PX
from counterview.inference.geometric_matcher import GeometricMatcher
from counterview.inference.predictor import Encoding, Predictor
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.masks.geometry import fit_longest_side, fit_mask, resize_mask
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
    """The prediction for one object in one frame and pair of cameras.

    Attributes:
        direction: ego to exo or exo to ego.
        pair: the object, the cameras and the frame.
        mask: the predicted mask, at the official size of the target camera.
        confidence: probability that the object is visible, in ``[0, 1]``; above 0.5 counts as visible.
        note: why the mask is empty although the model did not say so, or the warnings of the match; ``None`` if there
            is nothing to report.
    """

    direction: Direction
    pair: FramePair
    mask: ObjectMask
    confidence: float
    note: str | None = None


class TakePredictor(Protocol):
    """Predicts takes: :class:`FramePredictor` frame by frame, :class:`ClipPredictor` with memory."""

    restartable: bool
    """Whether an interrupted take can be resumed in the middle; otherwise it is predicted from its first frame."""

    def settings(self) -> dict[str, Any]:
        """Everything beside the data that predictions depend on, as plain values."""
        ...

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """Predict a take.

        Args:
            take: the take.
            wanted: frame number to the pairs to predict, each with its direction.

        Yields:
            frame number and predictions, one for each pair; the frames in ascending order.
        """
        ...


class FramePredictor:
    """Predicts each frame of a take on its own, with a predictor for pairs of images.

    Args:
        predictor: encodes each image once a frame, and matches.
    """

    restartable = True

    def __init__(self, predictor: Predictor[Any]) -> None:
        self.predictor = predictor

    def settings(self) -> dict[str, Any]:
        """The settings of the predictor."""
        return self.predictor.settings()

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """See :meth:`TakePredictor.predict`."""
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
        """The encoded image, or the reason why it is not available."""
        try:
            image = take.frame(camera, frame)
            encoding: Encoding = self.predictor.encode(image, self._stored_proposals(take, camera, frame, image))
            return encoding
        except (ImageError, VideoError) as error:
            logger.warning("%s", error)
            return f"the image of {camera} is not available"

    def _stored_proposals(self, take: Take, camera: str, frame: int, image: RgbImage) -> Proposals | None:
        """Proposals of the proposer ``folder``, from ``TAKE UID/CAMERA/FRAME``; ``None`` for other proposers."""
        if (
            not isinstance(self.predictor, ProposalMatcher | GeometricMatcher)
            or self.predictor.proposer.name != "folder"
        ):
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
        """Predictions for the pairs of one frame and two cameras; empty ones come first."""
        size = prediction_size(take, pairs[0].target_camera, None if isinstance(target, str) else target.size_hw)

        def without_mask(pair: FramePair, problem: str) -> Prediction:
            return Prediction(direction, pair, ObjectMask.empty(size), 0.0, problem)

        if isinstance(query, str) or isinstance(target, str):
            problem = query if isinstance(query, str) else str(target)
            return [without_mask(pair, problem) for pair in pairs]
        empty, masks, pairs_to_match = [], [], []
        for pair in pairs:
            try:
                masks.append(query_mask(take, pair, query.size_hw))
                pairs_to_match.append(pair)
            except MaskError as error:
                empty.append(without_mask(pair, error.problem))
        if not masks:
            return empty
        names = [str(i) for i in range(len(masks))]
        try:
            matches = self.predictor.match_encoded(query, masks, target, names=names, top_k=1)
        except ProposalError as error:
            return [*empty, *(without_mask(pair, error.problem) for pair in pairs_to_match)]
        return empty + [
            Prediction(
                direction, pair, resize_mask(match.mask_rle, size), match.visibility, "; ".join(match.notes) or None
            )
            for pair, match in zip(pairs_to_match, matches, strict=True)
        ]


class ClipPredictor:
    """Follows all objects of a take in both directions, with the memory of LM-EEC; every image is encoded once.

    Args:
        model: an LM-EEC; it is put in eval mode.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.
    """

    restartable = False  # a prediction depends on all earlier frames

    def __init__(self, model: LMEEC, autocast: torch.dtype | None = None) -> None:
        self.model = model.eval()
        self.autocast = autocast

    def settings(self) -> dict[str, Any]:
        """Configuration, a hash of the weights, and precision."""
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
        """See :meth:`TakePredictor.predict`."""
        from counterview.lmeec.inference import predict_take

        for frame, outputs in predict_take(self.model, take, wanted, autocast=self.autocast):
            predictions = []
            for output in outputs:
                result = output.result
                image_hw = None if result is None else result.mask_rle.size_hw
                size = prediction_size(take, output.pair.target_camera, image_hw)
                mask = ObjectMask.empty(size) if result is None else resize_mask(result.mask_rle, size)
                confidence = 0.0 if result is None else result.visibility
                predictions.append(Prediction(output.direction, output.pair, mask, confidence, output.note))
            yield frame, predictions


def query_mask(take: Take, pair: FramePair, size_hw: tuple[int, int]) -> ObjectMask:
    """The annotated mask of the query object, resized to its image, which may be smaller than the annotation.

    A mask of which no pixel is left after resizing is replaced by one pixel at its centroid.

    Args:
        take: the take.
        pair: object, query camera and frame.
        size_hw: height and width of the query image in pixels.

    Returns:
        a mask of ``size_hw`` with at least one pixel.

    Raises:
        MaskError: the mask is missing, malformed or empty.
    """
    mask = take.mask(pair.object, pair.query_camera, pair.frame)
    if mask is None or mask.is_empty:
        raise MaskError("the query mask has no pixel")
    return fit_mask(mask, size_hw)


def prediction_size(take: Take, camera: str, image_hw: tuple[int, int] | None) -> tuple[int, int]:
    """The official size of predictions for a camera: that of its annotated masks, scaled to a longer side of 480.

    Args:
        take: the take.
        camera: the target camera.
        image_hw: height and width of its image in pixels, used if the camera has no annotated mask; without it the
            prediction is 480 square.

    Returns:
        height and width in pixels.
    """
    try:
        return fit_longest_side(take.native_size(camera), LONGEST_SIDE_PX)
    except AnnotationError:
        return fit_longest_side(image_hw or (LONGEST_SIDE_PX, LONGEST_SIDE_PX), LONGEST_SIDE_PX)
