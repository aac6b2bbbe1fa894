"""What an engine of following gives for each object, camera and time, and the interface of engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from counterview.exchange.tracks import MaskSource
from counterview.types import BoolImage, ObjectMask, RgbImage


@dataclass(frozen=True)
class Observation:
    """One object in one camera at one time.

    Attributes:
        mask_rle: where it is most likely, ``(H, W)``, also where it is probably not visible; ``None`` if there is no
            candidate, or nothing is known.
        visibility: probability that it is visible, in ``[0, 1]``; ``None`` if nothing is known.
        source: where the mask comes from.
        alternatives: other candidates ``(H, W)`` with the logarithm of their probability, best first, the mask itself
            among them; what smoothing chooses from.
        doubts: why a person should look, by a name of :data:`counterview.tracking.review.REASONS`, each with how much
            (0 to 1).
    """

    mask_rle: ObjectMask | None
    visibility: float | None
    source: MaskSource
    alternatives: tuple[tuple[ObjectMask, float], ...] = ()
    doubts: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_visible(self) -> bool:
        """Whether it counts as visible: above 0.5."""
        return self.visibility is not None and self.visibility > 0.5 and self.mask_rle is not None

    @property
    def mask(self) -> BoolImage | None:
        """``(H, W)`` bool; ``None`` where the object is not visible or unknown."""
        return self.mask_rle.to_array() if self.mask_rle is not None and self.is_visible else None


UNKNOWN = Observation(None, None, "unknown")
"""What is said of an object in a frame that could not be read."""

Observations = Mapping[str, Mapping[str, Observation]]
"""Camera name to object name to what was found there."""

Prompts = Mapping[str, Mapping[str, ObjectMask | None]]
"""Camera name to object name to its mask ``(H, W)`` at this time, as a user gave it; ``None``: not visible there."""


class Engine(Protocol):
    """Follows objects step by step. Nothing is kept but memories, whose size does not grow with time.

    Attributes:
        cameras: names; the query camera first.
    """

    cameras: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Everything that the masks depend on beside images and prompts, as plain values."""
        ...

    def step(self, images: Mapping[str, RgbImage | None], time_s: float, prompts: Prompts) -> Observations:
        """Take the next images.

        Args:
            images: ``(H, W, 3)`` uint8 by camera; ``None``, or no entry, where a camera has no image at this time.
            time_s: on the query camera's clock, in seconds; later than the step before.
            prompts: objects that are shown, or corrected, at this time. An object exists from its first prompt on.

        Returns:
            for each camera and each object shown so far an observation; :data:`UNKNOWN` for cameras without image.

        Raises:
            InputError: times that do not ascend, an unknown camera, or a prompt for a camera without image.
            MaskError: a mask of another size than its image, or an empty one.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs to go on, as plain values and numpy arrays."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: what :meth:`state` gave, with the same settings and cameras.

        Raises:
            InputError: a state of other settings or cameras.
        """
        ...
