"""Takes, cameras and tracks behind one interface, for every format.

A *take* is one recording by several synchronised cameras: some worn (*ego*, their name holds ``aria``), all
others fixed (*exo*). Each format in :mod:`counterview.data.formats` subclasses :class:`Take`;
:func:`counterview.data.open.open_dataset` detects the format of a folder. A take is read when it is opened.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

from counterview.config import nearest
from counterview.errors import AnnotationError, InputError, MaskError, counted, shown
from counterview.guard import library_errors
from counterview.masks.geometry import same_aspect
from counterview.types import ObjectMask, RgbImage, Track

logger = logging.getLogger(__name__)

Direction = Literal["ego2exo", "exo2ego"]
DIRECTIONS: tuple[Direction, ...] = ("ego2exo", "exo2ego")
OFFICIAL_SPLITS = ("train", "val", "test")
SPLITS = (*OFFICIAL_SPLITS, "test_novel")
"""Splits that are read: those of Ego-Exo4D, and the held-out kinds of objects of a synthetic release."""

KEPT_TAKES = 64
"""Number of opened takes that a data set keeps in memory."""


def is_ego(camera: str) -> bool:
    """Whether a camera of Ego-Exo4D is worn: its name contains ``aria``. All others are fixed."""
    return "aria" in camera.lower()


def check_direction(direction: str) -> Direction:
    """Check that ``direction`` is one of :data:`DIRECTIONS`, and return it.

    Raises:
        InputError: it is not.
    """
    if direction not in DIRECTIONS:
        raise InputError("no such direction", found=repr(direction), expected=" or ".join(DIRECTIONS))
    return direction


class Take(ABC):
    """One recording: its cameras, objects, masks and images.

    Attributes:
        uid: the take's identifier in annotations and predictions.
        name: its readable name; the uid if it has no name.
        scenario: the activity; empty if unknown.
        problems: entries that were skipped while reading, one line each. Grows as tracks are read.
    """

    def __init__(self, uid: str, name: str | None = None, scenario: str = "") -> None:
        self.uid = uid
        self.name = name or uid
        self.scenario = scenario
        self.problems: list[str] = []
        self._misfits: dict[str, dict[str, frozenset[int]]] = {}

    @property
    @abstractmethod
    def path(self) -> Path:
        """The file or folder that the take is read from, for messages."""

    @property
    @abstractmethod
    def raw_masks(self) -> Mapping[str, Mapping[str, Mapping[int, Any]]]:
        """Encoded masks: object to camera to frame, in the file's order of objects and cameras."""

    @abstractmethod
    def annotated_frames(self, name: str, camera: str) -> frozenset[int]:
        """Frames of ``camera`` in which the object was annotated: as visible, with a mask, or as not visible.

        Raises:
            AnnotationError: no such object or camera.
        """

    @abstractmethod
    def decode_mask(self, raw: Any) -> ObjectMask:
        """Decode one value of :attr:`raw_masks`, at the native size of the camera.

        Raises:
            MaskError: the value is malformed.
        """

    @property
    @abstractmethod
    def frames(self) -> tuple[int, ...]:
        """Frame numbers, ascending, for which every camera should have an image."""

    @abstractmethod
    def has_frame(self, camera: str, frame: int) -> bool:
        """Whether the image is available, as far as that is known without decoding it."""

    @abstractmethod
    def frame(self, camera: str, frame: int) -> RgbImage:
        """The image of ``camera`` at ``frame``: ``(H, W, 3)`` uint8 RGB. It may be smaller than the masks.

        Raises:
            ImageError: the image file is missing or damaged.
            VideoError: the video is missing or damaged, or has no such frame.
        """

    def plan_reads(self, frames: Mapping[str, Iterable[int]]) -> None:
        """Announce the frames of each camera that :meth:`frame` will be asked for in order.

        Formats that store videos then decode each group of pictures once; the images are the same.

        Args:
            frames: frame numbers by camera.
        """
        return

    def raw_size(self, raw: Any) -> tuple[int, int] | None:
        """Height and width, in pixels, that one value of :attr:`raw_masks` states; ``None`` if it states none."""
        return None

    def image_hw(self, camera: str) -> tuple[int, int] | None:
        """Height and width of a camera's images, in pixels; ``None`` if there are none, or they cannot be read."""
        return None

    @property
    def image_kind(self) -> str:
        """How the images are stored, such as ``jpg``; images of several kinds give slightly different predictions."""
        return "unknown"

    def misfits(self, camera: str) -> Mapping[str, frozenset[int]]:
        """Frames in which the mask of an object has another aspect ratio than the camera's images, by object.

        Such a mask is of another video, or turned. It is no annotation of the image, so its frame counts as unknown.
        :attr:`problems` gets one line for the camera.
        """
        if camera not in self._misfits:
            size_hw = self.image_hw(camera)
            self._misfits[camera] = {} if size_hw is None else self._find_misfits(camera, size_hw)
        return self._misfits[camera]

    def _find_misfits(self, camera: str, size_hw: tuple[int, int]) -> dict[str, frozenset[int]]:
        found: dict[str, frozenset[int]] = {}
        sizes: Counter[tuple[int, int]] = Counter()
        total = 0
        for name, cameras in self.raw_masks.items():
            stated = {frame: self.raw_size(raw) for frame, raw in cameras.get(camera, {}).items()}
            total += len(stated)
            wrong = {f: hw for f, hw in stated.items() if hw is not None and not same_aspect(hw, size_hw)}
            sizes.update(wrong.values())
            if wrong:
                found[name] = frozenset(wrong)
        if found:
            shapes = " and ".join(f"{h} x {w}" for (h, w), _ in sizes.most_common(2))
            self.note(
                f"take {self.uid}, camera {camera!r}: {sizes.total()} of {total} masks are left out: they are {shapes} "
                f"px, its images {size_hw[0]} x {size_hw[1]} px (height x width), of another aspect ratio"
            )
        return found

    def fits(self, camera: str) -> bool:
        """Whether a camera has a mask that fits its images, or none at all. If not, its images are not used either."""
        misfits = self.misfits(camera)
        if not misfits:
            return True
        masks = sum(len(cameras.get(camera, ())) for cameras in self.raw_masks.values())
        return sum(map(len, misfits.values())) < masks

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the annotated objects. They may contain spaces and slashes."""
        return tuple(self.raw_masks)

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """Every camera with an annotated object: ego cameras first, then sorted by name."""
        names = {camera for cameras in self.raw_masks.values() for camera in cameras}
        return tuple(sorted(names, key=lambda c: (not self.is_ego(c), c)))

    def is_ego(self, camera: str) -> bool:
        """Whether ``camera`` is on the ego side of a pair."""
        return is_ego(camera)

    @property
    def ego_cameras(self) -> tuple[str, ...]:
        """The worn cameras; usually one."""
        return tuple(c for c in self.cameras if self.is_ego(c))

    @property
    def exo_cameras(self) -> tuple[str, ...]:
        """The fixed cameras."""
        return tuple(c for c in self.cameras if not self.is_ego(c))

    def cameras_of(self, name: str) -> tuple[str, ...]:
        """The cameras in which the object is annotated, in the file's order.

        Raises:
            AnnotationError: no such object.
        """
        if name not in self.raw_masks:
            raise AnnotationError(
                f"no object {name!r} in take {self.uid}", path=self.path, fix=nearest(name, self.objects).capitalize()
            )
        return tuple(self.raw_masks[name])

    def _raw_masks_of(self, name: str, camera: str) -> Mapping[int, Any]:
        """Encoded masks by frame; ``AnnotationError`` if there is no such object or camera."""
        cameras = self.cameras_of(name)
        if camera not in cameras:
            raise AnnotationError(
                f"object {name!r} of take {self.uid} is not annotated in camera {camera!r}",
                path=self.path,
                fix=nearest(camera, cameras).capitalize(),
            )
        return self.raw_masks[name][camera]

    def mask_frames(self, name: str, camera: str) -> tuple[int, ...]:
        """Frames with a mask, ascending. The masks are not decoded, so some may be damaged, or not fit the images.

        Raises:
            AnnotationError: no such object or camera.
        """
        return tuple(sorted(self._raw_masks_of(name, camera)))

    def mask_count(self, name: str, camera: str) -> int:
        """Number of masks in the annotation, including malformed ones.

        Raises:
            AnnotationError: no such object or camera.
        """
        return len(self._raw_masks_of(name, camera))

    def fitting_frames(self, name: str, camera: str) -> tuple[frozenset[int], frozenset[int]]:
        """Frames with a mask, and annotated frames, both without those whose mask does not fit the camera's images.

        Raises:
            AnnotationError: no such object or camera.
        """
        misfits = self.misfits(camera).get(name, frozenset())
        return frozenset(self.mask_frames(name, camera)) - misfits, self.annotated_frames(name, camera) - misfits

    def mask(self, name: str, camera: str, frame: int) -> ObjectMask | None:
        """One mask at native size; ``None`` if ``frame`` has no mask.

        Raises:
            AnnotationError: no such object or camera.
            MaskError: the mask is malformed, or does not fit the camera's images.
        """
        raw = self._raw_masks_of(name, camera).get(frame)
        if raw is None:
            return None
        if frame in self.misfits(camera).get(name, ()):
            where = f"take {self.uid}, object {name!r}, camera {camera!r}, frame {frame}"
            raise MaskError(
                f"{where}: the mask does not fit its image", path=self.path,
                found=f"{self.raw_size(raw)}", expected=f"the aspect ratio of {self.image_hw(camera)}",
            )  # fmt: skip
        return self._decode(raw, name, camera, frame)

    def _decode(self, raw: Any, name: str, camera: str, frame: int) -> ObjectMask:
        try:
            with library_errors(MaskError, "the mask cannot be read"):
                return self.decode_mask(raw)
        except MaskError as error:
            where = f"take {self.uid}, object {name!r}, camera {camera!r}, frame {frame}"
            raise MaskError(f"{where}: {error.problem}", path=self.path, found=error.found) from None

    def track(self, name: str, camera: str) -> Track:
        """All masks of one object in one camera, at native size.

        A mask that does not decode, does not fit the images, or has another size than most, is skipped together with
        its frame, so that the frame counts as unknown and never as "not visible". It is noted in :attr:`problems`.

        Raises:
            AnnotationError: no such object or camera.
        """
        masks: dict[int, ObjectMask] = {}
        skipped = set(self.misfits(camera).get(name, ()))
        for frame, raw in sorted(self._raw_masks_of(name, camera).items()):
            if frame in skipped:
                continue
            try:
                masks[frame] = self._decode(raw, name, camera, frame)
            except MaskError as error:
                skipped.add(frame)
                self.note(error.problem + (f"; found {error.found}" if error.found is not None else ""))
        sizes = Counter(mask.size_hw for mask in masks.values()).most_common()
        for frame in [f for f, mask in masks.items() if mask.size_hw != sizes[0][0]]:
            size = masks.pop(frame).size_hw
            skipped.add(frame)
            where = f"take {self.uid}, object {name!r}, camera {camera!r}, frame {frame}"
            self.note(f"{where}: the mask has the size {size}, the others {sizes[0][0]}")
        return Track(name, camera, masks, self.annotated_frames(name, camera) - skipped)

    def native_size(self, camera: str) -> tuple[int, int]:
        """Height and width of the camera's masks, in pixels, whether or not they fit its images.

        Raises:
            AnnotationError: the camera has no mask that decodes.
        """
        for name, cameras in self.raw_masks.items():
            for frame, raw in cameras.get(camera, {}).items():
                with suppress(MaskError):
                    return self._decode(raw, name, camera, frame).size_hw
        raise AnnotationError(f"take {self.uid} has no readable mask of camera {camera!r}", path=self.path)

    def note(self, line: str) -> None:
        """Add a line to :attr:`problems`, once."""
        if line not in self.problems:
            self.problems.append(line)
            logger.warning("%s", line)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uid!r}, name={self.name!r})"


class _Takes(Sequence[Take]):
    """The takes of a data set, each opened on access."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset.uids)

    @overload
    def __getitem__(self, index: int) -> Take: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Take]: ...
    def __getitem__(self, index: int | slice) -> Take | Sequence[Take]:
        if isinstance(index, slice):
            return [self._dataset.take(uid) for uid in self._dataset.uids[index]]
        return self._dataset.take(self._dataset.uids[index])


