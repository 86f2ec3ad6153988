import numpy as np
import pytest

from benchmarks import coverage
from common.scoring import metrics


@pytest.fixture(scope="module")
def population() -> coverage.Population:
    return coverage.Population(coverage.Setting(0.9), 80, 8, 1)


def test_the_truth_is_that_of_all_patients(population):
    rows = population.slices
    truth = dict(zip(coverage.COLUMNS, population.truth(40, 80), strict=True))
    y, p = rows.labels, rows.first
    assert truth["auc"] == pytest.approx(metrics.auc(y[:, 2], p[:, 2]), abs=1e-12)
    loss = metrics.weighted_log_loss(y, p, coverage.WEIGHTS)
    assert truth["log loss"] == pytest.approx(loss, abs=1e-12)
    prevalence = np.broadcast_to(y.mean(axis=0), y.shape)
    scored = metrics.weighted_log_loss(y, prevalence, coverage.WEIGHTS)
    assert truth["to scored"] == pytest.approx(loss / scored, abs=1e-12)
    other = metrics.weighted_log_loss(y, rows.second, coverage.WEIGHTS)
    assert truth["members"] == pytest.approx(other - loss, abs=1e-12)
    assert len(population.studies.labels) == len(np.unique(population.study))


def test_a_cohort_has_its_positive_patients_and_a_missing_interval_is_none(population):
    found = coverage.measure(population, 1, 6, 3, 1)
    assert found["auc"]["coverage"] is None and not found["auc"]["shown"]
    found = coverage.measure(population, 3, 12, 3, 1)
    assert found["auc"]["made"] == 1 and found["auc"]["shown"]
    assert not found["log loss"]["shown"]


def test_what_is_shown_and_covers_too_seldom_is_a_failure():
    good = {"coverage": 0.93, "error": 0.01, "shown": True}
    result = {"positive": 5, "patients": 60} | dict.fromkeys(coverage.COLUMNS, good)
    assert coverage.failures({"weak": [result]}) == []
    hidden = result | {"auc": good | {"coverage": 0.1, "shown": False}}
    assert coverage.failures({"weak": [hidden]}) == []
    seldom = result | {"auc": good | {"coverage": 0.929}}
    assert coverage.failures({"weak": [seldom]}) == [
        "weak, 5 of 60: auc covers 0.929 (error 0.010)"
    ]
