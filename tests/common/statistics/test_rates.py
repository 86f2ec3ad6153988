import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from common.scoring import metrics
from common.statistics import rates
from common.statistics.rates import Rate
from tests.common.statistics.references import (
    EACH,
    LABELS,
    PAIRS,
    PROBABILITIES,
    REFERENCE,
    studies,
)


def of(found: int, total: int) -> Rate:
    return rates.rate(np.arange(total) < found, np.arange(total))


@pytest.mark.parametrize("case", REFERENCE["wilson"])
def test_the_interval_is_wilsons(case):
    found, total, level, low, high = case
    is_found = np.arange(total) < found
    assert rates.wilson_interval(found / total, total, level) == pytest.approx(
        [low, high], abs=1e-8
    )
    mine = rates.rate(is_found, np.arange(total), level=level)
    if total == 1:
        assert (mine.value, mine.low, mine.high, mine.num_found) == (1, None, None, 1)
        assert mine.reason == "1 patient with a study, at least 2 needed"
        return
    assert [mine.low, mine.high] == pytest.approx([low, high], abs=1e-8)
    assert (mine.num_found, mine.num_studies, mine.num_patients) == (found, total, total)
    assert mine.value == found / total and mine.low <= mine.value <= mine.high


def test_studies_of_a_patient_count_by_the_design_effect():
    labels, p, patients = studies(0)
    known = ~np.isnan(labels)
    found, owners = p[known] >= 0.5, patients[known]
    share, total = found.mean(), len(found)
    squares = sum(
        (found[owners == each].sum() - share * np.sum(owners == each)) ** 2
        for each in np.unique(owners)
    )
    number = len(np.unique(owners))
    effect = number / (number - 1) * squares / total**2 / (share * (1 - share) / total)
    mine = rates.rate(found, owners)
    kish = total**2 / sum(np.sum(owners == each) ** 2 for each in np.unique(owners))
    assert kish < total / effect < total
    assert mine.num_effective == pytest.approx((total / effect + kish) / 2, rel=1e-12)
    alone = rates.rate(found, np.arange(total))
    assert mine.value == alone.value and mine.low < alone.low and alone.high < mine.high


