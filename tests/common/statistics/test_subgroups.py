from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from benchmarks.subgroups import GAP_GROUP, draw, measure
from common.scoring.metrics import auc
from common.statistics.permutation import holm
from common.statistics.rates import wilson_interval
from common.statistics.subgroups import (
    LEAST_STUDIES,
    MOST_GROUPS,
    OTHERS,
    UNKNOWN,
    Grouping,
    Studies,
    compare_groups,
    part,
    worst_group,
)


def cohort(num: int = 120, seed: int = 0) -> Studies:
    rng = np.random.default_rng(seed)
    y = (rng.random(num) < 0.5).astype(float)
    p = np.clip(0.4 * y + 0.6 * rng.random(num), 0, 1)
    return Studies(y, p, np.arange(num).astype(object), calls=p > 0.5)


def test_small_groups_are_merged_and_unknown_ones_are_not():
    values = pd.Series(["a"] * 12 + ["b"] * 9 + ["c"] * 9 + [None] * 3)
    groups = part(values)
    assert {name: int(member.sum()) for name, member in groups.items()} == {
        "a": 12,
        OTHERS: 18,
        UNKNOWN: 3,
    }
    assert set(part(pd.Series(["a"] * LEAST_STUDIES))) == {"a"}


def test_the_most_frequent_are_kept_and_categories_keep_their_order():
    many = pd.Series(np.repeat([f"k{i:02}" for i in range(30)], np.arange(10, 40)))
    assert list(part(many)) == [f"k{i}" for i in range(29, 29 - MOST_GROUPS, -1)] + [OTHERS]
    sizes = pd.Series(
        ["large"] * 30 + ["small"] * 10, dtype=pd.CategoricalDtype(["small", "large"])
    )
    assert list(part(sizes)) == ["small", "large"]


def test_only_the_studies_that_count_make_a_group():
    values = pd.Series(["a"] * 15 + ["b"] * 15)
    counted = np.arange(30) < 20
    groups = part(values, counted)
    assert {name: int(member.sum()) for name, member in groups.items()} == {"a": 15, OTHERS: 5}


def test_a_difference_of_rates_is_newcombes_and_ends_at_0_at_its_p_value():
    studies = cohort()
    member = (np.arange(120) < 50) * 1.0
    studies = replace(studies, calls=studies.probabilities > np.where(member == 1, 0.5, 0.65))
    found = compare_groups(studies, {"half": Grouping({"own": member, "rest": 1 - member})})
    difference = found["half"]["own"].differences["sensitivity"]

    def newcombe(level: float) -> tuple[float, float, float]:
        shares, ends = [], []
        for side in (member == 1, member == 0):
            hits = studies.calls[side & (studies.labels == 1)]
            shares.append(hits.mean())
            ends.append(wilson_interval(hits.mean(), len(hits), level))
        (a, b), ((la, ua), (lb, ub)) = shares, ends
        low = a - b - np.hypot(a - la, ub - b)
        return a - b, low, a - b + np.hypot(ua - a, b - lb)

    assert (difference.value, difference.low, difference.high) == pytest.approx(newcombe(0.95))
    _, low, high = newcombe(1 - difference.p_value)
    assert min(abs(low), abs(high)) < 1e-5
    mirrored = found["half"]["rest"].differences["sensitivity"]
    assert mirrored.value == pytest.approx(-difference.value)
    assert mirrored.p_value == pytest.approx(difference.p_value)


def test_p_values_are_near_those_of_the_normal_distribution_where_there_are_many():
    rng = np.random.default_rng(3)
    num = 20_000
    y, member = np.ones(num), (rng.random(num) < 0.5) * 1.0
    y[::2] = 0
    calls = rng.random(num) < np.where(member == 1, 0.79, 0.81)
    studies = Studies(y, calls * 0.5, np.arange(num).astype(object), calls=calls)
    difference = compare_groups(studies, {"x": Grouping({"a": member})})["x"]["a"].differences
    hits = [calls[(y == 1) & (member == side)] for side in (1, 0)]
    error = np.sqrt(sum(each.var() / len(each) for each in hits))
    z = (hits[0].mean() - hits[1].mean()) / error
    assert difference["sensitivity"].p_value == pytest.approx(2 * norm.sf(abs(z)), rel=0.02)


