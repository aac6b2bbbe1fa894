"""The values that flow through Counterview: views, masks, matches and tracks.

All of them are frozen and validated on construction, so that later code need not check them again.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.errors import ImageError, InputError, MaskError
from counterview.mask_formats import DrawnOnImages, MaskExports, dense_mask, normal_form

BoolImage = NDArray[np.bool_]
"""A dense mask, shape ``(H, W)``."""

MAX_RUNS = 20_000_000
"""Runs of a mask at most, 8 bytes each: a mask of noise at 8K has 16 million."""

RgbImage = NDArray[np.uint8]
"""An image, shape ``(H, W, 3)``, uint8, channels in the order red, green, blue."""


def as_rgb(image: Any, *, what: str = "image") -> RgbImage:
    """Return the pixels of an image, checked. Calls that take an image begin with this.

    Args:
        image: an ``(H, W, 3)`` uint8 array with at least one pixel, or a :class:`View`, whose image is returned.
        what: name of the image in an error message, for example ``"query image"``.

    Returns:
        ``(H, W, 3)`` uint8; the array itself, not a copy.

    Raises:
        ImageError: another type, shape or dtype.
    """
    if isinstance(image, View):
        return image.image  # checked when the view was constructed
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(
            f"the {what} is not an RGB array",
            found=found,
            expected="uint8 (H, W, 3)",
            fix="Read images with counterview.media.images.read_image.",
        )
    if image.shape[0] == 0 or image.shape[1] == 0:
        raise ImageError(f"the {what} has no pixels", found=image.shape, expected="at least 1x1")
    return image


@dataclass(frozen=True, eq=False)
class View:
    """One image of one camera, with its origin.

    A view stands for its image in ``encode`` and ``match`` of a predictor, in a session of LM-EEC, in
    :func:`counterview.media.images.write_image`, :func:`counterview.media.encode.write_video` and the functions of
    :mod:`counterview.masks.draw`. Elsewhere, pass ``view.image``.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB. The constructor also accepts another view and takes its image.
        camera: name of the camera; ``None`` if unknown.
        frame: frame number in its video, 0 or more; ``None`` for an image that is not from a video.
        path: the file that it was read from; ``None`` if it was not read from a file.

    Raises:
        ImageError: the image is not an ``(H, W, 3)`` uint8 array.
        InputError: the frame number is not an integer of 0 or more.
    """

    image: RgbImage
    camera: str | None = None
    frame: int | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", as_rgb(self.image))
        if self.frame is not None and (isinstance(self.frame, bool) or int(self.frame) != self.frame or self.frame < 0):
            raise InputError("a frame number is an integer of 0 or more", found=repr(self.frame))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def __repr__(self) -> str:
        known = [f"{name}={value!r}" for name, value in list(vars(self).items())[1:] if value is not None]
        return f"View({', '.join([f'size_hw={self.size_hw}', *known])})"


ImageLike = RgbImage | View
"""What a call that takes an image accepts: ``(H, W, 3)`` uint8, or a :class:`View`."""


class Visibility(enum.StrEnum):
    """What is known of an object in a frame. Ego-Exo4D separates the last two by ``annotated_frames``."""

    VISIBLE = "visible"
    NOT_VISIBLE = "not visible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class ObjectMask(MaskExports):
    """A binary mask, stored as run lengths in COCO's column-major order.

    Attributes:
        size_hw: height and width in pixels.
        runs: ``(R,)`` int64 lengths of alternating runs, zeros first; they sum to ``H * W``. Stored in
            normal form: only the first run may be 0, so equal masks have equal runs.

    Raises:
        MaskError: a size that is not positive, a negative run, runs that do not fill the size, or more than
            :data:`MAX_RUNS` of them.
    """

    size_hw: tuple[int, int]
    runs: NDArray[np.int64]

    def __post_init__(self) -> None:
        size = tuple(int(v) for v in self.size_hw)
        if len(size) != 2 or min(size) < 1:
            raise MaskError("a mask has a height and a width of at least 1", found=self.size_hw)
        runs = np.asarray(self.runs)
        if runs.ndim != 1 or (runs.size and not np.issubdtype(runs.dtype, np.integer)):
            raise MaskError("run lengths are a one-dimensional list of integers", found=f"{runs.dtype} {runs.shape}")
        _check_runs(runs.size)
        runs = runs.astype(np.int64)
        if runs.size == 0 or (runs < 0).any():
            raise MaskError("a mask has at least one run length, and none is negative", found=runs[:8].tolist())
        total = sum(runs.tolist()) if runs.max() > 2**31 else int(runs.sum())
        if total != size[0] * size[1]:
            raise MaskError(
                "run lengths do not fill the mask", found=f"{total} pixels", expected=f"{size[0]} x {size[1]}"
            )
        runs = normal_form(runs)
        runs.setflags(write=False)
        object.__setattr__(self, "size_hw", size)
        object.__setattr__(self, "runs", runs)

    @classmethod
    def from_array(cls, mask: Any) -> ObjectMask:
        """Encode a dense mask.

        Args:
            mask: ``(H, W)`` bool, or an integer array of 0 and 1.

        Raises:
            MaskError: another shape, or values other than 0 and 1.

        >>> mask = ObjectMask.from_array([[0, 1, 1], [0, 1, 0]])
        >>> mask
        ObjectMask(size_hw=(2, 3), area=3, box_xywh=(1, 0, 2, 2))
        >>> mask.runs.tolist()  # down the columns: two zeros, three ones, one zero
        [2, 3, 1]
        """
        array = np.asarray(mask)
        if array.ndim != 2 or 0 in array.shape:
            raise MaskError("a mask is two-dimensional", found=f"shape {array.shape}", expected="(H, W)")
        if array.dtype != np.bool_:
            if not np.issubdtype(array.dtype, np.integer) or not np.isin(array, (0, 1)).all():
                raise MaskError(
                    "a mask is boolean",
                    found=f"{array.dtype} with values up to {array.max()}",
                    expected="bool, or integers 0 and 1",
                    fix="Compare with a threshold first, for example mask > 127.",
                )
            array = array.astype(np.bool_)
        pixels = np.ravel(array, order="F")
        change = pixels[1:] != pixels[:-1]
        _check_runs(int(np.count_nonzero(change)) + 1)
        changes = np.flatnonzero(change) + 1
        edges = np.concatenate(([0], changes, [pixels.size]))
        runs = np.diff(edges)
        if pixels[0]:
            runs = np.concatenate(([0], runs))
        return cls((array.shape[0], array.shape[1]), runs)

    @classmethod
    def empty(cls, size_hw: tuple[int, int]) -> ObjectMask:
        """The empty mask of height and width ``size_hw`` in pixels."""
        return cls(size_hw, np.array([int(size_hw[0]) * int(size_hw[1])]))

    def to_array(self) -> BoolImage:
        """Decode to a dense mask, ``(H, W)`` bool.

        >>> ObjectMask((2, 3), np.array([2, 3, 1])).to_array().astype(int).tolist()
        [[0, 1, 1], [0, 1, 0]]
        """
        return dense_mask(self.size_hw, self.runs)

    def _mask_runs(self) -> tuple[tuple[int, int], NDArray[np.int64]]:
        return self.size_hw, self.runs

    @cached_property
    def area(self) -> int:
        """Number of pixels in the mask."""
        return int(self.runs[1::2].sum())

    @property
    def is_empty(self) -> bool:
        """Whether the mask has no pixels."""
        return self.area == 0

    def intervals(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and ends of the runs inside the mask, each ``(K,)`` int64.

        A run covers the column-major pixel indices ``start <= i < end``; pixel ``(x, y)`` has the index ``x * H + y``.
        """
        ends = np.cumsum(self.runs)
        return ends[0::2][: len(self.runs) // 2], ends[1::2]

    @cached_property
    def box_xywh(self) -> tuple[int, int, int, int]:
        """Smallest box around the mask, ``(x, y, width, height)`` in pixels; four zeros if it is empty."""
        if self.is_empty:
            return 0, 0, 0, 0
        height = self.size_hw[0]
        starts, ends = self.intervals()
        x0, x1 = int(starts[0] // height), int((ends[-1] - 1) // height)
        if ((ends - 1) // height > starts // height).any():  # a run that crosses columns touches both edges
            y0, y1 = 0, height - 1
        else:
            y0, y1 = int((starts % height).min()), int(((ends - 1) % height).max())
        return x0, y0, x1 - x0 + 1, y1 - y0 + 1

    @cached_property
    def centroid_xy(self) -> tuple[float, float] | None:
        """Mean pixel position ``(x, y)``; ``None`` if the mask is empty."""
        if self.is_empty:
            return None
        height = self.size_hw[0]

        def columns_before(index: NDArray[np.int64]) -> NDArray[np.int64]:
            """Sum of ``i // height`` over ``i < index``."""
            column, row = np.divmod(index, height)
            return height * (column * (column - 1) // 2) + column * row

        # Below COCO's limit of 2**31 pixels a sum of indices is below 2**61; Python's integers serve beyond it.
        starts, ends = (v if height * self.size_hw[1] < 2**31 else v.astype(object) for v in self.intervals())
        x = int((columns_before(ends) - columns_before(starts)).sum())
        index = int(((ends - starts) * (starts + ends - 1) // 2).sum())
        return x / self.area, (index - height * x) / self.area

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObjectMask):
            return NotImplemented
        return self.size_hw == other.size_hw and np.array_equal(self.runs, other.runs)

    def __hash__(self) -> int:
        return hash((self.size_hw, self.runs.tobytes()))

    def __repr__(self) -> str:
        return f"ObjectMask(size_hw={self.size_hw}, area={self.area}, box_xywh={self.box_xywh})"


def _check_runs(count: int) -> None:
    if count > MAX_RUNS:
        raise MaskError("a mask has too many runs", found=count, expected=f"at most {MAX_RUNS}")


@dataclass(frozen=True)
class Candidate:
    """One candidate mask of the target image, with its score.

    Attributes:
        mask_rle: the mask, at the size of the target image.
        similarity: cosine with the query object, in ``[-1, 1]``.
        proposal: index among the proposals of the image.
        score: by which candidates are ordered, the largest first, on a scale of the model's own: the similarity, or
            the output of a re-ranker that weighs more than looks; ``None`` for a candidate that stands alone.
    """

    mask_rle: ObjectMask
    similarity: float
    proposal: int
    score: float | None = None

    @property
    def mask(self) -> BoolImage:
        """``(H, W)`` bool at the size of the target image."""
        return self.mask_rle.to_array()


@dataclass(frozen=True, repr=False)
class Match(MaskExports, DrawnOnImages):
    """The match of one query object in the target image.

    A match of :meth:`counterview.Predictor.match` can draw itself, and holds its two images for that. They take no part
    in comparisons and are left out when the match is pickled.

    Attributes:
        name: name of the query object.
        mask_rle: its mask in the target image; empty if no proposal was available.
        similarity: cosine of the query object and the matched candidate, in ``[-1, 1]``.
        visibility: probability that the object is visible in the target image, in ``[0, 1]``.
        candidates: the best candidates by :attr:`Candidate.score`, best first; the first one is the match.
        notes: warnings for the reader, for example that the query mask was too small for the features.
        drawing: draws the match on its images, ``(h, w, 3)`` uint8; ``None`` for a match without images.

    Raises:
        InputError: the visibility is not a probability, or the similarity not a cosine.
    """

    name: str
    mask_rle: ObjectMask
    similarity: float
    visibility: float
    candidates: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()
    drawing: Callable[[Match], RgbImage] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.visibility <= 1.0:
            raise InputError("visibility is a probability", found=self.visibility, expected="0 to 1")
        if not -1.0 - 1e-5 <= self.similarity <= 1.0 + 1e-5:
            raise InputError("similarity is a cosine", found=self.similarity, expected="-1 to 1")

    @property
    def mask(self) -> BoolImage:
        """``(H, W)`` bool at the size of the target image."""
        return self.mask_rle.to_array()

    def _mask_runs(self) -> tuple[tuple[int, int], NDArray[np.int64]]:
        return self.mask_rle.size_hw, self.mask_rle.runs

    def _mask_label(self) -> tuple[float | None, str | None]:
        return self.visibility, self.name

    def __repr__(self) -> str:
        more = f", {len(self.notes)} note{'s' if len(self.notes) > 1 else ''}" if self.notes else ""
        return (
            f"Match({self.name!r}, visibility={self.visibility:.2f}, similarity={self.similarity:.3f}, "
            f"area={self.mask_rle.area}, box_xywh={self.mask_rle.box_xywh}, {len(self.candidates)} candidates{more})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "drawing": None}  # worker processes send matches, not images


@dataclass(frozen=True)
class Track:
    """One object's masks in one camera over time.

    The object is *visible* in a frame with a mask, *not visible* in an annotated frame without one, and *unknown*
    in a frame that was not annotated. An empty mask still counts as a mask: so the official evaluation reads it.
    Iteration yields the annotated frames in order.

    Attributes:
        name: the object's name.
        camera: the camera's name.
        masks: frame number to mask, for the frames in which the object is visible.
        annotated_frames: the frames that were annotated; those with a mask are always among them.

    Raises:
        InputError: a frame number is not an integer of 0 or more.
        MaskError: the masks have several sizes.

    >>> mask = ObjectMask.from_array([[0, 1], [1, 1]])
    >>> track = Track("mug", "cam01", {30: mask}, frozenset({30, 60}))
    >>> [str(track.visibility(frame)) for frame in (30, 60, 90)]
    ['visible', 'not visible', 'unknown']
    >>> list(track), track.masks[30].area
    ([30, 60], 3)
    """

    name: str
    camera: str
    masks: Mapping[int, ObjectMask] = field(default_factory=dict)
    annotated_frames: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for frame in (*self.masks, *self.annotated_frames):
            if isinstance(frame, bool) or not isinstance(frame, (int, np.integer)) or frame < 0:
                raise InputError(f"track {self.name!r}: a frame number is an integer of 0 or more", found=repr(frame))
        sizes = {mask.size_hw for mask in self.masks.values()}
        if len(sizes) > 1:
            raise MaskError(
                f"track {self.name!r} of camera {self.camera!r} has masks of several sizes",
                found=sorted(sizes),
            )
        masks = {int(k): v for k, v in sorted(self.masks.items())}
        object.__setattr__(self, "masks", MappingProxyType(masks))
        object.__setattr__(
            self, "annotated_frames", frozenset(int(f) for f in self.annotated_frames) | frozenset(masks)
        )

    def visibility(self, frame: int) -> Visibility:
        """What is known of the object in ``frame``."""
        if frame in self.masks:
            return Visibility.VISIBLE
        return Visibility.NOT_VISIBLE if frame in self.annotated_frames else Visibility.UNKNOWN

    def __iter__(self) -> Iterator[int]:
        """The annotated frames, in order."""
        return iter(sorted(self.annotated_frames))

    def __len__(self) -> int:
        return len(self.annotated_frames)

    def __repr__(self) -> str:
        return (
            f"Track({self.name!r}, camera={self.camera!r}, {len(self.masks)} masks, "
            f"{len(self.annotated_frames)} annotated frames)"
        )

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy cannot be pickled, and worker processes send tracks.
        return (Track, (self.name, self.camera, dict(self.masks), self.annotated_frames))
