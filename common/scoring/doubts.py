"""How doubtful labels and predictions are: against each other, and along a series."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.scoring.metrics import Floats, row_log_losses


def label_doubts(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Return (n, k) log losses of labels that are less probable than their opposite, in nats.

    It is 0 for other labels and unknown ones. The order is that of self-confidence, as in confident
    learning (Northcutt et al. 2021); benchmarks/label_errors.py compares it with cleanlab's.

    Args:
        labels: (n, k) 0, 1 or NaN.
        probabilities: (n, k) by a model that has not seen these labels.
    """
    losses = np.nan_to_num(row_log_losses(labels, probabilities))
    return np.where(losses > np.log(2), losses, 0.0)


def neighbour_doubts(probabilities: Floats, groups: NDArray[np.int64]) -> Floats:
    """Return (n, k) by how much a slice differs from the nearer of its two neighbours.

    It is 0 where a slice lies between them, as at the edge of a bleed, or has one neighbour only.

    Args:
        probabilities: (n, k) of slices, those of a series one after the other from foot to head.
        groups: (n,) of which series they are.
    """
    doubts = np.zeros(probabilities.shape)
    below = probabilities[1:-1] - probabilities[:-2]
    above = probabilities[1:-1] - probabilities[2:]
    inside = (groups[1:-1] == groups[:-2]) & (groups[1:-1] == groups[2:])
    is_peak = inside[:, None] & (below * above > 0)
    doubts[1:-1] = np.where(is_peak, np.minimum(np.abs(below), np.abs(above)), 0.0)
    return doubts
