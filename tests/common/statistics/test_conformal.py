import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from common.errors import InputError
from common.statistics.conformal import Triage, fit_triage, patients_needed, triage_rates
from common.statistics.rates import rate
from tests.common.statistics.references import EACH, LABELS, PROBABILITIES, REFERENCE, studies


def p_values(calibration, values):
    """The share of the calibration, and of itself, that is at least as strange, by loops."""
    return np.array(
        [(1 + sum(c >= v for c in calibration)) / (len(calibration) + 1) for v in values]
    )


@pytest.mark.parametrize("error_rate", REFERENCE["triage"])
def test_decisions_are_those_of_crepes(error_rate):
    even = EACH % 2 == 0
    rates = {"rule_out_error": float(error_rate), "rule_in_error": float(error_rate)}
    found = fit_triage(LABELS[even], PROBABILITIES[even], EACH[even], **rates)
    names = {"+": "rule_in", "-": "rule_out", "?": "read"}
    expected = [names[letter] for letter in REFERENCE["triage"][error_rate]]
    assert found.decide(PROBABILITIES[~even]).tolist() == expected


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.1001, 0.5, 0.9, 1.0]))),
    st.sampled_from([0.05, 0.1, 0.2, 1 / 3, 0.5, 0.07]),
    st.sampled_from([0.05, 0.25, 0.6]),
)
@settings(max_examples=200, deadline=None)
def test_decisions_follow_from_p_values(rows, out_error, in_error):
    labels = np.array([float(y) for y, _ in rows])
    p, fresh = np.array([v for _, v in rows], dtype=float), np.linspace(0, 1, 21)
    found = fit_triage(
        labels, p, np.arange(len(p)), rule_out_error=out_error, rule_in_error=in_error
    )
    not_positive = p_values(-p[labels == 1], -fresh) <= out_error + 1e-12
    not_negative = p_values(p[labels == 0], fresh) <= in_error + 1e-12
    expected = np.where(
        not_positive & ~not_negative,
        "rule_out",
        np.where(not_negative & ~not_positive, "rule_in", "read"),
    )
    assert found.decide(fresh).tolist() == expected.tolist()
    assert (found.rule_out.value is None) == ((labels == 1).sum() < patients_needed(out_error))


@pytest.mark.parametrize(("rate_", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.07, 14)])
def test_it_is_refused_below_the_size_that_the_guarantee_needs(rate_, needed):
    assert patients_needed(rate_) == needed
    for number in (needed - 1, needed):
        labels, p = np.ones(number), np.linspace(0.3, 0.9, number)
        found = fit_triage(labels, p, np.arange(number), rule_out_error=rate_, rule_in_error=0.5)
        assert found.rule_in.reason == "0 negative patients, at least 1 needed"
        if number < needed:
            assert found.rule_out.value is None
            reason = f"{number} positive patients, at least {needed} needed"
            assert found.rule_out.reason == reason
            assert set(found.decide(np.linspace(0, 1, 5))) == {"read"}
        else:
            assert found.rule_out.value == 0.3 and found.rule_out.reason is None
            assert found.decide([0.29, 0.3]).tolist() == ["rule_out", "read"]
    for bad in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="must be between 0 and 1"):
            patients_needed(bad)


def test_a_patient_counts_once_with_the_study_that_is_hardest():
    labels, p, patients = studies(0, 60)
    found = fit_triage(labels, p, patients, rule_out_error=0.1, rule_in_error=0.2)
    worst = [p[(patients == k) & (labels == 1)].min(initial=9) for k in range(60)]
    worst = sorted(value for value in worst if value < 9)
    assert found.rule_out.num_patients == len(worst)
    assert found.rule_out.value == worst[math.floor(0.1 * (len(worst) + 1)) - 1]
    best = [p[(patients == k) & (labels == 0)].max(initial=-9) for k in range(60)]
    best = sorted((value for value in best if value > -9), reverse=True)
    assert found.rule_in.value == best[math.floor(0.2 * (len(best) + 1)) - 1]


def test_the_rate_of_the_calibration_at_hand_is_bounded():
    labels, p = np.ones(200), np.linspace(0.2, 0.9, 200)
    found = fit_triage(labels, p, np.arange(200), rule_out_error=0.05, rule_in_error=0.5)
    # Of very many new patients: those ruled out are beta-binomial.
    number = 10**6
    share = betabinom(number, 10, 191).cdf(int(found.rule_out.error_at_most * number))
    assert share == pytest.approx(0.95, abs=1e-3)


def test_the_promised_rate_holds_over_calibrations():
    rng = np.random.default_rng(5)
    missed = []
    for _ in range(400):
        calibration, fresh = rng.random(39), rng.random(50)
        found = fit_triage(
            np.ones(39), calibration, np.arange(39), rule_out_error=0.1, rule_in_error=0.5
        )
        missed.append(np.mean(found.decide(fresh) == "rule_out"))
    error = np.std(missed) / 20
    # 4 of 40 exactly, as there are no ties.
    assert abs(np.mean(missed) - 0.1) < 4 * error and error < 0.005


def test_what_a_triage_does_is_counted():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, np.nan])
    decisions = np.array(
        ["rule_out", "rule_in", "read", "rule_in", "rule_out", "read", "rule_out", "read"]
    )
    found = triage_rates(labels, decisions, np.arange(8))
    counts = {name: (each.num_found, each.num_studies) for name, each in found.items()}
    assert counts == {
        "decided": (5, 7),
        "ruled_out": (3, 7),
        "ruled_in": (2, 7),
        "errors": (2, 5),
        "missed": (1, 3),
        "false_alarms": (1, 4),
        "missed_among_ruled_out": (1, 3),
        "wrong_among_ruled_in": (1, 2),
    }
    assert found["missed"] == rate(decisions[:3] == "rule_out", np.arange(3))
    none = triage_rates(labels, np.full(8, "read"), np.arange(8))
    assert none["errors"].reason == "no study that is decided"


def test_a_triage_is_kept_as_plain_types():
    labels, p, patients = studies(1)
    found = fit_triage(labels, p, patients, rule_out_error=0.1, rule_in_error=0.2)
    content = dataclasses.asdict(found)
    sides = {name: type(found.rule_out)(**side) for name, side in content.items()}
    again = Triage(**sides)
    assert again == found and (again.decide(p) == found.decide(p)).all()
    with pytest.raises(ValueError, match="NaN"):
        found.decide([0.2, np.nan])
