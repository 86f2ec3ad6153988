"""Scores of one label over studies, with intervals over patients; and experiments compared.

A score is a function that returns its value and the influence of each patient on it, and a row of
SCORES. Intervals and comparisons follow from that: the variance of a value, or of the difference of
two, is that of the patients' influences (the infinitesimal jackknife; for the AUC DeLong's).

Labels (n,) are 0, 1 or NaN: such studies don't count. Probabilities and patient ids are (n,); for a
score of all labels, labels and probabilities are (n, k).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, stdtr

from common.scoring.directions import Direction
from common.scoring.metrics import PROBABILITY_FLOOR, Floats, require_probabilities, row_log_losses
from common.scoring.shrinkage import shrunk_logistic
from common.statistics.areas import area_influence, area_interval
from common.statistics.estimates import (
    LARGEST_LOSS,
    LEVEL,
    Codes,
    Difference,
    Estimate,
    Influence,
    Interval,
    NoInterval,
    number_patients,
    sum_by_patient,
    times_exp,
)
from common.statistics.permutation import holm


def _influence(value: float, by_row: Floats, labels: Floats, codes: Codes) -> Influence:
    """Return the influence that the influences (n,) of rows add up to."""
    num_patients = int(codes.max()) + 1
    num_positive, num_negative = (len(np.unique(codes[labels == chosen])) for chosen in (1.0, 0.0))
    rows = sum_by_patient(np.ones(len(codes)), codes, num_patients)
    parts = sum_by_patient(by_row, codes, num_patients)
    return Influence(value, parts[None], rows[None], num_positive, num_negative)


def weighted_log_loss_score(weights: Sequence[float]) -> "Score":
    """Return the log loss of all labels, weighted, as a score of labels (n, k)."""

    def influence(labels: Floats, probabilities: Floats, codes: Codes) -> Influence:
        losses, known = row_log_losses(labels, probabilities), ~np.isnan(labels)
        if not known.any(axis=0).all():
            raise NoInterval("a label has no known study")
        means = np.nanmean(losses, axis=0)
        shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        by_row = np.nan_to_num((losses - means) / known.sum(axis=0)) @ shares
        has_any = (labels == 1).any(axis=1).astype(np.float64)
        return _influence(float(means @ shares), by_row, has_any, codes)

    return Score(influence, _loss_scale, "min", 5)


def _mean_loss(
    labels: Floats, probabilities: Floats, codes: Codes, *, loss: Callable[[Floats, Floats], Floats]
) -> Influence:
    """Return the mean of a loss of labels and probabilities (n,)."""
    if not len(labels):
        raise NoInterval("no study with a known label")
    losses = loss(labels, probabilities)
    mean = float(losses.mean())
    return _influence(mean, (losses - mean) / len(losses), labels, codes)


def average_precision_influence(labels: Floats, probabilities: Floats, codes: Codes) -> Influence:
    """Return the step-wise area under the precision-recall curve.

    The influence of a row is the derivative of the area by the weight of the row: it adds to the
    counts at all thresholds up to its own probability.

    Raises:
        NoInterval: there is no positive row.
    """
    num_positive = labels.sum()
    if not num_positive:
        raise NoInterval("no positive study")
    values, place = np.unique(-probabilities, return_inverse=True)
    positives = np.bincount(place, labels, len(values))
    called = np.cumsum(np.bincount(place, minlength=len(values)))
    precision = np.cumsum(positives) / called
    area = float(positives @ precision / num_positive)
    # Sums over the thresholds at and below each value.
    rises, falls = (
        np.cumsum((positives * change / called)[::-1])[::-1] for change in (1.0, precision)
    )
    by_value = labels * (precision[place] - area + rises[place]) - falls[place]
    return _influence(area, by_value / num_positive, labels, codes)


def _recalibration(
    y: Floats, p: Floats, codes: Codes, *, column: int = 0, fixed_slope: bool = False
) -> Influence:
    """Return a coefficient of a logistic regression of the label on the logit.

    Its variance is the sandwich over patients.

    Args:
        column: 0 for the slope, 1 if calibrated; 1 for the intercept, 0 if calibrated.
        fixed_slope: the intercept with a slope of 1: above 0 where probabilities are too low.

    Raises:
        NoInterval: one class only, one logit only, or a logit separates the classes: there the
            likelihood has no maximum.
    """
    x = logit(np.clip(p, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR))
    positive, negative = x[y == 1], x[y == 0]
    if not len(positive) or not len(negative):
        raise NoInterval(f"no {'negative' if len(positive) else 'positive'} study")
    ones = np.ones_like(x)
    if fixed_slope:
        features, offset = ones[:, None], x
    else:
        if x.max() == x.min():
            raise NoInterval("all probabilities are equal")
        if positive.min() >= negative.max() or positive.max() <= negative.min():
            raise NoInterval("a threshold separates positive from negative studies")
        # Centred and scaled, or the slopes of sharp networks are lost to rounding.
        center, scale = x.mean(), x.std()
        features, offset = np.stack([(x - center) / scale, ones], axis=1), np.zeros_like(x)
    beta, by_row = _fit(features, offset, y)
    if fixed_slope:
        return _influence(float(beta[0]), by_row[0], y, codes)
    back = np.array([[1 / scale, 0.0], [-center / scale, 1.0]])[column]
    return _influence(float(back @ beta), back @ by_row, y, codes)


def _fit(features: Floats, offset: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Return the coefficients of largest likelihood, and how each row moves them."""
    beta = shrunk_logistic(labels, offset, features, 1.0, [np.inf] * features.shape[1])
    # That search ends near the maximum; Newton's steps end on it.
    for _ in range(4):
        fitted = expit(offset + features @ beta)
        information = (features * (fitted * (1 - fitted))[:, None]).T @ features
        try:
            by_row = np.linalg.solve(information, (features * (labels - fitted)[:, None]).T)
        except np.linalg.LinAlgError:
            raise NoInterval("the recalibration has no finite fit") from None
        step = by_row.sum(axis=1)
        beta = beta + step
    if not np.abs(step).max() <= 1e-8 * max(1.0, float(np.abs(beta).max())):
        raise NoInterval("the recalibration has no finite fit")
    return beta, by_row


