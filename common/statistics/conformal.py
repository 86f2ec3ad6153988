"""Rule in, rule out, or leave to a person, with error rates that hold for any network.

Class-conditional split conformal prediction of one label: whatever the network and the data, as
long as new patients are like those of the calibration, at most the chosen share of patients with a
positive study is ruled out, and at most the chosen share of those with a negative one is ruled in.
Calibration patients must be others than those that trained, and than those that are scored.

Labels (n,) are 0, 1 or NaN: such studies don't count. Probabilities and patient ids are (n,).

Sources: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005, 4.5; Vovk, ACML
2012, 475-490.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from common.scoring.metrics import Floats, require_probabilities
from common.statistics.estimates import LEVEL, number_patients
from common.statistics.rates import Rate, rate
from common.words import count

RULE_IN, RULE_OUT, READ = "rule_in", "rule_out", "read"
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Bound:
    """One side of a triage.

    Attributes:
        value: probabilities beyond it are decided; None where none is.
        error_rate: the chosen one, of new patients, over calibrations and patients.
        error_at_most: the rate of this very calibration is below it with 95 %.
        num_patients: of the calibration, of this class.
        reason: why there is no value; None where there is one.
    """

    value: float | None
    error_rate: float
    error_at_most: float | None
    num_patients: int
    reason: str | None = None


@dataclass(frozen=True)
class Triage:
    """Probabilities below `rule_out.value` are ruled out, those above `rule_in.value` ruled in.

    What is both, or neither, is left to a person.
    """

    rule_out: Bound
    rule_in: Bound

    def decide(self, probabilities: ArrayLike) -> NDArray[np.str_]:
        """Return rule_in, rule_out or read for probabilities (n,)."""
        p = require_probabilities(probabilities)
        out = p < (-np.inf if self.rule_out.value is None else self.rule_out.value)
        into = p > (np.inf if self.rule_in.value is None else self.rule_in.value)
        return np.where(out & ~into, RULE_OUT, np.where(into & ~out, RULE_IN, READ))


def patients_needed(error_rate: float) -> int:
    """Return how many calibration patients of a class an error rate needs, to decide anything.

    Raises:
        InputError: the rate is not between 0 and 1.
    """
    if not 0 < error_rate < 1:
        raise InputError(f"error rate {error_rate:g}: must be between 0 and 1")
    return math.ceil(1 / error_rate - 1 - _ROUNDING)


def fit_triage(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: ArrayLike,
    *,
    rule_out_error: float,
    rule_in_error: float,
) -> Triage:
    """Return the triage of one label.

    A patient counts once in a class, with the least probability of his positive studies and the
    largest of his negative ones: patients are exchangeable, studies of one are not.

    Args:
        rule_out_error: share of patients with a positive study who may have one ruled out.
        rule_in_error: share of those with a negative one who may have one ruled in.
    """
    y, p = np.asarray(labels, dtype=np.float64), require_probabilities(probabilities)
    owners = np.asarray(patient_ids)
    positive, negative = y == 1, y == 0
    out = _bound(p[positive], owners[positive], rule_out_error, "positive")
    into = _bound(-p[negative], owners[negative], rule_in_error, "negative")
    return Triage(out, replace(into, value=None if into.value is None else -into.value))


def _bound(values: Floats, patient_ids: ArrayLike, error_rate: float, noun: str) -> Bound:
    """Return the value below which at most `error_rate` of new patients' least values lie.

    Of n + 1 patients in any order, the last is below the k-th least of the others with probability
    k / (n + 1), less where values are equal.
    """
    from scipy.stats import beta  # slow to import, and for fits alone

    needed = patients_needed(error_rate)
    codes, number = number_patients(patient_ids)
    if number < needed:
        reason = f"{count(number, f'{noun} patient')}, at least {needed} needed"
        return Bound(None, error_rate, None, number, reason)
    least = np.full(number, np.inf)
    np.minimum.at(least, codes, values)
    k = math.floor(error_rate * (number + 1) + _ROUNDING)
    at_most = float(beta.ppf(LEVEL, k, number + 1 - k))
    return Bound(float(np.partition(least, k - 1)[k - 1]), error_rate, at_most, number)


def triage_rates(
    labels: ArrayLike, decisions: ArrayLike, patient_ids: ArrayLike
) -> dict[str, Rate]:
    """Return what a triage does to studies that it was not calibrated on.

    Args:
        decisions: (n,) of `Triage.decide`.

    Returns:
        decided: share of studies not left to a person; ruled_out, ruled_in: of all;
        errors: wrong among the decided; missed: ruled out among the positive;
        false_alarms: ruled in among the negative; missed_among_ruled_out; wrong_among_ruled_in.
    """
    y = np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(y)
    positive, owners = y[known] == 1, np.asarray(patient_ids)[known]
    decided = np.asarray(decisions)[known]
    out, into, all_rows = decided == RULE_OUT, decided == RULE_IN, np.ones(len(decided), bool)
    wrong = (out & positive) | (into & ~positive)
    rows = {
        "decided": (all_rows, out | into, "study"),
        "ruled_out": (all_rows, out, "study"),
        "ruled_in": (all_rows, into, "study"),
        "errors": (out | into, wrong, "study that is decided"),
        "missed": (positive, out, "positive study"),
        "false_alarms": (~positive, into, "negative study"),
        "missed_among_ruled_out": (out, positive, "study that is ruled out"),
        "wrong_among_ruled_in": (into, ~positive, "study that is ruled in"),
    }
    return {
        name: rate(found[chosen], owners[chosen], noun=noun)
        for name, (chosen, found, noun) in rows.items()
    }
