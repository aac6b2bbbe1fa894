"""O-MaMa: which mask of the target image shows the query object (ICCV 2025, arXiv 2506.06026)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from counterview.errors import CheckpointError, InputError
from counterview.nn.calibration import Calibration
from counterview.nn.checkpoint import Header, Pretrained
from counterview.omama.attention import CrossViewAttention, PositionEmbedding
from counterview.omama.config import OMaMaConfig
from counterview.omama.visibility import VisibilityHead

F64 = NDArray[np.float64]

_NOT_OF_THE_PAPER: dict[str, Any] = {
    "residual": False,
    "residual_share": None,
    "attention_pooling": 1,
    "learned_backbone": False,
    "proposal_prior": 0.0,
    "scene": {"proposals": 0, "homographies": 8, "hidden": 32},
}
"""Settings that the first version kept in this configuration, with the values that switch them off. They belong to
``tiny-match`` (:mod:`counterview.tiny`)."""


@dataclass(frozen=True)
class OMaMaOutput:
    """Result of :class:`OMaMa` for B pairs of images with Q query objects and N candidates each.

    With one query object per image the axis Q is left out.

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

    def first_query(self) -> OMaMaOutput:
        """Of an output with an axis Q: the first query object's, without that axis."""
        return replace(
            self,
            similarity=self.similarity[:, 0],
            visibility=self.visibility[:, 0],
            visibility_logit=self.visibility_logit[:, 0],
            query_embedding=self.query_embedding[:, 0],
            best=self.best[:, 0],
        )


@dataclass(frozen=True, eq=False)
class ImageInput:
    """One image with N described masks, as :meth:`OMaMa.match` takes it. C channels of the map.

    Attributes:
        descriptors: ``(N, D)``.
        map: ``(C, h, w)``.
        boxes_xywh: ``(N, 4)`` of the masks, in pixels.
        size_hw: height and width of the image in pixels.
        scores: ``(N,)`` of the proposer, on any scale; ``None`` for masks without scores.
    """

    descriptors: Tensor
    map: Tensor
    boxes_xywh: NDArray[np.floating]
    size_hw: tuple[int, int]
    scores: NDArray[np.floating] | None = None


@dataclass(frozen=True, eq=False)
class MatchOutput:
    """How Q query objects match N candidates.

    Attributes:
        similarity: ``(Q, N)`` cosines in ``[-1, 1]``.
        score: ``(Q, N)`` by which candidates are chosen, the largest first; the similarity in O-MaMa.
        visibility: ``(Q,)`` probability that the object is in the target image.
        visibility_logit: ``(Q,)`` before calibration and sigmoid.
    """

    similarity: F64
    score: F64
    visibility: F64
    visibility_logit: F64


