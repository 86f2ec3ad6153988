"""Fits to few patients: shrunk towards changing nothing, and left out where they do not help.

The slices of a patient are alike, so a label is known as well as the patients of its rarer class
are many, not as its slices are. `shrunk_logistic` weighs the data so, against a normal prior around
no change. `fit_if_it_helps` keeps a fit only where it gains on patients that it has not seen.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, stdtrit

from common.scoring.metrics import Floats

logger = logging.getLogger(__name__)

NUM_FOLDS = 5
# A fit must gain on other patients with this confidence, one-sided.
CONFIDENCE = 0.95

Fitted = TypeVar("Fitted")


@dataclass(frozen=True)
class Rows:
    """Arrays whose first axis is one of rows, or None."""

    def of(self, chosen: ArrayLike) -> Self:
        """Return the chosen rows, by a mask or by their numbers."""
        own = {k: v if v is None else v[np.asarray(chosen)] for k, v in vars(self).items()}
        return replace(self, **own)


@dataclass(frozen=True)
class LabelRows(Rows):
    """The n rows that know a label.

    Attributes:
        labels: (n,) 0 or 1.
        logits: (n,) before anything is fitted.
        patients: (n,) the number of each row's patient.
        features: (n, d) of a regression; none by default.
    """

    labels: Floats
    logits: Floats
    patients: NDArray[np.int64]
    features: Floats | None = None

    @property
    def num_rarer(self) -> int:
        """Patients with a row of the class that fewer patients have."""
        return min(self._num_with(1), self._num_with(0))

    @property
    def share(self) -> float:
        """How much each row counts: the patients of the class with fewer rows, over these rows."""
        num_positives = int(self.labels.sum())
        rarer = 1 if 2 * num_positives <= len(self.labels) else 0
        num_rows = num_positives if rarer else len(self.labels) - num_positives
        return self._num_with(rarer) / num_rows

    def _num_with(self, value: int) -> int:
        return int(np.count_nonzero(np.bincount(self.patients[self.labels == value])))

    def folds(self) -> NDArray[np.int64]:
        """Return (n,) folds of whole patients; each has patients of either class."""
        num_folds = min(NUM_FOLDS, self.num_rarer)
        codes, patients = pd.factorize(self.patients, sort=True)
        positives = np.bincount(codes, weights=self.labels)
        negatives = np.bincount(codes) - positives
        # Patients of both classes come in the middle: so those of either follow each other, and
        # are dealt to every fold.
        order = np.lexsort((-positives, (negatives > 0) * 1 - (positives > 0)))
        fold_of = np.empty(len(patients), dtype=np.int64)
        fold_of[order] = np.arange(len(patients)) % num_folds
        return fold_of[codes]


def number_patients(patient_ids: ArrayLike | None, num_rows: int) -> NDArray[np.int64]:
    """Return (n,) numbers of patients, whatever the order of the rows; None: one for each row."""
    if patient_ids is None:
        return np.arange(num_rows)
    ids = np.asarray(patient_ids)
    codes, _ = pd.factorize(ids.astype(str) if ids.dtype == object else ids, sort=True)
    return codes.astype(np.int64)


def shrunk_logistic(
    labels: Floats,
    offset: Floats,
    features: Floats,
    weights: Floats | float,
    spreads: Sequence[float],
) -> Floats:
    """Return coefficients (d,) of a logistic regression, shrunk towards the offset alone.

    They maximise the weighted log likelihood of the logits `offset + features @ coefficients`, plus
    the log density of independent normal coefficients around 0.

    Args:
        labels: (n,) from 0 to 1.
        offset: (n,) logits.
        features: (n, d).
        weights: (n,) or one for all rows.
        spreads: (d,) standard deviations of the coefficients.
    """
    from scipy.optimize import minimize  # slow to import, and for fits alone

    precision = np.asarray(spreads, dtype=np.float64) ** -2

    def loss(w: Floats) -> tuple[float, Floats]:
        u = offset + features @ w
        value = np.sum(weights * (np.logaddexp(0, u) - labels * u)) + precision @ w**2 / 2
        return float(value), (weights * (expit(u) - labels)) @ features + precision * w

    def hessian(w: Floats) -> Floats:
        p = expit(offset + features @ w)
        return (features.T * (weights * p * (1 - p))) @ features + np.diag(precision)

    # Strictly convex: any start finds the one minimum.
    start = np.zeros(features.shape[1])
    return np.asarray(minimize(loss, start, jac=True, hess=hessian, method="trust-exact").x)


def fit_if_it_helps(
    rows: LabelRows,
    fit: Callable[[LabelRows], Fitted],
    apply: Callable[[Any, LabelRows], Floats],
) -> tuple[Fitted | None, str]:
    """Return what was fitted, or None and the reason where it does not help other patients.

    It helps where its log loss on patients that it was not fitted on is lower than that of the
    rows' own logits, with `CONFIDENCE`: by standard errors over patients, as many as Student's t
    asks for with one degree of freedom less than the rarer class has patients.

    Args:
        fit: fits rows of either class.
        apply: returns the logits of rows.
    """
    if not len(rows.labels):
        return None, "no row knows it"
    if rows.num_rarer < 2:
        return None, "one class is of fewer than two patients"
    gain, error = _gain(rows, fit, apply)
    least = float(stdtrit(rows.num_rarer - 1, CONFIDENCE)) * error
    if gain <= least:
        return None, (
            f"on patients that it was not fitted on the log loss changes by {-gain:+.4f} (standard "
            f"error {error:.4f}, {rows.num_rarer} patients of the rarer class)"
        )
    return fit(rows), ""


def _gain(
    rows: LabelRows,
    fit: Callable[[LabelRows], Fitted],
    apply: Callable[[Any, LabelRows], Floats],
) -> tuple[float, float]:
    """Return how much log loss a cross-fitted fit gains a row, and the standard error of it."""
    folds, fitted = rows.folds(), np.empty(len(rows.logits))
    for fold in np.unique(folds):
        scored = folds == fold
        fitted[scored] = apply(fit(rows.of(~scored)), rows.of(scored))
    raw = rows.logits
    gains = np.logaddexp(0, raw) - np.logaddexp(0, fitted) - rows.labels * (raw - fitted)
    mean = gains.mean()
    codes, patients = pd.factorize(rows.patients)
    # Of a ratio: the sum of the gains over the number of rows, both summed over patients.
    deviations = np.bincount(codes, weights=gains - mean)
    spread = np.sqrt(np.sum(deviations**2) * len(patients) / (len(patients) - 1))
    return float(mean), float(spread / len(gains))
