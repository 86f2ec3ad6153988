import itertools

import numpy as np
import pytest
from scipy import stats

from common.statistics.permutation import holm, permutation_test
from tests.common.statistics.references import REFERENCE


def test_holm_is_that_of_statsmodels():
    expected = REFERENCE["holm"]
    assert holm(expected["p"]) == pytest.approx(expected["adjusted"], abs=1e-12)
    assert holm([]).shape == (0,) and holm([0.9, 0.8]).tolist() == [1, 1]


def rank_statistics(values, is_new):
    """Differences of mean ranks by their standard errors, column by column, by loops."""
    found = []
    for column in values.T:
        known = ~np.isnan(column)
        ranks = stats.rankdata(column[known])
        new, old = ranks[is_new[known]], ranks[~is_new[known]]
        error = ranks.std(ddof=1) * np.sqrt(1 / len(new) + 1 / len(old))
        found.append((new.mean() - old.mean()) / error)
    return np.array(found)


def test_p_values_are_those_of_all_permutations():
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(9, 3)), 1)
    values[6:, 1] += 2
    values[0, 2] = np.nan
    own = np.arange(9) >= 6
    observed = np.abs(rank_statistics(values, own))
    largest = []
    for chosen in itertools.combinations(range(9), 3):
        is_new = np.isin(np.arange(9), chosen)
        largest.append(np.abs(rank_statistics(values, is_new)).max())
    exact = (np.array(largest)[:, None] >= observed - 1e-9).mean(axis=0)
    found = permutation_test(values[:6], values[6:], num_permutations=20000, seed=1)
    assert np.abs(found.statistics) == pytest.approx(observed, abs=1e-9)
    assert found.p_values == pytest.approx(exact, abs=0.015)
    assert found.p_value == np.nanmin(found.p_values)


def test_the_statistic_of_a_column_is_that_of_a_rank_test():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(50, 1)), rng.normal(0.5, 1, size=(20, 1))
    found = permutation_test(a, b, num_permutations=999, seed=0)
    expected = stats.mannwhitneyu(b[:, 0], a[:, 0], use_continuity=False, method="asymptotic")
    assert 2 * stats.norm.sf(abs(found.statistics[0])) == pytest.approx(expected.pvalue, abs=1e-8)
    assert found.statistics[0] > 0


def test_the_false_alarm_rate_is_known():
    rng, alarms = np.random.default_rng(4), 0
    for seed in range(300):
        a, b = rng.standard_t(3, size=(30, 6)), rng.standard_t(3, size=(12, 6))
        alarms += permutation_test(a, b, num_permutations=99, seed=seed).p_value <= 0.1
    assert stats.binomtest(alarms, 300, 0.1).pvalue > 0.001


def test_rows_of_a_patient_change_places_together():
    rng = np.random.default_rng(5)
    shifts = rng.normal(size=(20, 2))
    rows = np.repeat(shifts, 30, axis=0) + 0.01 * rng.normal(size=(600, 2))
    patients, new = np.repeat(np.arange(20), 30), np.arange(600) >= 450
    alone = permutation_test(rows[~new], rows[new], num_permutations=199, seed=0)
    together = permutation_test(
        rows[~new],
        rows[new],
        reference_patients=patients[~new],
        new_patients=patients[new],
        num_permutations=199,
        seed=0,
    )
    means = np.array([rows[patients == k].mean(axis=0) for k in range(20)])
    expected = permutation_test(means[:15], means[15:], num_permutations=199, seed=0)
    assert together.statistics == pytest.approx(expected.statistics)
    assert together.p_value == expected.p_value > alone.p_value


def test_an_unknown_or_constant_column_is_no_finding():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(30, 3)), rng.normal(size=(10, 3))
    b[:, 1], a[:, 2], b[:, 2] = np.nan, 1.0, 1.0
    found = permutation_test(a, b, num_permutations=99, seed=0)
    assert np.isnan(found.p_values[1:]).all() and 0 < found.p_values[0] <= 1
    assert found.p_value == found.p_values[0]
    again = permutation_test(a, b, num_permutations=99, seed=0)
    np.testing.assert_array_equal(again.p_values, found.p_values)


def test_unknown_values_do_not_count_in_the_mean_of_a_patient():
    rows = np.array([[4.0], [np.nan], [1.0], [3.0], [np.nan]])
    found = permutation_test(
        rows, [[2.5], [5.0]], reference_patients=list("aabbc"), num_permutations=9, seed=0
    )
    means = permutation_test([[4.0], [2.0]], [[2.5], [5.0]], num_permutations=9, seed=0)
    assert found.statistics == pytest.approx(means.statistics)