def _plain(influence: Influence, level: float) -> Interval:
    half = influence.half_width(level)
    return [influence.value - half, influence.value + half]


def _log_scale(influence: Influence, level: float, largest: float) -> Interval:
    if not influence.value:
        raise NoInterval("a loss of 0")
    value = influence.value
    return times_exp(value, influence.half_width(level) / value, largest)


def _logit_scale(influence: Influence, level: float) -> Interval:
    value = influence.value
    if value >= 1:
        raise NoInterval("every positive study is ranked first")
    half = influence.half_width(level) / (value * (1 - value))
    return [float(expit(logit(value) - half)), float(expit(logit(value) + half))]


@dataclass(frozen=True)
class Score:
    """How a score is computed.

    Attributes:
        influence: of labels, probabilities, patients' numbers; all (n,), labels known.
        interval: of an influence at a level.
        better: `min` or `max`; None where neither is, and experiments are not compared.
        least, least_paired: patients of the rarer class from which on the interval of a score, and
            of a difference, is shown, by the coverage that `benchmarks/study_coverage.py` measures.
        span: no two values differ by more.
    """

    influence: Callable[[Floats, Floats, Codes], Influence]
    interval: Callable[[Influence, float], Interval]
    better: Direction | None
    least: int
    least_paired: int = 2
    span: float = np.inf


_loss_scale = partial(_log_scale, largest=LARGEST_LOSS)
_unit_scale = partial(_log_scale, largest=1.0)
_log_loss = partial(_mean_loss, loss=row_log_losses)
_squared_error = partial(_mean_loss, loss=lambda labels, p: (p - labels) ** 2)
_intercept = partial(_recalibration, column=1)
_in_the_large = partial(_recalibration, fixed_slope=True)
SCORES = {
    "auc": Score(area_influence, area_interval, "max", 2, span=1.0),
    "average_precision": Score(average_precision_influence, _logit_scale, "max", 2, 10, 1.0),
    "log_loss": Score(_log_loss, _loss_scale, "min", 5),
    "brier": Score(_squared_error, _unit_scale, "min", 5, span=1.0),
    "calibration_slope": Score(_recalibration, _plain, None, 2),
    "calibration_intercept": Score(_intercept, _plain, None, 2),
    "calibration_in_the_large": Score(_in_the_large, _plain, None, 2),
}


