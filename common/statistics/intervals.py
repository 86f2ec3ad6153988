"""Confidence intervals over patients, since the slices of one patient are alike.

The patients are a sample, and the slices of each come along. `benchmarks/coverage.py` measures how
often each interval holds the true value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student_t

from common.scoring.metrics import Floats, require_probabilities, row_log_losses
from common.words import count

Interval = list[float]

# An interval needs this many patients with a positive row; an AUC as many with a negative one too.
MIN_POSITIVE_PATIENTS = {
    "auc": 2,
    "weighted_log_loss": 5,
    "weighted_log_loss_to_prior": 5,
    "weighted_log_loss_to_scored_prior": 5,
    "difference": 2,
}
LEVEL = 0.95
# Of a certain prediction that is wrong: a 1 is clipped to a little nearer to 1 than a 0 to 0.
_LARGEST_LOSS = float(row_log_losses([1, 0], [0, 1]).max())


class NoInterval(Exception):
    """There is no interval; the message says why."""


def patient_intervals(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: ArrayLike,
    *,
    label_names: Sequence[str],
    weights: Sequence[float],
    prior: ArrayLike,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Return the intervals of an evaluation, each [low, high] or None.

    Args:
        labels: (n, k) 0, 1 or NaN.
        probabilities: (n, k).
        patient_ids: (n,).
        label_names: the k columns' names.
        weights: (k,) of the weighted log loss.
        prior: (k,) or (n, k), the constant to compare with.
        level: how often an interval is to hold the true value.

    Returns:
        weighted_log_loss, its ratio weighted_log_loss_to_prior,
        weighted_log_loss_to_scored_prior (that of the prevalences of the rows) and auc.{label};
        reason, with the same keys: why there is none, or None; num_patients, those with a known
        label; num_positive_patients, those with a positive one; and level.

    Raises:
        ValueError: a probability is NaN or infinite.
    """
    y = np.asarray(labels, dtype=np.float64)
    p = require_probabilities(probabilities, label_names)
    codes, num_patients = _patients(patient_ids)
    patients = y, codes, num_patients, weights
    own = _mean_losses(row_log_losses(y, p), *patients)
    constant = _mean_losses(row_log_losses(y, np.broadcast_to(prior, y.shape)), *patients)
    made: dict[str, Any] = {
        "weighted_log_loss": _or_reason(_loss_interval, own, level),
        "weighted_log_loss_to_prior": _or_reason(_ratio_interval, own, constant, level),
        "weighted_log_loss_to_scored_prior": _or_reason(
            _ratio_interval, own, _scored_prior_losses(*patients), level
        ),
    }
    areas = {
        name: _or_reason(_auc_interval, y[:, column], p[:, column], codes, level)
        for column, name in enumerate(label_names)
    }
    intervals, reasons = (
        {key: pair[place] for key, pair in made.items()}
        | {"auc": {name: pair[place] for name, pair in areas.items()}}
        for place in (0, 1)
    )
    return intervals | {
        "reason": reasons,
        "num_patients": own.num_patients,
        "num_positive_patients": own.num_positive,
        "level": level,
    }


