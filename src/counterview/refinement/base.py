"""What a refiner is given, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from counterview.refinement.evidence import QueryColours
from counterview.types import ObjectMask, RgbImage


@dataclass(frozen=True, eq=False)
class Proposed:
    """A mask that is proposed for an object.

    Attributes:
        mask: the mask, of the image's size; not empty.
        query: colours of the query object.
        others: N proposals of the same image.
        weights: ``(N,)`` what each of their votes counts, see :func:`~counterview.refinement.evidence.vote_weights`.
    """

    mask: ObjectMask
    query: QueryColours
    others: Sequence[ObjectMask]
    weights: NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Refined:
    """A mask that was drawn again.

    Attributes:
        mask: what is better by the predicted IoUs: what was drawn, or what was proposed.
        drawn_iou: predicted IoU of what was drawn with the object, 0..1.
        proposed_iou: that of what was proposed.
    """

    mask: ObjectMask
    drawn_iou: float
    proposed_iou: float


class Refiner(Protocol):
    """Draws proposed masks again, each in a window of its own."""

    def settings(self) -> dict[str, Any]:
        """What the masks depend on."""
        ...

    def __call__(self, image: RgbImage, proposed: Sequence[Proposed]) -> list[Refined]:
        """Draw N masks of an image ``(H, W, 3)`` uint8 again.

        Raises:
            MaskError: a proposed mask is empty.
        """
        ...
