"""What a long computation over images will cost, said and checked before it is paid."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from counterview.errors import CounterviewError

MEASURED_IMAGES = 3
"""Images that are timed before the rest. The first is not counted: it also loads libraries."""

MIN_IMAGES = 20
"""For fewer images nothing is said: the progress bar tells as much."""


@dataclass(frozen=True)
class Cost:
    """The cost of encoding images.

    Attributes:
        images: still to be encoded.
        cached: that are in the cache already.
        seconds_per_image: measured, in one process.
        bytes_per_image: of cache, measured.
        folder: of the cache; ``None`` where nothing is stored.
        workers: processes.
    """

    images: int
    cached: int
    seconds_per_image: float
    bytes_per_image: float = 0.0
    folder: Path | None = None
    workers: int = 1

    @property
    def seconds(self) -> float:
        """Of all images."""
        return self.images * self.seconds_per_image / max(1, min(self.workers, os.cpu_count() or 1))

    @property
    def nbytes(self) -> float:
        """Of cache that all images need."""
        return self.images * self.bytes_per_image

    def sentence(self) -> str:
        """One line for the user.

        >>> print(Cost(12_000, 34, 2.6, 3.1e6, Path("data/cache")).sentence())
        12000 images to encode (34 are cached): about 8 h 40 min at 2.6 s an image; 37 GB of cache in data/cache
        """
        cached = f" ({self.cached} are cached)" if self.cached else ""
        processes = f" and {self.workers} processes" if self.workers > 1 else ""
        text = (
            f"{self.images} images to encode{cached}: about {duration(self.seconds)} at "
            f"{self.seconds_per_image:.2g} s an image{processes}"
        )
        return text if self.folder is None else f"{text}; {size(self.nbytes)} of cache in {self.folder.as_posix()}"

    def check(self, limit_bytes: float | None = None, setting: str = "") -> None:
        """Refuse what does not fit, before it is begun.

        Args:
            limit_bytes: largest size of the cache that the user allows; no limit if not given.
            setting: names that limit in the error.

        Raises:
            CounterviewError: the cache would be larger than the limit, or than the room on its disk.
        """
        if self.folder is None:
            return
        if limit_bytes is not None and self.nbytes > limit_bytes:
            raise CounterviewError(
                "the cache would be larger than allowed", path=self.folder, found=size(self.nbytes),
                expected=f"at most {size(limit_bytes)} ({setting})",
                fix=f"Raise {setting}, or use a fraction of the pairs.",
            )  # fmt: skip
        free = shutil.disk_usage(self.folder).free
        if self.nbytes > free:
            raise CounterviewError(
                "the disk has no room for the cache", path=self.folder, found=f"{size(free)} free",
                expected=size(self.nbytes), fix="Name a folder on another disk, or use a fraction of the pairs.",
            )  # fmt: skip


def announce(cost: Cost, *, progress: bool = True) -> None:
    """Print the sentence on standard error, where there is something to say.

    Args:
        cost: of :data:`MIN_IMAGES` images or more.
        progress: whether the user wants to see it.
    """
    if progress and cost.images >= MIN_IMAGES:
        tqdm.write(cost.sentence(), file=sys.stderr)


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(40), duration(31_000), duration(600)
    ('40 s', '8 h 37 min', '10 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def size(nbytes: float) -> str:
    """A number of bytes in words.

    >>> size(37.2e9), size(4.2e6)
    ('37 GB', '4.2 MB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2g} {unit}" if nbytes < 10 * scale else f"{nbytes / scale:.0f} {unit}"
    return f"{nbytes / 1e3:.0f} kB"
