"""What was found at one time, and the masks of what is shown at that time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from counterview.errors import InputError, shown
from counterview.inference.prompts import check_prompt
from counterview.inference.shown import ShownObject
from counterview.tracking.base import Engine, Observation, Observations
from counterview.tracking.tracker import MemoryTracker
from counterview.types import ObjectMask, RgbImage

if TYPE_CHECKING:
    from counterview.geometry.homography import Homography
    from counterview.inference.prompted import PromptedPredictor


@dataclass(frozen=True, eq=False)
class FollowStep:
    """What was found at one time.

    Attributes:
        time_s: on the query camera's clock, in seconds.
        frames: camera to number and own time, in seconds, of its frame; no entry where it has none.
        observations: camera to object to what was found.
        motions: camera to the map from its image before to this one, where the engine knows it.
        unreadable: cameras whose frame is there and could not be read.
    """

    time_s: float
    frames: Mapping[str, tuple[int, float]]
    observations: Observations
    motions: Mapping[str, Homography | None] = field(default_factory=dict, repr=False)
    unreadable: tuple[str, ...] = ()

    def __getitem__(self, camera: str) -> Mapping[str, Observation]:
        """What was found in one camera, by object."""
        return self.observations[camera]


def resolve_shown(
    predictor: PromptedPredictor[Any], image: RgbImage | None, shown_here: Sequence[ShownObject]
) -> dict[str, ObjectMask | None]:
    """The masks of objects that are shown in one image.

    Args:
        predictor: makes the proposals that points and boxes choose among; once for the image.
        image: ``(H, W, 3)`` uint8; ``None`` if the camera has none.
        shown_here: the objects.

    Returns:
        object name to mask ``(H, W)``; ``None``: not visible.

    Raises:
        InputError: no image, or a prompt outside it.
        MaskError: a mask of another size than the image, or an empty one.
        ProposalError: no proposal at a point or in a box.
    """
    masks: dict[str, ObjectMask | None] = {}
    encoded: Any = None
    for item in shown_here:
        if image is None:
            raise InputError(
                f"{item.source}: {shown(item.object)} is shown in {item.camera}, which has no image then",
                fix="Show it at the time of a frame.",
            )
        if item.prompt is None or isinstance(item.prompt, ObjectMask):
            masks[item.object] = item.prompt
            continue
        check_prompt(item.prompt, (image.shape[0], image.shape[1]), item.object)
        encoded = predictor.encode_query(image) if encoded is None else encoded
        masks[item.object] = predictor.select(encoded, item.prompt, item.object).mask_rle
    return masks


def motions_of(engine: Engine) -> dict[str, Homography | None]:
    """Camera to the map from its image before to the newest one, where the engine knows it."""
    return dict(engine.motions) if isinstance(engine, MemoryTracker) else {}
