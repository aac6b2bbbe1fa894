"""Smoothing over a whole video: the best path through candidates and "not there". Ours.

Every observation has a few alternatives with probabilities, and a probability of being visible. Two of them at
neighbouring times go together if the object could have stayed there while the camera moved as it did. The path is the
most probable one (Viterbi 1967). It chooses the masks; the visibility stays that of each time, which knows of all times
before it: the marginal over all paths was measured to be worse, since hands cover things for a second and less. What a
user gave is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.geometry.boxes import ground_points
from counterview.geometry.homography import Homography
from counterview.masks.geometry import box_iou, iou
from counterview.tracking.base import Observation, Observations
from counterview.tracking.place import expected_place, stood_still
from counterview.types import ObjectMask

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class SmoothingConfig:
    """How much neighbouring times count.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    trust: float = field(default=1.0, metadata={"help": "exponent of each time's own probabilities"})
    overlap: float = field(default=1.0, metadata={"help": "weight of the IoU with the mask before, in logarithms"})
    nearness: float = field(default=0.5, metadata={"help": "weight of standing where the mask before stood"})
    radius: float = field(default=0.06, metadata={"help": "radius of nearness, in halves of the image width"})
    vanish: float = field(default=0.35, metadata={"help": "probability that a visible object vanishes until next time"})
    appear: float = field(default=0.35, metadata={"help": "probability that an object that is not visible appears"})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "trust", "radius", above=0),
            *out_of_range(self, "overlap", "nearness", at_least=0),
            *out_of_range(self, "vanish", "appear", above=0, below=1),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


def smooth(
    observations: Sequence[Observation], motions: Sequence[Homography | None], config: SmoothingConfig | None = None
) -> list[Observation]:
    """Smooth one object's observations in one camera.

    Args:
        observations: T observations in order; their masks are ``(H, W)``. Those of unread frames (no visibility) are
            passed over and stay as they are.
        motions: T maps from the image before to this one; ``None`` where it is not known, and for the first.
        config: how much neighbours count; the defaults if not given.

    Returns:
        T observations, with the masks of the best path.
    """
    config = config or SmoothingConfig()
    result = list(observations)
    rows = [i for i, o in enumerate(observations) if o.visibility is not None]
    if len(rows) < 2:
        return result
    states = [_states(observations[i], config) for i in rows]
    links = []
    for (before, first), (after, second) in pairwise(zip(rows, states, strict=True)):
        motion = motions[after] if after == before + 1 else None
        links.append(_link(observations[before], observations[after], motion, len(first), len(second), config))
    for index, state in zip(rows, _best_path(states, links), strict=True):
        alternatives = observations[index].alternatives
        if observations[index].source != "given" and state < len(alternatives):
            result[index] = replace(observations[index], mask_rle=alternatives[state][0])
    return result


def _states(observation: Observation, config: SmoothingConfig) -> F64:
    """Logarithms of a time's own evidence: its alternatives, against a choice at random, then "not there"."""
    count = _count(observation)
    if observation.source == "given":
        present, absent = (0.0, -np.inf) if observation.mask_rle is not None else (-np.inf, 0.0)
        return np.array([present] * count + [absent])
    visibility = float(np.clip(observation.visibility or 0.0, 1e-6, 1 - 1e-6))
    own = np.array([value for _, value in observation.alternatives] or [0.0])
    own = own - _log_sum(own, 0) + np.log(count)
    return config.trust * np.concatenate([own + np.log(visibility), [np.log(1 - visibility)]])


def _count(observation: Observation) -> int:
    return max(1, len(observation.alternatives))


