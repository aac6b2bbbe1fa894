"""What every proposer takes and returns."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterview.errors import ImageError, ProposalError
from counterview.masks.geometry import fit_mask
from counterview.media.images import image_orientation
from counterview.types import BoolImage, ObjectMask, RgbImage


@dataclass(frozen=True, eq=False)
class Proposals:
    """Candidate masks of one image, best first.

    Attributes:
        size_hw: height and width of the masks in pixels: those of the image, or of another resolution of it, at which
            masks were made beforehand (:func:`fit_proposals` brings them to the image's).
        masks: N masks of ``size_hw``, kept as run lengths; an empty mask is refused.
        scores: ``(N,)`` float32. Comparable within one proposer, not between two.
        boxes_xywh: ``(N, 4)`` float32, pixels. By default the smallest boxes around the masks.

    Raises:
        ProposalError: masks of another size, an empty mask, scores or boxes of another number or not finite.

    Example:
        >>> import numpy as np
        >>> from counterview.types import ObjectMask
        >>> mask = np.zeros((4, 6), dtype=bool)
        >>> mask[1:3, 2:5] = True
        >>> proposals = Proposals((4, 6), (ObjectMask.from_array(mask), ObjectMask.from_array(~mask)), [0.9, 0.4])
        >>> proposals
        Proposals(size_hw=(4, 6), 2 masks)
        >>> proposals.boxes_xywh.tolist()
        [[2.0, 1.0, 3.0, 2.0], [0.0, 0.0, 6.0, 4.0]]
        >>> proposals.take([1]).masks[0].area
        18
    """

    size_hw: tuple[int, int]
    masks: tuple[ObjectMask, ...]
    scores: NDArray[np.float32]
    boxes_xywh: NDArray[np.float32] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        size = (int(self.size_hw[0]), int(self.size_hw[1]))
        masks = tuple(self.masks)
        for index, mask in enumerate(masks):
            if mask.size_hw != size:
                raise ProposalError(
                    f"proposal {index} is of another size than the image", found=mask.size_hw, expected=size
                )
            if mask.is_empty:
                raise ProposalError(f"proposal {index} has no pixel")
        scores = _frozen_floats(self.scores, (len(masks),), "scores")
        boxes: ArrayLike = self.boxes_xywh
        if boxes is None:
            boxes = np.array([mask.box_xywh for mask in masks], dtype=np.float32).reshape(-1, 4)
        object.__setattr__(self, "size_hw", size)
        object.__setattr__(self, "masks", masks)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "boxes_xywh", _frozen_floats(boxes, (len(masks), 4), "boxes"))

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[ObjectMask]:
        return iter(self.masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Proposals):
            return NotImplemented
        return (
            self.size_hw == other.size_hw
            and self.masks == other.masks
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.boxes_xywh, other.boxes_xywh)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Proposals(size_hw={self.size_hw}, {len(self)} masks)"

    def take(self, indices: Sequence[int] | NDArray[np.integer] | slice) -> Proposals:
        """The proposals at ``indices`` ``(K,)``, in that order; ``take(slice(100))`` gives the first hundred."""
        chosen = np.arange(len(self))[indices]
        return Proposals(
            self.size_hw,
            tuple(self.masks[i] for i in chosen),
            self.scores[chosen],
            self.boxes_xywh[chosen],
        )

    def stored_boxes(self) -> NDArray[np.float32] | None:
        """The boxes ``(N, 4)``, if they came with the masks; ``None`` if they are simply the smallest ones."""
        own = np.array([mask.box_xywh for mask in self.masks], dtype=np.float32).reshape(-1, 4)
        return None if np.array_equal(own, self.boxes_xywh) else self.boxes_xywh

    @classmethod
    def none(cls, size_hw: tuple[int, int]) -> Proposals:
        """An empty set of proposals for an image of ``size_hw``."""
        return cls(size_hw, (), np.zeros(0, np.float32))


def _frozen_floats(values: Any, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
        array = np.array(values, dtype=np.float32)
    if array.shape != shape:
        raise ProposalError(f"the {what} do not fit the masks", found=array.shape, expected=shape)
    if not np.isfinite(array).all():
        raise ProposalError(f"the {what} hold a value that is not a finite number")
    array.setflags(write=False)
    return array


@runtime_checkable
class Proposer(Protocol):
    """A class-agnostic mask generator: called with an image, it returns :class:`Proposals`.

    Attributes:
        name: as :func:`counterview.proposals.load_proposer` takes it.
    """

    name: str

    def settings(self) -> dict[str, Any]:
        """Everything that changes the result, as JSON-able values: the key of caches, and part of ``match.json``."""
        ...

    def __call__(self, image: RgbImage, name: str | None = None) -> Proposals:
        """Propose masks for an image.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            name: identifies the image: ``TAKE/CAMERA/FRAME``, or its file's folder and name without ending,
                ``FOLDER/NAME``. Only ``folder`` needs it, which reads masks that were made before; the others ignore
                it.

        Returns:
            N masks of the image's size; those of ``folder`` may be of another resolution.

        Raises:
            ImageError: another shape or dtype.
        """
        ...


@runtime_checkable
class WindowProposer(Protocol):
    """A :class:`Proposer` that can also propose masks in a part of an image, for a part of the work."""

    def in_window(self, image: RgbImage, window_xyxy: tuple[int, int, int, int]) -> Proposals:
        """Propose masks in a window as in the whole image: of the same sizes, as many for its area.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            window_xyxy: half-open box in the image: x0, y0, x1, y1.

        Returns:
            masks of the image's size. One that ends at the window's edge may be a part of something.

        Raises:
            ImageError: another shape or dtype.
        """
        ...


@runtime_checkable
class StoredProposer(Protocol):
    """A :class:`Proposer` that reads masks which were made beforehand, and which may change between two runs."""

    def content_key(self, name: str) -> str:
        """A text that changes when the masks of an image do.

        Args:
            name: of the image, as for a call.

        Raises:
            ProposalError: there are none.
        """
        ...


def fit_proposals(proposals: Proposals, size_hw: tuple[int, int]) -> Proposals:
    """Proposals at another resolution of their image, by nearest neighbour; no mask vanishes.

    Args:
        proposals: N masks of any size.
        size_hw: height and width afterwards, in pixels.

    Returns:
        N masks in the same order, with boxes scaled where they came with the masks.
    """
    if proposals.size_hw == tuple(size_hw):
        return proposals
    boxes = proposals.stored_boxes()
    if boxes is not None:
        boxes = boxes * box_scale(proposals.size_hw, size_hw).astype(np.float32)
    masks = tuple(fit_mask(mask, size_hw) for mask in proposals.masks)
    return Proposals(size_hw, masks, proposals.scores, boxes)  # type: ignore[arg-type]


def box_scale(from_hw: tuple[int, int], to_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Factors ``(4,)`` that bring boxes ``x, y, width, height`` (or ``x1, y1, x2, y2``) to another resolution.

    Args:
        from_hw: height and width in pixels before.
        to_hw: likewise, afterwards.
    """
    return np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]] * 2)