def test_positive_groups_are_seen_beside_all_negative_studies():
    studies = cohort()
    is_positive = studies.labels == 1
    small = is_positive & (np.arange(120) % 3 == 0)
    groups = {"small": small * 1.0, "large": (is_positive & ~small) * 1.0}
    found = compare_groups(studies, {"size": Grouping(groups, of_positives=True)})["size"]["small"]
    beside = small | ~is_positive
    assert found.estimates["auc"].value == pytest.approx(
        auc(studies.labels[beside], studies.probabilities[beside])
    )
    assert found.estimates["sensitivity"].value == pytest.approx(studies.calls[small].mean())
    assert found.num_positive == small.sum()
    assert "specificity" not in found.estimates
    assert "log_loss" not in found.estimates


def test_studies_left_out_of_a_comparison_are_on_neither_side():
    studies = cohort()
    member = np.where(np.arange(120) < 40, 1.0, 0.0)
    member[80:] = np.nan
    found = compare_groups(studies, {"x": Grouping({"a": member})})["x"]["a"]
    first, second = (
        auc(studies.labels[part_of], studies.probabilities[part_of])
        for part_of in (slice(0, 40), slice(40, 80))
    )
    assert found.differences["auc"].value == pytest.approx(first - second)


def test_all_p_values_are_corrected_together():
    found = compare_groups(*draw(np.random.default_rng(1), 0.2))
    all_of = [
        difference
        for each in found.values()
        for group in each.values()
        for difference in group.differences.values()
        if difference.p_value is not None
    ]
    assert len(all_of) > 30
    expected = holm([each.p_value for each in all_of])
    assert [each.adjusted_p_value for each in all_of] == pytest.approx(expected.tolist())


def test_what_can_not_be_compared_has_a_reason():
    studies = cohort(20)
    alone = Studies(np.ones(20), studies.probabilities, studies.patient_ids)
    group = compare_groups(alone, {"x": Grouping({"a": (np.arange(20) < 10) * 1.0})})["x"]["a"]
    assert set(group.differences) == {"auc"}
    difference = group.differences["auc"]
    assert (difference.value, difference.p_value) == (None, None)
    assert "negative" in difference.reason


@pytest.mark.parametrize("num_cohorts", [13, pytest.param(25, marks=pytest.mark.long)])
def test_null_cohorts_rarely_alarm_and_a_gap_is_covered_and_named(num_cohorts):
    shares = measure(num_cohorts, seed=7)
    assert shares["false_alarms"] <= 0.08
    assert shares["covered"] >= 0.84
    assert shares["named"] >= 0.8
    assert GAP_GROUP[0] in draw(np.random.default_rng(0), 0.0)[1]


def test_rests_and_unknown_ones_are_never_the_worst_group():
    studies = cohort(200)
    values = pd.Series(["a"] * 100 + ["b"] * 60 + [f"rare {n}" for n in range(20)] + [None] * 20)
    is_rest = np.arange(200) >= 160
    is_missed = (studies.labels == 1) & (is_rest | (np.arange(200) % 20 == 100 % 20))
    studies = replace(studies, calls=np.where(is_missed, 0.0, studies.labels))
    found = compare_groups(studies, {"x": Grouping(part(values))})
    assert found["x"][OTHERS].differences["sensitivity"].adjusted_p_value < 0.01
    title, name, _ = worst_group(found)
    assert (title, name) in (("x", "a"), ("x", "b"))
    rests = {"x": {key: found["x"][key] for key in (OTHERS, UNKNOWN)}}
    assert worst_group(rests) is None


def test_headers_that_say_others_or_unknown_are_not_lost():
    values = pd.Series(["unknown"] * 12 + [None] * 3 + ["others"] * 11 + ["rare"] * 2)
    sizes = {name: int(mask.sum()) for name, mask in part(values).items()}
    assert sizes == {"unknown": 15, "others": 13}


def test_one_positive_patient_gives_no_area():
    studies = cohort(20)
    labels = np.zeros(20)
    labels[3] = 1
    alone = Studies(labels, studies.probabilities, studies.patient_ids)
    group = compare_groups(alone, {"x": Grouping({"a": np.ones(20)})})["x"]["a"]
    assert group.estimates["auc"].value is None and "positive" in group.estimates["auc"].reason
