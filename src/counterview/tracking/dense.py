"""Masks of all frames from masks of some: between key frames, by dense optical flow.

A key mask is moved forwards from the key frame before and backwards from the one after. Where both arrive at the same
place, their edges are averaged by time and by how consistent the flow was; where one fails, the other stands alone;
where both fail, or each tells something else, the object is *unknown* in that frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np

from counterview.errors import ConfigError, ImageError, InputError, MaskError
from counterview.masks.geometry import fit_longest_side
from counterview.tracking.base import UNKNOWN, Observation
from counterview.tracking.flow import F32, FlowChain, FlowEstimator, FlowPair
from counterview.tracking.snap import BoundarySnap
from counterview.tracking.warping import KeyMask, WarpedMask, agreement, blend, warp, whole_image
from counterview.types import RgbImage, as_rgb

Keys = Mapping[str, Sequence[tuple[int, Observation]]]
"""Object name to its key frames, ascending: the frame's number and what is known there."""


@dataclass(frozen=True)
class DenseSettings:
    """Settings of :func:`densify`."""

    longest_px: int = field(default=480, metadata={"help": "longer side of the images between which flow is computed"})
    lookahead: int = field(
        default=64,
        metadata={
            "help": "frames kept at most while the next key frame is waited for; earlier ones use the last alone"
        },
    )
    min_consistency: float = field(
        default=0.6, metadata={"help": "least fraction of a mask with consistent flow; below it flow has failed"}
    )
    max_residual: float = field(
        default=10.0,
        metadata={
            "help": "largest mean difference of colours from the key frame, grey levels of 255; or half the contrast "
            "within the object, where that is more"
        },
    )
    max_growth: float = field(
        default=2.5, metadata={"help": "largest ratio of a mask's area to that of its key mask, or the inverse"}
    )
    min_agreement: float = field(
        default=0.5, metadata={"help": "least IoU of what comes from both sides; below it the object is unknown"}
    )

    snap: bool = field(
        default=False, metadata={"help": "move edges to boundaries that the bundled network sees within a few pixels"}
    )

    def __post_init__(self) -> None:
        problems = []
        if not 32 <= self.longest_px <= 4096:
            problems.append(f"longest_px={self.longest_px} (32 to 4096)")
        if self.lookahead < 1:
            problems.append(f"lookahead={self.lookahead} (at least 1)")
        if not 0 <= self.min_consistency <= 1 or not 0 <= self.min_agreement <= 1:
            problems.append(
                f"min_consistency={self.min_consistency}, min_agreement={self.min_agreement} (fractions from 0 to 1)"
            )
        if self.max_residual <= 0 or self.max_growth <= 1:
            problems.append(f"max_residual={self.max_residual}, max_growth={self.max_growth} (above 0 and above 1)")
        if problems:
            raise ConfigError("invalid settings of masks between key frames: " + "; ".join(problems))


def densify(
    frames: Iterable[tuple[int, RgbImage | None]], keys: Keys, settings: DenseSettings | None = None
) -> Iterator[tuple[int, dict[str, Observation]]]:
    """Say where objects are in every frame of one camera.

    Frames are read as they come, and given back in their order, at most ``settings.lookahead`` frames late. What is
    kept does not depend on the distance between key frames: of each waiting frame a small image, flow to its neighbour
    and the surroundings of each object; and one field of flow for each key frame that some object still counts from.

    Args:
        frames: ascending numbers and images ``(H, W, 3)`` uint8 of one size; ``None`` for a frame that could not be
            read.
        keys: what is known in some frames. A key frame that is not among the frames is left out.
        settings: see :class:`DenseSettings`.

    Yields:
        a frame's number and an observation for each object: at a key frame what is known there; :data:`UNKNOWN` before
        the first, and wherever flow fails.

    Raises:
        InputError: numbers that do not ascend.
        ImageError: an image that is not RGB, or of another size than the first.
        MaskError: a key mask of another size than its image, or an empty one.
    """
    dense = _Densifier(keys, settings or DenseSettings())
    for number, image in frames:
        yield from dense.push(number, image)
    yield from dense.finish()


End = Literal["visible", "absent", "unknown"]


def _end_of(observation: Observation) -> End:
    if observation.visibility is None:
        return "unknown"
    return "visible" if observation.is_visible else "absent"


