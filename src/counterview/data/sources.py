"""Cameras of takes as sources of images by time, and what a user types for any source.

All cameras of a take have one clock: frame ``n`` of its annotation is ``n / 30`` seconds, whatever the frame rates of
its videos are (:mod:`counterview.data.clock`). So two cameras of a take need no offset.

On the command line a camera of a take is ``PATH:camera``, for example ``release/takes/cmu_bike01_2:cam01``,
``prepared/0a1b2c3d:aria01_214-1``, or ``mydata:cam01`` for a data set with a single take. ``PATH`` is the folder of a
data set with the name or the uid of a take behind it; the camera comes after the last colon.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from counterview.config import nearest
from counterview.data.clock import ANNOTATION_FPS
from counterview.data.dataset import Dataset, Take
from counterview.data.formats.handal import HandalTake
from counterview.data.formats.prepared import PreparedTake, read_facts
from counterview.data.formats.release import ReleaseTake
from counterview.data.formats.takes_json import read_takes_json
from counterview.data.open import open_dataset
from counterview.errors import FrameMissingError, ImageError, InputError, VideoError, counted, shown
from counterview.guard import expanded, is_folder
from counterview.media.frame_source import FrameSource, checked_rate
from counterview.media.images import FORMATS
from counterview.media.sources import GridFrames, image_files, media_source, split_rate
from counterview.media.video import VideoReader
from counterview.types import RgbImage

_IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic")


class TakeFrames(GridFrames):
    """The images that a take has of a camera; numbers are those of its annotation.

    A time belongs to the nearest image within half of the usual distance of two images: a prepared take has one a
    second, so an image stands for half a second before and after it.

    Args:
        take: the take.
        camera: one of its cameras.
        name: for messages and results; the camera's if not given.
        fps: frames a second that its frame numbers count; 30 if not given, as in Ego-Exo4D.

    Raises:
        InputError: no such camera, no image of it, or no rate of a format that states none.
    """

    def __init__(self, take: Take, camera: str, name: str | None = None, fps: float | None = None) -> None:
        _check_camera(take, camera)
        self._take, self._camera = take, camera
        stated = None if isinstance(take, HandalTake) else float(ANNOTATION_FPS)
        rate = checked_rate(stated if fps is None else fps, f"take {take.uid}")
        listed = take.images(camera) if isinstance(take, PreparedTake) else take.frames
        numbers = [number for number in sorted(listed) if take.has_frame(camera, number)]
        size = take.image_hw(camera) if numbers else None
        if size is None:
            raise InputError(f"take {take.uid} has no image of camera {camera!r}", path=take.path)
        steps = sorted(later - earlier for earlier, later in pairwise(numbers))
        within = steps[len(steps) // 2] / 2 if steps else 0.5
        super().__init__(name or camera, take.path.parent, size, rate, numbers, within)

    def _image(self, number: int) -> RgbImage:
        return self._take.frame(self._camera, number)


class TakeVideoFrames(GridFrames):
    """The frames of a camera's video in a release, all of them; numbers are those of its annotation.

    Args:
        take: the take.
        camera: one of its cameras.
        name: for messages and results; the camera's if not given.

    Raises:
        InputError: no such camera.
        VideoError: its video is missing or damaged, or cannot be reconciled with the other cameras.
    """

    def __init__(self, take: ReleaseTake, camera: str, name: str | None = None) -> None:
        _check_camera(take, camera)
        self._camera, self._clock = camera, take.clock
        path = take.video(camera).path  # an error, if there is none
        problem = self._clock.problems.get(camera)
        if problem is None and not take.fits(camera):
            problem = f"the masks of camera {camera!r} do not fit the video"
        if problem is not None:
            raise VideoError(problem, path=path, fix="Its frames are not used.")
        # Of its own: a take closes the videos that it has not used for long.
        self.reader = VideoReader(path)
        count = self._clock.frame_count(camera, self.reader)
        super().__init__(name or camera, path, self.reader.size_hw, self._clock.fps, range(max(1, count)))

    @property
    def sound(self) -> tuple[Path, float] | None:
        """As :attr:`FrameSource.sound`; ``None`` if the take's clock is not that of the video."""
        by_time = self._clock.lookup(self._camera) == "time"
        return (self.reader.path, self.reader.start_s) if by_time or self.reader.fps == self._clock.fps else None

    def _images(self, numbers: Sequence[int]) -> Iterator[tuple[int, RgbImage | VideoError | ImageError]]:
        wanted: dict[int, list[int]] = {}
        for number in numbers:
            own = self._clock.number(self._camera, self.reader, number)
            if own is None:
                yield number, FrameMissingError(f"has no image at the time of frame {number}", path=self.path)
            else:
                wanted.setdefault(own, []).append(number)
        for own, image in self.reader.read(wanted):
            for number in wanted[own]:
                yield number, image

    def close(self) -> None:
        """As :meth:`FrameSource.close`."""
        self.reader.close()


def take_source(
    take: Take | str | os.PathLike[str], camera: str | None = None, *, name: str | None = None, fps: float | None = None
) -> FrameSource:
    """A camera of a take as a source.

    Args:
        take: the take, or ``PATH`` of one; ``PATH:camera`` without the next argument.
        camera: one of its cameras.
        name: for messages and results; the camera's name if not given.
        fps: frames a second that its frame numbers count, where the format does not say it.

    Raises:
        InputError: no such take or camera, or several takes that it may be.
        VideoError: the camera's video is missing or damaged, or does not fit the other cameras.
    """
    if not isinstance(take, Take):
        path = os.fspath(take)
        if camera is None:
            path, camera = _split_camera(path)
        take = find_take(path)
    if camera is None:
        raise InputError(f"take {take.uid}: which camera?", path=take.path, expected=_listed(take.cameras))
    if isinstance(take, ReleaseTake):
        return TakeVideoFrames(take, camera, name)
    return TakeFrames(take, camera, name, fps)


