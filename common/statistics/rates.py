"""Shares of studies with Wilson intervals, patients clustered, and what follows from them.

Sensitivity and specificity are shares; predictive values at a prevalence, alarms and net benefit
are computed from both, and so are their intervals. `benchmarks/study_coverage.py` measures how
often each interval holds the true value.

Labels (n,) are 0, 1 or NaN: such studies don't count. Probabilities and patient ids are (n,).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from common.scoring.metrics import Floats
from common.statistics.estimates import (
    LEAST_PATIENTS,
    LEVEL,
    Codes,
    Estimate,
    Interval,
    NoInterval,
    kish_size,
    number_patients,
    sum_by_patient,
)
from common.words import count

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Rate(Estimate):
    """A share of studies.

    Attributes:
        num_found, num_studies: numerator and denominator.
        num_patients: of the studies.
        num_effective: studies of as many patients that would say as much.
    """

    num_found: int = 0
    num_studies: int = 0
    num_patients: int = 0
    num_effective: float = 0.0

    @property
    def complement(self) -> "Rate":
        if self.value is None or self.low is None or self.high is None:
            return self
        return replace(
            self,
            value=1 - self.value,
            low=1 - self.high,
            high=1 - self.low,
            num_found=self.num_studies - self.num_found,
        )


def wilson_interval(share: float, number: float, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of a share of `number` independent trials.

    Source: Wilson, JASA 1927, 209-212.
    """
    z = float(ndtri((1 + level) / 2))
    center = share + z**2 / (2 * number)
    half = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    low, high = ((center + side) / (1 + z**2 / number) for side in (-half, half))
    # Exact ends, which rounding may miss.
    return [low if share > 0 else 0.0, high if share < 1 else 1.0]


def rate(
    is_found: ArrayLike, patient_ids: ArrayLike, *, noun: str = "study", level: float = LEVEL
) -> Rate:
    """Return the share of studies that are found, with Wilson's interval.

    Studies of a patient are alike: they count as their number divided by the design effect.

    Args:
        is_found: (n,) of the studies that count.
        noun: of such a study, for the reason.
    """
    found: Bools = np.asarray(is_found, dtype=bool)
    if not len(found):
        return Rate(None, reason=f"no {noun}")
    codes, num_patients = number_patients(patient_ids)
    number = effective_number(found, codes, num_patients)
    share = float(found.mean())
    low, high = wilson_interval(share, number, level)
    all_of = Rate(share, low, high, None, int(found.sum()), len(found), num_patients, number)
    if num_patients >= LEAST_PATIENTS:
        return all_of
    reason = f"{count(num_patients, f'patient with a {noun}')}, at least {LEAST_PATIENTS} needed"
    return replace(all_of, low=None, high=None, reason=reason)


def effective_number(is_found: Bools, codes: Codes, num_patients: int) -> float:
    """Return how many studies of different patients say as much about a share.

    At most all, at least as many as if studies of a patient were equal (Kish): so many where all
    studies are found, or none, as nothing can be estimated there. Else the mean of that and of the
    number by the estimated design effect, the variance of the share over patients by the binomial
    one: alone it is too uncertain where few patients have several studies.

    Source: Rao and Scott, Biometrics 1992, 577-585.
    """
    number, share = len(is_found), float(is_found.mean())
    sizes = np.bincount(codes, minlength=num_patients).astype(np.float64)
    alike = kish_size(sizes)
    if num_patients in (1, number) or share in (0.0, 1.0):
        return alike
    deviations = sum_by_patient(is_found, codes, num_patients) - share * sizes
    variance = num_patients / (num_patients - 1) * float(deviations @ deviations) / number**2
    estimated = share * (1 - share) / variance if variance else np.inf
    return float((alike + np.clip(estimated, alike, number)) / 2)


