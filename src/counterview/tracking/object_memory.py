"""What a camera remembers of an object: how it looked, and where it was last."""

from __future__ import annotations

from dataclasses import dataclass

from counterview.tracking.memory import Bank
from counterview.tracking.place import ViewSummary
from counterview.types import ObjectMask


@dataclass
class LastSeen:
    """Where an object was last seen in a camera.

    Attributes:
        mask_rle: ``(H, W)`` in that image.
        summary: of that image.
        step: its number.
    """

    mask_rle: ObjectMask
    summary: ViewSummary
    step: int


@dataclass
class CameraMemory:
    """What one camera remembers of one object."""

    bank: Bank
    last: LastSeen | None = None
    visibility: float = 0.0


Memories = dict[str, dict[str, CameraMemory]]
"""Object name to camera name to what is remembered."""