class Dataset:
    """Takes in a fixed order.

    Args:
        root: the folder.
        kind: ``"prepared"``, ``"release"`` or ``"handal"``.
        split: the requested split; ``None`` for all.
        uids: the takes' identifiers, in order.
        open_take: opens the take of a uid.
        kept_takes: number of opened takes that are kept in memory; the least recently used one is dropped first.
    """

    def __init__(
        self,
        root: Path,
        kind: str,
        split: str | None,
        uids: Sequence[str],
        open_take: Callable[[str], Take],
        *,
        kept_takes: int = KEPT_TAKES,
    ) -> None:
        self.root = root
        self.kind = kind
        self.split = split
        self.uids = tuple(dict.fromkeys(uids))
        self._uid_set = frozenset(self.uids)
        self._open_take = open_take
        self._opened: OrderedDict[str, Take] = OrderedDict()
        self._max_opened = max(1, kept_takes)

    @property
    def takes(self) -> Sequence[Take]:
        """The takes, each opened on access."""
        return _Takes(self)

    def take(self, uid: str) -> Take:
        """Open one take.

        Raises:
            InputError: no such take in this data set, or its annotation cannot be read.
        """
        if uid in self._opened:
            self._opened.move_to_end(uid)
            return self._opened[uid]
        if uid not in self._uid_set:
            raise InputError(f"no take {shown(uid)}", path=self.root, fix=nearest(uid, self.uids[:1000]).capitalize())
        with library_errors(AnnotationError, f"take {shown(uid)} cannot be read", path=self.root):
            take = self._open_take(uid)
        self._opened[uid] = take
        if len(self._opened) > self._max_opened:
            self._opened.popitem(last=False)
        return take

    def first(self, takes: int) -> Dataset:
        """The first takes, as a data set of their own."""
        return Dataset(self.root, self.kind, self.split, self.uids[:takes], self.take, kept_takes=1)

    def image_source(self) -> dict[str, str]:
        """Format of the data set, and how its images are stored: of the first take that can be read.

        >>> Dataset(Path("x"), "prepared", None, [], str).image_source()  # type: ignore[arg-type]
        {'format': 'prepared', 'images': 'unknown'}
        """
        for uid in self.uids:
            with suppress(InputError):
                return {"format": self.kind, "images": self.take(uid).image_kind}
        return {"format": self.kind, "images": "unknown"}

    def __len__(self) -> int:
        return len(self.uids)

    def __iter__(self) -> Iterator[Take]:
        return iter(self.takes)

    def __repr__(self) -> str:
        split = f", split={self.split!r}" if self.split else ""
        return f"Dataset({str(self.root)!r}, {self.kind}{split}, {counted(len(self), 'take')})"

    def __getstate__(self) -> dict[str, Any]:
        # A copy for a worker process starts without opened takes.
        return {**self.__dict__, "_opened": OrderedDict()}


def frame_number(text: Any) -> int:
    """A frame number from a JSON key or value.

    Raises:
        ValueError: it is not an integer of 0 or more in its plain decimal form.

    >>> frame_number("30")
    30
    >>> frame_number("030")
    Traceback (most recent call last):
    ValueError: '030' is not a frame number
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError(f"{shown(text, 60)} is not a frame number")
    if isinstance(text, int):
        number = text if abs(text) < 10**11 else -1
    else:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
    if number < 0 or str(number) != str(text):
        raise ValueError(f"{shown(text, 60)} is not a frame number")
    return number
