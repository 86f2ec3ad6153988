import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)

from common.scoring.metrics import weighted_log_loss
from common.statistics import scores
from common.statistics.areas import area_influence
from common.statistics.intervals import patient_intervals
from common.statistics.scores import SCORES, compare, score
from tests.common.statistics.references import (
    ASAH,
    EACH,
    LABELS,
    PAIRS,
    PROBABILITIES,
    REFERENCE,
    studies,
)

SKLEARN = {
    "auc": roc_auc_score,
    "average_precision": average_precision_score,
    "log_loss": log_loss,
    "brier": brier_score_loss,
}
PROC = REFERENCE["pROC"]


def marker(name):
    return ASAH[name].to_numpy(float)


def covariance(a, b):
    """From the variance of the difference."""
    return (a.variance + b.variance - (a - b).variance) / 2


@pytest.mark.parametrize("name", ["ndka", "s100b", "wfns"])
def test_areas_and_variances_are_those_of_proc(name):
    found = area_influence(LABELS, marker(name), EACH)
    assert found.variance == pytest.approx(PROC["variance"][name], abs=1e-12)
    if name in PROC["area"]:
        half = stats.norm.ppf(0.975) * np.sqrt(found.variance)
        assert found.value == pytest.approx(PROC["area"][name], abs=1e-12)
        interval = [found.value - half, found.value + half]
        assert interval == pytest.approx(PROC["interval"][name], abs=1e-12)


@pytest.mark.parametrize("pair", PROC["paired"])
def test_paired_areas_are_those_of_proc(pair):
    first, second = pair.split(",")
    a, b = (area_influence(LABELS, marker(name), EACH) for name in (first, second))
    expected = PROC["covariance"].get(pair)
    if expected is not None:
        assert covariance(a, b) == pytest.approx(expected, abs=1e-12)
    found = compare("auc", LABELS, {"b": marker(second), "a": marker(first)}, EACH)["a"]
    expected = PROC["paired"][pair]
    z = found.value / found.error
    assert z == pytest.approx(expected["z"], abs=1e-8)
    assert 2 * stats.norm.sf(abs(z)) == pytest.approx(expected["p"], abs=1e-8)
    half = stats.norm.ppf(0.975) * found.error
    interval = [found.value - half, found.value + half]
    assert interval == pytest.approx(expected["interval"], abs=1e-8)
    # With Student's t in place of the normal distribution.
    assert found.low < interval[0] and interval[1] < found.high
    assert found.p_value > expected["p"]


def test_areas_of_patients_with_several_studies_are_those_of_the_intervals():
    labels, p, patients = studies(3)
    expected = patient_intervals(
        labels[:, None], p[:, None], patients, label_names=["any"], weights=[1.0], prior=[0.5]
    )
    found = score("auc", labels, p, patients)
    assert [found.low, found.high] == expected["auc"]["any"]


@pytest.mark.parametrize("name", SKLEARN)
def test_values_are_those_of_scikit_learn(name):
    labels, p, patients = studies(4)
    known = ~np.isnan(labels)
    expected = SKLEARN[name](labels[known], p[known])
    found = score(name, labels, p, patients)
    assert found.value == pytest.approx(expected, abs=1e-10)
    assert found.low < found.value < found.high and found.reason is None


@pytest.mark.parametrize("name", ["average_precision", "log_loss", "brier"])
def test_an_influence_is_the_derivative_by_the_weight_of_a_patient(name):
    labels, p, patients = studies(5)
    known = ~np.isnan(labels)
    y, p, codes = labels[known], p[known], np.unique(patients[known], return_inverse=True)[1]
    found = SCORES[name].influence(y, p, codes)
    for patient in range(0, 40, 7):
        weights = [1 + side * (codes == patient) for side in (1e-5, -1e-5)]
        up, down = (SKLEARN[name](y, p, sample_weight=w) for w in weights)
        assert found.parts.sum(axis=0)[patient] == pytest.approx((up - down) / 2e-5, abs=1e-8)
    assert found.parts.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "key", "place"),
    [("calibration_slope", "slope", 1), ("calibration_intercept", "intercept", 0)],
)
def test_recalibration_is_that_of_statsmodels(name, key, place):
    expected = REFERENCE["recalibration"]
    found = SCORES[name].influence(LABELS, PROBABILITIES, PAIRS)
    assert found.value == pytest.approx(expected[key], abs=1e-8)
    assert np.sqrt(found.variance) == pytest.approx(expected["cluster_errors"][place], abs=1e-8)
    mine = score(name, LABELS, PROBABILITIES, PAIRS)
    assert mine.low < mine.value < mine.high


def test_calibration_in_the_large_is_that_of_statsmodels():
    expected = REFERENCE["recalibration"]
    found = SCORES["calibration_in_the_large"].influence(LABELS, PROBABILITIES, PAIRS)
    assert found.value == pytest.approx(expected["in_the_large"], abs=1e-8)
    error = expected["in_the_large_cluster_error"]
    assert np.sqrt(found.variance) == pytest.approx(error, abs=1e-8)


