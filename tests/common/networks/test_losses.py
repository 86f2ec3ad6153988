import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from common.networks.losses import weighted_bce_sum, weighted_focal_sum
from common.scoring.metrics import weighted_log_loss
from rsna_task import LABEL_WEIGHTS


def _reference(logits, labels, weights):
    """Straight from the formula, one term at a time."""
    total = terms = 0.0
    share = np.asarray(weights) / np.sum(weights)
    for row_logits, row_labels in zip(logits, labels):
        for x, y, w in zip(row_logits, row_labels, share):
            if not np.isnan(y):
                # log p and log (1 - p), which by way of p would lose digits where p is near 1.
                log_p, log_other = -np.logaddexp(0, -x), -np.logaddexp(0, x)
                total -= w * (y * log_p + (1 - y) * log_other)
                terms += w
    return total, terms


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_sum_and_terms_equal_the_formula_with_unknown_labels(seed, num_rows):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (num_rows, 6))
    labels = rng.integers(0, 2, (num_rows, 6)).astype(float)
    labels[rng.random((num_rows, 6)) < 0.2] = np.nan
    weights = torch.tensor(LABEL_WEIGHTS, dtype=torch.float64)
    loss_sum, num_terms = weighted_bce_sum(torch.tensor(logits), torch.tensor(labels), weights)
    expected = _reference(logits, labels, LABEL_WEIGHTS)
    np.testing.assert_allclose((loss_sum.item(), num_terms.item()), expected, rtol=1e-12)


def test_training_loss_is_the_metric():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (40, 6)), rng.integers(0, 2, (40, 6)).astype(float)
    loss_sum, num_terms = weighted_bce_sum(
        torch.tensor(logits), torch.tensor(labels), torch.tensor(LABEL_WEIGHTS)
    )
    metric = weighted_log_loss(labels, 1 / (1 + np.exp(-logits)), LABEL_WEIGHTS)
    assert abs(float(loss_sum / num_terms) - metric) < 1e-12


def test_gradient_of_unknown_labels_is_zero_not_nan():
    logits = torch.zeros(2, 6, requires_grad=True)
    labels = torch.full((2, 6), float("nan"))
    labels[0, 0] = 1
    weighted_bce_sum(logits, labels, torch.tensor(LABEL_WEIGHTS))[0].backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad != 0).sum() == 1


def _batch(seed=0, num_rows=40):
    rng = np.random.default_rng(seed)
    labels = torch.tensor(rng.integers(0, 2, (num_rows, 6)).astype(float))
    return torch.tensor(rng.normal(0, 3, (num_rows, 6))), labels, torch.tensor(LABEL_WEIGHTS)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_that_of_torchvision(gamma):
    logits, labels, weights = _batch()
    weights = weights.double()
    loss_sum, num_terms = weighted_focal_sum(logits, labels, weights, gamma)
    reference = sigmoid_focal_loss(logits, labels, alpha=-1, gamma=gamma)
    expected = (reference * weights).sum() / weights.sum()
    torch.testing.assert_close(loss_sum, expected, rtol=1e-6, atol=0)
    assert float(num_terms) == pytest.approx(40)
    labels[3:9, 2] = torch.nan
    masked = (reference * weights)[~labels.isnan()].sum() / weights.sum()
    loss_sum, num_terms = weighted_focal_sum(logits, labels, weights, gamma)
    torch.testing.assert_close(loss_sum, masked, rtol=1e-6, atol=0)
    assert float(num_terms) == pytest.approx(40 - 6 / 7)


def test_focal_loss_without_gamma_is_cross_entropy_also_of_soft_labels():
    logits, labels, weights = _batch()
    smoothed = labels * 0.9 + 0.05
    focal = weighted_focal_sum(logits, smoothed, weights, 0.0)
    torch.testing.assert_close(focal, weighted_bce_sum(logits, smoothed, weights))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_focal_loss_and_its_gradient_are_finite_everywhere(gamma, dtype):
    values = [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4]
    logits = torch.tensor([values, values], dtype=dtype, requires_grad=True)
    labels = torch.tensor([[0.0] * 7, [1.0] * 6 + [float("nan")]])
    loss_sum, _ = weighted_focal_sum(logits, labels, torch.ones(7), gamma)
    loss_sum.backward()
    assert torch.isfinite(loss_sum)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1, 6] == 0
