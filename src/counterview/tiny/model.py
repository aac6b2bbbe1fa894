"""``tiny-match``: an O-MaMa head on object crops, with additions that the paper does not have. Ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from counterview.features.tiny import Tiny, TinyNet
from counterview.geometry.boxes import ScoredBoxes, relative_scores
from counterview.geometry.homography import Homography, view_homographies
from counterview.geometry.relations import pair_features
from counterview.nn.calibration import Calibration
from counterview.nn.checkpoint import Header, Pretrained
from counterview.nn.precision import SinglePrecision
from counterview.omama.model import ImageInput, MatchOutput, OMaMa, OMaMaOutput, to_float64
from counterview.tiny.config import TinyMatchConfig
from counterview.tiny.legacy import current_header
from counterview.tiny.reranker import GeometricReranker, RerankerConfig


@dataclass(frozen=True, eq=False)
class ViewRelation:
    """What the re-ranker reads of a pair of images beside the query objects: it is the same for all of them.

    Attributes:
        rivals: the R best proposals of the query image.
        similarity: ``(R, N)`` of them and the candidates.
        homographies: from the query to the target image, ``None`` for one that was not found.
    """

    rivals: ScoredBoxes
    similarity: NDArray[np.float64]
    homographies: tuple[Homography | None, ...]


@dataclass(frozen=True, eq=False)
class TinyMatchOutput(MatchOutput):
    """A :class:`~counterview.omama.model.MatchOutput` and the homographies behind it.

    Attributes:
        relation: of the two views; ``None`` without a re-ranker.
    """

    relation: ViewRelation | None = None

    @property
    def homographies(self) -> tuple[Homography | None, ...]:
        """From the query to the target image, ``None`` for one that was not found; empty without a re-ranker."""
        return () if self.relation is None else self.relation.homographies


class TinyMatch(SinglePrecision, Pretrained, nn.Module):
    """An O-MaMa head with our additions; each is a setting.

    * ``network``: its own features, object crops and a colour histogram instead of means over a map.
    * ``descriptor_weight``: similarity is the weighted mean of the head's cosine and that of the object descriptors.
    * ``attention_downscale``: the attention reads a coarser map.
    * ``reranker``: the place that homographies between the views predict is weighed against similarity; it also
      gives the visibility.
    * ``alignment``: two cameras are brought to one look before their objects are described, by who holds both images
      (:mod:`counterview.tiny.alignment`).

    Shapes are those of :class:`~counterview.omama.model.OMaMa`: B pairs, Q query objects, N candidates, D channels of
    a descriptor, C of a map, E of an embedding. With a descriptor weight E is ``object_channels + embedding``.

    Args:
        config: its architecture.
    """

    method: ClassVar[str] = "tiny-match"
    config_class: ClassVar[type] = TinyMatchConfig
    about: ClassVar[tuple[str, str, str]] = (
        "tiny-match",
        "Counterview's own, around an O-MaMa head (ICCV 2025, arXiv 2506.06026)",
        "Finds an object of one image among the masks of another, for "
        "[Counterview](https://github.com/counterview/counterview). The matching head is O-MaMa's; object crops, "
        "the colour histogram, the descriptor weight, homographies and the re-ranker are Counterview's.",
    )
    usage: ClassVar[str] = OMaMa.usage
    renamed_weights: ClassVar[Mapping[str, str]] = {
        **{f"{part}.": f"omama.{part}." for part in (
            "query_position", "target_position", "attention", "head", "visibility_head")},
        "object_share": "descriptor_logit",
        "backbone.close_ups.": "network.object_crops.",
        "backbone.": "network.",
        "scene_head.pair.": "reranker.ranking.",
        "scene_head.straight": "reranker.linear",
        "scene_head.around.": "reranker.context.",
        "scene_head.seen.": "reranker.visibility.",
        "scene_head.calibration.": "reranker.calibration.",
    }  # fmt: skip

    config: TinyMatchConfig

    def __init__(self, config: TinyMatchConfig) -> None:
        super().__init__()
        self.config = config
        self.omama = OMaMa(config.omama)
        if config.descriptor_weight:
            # Also a parameter where the weight is fixed: files of either kind have the same names.
            self.descriptor_logit = nn.Parameter(torch.zeros(()), requires_grad=config.descriptor_weight == "learned")
        if config.reranker is not None:
            self.reranker = GeometricReranker(config.reranker)
        if config.network is not None:
            self.network = TinyNet(config.network)

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU if there are none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of the visibility: the re-ranker's where there is one."""
        return self.omama.calibration if self.config.reranker is None else self.reranker.calibration

    @property
    def uses_proposal_scores(self) -> bool:
        """Whether :meth:`match` reads the proposer's scores."""
        return self.config.reranker is not None or self.config.proposal_prior > 0

    @property
    def uses_query_proposals(self) -> bool:
        """Whether :meth:`match` reads the proposals of the query image: for the homographies between the views."""
        return self.config.reranker is not None

    def own_backbone(self, device: str | torch.device = "cpu") -> Tiny | None:
        """The features whose weights are part of the model; ``None`` if it was trained on frozen features."""
        return None if self.config.network is None else Tiny(self.network, torch.device(device))

    def embed_queries(self, query_descriptors: Tensor, target_map: Tensor) -> Tensor:
        """Embed query objects: ``(B, Q, D)``, ``(B, C, h, w)`` to ``(B, Q, E)`` of length 1."""
        return self._with_descriptors(
            query_descriptors, self.omama.embed_queries(query_descriptors, self._downscaled(target_map))
        )

    def embed_candidates(self, candidate_descriptors: Tensor, query_map: Tensor) -> Tensor:
        """Embed candidates: ``(B, N, D)``, ``(B, C, h, w)`` to ``(B, N, E)`` of length 1."""
        return self._with_descriptors(
            candidate_descriptors, self.omama.embed_candidates(candidate_descriptors, self._downscaled(query_map))
        )

    def forward(
        self,
        query_descriptors: Tensor,
        candidate_descriptors: Tensor,
        query_map: Tensor,
        target_map: Tensor,
        candidate_mask: Tensor | None = None,
        *,
        keep_queries: bool = False,
    ) -> OMaMaOutput:
        """Compare query objects with candidates, without the re-ranker. See :meth:`OMaMa.forward`.

        Args:
            query_descriptors: ``(B, Q, D)``.
            candidate_descriptors: ``(B, N, D)``.
            query_map: ``(B, C, h, w)``.
            target_map: ``(B, C, h', w')``.
            candidate_mask: ``(B, N)`` bool, false for padding.
            keep_queries: keep the axis Q in the output even where Q is 1.

        Returns:
            See :class:`~counterview.omama.model.OMaMaOutput`.

        Raises:
            InputError: shapes that do not fit together.
        """
        self.omama.check_inputs(query_descriptors, candidate_descriptors, query_map, target_map, candidate_mask)
        queries = self.embed_queries(query_descriptors, target_map)
        candidates = self.embed_candidates(candidate_descriptors, query_map)
        if not self.config.descriptor_weight:
            return self.omama.compare(queries, candidates, candidate_mask, keep_queries=keep_queries)
        # Visibility compares the head's embeddings alone; the choice is by the weighted mean.
        similarity = queries @ candidates.transpose(1, 2)
        width = self.config.omama.embedding
        head_queries, head_candidates = (functional.normalize(e[..., -width:], dim=-1) for e in (queries, candidates))
        output = self.omama.compare(
            head_queries, head_candidates, candidate_mask, keep_queries=True, similarity=similarity
        )
        output = replace(output, query_embedding=queries, candidate_embeddings=candidates)
        return output.first_query() if queries.shape[1] == 1 and not keep_queries else output

    @torch.inference_mode()
    def match(
        self,
        query_descriptors: Tensor,
        query_boxes_xywh: NDArray[np.floating],
        query: ImageInput,
        target: ImageInput,
        context: ImageInput | None = None,
        relation: ViewRelation | None = None,
    ) -> TinyMatchOutput:
        """Match query objects with the masks of the target image. See :meth:`OMaMa.match`.

        Args:
            query_descriptors: ``(Q, D)``.
            query_boxes_xywh: ``(Q, 4)`` in pixels.
            query: the query image with its proposals, which the re-ranker reads.
            target: the target image; its masks are the candidates, at least one.
            context: the target image with its proposals, where the candidates are other masks.
            relation: of the output of an earlier call with the same images, so that it is not computed again.

        Returns:
            Similarities, scores and visibility of Q queries and N candidates, and the homographies.

        Raises:
            InputError: shapes that do not fit together.
        """
        reranker = self.config.reranker
        if reranker is None:
            output = self._compare(query_descriptors, query, target)
            similarity = to_float64(output.similarity[0].clamp(-1.0, 1.0))
            score = prior_score(similarity, target.scores, self.config.proposal_prior).astype(np.float64)
            visibility, logit = to_float64(output.visibility[0]), to_float64(output.visibility_logit[0])
            return TinyMatchOutput(similarity, score, visibility, logit)
        if relation is None:
            similarity, relation = self._relate(reranker, query_descriptors, query, target, context)
        else:
            output = self._compare(query_descriptors, query, target)
            similarity = to_float64(output.similarity[0].clamp(-1.0, 1.0))
        objects, candidates = ScoredBoxes.make(query_boxes_xywh, query.size_hw), _boxes(target)
        features = [
            pair_features(similarity, objects, candidates, h, relation.similarity, relation.rivals, reranker.features)
            for h in relation.homographies
        ]
        pairs, queries = (torch.from_numpy(np.stack(part)).to(self.device) for part in zip(*features, strict=True))
        log_probability, logit_tensor = self.reranker.over_homographies(pairs, queries)
        return TinyMatchOutput(
            similarity,
            to_float64(log_probability),
            to_float64(torch.sigmoid(self.reranker.calibration(logit_tensor))),
            to_float64(logit_tensor),
            relation,
        )

    def _relate(
        self,
        reranker: RerankerConfig,
        query_descriptors: Tensor,
        query: ImageInput,
        target: ImageInput,
        context: ImageInput | None,
    ) -> tuple[NDArray[np.float64], ViewRelation]:
        """Similarities ``(Q, N)``, and the relation of the views, from one comparison of objects and rivals."""
        count, query_boxes, device = len(query_descriptors), _boxes(query), self.device
        rows = query_boxes.best(reranker.proposals)
        rivals = query_boxes.at(rows)
        descriptors = [query_descriptors.to(device), query.descriptors[torch.from_numpy(rows)].to(device)]
        output = self._compare(torch.cat(descriptors), query, target)
        similarity = to_float64(output.similarity[0].clamp(-1.0, 1.0))
        # Homographies come from the proposals of both images, which the candidates need not be.
        proposal_similarity, target_boxes = similarity[count:], _boxes(target if context is None else context)
        if context is not None:
            embeddings = self.embed_candidates(context.descriptors[None].to(device), query.map[None].to(device))
            proposal_similarity = to_float64(output.query_embedding[0, count:] @ embeddings[0].T)
        columns = target_boxes.best(reranker.proposals)
        homographies = view_homographies(
            proposal_similarity[:, columns],
            rivals,
            target_boxes.at(columns),
            reranker.homographies,
            reranker.homography,
        )
        return similarity[:count], ViewRelation(rivals, similarity[count:], homographies)

    def _compare(self, query_descriptors: Tensor, query: ImageInput, target: ImageInput) -> OMaMaOutput:
        """:meth:`forward` for one pair of images and Q query descriptors ``(Q, D)``, with the axis Q."""
        device = self.device
        output: OMaMaOutput = self(
            query_descriptors[None].to(device),
            target.descriptors[None].to(device),
            query.map[None].to(device),
            target.map[None].to(device),
            keep_queries=True,
        )
        return output

    def _downscaled(self, features: Tensor) -> Tensor:
        """A map ``(B, C, h, w)`` as the attention reads it."""
        size = self.config.attention_downscale
        if size == 1:
            return features
        return functional.avg_pool2d(features, size, ceil_mode=True, count_include_pad=False)

    def _with_descriptors(self, descriptors: Tensor, embedding: Tensor) -> Tensor:
        """Object descriptors ``(B, N, D)`` beside embeddings ``(B, N, E)``, by the square roots of their weights.

        The cosine of two such vectors is the weighted mean of both cosines.
        """
        if not self.config.descriptor_weight:
            return embedding
        if self.config.descriptor_weight == "learned":
            weight = torch.sigmoid(self.descriptor_logit)
        else:
            weight = torch.full_like(self.descriptor_logit, self.config.descriptor_weight)
        objects = functional.normalize(descriptors[..., : self.config.omama.object_width], dim=-1)
        return torch.cat([weight.sqrt() * objects, (1 - weight).sqrt() * embedding], dim=-1)

    def card_rows(self) -> dict[str, object]:
        """See :meth:`counterview.nn.checkpoint.Pretrained.card_rows`."""
        return {
            **self.omama.card_rows(),
            "parameters": f"{sum(p.numel() for p in self.parameters()):,}",
            "descriptor weight": self.config.descriptor_weight,
            "geometric re-ranker": "no" if self.config.reranker is None else "yes",
            "cameras brought to one look": "no" if self.config.alignment is None else "yes",
        }

    @classmethod
    def upgraded(cls, header: Header) -> Header:
        """See :meth:`counterview.nn.checkpoint.Pretrained.upgraded`; the first version called it an O-MaMa."""
        return super().upgraded(current_header(header))


def prior_score(
    similarity: NDArray[np.floating], scores: NDArray[np.floating] | None, prior: float
) -> NDArray[np.floating]:
    """The score by which a candidate is chosen: its similarity plus the proposer's score, weighted.

    Args:
        similarity: ``(Q, N)``.
        scores: ``(N,)`` of the proposer, on any scale; ``None`` for masks without scores.
        prior: weight of the proposer's scores, which are divided by the best of them.

    Returns:
        ``(Q, N)``.

    >>> prior_score(np.array([[0.50, 0.45]]), np.array([3.0, 6.0]), prior=0.2).round(2).tolist()
    [[0.6, 0.65]]
    """
    if prior == 0 or scores is None or not scores.any():
        return similarity
    return similarity + prior * relative_scores(scores)


def _boxes(image: ImageInput) -> ScoredBoxes:
    return ScoredBoxes.make(image.boxes_xywh, image.size_hw, image.scores)
