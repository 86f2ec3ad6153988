import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score
from sklearn.metrics import log_loss as reference_log_loss

from common.callbacks import MultiLabelMetrics
from common.scoring.directions import reported_names

NAMES = ("epidural", "any")


def metrics_of(labels, probabilities, threshold=0.5, names=NAMES, known=None):
    metrics = dict(known or {})
    outputs = {"labels": np.asarray(labels, np.float32), "logits": logit(np.asarray(probabilities))}
    MultiLabelMetrics(names, threshold).on_outputs(None, outputs, metrics)
    return metrics


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_equal_to_scikit_learn(threshold):
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 2)) < 0.3).astype(float)
    p = np.clip(0.3 * labels + 0.7 * rng.random((200, 2)), 0.01, 0.99)
    metrics = metrics_of(labels, p, threshold)
    for column, name in enumerate(NAMES):
        y, called = labels[:, column], p[:, column] >= threshold
        assert metrics[f"precision.{name}"] == pytest.approx(precision_score(y, called), abs=1e-12)
        assert metrics[f"recall.{name}"] == pytest.approx(recall_score(y, called), abs=1e-12)
        assert metrics[f"f1.{name}"] == pytest.approx(f1_score(y, called), abs=1e-12)
        assert metrics[f"auc.{name}"] == pytest.approx(roc_auc_score(y, p[:, column]), abs=1e-12)
        expected = reference_log_loss(y, p[:, column])
        assert metrics[f"log_loss.{name}"] == pytest.approx(expected, abs=1e-12)
    assert metrics["f1.mean"] == pytest.approx(f1_score(labels, p >= threshold, average="macro"))
    assert metrics["auc.mean"] == pytest.approx(roc_auc_score(labels, p))
    assert set(metrics) == set(reported_names(NAMES))


def test_undefined_is_none_and_a_mean_is_of_what_is_defined():
    nan = np.nan
    labels = [[0, 1, nan], [0, 0, nan], [nan, 1, nan]]
    probabilities = [[0.2, 0.9, 0.5], [0.1, 0.6, 0.5], [0.9, 0.8, 0.5]]
    metrics = metrics_of(labels, probabilities, names=("a", "b", "c"))
    for name in ("precision.a", "recall.a", "f1.a", "auc.a", "log_loss.c", "f1.c"):
        assert metrics[name] is None, name
    assert metrics["log_loss.a"] == pytest.approx(-np.log([0.8, 0.9]).mean())
    assert metrics["recall.mean"] == metrics["recall.b"] == 1.0
    assert metrics["precision.b"] == pytest.approx(2 / 3)
    assert metrics_of([[nan, nan]], [[0.5, 0.5]])["auc.mean"] is None


def test_positives_that_nobody_calls_have_an_f1_of_0():
    metrics = metrics_of([[1, 1]], [[0.2, 0.9]])
    assert metrics["precision.epidural"] is None
    assert metrics["recall.epidural"] == metrics["f1.epidural"] == 0.0


def test_what_the_network_has_computed_stays():
    assert metrics_of([[1, 0]], [[0.5, 0.5]], known={"log_loss.any": 7.0})["log_loss.any"] == 7.0


def test_a_nan_logit_is_an_error():
    p = np.full((6, 2), 0.4)
    p[2:4, 1] = np.nan
    with pytest.raises(ValueError, match="2 of 6 rows have a probability that is NaN"):
        metrics_of(np.eye(6, 2), p)