def paired_interval(
    labels: ArrayLike,
    probabilities: ArrayLike,
    others: ArrayLike,
    patient_ids: ArrayLike,
    weights: Sequence[float],
    *,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Return how much more weighted log loss `others` have than `probabilities`, on equal rows.

    Args:
        labels: (n, k) 0, 1 or NaN.
        probabilities, others: (n, k).
        patient_ids: (n,).
        weights: (k,) of the weighted log loss.
        level: as of `patient_intervals`.

    Returns:
        difference (None where undefined), interval, [low, high] or None, and reason, why there is
        none.

    Raises:
        ValueError: a probability is NaN or infinite.
    """
    y = np.asarray(labels, dtype=np.float64)
    codes, num_patients = _patients(patient_ids)
    extra = row_log_losses(y, others) - row_log_losses(y, probabilities)
    losses = _mean_losses(extra, y, codes, num_patients, weights)
    interval, reason = _or_reason(_difference_interval, losses, level)
    return {
        "difference": None if np.isnan(losses.mean) else losses.mean,
        "interval": interval,
        "reason": reason,
    }


@dataclass(frozen=True)
class _Losses:
    """The weighted log loss of all patients with a known label, and without each one."""

    mean: float
    without_each: Floats
    num_patients: int
    num_positive: int

    def require(self, kind: str) -> None:
        """Raise NoInterval where there are too few patients for an interval of this kind."""
        _require_patients(kind, self.num_positive, "positive patient")
        if not np.isfinite(self.mean):
            raise NoInterval("a label has no known row")
        if not np.isfinite(self.without_each).all():
            raise NoInterval("all known rows of a label are of one patient")


def _mean_losses(
    losses: Floats,
    labels: Floats,
    codes: NDArray[np.intp],
    num_patients: int,
    weights: Sequence[float],
) -> _Losses:
    """Return the means of losses (n, k), NaN where unknown."""
    sums = _sums(np.nan_to_num(losses, nan=0.0), codes, num_patients)
    return _leave_out(np.divide, sums, labels, codes, weights)


def _scored_prior_losses(
    labels: Floats, codes: NDArray[np.intp], num_patients: int, weights: Sequence[float]
) -> _Losses:
    """Return the losses of the prevalences of the rows themselves, found anew without each one."""

    def loss(positives: Floats, num_rows: Floats) -> Floats:
        share = positives / num_rows
        p = np.clip(share, 1 / (2 * num_rows), 1 - 1 / (2 * num_rows))
        return np.asarray(-(share * np.log(p) + (1 - share) * np.log1p(-p)))

    positives = _sums((labels == 1).astype(np.float64), codes, num_patients)
    return _leave_out(loss, positives, labels, codes, weights)


def _leave_out(
    loss: Callable[[Floats, Floats], Floats],
    sums: Floats,
    labels: Floats,
    codes: NDArray[np.intp],
    weights: Sequence[float],
) -> _Losses:
    """Return what `loss` makes of sums and of counts of known rows, both by label.

    Args:
        sums: (patients, k).
    """
    counts = _sums((~np.isnan(labels)).astype(np.float64), codes, len(sums))
    is_known = counts.any(axis=1)
    sums, counts = sums[is_known], counts[is_known]
    w = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    all_sums, all_counts = sums.sum(axis=0), counts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = float(loss(all_sums, all_counts) @ w)
        # Where a patient has all rows, what is left of their sum is rounding.
        left = np.where(all_counts > counts, all_counts - counts, np.nan)
        without_each = loss(all_sums - sums, left) @ w
    num_positive = len(np.unique(codes[(labels == 1).any(axis=1)]))
    return _Losses(mean, without_each, int(is_known.sum()), num_positive)


def _loss_interval(losses: _Losses, level: float) -> Interval:
    losses.require("weighted_log_loss")
    half = _half_width(np.log(losses.without_each), losses.num_positive, level)
    return _times_exp(losses.mean, half, _LARGEST_LOSS)


def _ratio_interval(losses: _Losses, prior: _Losses, level: float) -> Interval:
    losses.require("weighted_log_loss_to_prior")
    logs = np.log(losses.without_each) - np.log(prior.without_each)
    half = _half_width(logs, losses.num_positive, level)
    return _times_exp(losses.mean / prior.mean, half, _LARGEST_LOSS / prior.mean)


def _difference_interval(losses: _Losses, level: float) -> Interval:
    losses.require("difference")
    half = _half_width(losses.without_each, losses.num_positive, level)
    return [losses.mean - half, losses.mean + half]


def _half_width(without_each: Floats, num_positive: int, level: float) -> float:
    """Return half the width of an interval, from the value without each of the patients.

    It is t times the jackknife's standard error. A few patients make most of a loss, and of its
    variance: as many equal ones as have the same (sum d^2)^2 / sum d^4 of their deviations d count
    in the degrees of freedom, but no more than there are positive patients.
    """
    deviations = without_each - without_each.mean()
    scale = np.abs(deviations).max()
    if scale == 0:
        return 0.0
    squares = (deviations / scale) ** 2
    num_effective = squares.sum() ** 2 / np.sum(squares**2)
    error = scale * np.sqrt((len(squares) - 1) / len(squares) * squares.sum())
    return float(_quantile(min(num_effective, num_positive) - 1, level) * error)


def _times_exp(value: float, half_width: float, largest: float) -> Interval:
    """Return value / e^h and value * e^h, at most `largest`."""
    with np.errstate(over="ignore"):
        factor = float(np.exp(half_width))
    return [value / factor, min(value * factor, largest)]


def _auc_interval(
    labels: Floats, probabilities: Floats, codes: NDArray[np.intp], level: float
) -> Interval:
    """Return a score interval of one label's AUC.

    It holds every area A that is no further from the estimate than the larger of two distances: t
    times DeLong's standard error over patients, and z times the error which an area A has by Hanley
    and McNeil with as many patients as weigh like those seen (Kish). The first one alone is too
    small where all positive patients seen happen to rank high.

    Sources: Obuchowski, Biometrics 1997, 567-578; Newcombe, Statistics in Medicine 2006, 559-573,
    method 5; Kish, Survey Sampling, 1965, 8.2.
    """
    is_positive, is_negative = labels == 1, labels == 0
    p_positive, p_negative = probabilities[is_positive], probabilities[is_negative]
    num_patients = int(codes.max()) + 1 if len(codes) else 0
    positives, negatives = (
        np.bincount(codes[rows], minlength=num_patients).astype(np.float64)
        for rows in (is_positive, is_negative)
    )
    num_positive, num_negative = int(np.sum(positives > 0)), int(np.sum(negatives > 0))
    _require_patients("auc", num_positive, "positive patient")
    _require_patients("auc", num_negative, "negative patient")
    won = _share_below(p_positive, p_negative)
    lost = 1 - _share_below(p_negative, p_positive)
    area = float(won.mean())
    # The share of each patient in the deviation of the area.
    by_positives = np.bincount(codes[is_positive], won - area, num_patients) / positives.sum()
    by_negatives = np.bincount(codes[is_negative], lost - area, num_patients) / negatives.sum()
    num_known = int(np.sum(positives + negatives > 0))
    variance = (
        num_positive / (num_positive - 1) * np.sum(by_positives**2)
        + num_negative / (num_negative - 1) * np.sum(by_negatives**2)
        + 2 * num_known / (num_known - 1) * np.sum(by_positives * by_negatives)
    )
    distance = _quantile(min(num_positive, num_negative) - 1, level) * np.sqrt(max(variance, 0.0))
    sizes = _kish(positives), _kish(negatives)
    low = _lowest_area(area, float(distance), sizes, level)
    return [low, 1 - _lowest_area(1 - area, float(distance), sizes, level)]


def _share_below(values: Floats, others: Floats) -> Floats:
    """Return for each value the share of `others` below it, those equal to it counted half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, side="left")
    return (below + np.searchsorted(ordered, values, side="right")) / (2 * len(others))


