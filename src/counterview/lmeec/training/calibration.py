"""Turning object scores into probabilities of visibility."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from counterview.lmeec.model import LMEEC

logger = logging.getLogger(__name__)

LIMIT = 1e3


def fit_visibility(
    model: LMEEC, scores: NDArray[np.float64], visible: NDArray[np.bool_], *, balanced: bool = True
) -> dict[str, float]:
    """Fit ``sigmoid(scale * score + bias)`` to what is visible (Platt 1999), and set the model's two buffers.

    Args:
        model: changed in place.
        scores: object scores of validation frames, ``(N,)``.
        visible: whether the object was visible in each.
        balanced: as if half of them were, so that 0.5 is the threshold of the best balanced accuracy.

    Returns:
        ``visibility_scale`` and ``visibility_bias``; nothing, with a warning, where there is nothing to learn: only
        one kind of frame, or scores that are no higher for visible objects.
    """
    from sklearn.linear_model import LogisticRegression

    if visible.all() or not visible.any():
        logger.warning("visibility is not calibrated: validation has not both visible and absent objects")
        return {}
    # Newton's method wants numbers near 1.
    spread = max(float(scores.std()), 1e-6)
    fit = LogisticRegression(C=1e4, class_weight="balanced" if balanced else None)
    fit.fit((scores / spread)[:, None], visible)
    scale, bias = float(fit.coef_[0, 0]) / spread, float(fit.intercept_[0])
    if not 0 < scale < LIMIT:
        logger.warning("visibility is not calibrated: object scores are not higher where objects are visible")
        return {}
    model.visibility_scale.fill_(scale)
    model.visibility_bias.fill_(bias)
    return {"visibility_scale": scale, "visibility_bias": bias}
