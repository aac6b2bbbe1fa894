"""Oracle: cross-entropy written out in NumPy, and torch's own on what is left after masking."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from counterview.errors import InputError
from counterview.omama import info_nce
from counterview.omama.training.loss import visibility_loss, with_batch_negatives


def random_case(batch=5, number=9):
    g = torch.Generator().manual_seed(0)
    similarity = torch.rand(batch, number, generator=g, dtype=torch.float64) * 2 - 1
    positive = torch.randint(number, (batch,), generator=g)
    mask = torch.rand(batch, number, generator=g) < 0.6
    mask[torch.arange(batch), positive] = True
    return similarity, positive, mask


def test_equals_the_formula():
    similarity, positive, mask = random_case()
    visible = torch.tensor([True, False, True, True, False])
    ours = info_nce(similarity, positive, visible=visible, candidate_mask=mask)
    for b in range(5):
        kept = similarity[b][mask[b]].numpy() / 0.07
        expected = logsumexp(kept) - similarity[b, positive[b]].item() / 0.07 if visible[b] else 0.0
        assert abs(ours[b].item() - expected) < 1e-12
    full = info_nce(similarity, positive, temperature=0.2)
    assert torch.allclose(full, torch.nn.functional.cross_entropy(similarity / 0.2, positive, reduction="none"))


def test_padding_and_absence_leave_finite_gradients():
    similarity, positive, mask = random_case()
    similarity = similarity.masked_fill(~mask, -torch.inf).requires_grad_()
    visible = torch.tensor([True, False, True, False, True])
    wiped = torch.where(torch.tensor([[False], [False], [False], [True], [False]]), -torch.inf, similarity)
    loss = info_nce(wiped, positive, visible=visible).mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(similarity.grad).all()
    assert not similarity.grad[~visible].any()


def test_batch_negatives_equal_a_loop():
    g = torch.Generator().manual_seed(2)
    queries = torch.nn.functional.normalize(torch.randn(4, 6, generator=g, dtype=torch.float64), dim=-1)
    candidates = torch.nn.functional.normalize(torch.randn(4, 3, 6, generator=g, dtype=torch.float64), dim=-1)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]], dtype=torch.bool)
    groups = torch.tensor([0, 1, 0, 2])
    similarity, counts = with_batch_negatives(queries, candidates, mask, groups)
    positive = torch.tensor([2, 0, 2, 1])
    ours = info_nce(similarity, positive, candidate_mask=counts)
    for b in range(4):
        kept = [
            (queries[b] @ candidates[o, n]).item() / 0.07
            for o in range(4)
            for n in range(3)
            if mask[o, n] and (o == b or groups[o] != groups[b])
        ]
        expected = logsumexp(kept) - (queries[b] @ candidates[b, positive[b]]).item() / 0.07
        assert abs(ours[b].item() - expected) < 1e-12


def test_wrong_examples_are_refused():
    similarity, positive, mask = random_case()
    mask[0, positive[0]] = False
    with pytest.raises(InputError, match="masked out"):
        info_nce(similarity, positive, candidate_mask=mask)
    with pytest.raises(InputError, match="do not fit"):
        info_nce(similarity, positive[:2])
    with pytest.raises(InputError, match="no candidate"):
        info_nce(similarity[:, :0], positive)
    assert info_nce(similarity[:, :0], positive, visible=torch.zeros(5)).tolist() == [0.0] * 5


def test_visibility_loss_equals_the_formula():
    logit = torch.tensor([0.3, -2.0, -torch.inf], dtype=torch.float64, requires_grad=True)
    loss = visibility_loss(logit, torch.tensor([True, False, False]))
    expected = [np.log1p(np.exp(-0.3)), np.log1p(np.exp(-2.0)), 0.0]
    assert np.allclose(loss.detach().numpy(), expected)
    loss.sum().backward()
    assert torch.isfinite(logit.grad).all()


def test_weights_multiply_each_example():
    similarity, positive, mask = random_case()
    weight = torch.tensor([0.5, 0.0, 2.0, 1.0, 0.25], dtype=torch.float64)
    overlap = torch.rand(5, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for values in ({}, {"overlap": overlap}):
        plain = info_nce(similarity, positive, candidate_mask=mask, **values)
        assert (plain > 0.01).all()
        weighted = info_nce(similarity, positive, visible=weight, candidate_mask=mask, **values)
        assert torch.allclose(weighted, plain * weight)
    logit, visible = torch.tensor([0.3, -2.0, 1.0, 4.0, -0.5]), torch.tensor([True, False, False, True, True])
    weighted = visibility_loss(logit, visible, weight.float())
    assert torch.allclose(weighted, visibility_loss(logit, visible) * weight.float())


def test_graded_credit_is_the_expected_overlap():
    similarity, positive, mask = random_case()
    g = torch.Generator().manual_seed(5)
    overlap = torch.rand(5, 9, generator=g, dtype=torch.float64) * (torch.rand(5, 9, generator=g) < 0.5)
    overlap[torch.arange(5), positive] = 0.9
    visible = torch.tensor([True, True, False, True, True])
    ours = info_nce(similarity, positive, visible=visible, candidate_mask=mask, overlap=overlap)
    for b in range(5):
        p = np.exp(similarity[b].numpy() / 0.07) * mask[b].numpy()
        credit = (overlap[b] * mask[b]).numpy()
        expected = -np.log((p / p.sum() * credit).sum() / credit.max()) if visible[b] else 0.0
        assert abs(ours[b].item() - expected) < 1e-10
    alone = torch.zeros(5, 9, dtype=torch.float64).scatter(1, positive[:, None], 0.7)
    plain = info_nce(similarity, positive, candidate_mask=mask)
    assert torch.allclose(info_nce(similarity, positive, candidate_mask=mask, overlap=alone), plain, atol=1e-10)
    similarity = similarity.masked_fill(~mask, -torch.inf).requires_grad_()
    info_nce(similarity, positive, visible=visible, overlap=overlap).sum().backward()
    assert torch.isfinite(similarity.grad).all()


def test_a_network_that_diverged_is_no_wrong_input():
    """NaN and infinity make a loss that the engine stops at; minus infinity leaves a candidate out."""
    for value in (float("nan"), float("inf")):
        for place in ((0, 0), (0, 1)):
            similarity = torch.tensor([[0.5, 0.1], [0.2, 0.3]])
            similarity[place] = value
            losses = info_nce(similarity, torch.tensor([0, 1]), temperature=0.1)
            assert not torch.isfinite(losses[0])
            assert torch.isfinite(losses[1])
    with pytest.raises(InputError, match="masked out"):
        info_nce(torch.tensor([[-torch.inf, 0.1]]), torch.tensor([0]), temperature=0.1)