def find_take(path: str | os.PathLike[str]) -> Take:
    """The take of a path: a data set with a single take, or a data set with a take's name or uid behind it.

    Args:
        path: such as ``release/takes/cmu_bike01_2``, ``release/cmu_bike01_2`` or ``prepared/0a1b2c3d``.

    Raises:
        InputError: no data set, no such take, or several that it may be.
    """
    place = expanded(path)
    with suppress(OSError, RuntimeError):
        place = place if place.is_absolute() else Path.cwd() / place
    for root in (place, *list(place.parents)[:3]):
        if not is_folder(root):
            continue
        try:
            dataset = open_dataset(root)
        except InputError as error:
            if "not a data set of a known format" in error.problem:
                continue
            raise
        return _take_of(dataset, place.relative_to(root))
    raise InputError(
        "is not a take", path=path, expected="a data set (release, prepared or HANDAL), and a take's name or uid "
        "behind it, as in release/takes/NAME:camera",
    )  # fmt: skip


def _take_of(dataset: Dataset, rest: Path) -> Take:
    """The take of a data set that the rest of a path names."""
    if not rest.parts:
        if len(dataset) == 1:
            return dataset.takes[0]
        raise InputError(
            "which take?", path=dataset.root, found=counted(len(dataset), "take"), expected=_listed(dataset.uids),
            fix=f"Write {dataset.root}/TAKE:camera.",
        )  # fmt: skip
    for text in dict.fromkeys((rest.as_posix(), rest.name)):  # a uid of HANDAL has slashes
        if text in dataset.uids:
            return dataset.take(text)
    names = _take_names(dataset)
    uids = [uid for uid, name in names.items() if name == rest.name]
    if len(uids) > 1:
        raise InputError(
            f"{len(uids)} takes have the name {shown(rest.name)}", path=dataset.root, found=_listed(uids),
            fix="Write the uid in its place.",
        )  # fmt: skip
    if not uids:
        known = [*names.values(), *dataset.uids]
        raise InputError(
            f"no take {shown(rest.name)}", path=dataset.root, fix=nearest(rest.name, known[:1000]).capitalize()
        )  # fmt: skip
    return dataset.take(uids[0])


def _take_names(dataset: Dataset) -> dict[str, str]:
    """Name of each take by uid, without opening them where a file lists them."""
    names: dict[str, str] = {}
    if dataset.kind == "release":
        names = {uid: facts.name for uid, facts in (read_takes_json(dataset.root) or {}).items()}
    elif dataset.kind == "prepared":
        names = {uid: name for uid, (name, _) in read_facts(dataset.root).items()}
    if not names:
        for uid in dataset.uids:
            with suppress(InputError):
                names[uid] = dataset.take(uid).name
    known = set(dataset.uids)
    return {uid: name for uid, name in names.items() if uid in known and name}


def _check_camera(take: Take, camera: str) -> None:
    if camera not in take.cameras:
        raise InputError(
            f"take {take.uid} has no camera {shown(camera)}", path=take.path,
            expected=_listed(take.cameras, 50),
        )  # fmt: skip


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


def _split_camera(text: str) -> tuple[str, str]:
    path, colon, camera = text.rpartition(":")
    if not colon or not path or not camera or "/" in camera or "\\" in camera:
        raise InputError("is neither a video, nor a folder of images, nor TAKE:camera", path=text, found="no such file")
    return path, camera


def open_source(
    source: str | os.PathLike[str] | FrameSource, *, fps: float | None = None, name: str | None = None
) -> FrameSource:
    """Open whatever stands for a camera: a video, a folder of images, or ``TAKE:camera``.

    What exists decides: a file is a video; a folder with images is a folder of images, whose rate is given as ``fps``
    or behind it (``frames@30``); everything else is a camera of a take.

    Args:
        source: the path, ``PATH:camera``, or a source, which comes back as it is.
        fps: images a second of a folder, or frames a second that a take's frame numbers count if its format does not
            say it.
        name: for messages and results; from the path or the camera if not given.

    Raises:
        InputError: nothing of these; it says what was found.
        VideoError: a file that is not a video, or a camera without video.
        ImageError: a folder whose images cannot be read.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source
    text = os.fspath(source)
    place = expanded(split_rate(text)[0])
    if is_folder(place):
        if image_files(place):
            return media_source(text, fps=fps, name=name)
        try:
            take = find_take(place)
        except InputError as error:
            raise InputError(
                "is a folder without images", path=place, expected="a video, a folder of images, or TAKE:camera",
                fix=f"As a take: {error.problem}." if error.found or error.fix else None,
            ) from None  # fmt: skip
        raise InputError(
            f"is take {take.uid}: which camera?", path=place, expected=_listed([f"{place}:{c}" for c in take.cameras])
        )
    if os.path.lexists(place):
        if place.suffix.lower() in _IMAGE_FILES:
            raise VideoError(
                f"is one image ({' or '.join(FORMATS[:2])} …)", path=place,
                expected="a video, a folder of images, or TAKE:camera", fix="Images are matched by: counterview match.",
            )  # fmt: skip
        return media_source(text, fps=fps, name=name)
    path, camera = _split_camera(text)
    return take_source(path, camera, name=name, fps=fps)
