"""Shared by all statistics: a value with its interval, and how a value depends on each patient.

The patients are a sample, and all rows of each come along: a study, or a slice.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from common.scoring.metrics import Floats, row_log_losses
from common.words import count

Interval = list[float]
Codes = NDArray[np.intp]

LEVEL = 0.95
# An interval needs this many patients: of one, that of a share of 0.9 holds it in 0.9 of cohorts.
LEAST_PATIENTS = 2
# Of a certain prediction that is wrong: a 1 is clipped to a little nearer to 1 than a 0 to 0.
LARGEST_LOSS = float(row_log_losses([1, 0], [0, 1]).max())


class NoInterval(Exception):
    """There is no interval; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """A value and its interval.

    Attributes:
        value: None where it is undefined.
        low, high: None where there is no interval.
        reason: why there is none; None where there is one.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def limits(self) -> tuple[float, float, float]:
        """Return value, low and high, or raise NoInterval."""
        if self.value is None or self.low is None or self.high is None:
            raise NoInterval(self.reason)
        return self.value, self.low, self.high


@dataclass(frozen=True)
class Difference(Estimate):
    """An estimate minus another.

    Attributes:
        p_value, adjusted_p_value: of no difference, two-sided; the latter by Holm for all
            differences that belong together.
    """

    p_value: float | None = None
    adjusted_p_value: float | None = None


@dataclass(frozen=True)
class Influence:
    """A value, and what each patient adds to its deviation from the true one.

    Attributes:
        parts: (k, patients), each part has the mean 0: of the positive and of the negative rows of
            an AUC, one of all rows otherwise.
        rows: (k, patients) number of rows that are in each part.
        num_positive, num_negative: patients with such a row.
    """

    value: float
    parts: Floats
    rows: Floats
    num_positive: int
    num_negative: int

    def __sub__(self, other: "Influence") -> "Influence":
        """Return the difference of two values of the same rows."""
        return replace(self, value=self.value - other.value, parts=self.parts - other.parts)

    @property
    def variance(self) -> float:
        """The variance of the value over patients.

        Source: Obuchowski, Biometrics 1997, 567-578; with one row a patient it is that of DeLong.
        """
        factors = np.array([_unbiased(int(np.sum(rows > 0))) for rows in self.rows])
        own = float(factors @ np.sum(self.parts**2, axis=1))
        total = self.parts.sum(axis=0)
        shared = float(total @ total - np.sum(self.parts**2))
        return max(own + _unbiased(int(np.sum(self.rows.any(axis=0)))) * shared, 0.0)

    def half_width(self, level: float) -> float:
        """Return half the width of an interval of the value on the plain scale."""
        error = float(np.sqrt(self.variance))
        return t_quantile(self.freedom, level) * error if error else 0.0

    @property
    def freedom(self) -> float:
        return effective_freedom(self.parts.sum(axis=0), min(self.num_positive, self.num_negative))

    def require_patients(self, least: int) -> None:
        """Raise NoInterval where there are fewer positive or fewer negative patients."""
        require_patients(self.num_positive, least, "positive patient")
        require_patients(self.num_negative, least, "negative patient")


def number_patients(patient_ids: ArrayLike) -> tuple[Codes, int]:
    """Return the number of each row's patient, from 0, and how many there are."""
    codes, patients = pd.factorize(np.asarray(patient_ids))
    assert (codes >= 0).all(), "every row needs a patient id"
    return codes, len(patients)


def sum_by_patient(values: ArrayLike, codes: Codes, num_patients: int) -> Floats:
    """Return the sums (patients,) of values (n,)."""
    sums = np.bincount(codes, np.asarray(values, dtype=np.float64), num_patients)
    return sums.astype(np.float64)


def kish_size(sizes: Floats) -> float:
    """Return how many groups of one size weigh like groups of these sizes (Kish 1965, 8.2)."""
    return float(sizes.sum() ** 2 / np.sum(sizes**2))


def effective_freedom(deviations: Floats, num_rarer: int) -> float:
    """Return the degrees of freedom of a variance that patients' deviations make.

    A few patients make most of a loss, and of its variance: as many equal ones as have the same
    (sum d^2)^2 / sum d^4 of their deviations d count, but no more than the rarer class has.
    """
    scale = np.abs(deviations).max()
    squares = (deviations / scale) ** 2 if scale else np.ones(len(deviations))
    return min(float(squares.sum() ** 2 / np.sum(squares**2)), num_rarer) - 1


def t_quantile(freedom: float, level: float) -> float:
    """Return the quantile of Student's t, finite also where there is next to no freedom."""
    return float(stdtrit(max(freedom, 0.1), (1 + level) / 2))


def require_patients(number: int, least: int, noun: str) -> None:
    """Raise NoInterval where there are fewer than `least`."""
    if number < least:
        raise NoInterval(f"{count(number, noun)}, at least {least} needed")


def or_reason(make: Callable[..., Interval], *arguments: Any) -> tuple[Interval | None, str | None]:
    """Return the interval that `make` returns, or why there is none."""
    try:
        return make(*arguments), None
    except NoInterval as reason:
        return None, str(reason)


def times_exp(value: float, half_width: float, largest: float) -> Interval:
    """Return value / e^h and value * e^h, at most `largest`."""
    with np.errstate(over="ignore"):
        factor = float(np.exp(half_width))
    return [value / factor, min(value * factor, largest)]


def _unbiased(number: int) -> float:
    return number / (number - 1) if number > 1 else np.nan
