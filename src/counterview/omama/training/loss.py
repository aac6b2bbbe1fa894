"""InfoNCE over the candidates of a target image, or of the whole batch (paper: Mask Matching Contrastive Loss)."""

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
    overlap of the choice replaces the probability of the one right candidate, so that a proposal that covers most
    of the object is nearly right, and one that covers half of it is half right. Where only the positive overlaps,
    this is InfoNCE itself. The graded loss is ours, not the paper's.

    Args:
        similarity: ``(B, N)`` cosines, any N.
        positive: ``(B,)`` int64 index of the right candidate; anything in ``[0, N)`` where not visible.
        visible: ``(B,)`` bool, or weights; all visible if not given.
        candidate_mask: ``(B, N)`` bool, false for candidates that do not count: padding, or masks that show
            the object too.
        overlap: ``(B, N)`` IoU of each candidate with the truth, for graded credit; the positive alone if not given.
        temperature: divides the cosines.

    Returns:
        ``(B,)``. Its mean is the released code's loss, in which examples without the object count as 0.

    Raises:
        InputError: shapes that do not fit, a visible object without candidates, or a positive that does not count.

    >>> similarity = torch.tensor([[0.9, 0.1], [0.4, 0.4]])
    >>> [round(loss, 4) for loss in info_nce(similarity, torch.tensor([0, 0]), temperature=0.1).tolist()]
    [0.0003, 0.6931]
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
    # Minus infinity leaves a candidate out. NaN and infinity are a network that has diverged: the loss is NaN then.
    counts = ~torch.isneginf(similarity) if candidate_mask is None else candidate_mask & ~torch.isneginf(similarity)
    positive_counts = counts.gather(1, positive[:, None])[:, 0]
    if bool(((weight != 0) & ~positive_counts).any()):
        raise InputError("the positive of a visible object is masked out")
    # Examples that do not count get one harmless finite row: 0 * inf would be NaN in the gradient.
    is_unused = (weight == 0)[:, None]
    logits = (similarity / temperature).masked_fill(~counts, -torch.inf).masked_fill(is_unused, 0.0)
    if overlap is None:
        return functional.cross_entropy(logits, positive, reduction="none") * weight
    credit = overlap.to(logits.dtype).clamp(min=0).masked_fill(~counts, 0.0)
    credit = credit / credit.amax(1, keepdim=True).clamp(min=1e-6)
    credit = torch.where(is_unused, 1.0, credit)
    # A tiny number instead of 0: a row that is minus infinity throughout has no gradient.
    credited = torch.logsumexp(logits + credit.clamp(min=1e-30).log(), dim=1)
    return (torch.logsumexp(logits, dim=1) - credited) * weight


def with_batch_negatives(
    queries: Tensor,
    candidates: Tensor,
    candidate_mask: Tensor,
    groups: Tensor,
) -> tuple[Tensor, Tensor]:
    """Similarities of each query with the candidates of its example, then with those of all other examples.

    Candidates of another example of the same group (the same take, in which the object may be visible again) do not
    count.

    Args:
        queries: ``(B, E)``.
        candidates: ``(B, N, E)``.
        candidate_mask: ``(B, N)`` bool, false for what does not count in its example.
        groups: ``(B,)`` int64.

    Returns:
        ``(B, B * N)`` similarities, those of the query's example first, and ``(B, B * N)`` bool, which of them count.
        The index of the positive stays valid.
    """
    batch, count, _ = candidates.shape
    similarity = (queries @ candidates.flatten(0, 1).T).view(batch, batch, count)
    # A padded candidate of another example must not count here either; one that shows its object may.
    is_same_example = torch.eye(batch, dtype=torch.bool, device=queries.device)[:, :, None]
    is_other_take = (groups[:, None] != groups[None, :])[:, :, None]
    counts = (is_same_example | is_other_take) & candidate_mask[None]
    # Row b begins with example b: b, b + 1, ..., and around the end of the batch.
    rows = torch.arange(batch, device=queries.device)
    order = ((rows[:, None] + rows) % batch)[:, :, None].expand(-1, -1, count)
    return similarity.gather(1, order).flatten(1), counts.gather(1, order).flatten(1)


def visibility_loss(logit: Tensor, visible: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of visibility.

    Args:
        logit: ``(B,)``; those that are not finite (an image without candidates) give 0.
        visible: ``(B,)`` bool, the truth.
        weight: ``(B,)``; all 1 if not given.

    Returns:
        ``(B,)``.
    """
    is_finite = torch.isfinite(logit)
    loss = functional.binary_cross_entropy_with_logits(
        torch.where(is_finite, logit, 0.0), visible.to(logit.dtype), reduction="none"
    )
    return loss * is_finite * (1.0 if weight is None else weight)
