import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.losses import weighted_bce_sum
from common.metrics import weighted_log_loss
from rsna_task import LABEL_WEIGHTS


def _reference(logits, labels, weights):
    """Straight from the formula, one term at a time."""
    total = terms = 0.0
    share = np.asarray(weights) / np.sum(weights)
    for row_logits, row_labels in zip(logits, labels):
        for x, y, w in zip(row_logits, row_labels, share):
            if not np.isnan(y):
                p = 1 / (1 + np.exp(-x))
                total -= w * (y * np.log(p) + (1 - y) * np.log1p(-p))
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
