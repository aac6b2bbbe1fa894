"""What a call of the library takes for an image, and its pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from counterview.errors import ConfigError
from counterview.media.frame_source import SourceFrame
from counterview.media.images import read_image, to_rgb
from counterview.types import RgbImage, View, as_rgb

ImageInput = RgbImage | View | SourceFrame | Image.Image | str | os.PathLike[str]
"""``(H, W, 3)`` uint8, a :class:`~counterview.types.View`, a frame of a video, an image of Pillow, or a file's path."""

ColorOrder = Literal["rgb", "bgr"]
"""Order of the channels of an array: ``rgb``, or OpenCV's ``bgr``."""


def load_rgb(image: Any, *, what: str = "image", color: str = "rgb") -> RgbImage:
    """The pixels of whatever stands for an image.

    Args:
        image: an array ``(H, W, 3)`` uint8, a view, a frame of a video, an image of Pillow (rotated as its EXIF data
            says), or a path.
        what: name of the image in an error message.
        color: order of an array's channels, ``rgb`` or ``bgr``. The other kinds know theirs.

    Returns:
        ``(H, W, 3)`` uint8 RGB; an RGB array itself, not a copy.

    Raises:
        ImageError: anything else, or a file that is no image.
        ConfigError: another order of channels.
    """
    if color not in ("rgb", "bgr"):
        raise ConfigError("unknown order of channels", found=repr(color), expected="'rgb' or 'bgr'")
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if isinstance(image, SourceFrame):
        return image.image
    if isinstance(image, Image.Image):
        return as_rgb(to_rgb(image), what=what)
    rgb = as_rgb(image, what=what)
    return np.ascontiguousarray(rgb[..., ::-1]) if color == "bgr" and isinstance(image, np.ndarray) else rgb


def path_of(image: Any) -> Path | None:
    """The file of an image that was given as a path; ``None`` for others."""
    return Path(image) if isinstance(image, (str, os.PathLike)) else None