def test_studies_that_are_all_alike_say_as_much_as_their_patients():
    """Where all are found, and where each patient has all or none."""
    patients = np.repeat(np.arange(8), 3)
    everyone = rates.rate(np.ones(24, bool), patients)
    assert everyone.low == pytest.approx(of(8, 8).low, abs=1e-12) and everyone.high == 1
    halves = rates.rate(patients < 4, patients)
    assert halves.num_effective == 8 and halves.low == pytest.approx(of(4, 8).low, abs=1e-12)
    one = rates.rate([True, False, True], [5, 5, 5])
    assert one.num_effective == 1
    opposed = rates.rate(np.arange(24) % 2 == 0, np.arange(24) // 2)
    assert opposed.num_effective == (24 + 12) / 2


def test_an_operating_point_has_the_rates_of_scikit_learn():
    labels, p, patients = studies(1)
    calls, known = p >= 0.4, ~np.isnan(labels)
    found = rates.operating_point(labels, calls, patients)
    y, c = labels[known], calls[known]
    tn, fp, fn, tp = confusion_matrix(y, c).ravel()
    assert found["sensitivity"].value == pytest.approx(recall_score(y, c), abs=1e-12)
    assert found["specificity"].value == pytest.approx(recall_score(1 - y, ~c), abs=1e-12)
    assert found["ppv"].value == pytest.approx(precision_score(y, c), abs=1e-12)
    assert found["npv"].value == pytest.approx(tn / (tn + fn), abs=1e-12)
    assert found["alarms"].value == pytest.approx((tp + fp) / len(y), abs=1e-12)
    assert found["false_alarms"].num_found == fp
    chosen = (labels == 1) & known
    assert found["sensitivity"] == rates.rate(calls[chosen], patients[chosen])


def test_a_rate_of_nothing_has_a_reason():
    found = rates.operating_point([0.0, 0.0, np.nan], [False, False, True], [1, 2, 3])
    assert found["sensitivity"] == Rate(None, reason="no positive study")
    assert found["ppv"].reason == "no study that is called"
    at = rates.at_prevalence(found["sensitivity"], found["specificity"], 0.1)
    assert {name: each.reason for name, each in at.items()} == dict.fromkeys(
        ("ppv", "npv", "alarms"), "no positive study"
    )
    benefit = rates.net_benefit(found["sensitivity"], found["specificity"], 0.1, 0.2)
    assert benefit["net_benefit"].value is None
    assert rates.statement(found["sensitivity"], "study") == (
        "no positive study: nothing can be claimed"
    )


def loop_ratio(a: Rate, b: Rate) -> list[float]:
    """Donner and Zou's limits as they print them (2012, equations 9 and 10)."""
    product = a.value * b.value
    low = product - math.sqrt(
        product**2 - a.low * b.high * (2 * a.value - a.low) * (2 * b.value - b.high)
    )
    high = product + math.sqrt(
        product**2 - a.high * b.low * (2 * a.value - a.high) * (2 * b.value - b.low)
    )
    return [low / (b.high * (2 * b.value - b.high)), high / (b.low * (2 * b.value - b.low))]


@pytest.mark.parametrize("counts", [(14, 16, 80, 100), (3, 9, 11, 12), (40, 41, 999, 1000)])
def test_predictive_values_at_a_prevalence(counts):
    sensitivity, specificity = of(*counts[:2]), of(*counts[2:])
    at = rates.at_prevalence(sensitivity, specificity, 0.1)
    se, sp = sensitivity.value, specificity.value
    assert at["ppv"].value == pytest.approx(0.1 * se / (0.1 * se + 0.9 * (1 - sp)), abs=1e-12)
    assert at["npv"].value == pytest.approx(0.9 * sp / (0.9 * sp + 0.1 * (1 - se)), abs=1e-12)
    limits = loop_ratio(specificity.complement, sensitivity)
    expected = [0.1 / (0.1 + 0.9 * limits[1]), 0.1 / (0.1 + 0.9 * limits[0])]
    assert [at["ppv"].low, at["ppv"].high] == pytest.approx(expected, abs=1e-9)
    limits = loop_ratio(sensitivity.complement, specificity)
    expected = [0.9 / (0.9 + 0.1 * limits[1]), 0.9 / (0.9 + 0.1 * limits[0])]
    assert [at["npv"].low, at["npv"].high] == pytest.approx(expected, abs=1e-9)
    # As of a logit normal (Mercaldo, Lau and Zhou 2007), where there are many studies.
    many = of(800, 1000), of(9000, 10000)
    mine = rates.at_prevalence(*many, 0.1)["ppv"]
    logit = math.log(0.1 * 0.8 / (0.9 * 0.1))
    half = norm.ppf(0.975) * math.sqrt(0.2 / 0.8 / 1000 + 0.9 / 0.1 / 10000)
    limits = [1 / (1 + math.exp(-logit - side)) for side in (-half, half)]
    assert [mine.low, mine.high] == pytest.approx(limits, abs=2e-4)


def test_predictive_values_of_perfect_and_of_useless_calls():
    perfect = rates.at_prevalence(of(16, 16), of(50, 50), 0.1)
    for name in ("ppv", "npv"):
        assert perfect[name].value == perfect[name].high == 1 and 0 < perfect[name].low < 1
    none = rates.at_prevalence(of(0, 16), of(50, 50), 0.1)
    assert none["ppv"].reason == "no such call" and none["npv"].value == pytest.approx(0.9)
    wrong = rates.at_prevalence(of(0, 16), of(20, 50), 0.1)["ppv"]
    assert wrong.value == wrong.low == 0 < wrong.high < 0.1
    for name, value in (("ppv", 0.0), ("npv", 1.0)):
        assert rates.at_prevalence(of(9, 16), of(20, 50), 0.0)[name].value == value


def test_a_sum_of_rates_has_the_limits_of_newcombe():
    """His method 10 for a difference of two (Statistics in Medicine 1998, 873-890)."""
    found = rates.weighted_sum([(1.0, of(56, 70)), (-1.0, of(48, 80))])
    # Table II (a), method 10: 0.0524 to 0.3339.
    assert [found.value, found.low, found.high] == pytest.approx([0.2, 0.0524, 0.3339], abs=5e-5)
    alarms = rates.at_prevalence(of(16, 16), of(0, 50), 0.3)["alarms"]
    assert alarms.value == alarms.high == 1 and 0.8 < alarms.low < 1


@pytest.mark.parametrize("prevalence", [None, 0.1])
def test_the_decision_curve_is_that_of_dcurves(prevalence):
    expected = REFERENCE["net_benefit" if prevalence is None else "net_benefit_at_0.1"]
    rows = expected["p"] if prevalence is None else expected
    thresholds = [threshold for threshold, _ in rows]
    curve = rates.decision_curve(
        [*LABELS, np.nan], [*PROBABILITIES, 0.9], [*EACH, 0], thresholds, prevalence=prevalence
    )
    values = [point["net_benefit"].value for point in curve]
    assert values == pytest.approx([value for _, value in rows], abs=1e-8)
    if prevalence is None:
        treat_all = [value for _, value in expected["all"]]
        assert [point["treat_all"].value for point in curve] == pytest.approx(treat_all, abs=1e-8)
    for point in curve:
        own, over = point["net_benefit"], point["over_treat_all"]
        assert own.low <= own.value <= own.high
        assert over.value == pytest.approx(own.value - point["treat_all"].value, abs=1e-12)
        assert over.low == pytest.approx(own.low - point["treat_all"].value, abs=1e-12)


def test_what_is_claimed_agrees_with_the_interval():
    assert rates.statement(of(16, 16), "study") == "16 of 16 found: at least 0.81 with 95 %"
    assert rates.statement(of(16, 16), "study with a bleed", 0.9) == (
        "16 of 16 found: at least 0.81 with 95 %; too few to claim 0.9: it takes about 35 studies "
        "with a bleed if 1.00 of them are found"
    )
    assert rates.statement(of(40, 40), "study", 0.9).endswith("which is enough to claim 0.9")
    for num_found, number, share in ((8, 10, "0.8"), (897, 1000, "0.897"), (9, 10, "0.9")):
        assert rates.statement(of(num_found, number), "study", 0.9).endswith(
            f"; 0.9 can't be claimed: only {share} were found"
        )
    clustered = rates.rate(np.ones(16, bool), np.arange(16) // 2)
    assert "it takes about 70 studies" in rates.statement(clustered, "study", 0.9)


@pytest.mark.parametrize(("target", "expected"), [(0.9, 1.0), (0.9, 0.95), (0.5, 0.6)])
def test_the_studies_needed_are_the_least_that_reach_the_target(target, expected):
    number = rates.studies_needed(target, expected)
    assert rates.wilson_interval(expected, number)[0] >= target - 1e-12
    assert rates.wilson_interval(expected, number - 1)[0] < target
    assert rates.studies_needed(target, target) is None


def test_bins_are_those_of_the_reliability_of_the_metrics():
    found = rates.mean_rate_by_bin([*LABELS, np.nan], [*PROBABILITIES, 0.5], [*PAIRS, 0], 10)
    means, shares, counts = metrics.reliability(LABELS, PROBABILITIES, 10)
    assert [mean for mean, _ in found] == pytest.approx(means, abs=1e-12)
    assert [each.value for _, each in found] == pytest.approx(shares, abs=1e-12)
    assert [each.num_studies for _, each in found] == counts.tolist()


def test_rates_are_plain_types():
    found = rates.operating_point(LABELS, PROBABILITIES > 0.4, PAIRS)
    kinds = {type(value) for each in found.values() for value in dataclasses.asdict(each).values()}
    assert kinds == {float, int, type(None)}
