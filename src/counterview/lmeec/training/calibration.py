"""Turning object scores into probabilities of visibility."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from counterview.lmeec.network import LMEECNetwork
from counterview.nn.calibration import class_weights, fit_platt

logger = logging.getLogger(__name__)

LARGEST_SCALE = 1e3
"""Above it the scores are all but equal, and nothing can be learned from them."""


def fit_visibility(
    model: LMEECNetwork, scores: NDArray[np.float64], visible: NDArray[np.bool_], *, balanced: bool = True
) -> dict[str, float]:
    """Fit ``sigmoid(scale * score + bias)`` to what is visible (Platt 1999), and set the model's two buffers.

    Args:
        model: changed in place.
        scores: object scores of validation frames, ``(M,)``, finite.
        visible: whether the object was visible in each, ``(M,)``.
        balanced: as if half of them were, so that 0.5 is the threshold of the best balanced accuracy.

    Returns:
        ``visibility_scale`` and ``visibility_bias``; nothing, with a warning, where there is nothing to learn: only
        one kind of frame, or scores that are not higher for visible objects.
    """
    if visible.all() or not visible.any():
        logger.warning("visibility is not calibrated: validation has not both visible and absent objects")
        return {}
    scale = np.inf
    if scores[visible].mean() > scores[~visible].mean():
        scale, bias = fit_platt(scores, visible, class_weights(visible, "balanced" if balanced else "data"))
    if scale >= LARGEST_SCALE:
        logger.warning("visibility is not calibrated: object scores are not higher where objects are visible")
        return {}
    model.visibility_scale.fill_(scale)
    model.visibility_bias.fill_(bias)
    return {"visibility_scale": scale, "visibility_bias": bias}
