"""A mask that was propagated, or one that was matched: which counts, and what is doubtful about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from counterview.errors import ConfigError
from counterview.exchange.tracks import MaskSource
from counterview.masks.geometry import iou
from counterview.tracking.base import Observation
from counterview.types import Match, ObjectMask


@dataclass(frozen=True)
class VideoMemorySettings:
    """When objects are matched, and what counts as lost or as different.

    Raises:
        ConfigError: a value that is out of range.
    """

    rematch_s: float = field(default=5.0, metadata={"help": "seconds after which an object is matched anew"})
    retry_s: float = field(default=1.0, metadata={"help": "seconds between matches of an object that is lost"})
    min_predicted_iou: float = field(default=0.5, metadata={"help": "an object with a lower predicted IoU is lost"})
    agreement_iou: float = field(default=0.5, metadata={"help": "masks with a lower IoU differ"})
    way_back: bool = field(
        default=False, metadata={"help": "match matches back, and trust those less that do not return"}
    )

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be from 0 to 1, not {getattr(self, name)}"
            for name in ("min_predicted_iou", "agreement_iou")
            if not 0 <= getattr(self, name) <= 1
        ]
        problems += [
            f"{name} must not be negative, not {getattr(self, name)}"
            for name in ("rematch_s", "retry_s")
            if not getattr(self, name) >= 0
        ]
        if problems:
            raise ConfigError("invalid settings of the video memory: " + "; ".join(problems))


@dataclass(frozen=True)
class Propagated:
    """What SAM 2.1's memory says of an object.

    Attributes:
        mask_rle: the likeliest mask ``(H, W)``, also where the object is probably not visible.
        visibility: sigmoid of the object score.
        predicted_iou: of the mask.
        memory: ``(h * w, 64)`` of the frame with this mask.
        pointer: object pointer ``(C,)``.
    """

    mask_rle: ObjectMask
    visibility: float
    predicted_iou: float
    memory: Tensor
    pointer: Tensor

    @property
    def is_visible(self) -> bool:
        """Whether the object score is above 0, and the mask not empty."""
        return self.visibility > 0.5 and not self.mask_rle.is_empty

    @property
    def sureness(self) -> float:
        """Visibility times predicted IoU, in ``[0, 1]``; compared with a match's visibility."""
        return self.visibility * self.predicted_iou


@dataclass(frozen=True)
class Found:
    """A match, with what its way back says.

    Attributes:
        match: in the camera where the object was searched.
        way_back_iou: IoU of the mask ``(H, W)`` from which it was matched with that to which it is matched back; 1 if
            the way back was not tried.
    """

    match: Match
    way_back_iou: float = 1.0

    @property
    def is_visible(self) -> bool:
        """Whether the matcher says that the object is visible."""
        return self.match.visibility > 0.5 and not self.match.mask_rle.is_empty


@dataclass(frozen=True)
class MaskChoice:
    """Which mask counts.

    Attributes:
        observation: what is reported.
        is_conditioning: the match conditions the memory.
        forgets: what was remembered is wrong.
        remembers: the propagated frame is remembered.
    """

    observation: Observation
    is_conditioning: bool = False
    forgets: bool = False
    remembers: bool = False


def is_lost(followed: Propagated, settings: VideoMemorySettings) -> bool:
    """Whether SAM 2.1 has lost an object, by its score, its mask ``(H, W)`` or the IoU that it predicts.

    Args:
        followed: what it says.
        settings: with the least predicted IoU.
    """
    return not followed.is_visible or followed.predicted_iou < settings.min_predicted_iou


def decide(
    followed: Propagated | None, found: Found | None, carried: MaskSource, settings: VideoMemorySettings
) -> MaskChoice:
    """Weigh a propagated mask ``(H, W)`` against a match; at least one of them is given.

    Args:
        followed: what SAM 2.1's memory says; ``None`` without a memory.
        found: what the matcher says; ``None`` if it was not asked.
        carried: source of the propagated mask.
        settings: what counts as lost, and as different.
    """
    if found is None:
        assert followed is not None
        return MaskChoice(carried_on(followed, carried, {}, settings), remembers=True)
    match, doubts = found.match, dict[str, float]()
    if found.is_visible and found.way_back_iou < settings.agreement_iou:
        doubts["way_back"] = 1 - found.way_back_iou
    mask = None if match.mask_rle.is_empty else match.mask_rle
    matched = Observation(mask, min(match.visibility, 0.5) if mask is None else match.visibility, "matched", (), doubts)
    if followed is None:
        return MaskChoice(matched, is_conditioning=found.is_visible)
    if is_lost(followed, settings):
        if found.is_visible and not doubts:
            return MaskChoice(matched, is_conditioning=True)
        return MaskChoice(carried_on(followed, carried, doubts, settings), remembers=True)
    overlap = iou(followed.mask_rle, match.mask_rle) if found.is_visible else 0.0
    if found.is_visible and overlap >= settings.agreement_iou:
        return MaskChoice(carried_on(followed, carried, doubts, settings), remembers=True)
    is_trusted = "way_back" not in doubts
    doubts["cameras_disagree"] = 1 - overlap
    sureness = match.visibility if found.is_visible else 1 - match.visibility
    if sureness <= followed.sureness or not is_trusted:
        return MaskChoice(carried_on(followed, carried, doubts, settings), remembers=True)
    if found.is_visible:
        return MaskChoice(dataclasses.replace(matched, doubts=doubts), is_conditioning=True, forgets=True)
    # Not visible, says the matcher; what was followed is not remembered, and not forgotten either.
    return MaskChoice(Observation(followed.mask_rle, match.visibility, carried, doubts=doubts))


def carried_on(
    followed: Propagated, source: MaskSource, doubts: Mapping[str, float], settings: VideoMemorySettings
) -> Observation:
    """The observation of a propagated mask ``(H, W)``.

    Args:
        followed: what SAM 2.1's memory says.
        source: of the mask.
        doubts: of the match.
        settings: with the least predicted IoU.
    """
    least, reasons = settings.min_predicted_iou, dict(doubts)
    if followed.is_visible and followed.predicted_iou < least:
        reasons["low_score"] = 1 - followed.predicted_iou / least
    if followed.mask_rle.is_empty:
        return Observation(None, min(followed.visibility, 0.5), source, doubts=reasons)
    return Observation(followed.mask_rle, followed.visibility, source, doubts=reasons)
