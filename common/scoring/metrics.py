"""Metrics of multi-label classification, in float64, computed once on a whole set.

Labels are 0, 1 or NaN where unknown; a row counts for the labels it knows. Shares of raters are
scored against their `majority`. What is undefined (no rows, or only one class where two are needed)
is None, never NaN or 0.5. A probability that is NaN or infinite is an error, also of a row whose
label is unknown (`require_probabilities`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.words import count

Floats = NDArray[np.float64]

# The challenge's server clips so (found by probing it with 0 and 1).
PROBABILITY_FLOOR = 1e-15
NUM_CALIBRATION_BINS = 15
DEFAULT_THRESHOLD = 0.5


def require_probabilities(
    probabilities: ArrayLike, label_names: Sequence[str] | None = None, what: str = "probability"
) -> Floats:
    """Return probabilities (n,) or (n, k) in float64.

    Args:
        label_names: of the k columns, for the message; their numbers by default.
        what: the noun of a value in the message.

    Raises:
        ValueError: a value is NaN or infinite; the message says of how many rows and which labels.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    bad = ~np.isfinite(p)
    if not bad.any():
        return p
    of = ""
    if p.ndim > 1:
        columns = np.flatnonzero(bad.reshape(-1, p.shape[-1]).any(axis=0)).tolist()
        names = [label_names[k] if label_names else f"number {k}" for k in columns]
        of = f" for {'label' if len(names) == 1 else 'labels'} {', '.join(names)}"
    num_bad = int(np.sum(bad if p.ndim == 1 else bad.any(axis=-1)))
    num_rows = p.size if p.ndim == 1 else p.size // p.shape[-1]
    raise ValueError(
        f"{num_bad} of {count(num_rows, 'row')} have a {what} that is NaN or infinite{of}"
    )


def majority(labels: ArrayLike) -> Floats:
    """Return labels by majority: 1 above 0.5, 0 below, NaN at 0.5, a tie, and where unknown."""
    y = np.asarray(labels, dtype=np.float64)
    return np.where(y > 0.5, 1.0, np.where(y < 0.5, 0.0, np.nan))