@dataclass(eq=False)
class _ReadFrame:
    """A frame that waits.

    Attributes:
        number: of the frame.
        small: ``(h, w, 3)``, at working size; None where it could not be read.
        image: ``(H, W, 3)``, kept only for snapping.
        flow: from the last frame that could be read to this one.
        forward: what comes from the key frame before, for objects that wait for the one after.
        observations: for objects that do not.
    """

    number: int
    small: RgbImage | None
    image: RgbImage | None
    flow: FlowPair | None
    forward: dict[str, WarpedMask | None] = field(default_factory=dict)
    observations: dict[str, Observation] = field(default_factory=dict)


class _Object:
    """What is known of one object.

    Args:
        keys: its key frames.

    Raises:
        InputError: numbers that do not ascend.
    """

    def __init__(self, keys: Sequence[tuple[int, Observation]]) -> None:
        self.later = deque(keys)
        self.frame, self.observation = -1, UNKNOWN
        self.mask: KeyMask | None = None
        self.chain: FlowChain | None = None
        numbers = [number for number, _ in keys]
        if any(a >= b for a, b in pairwise(numbers)):
            raise InputError("key frames do not ascend", found=numbers[:8], expected="ascending frame numbers")

    def key_at(self, number: int) -> Observation | None:
        """The key of this frame; keys of earlier frames are dropped."""
        while self.later and self.later[0][0] < number:
            self.later.popleft()
        return self.later.popleft()[1] if self.later and self.later[0][0] == number else None


