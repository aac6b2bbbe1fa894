"""How likely it is that the object can be seen in the target image at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterview.nn.calibration import Calibration

STATISTICS = 6
_TEMPERATURE = 0.07


class VisibilityHead(nn.Module):
    """A small network over the best match: is it the object, or only the nearest thing?

    It sees how query and best candidate agree channel by channel (product and absolute difference of their
    embeddings, 2E numbers) and how the best similarity stands out among all (6 statistics). The first layers
    have the shape of the visibility network that the released weights contain but never use; from what those
    were to be computed is not known, so released weights answer with ``visibility="released"``.

    Args:
        embedding: channels E of the embeddings.
        agreement: look at the channels; otherwise at the statistics alone, which a small data set does not overfit.
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
            detach: keep the gradient from the embeddings.

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
        """Calibrated probability of logits of :meth:`forward`, of the same shape."""
        return torch.sigmoid(self.calibration(logit))


def _agreement(mlp: nn.Module, queries: Tensor, candidates: Tensor, similarity: Tensor) -> Tensor:
    """Logits ``(B, Q)`` from how query and best candidate agree, channel by channel."""
    best = similarity.argmax(dim=-1)
    chosen = torch.gather(candidates, 1, best[..., None].expand(-1, -1, candidates.shape[-1]))
    scale = queries.shape[-1] ** 0.5  # products of unit vectors are tiny; this brings them to about 1
    agreement = torch.cat([queries * chosen * scale, (queries - chosen).abs() * scale**0.5], dim=-1)
    absent, present = mlp(agreement).unbind(-1)
    return torch.as_tensor(present - absent)


def similarity_statistics(similarity: Tensor) -> Tensor:
    """How the best of N similarities stands out.

    Args:
        similarity: ``(B, Q, N)``, minus infinity for padding.

    Returns:
        ``(B, Q, 6)``: the best; its lead over the second and the fifth; mean and deviation of all; the share of
        the best in the softmax. A row without candidates is all zeros.
    """
    real = torch.isfinite(similarity)
    count = real.sum(-1, keepdim=True).clamp(min=1)
    filled = similarity.masked_fill(~real, 0.0)
    mean = filled.sum(-1, keepdim=True) / count
    deviation = ((((filled - mean) * real) ** 2).sum(-1, keepdim=True) / count + 1e-12).sqrt()
    top = similarity.topk(min(5, similarity.shape[-1]), dim=-1).values
    top = torch.where(torch.isfinite(top), top, -1.0)
    top = functional.pad(top, (0, 5 - top.shape[-1]), value=-1.0)
    share = torch.softmax(similarity.masked_fill(~real, -1e4) / _TEMPERATURE, dim=-1).amax(-1, keepdim=True)
    columns = [top[..., :1], top[..., :1] - top[..., 1:2], top[..., :1] - top[..., 4:5], mean, deviation, share]
    return torch.cat(columns, dim=-1) * real.any(-1, keepdim=True)