def weighted_sum(
    terms: Sequence[tuple[float, Estimate]], constant: float = 0.0, *, clip: bool = False
) -> Estimate:
    """Return constant + sum of weight * estimate of independent estimates, its interval by MOVER.

    Args:
        clip: true where the sum is a share.

    Source: Zou and Donner, Statistics in Medicine 2008, 1693-1702.
    """
    value, below, above = constant, 0.0, 0.0
    try:
        for weight, part in terms:
            share, *limits = part.limits()
            value += weight * share
            ends = sorted(weight * (limit - share) for limit in limits)
            below, above = below + ends[0] ** 2, above + ends[1] ** 2
    except NoInterval as reason:
        return Estimate(None, reason=str(reason))
    low, high = value - math.sqrt(below), value + math.sqrt(above)
    return Estimate(value, max(low, 0.0) if clip else low, min(high, 1.0) if clip else high)


def rate_ratio(numerator: Rate, denominator: Rate) -> tuple[float, float, float]:
    """Return a ratio of independent rates and its limits by MOVER; infinite where divided by 0.

    Raises:
        NoInterval: a rate has none, or both are 0.

    Source: Donner and Zou, Statistical Methods in Medical Research 2012, 347-359.
    """
    (a, *of_a), (b, *of_b) = numerator.limits(), denominator.limits()
    if a == b == 0:
        raise NoInterval("no such call")
    a_low, a_high = (limit * (2 * a - limit) for limit in of_a)
    b_low, b_high = (limit * (2 * b - limit) for limit in of_b)
    # Multiplied out, so that a limit of the denominator near twice its value divides nothing by 0.
    root = a * b + math.sqrt(max((a * b) ** 2 - a_low * b_high, 0.0))
    top = a * b + math.sqrt(max((a * b) ** 2 - a_high * b_low, 0.0))
    low, high = a_low / root if root else 0.0, top / b_low if b_low > 0 else math.inf
    return a / b if b else math.inf, low, high


def predictive_value(right: Rate, other: Rate, share: float) -> Estimate:
    """Return the share of right ones among calls, or among those not called.

    Args:
        right: sensitivity for the positive predictive value, specificity for the negative one.
        other: specificity, or sensitivity.
        share: of studies that the call is right for: prevalence, or 1 - prevalence.
    """
    try:
        ratios = rate_ratio(other.complement, right)
    except NoInterval as reason:
        return Estimate(None, reason=str(reason))
    value, high, low = (share / (share + (1 - share) * each) if share else 0.0 for each in ratios)
    return Estimate(value, low, high)


# Of which studies, which of them are found (both functions of is_positive and is_called), and the
# noun of such a study; a new share is a row.
_Choice = Callable[[Bools, Bools], Bools]
RATES: dict[str, tuple[_Choice, _Choice, str]] = {
    "sensitivity": (lambda y, c: y, lambda y, c: c, "positive study"),
    "specificity": (lambda y, c: ~y, lambda y, c: ~c, "negative study"),
    "ppv": (lambda y, c: c, lambda y, c: y, "study that is called"),
    "npv": (lambda y, c: ~c, lambda y, c: ~y, "study that is not called"),
    "alarms": (lambda y, c: y | ~y, lambda y, c: c, "study"),
    "false_alarms": (lambda y, c: y | ~y, lambda y, c: c & ~y, "study"),
}


def operating_point(labels: ArrayLike, calls: ArrayLike, patient_ids: ArrayLike) -> dict[str, Rate]:
    """Return the rates of RATES by their names; multiply those of alarms by 100 for 100 studies.

    Args:
        calls: (n,) bool, probability >= the threshold of the study.
    """
    y, patients = np.asarray(labels, dtype=np.float64), np.asarray(patient_ids)
    known = ~np.isnan(y)
    positive, called, owners = y[known] == 1, np.asarray(calls, dtype=bool)[known], patients[known]
    found = {}
    for name, (of, is_found, noun) in RATES.items():
        chosen = of(positive, called)
        hits = is_found(positive, called)[chosen]
        found[name] = rate(hits, owners[chosen], noun=noun)
    return found


def at_prevalence(sensitivity: Rate, specificity: Rate, prevalence: float) -> dict[str, Estimate]:
    """Return ppv, npv and alarms (per study) where this share of studies is positive."""
    terms = ((prevalence, sensitivity), (1 - prevalence, specificity.complement))
    return {
        "ppv": predictive_value(sensitivity, specificity, prevalence),
        "npv": predictive_value(specificity, sensitivity, 1 - prevalence),
        "alarms": weighted_sum(terms, clip=True),
    }


