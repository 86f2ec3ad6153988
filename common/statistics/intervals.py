"""Confidence intervals by resampling patients, since the slices of one patient are alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.scoring.metrics import Floats, row_log_losses

_CHUNK = 50  # resamples held in memory at once

# An area takes time in proportion to the rows, a log loss to the patients. Beyond this many rows
# times resamples (50,000 rows with 1000) fewer resamples are drawn for the areas, but at least 200:
# either end of a 95 % interval then has a standard error of a fifth of that of the area.
_AREA_ROWS = 50_000_000
_FEWEST_AREAS = 200


def patient_intervals(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: ArrayLike,
    *,
    label_names: Sequence[str],
    weights: Sequence[float],
    prior: ArrayLike,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 4667,
) -> dict[str, Any]:
    """Return percentile intervals of a patient bootstrap, each [low, high] or None.

    Whole patients are drawn with replacement, as many as there are. Where a resample leaves a
    metric undefined it is left out; a metric that more than half leave undefined has no interval.
    Areas are of the first resamples alone where there are more than 50,000 rows, 200 at least.

    Args:
        labels: (n, k) 0, 1 or NaN.
        probabilities: (n, k).
        patient_ids: (n,).
        label_names: the k columns' names.
        weights: (k,) of the weighted log loss.
        prior: (k,) or (n, k), the constant to compare with.
        num_resamples: number of resamples.
        level: share of the resamples between low and high.
        seed: of the draws.

    Returns:
        weighted_log_loss, weighted_log_loss_to_prior (the ratio of the two), auc.{label}, and
        num_patients, num_resamples, num_resamples_auc and level.
    """
    y = np.asarray(labels, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    codes, patients = pd.factorize(np.asarray(patient_ids))
    assert (codes >= 0).all(), "every row needs a patient id"
    own = _PatientSums(row_log_losses(y, p), codes, len(patients))
    constant = _PatientSums(
        row_log_losses(y, np.broadcast_to(prior, y.shape)), codes, len(patients)
    )
    areas = [_WeightedAuc(y[:, column], p[:, column], codes) for column in range(len(label_names))]
    num_areas = min(num_resamples, max(_FEWEST_AREAS, _AREA_ROWS // max(len(y), 1)))
    losses, ratios = [], []
    aucs: list[list[float]] = []
    for counts in _draws(len(patients), num_resamples, seed):
        loss, prior_loss = own.weighted(counts, weights), constant.weighted(counts, weights)
        losses.append(loss)
        ratios.append(loss / prior_loss)
        aucs += [[area(drawn) for area in areas] for drawn in counts[: num_areas - len(aucs)]]
    all_aucs = np.array(aucs, dtype=np.float64).reshape(-1, len(label_names))
    return {
        "weighted_log_loss": _percentiles(losses, level),
        "weighted_log_loss_to_prior": _percentiles(ratios, level),
        "auc": {
            name: _percentiles([all_aucs[:, column]], level)
            for column, name in enumerate(label_names)
        },
        "num_patients": len(patients),
        "num_resamples": num_resamples,
        "num_resamples_auc": num_areas,
        "level": level,
    }


def paired_interval(
    labels: ArrayLike,
    probabilities: ArrayLike,
    others: ArrayLike,
    patient_ids: ArrayLike,
    weights: Sequence[float],
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 4667,
) -> dict[str, Any]:
    """Return how much more weighted log loss `others` have than `probabilities`, on equal rows.

    Args:
        labels: (n, k) 0, 1 or NaN.
        probabilities, others: (n, k).
        patient_ids: (n,).
        weights: (k,) of the weighted log loss.
        num_resamples, level, seed: as of `patient_intervals`.

    Returns:
        difference (None where undefined) and interval, [low, high] or None: percentiles over
        resamples of patients, both sides with the same ones.
    """
    y = np.asarray(labels, dtype=np.float64)
    codes, patients = pd.factorize(np.asarray(patient_ids))
    assert (codes >= 0).all(), "every row needs a patient id"
    losses = row_log_losses(y, others) - row_log_losses(y, probabilities)
    sums = _PatientSums(losses, codes, len(patients))
    whole = float(sums.weighted(np.ones((1, len(patients)), dtype=np.int64), weights)[0])
    drawn = [sums.weighted(c, weights) for c in _draws(len(patients), num_resamples, seed)]
    return {
        "difference": None if np.isnan(whole) else whole,
        "interval": _percentiles(drawn, level),
    }


def _draws(num_patients: int, num_resamples: int, seed: int) -> list[NDArray[np.int64]]:
    """Return how often each patient is drawn, (resamples, patients) in chunks; none for one."""
    if num_patients < 2:
        return []
    rng = np.random.default_rng(seed)
    shares = np.full(num_patients, 1 / num_patients)
    sizes = [min(_CHUNK, num_resamples - start) for start in range(0, num_resamples, _CHUNK)]
    return [rng.multinomial(num_patients, shares, size=size) for size in sizes]


class _PatientSums:
    """Sums and counts of (n, k) losses per patient, from which any resample's mean follows."""

    def __init__(self, losses: Floats, codes: NDArray[np.intp], num_patients: int) -> None:
        shape = (num_patients, losses.shape[1])
        self.sums, self.counts = np.zeros(shape), np.zeros(shape)
        np.add.at(self.sums, codes, np.nan_to_num(losses, nan=0.0))
        np.add.at(self.counts, codes, ~np.isnan(losses))

    def weighted(self, draws: NDArray[np.int64], weights: Sequence[float]) -> Floats:
        """Return the weighted log loss of each resample, NaN where undefined."""
        with np.errstate(invalid="ignore"):
            means = (draws @ self.sums) / (draws @ self.counts)
        return means @ np.asarray(weights, dtype=np.float64) / np.sum(weights)


class _WeightedAuc:
    """The AUC of one label with each patient counted any number of times; sorts once."""

    def __init__(self, labels: Floats, probabilities: Floats, codes: NDArray[np.intp]) -> None:
        known = np.flatnonzero(~np.isnan(labels))
        order = known[np.argsort(probabilities[known], kind="stable")]
        self.codes = codes[order]
        self.positives = np.flatnonzero(labels[order] == 1)
        p = probabilities[order]
        # Of each positive: the rows below it, and those below it or tied with it.
        self.below = np.searchsorted(p, p[self.positives], side="left")
        self.up_to = np.searchsorted(p, p[self.positives], side="right")

    def __call__(self, draws: NDArray[np.int64]) -> float:
        weights = draws[self.codes]
        positives = weights[self.positives]
        weights[self.positives] = 0
        negatives = np.zeros(len(weights) + 1, dtype=np.int64)
        np.cumsum(weights, out=negatives[1:])
        pairs = float(positives.sum()) * float(negatives[-1])
        won = np.dot(positives, negatives[self.below] + negatives[self.up_to]) / 2
        return float(won / pairs) if pairs else np.nan


def _percentiles(values: Sequence[Floats], level: float) -> list[float] | None:
    joined = np.concatenate(list(values)) if len(values) else np.empty(0)
    defined = joined[~np.isnan(joined)]
    if len(defined) == 0 or len(defined) < len(joined) / 2:
        return None
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return [float(low), float(high)]