@pytest.mark.parametrize("power", [0.02, 1.0, 8.0])
def test_the_slope_of_sharp_and_of_flat_logits(power):
    labels, p, patients = studies(6)
    logits = np.log(p / (1 - p))
    first = score("calibration_slope", labels, p, patients).value
    other = 1 / (1 + np.exp(-power * logits - 1))
    assert score("calibration_slope", labels, other, patients).value == pytest.approx(
        first / power, rel=1e-7
    )


def test_what_has_no_finite_fit_has_a_reason():
    labels = np.repeat([0.0, 1.0], 20)
    p, patients = np.linspace(0.1, 0.9, 40), np.arange(40)
    for values in (p, 1 - p):
        found = score("calibration_slope", labels, values, patients)
        assert found.value is None and "separates positive from negative" in found.reason
    flat = score("calibration_intercept", labels, np.full(40, 0.3), patients)
    assert flat.reason == "all probabilities are equal"
    large = score("calibration_in_the_large", labels, np.full(40, 0.3), patients)
    assert large.value == pytest.approx(np.log(0.7 / 0.3), abs=1e-8)
    assert score("calibration_slope", labels * 0, p, patients).reason == "no positive study"
    assert score("calibration_slope", labels * 0 + 1, p, patients).reason == "no negative study"
    found = score("average_precision", labels, p, patients)
    assert found.value == 1 and found.reason == "every positive study is ranked first"
    assert score("brier", labels, labels, patients).reason == "a loss of 0"


@pytest.mark.parametrize("name", SCORES)
def test_an_interval_needs_its_number_of_positive_patients(name):
    least, rng = SCORES[name].least, np.random.default_rng(0)
    for number in (0, least - 1, least):
        labels = (np.arange(60) < number).astype(float)
        p = np.clip(0.1 + 0.3 * labels + 0.5 * rng.random(60), 0.01, 0.99)
        p[:number:2] -= 0.3 * (labels[:number:2])
        found = score(name, labels, np.clip(p, 0.01, 0.99), np.arange(60))
        if number < least:
            assert found.low is found.high is None and found.reason
        else:
            assert found.low < found.value < found.high, name


@pytest.mark.parametrize("name", [name for name, row in SCORES.items() if row.better])
def test_a_difference_is_that_of_the_values(name):
    labels, p, patients = studies(7)
    other = np.clip(p + 0.1 * np.sin(37 * p), 0.01, 0.99)
    found = compare(name, labels, {"a": p, "b": other}, patients)["b"]
    turned = compare(name, labels, {"b": other, "a": p}, patients)["a"]
    values = [score(name, labels, each, patients).value for each in (p, other)]
    assert found.value == pytest.approx(values[1] - values[0], abs=1e-12)
    assert [turned.low, turned.high] == pytest.approx([-found.high, -found.low], abs=1e-12)
    assert found.p_value == pytest.approx(turned.p_value)
    assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_the_error_of_a_difference_of_losses_is_that_of_a_paired_t_test():
    """One study a patient: the losses' differences are independent."""
    other = np.clip(PROBABILITIES**1.3, 0.01, 0.99)
    found = compare("brier", LABELS, {"a": PROBABILITIES, "b": other}, EACH)["b"]
    losses = [(p - LABELS) ** 2 for p in (other, PROBABILITIES)]
    test = stats.ttest_rel(*losses)
    assert found.value / found.error == pytest.approx(test.statistic, abs=1e-8)


@pytest.mark.parametrize("name", ["auc", "brier"])
def test_non_inferiority_is_the_limit_of_the_interval(name):
    labels, p, patients = studies(8, 80)
    other = np.clip(p + 0.05 * np.cos(50 * p), 0.01, 0.99)
    both = {"a": p, "b": other}
    plain = compare(name, labels, both, patients)["b"]
    assert plain.non_inferior is plain.p_value_worse is None
    worst = plain.low if name == "auc" else -plain.high
    # Without a margin the question is whether it is better, one-sided.
    none = compare(name, labels, both, patients, margin=0.0)["b"]
    is_better = (plain.value > 0) == (name == "auc")
    half = plain.p_value / 2
    assert none.p_value_worse == pytest.approx(half if is_better else 1 - half)
    for margin, expected in ((-worst + 1e-6, True), (-worst - 1e-6, False)):
        found = compare(name, labels, both, patients, margin=margin)["b"]
        assert found.non_inferior is expected
        assert (found.p_value_worse <= 0.025) is expected


