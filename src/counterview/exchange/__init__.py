"""Tracks in and out: our own ``tracks.json``, and the formats of annotation tools, one file a format.

>>> import tempfile
>>> import numpy as np
>>> from counterview import ObjectMask
>>> from counterview.exchange import TrackedCamera, TrackedMask, Tracks, read, write
>>> mug = ObjectMask.from_array(np.eye(4, 6, dtype=bool))
>>> camera = TrackedCamera("ego.mp4", (4, 6), 30.0)
>>> tracks = Tracks({"ego": camera}, {"mug": {"ego": [TrackedMask(0, 0, mug, 1, "given")]}})
>>> with tempfile.TemporaryDirectory() as folder:
...     (file,) = write(tracks, "coco", folder)
...     read(file) == tracks
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = [
    "FORMATS",
    "TrackedCamera",
    "TrackedMask",
    "Tracks",
    "detect_format",
    "prompts_of",
    "read",
    "tracks_of_matches",
    "write",
]

if TYPE_CHECKING:
    from counterview.exchange.formats import FORMATS, detect_format, read, write
    from counterview.exchange.pairs import prompts_of, tracks_of_matches
    from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks

__getattr__, __dir__ = exports(
    __name__,
    {
        "FORMATS": "counterview.exchange.formats",
        "TrackedCamera": "counterview.exchange.tracks",
        "TrackedMask": "counterview.exchange.tracks",
        "Tracks": "counterview.exchange.tracks",
        "detect_format": "counterview.exchange.formats",
        "prompts_of": "counterview.exchange.pairs",
        "read": "counterview.exchange.formats",
        "tracks_of_matches": "counterview.exchange.pairs",
        "write": "counterview.exchange.formats",
    },
)
