"""Whole takes: what is asked of each frame, and answers from sessions that share every encoded image."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from counterview.data.dataset import Direction, Take
from counterview.data.pairs import FramePair
from counterview.errors import ImageError, MaskError, VideoError
from counterview.lmeec.model import LMEEC
from counterview.lmeec.session import EncodedView, FrameResult, Session
from counterview.masks.geometry import resize_mask
from counterview.types import BoolImage

logger = logging.getLogger(__name__)

Asked = tuple[Direction, FramePair]


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        direction: which way.
        pair: what was asked.
        result: what was found, at the size of the target image; ``None`` if an image or the query mask cannot be
            had, or the frame was passed over.
        note: why there is none.
    """

    direction: Direction
    pair: FramePair
    result: FrameResult | None
    note: str | None = None


def predict_take(
    model: LMEEC,
    take: Take,
    wanted: Mapping[int, Sequence[Asked]],
    *,
    autocast: torch.dtype | None = None,
) -> Iterator[tuple[int, list[Answer]]]:
    """Answer everything that is asked of a take, frame by frame.

    There is a session for each direction and query camera, with all its target cameras; each image of a frame is
    decoded and encoded once for all of them. Frames in which the target is absent are answered like all others.

    Args:
        model: in eval mode.
        take: where images and query masks come from.
        wanted: by frame number, what is asked.
        autocast: see :class:`Session`.

    Yields:
        frame number and one answer for each question, in the order of the questions.
    """
    frames: dict[tuple[Direction, str], list[int]] = defaultdict(list)
    for number in sorted(wanted):
        for key in dict.fromkeys((d, p.query_camera) for d, p in wanted[number]):
            frames[key].append(number)
    places = {key: {number: i for i, number in enumerate(numbers)} for key, numbers in frames.items()}
    sessions = {key: Session(model, frames=len(numbers), autocast=autocast) for key, numbers in frames.items()}
    for number in sorted(wanted):
        views: dict[str, EncodedView] = {}
        missing: dict[str, str] = {}
        asked = wanted[number]
        cameras = list(dict.fromkeys(c for _, p in asked for c in (p.query_camera, p.target_camera)))
        images = {}
        for camera in cameras:
            try:
                images[camera] = take.frame(camera, number)
            except (ImageError, VideoError) as error:
                logger.warning("%s", error)
                missing[camera] = f"the image of {camera} cannot be had"
        if images:
            encoder = next(iter(sessions.values()))
            views = dict(zip(images, encoder.encode(list(images.values())), strict=True))
        answers: dict[Asked, Answer] = {}
        for key, session in sessions.items():
            questions = [q for q in asked if (q[0], q[1].query_camera) == key]
            if questions:
                answers |= _ask(session, take, questions, views, missing, places[key][number])
        yield number, [answers[question] for question in asked]


def _ask(
    session: Session,
    take: Take,
    questions: Sequence[Asked],
    views: Mapping[str, EncodedView],
    missing: Mapping[str, str],
    place: int,
) -> dict[Asked, Answer]:
    answers: dict[Asked, Answer] = {}
    camera = questions[0][1].query_camera
    masks: dict[str, BoolImage] = {}
    pairs: dict[tuple[str, str], None] = {}  # in order: a set's would differ from run to run
    for question in questions:
        pair = question[1]
        problem = missing.get(camera) or missing.get(pair.target_camera)
        if problem is None and pair.object not in masks:
            try:
                masks[pair.object] = _query_mask(take, pair, views[camera].size_hw)
            except MaskError as error:
                problem = error.problem
        if problem is not None:
            answers[question] = Answer(*question, None, problem)
        else:
            pairs[pair.object, pair.target_camera] = None
    targets = {c: views[c] for c in dict.fromkeys(t for _, t in pairs)}
    if not targets:
        return answers
    results = session.step(views[camera], masks, targets, frame=place, pairs=pairs)
    for question in questions:
        if question not in answers:
            result: FrameResult = results[question[1].object][question[1].target_camera]
            note = "the query mask is empty" if result.passed_over else None
            answers[question] = Answer(*question, None if result.passed_over else result, note)
    return answers


def _query_mask(take: Take, pair: FramePair, size_hw: tuple[int, int]) -> BoolImage:
    mask = take.mask(pair.object, pair.query_camera, pair.frame)
    if mask is None:
        raise MaskError("the query mask is missing")
    # Masks have the size of the annotations, images may be smaller.
    array = (mask if mask.size_hw == tuple(size_hw) else resize_mask(mask, size_hw)).to_array()
    if not array.any() and mask.centroid_xy is not None:
        x, y = mask.centroid_xy
        array[int(y * size_hw[0] / mask.size_hw[0]), int(x * size_hw[1] / mask.size_hw[1])] = True
    return array