def net_benefit(
    sensitivity: Rate, specificity: Rate, prevalence: float, threshold: float
) -> dict[str, Estimate]:
    """Return the net benefit per study of calls, and how much more it is than that of all called.

    A false alarm costs threshold / (1 - threshold) of what a found study gains; none called is 0.

    Source: Vickers and Elkin, Medical Decision Making 2006, 565-574.
    """
    cost = (1 - prevalence) * threshold / (1 - threshold)
    terms = ((prevalence, sensitivity), (-cost, specificity.complement))
    return {
        "net_benefit": weighted_sum(terms),
        "treat_all": Estimate(prevalence - cost, prevalence - cost, prevalence - cost),
        "over_treat_all": weighted_sum(terms, cost - prevalence),
    }


def decision_curve(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: ArrayLike,
    thresholds: ArrayLike,
    *,
    prevalence: float | None = None,
) -> list[dict[str, Estimate]]:
    """Return `net_benefit` at each threshold probability in (0, 1).

    Args:
        prevalence: that of the known labels by default, taken as given.
    """
    y = np.asarray(labels, dtype=np.float64)
    p, known = np.asarray(probabilities, dtype=np.float64), ~np.isnan(y)
    owners, _ = number_patients(patient_ids)
    if prevalence is None:
        prevalence = float(y[known].mean()) if known.any() else math.nan
    curve = []
    for threshold in np.asarray(thresholds, dtype=np.float64).tolist():
        called = p >= threshold
        found = rate(called[y == 1], owners[y == 1], noun="positive study")
        passed = rate(~called[y == 0], owners[y == 0], noun="negative study")
        curve.append(net_benefit(found, passed, prevalence, threshold))
    return curve


def studies_needed(
    target: float, expected: float = 1.0, *, design_effect: float = 1.0
) -> int | None:
    """Return of how many studies the Wilson interval begins at `target` or above.

    Args:
        expected: share of them that will be found.
        design_effect: studies by effective ones of the data at hand.

    Returns:
        None where no number is enough, as no more than the target is expected.
    """
    if expected <= target:
        return None
    z = float(ndtri((1 + LEVEL) / 2))
    needed = z**2 * target * (1 - target) / (expected - target) ** 2
    return math.ceil(needed * design_effect - 1e-9)


def statement(found: Rate, noun: str, target: float | None = None, *, verb: str = "found") -> str:
    """Return in words how sure a rate is, by the interval that is shown, and what a claim takes.

    Args:
        noun: of the studies that count, such as `study with a bleed`.
        target: the rate to claim.
        verb: what is done to those that count as found.
    """
    if found.value is None or found.low is None:
        return f"{found.reason}: nothing can be claimed"
    counts = f"{found.num_found} of {found.num_studies}"
    text = f"{counts} {verb}: at least {found.low:.2f} with {100 * LEVEL:g} %"
    if target is None:
        return text
    if found.low >= target:
        return f"{text}, which is enough to claim {target:g}"
    effect = found.num_studies / found.num_effective
    needed = studies_needed(target, found.value, design_effect=effect)
    if needed is None:
        return f"{text}; {target:g} can't be claimed: only {found.value:.3g} were {verb}"
    first, _, rest = noun.partition(" ")
    studies = f"{count(needed, first)} {rest}".strip()
    return (
        f"{text}; too few to claim {target:g}: it takes about {studies} "
        f"if {found.value:.2f} of them are {verb}"
    )


def mean_rate_by_bin(
    labels: ArrayLike, probabilities: ArrayLike, patient_ids: ArrayLike, num_bins: int
) -> list[tuple[float, Rate]]:
    """Return mean probability and share of positives of each bin that `reliability` has."""
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    known = ~np.isnan(y)
    y, p, owners = y[known], p[known], np.asarray(patient_ids)[known]
    bins: Floats = np.minimum((p * num_bins).astype(np.int64), num_bins - 1)
    return [
        (float(p[bins == chosen].mean()), rate(y[bins == chosen] == 1, owners[bins == chosen]))
        for chosen in np.unique(bins)
    ]
