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

    from counterview.features.base import Backbone, FeatureMap, PoolingKind
    from counterview.inference.encoded import EncodedView
    from counterview.omama.model import OMaMa


@dataclass(frozen=True, eq=False)
class MatchScores:
    """How Q query objects fit N candidates.

    Attributes:
        similarity: ``(Q, N)`` float, cosine.
        visibility: ``(Q,)`` float, probability that the object can be seen in the target image.
        notes: for each query object, what the reader should know.
        rank: ``(Q, N)`` float, what candidates are ordered by, the largest first: the similarity, and whatever else
            speaks for a candidate.
    """

    similarity: NDArray[np.floating]
    visibility: NDArray[np.floating]
    notes: tuple[tuple[str, ...], ...]
    rank: NDArray[np.floating]


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
        """Descriptors of masks of one image, ``(N, D)``, in the form that :meth:`score` compares."""
        ...

    def score(
        self, backbone: Backbone, query: EncodedView, query_masks: Sequence[ObjectMask], target: EncodedView
    ) -> MatchScores:
        """Compare query objects with the target's proposals, of which there is at least one."""
        ...


class KnnMatcher:
    """The nearest neighbour by the cosine of object descriptors (O-MaMa's k-NN row), checked both ways.

    Args:
        pooling: what of the map describes an object.
    """

    name = "knn"

    def __init__(self, pooling: PoolingKind = "mask") -> None:
        self.pooling: PoolingKind = pooling

    def settings(self) -> dict[str, Any]:
        """The pooling."""
        return {"pooling": self.pooling}

    def describe(self, backbone: Backbone, features: FeatureMap, masks: Sequence[ObjectMask]) -> Tensor:
        """``(N, D)``."""
        return backbone.describe(features, masks, self.pooling)

    def score(
        self, backbone: Backbone, query: EncodedView, query_masks: Sequence[ObjectMask], target: EncodedView
    ) -> MatchScores:
        """See :class:`Matcher`; visibility by :func:`counterview.baselines.knn.cycle_visibility`."""
        from counterview.baselines.knn import cycle_visibility, match_descriptors

        queries = self.describe(backbone, query.features, query_masks)
        found = match_descriptors(queries, target.descriptors, top_k=len(target.proposals.masks))
        check = cycle_visibility(
            found,
            queries,
            query_masks,
            query.descriptors,
            query.proposals.masks,
            target.descriptors,
            target.proposals.masks,
        )
        return MatchScores(found.similarity, check.visibility, ((),) * len(query_masks), found.similarity)


class OMaMaMatcher:
    """O-MaMa's learned head (ICCV 2025) over the backbone's map.

    Args:
        model: the head; it knows the backbone and the pooling that it was trained with.
        source: where it came from, for the settings.
        device: where it runs; beside its own weights if not given.
    """

    name = "omama"

    def __init__(self, model: OMaMa, *, source: str = "", device: str | None = None) -> None:
        self.model = model.eval() if device is None else model.eval().to(device)
        self.source = source

    def settings(self) -> dict[str, Any]:
        """The model's configuration, and a hash of its weights."""
        from counterview.config import to_dict

        return {"source": self.source, "weights": self.fingerprint(), "config": to_dict(self.model.config)}

    def fingerprint(self) -> str:
        """SHA-256 over all weights, 16 hex digits."""
        from counterview.nn.checkpoint import weights_fingerprint

        return weights_fingerprint(self.model)[:16]

    def describe(self, backbone: Backbone, features: FeatureMap, masks: Sequence[ObjectMask]) -> Tensor:
        """``(N, D + C)``: the object, and its context (paper: Mask-Context Encoder)."""
        from counterview.omama.descriptors import describe_masks

        return describe_masks(self.model.config.descriptor, backbone, features, masks)

    def score(
        self, backbone: Backbone, query: EncodedView, query_masks: Sequence[ObjectMask], target: EncodedView
    ) -> MatchScores:
        """See :class:`Matcher`."""
        from counterview.omama.descriptors import notes_on
        from counterview.omama.inference import Side, answer
        from counterview.omama.scene import Boxes

        def side(view: EncodedView) -> Side:
            found = view.proposals
            boxes = Boxes.make(found.boxes_xywh, view.size_hw, found.scores)
            return Side(view.descriptors, view.features.tensor, boxes)

        queries = self.describe(backbone, query.features, query_masks)
        asked = Boxes.make(np.array([m.box_xywh for m in query_masks]), query.size_hw)
        around = None if target.around is None else side(target.around)
        out = answer(self.model, queries, asked, side(query.around or query), side(target), around)
        notes: tuple[tuple[str, ...], ...] = ((),) * len(query_masks)
        if self.model.config.object_channels is None:  # otherwise objects are described from pixels, not from cells
            notes = tuple(notes_on(self.model.config.descriptor, query.features, query_masks))
        return MatchScores(out.similarity, out.visibility, notes, out.rank)
