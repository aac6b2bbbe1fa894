"""Predictions for takes: frame by frame, or with the memory of LM-EEC over the clip."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from counterview.data.dataset import Direction, Take
from counterview.data.pairs import FramePair
from counterview.errors import AnnotationError, ImageError, MaskError, ProposalError, VideoError
from counterview.evaluation.layout import OFFICIAL, SQUARE_HW, Layout
from counterview.evaluation.scorer import LONGEST_SIDE_PX
from counterview.inference.predictor import Encoding, Predictor
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.masks.geometry import fit_longest_side, fit_mask, resize_mask, same_aspect
from counterview.proposals import CachedProposer
from counterview.proposals.base import frame_name
from counterview.types import ObjectMask

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
        mask: the predicted mask, at the official size of the target camera or another that a layout asks for.
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
    layout: Layout
    """Frames to predict, and sizes of masks."""

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
        layout: sizes of the masks.
    """

    restartable = True

    def __init__(self, predictor: Predictor[Any], layout: Layout = OFFICIAL) -> None:
        self.predictor = predictor
        self.layout = layout

    @property
    def cache(self) -> CachedProposer | None:
        """The proposer's cache on disk, if there is one."""
        proposer = getattr(self.predictor, "proposer", None)
        return proposer if isinstance(proposer, CachedProposer) else None

    def settings(self) -> dict[str, Any]:
        """The settings of the predictor."""
        return self.predictor.settings()

    def predict(
        self, take: Take, wanted: dict[int, list[tuple[Direction, FramePair]]]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """See :meth:`TakePredictor.predict`."""
        take.plan_reads(frames_by_camera(wanted))
        for frame in sorted(wanted):
            encodings: dict[str, Encoding | str] = {}
            targets = {pair.target_camera for _, pair in wanted[frame]}
            groups: dict[tuple[Direction, str, str], list[FramePair]] = defaultdict(list)
            for direction, pair in wanted[frame]:
                groups[direction, pair.query_camera, pair.target_camera].append(pair)
            results: list[Prediction] = []
            for (direction, query_camera, target_camera), pairs in groups.items():
                for camera in (query_camera, target_camera):
                    if camera not in encodings:
                        encodings[camera] = self._encode(take, camera, frame, is_target=camera in targets)
                results += self._match(take, direction, pairs, encodings[query_camera], encodings[target_camera])
            yield frame, results

    def _encode(self, take: Take, camera: str, frame: int, *, is_target: bool) -> Encoding | str:
        """The encoded image, or the reason why it is not available. A query image may do without proposals."""
        predictor, name = self.predictor, frame_name(take.uid, camera, frame)
        try:
            image = take.frame(camera, frame)
        except (ImageError, VideoError) as error:
            logger.warning("%s", error)
            return f"the image of {camera} is not available"
        encode = predictor.encode if is_target or not isinstance(predictor, ProposalMatcher) else predictor.encode_query
        try:
            encoding: Encoding = encode(image, name=name)
        except ProposalError as error:
            if is_target or not isinstance(predictor, ProposalMatcher):
                raise
            raise ProposalError(
                f"{error.problem}; {predictor.matcher.name} reads the proposals of query images too",
                path=error.path, found=error.found, expected=error.expected, fix=error.fix,
            ) from None  # fmt: skip
        return encoding

    def _match(
        self,
        take: Take,
        direction: Direction,
        pairs: Sequence[FramePair],
        query: Encoding | str,
        target: Encoding | str,
    ) -> list[Prediction]:
        """Predictions for the pairs of one frame and two cameras; empty ones come first."""
        image_hw = None if isinstance(target, str) else target.size_hw
        size = prediction_size(take, pairs[0].target_camera, image_hw, self.layout)

        def without_mask(pair: FramePair, problem: str) -> Prediction:
            return Prediction(direction, pair, ObjectMask.empty(size), 0.0, problem)

        if isinstance(query, str) or isinstance(target, str):
            problem = query if isinstance(query, str) else str(target)
            return [without_mask(pair, problem) for pair in pairs]
        empty, masks, pairs_to_match = [], [], []
        for pair in pairs:
            try:
                masks.append(self._query_mask(take, pair, query.size_hw))
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

    def _query_mask(self, take: Take, pair: FramePair, size_hw: tuple[int, int]) -> ObjectMask:
        """The query object at the size that the predictor asks for: the image's, or its own."""
        predictor = self.predictor
        mask = take.mask(pair.object, pair.query_camera, pair.frame)
        if (
            isinstance(predictor, ProposalMatcher)
            and predictor.matcher.takes_any_size
            and mask is not None
            and not mask.is_empty
            and same_aspect(mask.size_hw, size_hw)
        ):
            return mask
        return query_mask(take, pair, size_hw)


class ClipPredictor:
    """Follows all objects of a take in both directions, with the memory of LM-EEC; every image is encoded once.

    Args:
        model: an LM-EEC; it is put in eval mode.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.
        layout: sizes of the masks; with ``lmeec``, each object in each target camera is a clip of its own, as there.
    """

    restartable = False  # a prediction depends on all earlier frames

    def __init__(self, model: LMEEC, autocast: torch.dtype | None = None, layout: Layout = OFFICIAL) -> None:
        self.model = model.eval()
        self.autocast = autocast
        self.layout = layout

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

        clip: Any = "track" if self.layout.square else "camera"
        for frame, outputs in predict_take(self.model, take, wanted, autocast=self.autocast, clip=clip):
            predictions = []
            for output in outputs:
                result = output.result
                image_hw = None if result is None else result.mask_rle.size_hw
                size = prediction_size(take, output.pair.target_camera, image_hw, self.layout)
                if result is None:
                    mask = ObjectMask.empty(size)
                elif self.layout.square:  # the model's own shape: not by way of the image's
                    mask = result.mask_of_size(size)
                else:
                    mask = resize_mask(result.mask_rle, size)
                confidence = 0.0 if result is None else result.visibility
                predictions.append(Prediction(output.direction, output.pair, mask, confidence, output.note))
            yield frame, predictions


def frames_by_camera(wanted: Mapping[int, Sequence[tuple[Direction, FramePair]]]) -> dict[str, list[int]]:
    """The frames of each camera of which images are needed.

    Args:
        wanted: as for :meth:`TakePredictor.predict`.
    """
    frames: dict[str, dict[int, None]] = defaultdict(dict)
    for number in sorted(wanted):
        for _, pair in wanted[number]:
            frames[pair.query_camera][number] = frames[pair.target_camera][number] = None
    return {camera: list(numbers) for camera, numbers in frames.items()}


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


def prediction_size(
    take: Take, camera: str, image_hw: tuple[int, int] | None, layout: Layout = OFFICIAL
) -> tuple[int, int]:
    """The official size of predictions for a camera: that of its annotated masks, scaled to a longer side of 480.

    Args:
        take: the take.
        camera: the target camera.
        image_hw: height and width of its image in pixels, used if the camera has no annotated mask; without it the
            prediction is 480 square.
        layout: another than the official one may ask for squares.

    Returns:
        height and width in pixels.
    """
    if layout.square:
        return SQUARE_HW
    try:
        return fit_longest_side(take.native_size(camera), LONGEST_SIDE_PX)
    except AnnotationError:
        return fit_longest_side(image_hw or (LONGEST_SIDE_PX, LONGEST_SIDE_PX), LONGEST_SIDE_PX)
