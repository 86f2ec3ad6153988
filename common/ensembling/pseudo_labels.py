"""Labels for slices that nobody has labelled, from what a model says of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LABEL_KINDS = ("hard", "soft")


def pseudo_labels(
    probabilities: ArrayLike,
    kind: str,
    positive: Sequence[float],
    negative: Sequence[float],
    *,
    study_labels: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Return labels (n, k), NaN where the model is not sure.

    A label is sure where its probability is at least `positive` or at most `negative`. The last
    label says that there is any of the others, and stays at one with them: a sure subtype makes it
    1, its 0 makes all others 0, and where it is 1 without a sure subtype, subtypes called 0 become
    unknown, as one of them must be wrong. Soft: it is at least the largest of the others.

    Args:
        probabilities: (n, k); NaN for labels that the model does not know.
        kind: `hard` makes 0 and 1, `soft` keeps the probability.
        positive, negative: (k,), each at least 0 and at most 1, the first not below the second.
        study_labels: (n, k) known labels of the slices' studies, NaN where unknown: where a study
            is known not to have it, no slice has.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    assert kind in LABEL_KINDS and p.shape[1] == len(positive) == len(negative), (kind, p.shape)
    above, below = p >= np.asarray(positive), p <= np.asarray(negative)
    sure = above.astype(np.float64) if kind == "hard" else p
    labels = np.where(above | below, sure, np.nan)
    if study_labels is not None:
        labels[np.asarray(study_labels, dtype=np.float64) == 0] = 0.0
    others, union = labels[:, :-1], labels[:, -1]
    if kind == "soft":
        largest = np.nan_to_num(others, nan=-np.inf).max(axis=1, initial=-np.inf)
        known = ~np.isnan(union)
        union[known] = np.maximum(union[known], largest[known])
        return labels.astype(np.float32)
    has_any = (others == 1).any(axis=1)
    union[has_any] = 1.0
    others[union == 0] = 0.0
    if others.shape[1]:
        others[(union == 1) & ~has_any] = np.nan
    return labels.astype(np.float32)


def rows_to_use(labels: ArrayLike, partial: bool) -> NDArray[np.bool_]:
    """Return (n,): rows with all labels (n, k) known, or where `partial` with any."""
    known = ~np.isnan(np.asarray(labels, dtype=np.float64))
    return np.asarray(known.any(axis=1) if partial else known.all(axis=1))