class _Densifier:
    """:func:`densify`, frame by frame."""

    def __init__(self, keys: Keys, settings: DenseSettings) -> None:
        self._settings = settings
        self._objects = {name: _Object(known) for name, known in keys.items()}
        self._flow = FlowEstimator()
        self._snap = BoundarySnap() if settings.snap else None
        self._waiting: deque[_ReadFrame] = deque()
        self._last: RgbImage | None = None
        self._size_hw: tuple[int, int] | None = None
        self._number: int | None = None

    def push(self, number: int, image: RgbImage | None) -> Iterator[tuple[int, dict[str, Observation]]]:
        """Take a frame; yields those that are done."""
        if self._number is not None and number <= self._number:
            raise InputError("frames do not ascend", found=f"{number} after {self._number}")
        self._number = number
        frame = _ReadFrame(number, None, None, None) if image is None else self._read(number, image)
        self._waiting.append(frame)
        known = {n: k for n, o in self._objects.items() if (k := o.key_at(number)) is not None}
        if frame.small is None:
            for name, item in self._objects.items():
                frame.observations[name] = known.get(name, UNKNOWN)
                if name in known:
                    item.observation, item.mask, item.chain = UNKNOWN, None, None
        else:
            self._forward(frame, known)
            self._start(frame, known)
        yield from self._finished(self._settings.lookahead)

    def finish(self) -> Iterator[tuple[int, dict[str, Observation]]]:
        """All that still waits."""
        yield from self._finished(0)

    def _read(self, number: int, image: RgbImage) -> _ReadFrame:
        image = as_rgb(image, what=f"frame {number}")
        size_hw = (image.shape[0], image.shape[1])
        if self._size_hw not in (None, size_hw):
            raise ImageError("a frame of another size", found=size_hw, expected=self._size_hw)
        self._size_hw = size_hw
        height, width = fit_longest_side(size_hw, min(self._settings.longest_px, max(size_hw)))
        small = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        flow = self._flow(self._last, small) if self._last is not None else None
        self._last = small
        return _ReadFrame(number, small, image if self._snap else None, flow)

    def _forward(self, frame: _ReadFrame, known: Mapping[str, Observation]) -> None:
        """Move all masks on to this frame."""
        assert frame.small is not None
        moved: dict[int, tuple[F32, F32, F32]] = {}
        for chain in {id(o.chain): o.chain for o in self._objects.values() if o.chain is not None}.values():
            assert frame.flow is not None
            chain.step(frame.flow.backward, frame.flow.backward_ok)
            places, trust = chain.compare(frame.small)
            moved[id(chain)] = places, trust, chain.residual(frame.small, places)
        for name, item in self._objects.items():
            if name in known:
                frame.observations[name] = known[name]
                continue
            warped = warp(item.mask, *moved[id(item.chain)]) if item.mask is not None else None
            if item.later and item.frame >= 0:
                frame.forward[name] = warped
            else:
                frame.observations[name] = self._combine(frame, item.observation, warped, UNKNOWN, None, 0.0)

    def _start(self, frame: _ReadFrame, known: Mapping[str, Observation]) -> None:
        """At a key frame: move its masks back over the frames that wait for it, and count from it."""
        assert frame.small is not None
        if not known:
            return
        masks: dict[str, KeyMask | None] = {}
        for name, observation in known.items():
            masks[name] = None
            if _end_of(observation) == "visible" and observation.mask_rle is not None:
                if observation.mask_rle.size_hw != self._size_hw or observation.mask_rle.is_empty:
                    raise MaskError(
                        f"the key mask of {name!r} in frame {frame.number} does not fit",
                        found="an empty mask" if observation.mask_rle.is_empty else observation.mask_rle.size_hw,
                        expected=f"a mask of {self._size_hw}",
                    )
                masks[name] = KeyMask(observation.mask_rle, frame.small)
        self._backward(frame, known, masks)
        chain = FlowChain(frame.small)
        for name, observation in known.items():
            item = self._objects[name]
            item.frame, item.observation, item.mask = frame.number, observation, masks[name]
            item.chain = chain if masks[name] is not None else None

    def _backward(
        self, last: _ReadFrame, known: Mapping[str, Observation], masks: Mapping[str, KeyMask | None]
    ) -> None:
        assert last.small is not None
        chain, flow = FlowChain(last.small), last.flow
        for frame in list(self._waiting)[-2::-1]:
            names = [name for name in known if name in frame.forward]
            if frame.small is None:
                continue
            if not names:
                break
            moved = None
            if any(masks[name] is not None for name in names):
                assert flow is not None
                chain.step(flow.forward, flow.forward_ok)
                places, trust = chain.compare(frame.small)
                moved = places, trust, chain.residual(frame.small, places)
            for name in names:
                item, mask = self._objects[name], masks[name]
                warped = warp(mask, *moved) if moved is not None and mask is not None else None
                weight = (frame.number - item.frame) / (last.number - item.frame)
                forward = frame.forward.pop(name)
                frame.observations[name] = self._combine(frame, item.observation, forward, known[name], warped, weight)
            flow = frame.flow

    def _finished(self, keep: int) -> Iterator[tuple[int, dict[str, Observation]]]:
        while self._waiting and (len(self._waiting) > keep or not self._waiting[0].forward):
            frame = self._waiting.popleft()
            for name, warped in frame.forward.items():
                item = self._objects[name]
                frame.observations[name] = self._combine(frame, item.observation, warped, UNKNOWN, None, 0.0)
            yield frame.number, {name: frame.observations[name] for name in self._objects}

    def _combine(
        self,
        frame: _ReadFrame,
        before: Observation,
        forward: WarpedMask | None,
        after: Observation,
        backward: WarpedMask | None,
        weight: float,
    ) -> Observation:
        """What is said of an object between two key frames.

        Args:
            frame: the one between.
            before: in the key frame before.
            forward: what comes from there; None if nothing does.
            after: in the key frame after.
            backward: what comes from there.
            weight: of the key frame after, 0 to 1: the part of the way that is done.
        """
        ends = _end_of(before), _end_of(after)
        if "visible" not in ends:
            return UNKNOWN if "unknown" in ends else Observation(None, _between(before, after, weight), "propagated")
        good = [w for w in (forward, backward) if w is not None and _holds(w, self._settings)]
        if len(good) == 2 and agreement(good[0], good[1]) < self._settings.min_agreement:
            good = [w for w in good if _holds_well(w, self._settings)]
            good = good if len(good) == 1 else []
        if not good:
            return UNKNOWN
        window, mask = blend(good[0], good[1] if len(good) == 2 else None, weight)
        if not mask.any():
            return UNKNOWN
        if self._snap is not None and frame.image is not None:
            mask = self._snap(frame.image, window, mask)
        if ends == ("visible", "visible"):
            visibility: float | None = _between(before, after, weight)
        else:
            visibility = before.visibility if ends[0] == "visible" else after.visibility
        return Observation(whole_image(window, mask, good[0].key.size_hw), visibility, "propagated")


def _between(before: Observation, after: Observation, weight: float) -> float:
    return (1 - weight) * (before.visibility or 0.0) + weight * (after.visibility or 0.0)


def _holds(warped: WarpedMask, settings: DenseSettings) -> bool:
    """Whether flow has not failed for a mask."""
    return (
        warped.consistency >= settings.min_consistency
        and warped.residual <= max(settings.max_residual, 0.5 * warped.key.contrast)
        and 1 / settings.max_growth <= warped.growth <= settings.max_growth
    )


def _holds_well(warped: WarpedMask, settings: DenseSettings) -> bool:
    """Whether flow has done so well that it is believed against another mask that holds."""
    middle = (1 + settings.min_consistency) / 2
    return warped.consistency >= middle and warped.residual <= settings.max_residual / 2