class OMaMa(Pretrained, nn.Module):
    """Maps descriptors of the Mask-Context Encoder to similarities and visibility.

    Args:
        config: its architecture; that of the released weights if not given.

    A descriptor is ``[object; context]``: the mean of a backbone's map over the mask, then over the grown box
    (:func:`counterview.omama.descriptors.describe_masks` makes them). Sizes below: B pairs, Q query objects, N
    candidates, C channels of the map, E of the embedding. Where a backbone describes objects in ``object_channels``
    other than C, read ``object_channels + C`` for 2C.
    """

    method: ClassVar[str] = "omama"
    config_class: ClassVar[type] = OMaMaConfig
    about: ClassVar[tuple[str, str, str]] = (
        "O-MaMa",
        "O-MaMa (ICCV 2025, arXiv 2506.06026)",
        "Finds an object of one image among the masks of another, for "
        "[Counterview](https://github.com/counterview/counterview).",
    )
    usage: ClassVar[str] = (
        'model = counterview.load("{name}")\nmatch = model.match(query_image, query_mask, target_image)[0]'
    )

    config: OMaMaConfig

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

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for the k-NN baseline, which has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of a trained visibility; ``None`` where it is the released code's."""
        return self.visibility_head.calibration if self.config.visibility == "trained" else None

    @property
    def uses_proposal_scores(self) -> bool:
        """Whether :meth:`match` reads the proposer's scores."""
        return False

    @property
    def uses_query_proposals(self) -> bool:
        """Whether :meth:`match` reads the proposals of the query image; O-MaMa reads its map alone."""
        return False

    def embed_queries(self, query_descriptors: Tensor, target_map: Tensor) -> Tensor:
        """Embed query objects, which attend to the target image.

        Args:
            query_descriptors: ``(B, Q, 2C)``.
            target_map: ``(B, C, h, w)``.

        Returns:
            ``(B, Q, E)`` of length 1.
        """
        return self._embed(query_descriptors, target_map, "target_position")

    def embed_candidates(self, candidate_descriptors: Tensor, query_map: Tensor) -> Tensor:
        """Embed candidates, which attend to the query image.

        Args:
            candidate_descriptors: ``(B, N, 2C)``.
            query_map: ``(B, C, h, w)``.

        Returns:
            ``(B, N, E)`` of length 1.
        """
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
            keep_queries: keep the axis Q in the output even where Q is 1.

        Raises:
            InputError: shapes that do not fit together.
        """
        self.check_inputs(query_descriptors, candidate_descriptors, query_map, target_map, candidate_mask)
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
        similarity: Tensor | None = None,
    ) -> OMaMaOutput:
        """Compare embeddings.

        Args:
            queries: ``(B, Q, E)`` of length 1.
            candidates: ``(B, N, E)`` of length 1.
            candidate_mask: ``(B, N)`` bool, false for padding; all true if not given.
            keep_queries: keep the axis Q in the output even where Q is 1.
            similarity: ``(B, Q, N)`` to choose by; the cosine of the embeddings if not given.

        Returns:
            See :class:`OMaMaOutput`.
        """
        similarity = queries @ candidates.transpose(1, 2) if similarity is None else similarity
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
            detach = not self.config.visibility_gradient
            logit = self.visibility_head(queries, candidates, similarity, detach=detach)
            visibility = self.visibility_head.probability(logit)
        visibility = torch.where(best >= 0, visibility, 0.0)
        output = OMaMaOutput(similarity, visibility, logit, queries, candidates, best)
        return output.first_query() if queries.shape[1] == 1 and not keep_queries else output

    @torch.inference_mode()
    def match(
        self,
        query_descriptors: Tensor,
        query_boxes_xywh: NDArray[np.floating],
        query: ImageInput,
        target: ImageInput,
        context: ImageInput | None = None,
    ) -> MatchOutput:
        """Match query objects with the masks of the target image.

        Args:
            query_descriptors: ``(Q, D)``.
            query_boxes_xywh: ``(Q, 4)`` of the query objects, in pixels.
            query: the query image with its proposals, of which O-MaMa reads the map alone.
            target: the target image; its masks are the candidates, at least one.
            context: the target image with its proposals, where the candidates are other masks; not read by O-MaMa.

        Returns:
            See :class:`MatchOutput`.

        Raises:
            InputError: shapes that do not fit together.
        """
        device = self.device
        output = self(
            query_descriptors[None].to(device),
            target.descriptors[None].to(device),
            query.map[None].to(device),
            target.map[None].to(device),
            keep_queries=True,
        )
        similarity = to_float64(output.similarity[0].clamp(-1.0, 1.0))
        visibility = to_float64(output.visibility[0])
        return MatchOutput(similarity, similarity, visibility, to_float64(output.visibility_logit[0]))

    def _embed(self, descriptors: Tensor, other_map: Tensor, position: str) -> Tensor:
        config = self.config
        weight = next(self.parameters(), None)
        if weight is not None and not torch.is_autocast_enabled(descriptors.device.type):
            # After model.half(): features stay float32, and what comes out has the dtype of the weights.
            descriptors, other_map = descriptors.to(weight.dtype), other_map.to(weight.dtype)
        objects, context = descriptors[..., : config.object_width], descriptors[..., config.object_width :]
        if not config.matching_head:
            return functional.normalize(objects, dim=-1)
        parts = [objects]
        if config.cross_attention:
            tokens = other_map.flatten(2).transpose(1, 2)
            tokens = tokens + getattr(self, position)(other_map.shape[-2:])
            parts.insert(0, self.attention(objects, tokens))
        if config.context:
            parts.append(context)
        hidden = torch.cat(parts, dim=-1)
        for layer in self.head:
            if isinstance(layer, nn.Linear):  # its input is the descriptor, or the output of a ReLU
                hidden = functional.dropout(hidden, config.dropout, self.training)
            hidden = layer(hidden)
        return functional.normalize(hidden, dim=-1)

    def check_inputs(
        self, queries: Tensor, candidates: Tensor, query_map: Tensor, target_map: Tensor, mask: Tensor | None = None
    ) -> None:
        """Check the shapes of the inputs of :meth:`forward`.

        Args:
            queries: ``(B, Q, 2C)``.
            candidates: ``(B, N, 2C)``.
            query_map: ``(B, C, h, w)``.
            target_map: ``(B, C, h', w')``.
            mask: ``(B, N)`` bool.

        Raises:
            InputError: shapes that do not fit together.
        """
        channels, width = self.config.channels, self.config.descriptor_width
        batch = queries.shape[0] if queries.ndim else -1
        for name, tensor, shape in (
            ("query_descriptors", queries, ("Q", width)),
            ("candidate_descriptors", candidates, ("N", width)),
            ("query_map", query_map, (channels, "h", "w")),
            ("target_map", target_map, (channels, "h", "w")),
        ):
            has_axes = tensor.ndim == len(shape) + 1 and tensor.shape[0] == batch
            if not has_axes or any(isinstance(n, int) and n != m for n, m in zip(shape, tensor.shape[1:], strict=True)):
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
        """Load the authors' released weights, strictly.

        Args:
            source: the file (``.pt`` or ``.safetensors``), or its state dict. A leading ``module.`` is dropped.
            direction: the direction that they were trained for; read from their position embeddings if not given.

        Returns:
            The model on the CPU, in evaluation mode.

        Raises:
            CheckpointError: tensors are missing, unknown, of another shape, not finite, or of the other direction.
        """
        from counterview.omama.released import load_released

        return load_released(cls, source, direction)

    def card_rows(self) -> dict[str, object]:
        """See :meth:`counterview.nn.checkpoint.Pretrained.card_rows`."""
        config = self.config
        return {
            "backbone": config.backbone,
            "proposals": config.proposer,
            **super().card_rows(),
            "object descriptor": config.descriptor.pooling,
            "context": config.context,
            "cross-attention": config.cross_attention,
            "visibility": config.visibility,
        }

    @classmethod
    def upgraded(cls, header: Header) -> Header:
        """See :meth:`counterview.nn.checkpoint.Pretrained.upgraded`; the first version kept settings of ours here."""
        header = super().upgraded(header)
        if header.version > 1:
            return header
        switched_on = settings_of_ours(header.model)
        if switched_on:
            raise CheckpointError(
                "is a tiny-match, not a plain O-MaMa", path=header.path, found=", ".join(sorted(switched_on)),
                fix="Load it with counterview.load or counterview.tiny.TinyMatch.from_pretrained.",
            )  # fmt: skip
        return header.with_model(cls.method, {k: v for k, v in header.model.items() if k not in _NOT_OF_THE_PAPER})


def settings_of_ours(model: Mapping[str, Any]) -> list[str]:
    """Names of the settings of a first-version configuration that are switched on and that the paper does not have."""
    return [key for key, value in model.items() if key in _NOT_OF_THE_PAPER and not _is_off(key, value)]


def _is_off(key: str, value: Any) -> bool:
    if key == "scene":
        return not (isinstance(value, Mapping) and value.get("proposals"))
    return bool(value == _NOT_OF_THE_PAPER[key])


def to_float64(tensor: Tensor) -> F64:
    """A tensor of any shape as a float64 array of the same shape. It leaves its device first: MPS has no float64."""
    return np.asarray(tensor.cpu().double().numpy())
