"""Whole takes: pairs of cameras are predicted frame by frame, in sessions that share every encoded image."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from counterview.data.dataset import Direction, Take
from counterview.data.pairs import FramePair
from counterview.errors import ImageError, MaskError, VideoError
from counterview.lmeec.frame import FrameResult, SessionImage
from counterview.lmeec.network import LMEECNetwork
from counterview.lmeec.session import Session
from counterview.masks.geometry import fit_mask
from counterview.types import BoolImage

logger = logging.getLogger(__name__)

DirectedPair = tuple[Direction, FramePair]
"""An object to find in a frame of another camera, and which way that is."""


@dataclass(frozen=True)
class TakePrediction:
    """The prediction for one pair.

    Attributes:
        direction: which way.
        pair: object, cameras and frame.
        result: the prediction, at the size of the target image; ``None`` if an image or the query mask is not
            available, or the frame was passed over.
        note: why there is no result.
    """

    direction: Direction
    pair: FramePair
    result: FrameResult | None
    note: str | None = None


def predict_take(
    model: LMEECNetwork,
    take: Take,
    pairs_by_frame: Mapping[int, Sequence[DirectedPair]],
    *,
    autocast: torch.dtype | None = None,
    clip: Literal["camera", "track"] = "camera",
) -> Iterator[tuple[int, list[TakePrediction]]]:
    """Predict pairs of a take, frame by frame.

    There is a session for each direction and query camera, with all its target cameras; each image of a frame is
    decoded and encoded once for all of them. Frames in which the target is absent are predicted like all others.

    What a session calls its first frame, and how far back a memory is, depend on the frames that it visits. LM-EEC's
    own inference goes through each object in each target camera by itself: ``clip="track"``.

    Args:
        model: in eval mode.
        take: where images and query masks come from.
        pairs_by_frame: what to predict, by frame number.
        autocast: see :class:`Session`.
        clip: ``"camera"`` counts the frames of a query camera in which anything is to be predicted; ``"track"`` those
            of each object and target camera. Tracks of the same frames share a session.

    Yields:
        frame number and one prediction for each pair, in the order of the pairs.
    """
    session_of = _session_keys(pairs_by_frame, clip)
    frames: dict[Hashable, list[int]] = defaultdict(list)
    for number in sorted(pairs_by_frame):
        for key in dict.fromkeys(session_of[_track(directed)] for directed in pairs_by_frame[number]):
            frames[key].append(number)
    indices = {key: {number: i for i, number in enumerate(numbers)} for key, numbers in frames.items()}
    take.plan_reads(_frames_by_camera(pairs_by_frame))
    sessions = {key: Session(model, frames=len(numbers), autocast=autocast) for key, numbers in frames.items()}
    for number in sorted(pairs_by_frame):
        encoded: dict[str, SessionImage] = {}
        missing: dict[str, str] = {}
        pairs = pairs_by_frame[number]
        cameras = list(dict.fromkeys(c for _, p in pairs for c in (p.query_camera, p.target_camera)))
        images = {}
        for camera in cameras:
            try:
                images[camera] = take.frame(camera, number)
            except (ImageError, VideoError) as error:
                logger.warning("%s", error)
                missing[camera] = f"the image of {camera} is not available"
        if images:
            encoder = next(iter(sessions.values()))
            encoded = dict(zip(images, encoder.encode(list(images.values())), strict=True))
        predictions: dict[DirectedPair, TakePrediction] = {}
        for key, session in sessions.items():
            of_session = [pair for pair in pairs if session_of[_track(pair)] == key]
            if of_session:
                predictions |= _predict_frame(session, take, of_session, encoded, missing, indices[key][number])
        yield number, [predictions[pair] for pair in pairs]


def _frames_by_camera(pairs_by_frame: Mapping[int, Sequence[DirectedPair]]) -> dict[str, set[int]]:
    frames: dict[str, set[int]] = defaultdict(set)
    for number, pairs in pairs_by_frame.items():
        for _, pair in pairs:
            frames[pair.query_camera].add(number)
            frames[pair.target_camera].add(number)
    return frames


def _track(directed: DirectedPair) -> tuple[Direction, str, str, str]:
    direction, pair = directed
    return direction, pair.query_camera, pair.object, pair.target_camera


def _session_keys(
    pairs_by_frame: Mapping[int, Sequence[DirectedPair]], clip: str
) -> dict[tuple[Direction, str, str, str], Hashable]:
    """The session of each track: direction, query camera, object and target camera."""
    frames: dict[tuple[Direction, str, str, str], list[int]] = defaultdict(list)
    for number in sorted(pairs_by_frame):
        for directed in pairs_by_frame[number]:
            frames[_track(directed)].append(number)
    return {track: (*track[:2], *(numbers if clip == "track" else ())) for track, numbers in frames.items()}


def _predict_frame(
    session: Session,
    take: Take,
    pairs: Sequence[DirectedPair],
    encoded: Mapping[str, SessionImage],
    missing: Mapping[str, str],
    index: int,
) -> dict[DirectedPair, TakePrediction]:
    """One step of a session: ``pairs`` are of its query camera; ``missing`` names cameras without an image."""
    predictions: dict[DirectedPair, TakePrediction] = {}
    camera = pairs[0][1].query_camera
    masks: dict[str, BoolImage] = {}
    keys: dict[tuple[str, str], None] = {}  # in order: a set's would differ from run to run
    for directed in pairs:
        pair = directed[1]
        problem = missing.get(camera) or missing.get(pair.target_camera)
        if problem is None and pair.object not in masks:
            try:
                masks[pair.object] = _query_mask(take, pair, encoded[camera].size_hw)
            except MaskError as error:
                problem = error.problem
        if problem is not None:
            predictions[directed] = TakePrediction(*directed, None, problem)
        else:
            keys[pair.object, pair.target_camera] = None
    targets = {c: encoded[c] for c in dict.fromkeys(t for _, t in keys)}
    if not targets:
        return predictions
    results = session.step(encoded[camera], masks, targets, frame=index, pairs=keys)
    for directed in pairs:
        if directed not in predictions:
            result: FrameResult = results[directed[1].object][directed[1].target_camera]
            note = "the query mask is empty" if result.passed_over else None
            predictions[directed] = TakePrediction(*directed, None if result.passed_over else result, note)
    return predictions


def _query_mask(take: Take, pair: FramePair, size_hw: tuple[int, int]) -> BoolImage:
    mask = take.mask(pair.object, pair.query_camera, pair.frame)
    if mask is None:
        raise MaskError("the query mask is missing")
    return fit_mask(mask, size_hw).to_array()
