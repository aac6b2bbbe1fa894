"""Mask Matching Contrastive Loss: InfoNCE over a target image's candidates, or over all of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from counterview.errors import InputError

TEMPERATURE = 0.07


def info_nce(
    similarity: Tensor,
    positive: Tensor,
    *,
    visible: Tensor | None = None,
    candidate_mask: Tensor | None = None,
    overlap: Tensor | None = None,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Cross-entropy of each example at its positive; an example whose object is not visible gives 0.

    With ``overlap`` the loss is ``-log(sum(p * overlap) / max(overlap))`` for the softmax ``p``: the expected
    overlap of the choice takes the place of the probability of the one right candidate, so that a proposal that
    covers most of the object is nearly right, and half of it is half right. Where only the positive overlaps, this
    is InfoNCE itself.

    Args:
        similarity: ``(B, N)`` cosines, any N.
        positive: ``(B,)`` int64 place of the right candidate; anything in ``[0, N)`` where not visible.
        visible: ``(B,)`` bool, or weights; all visible if not given.
        candidate_mask: ``(B, N)`` bool, false for candidates that do not count: padding, or masks that show
            the object too.
        overlap: ``(B, N)`` IoU of each candidate with the truth, for graded credit; the positive alone if not given.
        temperature: divides the cosines.

    Returns:
        ``(B,)``. Its mean is the released code's loss, in which examples without the object count as 0.

    Raises:
        InputError: shapes that do not fit, or a positive that does not count.
    """
    if similarity.ndim != 2 or positive.shape != similarity.shape[:1]:
        raise InputError(
            "similarities and positives do not fit", found=f"{tuple(similarity.shape)} and {tuple(positive.shape)}"
        )
    weight = similarity.new_ones(len(positive)) if visible is None else visible.to(similarity.dtype)
    if similarity.shape[1] == 0:
        if bool((weight != 0).any()):
            raise InputError("a visible object has no candidate")
        return similarity.sum(1)
    counts = torch.isfinite(similarity) if candidate_mask is None else candidate_mask & torch.isfinite(similarity)
    there = counts.gather(1, positive[:, None])[:, 0]
    if bool(((weight != 0) & ~there).any()):
        raise InputError("the positive of a visible object is masked out")
    # Examples that do not count get one harmless finite row: 0 * inf would be NaN in the gradient.
    idle = (weight == 0)[:, None]
    logits = (similarity / temperature).masked_fill(~counts, -torch.inf).masked_fill(idle, 0.0)
    if overlap is None:
        return functional.cross_entropy(logits, positive, reduction="none") * weight
    credit = overlap.to(logits.dtype).clamp(min=0).masked_fill(~counts, 0.0)
    credit = credit / credit.amax(1, keepdim=True).clamp(min=1e-6)
    credit = torch.where(idle, 1.0, credit)
    # The smallest number instead of 0: a row that is minus infinity throughout has no gradient.
    gained = torch.logsumexp(logits + credit.clamp(min=1e-30).log(), dim=1)
    return (torch.logsumexp(logits, dim=1) - gained) * weight


def with_batch_negatives(
    queries: Tensor,
    candidates: Tensor,
    candidate_mask: Tensor,
    groups: Tensor,
) -> tuple[Tensor, Tensor]:
    """Similarities of each query with its own candidates, then with those of all other examples.

    Candidates of another example of the same group (the same take, in which the object may be seen again) do not
    count.

    Args:
        queries: ``(B, E)``.
        candidates: ``(B, N, E)``.
        candidate_mask: ``(B, N)`` bool, false for what does not count for its own query.
        groups: ``(B,)`` int64.

    Returns:
        ``(B, B * N)`` similarities, the own ones first, and the mask of those that count. The place of the
        positive among the own ones stays as it was.
    """
    batch, number, _ = candidates.shape
    others = queries @ candidates.flatten(0, 1).T
    # A padded candidate of another example must not count here either; one that shows its object may.
    counts = (groups[:, None] != groups[None, :])[:, :, None] & candidate_mask[None]
    own = torch.eye(batch, dtype=torch.bool, device=queries.device)[:, :, None]
    counts = (counts & ~own) | (own & candidate_mask[None])
    similarity = others.view(batch, batch, number)
    turn = (torch.arange(batch, device=queries.device)[:, None] + torch.arange(batch, device=queries.device)) % batch
    similarity = similarity.gather(1, turn[:, :, None].expand(-1, -1, number))
    counts = counts.gather(1, turn[:, :, None].expand(-1, -1, number))
    return similarity.flatten(1), counts.flatten(1)


def visibility_loss(logit: Tensor, visible: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of visibility logits ``(B,)`` with truths ``(B,)``; 0 for logits that are not finite."""
    there = torch.isfinite(logit)
    loss = functional.binary_cross_entropy_with_logits(
        torch.where(there, logit, 0.0), visible.to(logit.dtype), reduction="none"
    )
    return loss * there * (1.0 if weight is None else weight)
