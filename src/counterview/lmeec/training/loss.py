"""The four losses of LM-EEC, which are those of SAM 2: focal, dice, IoU and object score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from counterview.lmeec.sam2_parts import Decoded


@dataclass(frozen=True)
class FrameLoss:
    """Losses of N tracks in one frame, each ``(N,)``; those of the mask are 0 where the object is absent."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    score: Tensor


def focal_loss(logits: Tensor, truth: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017), mean over the last two dimensions.

    Args:
        logits: ``(..., H, W)``.
        truth: ``(..., H, W)`` in 0..1.
        alpha: weight of what is inside the mask; what is outside has ``1 - alpha``.
        gamma: exponent that lessens what is right already.

    Returns:
        ``(...)``.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    wrong = probability + truth - 2 * probability * truth  # 1 - p of the true class
    weight = alpha * truth + (1 - alpha) * (1 - truth)
    return (weight * wrong**gamma * entropy).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """One minus the smoothed dice coefficient over the last two dimensions: ``(..., H, W)`` to ``(...)``."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * truth).sum(dim=(-2, -1))
    return 1 - (overlap + 1) / (probability.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + 1)


def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU of the predicted masks (logits above 0) over the last two dimensions: ``(..., H, W)`` to ``(...)``."""
    predicted, truth = logits > 0, truth > 0.5
    union = (predicted | truth).sum(dim=(-2, -1))
    return (predicted & truth).sum(dim=(-2, -1)) / union.clamp(min=1)


def shrink_truth(masks: Tensor, stride: int) -> Tensor:
    """Masks ``(N, S, S)`` as the fraction of each ``stride`` x ``stride`` square that they fill.

    ``(N, S / stride, S / stride)``; as they are for 1.
    """
    return masks if stride == 1 else functional.avg_pool2d(masks[:, None].float(), stride)[:, 0]


def frame_loss(decoded: Decoded, truth: Tensor, focal_weight: float = 20.0, dice_weight: float = 1.0) -> FrameLoss:
    """Losses of one frame.

    Masks are compared at the size of ``truth``. Where several masks were decoded, the one with the least focal and
    dice loss learns, but the predicted IoU of all of them does.

    Args:
        decoded: what the model gave for N tracks.
        truth: ``(N, S, S)`` of 0 and 1; all zero where the object is absent.
        focal_weight: weight of the focal loss in the choice of the mask.
        dice_weight: weight of the dice loss there.
    """
    logits = decoded.all_logits.float()  # SAM 2 trains on what it decoded, not on what the object score made of it
    full = functional.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    target = truth[:, None].to(full.dtype).expand_as(full)
    focal, dice = focal_loss(full, target), dice_loss(full, target)
    iou = (decoded.ious.float() - true_iou(full.detach(), target)).abs().mean(dim=1)
    best = (focal_weight * focal + dice_weight * dice).detach().argmin(dim=1, keepdim=True)
    present = truth.flatten(1).any(dim=1).to(full.dtype)
    score = functional.binary_cross_entropy_with_logits(decoded.score.float(), present, reduction="none")
    return FrameLoss(focal.gather(1, best)[:, 0] * present, dice.gather(1, best)[:, 0] * present, iou * present, score)


def mean_over_clips(values: Tensor, clip_of: Tensor, clips: int) -> Tensor:
    """Mean over clips of the mean over each clip's tracks and frames.

    Args:
        values: ``(T, N)``.
        clip_of: ``(N,)`` index of each track's clip.
        clips: number of clips.

    Returns:
        ``()``.
    """
    per_track = values.mean(dim=0)
    total = torch.zeros(clips, dtype=per_track.dtype, device=per_track.device).index_add(0, clip_of, per_track)
    count = torch.bincount(clip_of, minlength=clips).clamp(min=1)
    return (total / count).mean()
