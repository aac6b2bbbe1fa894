"""``tiny-match``: an O-MaMa head on object crops, with what the paper does not have. Ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from counterview.omama.model import ImageInput, MatchOutput, OMaMa, OMaMaOutput, to_float64
from counterview.tiny.config import TinyMatchConfig
from counterview.tiny.legacy import current_header
from counterview.tiny.reranker import GeometricReranker


@dataclass(frozen=True, eq=False)
class TinyMatchOutput(MatchOutput):
    """A :class:`~counterview.omama.model.MatchOutput`, and the homographies that it comes from.

    Attributes:
        homographies: from the query to the target image, ``None`` in place of one that was not found; empty without
            a re-ranker.
    """

    homographies: tuple[Homography | None, ...] = ()


class TinyMatch(Pretrained, nn.Module):
    """An O-MaMa head with our additions, each of which its configuration switches.

    * *Features of its own* (``network``): object crops and a colour histogram instead of a map's means.
    * *Descriptor weight*: similarity is a weighted mean of the head's cosine and that of the descriptors themselves.
    * *Attention downscale*: the attention sees a coarser map.
    * *Re-ranker*: homographies between the views weigh place against similarity, and give the visibility.

    Args:
        config: its architecture.

    Shapes are those of :class:`~counterview.omama.model.OMaMa`. With a descriptor weight the embedding has
    ``object_channels + E`` channels.
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
            # Kept where it is fixed, too: files of either kind have the same names.
            self.descriptor_logit = nn.Parameter(torch.zeros(()), requires_grad=config.descriptor_weight == "learned")
        if config.reranker is not None:
            self.reranker = GeometricReranker(config.reranker)
        if config.network is not None:
            self.network = TinyNet(config.network)

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU without weights."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of the visibility: the re-ranker's where there is one."""
        return self.omama.calibration if self.config.reranker is None else self.reranker.calibration

    @property
    def uses_proposal_scores(self) -> bool:
        """Whether :meth:`match` reads the proposer's scores."""
        return self.config.reranker is not None or self.config.proposal_prior > 0

    def own_backbone(self, device: str | torch.device = "cpu") -> Tiny | None:
        """The features whose weights the model holds; ``None`` if it was trained on frozen features."""
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

        Raises:
            InputError: shapes that do not belong together.
        """
        self.omama.check_inputs(query_descriptors, candidate_descriptors, query_map, target_map, candidate_mask)
        queries = self.embed_queries(query_descriptors, target_map)
        candidates = self.embed_candidates(candidate_descriptors, query_map)
        if not self.config.descriptor_weight:
            return self.omama.compare(queries, candidates, candidate_mask, keep_queries=keep_queries)
        # Visibility compares what the head learned; the choice is by the weighted mean.
        similarity = queries @ candidates.transpose(1, 2)
        width = self.config.omama.embedding
        learned_queries, learned_candidates = (
            functional.normalize(e[..., -width:], dim=-1) for e in (queries, candidates)
        )
        output = self.omama.compare(
            learned_queries, learned_candidates, candidate_mask, keep_queries=True, similarity=similarity
        )
        embedding, keep = queries, keep_queries or queries.shape[1] > 1
        parts = (output.similarity, output.visibility, output.visibility_logit, embedding, output.best)
        similarity, visibility, logit, embedding, best = parts if keep else (part[:, 0] for part in parts)
        return OMaMaOutput(similarity, visibility, logit, embedding, candidates, best)

    @torch.inference_mode()
    def match(
        self,
        query_descriptors: Tensor,
        query_boxes_xywh: NDArray[np.floating],
        query: ImageInput,
        target: ImageInput,
        context: ImageInput | None = None,
    ) -> TinyMatchOutput:
        """Match query objects with the masks of the target image. See :meth:`OMaMa.match`.

        Args:
            query_descriptors: ``(Q, D)``.
            query_boxes_xywh: ``(Q, 4)`` in pixels.
            query: the query image with its proposals, which the re-ranker reads.
            target: the target image; its masks are the candidates, at least one.
            context: the target image with its proposals, where the candidates are other masks.
        """
        reranker = self.config.reranker
        if reranker is None:
            output = self._compare(query_descriptors, query, target)
            similarity = to_float64(output.similarity[0].clamp(-1.0, 1.0))
            score = prior_score(similarity, target.scores, self.config.proposal_prior).astype(np.float64)
            visibility, logit = to_float64(output.visibility[0]), to_float64(output.visibility_logit[0])
            return TinyMatchOutput(similarity, score, visibility, logit)
        count, boxes, device = len(query_descriptors), _boxes(query), self.device
        rows = boxes.best(reranker.proposals)
        rivals = boxes.at(rows)
        described = [query_descriptors.to(device), query.descriptors[torch.from_numpy(rows)].to(device)]
        output = self._compare(torch.cat(described), query, target)
        similarity = to_float64(output.similarity[0].clamp(-1.0, 1.0))
        place, place_similarity = target, similarity[count:]
        if context is not None:
            place = context
            embedded = self.embed_candidates(context.descriptors[None].to(device), query.map[None].to(device))
            place_similarity = to_float64(output.query_embedding[0, count:] @ embedded[0].T)
        place_boxes = _boxes(place)
        columns = place_boxes.best(reranker.proposals)
        homographies = view_homographies(
            place_similarity[:, columns], rivals, place_boxes.at(columns), reranker.homographies, reranker.homography
        )
        objects, candidates = ScoredBoxes.make(query_boxes_xywh, query.size_hw), _boxes(target)
        features = [
            pair_features(similarity[:count], objects, candidates, h, similarity[count:], rivals, reranker.features)
            for h in homographies
        ]
        pairs, queries = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*features, strict=True))
        log_probability, logit_tensor = self.reranker.over_homographies(pairs, queries)
        return TinyMatchOutput(
            similarity[:count],
            to_float64(log_probability),
            to_float64(torch.sigmoid(self.reranker.calibration(logit_tensor))),
            to_float64(logit_tensor),
            homographies,
        )

    def _compare(self, query_descriptors: Tensor, query: ImageInput, target: ImageInput) -> OMaMaOutput:
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
        size = self.config.attention_downscale
        if size == 1:
            return features
        return functional.avg_pool2d(features, size, ceil_mode=True, count_include_pad=False)

    def _with_descriptors(self, descriptors: Tensor, embedding: Tensor) -> Tensor:
        if not self.config.descriptor_weight:
            return embedding
        # Of two unit vectors side by side the cosine is the mean of their cosines, weighted by their shares.
        weight = self.config.descriptor_weight
        if weight == "learned":
            share = torch.sigmoid(self.descriptor_logit)
        else:
            share = torch.full_like(self.descriptor_logit, weight)
        objects = functional.normalize(descriptors[..., : self.config.omama.object_width], dim=-1)
        return torch.cat([share.sqrt() * objects, (1 - share).sqrt() * embedding], dim=-1)

    def card_rows(self) -> dict[str, object]:
        """See :meth:`counterview.nn.checkpoint.Pretrained.card_rows`."""
        return {
            **self.omama.card_rows(),
            "parameters": f"{sum(p.numel() for p in self.parameters()):,}",
            "descriptor weight": self.config.descriptor_weight,
            "geometric re-ranker": "no" if self.config.reranker is None else "yes",
        }

    @classmethod
    def upgraded(cls, header: Header) -> Header:
        """See :meth:`counterview.nn.checkpoint.Pretrained.upgraded`; the first version called it an O-MaMa."""
        return super().upgraded(current_header(header))


def prior_score(
    similarity: NDArray[np.floating], scores: NDArray[np.floating] | None, prior: float
) -> NDArray[np.floating]:
    """The score by which a candidate is chosen: its similarity, plus a share of the proposer's score.

    Args:
        similarity: ``(Q, N)``.
        scores: ``(N,)`` of the proposer, on any scale; ``None`` for masks without scores.
        prior: weight of the best proposer's score.

    Returns:
        ``(Q, N)``.
    """
    if prior == 0 or scores is None or not scores.any():
        return similarity
    return similarity + prior * relative_scores(scores)


def _boxes(image: ImageInput) -> ScoredBoxes:
    return ScoredBoxes.make(image.boxes_xywh, image.size_hw, image.scores)
