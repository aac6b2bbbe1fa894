"""Tracks of a single match, and the masks of tracks as prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from counterview.errors import InputError
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks
from counterview.types import Match, ObjectMask

VISIBLE = 0.5
"""A match is of an object that is visible if the probability is above this, as in the official scoring."""


def tracks_of_matches(
    query_name: str,
    query_hw: tuple[int, int],
    query_masks: Mapping[str, ObjectMask],
    target_name: str,
    target_hw: tuple[int, int],
    matches: Sequence[Match],
    paths: tuple[str | None, str | None] = (None, None),
    settings: Mapping[str, Any] | None = None,
) -> Tracks:
    """The matches of two images as tracks of one frame, frame 0, so that every format can hold them.

    Args:
        query_name: name of the query image's camera.
        query_hw: height and width of the query image in pixels.
        query_masks: object name to its mask, at the size of the query image.
        target_name: name of the target image's camera.
        target_hw: height and width of the target image in pixels.
        matches: of the objects. A match whose visibility is at most one half has no mask in the tracks.
        paths: of the two images, where they are files.
        settings: what the matches depend on beside the images.

    Returns:
        tracks of the two cameras, the query camera first.

    Raises:
        InputError: two cameras of one name, a match of another object than those of ``query_masks``, or a mask of
            another size than its image.
    """
    if query_name == target_name:
        raise InputError("the two images have one name", found=query_name, fix="Give them names of their own.")
    unknown = [match.name for match in matches if match.name not in query_masks]
    if unknown:
        raise InputError("a match is of an object without a query mask", found=unknown, expected=list(query_masks))
    objects: dict[str, dict[str, list[TrackedMask]]] = {
        name: {query_name: [TrackedMask(0.0, 0, mask, 1.0, "given")]} for name, mask in query_masks.items()
    }
    for match in matches:
        mask = match.mask_rle if match.visibility > VISIBLE and not match.mask_rle.is_empty else None
        objects[match.name][target_name] = [TrackedMask(0.0, 0, mask, match.visibility, "matched")]
    cameras = {
        query_name: TrackedCamera(paths[0], query_hw),
        target_name: TrackedCamera(paths[1], target_hw),
    }
    return Tracks(cameras, objects, dict(settings or {}))


def prompts_of(tracks: Tracks, camera: str | None = None) -> dict[str, list[tuple[float, ObjectMask]]]:
    """The masks in one camera as prompts: of each object, when it is shown, and where.

    Args:
        tracks: as read from an annotation tool.
        camera: the camera; the query camera by default.

    Returns:
        object name to time on the camera's own clock, in seconds, and mask ``(H, W)``, in ascending order of times.
        Objects without a mask in that camera are left out.

    Raises:
        InputError: no such camera.
    """
    name = tracks.query_camera if camera is None else camera
    if name not in tracks.cameras:
        raise InputError("no annotations of that camera", found=name, expected=list(tracks.cameras))
    prompts = {
        label: [
            (item.time_s, item.mask_rle)
            for item in cameras.get(name, ())
            if item.mask_rle is not None and not item.mask_rle.is_empty
        ]
        for label, cameras in tracks.objects.items()
    }
    return {label: shown for label, shown in prompts.items() if shown}
