"""How likely it is that the object is visible in the target image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterview.nn.calibration import Calibration

STATISTICS = 6
_TEMPERATURE = 0.07


class VisibilityHead(nn.Module):
    """A small network over the best match: is it the object, or only what resembles it most?

    It reads how query and best candidate agree channel by channel (product and absolute difference of their
    embeddings, 2E numbers) and how the best similarity stands out among all (6 statistics). The first layers
    have the shape of the visibility network that the released weights contain but never use; what its input
    was is not known, so released weights come with ``visibility="released"``.

    Args:
        embedding: channels E of the embeddings.
        agreement: read the channels; false: the statistics alone, which overfit a small data set less.
    """

    def __init__(self, embedding: int, agreement: bool = True) -> None:
        super().__init__()
        widths = (embedding, max(8, embedding // 3), max(8, embedding // 6))
        self.mlp = (
            None
            if not agreement
            else nn.Sequential(
                nn.Linear(2 * embedding, widths[0]),
                nn.ReLU(),
                nn.Linear(widths[0], widths[1]),
                nn.ReLU(),
                nn.Linear(widths[1], widths[2]),
                nn.ReLU(),
                nn.Linear(widths[2], 2),
            )
        )
        self.statistics = nn.Sequential(nn.Linear(STATISTICS, 32), nn.ReLU(), nn.Linear(32, 1))
        self.calibration = Calibration()

    def forward(self, queries: Tensor, candidates: Tensor, similarity: Tensor, *, detach: bool = True) -> Tensor:
        """Logits before calibration.

        Args:
            queries: ``(B, Q, E)`` of length 1.
            candidates: ``(B, N, E)`` of length 1.
            similarity: ``(B, Q, N)``, minus infinity for padding.
            detach: stop the gradient before embeddings and similarities.

        Returns:
            ``(B, Q)``; minus infinity where there is no candidate.
        """
        if similarity.shape[-1] == 0:
            return similarity.new_full(similarity.shape[:2], -torch.inf)
        if detach:
            queries, candidates, similarity = queries.detach(), candidates.detach(), similarity.detach()
        logit = self.statistics(similarity_statistics(similarity))[..., 0]
        if self.mlp is not None:
            logit = logit + _agreement(self.mlp, queries, candidates, similarity)
        return torch.where(torch.isfinite(similarity).any(-1), logit, -torch.inf)

    def probability(self, logit: Tensor) -> Tensor:
        """Calibrated probabilities ``(B, Q)`` of logits ``(B, Q)`` of :meth:`forward`."""
        return torch.sigmoid(self.calibration(logit))


def _agreement(mlp: nn.Module, queries: Tensor, candidates: Tensor, similarity: Tensor) -> Tensor:
    """Logits ``(B, Q)`` from how query and best candidate agree, channel by channel."""
    best = similarity.argmax(dim=-1)
    chosen = torch.gather(candidates, 1, best[..., None].expand(-1, -1, candidates.shape[-1]))
    scale = queries.shape[-1] ** 0.5  # products of unit vectors are tiny; the scale brings them to about 1
    agreement = torch.cat([queries * chosen * scale, (queries - chosen).abs() * scale**0.5], dim=-1)
    absent, present = mlp(agreement).unbind(-1)
    return torch.as_tensor(present - absent)


def similarity_statistics(similarity: Tensor) -> Tensor:
    """How the best of N similarities stands out.

    Args:
        similarity: ``(B, Q, N)``, minus infinity for padding.

    Returns:
        ``(B, Q, 6)``: the best; its lead over the second and over the fifth (where there are fewer, over -1); mean and
        standard deviation of all; the softmax probability of the best. A row without candidates is all zeros.

    >>> statistics = similarity_statistics(torch.tensor([[[0.2, 0.8, 0.5]]]))
    >>> [round(value, 3) for value in statistics[0, 0].tolist()]
    [0.8, 0.3, 1.8, 0.5, 0.245, 0.986]
    """
    is_candidate = torch.isfinite(similarity)
    count = is_candidate.sum(-1, keepdim=True).clamp(min=1)
    filled = similarity.masked_fill(~is_candidate, 0.0)
    mean = filled.sum(-1, keepdim=True) / count
    deviation = ((((filled - mean) * is_candidate) ** 2).sum(-1, keepdim=True) / count + 1e-12).sqrt()
    # Padded before, so that an exported graph serves any number of candidates.
    top = functional.pad(similarity, (0, 4), value=-torch.inf).topk(5, dim=-1).values
    top = torch.where(torch.isfinite(top), top, -1.0)
    probability = torch.softmax(similarity.masked_fill(~is_candidate, -1e4) / _TEMPERATURE, dim=-1)
    columns = [
        top[..., :1], top[..., :1] - top[..., 1:2], top[..., :1] - top[..., 4:5], mean, deviation,
        probability.amax(-1, keepdim=True),
    ]  # fmt: skip
    return torch.cat(columns, dim=-1) * is_candidate.any(-1, keepdim=True)
