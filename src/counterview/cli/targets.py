"""What a command line names to look in: the images of ``counterview match``, the cameras of ``counterview follow``."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from counterview.errors import InputError

if TYPE_CHECKING:
    from counterview.media.frame_source import FrameSource
    from counterview.media.timeline import Clock

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


def open_cameras(query: str, targets: Sequence[str]) -> dict[str, FrameSource]:
    """Open the cameras of ``counterview follow``.

    Args:
        query: the video, folder of images, or ``TAKE:camera`` in which objects are shown.
        targets: the others.

    Returns:
        name to source, the query camera first. A name is the file's without ending, or the camera's; with its folder,
        and a number, where two share it.

    Raises:
        InputError: the same video twice, or nothing that can be opened.
        VideoError: a file that is not a video.
    """
    from counterview.data.sources import open_source
    from counterview.inference.follow_plan import same_images

    sources: list[FrameSource] = []
    for place in (query, *targets):
        source = open_source(place)
        for number, other in enumerate(sources):
            if same_images(source, other):
                what = "the query" if number == 0 else "another target"
                raise InputError(f"the target {place} is {what}", path=source.path, fix="Give each video once.")
        sources.append(source)
    names = [source.name for source in sources]
    cameras: dict[str, FrameSource] = {}
    for source in sources:
        name = source.name
        if names.count(name) > 1 and source.path is not None:
            name = f"{source.path.absolute().parent.name}-{name}"
        unique, count = name, 2
        while unique in cameras:
            unique, count = f"{name}-{count}", count + 1
        cameras[unique] = source
    return cameras


def read_offsets(texts: Sequence[str], cameras: Sequence[str]) -> dict[str, Clock]:
    """Offsets of cameras as clocks.

    Args:
        texts: ``NAME=SECONDS`` each.
        cameras: names of the targets.

    Raises:
        InputError: another form, an unknown camera, or one twice.

    >>> read_offsets(["cam01=1.5"], ["cam01", "cam02"])
    {'cam01': Clock(offset_s=1.5, drift_ppm=0.0)}
    """
    from counterview.media.timeline import Clock

    clocks: dict[str, Clock] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            seconds = float(value) if equals and name else None
        except ValueError:
            seconds = None
        if seconds is None:
            raise InputError("--offset is malformed", found=text, expected="NAME=SECONDS, such as cam01=1.5")
        if name not in cameras or name in clocks:
            problem = "is given twice" if name in clocks else "is of no target"
            raise InputError(f"--offset {problem}", found=name, expected=" or ".join(cameras))
        clocks[name] = Clock(seconds)
    return clocks
