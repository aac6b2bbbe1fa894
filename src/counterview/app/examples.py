"""The bundled pairs of images that a visitor can begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from counterview.app.pair import Side
from counterview.inference.examples import load_pair, load_take
from counterview.types import RgbImage


@dataclass(frozen=True)
class PageExample:
    """A pair of images.

    Attributes:
        title: what the page calls it.
        images: name of the file and ``(H, W, 3)`` uint8 of each side.
    """

    title: str
    images: Mapping[Side, tuple[str, RgbImage]]


def load_examples() -> list[PageExample]:
    """The bundled examples.

    Raises:
        InputError: the installed files are damaged.
        ImageError, VideoError: likewise.
    """
    pair = load_pair()
    near, far = ("near.jpg", pair.near.image), ("far.jpg", pair.far.image)
    take = load_take()
    ego, exo = take.ego_cameras[0], take.exo_cameras[0]
    frame = take.frames[len(take.frames) // 2]
    worn, fixed = (take.frame(camera, frame) for camera in (ego, exo))
    return [
        PageExample("A table, near to far", {"query": near, "target": far}),
        PageExample("The same, far to near", {"query": far, "target": near}),
        PageExample("A worn camera to a fixed one", {"query": (f"{ego}.jpg", worn), "target": (f"{exo}.jpg", fixed)}),
    ]
