"""Tracks for the tests of formats: cameras of several sizes, objects that vanish, come late, have holes or parts."""

import numpy as np

from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks
from counterview.types import ObjectMask

SIZES = {"ego": (40, 56), "cam01": (36, 64)}


def blob(size_hw, seed, *, hole=False, parts=1):
    """A smooth blob of one or more parts, with a hole or not."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    mask = np.zeros(size_hw, bool)
    for part in range(parts):
        cx = size_hw[1] * (part + 0.5) / parts + rng.uniform(-3, 3)
        cy, radius = size_hw[0] / 2 + rng.uniform(-4, 4), min(size_hw) / (3 if parts == 1 else 6)
        angle = np.arctan2(y - cy, x - cx)
        mask |= np.hypot(y - cy, x - cx) < radius * (1 + 0.2 * np.sin(3 * angle + seed))
        if hole:
            mask &= np.hypot(y - cy, x - cx) > radius / 3
    return ObjectMask.from_array(mask)


def noise(size_hw, seed):
    return ObjectMask.from_array(np.random.default_rng(seed).random(size_hw) > 0.5)


def some_tracks():
    """Frames with a mask, without one, and unknown ones; names with spaces, quotes and letters of other scripts."""
    ego, cam = SIZES["ego"], SIZES["cam01"]
    cameras = {
        "ego": TrackedCamera("videos/ego.mp4", ego, 30.0),
        "cam01": TrackedCamera(None, cam, 25.0, 1.37, -100.0),
    }
    mug = {
        "ego": [
            TrackedMask(0.0, 0, blob(ego, 0), 1.0, "given"),
            TrackedMask(0.5, 15, blob(ego, 1, hole=True), 0.93, "followed"),
            TrackedMask(1.0, 30, None, 0.04, "followed"),
            TrackedMask(1.5, 45, None, None, "unknown"),
        ],
        "cam01": [
            TrackedMask(0.04, 1, blob(cam, 2), 0.75, "matched"),
            TrackedMask(0.6, 15, noise(cam, 3), 0.6, "propagated"),
            TrackedMask(1.0, 25, None, 0.2, "matched"),
        ],
    }
    knife = {  # shown later
        "ego": [TrackedMask(1.0, 30, blob(ego, 4, parts=2), 1.0, "given")],
        "cam01": [TrackedMask(1.0, 25, ObjectMask.from_array(np.ones(cam, bool)), 0.55, "matched")],
    }
    return Tracks(cameras, {'Küchen-"mug" <1> & co': mug, "bolt/nut_0": knife}, {"model": "tiny", "fps": 2})


def flat(tracks):
    """``(object, camera, frame)`` to what is stated there."""
    return {
        (name, camera, item.frame): item
        for name, cameras in tracks.objects.items()
        for camera, items in cameras.items()
        for item in items
    }
