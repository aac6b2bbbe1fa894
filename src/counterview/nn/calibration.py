"""From scores to probabilities: one monotone map for every method, saved with the weights."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterview.errors import InputError

KNOTS = 32
"""Points of the piecewise linear curve that an isotonic calibration is kept as."""


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
        if not bool(self.isotonic):
            return self.scale.to(logit.dtype) * logit + self.offset.to(logit.dtype)
        knots, values = self.knots.to(logit.dtype), self.values.to(logit.dtype)
        clamped = logit.nan_to_num().clamp(float(knots[0]), float(knots[-1]))
        right = torch.searchsorted(knots, clamped.contiguous()).clamp(1, KNOTS - 1)
        step = (clamped - knots[right - 1]) / (knots[right] - knots[right - 1])
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
            InputError: only one class, or lengths that differ.
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
        weights = class_weights(visible, prior)
        scale, offset = fit_platt(scores, visible, weights)
        self.scale.fill_(scale)
        self.offset.fill_(offset)
        self.isotonic.fill_(kind == "isotonic")
        if kind == "isotonic":
            knots, values = _isotonic(scores, visible, weights)
            self.knots.copy_(torch.from_numpy(knots))
            self.values.copy_(torch.from_numpy(values))


def class_weights(visible: NDArray[np.bool_], prior: Literal["data", "balanced"]) -> NDArray[np.float64]:
    """Weights of examples that sum to 1.

    Args:
        visible: ``(M,)`` bool, some of both classes.
        prior: ``data``: all equal. ``balanced``: half of the sum for either class.

    Returns:
        ``(M,)``.

    >>> class_weights(np.array([True, True, False]), "balanced").tolist()
    [0.25, 0.25, 0.5]
    """
    if prior == "data":
        return np.full(len(visible), 1 / len(visible))
    present = int(visible.sum())
    return np.where(visible, 0.5 / max(present, 1), 0.5 / max(len(visible) - present, 1))


def fit_platt(
    logits: NDArray[np.float64], visible: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[float, float]:
    """Platt's scaling (1999) with its smoothed targets: ``sigmoid(scale * logit + offset)``.

    Args:
        logits: ``(M,)`` finite scores, higher for what is visible.
        visible: ``(M,)`` truth, some of both.
        weights: ``(M,)`` of the examples; see :func:`class_weights`.

    Returns:
        ``scale`` (positive) and ``offset``.
    """
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
    """Knots and calibrated logits, ``(KNOTS,)`` each, of a weighted isotonic regression."""
    from scipy.optimize import isotonic_regression

    floor = 1.0 / (len(logits) + 2)  # a bin of a single class is not certain
    at, which = np.unique(logits, return_inverse=True)  # equal logits are one example of their mean truth
    weight = np.bincount(which, weights)
    truth = np.bincount(which, weights * visible) / weight
    curve = np.clip(isotonic_regression(truth, weights=weight).x, floor, 1 - floor)
    knots = np.unique(np.quantile(logits, np.linspace(0, 1, KNOTS)))
    if len(knots) < KNOTS:
        knots = np.linspace(logits.min() - 1e-3, logits.max() + 1e-3, KNOTS)
    probability = np.interp(knots, at, curve)
    return knots, np.log(probability / (1 - probability))