def _link(
    before: Observation, after: Observation, motion: Homography | None, rows: int, columns: int, config: SmoothingConfig
) -> F64:
    """``(rows, columns)`` logarithms of the probability of each state after each state; rows sum to 1."""
    reward = np.zeros((rows - 1, columns - 1))
    masks, later = _masks(before), _masks(after)
    for row, mask in enumerate(masks):
        place = None
        if mask is not None:
            place = expected_place(np.array(mask.box_xywh, dtype=np.float64), mask.size_hw, motion)
        if mask is None or place is None:  # the camera moved in an unknown way: nothing is known of the place
            continue
        for column, other in enumerate(later):
            if other is None or other.size_hw != mask.size_hw:
                continue
            box = np.array([other.box_xywh], dtype=np.float64)
            overlap = float(box_iou(box, place.box_xywh[None])[0, 0])
            if overlap > 0.1 and stood_still(motion):
                overlap = iou(mask, other)
            offset = ground_points(box, other.size_hw)[0] - place.point
            near = float(np.exp(-(offset**2).sum() / (2 * config.radius**2)))
            reward[row, column] = config.overlap * overlap + config.nearness * near
    link = np.zeros((rows, columns))
    link[:-1, :-1] = reward - _log_sum(reward, 1)[:, None] + np.log(1 - config.vanish)
    link[:-1, -1] = np.log(config.vanish)
    link[-1, :-1] = np.log(config.appear) - np.log(columns - 1)
    link[-1, -1] = np.log(1 - config.appear)
    return link


def _masks(observation: Observation) -> list[ObjectMask | None]:
    return [mask for mask, _ in observation.alternatives] or [observation.mask_rle]


def _best_path(states: Sequence[F64], links: Sequence[F64]) -> list[int]:
    score, choices = states[0], []
    for own, link in zip(states[1:], links, strict=True):
        total = score[:, None] + link
        choices.append(total.argmax(0))
        score = total.max(0) + own
    path = [int(score.argmax())]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return path[::-1]


def _log_sum(values: F64, axis: int) -> F64:
    largest = values.max(axis, keepdims=True)
    safe = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(values - safe).sum(axis)) + np.squeeze(safe, axis))


LAG = 60
"""Steps after a time that are read before it is smoothed: what comes later hardly changes it."""
_CONTEXT, _BATCH = 10, 30


@dataclass(frozen=True, eq=False)
class TrackedMoment:
    """One step before smoothing.

    Attributes:
        key: whatever belongs to it; it is given back.
        observations: camera to object to observation.
        motions: camera to the map from its image before to this one, where it is known.
    """

    key: Any
    observations: Observations
    motions: Mapping[str, Homography | None]


class Smoother:
    """Smooths steps as they come, :data:`LAG` steps late, with memory that does not grow.

    Args:
        config: how much neighbours count; the defaults if not given.
    """

    def __init__(self, config: SmoothingConfig | None = None) -> None:
        self._config = config or SmoothingConfig()
        self._moments: deque[TrackedMoment] = deque()
        self._done = 0

    def push(self, moment: TrackedMoment) -> Iterator[TrackedMoment]:
        """Take the next step.

        Args:
            moment: the step; objects may be added from step to step.

        Yields:
            smoothed steps, in order.
        """
        self._moments.append(moment)
        if len(self._moments) >= self._done + _BATCH + LAG:
            yield from self._release(_BATCH)

    def finish(self) -> Iterator[TrackedMoment]:
        """The steps that are left, smoothed."""
        yield from self._release(len(self._moments) - self._done)

    def _release(self, count: int) -> Iterator[TrackedMoment]:
        moments = list(self._moments)
        smoothed: list[dict[str, dict[str, Observation]]] = [
            {camera: dict(found) for camera, found in m.observations.items()} for m in moments
        ]
        places: dict[tuple[str, str], list[int]] = {}
        for index, moment in enumerate(moments):
            for camera, found in moment.observations.items():
                for name in found:
                    places.setdefault((camera, name), []).append(index)
        for (camera, name), rows in places.items():
            track = smooth(
                [moments[i].observations[camera][name] for i in rows],
                [moments[i].motions.get(camera) for i in rows],
                self._config,
            )
            for index, observation in zip(rows, track, strict=True):
                smoothed[index][camera][name] = observation
        for index in range(self._done, self._done + count):
            yield replace(moments[index], observations=smoothed[index])
        self._done += count
        while self._done > _CONTEXT:
            self._moments.popleft()
            self._done -= 1
