import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from common.scoring.calibration import (
    ConsistentCalibration,
    IsotonicCalibration,
    calibrator_from_json,
    calibrator_to_json,
    fit_calibration,
)
from common.scoring.metrics import expected_calibration_error, log_loss
from common.scoring.predictions import Calibration


def drawn(num_rows: int = 4000, num_labels: int = 2, seed: int = 0):
    """Labels, and logits twice as far from 0 as they should be, and too high."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1.5, (num_rows, num_labels))
    labels = (rng.random(truth.shape) < expit(truth)).astype(float)
    return labels, 2 * truth + 1


def test_temperature_is_logistic_regression_without_a_penalty():
    labels, logits = drawn()
    labels[::7, 1] = np.nan
    found = fit_calibration("temperature", labels, logits)
    for column in range(2):
        known = ~np.isnan(labels[:, column])
        reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
            logits[known, column : column + 1], labels[known, column]
        )
        assert 1 / found.temperature[column] == pytest.approx(reference.coef_[0, 0], rel=1e-4)
        assert found.bias[column] == pytest.approx(reference.intercept_[0], rel=1e-3)
    assert found.temperature[0] == pytest.approx(2, rel=0.1)


def test_isotonic_is_that_of_sklearn_but_for_the_ends():
    labels, logits = drawn(num_labels=1)
    found = expit(fit_calibration("isotonic", labels, logits).apply(logits))[:, 0]
    reference = IsotonicRegression().fit(logits[:, 0], labels[:, 0]).predict(logits[:, 0])
    inside = (reference > 0.02) & (reference < 0.98)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], reference[inside], atol=1e-9)
    assert reference.min() == 0 and found.min() > 0 and found.max() < 1


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_other_rows_gain_and_what_is_kept_does_the_same(kind):
    labels, logits = drawn()
    others, other_logits = drawn(seed=1)
    found = fit_calibration(kind, labels, logits)
    after = expit(found.apply(other_logits))
    for column in range(2):
        y, before = others[:, column], expit(other_logits[:, column])
        assert log_loss(y, after[:, column]) < 0.9 * log_loss(y, before)
        assert expected_calibration_error(y, after[:, column]) < 0.03
    again = calibrator_from_json(json.loads(json.dumps(calibrator_to_json(found))))
    np.testing.assert_array_equal(again.apply(other_logits), found.apply(other_logits))


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_label_of_one_class_stays_as_it_is(kind, value):
    _, logits = drawn(50)
    found = fit_calibration(kind, np.full((50, 2), value), logits)
    np.testing.assert_allclose(found.apply(logits), logits, atol=0.01)


@given(st.integers(0, 10_000))
def test_isotonic_never_falls_and_is_inverted_where_it_rises(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (40, 1)).round(1)
    labels = (rng.random((40, 1)) < 0.4).astype(float)
    found = fit_calibration("isotonic", labels, logits)
    line = np.linspace(-9, 9, 200)[:, None]
    calibrated = found.apply(line)
    assert (np.diff(calibrated[:, 0]) >= -1e-12).all() and np.isfinite(calibrated).all()
    np.testing.assert_allclose(found.apply(found.invert(calibrated)), calibrated, atol=1e-6)


def test_the_union_is_never_below_the_others():
    inner = Calibration((2.0, 1.0, 1.0), (0.0, 0.0, -1.0))
    logits = np.array([[4.0, 1.0, 2.0], [-4.0, -1.0, 2.0]])
    found = ConsistentCalibration(inner).apply(logits)
    np.testing.assert_array_equal(found, [[2.0, 1.0, 2.0], [-2.0, -1.0, 1.0]])
    kept = ConsistentCalibration(IsotonicCalibration(((-1.0, 1.0),), ((-1.0, 1.0),)))
    again = calibrator_from_json(json.loads(json.dumps(calibrator_to_json(kept))))
    assert again == kept
    assert calibrator_to_json(None) is None and calibrator_from_json(None) is None


def test_an_isotonic_line_interpolates_logits():
    line = IsotonicCalibration(((0.0, 2.0),), ((float(logit(0.2)), float(logit(0.6))),))
    middle = float(expit((logit(0.2) + logit(0.6)) / 2))
    np.testing.assert_allclose(expit(line.apply([[-5.0], [1.0], [9.0]]))[:, 0], [0.2, middle, 0.6])
