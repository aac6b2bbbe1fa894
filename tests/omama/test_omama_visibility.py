"""Oracles: known probabilities that a calibration must find again; scikit-learn's isotonic regression."""

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import balanced_accuracy_score

from counterview.errors import InputError
from counterview.nn.calibration import Calibration, class_weights
from counterview.omama.visibility import VisibilityHead, similarity_statistics


def data(scale=0.3, shift=2.0, size=20000):
    """Logits that are over-confident by ``scale`` and shifted: truth follows sigmoid(scale * logit + shift)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 6, size)
    return logits, rng.random(size) < 1 / (1 + np.exp(-(scale * logits + shift)))


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_a_half_means_a_half(kind):
    logits, visible = data()
    calibration = Calibration()
    assert torch.equal(calibration(torch.tensor([1.5, -3.0])), torch.tensor([1.5, -3.0]))
    calibration.fit(logits, visible, kind=kind)
    if kind == "temperature":
        assert abs(calibration.scale.item() - 0.3) < 0.02
        assert abs(calibration.offset.item() - 2.0) < 0.08
    probability = torch.sigmoid(calibration(torch.from_numpy(logits))).numpy()
    for low in np.arange(0.1, 0.9, 0.1):
        in_bin = (probability >= low) & (probability < low + 0.1)
        assert abs(visible[in_bin].mean() - probability[in_bin].mean()) < 0.04
    order = np.argsort(logits)
    assert (np.diff(probability[order]) >= -1e-6).all()


def test_isotonic_equals_scikit_learns_at_its_knots():
    logits, visible = data(size=3000)
    calibration = Calibration()
    calibration.fit(logits, visible, kind="isotonic")
    curve = IsotonicRegression(y_min=1 / 3002, y_max=1 - 1 / 3002, out_of_bounds="clip").fit(logits, visible)
    knots = calibration.knots.double()
    assert np.allclose(torch.sigmoid(calibration(knots)).numpy(), curve.predict(knots.numpy()), atol=1e-4)


def test_equal_logits_are_averaged_as_scikit_learn_does():
    rng = np.random.default_rng(5)
    logits, visible = np.round(rng.normal(0, 2, 400), 1), rng.random(400) < 0.7
    weights = class_weights(visible, "balanced")
    calibration = Calibration()
    calibration.fit(logits, visible, kind="isotonic", prior="balanced")
    curve = IsotonicRegression(y_min=1 / 402, y_max=1 - 1 / 402, out_of_bounds="clip")
    curve.fit(logits, visible, sample_weight=weights)
    knots = calibration.knots.double()
    assert np.allclose(torch.sigmoid(calibration(knots)).numpy(), curve.predict(knots.numpy()), atol=1e-6)


def test_balanced_prior_decides_better_under_imbalance():
    rng = np.random.default_rng(1)
    visible = rng.random(5000) < 0.9
    logits = rng.normal(np.where(visible, 1.0, -1.0), 1.2)
    scores = {}
    for prior in ("data", "balanced"):
        calibration = Calibration()
        calibration.fit(logits, visible, prior=prior)
        decided = torch.sigmoid(calibration(torch.from_numpy(logits))).numpy() > 0.5
        scores[prior] = balanced_accuracy_score(visible, decided)
    assert scores["balanced"] > scores["data"] + 0.05


def test_separable_and_degenerate_data():
    calibration = Calibration()
    calibration.fit(np.array([-1.0, -0.9, 0.9, 1.0, -np.inf]), np.array([0, 0, 1, 1, 0], bool))
    assert np.isfinite(calibration.scale.item())
    assert calibration(torch.tensor([-torch.inf])).item() == -torch.inf
    probability = torch.sigmoid(calibration(torch.tensor([-1.0, 1.0])))
    assert probability[0] < 0.5 < probability[1]
    calibration.fit(np.array([0.5, 0.5, 0.5]), np.array([1, 0, 1], bool), kind="isotonic")
    assert torch.isfinite(calibration(torch.tensor([0.5, 9.0]))).all()
    with pytest.raises(InputError, match="3 visible and 0 absent"):
        calibration.fit(np.zeros(3), np.ones(3, bool))
    with pytest.raises(InputError, match="differ"):
        calibration.fit(np.zeros(3), np.ones(2, bool))


def test_calibration_is_saved_with_the_weights():
    head = VisibilityHead(12)
    head.calibration.fit(*data(size=500), kind="isotonic")
    other = VisibilityHead(12)
    other.load_state_dict(head.state_dict())
    logits = torch.linspace(-9, 9, 50)
    assert torch.equal(other.probability(logits), head.probability(logits))


def test_statistics():
    similarity = torch.tensor([[[0.9, 0.1, -0.2, 0.5, 0.4, 0.3], [-torch.inf] * 6]], dtype=torch.float64)
    row, nothing = similarity_statistics(similarity)[0]
    values = similarity[0, 0].numpy()
    probability = np.exp(0.9 / 0.07) / np.exp(values / 0.07).sum()
    assert np.allclose(row.numpy(), [0.9, 0.4, 0.8, values.mean(), values.std(), probability], atol=1e-6)
    assert not nothing.any()
    few = similarity_statistics(torch.tensor([[[0.4]]]))[0, 0]
    assert torch.isfinite(few).all()


def test_the_logit_is_that_of_the_statistics_and_of_the_agreement_with_the_best_candidate():
    torch.manual_seed(0)
    head = VisibilityHead(12).double()
    queries = torch.nn.functional.normalize(torch.randn(2, 3, 12, dtype=torch.float64), dim=-1)
    candidates = torch.nn.functional.normalize(torch.randn(2, 8, 12, dtype=torch.float64), dim=-1)
    similarity = queries @ candidates.transpose(1, 2)
    output = head(queries, candidates, similarity)
    for b in range(2):
        for q in range(3):
            best = candidates[b, similarity[b, q].argmax()]
            agreement = torch.cat([queries[b, q] * best * 12**0.5, (queries[b, q] - best).abs() * 12**0.25])
            absent, present = head.mlp(agreement)
            expected = present - absent + head.statistics(similarity_statistics(similarity)[b, q])[0]
            assert torch.allclose(output[b, q], expected, atol=1e-12)


def test_padding_leaves_the_logit_alone():
    torch.manual_seed(0)
    head = VisibilityHead(12).double()
    queries = torch.nn.functional.normalize(torch.randn(2, 3, 12, dtype=torch.float64), dim=-1)
    candidates = torch.nn.functional.normalize(torch.randn(2, 8, 12, dtype=torch.float64), dim=-1)
    similarity = queries @ candidates.transpose(1, 2)
    plain = head(queries, candidates, similarity)
    padded = head(
        queries,
        torch.cat([torch.randn(2, 4, 12, dtype=torch.float64), candidates], 1),
        torch.nn.functional.pad(similarity, (4, 0), value=-torch.inf),
    )
    assert torch.allclose(plain, padded, atol=1e-12)


def test_a_head_without_agreement_reads_similarities_alone():
    torch.manual_seed(0)
    head = VisibilityHead(12, agreement=False)
    assert not any(name.startswith("mlp") for name in head.state_dict())
    similarity = torch.rand(2, 3, 8)
    first, second = (head(torch.randn(2, 3, 12), torch.randn(2, 8, 12), similarity) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, head(torch.randn(2, 3, 12), torch.randn(2, 8, 12), similarity * 0.5))
    assert (head(torch.randn(2, 3, 12), torch.randn(2, 0, 12), similarity[..., :0]) == -torch.inf).all()
