"""The target images of ``counterview match``: files, folders of images, and patterns."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from counterview.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif")
"""File names that are taken for images in a folder, in lower case."""


def target_images(places: Sequence[Path]) -> dict[str, Path]:
    """The target images by name, in the order given; those of a folder or pattern in the order of their names.

    Args:
        places: image files, folders of images, and patterns such as ``frames/*.jpg``, where the shell left them.

    Returns:
        name to file. A name is the file's without ending; with its folder, where two files share it.

    Raises:
        InputError: a folder without images, a pattern without files, or one image twice.

    >>> list(target_images([Path("cam01/30.jpg"), Path("cam02/30.jpg"), Path("wide.png")]))
    ['cam01-30', 'cam02-30', 'wide']
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            images = sorted(p for p in place.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
            if not images:
                raise InputError("holds no image", path=place, expected=f"files of {', '.join(ENDINGS)}")
            found += images
        elif not place.exists() and glob.has_magic(str(place)):
            matching = sorted(Path(p) for p in glob.glob(str(place), recursive=True))  # noqa: PTH207  # of any root
            if not matching:
                raise InputError("no file matches", path=place, expected="a pattern such as frames/*.jpg")
            found += matching
        else:
            found.append(place)
    stems = [path.stem for path in found]
    names = [
        path.stem if stems.count(path.stem) == 1 else f"{path.absolute().parent.name}-{path.stem}" for path in found
    ]
    for name, path in zip(names, found, strict=True):
        if names.count(name) > 1:
            raise InputError(
                "two targets have one name",
                path=path,
                found=name,
                fix="Give each image once, in a folder of its own name.",
            )
    return dict(zip(names, found, strict=True))
