"""The clock of a camera against that of another: from their sound, from what moves in both, or as the files have it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, get_args

from counterview.errors import ConfigError, InputError, VideoError, counted
from counterview.media.frame_source import FrameSource
from counterview.media.motion_offset import find_motion_offset, measure_motion
from counterview.media.sound import Sound, read_sound
from counterview.media.sound_offset import SyncWindow, find_offset
from counterview.media.timeline import Clock

logger = logging.getLogger(__name__)

SyncMethod = Literal["none", "auto", "audio", "motion"]
"""How clocks are found: file times as they are; sound, else motion; sound alone; motion alone."""

SYNC_METHODS: tuple[SyncMethod, ...] = get_args(SyncMethod)

MIN_SOUND_CONFIDENCE, MIN_MOTION_CONFIDENCE = 0.1, 0.1
"""Confidence below which an offset is not used. See ``benchmarks/sync.py`` for what right and wrong pairs reach."""


@dataclass(frozen=True)
class SyncResult:
    """A camera's clock against the query camera's.

    Attributes:
        offset_s: what is added to the target's time to get the query camera's, in seconds.
        drift_ppm: by how much the target's clock is slow, in millionths; 0 if it was not measured.
        confidence: in ``[0, 1]``; ``None`` if nothing was compared.
        method: what the result rests on.
        windows: of sound, what each of them says; empty for other methods.
    """

    offset_s: float
    drift_ppm: float
    confidence: float | None
    method: Literal["none", "audio", "motion"]
    windows: tuple[SyncWindow, ...] = ()

    @property
    def clock(self) -> Clock:
        """For :func:`counterview.media.timeline.plan_times`."""
        return Clock(self.offset_s, self.drift_ppm)

    def __str__(self) -> str:
        if self.confidence is None:
            return "times as the files have them"
        words = f"offset {self.offset_s:+.3f} s"
        if self.method == "audio":
            agreeing = sum(window.agrees for window in self.windows)
            words += f", drift {self.drift_ppm:+.0f} ppm, from sound ({agreeing} of {len(self.windows)} windows agree"
        else:
            words += ", from motion (exact to about a tenth of a second"
        return f"{words}, confidence {self.confidence:.2f})"


def synchronise(query: FrameSource, target: FrameSource, method: str = "auto") -> SyncResult:
    """Find a camera's clock against the query camera's.

    Args:
        query: the camera whose time counts.
        target: the other one.
        method: one of :data:`SYNC_METHODS`.

    Raises:
        ConfigError: another method.
        InputError: a camera has no sound, their sounds or motions do not belong together, or it is not sure.
        VideoError: a file cannot be read.
    """
    if method not in SYNC_METHODS:
        raise ConfigError("no such way to synchronise", found=repr(method), expected=" or ".join(SYNC_METHODS))
    if method == "none":
        return SyncResult(0.0, 0.0, None, "none")
    if method == "motion":
        return _from_motion(query, target)
    try:
        return _from_sound(query, target)
    except InputError as error:
        if method == "audio":
            raise
        why = error
    logger.info("%s: %s; motion is compared instead", target.name, why)
    try:
        return _from_motion(query, target)
    except InputError as error:
        raise InputError(
            f"{target.name} cannot be synchronised with {query.name}", path=target.path,
            found=f"by sound: {_brief(why)}; by motion: {_brief(error)}", fix=_fix(target),
        ) from None  # fmt: skip


def _brief(error: InputError) -> str:
    return error.problem if error.found is None else f"{error.problem} ({error.found})"


def _fix(target: FrameSource) -> str:
    return f"Give --offset {target.name}=SECONDS, or --sync none if the files begin at the same time."


def _from_sound(query: FrameSource, target: FrameSource) -> SyncResult:
    line = find_offset(_sound(query), _sound(target))
    if line.confidence < MIN_SOUND_CONFIDENCE:
        agreeing = sum(window.agrees for window in line.windows)
        raise InputError(
            f"the sounds of {target.name} and {query.name} do not belong together", path=target.path,
            found=f"{agreeing} of {counted(len(line.windows), 'window')} agree, confidence {line.confidence:.2f}",
            expected=f"at least {MIN_SOUND_CONFIDENCE}", fix=_fix(target),
        )  # fmt: skip
    return SyncResult(line.offset_s, line.drift_ppm, line.confidence, "audio", line.windows)


def _sound(source: FrameSource) -> Sound:
    place = source.sound
    sound = None if place is None else read_sound(*place)
    if sound is None:
        raise VideoError(f"{source.name} has no sound", path=source.path, fix="Use --sync motion, or --offset.")
    return sound


def _from_motion(query: FrameSource, target: FrameSource) -> SyncResult:
    offset, confidence = find_motion_offset(measure_motion(query), measure_motion(target))
    if confidence < MIN_MOTION_CONFIDENCE:
        raise InputError(
            f"what moves in {target.name} and {query.name} does not tell their offset", path=target.path,
            found=f"confidence {confidence:.2f}", expected=f"at least {MIN_MOTION_CONFIDENCE}", fix=_fix(target),
        )  # fmt: skip
    return SyncResult(offset, 0.0, confidence, "motion")
