"""Bundled examples: a rendered table scene from near and from far, and a short rendered take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from counterview.data.dataset import Take
from counterview.data.open import open_dataset
from counterview.masks.png import read_mask
from counterview.media.files import read_json, safe_join
from counterview.media.images import read_image
from counterview.types import ObjectMask, RgbImage


@dataclass(frozen=True)
class BundledView:
    """One image of the bundled pair.

    Attributes:
        name: ``ego`` or ``exo``.
        image: ``(H, W, 3)`` uint8.
        masks: name to mask of each annotated object, at the size of the image.
    """

    name: str
    image: RgbImage
    masks: Mapping[str, ObjectMask]


@dataclass(frozen=True)
class BundledPair:
    """Two images of one scene. The same objects are annotated in both.

    Attributes:
        near: the ego view.
        far: the exo view.
    """

    near: BundledView
    far: BundledView


def load_pair() -> BundledPair:
    """Read the bundled pair.

    Raises:
        InputError: the installed files are damaged.
        ImageError, MaskError: likewise.

    >>> pair = load_pair()
    >>> pair.near.image.shape, pair.far.image.shape
    ((704, 704, 3), (540, 960, 3))
    >>> list(pair.near.masks) == list(pair.far.masks)
    True
    """
    with as_file(files("counterview") / "assets" / "pair") as folder:
        listing = read_json(folder / "pair.json")
        near, far = (
            BundledView(
                view,
                read_image(safe_join(folder, listing[view])),
                {
                    item["name"]: ObjectMask.from_array(read_mask(safe_join(folder, item[f"{view}_mask"])))
                    for item in listing["objects"]
                },
            )
            for view in ("ego", "exo")
        )
    return BundledPair(near, far)


def load_take() -> Take:
    """Open the bundled take: one ego and two exo cameras, ten annotated seconds.

    Raises:
        InputError: the installed files are damaged.

    >>> take = load_take()
    >>> take.ego_cameras, take.exo_cameras
    (('aria05_214-1',), ('cam01', 'cam02'))
    """
    return open_dataset(Path(str(files("counterview"))) / "assets" / "take", "test").takes[0]
