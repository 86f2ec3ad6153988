import numpy as np
import pytest

from benchmarks import study_coverage
from common.scoring import metrics


@pytest.fixture(scope="module")
def population() -> study_coverage.Population:
    return study_coverage.Population((2.0, 1.0), 400, 1)


def test_the_whole_has_the_share_of_a_cohort(population):
    rows = population.whole(5, 60)
    positive = [rows.labels[rows.patients == k].any() for k in np.unique(rows.patients)]
    assert np.mean(positive) == pytest.approx(5 / 60, abs=1e-12)
    truth = study_coverage.of_scores(rows)
    expected = metrics.auc(rows.labels, rows.first)
    assert truth["auc"].value == pytest.approx(expected, abs=1e-12)


def test_the_sensitivity_is_known_and_a_group_has_less(population):
    rows = population.whole(1, 2)
    for threshold, share in zip(population.thresholds(), study_coverage.SENSITIVITIES, strict=True):
        found = study_coverage.of_rates(rows, threshold, 0.1)
        assert found["sensitivity"].value == pytest.approx(share, abs=0.01)
    assert found["gap"].value < 0


def test_a_cohort_has_its_positive_patients(population):
    rows = population.draw(np.random.default_rng(0), 3, 12)
    positive = [rows.labels[rows.patients == k].any() for k in range(12)]
    assert positive == [True] * 3 + [False] * 9


def test_hidden_intervals_are_no_failures(population):
    result = study_coverage.measure(population, 1, 6, 4, 1)
    assert not result["sensitivity"]["shown"] and result["auc"]["coverage"] is None
    shown = study_coverage.measure(population, 10, 30, 4, 1)["sensitivity"]
    assert shown["shown"] and shown["made"] == 1
    bad = {"coverage": 0.5, "error": 0.1, "made": 1.0, "width": 0.2, "shown": True}
    results = {"weak": [{"positive": 1, "patients": 6, "brier": bad | {"shown": False}}]}
    assert study_coverage.failures(results) == []
    results["weak"][0]["brier"] = bad
    assert study_coverage.failures(results) == ["weak, 1 of 6: brier covers 0.500 (error 0.100)"]
    assert "0.500 (1.00)" in study_coverage.table_lines("weak", results["weak"])[2]


def test_a_triage_keeps_its_promise_within_the_monte_carlo_error(population):
    for row in study_coverage.triage(population, 60, 0):
        for key in ("missed", "false_alarms"):
            assert row[key] <= row["promised"] + 4 * row[f"{key}_error"]
            assert 0 < row[f"{key}_error"] < 0.02