def test_more_experiments_are_corrected_for():
    labels, p, patients = studies(9, 60)
    others = {f"x{k}": np.clip(p + 0.1 * np.sin(k + 40 * p), 0.01, 0.99) for k in range(1, 4)}
    found = compare("log_loss", labels, {"first": p, **others}, patients, margin=0.02)
    p_values = sorted(each.p_value for each in found.values())
    adjusted = sorted(each.adjusted_p_value for each in found.values())
    running = np.maximum.accumulate([3 * p_values[0], 2 * p_values[1], p_values[2]])
    assert adjusted == pytest.approx(np.minimum(running, 1))
    for name, each in found.items():
        alone = compare("log_loss", labels, {"first": p, name: others[name]}, patients, margin=0.02)
        assert each.value == alone[name].value and each.low == alone[name].low
        assert each.p_value_worse >= alone[name].p_value_worse


def test_experiments_that_nothing_tells_apart_have_no_interval():
    labels, p, patients = studies(10)
    same = compare("auc", labels, {"a": p, "b": p}, patients, margin=0.1)["b"]
    assert same.value == 0 and same.low is None and same.non_inferior is None
    assert same.reason == "no patient tells the experiments apart"
    few = compare("average_precision", labels[:6], {"a": p[:6], "b": p[:6] ** 2}, patients[:6])["b"]
    assert "at least" in few.reason
    none = compare("auc", labels * 0, {"a": p, "b": p}, patients)["b"]
    assert none.value is None and none.reason == "0 positive patients, at least 2 needed"


def test_a_log_loss_has_nearly_the_interval_of_leaving_patients_out():
    labels, p, patients = studies(11, 150)
    expected = patient_intervals(
        labels[:, None], p[:, None], patients, label_names=["any"], weights=[1.0], prior=[0.5]
    )["weighted_log_loss"]
    found = score("log_loss", labels, p, patients)
    assert found.value == pytest.approx(weighted_log_loss(labels[:, None], p[:, None], [1.0]))
    assert [found.low, found.high] == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("name", SCORES)
def test_no_known_label_is_no_error(name):
    for number in (0, 3):
        unknown = np.full(number, np.nan)
        found = score(name, unknown, np.full(number, 0.5), np.arange(number))
        assert found.value is None and found.reason.startswith(("no ", "0 positive"))
    if SCORES[name].better:
        both = {"a": np.full(3, 0.5), "b": np.full(3, 0.4)}
        assert compare(name, unknown, both, np.arange(3))["b"].value is None


def test_nan_is_refused():
    labels, p, patients = studies(12)
    p[4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        score("auc", labels, p, patients)


def test_every_field_is_a_plain_type():
    labels, p, patients = studies(13)
    found = compare("auc", labels, {"a": p, "b": p**2, "c": p**3 + p / 9}, patients, margin=0.1)
    kinds = {type(value) for each in found.values() for value in dataclasses.asdict(each).values()}
    assert kinds <= {float, bool, str, type(None)}
    assert {type(value) for value in vars(score("brier", labels, p, patients)).values()} <= kinds
    assert scores.SCORES.keys() >= {"auc", "brier"}


def test_the_weighted_log_loss_of_all_labels_is_the_metric_and_its_variance_a_plain_sum():
    rng = np.random.default_rng(5)
    n, weights = 90, [1.0, 1.0, 2.0]
    labels = (rng.random((n, 3)) < 0.4).astype(float)
    labels[rng.random((n, 3)) < 0.1] = np.nan
    patients = rng.integers(0, 30, n)
    a, b = (np.clip(rng.random((n, 3)), 0.02, 0.98) for _ in range(2))
    kind = scores.weighted_log_loss_score(weights)
    own = score(kind, labels, a, patients)
    assert own.value == pytest.approx(weighted_log_loss(labels, a, weights), abs=1e-12)
    assert own.low < own.value < own.high
    found = compare(kind, labels, {"a": a, "b": b}, patients)["b"]
    gap = weighted_log_loss(labels, b, weights) - weighted_log_loss(labels, a, weights)
    assert found.value == pytest.approx(gap, abs=1e-12)
    by_patient = dict.fromkeys(np.unique(patients).tolist(), 0.0)
    for k, weight in enumerate(weights):
        known = np.flatnonzero(~np.isnan(labels[:, k]))
        losses = []
        for row in known:
            y = labels[row, k]
            one, other = (
                -(y * np.log(p[row, k]) + (1 - y) * np.log(1 - p[row, k])) for p in (a, b)
            )
            losses.append(other - one)
        for row, loss in zip(known, losses):
            share = weight / sum(weights) / len(known)
            by_patient[int(patients[row])] += share * (loss - np.mean(losses))
    num = len(by_patient)
    variance = num / (num - 1) * sum(part**2 for part in by_patient.values())
    assert found.error == pytest.approx(np.sqrt(variance), abs=1e-12)
    labels[:, 0] = np.nan
    assert compare(kind, labels, {"a": a, "b": b}, patients)["b"].reason == (
        "a label has no known study"
    )
