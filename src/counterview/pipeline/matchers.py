"""How query objects and candidates are compared: one interface, whatever the method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from counterview.types import ObjectMask

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.features.base import Backbone, FeatureMap
    from counterview.pipeline.predictor import EncodedView


@dataclass(frozen=True, eq=False)
class MatchScores:
    """How Q query objects fit N candidates.

    Attributes:
        similarity: ``(Q, N)`` float, cosine.
        visibility: ``(Q,)`` float, probability that the object can be seen in the target picture.
        notes: for each query object, what the reader should know.
    """

    similarity: NDArray[np.floating]
    visibility: NDArray[np.floating]
    notes: tuple[tuple[str, ...], ...]


class Matcher(Protocol):
    """A method that tells which candidate is the query object.

    Attributes:
        name: as :func:`counterview.load` takes it.
    """

    name: str

    def settings(self) -> dict[str, Any]:
        """Everything that its scores depend on beside its input, as plain values."""
        ...

    def describe(self, backbone: Backbone, features: FeatureMap, masks: Sequence[ObjectMask]) -> Tensor:
        """Descriptors of masks of one picture, ``(N, D)``, in the form that :meth:`score` compares."""
        ...

    def score(
        self, backbone: Backbone, query: EncodedView, query_masks: Sequence[ObjectMask], target: EncodedView
    ) -> MatchScores:
        """Compare query objects with the target's proposals, of which there is at least one."""
        ...
