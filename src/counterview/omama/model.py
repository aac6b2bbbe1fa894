"""O-MaMa: which of an image's masks shows the object that another image shows (ICCV 2025, arXiv 2506.06026)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from counterview.config import load_config
from counterview.errors import InputError
from counterview.features.base import Backbone
from counterview.features.tiny import Tiny, TinyConfig, TinyNet
from counterview.omama.attention import CrossViewAttention, PositionEmbedding
from counterview.omama.config import OMaMaConfig
from counterview.omama.scene import SceneHead, relative
from counterview.omama.visibility import Calibration, VisibilityHead


@dataclass(frozen=True)
class OMaMaOutput:
    """What :class:`OMaMa` answers for B pairs of images with Q query objects and N candidates each.

    With one query object an image the axis Q is left out.

    Attributes:
        similarity: ``(B, N)`` or ``(B, Q, N)`` cosines in ``[-1, 1]``; minus infinity for padded candidates.
        visibility: ``(B,)`` or ``(B, Q)`` probability that the object is in the target image; 0 where there
            is no candidate.
        visibility_logit: ``(B,)`` or ``(B, Q)`` before calibration and sigmoid.
        query_embedding: ``(B, E)`` or ``(B, Q, E)``, of length 1.
        candidate_embeddings: ``(B, N, E)``, of length 1.
        best: ``(B,)`` or ``(B, Q)`` index of the best candidate; -1 where there is none.
    """

    similarity: Tensor
    visibility: Tensor
    visibility_logit: Tensor
    query_embedding: Tensor
    candidate_embeddings: Tensor
    best: Tensor


class OMaMa(nn.Module):
    """Mask-Context Encoder's descriptors in, similarities and visibility out.

    Args:
        config: what it is made of; that of the released weights if not given.

    A descriptor is ``[object; context]``: the mean of a backbone's map over the mask, then over the grown
    box (:func:`counterview.omama.descriptors.describe_masks` makes them). Sizes below: B pairs, Q query
    objects, N candidates, C channels of the map, E of the embedding. Where a backbone describes objects in
    ``object_channels`` other than C, read ``object_channels + C`` for 2C. With ``residual`` the embedding has
    ``object_channels + E`` channels.
    """

    def __init__(self, config: OMaMaConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OMaMaConfig()
        if config.cross_attention:
            self.query_position = PositionEmbedding(config.channels, config.query_grid_hw)
            self.target_position = PositionEmbedding(config.channels, config.target_grid_hw)
            self.attention = CrossViewAttention(config.channels, config.heads, config.object_width)
        if config.matching_head:
            width = config.object_width + (config.context + config.cross_attention) * config.channels
            self.head = nn.Sequential(
                nn.Linear(width, config.hidden),
                nn.ReLU(),
                nn.Linear(config.hidden, config.hidden),
                nn.ReLU(),
                nn.Linear(config.hidden, config.embedding),
            )
            self.visibility_head = VisibilityHead(config.embedding, config.visibility_agreement)
        if config.residual:
            self.object_share = nn.Parameter(torch.zeros(()), requires_grad=config.residual_share is None)
        if config.scene.proposals:
            self.scene_head = SceneHead(config.scene)
        if config.learned_backbone:
            self.backbone = TinyNet(load_config(TinyConfig, config.backbone_settings))

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for the k-NN baseline, which has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def calibration(self) -> Calibration:
        """Of the visibility: the scene's where the model looks at the scene."""
        return self.scene_head.calibration if self.config.scene.proposals else self.visibility_head.calibration

    def own_backbone(self, device: str | torch.device = "cpu") -> Backbone | None:
        """The backbone whose weights the model holds; ``None`` if it was trained on frozen features."""
        return Tiny(self.backbone, torch.device(device)) if self.config.learned_backbone else None

    def embed_queries(self, query_descriptors: Tensor, target_map: Tensor) -> Tensor:
        """Embed query objects, which look at the target image.

        Args:
            query_descriptors: ``(B, Q, 2C)``.
            target_map: ``(B, C, h, w)``.

        Returns:
            ``(B, Q, E)`` of length 1.
        """
        return self._embed(query_descriptors, target_map, "target_position")

    def embed_candidates(self, candidate_descriptors: Tensor, query_map: Tensor) -> Tensor:
        """Embed candidates, which look at the query image: ``(B, N, 2C)``, ``(B, C, h, w)`` to ``(B, N, E)``."""
        return self._embed(candidate_descriptors, query_map, "query_position")

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
        """Compare query objects with candidates.

        Args:
            query_descriptors: ``(B, Q, 2C)`` of the objects in the query image.
            candidate_descriptors: ``(B, N, 2C)`` of the masks in the target image.
            query_map: ``(B, C, h, w)`` of the query image, any grid.
            target_map: ``(B, C, h', w')`` of the target image, any grid.
            candidate_mask: ``(B, N)`` bool, false for padding; all true if not given.
            keep_queries: keep the axis Q in the answer even where Q is 1.

        Raises:
            InputError: shapes that do not belong together.
        """
        self._check(query_descriptors, candidate_descriptors, query_map, target_map, candidate_mask)
        queries = self.embed_queries(query_descriptors, target_map)
        candidates = self.embed_candidates(candidate_descriptors, query_map)
        return self.compare(queries, candidates, candidate_mask, keep_queries=keep_queries)

    def compare(
        self,
        queries: Tensor,
        candidates: Tensor,
        candidate_mask: Tensor | None = None,
        *,
        keep_queries: bool = False,
    ) -> OMaMaOutput:
        """Compare embeddings: queries ``(B, Q, E)`` with candidates ``(B, N, E)``."""
        similarity = queries @ candidates.transpose(1, 2)
        if candidate_mask is not None:
            similarity = similarity.masked_fill(~candidate_mask[:, None, :], -torch.inf)
        if similarity.shape[-1] == 0:
            best = similarity.new_full(similarity.shape[:2], -1, dtype=torch.long)
            top = similarity.new_full(similarity.shape[:2], -torch.inf)
        else:
            top, best = similarity.max(dim=-1)
            best = torch.where(torch.isfinite(top), best, -1)
        if self.config.visibility == "released":
            logit = top
            visibility = torch.sigmoid(top)
        else:
            learned: tuple[Tensor, ...] = (queries, candidates)
            if self.config.residual:
                learned = tuple(functional.normalize(e[..., -self.config.embedding :], dim=-1) for e in learned)
            logit = self.visibility_head(*learned, similarity, detach=not self.config.visibility_gradient)
            visibility = self.visibility_head.probability(logit)
        visibility = torch.where(best >= 0, visibility, 0.0)
        answer = (similarity, visibility, logit, queries, best)
        if queries.shape[1] == 1 and not keep_queries:
            answer = tuple(part[:, 0] for part in answer)  # type: ignore[assignment]
        similarity, visibility, logit, embedding, best = answer
        return OMaMaOutput(similarity, visibility, logit, embedding, candidates, best)

    def _embed(self, descriptors: Tensor, other_map: Tensor, position: str) -> Tensor:
        config = self.config
        objects, context = descriptors[..., : config.object_width], descriptors[..., config.object_width :]
        if not config.matching_head:
            return functional.normalize(objects, dim=-1)
        parts = [objects]
        if config.cross_attention:
            if config.attention_pooling > 1:
                other_map = functional.avg_pool2d(
                    other_map, config.attention_pooling, ceil_mode=True, count_include_pad=False
                )
            tokens = other_map.flatten(2).transpose(1, 2)
            tokens = tokens + getattr(self, position)(other_map.shape[-2:])
            parts.insert(0, self.attention(objects, tokens))
        if config.context:
            parts.append(context)
        hidden = torch.cat(parts, dim=-1)
        for layer in self.head:
            if isinstance(layer, nn.Linear):  # its input is the descriptor, or what a ReLU let through
                hidden = functional.dropout(hidden, config.dropout, self.training)
            hidden = layer(hidden)
        embedding = functional.normalize(hidden, dim=-1)
        if not config.residual:
            return embedding
        # Of two unit vectors side by side the cosine is the mean of their cosines, weighted by their shares.
        fixed = config.residual_share
        share = torch.sigmoid(self.object_share) if fixed is None else torch.full_like(self.object_share, fixed)
        return torch.cat([share.sqrt() * functional.normalize(objects, dim=-1), (1 - share).sqrt() * embedding], dim=-1)

    def _check(
        self, queries: Tensor, candidates: Tensor, query_map: Tensor, target_map: Tensor, mask: Tensor | None
    ) -> None:
        channels, width = self.config.channels, self.config.descriptor_width
        batch = queries.shape[0] if queries.ndim else -1
        for name, tensor, shape in (
            ("query_descriptors", queries, ("Q", width)),
            ("candidate_descriptors", candidates, ("N", width)),
            ("query_map", query_map, (channels, "h", "w")),
            ("target_map", target_map, (channels, "h", "w")),
        ):
            fits = tensor.ndim == len(shape) + 1 and tensor.shape[0] == batch
            if not fits or any(isinstance(n, int) and n != m for n, m in zip(shape, tensor.shape[1:], strict=True)):
                raise InputError(
                    f"{name} has the wrong shape",
                    found=tuple(tensor.shape),
                    expected=f"({max(batch, 0)}, {', '.join(map(str, shape))})",
                )
        if mask is not None and (mask.shape != candidates.shape[:2] or mask.dtype != torch.bool):
            raise InputError(
                "candidate_mask does not fit candidate_descriptors",
                found=f"{mask.dtype} {tuple(mask.shape)}",
                expected=f"bool {tuple(candidates.shape[:2])}",
            )

    @classmethod
    def from_released(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Tensor],
        direction: Literal["ego2exo", "exo2ego"] | None = None,
    ) -> OMaMa:
        """Load the authors' released weights, strictly. See :func:`counterview.omama.released.load_released`."""
        from counterview.omama.released import load_released

        return load_released(source, direction)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **options: str | None) -> OMaMa:
        """Load a folder or a repository of the Hub. See :func:`counterview.omama.checkpoint.load_model`."""
        from counterview.omama.checkpoint import load_model

        return load_model(source, **options)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``config.json``, ``model.safetensors`` and ``README.md``; return the folder."""
        from counterview.omama.checkpoint import save_model

        return save_model(self, folder)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to a repository of the Hugging Face Hub; return its address.

        Raises:
            WeightsError: the Hub cannot be reached or refuses.
        """
        from counterview.omama.checkpoint import push_model

        return push_model(self, repo_id, private=private, token=token)


def choice_rank(similarity: NDArray[np.floating], scores: NDArray[np.floating], prior: float) -> NDArray[np.floating]:
    """What the best candidate is chosen by: its similarity, and how much the proposer thinks of it.

    Args:
        similarity: ``(Q, N)``.
        scores: ``(N,)`` of the proposer; their scale does not matter.
        prior: :attr:`OMaMaConfig.proposal_prior`.

    Returns:
        ``(Q, N)``.
    """
    return similarity if prior == 0 or not scores.any() else similarity + prior * relative(scores)
