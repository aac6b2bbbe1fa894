"""The geometric re-ranker: weighs place against similarity, and predicts whether the object is visible. Ours.

The proposals of both images give homographies between the views (:mod:`counterview.geometry`). A small network weighs
the place and size that they predict against similarity (:class:`~counterview.geometry.PairFeature`). An object whose
place is inside the image, but which resembles nothing there, is hidden; one whose place is outside is out of view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.geometry.homography import HomographyConfig
from counterview.geometry.relations import PairFeature, PairFeatureConfig, QueryFeature
from counterview.nn.calibration import Calibration
from counterview.omama.visibility import STATISTICS, similarity_statistics

_POOLINGS = 3
"""Ways in which :meth:`GeometricReranker._context` pools the candidates."""
_INITIAL_PRIOR = 2.0
"""Initial weight of the proposer's score: a fifth of that of similarity."""


@dataclass(frozen=True)
class RerankerConfig:
    """Architecture of the geometric re-ranker, and the constants of the features that it reads.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    proposals: int = field(default=100, metadata={"help": "best proposals of both images that give homographies"})
    homographies: int = field(
        default=8, metadata={"help": "homographies from random subsets of these proposals; their results are averaged"}
    )
    hidden: int = field(default=32, metadata={"help": "width of its networks"})
    similarity_scale: float = field(
        default=10.0, metadata={"help": "initial weight of similarity; divides scores before their statistics"}
    )
    nearby_offset: float = field(
        default=0.3,
        metadata={"help": "added to the summed weight of nearby candidates, so that a few distant ones count little"},
    )
    homography: HomographyConfig = field(default_factory=HomographyConfig)
    features: PairFeatureConfig = field(default_factory=PairFeatureConfig)

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "proposals", at_least=1, at_most=10_000),
            *out_of_range(self, "homographies", at_least=1, at_most=1000),
            *out_of_range(self, "hidden", at_least=2, at_most=16_384),
            *out_of_range(self, "similarity_scale", "nearby_offset", above=0),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


class GeometricReranker(nn.Module):
    """Scores candidates by similarity and place, and predicts whether the object is visible.

    Args:
        config: its size and constants.
    """

    def __init__(self, config: RerankerConfig) -> None:
        super().__init__()
        self.config = config
        pairs, queries = len(PairFeature), len(QueryFeature)
        self.ranking = nn.Sequential(
            nn.Linear(pairs, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, 1),
        )
        nn.init.zeros_(self.ranking[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.ranking[-1].bias)  # type: ignore[arg-type]
        self.linear = nn.Parameter(torch.tensor([config.similarity_scale, _INITIAL_PRIOR]))
        context = config.hidden // 2
        self.context = nn.Sequential(nn.Linear(pairs + 1, config.hidden), nn.GELU(), nn.Linear(config.hidden, context))
        inputs = 2 * STATISTICS + pairs + queries + _POOLINGS * context
        self.visibility = nn.Sequential(nn.Linear(inputs, config.hidden), nn.GELU(), nn.Linear(config.hidden, 1))
        self.calibration = Calibration()

    def forward(
        self, pair_features: Tensor, query_features: Tensor, candidate_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Score candidates.

        Args:
            pair_features: ``(B, Q, N, 14)`` in the order of :class:`~counterview.geometry.PairFeature`, N at least 1.
            query_features: ``(B, Q, 6)`` in the order of :class:`~counterview.geometry.QueryFeature`.
            candidate_mask: ``(B, N)`` bool, false for padding.

        Returns:
            ``(B, Q, N)`` logits, minus infinity for padding: their softmax is the probability that each candidate is
            the object; ``(B, Q)`` logits of the object being visible, before calibration.
        """
        # The linear part reads the first two features: similarity and score.
        scores = self.ranking(pair_features)[..., 0] + pair_features[..., : len(self.linear)] @ self.linear
        similarity = pair_features[..., PairFeature.SIMILARITY]
        if candidate_mask is not None:
            padding = ~candidate_mask[:, None, :]
            scores, similarity = (values.masked_fill(padding, -torch.inf) for values in (scores, similarity))
        fixed_scores = scores.detach()
        best = fixed_scores.argmax(-1, keepdim=True)
        chosen = pair_features.gather(-2, best[..., None].expand(*best.shape, len(PairFeature)))[..., 0, :]
        statistics = [
            similarity_statistics(fixed_scores / self.config.similarity_scale), similarity_statistics(similarity)
        ]  # fmt: skip
        inputs = [*statistics, chosen, query_features, self._context(pair_features, fixed_scores)]
        return scores, self.visibility(torch.cat(inputs, -1))[..., 0]

    def _context(self, pair_features: Tensor, scores: Tensor) -> Tensor:
        """Pooled features of all candidates: the chosen one alone does not show what hides the object.

        Args:
            pair_features: ``(B, Q, N, 14)``.
            scores: ``(B, Q, N)`` without gradient, minus infinity for padding.

        Returns:
            ``(B, Q, 3 * hidden // 2)``: learned features of each candidate, pooled by their maximum, by their mean near
            the point where the object should stand, and by their mean weighted by the candidates' probability.
        """
        probability, is_candidate = torch.softmax(scores, -1)[..., None], torch.isfinite(scores)[..., None]
        learned = self.context(torch.cat([pair_features, probability], -1))
        nearby = pair_features[..., PairFeature.NEARBY, None] * is_candidate
        largest = learned.masked_fill(~is_candidate, torch.finfo(learned.dtype).min).amax(-2)
        mean_nearby = (learned * nearby).sum(-2) / (nearby.sum(-2) + self.config.nearby_offset)
        return torch.cat([largest, mean_nearby, (learned * probability).sum(-2)], -1)

    def over_homographies(self, pair_features: Tensor, query_features: Tensor) -> tuple[Tensor, Tensor]:
        """The mean result over several homographies.

        Args:
            pair_features: ``(K, Q, N, 14)``, for each of K homographies.
            query_features: ``(K, Q, 6)``.

        Returns:
            ``(Q, N)`` logarithm of the mean probability of each candidate; ``(Q,)`` mean logit of being visible.
        """
        scores, logit = self(pair_features, query_features)
        return torch.logsumexp(torch.log_softmax(scores, -1), 0) - math.log(len(scores)), logit.mean(0)
