"""Scores of candidates for query objects: nearest neighbour, O-MaMa and tiny-match behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from counterview.inference.pair_cache import PairCache
from counterview.omama.config import OMaMaConfig
from counterview.types import ObjectMask

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.features.base import Backbone, FeatureMap, PoolingKind
    from counterview.inference.camera_pairs import CameraPairs
    from counterview.inference.encoded import ImageEncoding
    from counterview.omama.model import MatchOutput, OMaMa
    from counterview.tiny.model import TinyMatch, ViewRelation


@dataclass(frozen=True, eq=False)
class MatchScores:
    """Scores of N candidates for Q query objects.

    Attributes:
        similarity: ``(Q, N)`` float, cosine.
        visibility: ``(Q,)`` float, probability that the object is visible in the target image.
        notes: Q tuples of warnings for the reader.
        score: ``(Q, N)`` float. Candidates are ordered by it, the largest first: the similarity, or the output of a
            re-ranker.
    """

    similarity: NDArray[np.floating]
    visibility: NDArray[np.floating]
    notes: tuple[tuple[str, ...], ...]
    score: NDArray[np.floating]


class Matcher(Protocol):
    """A method that scores candidates for query objects.

    Attributes:
        name: of the method, as in the settings of a predictor.
    """

    name: str

    @property
    def uses_query_proposals(self) -> bool:
        """Whether :meth:`score` reads the proposals of the query image."""
        ...

    @property
    def takes_any_size(self) -> bool:
        """Whether masks may be given at another resolution than their image."""
        ...

    @property
    def judges_visibility(self) -> bool:
        """Whether visibility is meant as a judgement; the released O-MaMa's is not."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything beside the input that the scores depend on, as plain values."""
        ...

    def describe(
        self,
        backbone: Backbone,
        features: FeatureMap,
        masks: Sequence[ObjectMask],
        boxes_xywh: NDArray[np.floating] | None = None,
    ) -> Tensor:
        """Descriptors of N masks ``(H, W)`` of one image, ``(N, D)``, as :meth:`score` compares them.

        Args:
            backbone: the one that made the feature map.
            features: ``(C, h, w)``.
            masks: N masks at the size of the image, or of one resolution where the matcher takes any.
            boxes_xywh: ``(N, 4)`` in pixels of the masks, where they came with them.
        """
        ...

    def score(
        self, backbone: Backbone, query: ImageEncoding, query_masks: Sequence[ObjectMask], target: ImageEncoding
    ) -> MatchScores:
        """Score the N proposals of the target image for Q query objects; N is at least 1.

        Args:
            backbone: the one that made the feature maps.
            query: the encoded query image.
            query_masks: Q masks ``(H, W)`` at its size.
            target: the encoded target image.
        """
        ...