def row_log_losses(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Return the log loss of every entry, in nats, with the shape of `labels`; NaN where unknown.

    Probabilities are clipped to [1e-15, 1 - 1e-15] first.
    """
    y = np.asarray(labels, dtype=np.float64)
    p = np.clip(require_probabilities(probabilities), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the mean log loss of one label over the (n,) rows that know it."""
    losses = row_log_losses(labels, probabilities)
    known = losses[~np.isnan(losses)]
    return float(known.mean()) if known.size else None


def weighted_log_loss(
    labels: ArrayLike, probabilities: ArrayLike, weights: Sequence[float]
) -> float | None:
    """Return the labels' log losses averaged with `weights` (divided by their sum).

    labels and probabilities are (n, k), weights (k,). None where a label has no known row.
    """
    y, w = np.asarray(labels), np.asarray(weights, dtype=np.float64)
    p = require_probabilities(probabilities)
    assert y.shape == p.shape == (len(y), len(w)), (y.shape, p.shape, w.shape)
    losses = [log_loss(y[:, column], p[:, column]) for column in range(len(w))]
    if any(loss is None for loss in losses):
        return None
    return float(np.dot(w, np.array(losses, dtype=np.float64)) / w.sum())


def constant_log_loss(
    labels: ArrayLike, prior: ArrayLike | None, weights: Sequence[float]
) -> float | None:
    """Return the weighted log loss of a constant (k,), or one a row (n, k); None without one."""
    if prior is None:
        return None
    return weighted_log_loss(labels, np.broadcast_to(prior, np.shape(labels)), weights)


def auc(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the area under the ROC curve of one label (Mann-Whitney, ties count half)."""
    y, p = _known(labels, probabilities)
    num_positives = int(y.sum())
    num_negatives = len(y) - num_positives
    if not num_positives or not num_negatives:
        return None
    rank_sum = pd.Series(p).rank().to_numpy()[y].sum()
    return float(
        (rank_sum - num_positives * (num_positives + 1) / 2) / (num_positives * num_negatives)
    )


def average_precision(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the step-wise area under the precision-recall curve of one label."""
    recall, precision = precision_recall_curve(labels, probabilities)
    if not len(recall):
        return None
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def roc_curve(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Return the false and true positive rates at falling thresholds; empty where undefined."""
    y, p = _known(labels, probabilities)
    if y.all() or not y.any():
        return np.empty(0), np.empty(0)
    true_positives, false_positives = _counts_by_threshold(y, p)
    fpr = np.concatenate([[0.0], false_positives / false_positives[-1]])
    tpr = np.concatenate([[0.0], true_positives / true_positives[-1]])
    return fpr, tpr


def precision_recall_curve(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Return recall and precision at falling thresholds; empty without a positive."""
    y, p = _known(labels, probabilities)
    if not y.any():
        return np.empty(0), np.empty(0)
    true_positives, false_positives = _counts_by_threshold(y, p)
    recall = true_positives / true_positives[-1]
    return recall, true_positives / (true_positives + false_positives)


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, num_bins: int = NUM_CALIBRATION_BINS
) -> tuple[Floats, Floats, Floats]:
    """Return mean probability, share of positives and count of each non-empty bin of one label.

    Bins are equally wide on [0, 1]; a value on an edge is in the upper one, 1.0 in the last.
    """
    y, p = _known(labels, probabilities)
    bins = np.minimum((p * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    used = counts > 0
    mean_probability = np.bincount(bins, weights=p, minlength=num_bins)[used] / counts[used]
    positive_share = np.bincount(bins, weights=y, minlength=num_bins)[used] / counts[used]
    return mean_probability, positive_share, counts[used].astype(np.float64)


def reliability_by_rank(
    labels: ArrayLike, probabilities: ArrayLike, num_bins: int
) -> tuple[Floats, Floats, Floats]:
    """Return the same as `reliability` for bins of (almost) equally many rows, in rising order.

    Rows of one probability count with the share of positives among them, whichever bins they are
    in: their order changes nothing.
    """
    y, p = _known(labels, probabilities)
    values, value_of_row, counts = np.unique(p, return_inverse=True, return_counts=True)
    share_of_value = np.bincount(value_of_row, weights=y, minlength=len(values)) / counts
    rows = np.repeat(np.stack([values, share_of_value], axis=1), counts, axis=0)
    bins = np.array_split(rows, min(num_bins, len(p))) if len(p) else []
    means = np.array([bin.mean(axis=0) for bin in bins], dtype=np.float64).reshape(-1, 2)
    return means[:, 0], means[:, 1], np.array([len(bin) for bin in bins], dtype=np.float64)


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, num_bins: int = NUM_CALIBRATION_BINS
) -> float | None:
    """Return the mean distance, over rows, between a bin's probability and its positive share."""
    mean_probability, positive_share, counts = reliability(labels, probabilities, num_bins)
    if not len(counts):
        return None
    return float(np.dot(counts, np.abs(mean_probability - positive_share)) / counts.sum())


def confusion(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float = DEFAULT_THRESHOLD
) -> dict[str, int]:
    """Return the four counts of one label, positive meaning probability >= threshold."""
    y, p = _known(labels, probabilities)
    called = p >= threshold
    return {
        "true_positive": int(np.sum(called & y)),
        "false_positive": int(np.sum(called & ~y)),
        "false_negative": int(np.sum(~called & y)),
        "true_negative": int(np.sum(~called & ~y)),
    }


def confusion_rates(counts: dict[str, int]) -> dict[str, float | None]:
    """Return accuracy, precision, recall and specificity of the counts that `confusion` gives."""
    tp, fp = counts["true_positive"], counts["false_positive"]
    fn, tn = counts["false_negative"], counts["true_negative"]
    return {
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
    }


def training_prior(labels: ArrayLike) -> Floats:
    """Return the prevalence of each label over (n, k) rows, inside [1/2n, 1 - 1/2n].

    n is the number of rows that know the label; a label that no row knows has prior 0.5.
    """
    y = np.asarray(labels, dtype=np.float64)
    num_known = np.sum(~np.isnan(y), axis=0)
    num_rows = np.maximum(num_known, 1)
    prevalence = np.where(num_known > 0, np.nansum(y, axis=0) / num_rows, 0.5)
    return np.clip(prevalence, 1 / (2 * num_rows), 1 - 1 / (2 * num_rows))


def max_by_study(
    labels: ArrayLike, probabilities: ArrayLike, study_ids: ArrayLike
) -> tuple[NDArray[Any], Floats, Floats]:
    """Return study ids (m,), in order of appearance, and their labels and probabilities (m, k).

    Both are the largest of the study's slices. A study without a positive slice has an unknown
    label as soon as one of its slices has.
    """
    codes, studies = pd.factorize(np.asarray(study_ids))
    assert (codes >= 0).all(), "every row needs a study id"
    y = np.asarray(labels, dtype=np.float64)
    positive = _max_by_code(np.nan_to_num(y, nan=0.0), codes, len(studies))
    has_unknown = _max_by_code(np.isnan(y).astype(np.float64), codes, len(studies)) > 0
    study_labels = np.where((positive == 0) & has_unknown, np.nan, positive)
    p = require_probabilities(probabilities)
    return np.asarray(studies), study_labels, _max_by_code(p, codes, len(studies))


def evaluate_slices(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    label_names: Sequence[str],
    weights: Sequence[float],
    prior: ArrayLike | None = None,
    selected: bool = False,
    threshold: float = DEFAULT_THRESHOLD,
) -> dict[str, Any]:
    """Return the content of metrics.json for n slices.

    prior_weighted_log_loss is that of `prior`, scored_prior_weighted_log_loss that of the
    prevalences of these rows, less than which no constant can have.

    Args:
        labels, probabilities: (n, k).
        prior: (k,), or (n, k) where rows of several runs are pooled, from `training_prior`.
        selected: true where the checkpoint was chosen on these rows.

    Raises:
        ValueError: a probability is NaN or infinite.
    """
    y = np.asarray(labels, dtype=np.float64)
    p = require_probabilities(probabilities, label_names)
    assert y.shape == p.shape == (len(y), len(label_names)), (y.shape, p.shape)
    slice_counts = {
        name: confusion(y[:, k], p[:, k], threshold) for k, name in enumerate(label_names)
    }
    rates = {name: confusion_rates(counts) for name, counts in slice_counts.items()}
    return {
        **label_scores(y, p, label_names, weights),
        "prior_weighted_log_loss": constant_log_loss(y, prior, weights),
        "scored_prior_weighted_log_loss": constant_log_loss(y, training_prior(y), weights),
        "num_slices": int(np.sum(~np.isnan(y).all(axis=1))),
        "threshold": threshold,
        "confusion": slice_counts,
        **{
            rate: {name: rates[name][rate] for name in label_names}
            for rate in ("accuracy", "precision", "recall", "specificity")
        },
        "selected": selected,
    }


def label_scores(
    labels: Floats, probabilities: Floats, label_names: Sequence[str], weights: Sequence[float]
) -> dict[str, Any]:
    """Return weighted log loss, and log loss, AUC, AP and ECE by label, of (n, k) arrays."""
    by_label: dict[str, Any] = {
        "log_loss": log_loss,
        "auc": auc,
        "average_precision": average_precision,
        "ece": expected_calibration_error,
    }
    return {"weighted_log_loss": weighted_log_loss(labels, probabilities, weights)} | {
        key: {name: metric(labels[:, k], probabilities[:, k]) for k, name in enumerate(label_names)}
        for key, metric in by_label.items()
    }


def _known(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    y = np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(y)
    return y[known] == 1, require_probabilities(probabilities)[known]


def _counts_by_threshold(y: NDArray[np.bool_], p: Floats) -> tuple[Floats, Floats]:
    """Return true and false positives at each distinct probability, the highest first."""
    order = np.argsort(-p, kind="stable")
    last_of_ties = np.append(np.diff(p[order]) != 0, True)
    true_positives = np.cumsum(y[order], dtype=np.float64)[last_of_ties]
    false_positives = np.cumsum(~y[order], dtype=np.float64)[last_of_ties]
    return true_positives, false_positives


def _max_by_code(values: Floats, codes: NDArray[np.intp], num_codes: int) -> Floats:
    largest = np.full((num_codes, values.shape[1]), -np.inf)
    np.maximum.at(largest, codes, values)
    return largest


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
