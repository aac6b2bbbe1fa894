"""Settings of a prepared folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from counterview.data.formats.release import Height

ImageFormat = Literal["jpg", "png", "webp-lossless"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
"""How images are written. The layout's other readers expect ``jpg``; the others lose nothing of the decoded video."""


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of an output folder, the same for all runs that write into it.

    Attributes:
        height: size of the videos.
        every_second: write also every 30th frame of the ego video, as the official preparation does.
        quality: of the JPEG files, 1 to 95.
        images: format of the images.
        annotation_fps: frames per second that the frame numbers of the annotation count.
    """

    height: Height = "full"
    every_second: bool = False
    quality: int = 95
    images: ImageFormat = "jpg"
    annotation_fps: float = 30.0

    @property
    def suffix(self) -> str:
        """File name extension of the images."""
        return f".{self.images.partition('-')[0]}"
