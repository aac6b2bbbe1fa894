"""What tiny-follow learns beside LM-EEC's losses: features of an object that match in both views."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from counterview.lmeec.sam2_parts import ImageFeatures
from counterview.tiny.appearance import FineMaps, likeness, mean_under


def match_loss(
    query: FineMaps, query_masks: Tensor, target: FineMaps, target_masks: Tensor, temperature: float = 0.1
) -> Tensor:
    """How badly the object's appearance in the query finds it in the target.

    The mean feature under the query mask is compared with every cell of the target (likeness, then softmax over the
    cells); the cross-entropy is taken to how the target mask is spread over the cells, less that of a perfect match.

    Args:
        query: unit features and objectness of N tracks.
        query_masks: ``(N, S, S)`` of 0 and 1.
        target: likewise.
        target_masks: likewise.
        temperature: likeness is divided by it.

    Returns:
        ``(N,)``; 0 where either mask is empty.
    """
    coverage = functional.adaptive_avg_pool2d(target_masks[:, None].float(), target.side).flatten(1)
    present = query_masks.flatten(1).any(dim=1) & (coverage.sum(dim=1) > 0)
    truth = coverage / coverage.sum(dim=1, keepdim=True).clamp(min=1e-6)
    predicted = (likeness(query, query_masks, target).flatten(1) / temperature).log_softmax(dim=1)
    return (truth * (truth.clamp(min=1e-6).log() - predicted)).sum(dim=1) * present


def distinction_loss(
    query: FineMaps, query_masks: Tensor, target: FineMaps, target_masks: Tensor, temperature: float = 0.1
) -> Tensor:
    """How badly each object of the query is most like itself among all objects of the batch's targets.

    :func:`match_loss` alone is first lowered by making all objects alike and unlike the rest. Arguments as there.

    Returns:
        ``(N,)``; 0 where either mask is empty.
    """
    present = query_masks.flatten(1).any(dim=1) & target_masks.flatten(1).any(dim=1)
    cosines = mean_under(query, query_masks) @ mean_under(target, target_masks).T / temperature
    cosines = cosines.masked_fill(~present[None, :], -1e4)
    return torch.where(present, -cosines.log_softmax(dim=1).diagonal(), 0.0)


def matching_losses(query: FineMaps, query_masks: Tensor, target: FineMaps, target_masks: Tensor) -> Tensor:
    """Both losses, from query to target and back: the mean over the two ways, ``(N,)``. Arguments as above."""
    forth = (query, query_masks, target, target_masks)
    back = (target, target_masks, query, query_masks)
    return sum((f(*way) for f in (match_loss, distinction_loss) for way in (forth, back)), torch.zeros(())) / 2


def matched_features(features: ImageFeatures) -> FineMaps:
    """The features that are to match: those of the appearance prompt if there is one, or else the top map."""
    if features.extra is not None:
        return features.extra
    top = functional.normalize(features.top.float(), dim=1)
    return FineMaps.of(torch.cat([top, torch.zeros_like(top[:, :1])], dim=1))
