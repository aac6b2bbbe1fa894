"""The downloaded Ego-Exo4D release, in full size or as 448p, version 1 or 2.

``takes.json``, ``takes/<take_name>/frame_aligned_videos/<camera>.mp4`` (full size),
``…/frame_aligned_videos/downscaled/448/<camera>.mp4`` (shorter side 448) and
``annotations/relations_{train,val,test}.json``. Annotations are keyed by take uid, videos by take name.

An annotation file is never held in memory: it is indexed once by take, and a take is parsed when it is opened.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from counterview.data.clock import ANNOTATION_FPS, TakeClock, VideoClock
from counterview.data.dataset import KEPT_TAKES, SPLITS, Dataset, Take, frame_number, is_ego
from counterview.data.formats.open_videos import OpenVideos, OrderedReads
from counterview.data.formats.takes_json import TakeFacts, read_takes_json, split_withdrawn
from counterview.errors import AnnotationError, InputError, PathError, VideoError
from counterview.masks import rle
from counterview.media.files import check_name
from counterview.media.jsonstream import Span, index_object, read_span
from counterview.media.video import VideoReader
from counterview.types import ObjectMask, RgbImage

logger = logging.getLogger(__name__)

Height = Literal["full", "448"]
HEIGHTS: tuple[Height, ...] = ("full", "448")
RGB_STREAMS = ("214-1", "rgb")
"""The colour stream of an Aria camera: ``214-1`` in file names and annotations, ``rgb`` in ``takes.json``."""


def annotation_path(root: Path, split: str) -> Path:
    """Path of the annotation file of a split.

    Raises:
        PathError: the split cannot be part of a file name.
    """
    return root / "annotations" / f"relations_{check_name(split)}.json"


def is_release(folder: Path) -> bool:
    """Whether ``folder`` has the annotation file of at least one split."""
    return any(annotation_path(folder, split).is_file() for split in SPLITS)


def _inside(root: Path, relative: str) -> Path:
    """Join a path from a file below ``root``. Links are followed: releases are often spread over several disks."""
    path = root
    for piece in relative.strip("/").split("/"):
        path = path / check_name(piece)
    return path


def video_candidates(root: Path, facts: TakeFacts, camera: str, height: Height) -> list[Path]:
    """Possible paths of a camera's video, most likely first: by the camera's name, then by ``takes.json``.

    Raises:
        PathError: a name that cannot be part of a path.
    """
    check_name(camera)
    device, _, stream = camera.partition("_")
    names = [camera]
    if stream in ("", *RGB_STREAMS) and is_ego(camera):
        names += [f"{device}_{other}" for other in RGB_STREAMS if other != stream]
    try:
        folder = _inside(root, facts.folder)
    except PathError:
        folder = root / "takes" / check_name(facts.name)
    folders = [folder, root / "takes" / check_name(facts.name)]
    relative = [f"frame_aligned_videos/{name}.mp4" for name in names]
    relative += [facts.videos[name] for name in names if name in facts.videos]
    paths = []
    for take_folder in dict.fromkeys(folders):
        for text in relative:
            path = _inside(take_folder, text)
            paths.append(path if height == "full" else path.parent / "downscaled" / "448" / path.name)
    return list(dict.fromkeys(paths))


def detect_height(root: Path) -> Height:
    """``"448"`` if the release has downscaled videos only, else ``"full"``."""
    takes = root / "takes"
    has_downscaled = False
    for take in sorted(takes.iterdir()) if takes.is_dir() else ():
        videos = take / "frame_aligned_videos"
        if next(videos.glob("*.mp4"), None) is not None:
            return "full"
        has_downscaled = has_downscaled or next((videos / "downscaled" / "448").glob("*.mp4"), None) is not None
    return "448" if has_downscaled else "full"


def check_height(height: str | None, root: Path) -> Height:
    """Check that ``height`` is ``"full"`` or ``"448"``, and return it; for ``None``, the size that the release has.

    Raises:
        InputError: another size.
    """
    if height is None:
        return detect_height(root)
    if height not in HEIGHTS:
        raise InputError("no such video size", found=repr(height), expected=" or ".join(HEIGHTS))
    return height


def open_release(
    root: Path,
    split: str | None = None,
    *,
    height: str | None = None,
    kept_takes: int = KEPT_TAKES,
    annotation_fps: Fraction | float = ANNOTATION_FPS,
) -> Dataset:
    """Open the annotated takes of a release. See :func:`counterview.data.open.open_dataset`.

    Withdrawn takes, which are annotated and no longer in ``takes.json``, are left out, with a warning in the log.

    Raises:
        InputError: the annotation of the split is missing or not JSON, or another video size.
        AnnotationError: ``takes.json`` is malformed, or lists none of the takes.
    """
    annotated = [s for s in SPLITS if annotation_path(root, s).is_file()]
    if split is not None and split not in annotated:
        path = annotation_path(root, split) if split in SPLITS else root / "annotations"
        raise InputError(f"has no annotation of split {split!r}", path=path, found=" and ".join(annotated) or "none")
    size = check_height(height, root)
    positions: dict[str, tuple[Path, Span]] = {}
    for name in annotated if split is None else [split]:
        path = annotation_path(root, name)
        for uid, span in index_object(path, error=AnnotationError).items():
            positions.setdefault(uid, (path, span))
    facts = read_takes_json(root)
    uids, withdrawn = split_withdrawn(root, positions, facts)
    if withdrawn:
        logger.warning("%s: %d withdrawn takes are left out: %s", root, len(withdrawn), ", ".join(withdrawn[:5]))
    opener = partial(_open_take, root, size, positions, facts or {}, Fraction(annotation_fps), OpenVideos())
    return Dataset(root, "release", split, uids, opener, kept_takes=kept_takes)


def _open_take(
    root: Path,
    height: Height,
    positions: Mapping[str, tuple[Path, Span]],
    facts: Mapping[str, TakeFacts],
    annotation_fps: Fraction,
    videos: OpenVideos,
    uid: str,
) -> ReleaseTake:
    path, span = positions[uid]
    content = read_span(path, span, uid, error=AnnotationError)
    return ReleaseTake(
        root, path, uid, content, facts.get(uid), height=height, annotation_fps=annotation_fps, videos=videos
    )


class ReleaseTake(Take):
    """One take of a release.

    Args:
        root: the release.
        source: the annotation file, for messages.
        uid: the take's uid.
        content: its annotation.
        facts: its entry of ``takes.json``; ``None`` if it has none.
        height: size of the videos to read.
        annotation_fps: frames per second that the frame numbers count.
        videos: those that are open; shared by the takes of a data set.

    Attributes:
        conflict: why it is not known which videos belong to the take: the annotation and ``takes.json`` give it two
            names. It has no videos then. ``None`` without a conflict.
        video_sizes: height and width in pixels of the upright videos that were opened, by camera.

    Raises:
        AnnotationError: the annotation has no ``object_masks``. Single malformed entries are skipped and noted in
            ``problems``.
    """

    def __init__(
        self,
        root: Path,
        source: str | os.PathLike[str],
        uid: str,
        content: Any,
        facts: TakeFacts | None = None,
        *,
        height: Height = "full",
        annotation_fps: Fraction | float = ANNOTATION_FPS,
        videos: OpenVideos | None = None,
    ) -> None:
        self._source = Path(source)
        if not isinstance(content, dict) or not isinstance(content.get("object_masks"), dict):
            raise AnnotationError(f"take {uid} has no object_masks", path=source, found=str(content)[:60])
        name = content.get("take_name")
        name = name if isinstance(name, str) and name else facts.name if facts else None
        super().__init__(uid, name, str(content.get("scenario") or ""))
        if name is None:
            self.note(f"take {uid}: its name is neither in the annotation nor in takes.json")
        self.root = root
        self.height: Height = height
        self.annotation_fps = annotation_fps
        self.facts = facts or TakeFacts(self.name, f"takes/{self.name}")
        self.conflict: str | None = None
        if self.facts.name != self.name:
            self.conflict = f"it is {self.name!r} in the annotation and {self.facts.name!r} in takes.json"
            self.note(f"take {uid}: {self.conflict}; its videos are not used")
        self.video_sizes: dict[str, tuple[int, int]] = {}
        self._masks: dict[str, dict[str, dict[int, Any]]] = {}
        self._annotated: dict[tuple[str, str], frozenset[int]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        for object_name, cameras in content["object_masks"].items():
            self._masks[object_name] = {}
            for camera, entry in self._items(cameras, f"object {object_name!r}"):
                self._read_track(object_name, camera, entry)
        self._videos = OpenVideos() if videos is None else videos
        self._video_paths: dict[str, Path] = {}
        self._damaged: dict[str, VideoError] = {}
        self._planned: dict[str, frozenset[int]] = {}
        self._ordered: dict[str, OrderedReads] = {}

    def _items(self, value: Any, where: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            yield from value.items()
        else:
            self.note(f"take {self.uid}, {where}: skipped, found {type(value).__name__} instead of a mapping")

    def _read_track(self, name: str, camera: str, entry: Any) -> None:
        where = f"object {name!r}, camera {camera!r}"
        try:
            check_name(camera)
        except PathError as error:
            self.note(f"take {self.uid}, {where}: skipped, {error.problem}")
            return
        if not isinstance(entry, dict):
            self.note(f"take {self.uid}, {where}: skipped, found {type(entry).__name__} instead of a mapping")
            return
        masks: dict[int, Any] = {}
        malformed: set[int] = set()
        for key, raw in self._items(entry.get("annotation", {}), where):
            try:
                frame = frame_number(key)
            except ValueError as error:
                self.note(f"take {self.uid}, {where}: {error}")
                continue
            text = raw.get("encodedMask") if isinstance(raw, dict) else raw
            if isinstance(raw, dict) and isinstance(text, str):
                masks[frame] = (raw.get("height"), raw.get("width"), text)
            else:
                malformed.add(frame)
                value_type = "null" if text is None else type(text).__name__
                self.note(f"take {self.uid}, {where}, frame {frame}: the mask is {value_type}, not text")
        annotated = set(masks)
        listed = entry.get("annotated_frames")
        for number in listed if isinstance(listed, list) else ():
            try:
                annotated.add(frame_number(number))
            except ValueError as error:
                self.note(f"take {self.uid}, {where}, annotated_frames: {error}")
        self._masks[name][camera] = masks
        self._annotated[name, camera] = frozenset(annotated - malformed)
        self._counts[name, camera] = len(masks) + len(malformed)

    def mask_count(self, name: str, camera: str) -> int:
        """As :meth:`counterview.data.dataset.Take.mask_count`."""
        self._raw_masks_of(name, camera)
        return self._counts[name, camera]

    @property
    def path(self) -> Path:
        """As :meth:`counterview.data.dataset.Take.path`."""
        return self._source

    @property
    def raw_masks(self) -> Mapping[str, Mapping[str, Mapping[int, Any]]]:
        """As :meth:`counterview.data.dataset.Take.raw_masks`."""
        return self._masks

    def annotated_frames(self, name: str, camera: str) -> frozenset[int]:
        """As :meth:`counterview.data.dataset.Take.annotated_frames`."""
        self._raw_masks_of(name, camera)
        return self._annotated[name, camera]

    def decode_mask(self, raw: Any) -> ObjectMask:
        """As :meth:`counterview.data.dataset.Take.decode_mask`."""
        height, width, text = raw
        return rle.from_lzstring(text, (height, width))

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """As :meth:`counterview.data.dataset.Take.frames`."""
        return tuple(sorted(frozenset().union(*self._annotated.values())))

    def raw_size(self, raw: Any) -> tuple[int, int] | None:
        """As :meth:`counterview.data.dataset.Take.raw_size`."""
        height, width, _ = raw
        if type(height) is int and type(width) is int and min(height, width) > 0:
            return height, width
        return None

    def image_hw(self, camera: str) -> tuple[int, int] | None:
        """As :meth:`counterview.data.dataset.Take.image_hw`."""
        if camera not in self.video_sizes:
            with suppress(InputError):
                self.video(camera)
        return self.video_sizes.get(camera)

    @property
    def image_kind(self) -> str:
        """As :meth:`counterview.data.dataset.Take.image_kind`."""
        return f"video {self.height}"

    def video_path(self, camera: str) -> Path | None:
        """Path of the camera's video; ``None`` if it is missing, or not known because of a :attr:`conflict`.

        Raises:
            PathError: a name that cannot be part of a path.
        """
        if self.conflict is not None:
            return None
        paths = video_candidates(self.root, self.facts, camera, self.height)
        return next((path for path in paths if path.is_file()), None)

    def video(self, camera: str) -> VideoReader:
        """The camera's video, opened. The last few of the data set stay open.

        Raises:
            VideoError: the video is missing or damaged.
            PathError: a name that cannot be part of a path.
        """
        if camera in self._damaged:  # found once: each try may read the whole file
            raise self._damaged[camera]
        path = self._video_paths.get(camera) or self.video_path(camera)
        if path is None:
            raise self._no_video(camera)
        try:
            reader = self._videos.get(path)
        except VideoError as error:
            self._damaged[camera] = error.with_traceback(None)
            raise
        self._video_paths[camera] = path
        self.video_sizes[camera] = reader.size_hw
        return reader

    def _no_video(self, camera: str) -> VideoError:
        if self.conflict is not None:
            return VideoError(f"take {self.uid}: {self.conflict}", path=self.root / "takes.json")
        other = HEIGHTS[1 - HEIGHTS.index(self.height)]
        has_other = any(p.is_file() for p in video_candidates(self.root, self.facts, camera, other))
        return VideoError(
            f"no {self.height} video of camera {camera!r}",
            path=video_candidates(self.root, self.facts, camera, self.height)[0],
            fix=f"It exists in the other size: use height {other}." if has_other else "Download it.",
        )

    def close(self) -> None:
        """Close the opened videos. They are opened again when they are needed."""
        self._videos.close(self._video_paths.values())

    @cached_property
    def video_clocks(self) -> dict[str, VideoClock]:
        """Rate and span of each video that can be read, ego cameras first. Opens every video of the take."""
        clocks = {}
        for camera in self.cameras:
            with suppress(InputError):
                clocks[camera] = VideoClock.of(self.video(camera))
        return clocks

    @cached_property
    def clock(self) -> TakeClock:
        """How annotated frames are found in the videos. Cameras that cannot be reconciled are in ``problems``."""
        clock = TakeClock(self.video_clocks, self.annotation_fps)
        for camera, problem in clock.problems.items():
            self.note(f"take {self.uid}, camera {camera!r}: {problem}")
        return clock

    def has_frame(self, camera: str, frame: int) -> bool:
        """As :meth:`counterview.data.dataset.Take.has_frame`."""
        clock = self.clock  # opens all videos, of which few stay open
        try:
            return self.fits(camera) and clock.number(camera, self.video(camera), frame) is not None
        except VideoError:
            return False

    def frame(self, camera: str, frame: int) -> RgbImage:
        """The image of ``camera`` at the time of an annotated frame, see :mod:`counterview.data.clock`.

        Returns:
            ``(H, W, 3)`` uint8 RGB. It may be smaller than the masks.

        Raises:
            VideoError: the video is missing or damaged, has no image at that time, or does not fit the other cameras
                or its masks.
        """
        problem = self.clock.problems.get(camera)
        video = self.video(camera)
        if problem is None and not self.fits(camera):
            problem = f"the masks of camera {camera!r} do not fit the video"
        if problem is not None:
            raise VideoError(problem, path=video.path, fix="Its frames are not used.")
        number = self._number(camera, video, frame)
        if number is None:
            raise VideoError(f"has no image at the time of frame {frame}", path=video.path, found=repr(video))
        planned = self._planned.pop(camera, None)
        if planned is not None:
            numbers = (self._number(camera, video, each) for each in planned)
            self._ordered[camera] = OrderedReads(video, [each for each in numbers if each is not None])
        ordered = self._ordered.get(camera)
        image = ordered.take(number) if ordered is not None and ordered.reader is video else None
        if isinstance(image, VideoError):
            raise image
        return video.frame(number) if image is None else image

    def _number(self, camera: str, video: VideoReader, frame: int) -> int | None:
        by_number = self.clock.lookup(camera) == "number"
        return frame if by_number else self.clock.number(camera, video, frame)

    def plan_reads(self, frames: Mapping[str, Iterable[int]]) -> None:
        """As :meth:`counterview.data.dataset.Take.plan_reads`."""
        self._ordered.clear()
        self._planned = {camera: frozenset(numbers) for camera, numbers in frames.items()}
