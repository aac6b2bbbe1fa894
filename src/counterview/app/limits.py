"""What a visitor may upload, and how long it is kept: said on the page before, and in the error after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from counterview.errors import ConfigError, InputError

Kind = Literal["image", "video", "work"]
"""What a file is uploaded as."""

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
WORK_ENDINGS = (".zip",)
_NAMES = {"image": "an image", "video": "a video", "work": "work"}
VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")


@dataclass(frozen=True)
class PageLimits:
    """Limits of one session of the page.

    Attributes:
        image_mb: largest image file, in millions of bytes.
        image_megapixels: largest image, in millions of pixels.
        video_mb: largest video file, in millions of bytes.
        video_megapixels: largest frame of a video, in millions of pixels.
        video_s: longest video, in seconds.
        files: files that a session may hold.
        session_mb: bytes that a session may hold in all, in millions.
        idle_s: seconds without a request after which a session and its files are removed.
        sessions: sessions at one time.
        waiting: jobs of one session that may wait at one time.

    Raises:
        ConfigError: a limit that is not above 0.
    """

    image_mb: float = 30
    image_megapixels: float = 40
    video_mb: float = 500
    video_megapixels: float = 9
    video_s: float = 600
    files: int = 40
    session_mb: float = 2000
    idle_s: float = 3600
    sessions: int = 200
    waiting: int = 4

    def __post_init__(self) -> None:
        wrong = [f"{name}={value}" for name, value in vars(self).items() if value <= 0]
        if wrong:
            raise ConfigError("limits of the page are above 0", found=", ".join(wrong))

    def file_bytes(self, kind: Kind) -> int:
        """Bytes of the largest file of a kind.

        Args:
            kind: what it is uploaded as.
        """
        most = {"image": self.image_mb, "video": self.video_mb, "work": self.session_mb}
        return int(1e6 * most[kind])

    def said(self, kind: Kind) -> str:
        """The limits of a kind in a line for the page.

        Args:
            kind: what is uploaded.

        >>> PageLimits().said("image")
        'JPEG, PNG, WebP, BMP, TIFF or AVIF; at most 30 MB and 40 megapixels'
        >>> PageLimits().said("video")
        'MP4, MOV, MKV, WebM or AVI; at most 500 MB, 9 megapixels a frame and 10 minutes'
        """
        if kind == "image":
            formats = "JPEG, PNG, WebP, BMP, TIFF or AVIF"
            return f"{formats}; at most {self.image_mb:g} MB and {self.image_megapixels:g} megapixels"
        length = f"{self.video_s / 60:g} minutes" if self.video_s >= 120 else f"{self.video_s:g} seconds"
        size = f"at most {self.video_mb:g} MB, {self.video_megapixels:g} megapixels a frame and {length}"
        return f"MP4, MOV, MKV, WebM or AVI; {size}"


def check_ending(name: str, kind: Kind) -> str:
    """The ending of an uploaded file's name, in lower case, if files of the kind have it.

    Args:
        name: as the visitor's machine calls it.
        kind: what it is uploaded as.

    Raises:
        InputError: another ending.

    >>> check_ending("Mug.JPG", "image")
    '.jpg'
    """
    known = {"image": IMAGE_ENDINGS, "video": VIDEO_ENDINGS, "work": WORK_ENDINGS}[kind]
    ending = Path(name).suffix.lower()
    if ending not in known:
        raise InputError(
            f"{name}: is not {_NAMES[kind]} that the page takes",
            found=ending or "a name without an ending", expected=", ".join(known),
        )  # fmt: skip
    return ending