def _kish(sizes: Floats) -> float:
    """Return how many groups of one size weigh like groups of these sizes."""
    return float(sizes.sum() ** 2 / np.sum(sizes**2))


def _lowest_area(area: float, distance: float, sizes: tuple[float, float], level: float) -> float:
    """Return the least A within `distance` of `area`, or within z times the error that A has."""
    num_positive, num_negative = sizes
    others = (num_positive + num_negative) / 2 - 1
    z = float(norm.ppf((1 + level) / 2))

    def excess(a: float) -> float:
        alike = 1 + others * ((1 - a) / (2 - a) + a / (1 + a))
        variance = a * (1 - a) * alike / (num_positive * num_negative)
        return (area - a) ** 2 - max(distance**2, z**2 * variance)

    # At 1 the model has no variance, so that nothing would be left to look for.
    return float(brentq(excess, 0.0, min(area, 1 - 1e-9))) if excess(0.0) > 0 else 0.0


def _patients(patient_ids: ArrayLike) -> tuple[NDArray[np.intp], int]:
    codes, patients = pd.factorize(np.asarray(patient_ids))
    assert (codes >= 0).all(), "every row needs a patient id"
    return codes, len(patients)


def _sums(values: Floats, codes: NDArray[np.intp], num_patients: int) -> Floats:
    columns = [np.bincount(codes, column, num_patients) for column in values.T]
    return np.stack(columns, axis=1)


def _quantile(freedom: float, level: float) -> float:
    """Return the quantile of Student's t, finite also where there is next to no freedom."""
    return float(student_t.ppf((1 + level) / 2, max(freedom, 0.1)))


def _require_patients(kind: str, number: int, noun: str) -> None:
    least = MIN_POSITIVE_PATIENTS[kind]
    if number < least:
        raise NoInterval(f"{count(number, noun)}, at least {least} needed")


def _or_reason(make: Any, *arguments: Any) -> tuple[Interval | None, str | None]:
    """Return the interval that `make` returns, or why there is none."""
    try:
        return make(*arguments), None
    except NoInterval as reason:
        return None, str(reason)
