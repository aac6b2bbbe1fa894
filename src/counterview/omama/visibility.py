"""How likely it is that the object can be seen in the target image at all."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from counterview.errors import InputError

KNOTS = 32
"""Points of the piecewise linear curve that an isotonic calibration is kept as."""

STATISTICS = 6
_TEMPERATURE = 0.07


class Calibration(nn.Module):
    """A monotone map from logits to calibrated logits, kept in buffers so that it is saved with the weights.

    ``temperature``: ``a * logit + b`` with ``a > 0``. ``isotonic``: piecewise linear. Until fitted, the identity.
    """

    scale: Tensor
    offset: Tensor
    knots: Tensor
    values: Tensor
    isotonic: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("knots", torch.linspace(-20.0, 20.0, KNOTS))
        self.register_buffer("values", torch.linspace(-20.0, 20.0, KNOTS))
        self.register_buffer("isotonic", torch.zeros((), dtype=torch.bool))

    def forward(self, logit: Tensor) -> Tensor:
        """Calibrated logits, of the shape of ``logit``; non-finite ones pass through."""
        straight = self.scale.to(logit.dtype) * logit + self.offset.to(logit.dtype)
        if not bool(self.isotonic):
            return straight
        knots, values = self.knots.to(logit.dtype), self.values.to(logit.dtype)
        clear = logit.nan_to_num().clamp(float(knots[0]), float(knots[-1]))
        right = torch.searchsorted(knots, clear.contiguous()).clamp(1, KNOTS - 1)
        step = (clear - knots[right - 1]) / (knots[right] - knots[right - 1])
        curve = values[right - 1] + step * (values[right] - values[right - 1])
        return torch.where(torch.isfinite(logit), curve, logit)

    def fit(
        self,
        logits: NDArray[np.floating],
        visible: NDArray[np.bool_],
        *,
        kind: Literal["temperature", "isotonic"] = "temperature",
        prior: Literal["data", "balanced"] = "data",
    ) -> None:
        """Fit to validation data.

        Args:
            logits: ``(M,)`` of the head; non-finite ones (no candidate) are left out.
            visible: ``(M,)`` truth.
            kind: two numbers by maximum likelihood (Platt's scaling with its smoothed targets), or isotonic
                regression, which needs some hundred examples.
            prior: ``data``: 0.5 means that half of such validation objects are visible. ``balanced``: both
                classes weigh the same, so that deciding at 0.5 maximises balanced accuracy.

        Raises:
            InputError: only one class, or lengths that differ: nothing can be calibrated with that.
        """
        scores, visible = np.asarray(logits, dtype=np.float64), np.asarray(visible, dtype=bool)
        if scores.shape != visible.shape or scores.ndim != 1:
            raise InputError("logits and truths differ in number", found=f"{scores.shape} and {visible.shape}")
        keep = np.isfinite(scores)
        scores, visible = scores[keep], visible[keep]
        present, absent = int(visible.sum()), int((~visible).sum())
        if not present or not absent:
            raise InputError(
                "visibility cannot be calibrated",
                found=f"{present} visible and {absent} absent objects",
                expected="some of both",
            )
        weights = (
            np.where(visible, 0.5 / present, 0.5 / absent)
            if prior == "balanced"
            else np.full(len(scores), 1 / len(scores))
        )
        scale, offset = _platt(scores, visible, weights)
        self.scale.fill_(scale)
        self.offset.fill_(offset)
        self.isotonic.fill_(kind == "isotonic")
        if kind == "isotonic":
            knots, values = _isotonic(scores, visible, weights)
            self.knots.copy_(torch.from_numpy(knots))
            self.values.copy_(torch.from_numpy(values))


def _platt(
    logits: NDArray[np.float64], visible: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[float, float]:
    from scipy.optimize import minimize

    present, absent = visible.sum(), (~visible).sum()
    target = np.where(visible, (present + 1) / (present + 2), 1 / (absent + 2))  # keeps separable data finite
    centre, spread = float(logits.mean()), float(logits.std()) or 1.0
    standard = (logits - centre) / spread

    def cost(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope = np.exp(parameters[0])
        z = slope * standard + parameters[1]
        loss = float((weights * (np.logaddexp(0, z) - target * z)).sum())
        error = weights * (1 / (1 + np.exp(-np.clip(z, -500, 500))) - target)
        return loss, np.array([float((error * standard).sum()) * slope, float(error.sum())])

    best = minimize(cost, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-8, 8), (-50, 50)])
    scale = float(np.exp(best.x[0])) / spread
    return scale, float(best.x[1]) - scale * centre


def _isotonic(
    logits: NDArray[np.float64], visible: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.isotonic import IsotonicRegression

    floor = 1.0 / (len(logits) + 2)  # a bin of one class is no certainty
    curve = IsotonicRegression(y_min=floor, y_max=1 - floor, out_of_bounds="clip")
    curve.fit(logits, visible.astype(np.float64), sample_weight=weights)
    knots = np.unique(np.quantile(logits, np.linspace(0, 1, KNOTS)))
    if len(knots) < KNOTS:
        knots = np.linspace(logits.min() - 1e-3, logits.max() + 1e-3, KNOTS)
    probability = curve.predict(knots)
    return knots, np.log(probability / (1 - probability))


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