class KnnMatcher:
    """The nearest neighbour by the cosine of object descriptors (O-MaMa's k-NN row).

    The visibility comes from a cycle check: whether the match of the match is the query object again.

    Args:
        pooling: how features are pooled over a mask.
    """

    name = "knn"
    uses_query_proposals = True
    takes_any_size = False
    judges_visibility = True

    def __init__(self, pooling: PoolingKind = "mask") -> None:
        self.pooling: PoolingKind = pooling

    def settings(self) -> dict[str, Any]:
        """The pooling."""
        return {"pooling": self.pooling}

    def describe(
        self,
        backbone: Backbone,
        features: FeatureMap,
        masks: Sequence[ObjectMask],
        boxes_xywh: NDArray[np.floating] | None = None,
    ) -> Tensor:
        """Object descriptors, ``(N, D)``. See :meth:`Matcher.describe`; boxes ``(N, 4)`` are not read."""
        return backbone.describe(features, masks, self.pooling)

    def score(
        self, backbone: Backbone, query: ImageEncoding, query_masks: Sequence[ObjectMask], target: ImageEncoding
    ) -> MatchScores:
        """See :meth:`Matcher.score`; visibility ``(Q,)`` by :func:`counterview.baselines.knn.cycle_visibility`."""
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
    """A learned head over the backbone's feature map: O-MaMa's (ICCV 2025), or tiny-match around one.

    Args:
        model: the head; it is put in eval mode.
        source: the name that it was loaded by, for the settings.
        device: where to move it; it stays where it is by default.
    """

    def __init__(self, model: OMaMa | TinyMatch, *, source: str = "", device: str | None = None) -> None:
        self.model = model.eval() if device is None else model.eval().to(device)
        self.source, self.name = source, model.method
        self._cameras: CameraPairs | None = None
        self._relations: PairCache[ViewRelation] = PairCache()

    @property
    def omama(self) -> OMaMaConfig:
        """The configuration of the O-MaMa head."""
        config = self.model.config
        return config if isinstance(config, OMaMaConfig) else config.omama

    def settings(self) -> dict[str, Any]:
        """Source, configuration, and a hash of the weights."""
        from counterview.config import to_dict

        return {"source": self.source, "weights": self.fingerprint(), "config": to_dict(self.model.config)}

    def fingerprint(self) -> str:
        """SHA-256 over all weights, 16 hex digits."""
        return self.model.fingerprint()[:16]

    @property
    def uses_query_proposals(self) -> bool:
        """Whether the model reads the proposals of the query image; O-MaMa does not."""
        return self.model.uses_query_proposals

    @property
    def takes_any_size(self) -> bool:
        """Whether masks are resized to the backbone's input from their own size, as released."""
        return self.omama.descriptor.mask_size == "input"

    @property
    def judges_visibility(self) -> bool:
        """Whether the visibility was trained; the released code's is the sigmoid of a cosine."""
        return self.omama.visibility == "trained"

    def describe(
        self,
        backbone: Backbone,
        features: FeatureMap,
        masks: Sequence[ObjectMask],
        boxes_xywh: NDArray[np.floating] | None = None,
    ) -> Tensor:
        """Object and context descriptors, ``(N, D + C)`` (O-MaMa, Mask-Context Encoder). See :meth:`Matcher.describe`.

        D is the width of an object descriptor, C the number of channels of the feature map.
        """
        from counterview.omama.descriptors import describe_masks

        return describe_masks(self.omama.descriptor, backbone, features, masks, boxes_xywh)

    def _aligned(
        self, backbone: Backbone, query: ImageEncoding, target: ImageEncoding
    ) -> tuple[ImageEncoding, ImageEncoding]:
        """Both images in one look, where the model brings cameras to one."""
        config = getattr(self.model.config, "alignment", None)
        if config is None:
            return query, target
        if self._cameras is None:
            from counterview.inference.camera_pairs import CameraPairs

            self._cameras = CameraPairs(config, self.describe)
        return self._cameras.aligned(backbone, query, target)

    def score(
        self, backbone: Backbone, query: ImageEncoding, query_masks: Sequence[ObjectMask], target: ImageEncoding
    ) -> MatchScores:
        """See :meth:`Matcher.score`; scores ``(Q, N)``."""
        from counterview.omama.descriptors import notes_on
        from counterview.omama.model import ImageInput
        from counterview.proposals.base import box_scale
        from counterview.tiny.model import TinyMatch

        query, target = self._aligned(backbone, query, target)

        def image_input(image: ImageEncoding) -> ImageInput:
            proposals = image.proposals
            return ImageInput(
                image.descriptors, image.features.tensor, proposals.boxes_xywh, image.size_hw, proposals.scores
            )

        queries = self.describe(backbone, query.features, query_masks)
        boxes = np.array([mask.box_xywh * box_scale(mask.size_hw, query.size_hw) for mask in query_masks])
        context = None if target.context is None else image_input(target.context)
        images = image_input(query.context or query), image_input(target), context
        output: MatchOutput
        if isinstance(self.model, TinyMatch):
            output = self.model.match(queries, boxes, *images, self._relations.get(query, target))
            if output.relation is not None:
                self._relations.put(query, target, output.relation)
        else:
            output = self.model.match(queries, boxes, *images)
        notes: tuple[tuple[str, ...], ...] = ((),) * len(query_masks)
        if self.omama.object_channels is None:  # otherwise objects are described from pixels, not from cells
            notes = tuple(notes_on(self.omama.descriptor, query.features, query_masks))
        return MatchScores(output.similarity, output.visibility, notes, output.score)
