"""What the tracker reads of an image, and of two images: the interface of models that match across views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from counterview.geometry.boxes import ScoredBoxes
from counterview.types import ObjectMask, RgbImage

F32 = NDArray[np.float32]
H = TypeVar("H")


@dataclass(frozen=True, eq=False)
class EncodedView(Generic[H]):
    """One image of one camera.

    Attributes:
        size_hw: height and width in pixels.
        masks: N candidate masks ``(H, W)``.
        boxes: of the candidates, with the proposer's scores.
        looks: ``(N, D)`` descriptors of unit length that are compared within one camera and across cameras.
        gray: ``(h, w)`` uint8, a small copy of the image, from which the motion of the camera is read.
        handle: what the model itself keeps of the image.
    """

    size_hw: tuple[int, int]
    masks: Sequence[ObjectMask]
    boxes: ScoredBoxes
    looks: F32
    gray: NDArray[np.uint8]
    handle: H

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """``(N,)`` pixels of the candidates."""
        return np.array([mask.area for mask in self.masks], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ViewComparison:
    """Q query objects of one image against the N candidates of another.

    Attributes:
        similarity: ``(Q, N)`` cosines.
        log_probability: ``(Q, N)`` logarithm of the probability that each candidate is the object, given that one is.
        visibility: ``(Q,)`` probability that the object is visible.
    """

    similarity: NDArray[np.float64]
    log_probability: NDArray[np.float64]
    visibility: NDArray[np.float64]


class ClipViews(Protocol[H]):
    """Encodes the images of several cameras in the order of time; what they share is computed once."""

    def encode(self, image: RgbImage, camera: str) -> EncodedView[H]:
        """Encode the next image ``(H, W, 3)`` uint8 of a camera, with its candidates.

        Args:
            image: of any size.
            camera: its name.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs to go on, as plain values and numpy arrays."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: what :meth:`state` gave; empty: from the start.
        """
        ...


class CrossViewModel(Protocol[H]):
    """A model that describes candidates, and compares the objects of one image with the candidates of another."""

    def settings(self) -> dict[str, Any]:
        """Everything that its output depends on beside the images, as plain values."""
        ...

    def clip(self, *, share_frames: bool, keep_alignments: bool) -> ClipViews[H]:
        """What encodes the images of a clip.

        Args:
            share_frames: a camera's images share what did not change between them.
            keep_alignments: how two cameras differ in colour is found once for the clip.
        """
        ...

    def describe(self, view: EncodedView[H], masks: Sequence[ObjectMask]) -> F32:
        """Descriptors of masks ``(H, W)`` of the image, ``(M, D)``, comparable with :attr:`EncodedView.looks`.

        Args:
            view: the image.
            masks: M masks at its size.
        """
        ...

    def compare(self, query: EncodedView[H], masks: Sequence[ObjectMask], target: EncodedView[H]) -> ViewComparison:
        """Compare objects of the query image with the candidates of the target image, at least one.

        Args:
            query: the image with the objects.
            masks: Q masks ``(H, W)`` at its size.
            target: the other image.
        """
        ...
