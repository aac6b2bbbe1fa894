"""What every engine asks of its cameras, and of what it is given at a step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from counterview.errors import InputError, MaskError, shown
from counterview.tracking.base import Prompts
from counterview.types import ObjectMask, RgbImage, as_rgb


def check_cameras(cameras: Sequence[str]) -> tuple[str, ...]:
    """Names of cameras, the query camera first.

    Args:
        cameras: their names.

    Raises:
        InputError: none, one that is not a string, or the same twice.
    """
    names = tuple(cameras)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InputError("cameras have names, each another one", found=shown(names), expected="the query camera first")
    return names


def check_step(
    cameras: Sequence[str],
    images: Mapping[str, RgbImage | None],
    time_s: float,
    last_time_s: float | None,
    prompts: Prompts,
) -> dict[str, RgbImage]:
    """Check what an engine is given at a step; see :meth:`counterview.tracking.base.Engine.step`.

    Args:
        cameras: of the engine.
        images: ``(H, W, 3)`` uint8 by camera, or ``None``.
        time_s: in seconds.
        last_time_s: of the step before; ``None`` at the first.
        prompts: by camera and object.

    Returns:
        the images that there are, in the order of the cameras.

    Raises:
        InputError: times that do not ascend, an unknown camera, or a prompt for a camera without image.
        ImageError: not an image.
        MaskError: a mask of another size than its image, or an empty one.
    """
    there = {
        camera: as_rgb(image, what=f"image of {camera}")
        for camera in cameras
        if (image := images.get(camera)) is not None
    }
    for camera in images:
        _check_camera(cameras, camera)
    sizes = {camera: (image.shape[0], image.shape[1]) for camera, image in there.items()}
    check_prompts(cameras, sizes, time_s, last_time_s, prompts)
    return there


def check_prompts(
    cameras: Sequence[str],
    sizes_hw: Mapping[str, tuple[int, int]],
    time_s: float,
    last_time_s: float | None,
    prompts: Prompts,
) -> None:
    """Check the time and the prompts of a step; see :func:`check_step`.

    Args:
        cameras: of the engine.
        sizes_hw: height and width in pixels of the images that there are, by camera.
        time_s: in seconds.
        last_time_s: of the step before; ``None`` at the first.
        prompts: by camera and object.

    Raises:
        InputError: times that do not ascend, an unknown camera, or a prompt for a camera without image.
        MaskError: a mask of another size than its image, or an empty one.
    """
    if not math.isfinite(time_s) or (last_time_s is not None and time_s <= last_time_s):
        raise InputError("times ascend", found=f"{time_s} s", expected=f"a number above {last_time_s} s")
    for camera in (*sizes_hw, *prompts):
        _check_camera(cameras, camera)
    for camera, masks in prompts.items():
        if masks and camera not in sizes_hw:
            raise InputError(
                f"an object is shown in {camera}, which has no image at {time_s} s",
                found=", ".join(map(str, masks)),
                fix="Show it at the time of a frame.",
            )
        for name, mask in masks.items():
            if mask is not None:
                _check_mask(mask, sizes_hw[camera], name, camera)


def _check_camera(cameras: Sequence[str], camera: str) -> None:
    if camera not in cameras:
        raise InputError("unknown camera", found=shown(camera), expected=", ".join(cameras))


def _check_mask(mask: ObjectMask, size_hw: tuple[int, int], name: str, camera: str) -> None:
    if mask.size_hw != size_hw:
        raise MaskError(
            f"the mask of {name!r} does not fit the image of {camera}",
            found=f"{mask.size_hw[1]} x {mask.size_hw[0]}",
            expected=f"{size_hw[1]} x {size_hw[0]}",
        )
    if mask.is_empty:
        raise MaskError(
            f"the mask of {name!r} in {camera} is empty",
            expected="at least one pixel",
            fix="Give None for an object that is not visible.",
        )


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON would give them back, so that those of a saved state can be compared."""
    result: dict[str, Any] = json.loads(json.dumps(values))
    return result


def check_state(state: Mapping[str, Any], engine: str, settings: Mapping[str, Any], cameras: Sequence[str]) -> None:
    """Check that a state is of an engine with these settings and cameras.

    Args:
        state: what :meth:`counterview.tracking.base.Engine.state` gave.
        engine: name of the engine.
        settings: of the engine, as plain values.
        cameras: of the engine.

    Raises:
        InputError: it is not.
    """
    if not isinstance(state, Mapping) or state.get("engine") != engine or state.get("version") != 1:
        raise InputError(f"is not a state of {engine}", expected=f"{engine}, version 1")
    if state.get("cameras") != list(cameras):
        raise InputError("the state is of other cameras", found=shown(state.get("cameras")), expected=list(cameras))
    saved, own = state.get("settings"), plain(settings)
    if saved != own:
        saved = saved if isinstance(saved, Mapping) else {}
        differing = sorted(key for key in {*own, *saved} if own.get(key) != saved.get(key))
        raise InputError(
            "the state is of other settings",
            found=", ".join(differing),
            fix="Load the same model, with the same settings.",
        )
