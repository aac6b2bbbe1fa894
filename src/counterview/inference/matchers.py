"""How query objects and candidates are compared: one interface, whatever the method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from counterview.omama.config import OMaMaConfig
from counterview.types import ObjectMask

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.features.base import Backbone, FeatureMap, PoolingKind
    from counterview.inference.encoded import ImageEncoding
    from counterview.omama.model import OMaMa
    from counterview.tiny.model import TinyMatch


@dataclass(frozen=True, eq=False)
class MatchScores:
    """How Q query objects match N candidates.

    Attributes:
        similarity: ``(Q, N)`` float, cosine.
        visibility: ``(Q,)`` float, probability that the object can be seen in the target image.
        notes: for each query object, what the reader should know.
        score: ``(Q, N)`` float by which candidates are ordered, the largest first: the similarity, or what a re-ranker
            makes of it.
    """

    similarity: NDArray[np.floating]
    visibility: NDArray[np.floating]
    notes: tuple[tuple[str, ...], ...]
    score: NDArray[np.floating]


class Matcher(Protocol):
    """A method that scores which candidate is the query object.

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
        self, backbone: Backbone, query: ImageEncoding, query_masks: Sequence[ObjectMask], target: ImageEncoding
    ) -> MatchScores:
        """Compare query objects with the target's proposals, of which there is at least one."""
        ...


class KnnMatcher:
    """The nearest neighbour by the cosine of object descriptors (O-MaMa's k-NN row), checked both ways.

    Args:
        pooling: how a mask becomes an object descriptor.
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
        self, backbone: Backbone, query: ImageEncoding, query_masks: Sequence[ObjectMask], target: ImageEncoding
    ) -> MatchScores:
        """See :class:`Matcher`; visibility by :func:`counterview.baselines.knn.cycle_visibility`."""
        from counterview.baselines.knn import cycle_visibility, match_descriptors

        queries = self.describe(backbone, query.features, query_masks)
        matches = match_descriptors(queries, target.descriptors, top_k=len(target.proposals.masks))
        check = cycle_visibility(
            matches,
            queries,
            query_masks,
            query.descriptors,
            query.proposals.masks,
            target.descriptors,
            target.proposals.masks,
        )
        return MatchScores(matches.similarity, check.visibility, ((),) * len(query_masks), matches.similarity)


class HeadMatcher:
    """A learned head over the backbone's map: O-MaMa's (ICCV 2025), or tiny-match around one.

    Args:
        model: the head; it knows the backbone and the pooling that it was trained with.
        source: where it came from, for the settings.
        device: where it runs; where its weights are if not given.
    """

    def __init__(self, model: OMaMa | TinyMatch, *, source: str = "", device: str | None = None) -> None:
        self.model = model.eval() if device is None else model.eval().to(device)
        self.source, self.name = source, model.method

    @property
    def omama(self) -> OMaMaConfig:
        """The configuration of the head."""
        config = self.model.config
        return config if isinstance(config, OMaMaConfig) else config.omama

    def settings(self) -> dict[str, Any]:
        """The model's configuration, and a hash of its weights."""
        from counterview.config import to_dict

        return {"source": self.source, "weights": self.fingerprint(), "config": to_dict(self.model.config)}

    def fingerprint(self) -> str:
        """SHA-256 over all weights, 16 hex digits."""
        return self.model.fingerprint()[:16]

    def describe(self, backbone: Backbone, features: FeatureMap, masks: Sequence[ObjectMask]) -> Tensor:
        """``(N, D + C)``: the object, and its context (paper: Mask-Context Encoder)."""
        from counterview.omama.descriptors import describe_masks

        return describe_masks(self.omama.descriptor, backbone, features, masks)

    def score(
        self, backbone: Backbone, query: ImageEncoding, query_masks: Sequence[ObjectMask], target: ImageEncoding
    ) -> MatchScores:
        """See :class:`Matcher`."""
        from counterview.omama.descriptors import notes_on
        from counterview.omama.model import ImageInput

        def image_input(image: ImageEncoding) -> ImageInput:
            proposals = image.proposals
            return ImageInput(
                image.descriptors, image.features.tensor, proposals.boxes_xywh, image.size_hw, proposals.scores
            )

        queries = self.describe(backbone, query.features, query_masks)
        boxes = np.array([mask.box_xywh for mask in query_masks])
        context = None if target.context is None else image_input(target.context)
        output = self.model.match(queries, boxes, image_input(query.context or query), image_input(target), context)
        notes: tuple[tuple[str, ...], ...] = ((),) * len(query_masks)
        if self.omama.object_channels is None:  # otherwise objects are described from pixels, not from cells
            notes = tuple(notes_on(self.omama.descriptor, query.features, query_masks))
        return MatchScores(output.similarity, output.visibility, notes, output.score)
