"""Confidence intervals over patients, since the slices of one patient are alike.

The patients are a sample, and the slices of each come along. `benchmarks/coverage.py` measures how
often each interval holds the true value.

Labels (n, k) are 0, 1 or NaN, probabilities (n, k), patient ids (n,) and the weights of the log
loss (k,). `level` is how often an interval is to hold the true value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from common.scoring.metrics import Floats, require_probabilities, row_log_losses
from common.statistics.areas import area_influence, area_interval
from common.statistics.estimates import (
    LARGEST_LOSS,
    LEAST_PATIENTS,
    LEVEL,
    Codes,
    Interval,
    NoInterval,
    effective_freedom,
    number_patients,
    or_reason,
    require_patients,
    sum_by_patient,
    t_quantile,
    times_exp,
)

# An interval needs this many patients with a positive row; an AUC as many with a negative one too.
MIN_POSITIVE_PATIENTS = {
    "auc": LEAST_PATIENTS,
    "weighted_log_loss": 5,
    "weighted_log_loss_to_prior": 5,
    "weighted_log_loss_to_scored_prior": 5,
    "difference": 2,
}


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
        prior: (k,) or (n, k), the constant to compare with.

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
    codes, num_patients = number_patients(patient_ids)
    patients = y, codes, num_patients, weights
    own = _mean_losses(row_log_losses(y, p), *patients)
    constant = _mean_losses(row_log_losses(y, np.broadcast_to(prior, y.shape)), *patients)
    made: dict[str, Any] = {
        "weighted_log_loss": or_reason(_loss_interval, own, level),
        "weighted_log_loss_to_prior": or_reason(_ratio_interval, own, constant, level),
        "weighted_log_loss_to_scored_prior": or_reason(
            _ratio_interval, own, _scored_prior_losses(*patients), level
        ),
    }
    areas = {
        name: or_reason(
            lambda k: area_interval(area_influence(y[:, k], p[:, k], codes), level), column
        )
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

    Returns:
        difference (None where undefined), interval, [low, high] or None, and reason, why there is
        none.

    Raises:
        ValueError: a probability is NaN or infinite.
    """
    y = np.asarray(labels, dtype=np.float64)
    codes, num_patients = number_patients(patient_ids)
    extra = row_log_losses(y, others) - row_log_losses(y, probabilities)
    losses = _mean_losses(extra, y, codes, num_patients, weights)
    interval, reason = or_reason(_difference_interval, losses, level)
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
        require_patients(self.num_positive, MIN_POSITIVE_PATIENTS[kind], "positive patient")
        if not np.isfinite(self.mean):
            raise NoInterval("a label has no known row")
        if not np.isfinite(self.without_each).all():
            raise NoInterval("all known rows of a label are of one patient")


def _mean_losses(
    losses: Floats,
    labels: Floats,
    codes: Codes,
    num_patients: int,
    weights: Sequence[float],
) -> _Losses:
    """Return the means of losses (n, k), NaN where unknown."""
    sums = _sums(np.nan_to_num(losses, nan=0.0), codes, num_patients)
    return _leave_out(np.divide, sums, labels, codes, weights)


def _scored_prior_losses(
    labels: Floats, codes: Codes, num_patients: int, weights: Sequence[float]
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
    codes: Codes,
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
    return times_exp(losses.mean, half, LARGEST_LOSS)


def _ratio_interval(losses: _Losses, prior: _Losses, level: float) -> Interval:
    losses.require("weighted_log_loss_to_prior")
    logs = np.log(losses.without_each) - np.log(prior.without_each)
    half = _half_width(logs, losses.num_positive, level)
    return times_exp(losses.mean / prior.mean, half, LARGEST_LOSS / prior.mean)


def _difference_interval(losses: _Losses, level: float) -> Interval:
    losses.require("difference")
    half = _half_width(losses.without_each, losses.num_positive, level)
    return [losses.mean - half, losses.mean + half]


def _half_width(without_each: Floats, num_positive: int, level: float) -> float:
    """Return half the width of an interval, from the value without each of the patients.

    It is t times the jackknife's standard error.
    """
    deviations = without_each - without_each.mean()
    scale = np.abs(deviations).max()
    if scale == 0:
        return 0.0
    squares = np.sum((deviations / scale) ** 2)
    error = scale * np.sqrt((len(deviations) - 1) / len(deviations) * squares)
    return float(t_quantile(effective_freedom(deviations, num_positive), level) * error)


def _sums(values: Floats, codes: Codes, num_patients: int) -> Floats:
    return np.stack([sum_by_patient(column, codes, num_patients) for column in values.T], axis=1)
