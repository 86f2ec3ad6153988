import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.statistics.operating_points import (
    NoThreshold,
    Rule,
    choose_threshold,
    cross_fitted_thresholds,
)
from tests.common.statistics.references import studies

GRID = [0.0, 1e-300, 0.1, 0.2, np.nextafter(0.2, 1), 0.5, np.nextafter(1, 0), 1.0]


def shares(labels, p, threshold):
    calls = np.asarray(p) >= threshold
    y = np.asarray(labels)
    return calls[y == 1].mean(), (~calls[y == 0]).mean(), calls.sum()


def every_cut(labels, p):
    """Sensitivity, specificity and calls of all thresholds that differ."""
    cuts = [*np.unique(p), np.nextafter(1.0, 2.0)]
    return [shares(labels, p, cut) for cut in cuts]


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(GRID)), min_size=2, max_size=12),
    st.sampled_from([0.01, 0.3, 0.5, 2 / 3, 0.75, 0.9, 1.0]),
)
@settings(max_examples=300, deadline=None)
def test_the_calls_are_those_of_the_best_cut(rows, value):
    labels, p = np.array([float(y) for y, _ in rows]), np.array([v for _, v in rows])
    if labels.min() == labels.max():
        with pytest.raises(NoThreshold, match=r"no (positive|negative) study"):
            choose_threshold(labels, p, Rule("sensitivity", value))
        return
    cuts = every_cut(labels, p)
    found = shares(labels, p, choose_threshold(labels, p, Rule("sensitivity", value)))
    assert found == min((c for c in cuts if c[0] >= value - 1e-12), key=lambda cut: cut[2])
    found = shares(labels, p, choose_threshold(labels, p, Rule("specificity", value)))
    assert found == max((c for c in cuts if c[1] >= value - 1e-12), key=lambda cut: cut[2])
    for cost, prevalence in ((5.0, None), (0.3, 0.1), (20.0, 0.02)):
        chosen = choose_threshold(labels, p, Rule("cost", cost, prevalence))
        share = labels.mean() if prevalence is None else prevalence

        def expected(cut, cost=cost, share=share):
            return cost * share * (1 - cut[0]) + (1 - share) * (1 - cut[1])

        least = min(expected(cut) for cut in cuts)
        best = [cut for cut in cuts if expected(cut) <= least + 1e-9]
        assert shares(labels, p, chosen) == max(best, key=lambda cut: cut[2])


def test_shares_that_can_be_had_exactly_are():
    """0.57 * 100 is 56.99999999999999, and 0.07 * 100 is 7.000000000000001."""
    p = np.concatenate([np.arange(1, 101) / 200, [0.001]])
    labels = np.concatenate([np.ones(100), [0.0]])
    for percent in range(1, 101):
        threshold = choose_threshold(labels, p, Rule("sensitivity", percent / 100))
        assert shares(labels, p, threshold)[0] == percent / 100


def test_a_threshold_is_midway_and_rounding_changes_no_call():
    labels, p = [0, 0, 1, 0, 1, 1], np.array([0.1, 0.2, 0.4, 0.5, 0.6, 0.9])
    assert choose_threshold(labels, p, Rule("sensitivity", 1.0)) == pytest.approx(0.3)
    assert choose_threshold(labels, p, Rule("specificity", 1.0)) == pytest.approx(0.55)
    assert choose_threshold(labels, p, Rule("fixed", 0.7)) == 0.7
    threshold = choose_threshold(labels, p, Rule("sensitivity", 0.6))
    assert ((p.astype(np.float32) >= threshold) == (p >= threshold)).all()
    assert choose_threshold([1, 0], [0.4, 0.6], Rule("sensitivity", 1.0)) == pytest.approx(0.2)
    none = choose_threshold([0, 1], [1.0, 0.5], Rule("specificity", 1.0))
    assert none == np.nextafter(1.0, 2.0)
    unknown = choose_threshold([*labels, np.nan], [*p, 0.25], Rule("sensitivity", 1.0))
    assert unknown == pytest.approx(0.3)


def test_the_threshold_of_a_fold_is_chosen_on_the_others():
    labels, p, patients = studies(2)
    folds, rule = patients % 3, Rule("sensitivity", 0.8)
    thresholds, calls = cross_fitted_thresholds(labels, p, folds, patients, rule)
    for fold in range(3):
        others = folds != fold
        assert thresholds[fold] == choose_threshold(labels[others], p[others], rule)
        assert (calls[~others] == (p[~others] >= thresholds[fold])).all()
    changed = labels.copy()
    changed[folds == 1] = 1 - changed[folds == 1]
    again, _ = cross_fitted_thresholds(changed, p, folds, patients, rule)
    assert again[1] == thresholds[1] and again != thresholds


def test_folds_that_share_patients_are_refused():
    labels, p, patients = studies(2)
    rule = Rule("sensitivity", 0.8)
    with pytest.raises(ValueError, match="a patient is in two folds"):
        cross_fitted_thresholds(labels, p, np.arange(len(p)) % 2, patients, rule)
    with pytest.raises(ValueError, match="one fold only"):
        cross_fitted_thresholds(labels, p, np.zeros(len(p)), patients, rule)
    labels[patients % 3 != 1] = 0
    with pytest.raises(NoThreshold, match=r"fold 1: no positive study .* sensitivity:0.8"):
        cross_fitted_thresholds(labels, p, patients % 3, patients, rule)
    fixed, calls = cross_fitted_thresholds(
        labels, p, np.zeros(len(p)), patients, Rule("fixed", 0.3)
    )
    assert fixed == {0.0: 0.3} and (calls == (p >= 0.3)).all()


def test_rules_are_read_and_refused():
    assert Rule.from_text("sensitivity:0.95", 0.1) == Rule("sensitivity", 0.95)
    assert str(Rule.from_text("cost:20", 0.1)) == "cost:20 at prevalence 0.1"
    for text, match in (
        ("recall:0.9", "not one of sensitivity, specificity, cost, fixed"),
        ("sensitivity", "write kind:value"),
        ("sensitivity:1.01", "above 0, at most 1"),
        ("specificity:0", "above 0, at most 1"),
        ("cost:-2", "a number above 0"),
        ("cost:inf", "a number above 0"),
        ("fixed:nan", "above 0, at most 1"),
    ):
        with pytest.raises(InputError, match=match):
            Rule.from_text(text)
    for prevalence in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="between 0 and 1"):
            Rule.from_text("cost:2", prevalence)