def frame_name(take: str, camera: str, frame: int) -> str:
    """The name of a take's image, as :class:`Proposer` takes it: ``TAKE/CAMERA/FRAME``.

    Args:
        take: the take's uid.
        camera: the camera's name.
        frame: frame number.
    """
    return f"{take}/{camera}/{frame}"


def image_proposals(proposer: Proposer, image: RgbImage, take: str, camera: str, frame: int) -> Proposals:
    """The proposals of a take's image, at the image's size.

    Args:
        proposer: makes or reads them.
        image: ``(H, W, 3)`` uint8, RGB.
        take: the take's uid.
        camera: the camera's name.
        frame: frame number.

    Raises:
        ProposalError: those made beforehand are missing, or of another shape.
    """
    return fit_proposals(proposer(image, frame_name(take, camera, frame)), (image.shape[0], image.shape[1]))


class FileName(str):
    """The name of an image that is a file: a text that knows how the file's pixels are turned.

    Args:
        text: the name.
        orientation: EXIF orientation of the file, 1 to 8; 1 is upright.
    """

    orientation: int

    def __new__(cls, text: str, orientation: int = 1) -> FileName:
        """Make the text, with its orientation beside it."""
        made = super().__new__(cls, text)
        made.orientation = orientation
        return made


def file_name(path: str | os.PathLike[str]) -> FileName:
    """The name of an image that is a file, as :class:`Proposer` takes it: ``FOLDER/NAME``, without its ending.

    The file's EXIF orientation goes with it, since masks of other tools may have been drawn on its stored pixels.

    Args:
        path: of the image.

    >>> file_name("videos/cam01/000030.jpg")
    'cam01/000030'
    """
    path = Path(path).absolute()
    orientation = 1
    with contextlib.suppress(ImageError):  # its pixels are read elsewhere, and the error is told there
        orientation = image_orientation(path)
    return FileName(f"{path.parent.name}/{path.stem}" if path.parent.name else path.stem, orientation)


def in_image(proposals: Proposals, x_px: int, y_px: int, size_hw: tuple[int, int]) -> Proposals:
    """Proposals of a window as those of the image that it is a part of.

    Args:
        proposals: N masks of the window's size, whose boxes are the smallest around them.
        x_px: first column of the window in the image.
        y_px: first row.
        size_hw: height and width of the image.
    """
    masks = []
    for mask in proposals.masks:
        x, y, width, height = mask.box_xywh
        crop = mask.to_array()[y : y + height, x : x + width]
        masks.append(mask_from_crop(crop, x + x_px, y + y_px, size_hw))
    return Proposals(size_hw, tuple(masks), proposals.scores)


def mask_from_crop(crop: BoolImage, x_px: int, y_px: int, size_hw: tuple[int, int]) -> ObjectMask:
    """The mask of ``size_hw`` that equals ``crop`` at column ``x_px`` and row ``y_px`` and is zero elsewhere.

    The dense ``(H, W)`` mask is never built.

    Args:
        crop: ``(h, w)`` bool.
        x_px: first column of the crop in the image.
        y_px: first row of the crop in the image.
        size_hw: height and width of the image.

    Raises:
        ProposalError: the crop extends beyond the image.
    """
    height, width = size_hw
    rows, columns = crop.shape
    if x_px < 0 or y_px < 0 or x_px + columns > width or y_px + rows > height:
        raise ProposalError(
            "a mask extends beyond its image",
            found=f"{columns}x{rows} at ({x_px}, {y_px})",
            expected=f"within {width}x{height}",
        )
    padded = np.zeros((columns, rows + 2), dtype=np.int8)
    padded[:, 1:-1] = crop.T
    change = np.diff(padded, axis=1)
    column, row = np.nonzero(change)  # starts and ends alternate, since every column is padded with zeros
    edges = (column + x_px) * height + row + y_px
    runs = np.diff(np.concatenate(([0], edges, [height * width])))
    return ObjectMask((height, width), runs)