def score(
    name: str | Score, labels: ArrayLike, probabilities: ArrayLike, patient_ids: ArrayLike
) -> Estimate:
    """Return a score of SCORES with its interval.

    Args:
        name: of SCORES, or a score of all labels.

    Raises:
        ValueError: a probability is NaN or infinite.
    """
    row = SCORES[name] if isinstance(name, str) else name
    y, (p,), codes = _known(labels, [probabilities], patient_ids)
    value = None
    try:
        influence = row.influence(y, p, codes)
        value = influence.value
        influence.require_patients(row.least)
        low, high = row.interval(influence, LEVEL)
        return Estimate(value, low, high)
    except NoInterval as reason:
        return Estimate(value, reason=str(reason))


@dataclass(frozen=True)
class Comparison(Difference):
    """An experiment's score minus that of the reference, on the same studies.

    Attributes:
        p_value_worse, non_inferior: of being worse by the margin or more, one-sided, by Holm; and
            whether it is at most (1 - LEVEL) / 2. None without a margin.
    """

    error: float | None = None
    p_value_worse: float | None = None
    non_inferior: bool | None = None


def compare(
    name: str | Score,
    labels: ArrayLike,
    probabilities: Mapping[str, ArrayLike],
    patient_ids: ArrayLike,
    *,
    margin: float | None = None,
) -> dict[str, Comparison]:
    """Return for each experiment but the first how its score differs from that of the first.

    For the AUC it is DeLong's paired comparison over patients (DeLong, Biometrics 1988, 837-845;
    Obuchowski 1997), with Student's t in place of the normal distribution. Intervals are each at
    LEVEL, not corrected for their number; p-values are.

    Args:
        name: of SCORES, of those that have a better side, or a score of all labels.
        probabilities: of the same studies, by experiment.
        margin: how much worse is still no loss, in units of the score.
    """
    row = SCORES[name] if isinstance(name, str) else name
    assert row.better is not None, f"{name} has no better side"
    y, columns, codes = _known(labels, list(probabilities.values()), patient_ids)
    reference, *others = columns
    found: dict[str, Comparison] = {}
    for experiment, p in zip(list(probabilities)[1:], others, strict=True):
        try:
            ours = row.influence(y, p, codes)
            difference = ours - row.influence(y, reference, codes)
        except NoInterval as reason:
            found[experiment] = Comparison(None, reason=str(reason))
            continue
        found[experiment] = _comparison(row, difference, margin)
    return _corrected(found)


def _comparison(row: Score, difference: Influence, margin: float | None) -> Comparison:
    value, error = difference.value, float(np.sqrt(difference.variance))
    try:
        difference.require_patients(row.least_paired)
        if not error > 0:
            raise NoInterval("no patient tells the experiments apart")
    except NoInterval as reason:
        return Comparison(value, reason=str(reason))
    low, high = np.clip(_plain(difference, LEVEL), -row.span, row.span).tolist()
    freedom = max(difference.freedom, 0.1)
    worse = None
    if margin is not None:
        gain = value if row.better == "max" else -value
        worse = float(stdtr(freedom, -(gain + margin) / error))
    p_value = float(2 * stdtr(freedom, -abs(value) / error))
    return Comparison(value, low, high, None, p_value, None, error, worse)


def _corrected(found: dict[str, Comparison]) -> dict[str, Comparison]:
    """Return the comparisons with p-values by Holm, and the verdicts on the margin."""
    names = [name for name, each in found.items() if each.p_value is not None]
    p_values = np.array([found[name].p_value for name in names], dtype=np.float64)
    adjusted = holm(p_values).tolist()
    adjusted_worse = holm([found[name].p_value_worse or 0.0 for name in names]).tolist()
    for name, p_value, worse in zip(names, adjusted, adjusted_worse):
        each = replace(found[name], adjusted_p_value=p_value)
        if each.p_value_worse is not None:
            each = replace(each, p_value_worse=worse, non_inferior=worse <= (1 - LEVEL) / 2)
        found[name] = each
    return found


def _known(
    labels: ArrayLike, probabilities: Sequence[ArrayLike], patient_ids: ArrayLike
) -> tuple[Floats, list[Floats], Codes]:
    """Return what is of the studies whose label is known, patients numbered anew."""
    y = np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(y) if y.ndim == 1 else ~np.isnan(y).all(axis=1)
    columns = [require_probabilities(p)[known] for p in probabilities]
    codes, _ = number_patients(np.asarray(patient_ids)[known])
    return y[known], columns, codes
