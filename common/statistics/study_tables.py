"""Tables of studies for metrics.json, with intervals: plain dicts of the functions beside this one.

An estimate is {value, interval, reason}, with counts where it is a share of studies; a curve is
{value, low, high}, each a list.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from common.statistics.conformal import triage_rates
from common.statistics.decisions import Called, Studies, Triaged
from common.statistics.estimates import Estimate
from common.statistics.operating_points import Rule
from common.statistics.rates import (
    at_prevalence,
    decision_curve,
    mean_rate_by_bin,
    operating_point,
    statement,
)
from common.statistics.scores import SCORES, score

NUM_BINS = 10
PREVALENCES = (0.01, 0.02, 0.03, 0.05, 0.075, *np.arange(0.1, 0.55, 0.05).round(2).tolist())
THRESHOLDS = (*np.arange(0.01, 0.1, 0.01).round(2), *np.arange(0.1, 1, 0.05).round(2))


def estimate_table(estimate: Estimate, factor: float = 1.0) -> dict[str, Any]:
    """Return an estimate times a factor; a share with its counts, a difference with p-values."""
    numbers = estimate.value, estimate.low, estimate.high
    value, *limits = (None if number is None else factor * number for number in numbers)
    interval = None if limits[0] is None else limits
    found = {"value": value, "interval": interval, "reason": estimate.reason}
    also = ("num_found", "num_studies", "num_patients", "p_value", "adjusted_p_value")
    return found | {name: getattr(estimate, name) for name in also if hasattr(estimate, name)}


def curve_table(estimates: Sequence[Estimate]) -> dict[str, list[float | None]]:
    """Return the values and limits of estimates."""
    return {name: [getattr(each, name) for each in estimates] for name in ("value", "low", "high")}


def score_table(studies: Studies) -> dict[str, dict[str, Any]]:
    """Return every score of SCORES."""
    of_studies = (studies.labels, studies.probabilities, studies.patient_ids)
    return {name: estimate_table(score(name, *of_studies)) for name in SCORES}


def reliability_table(studies: Studies) -> dict[str, Any]:
    """Return the mean probability and the share of positives in bins of equal width."""
    bins = mean_rate_by_bin(studies.labels, studies.probabilities, studies.patient_ids, NUM_BINS)
    return {
        "mean_probability": [mean for mean, _ in bins],
        **curve_table([share for _, share in bins]),
        "num_studies": [share.num_studies for _, share in bins],
    }


def decision_table(studies: Studies, prevalence: float | None) -> dict[str, Any]:
    """Return the decision curve at THRESHOLDS, at a prevalence or that of the studies."""
    of = studies.counted
    points = decision_curve(
        of.labels, of.probabilities, of.patient_ids, THRESHOLDS, prevalence=prevalence
    )
    names = ("net_benefit", "treat_all", "over_treat_all")
    return {
        "threshold": list(map(float, THRESHOLDS)),
        **{name: curve_table([point[name] for point in points]) for name in names},
    }


def point_table(
    studies: Studies, called: Called, rule: Rule, prevalence: float | None
) -> dict[str, Any]:
    """Return the rates of calls.

    Args:
        studies: of known labels, with their calls. Sensitivity, specificity and npv are of those
            seen whole; the others are counted apart, as `partial`.
        rule: for the claim that the statement is about.
        prevalence: for predictive values and alarms elsewhere; None for those of the studies alone.
    """
    found: dict[str, Any] = {
        "rule": str(rule),
        "threshold": called.threshold,
        "thresholds": {str(group): value for group, value in called.thresholds.items()},
        "prevalence": prevalence,
        "reason": called.reason,
    }
    if called.reason is not None:
        return found
    whole, others = studies.counted, studies.of(~studies.is_whole)
    assert studies.calls is not None and whole.calls is not None and others.calls is not None
    found["partial"] = {
        "num_studies": len(others.labels),
        "num_positive": int(others.labels.sum()),
        "num_called": int(np.nansum(others.calls)),
        "num_positive_called": int(np.nansum(others.calls * others.labels)),
    }
    rates = operating_point(whole.labels, whole.calls, whole.patient_ids)
    # Every call is an alarm, also where the study was seen in part.
    every = operating_point(studies.labels, studies.calls == 1, studies.patient_ids)
    rates |= {name: every[name] for name in ("ppv", "alarms", "false_alarms")}
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        found[name] = estimate_table(rates[name])
    for name in ("alarms", "false_alarms"):
        found[f"{name}_per_100"] = estimate_table(rates[name], 100)
    both = rates["sensitivity"], rates["specificity"]
    found["at_prevalence"] = None
    if prevalence is not None:
        there = at_prevalence(*both, prevalence)
        found["at_prevalence"] = {name: estimate_table(there[name]) for name in ("ppv", "npv")}
        found["at_prevalence"]["alarms_per_100"] = estimate_table(there["alarms"], 100)
    over = [at_prevalence(*both, share) for share in PREVALENCES]
    found["over_prevalence"] = {
        "prevalence": list(PREVALENCES),
        **{name: curve_table([point[name] for point in over]) for name in ("ppv", "npv")},
    }
    targets = {rule.kind: rule.value}
    nouns = ("study with the label", "study without the label")
    found["statement"] = {
        name: statement(share, noun, targets.get(name), verb=verb)
        for name, share, noun, verb in zip(
            ("sensitivity", "specificity"), both, nouns, ("found", "not called"), strict=True
        )
    }
    return found


def triage_table(studies: Studies, triaged: Triaged, error_rate: float) -> dict[str, Any]:
    """Return the bounds of a triage, and what it does to studies of known labels."""
    triage = triaged.triage
    found: dict[str, Any] = {
        "error_rate": error_rate,
        "rule_out": None if triage is None else asdict(triage.rule_out),
        "rule_in": None if triage is None else asdict(triage.rule_in),
        "reason": triaged.reason,
    }
    if triage is None:
        return found
    rates = triage_rates(studies.labels, triaged.decisions, studies.patient_ids)
    return found | {name: estimate_table(each) for name, each in rates.items()}
