"""Losses as sums with their number of terms, so that accumulated and uneven batches are exact.

Each is a mean of the losses of single labels, weighted per label; unknown labels (NaN) count
neither in the sum nor in the number of terms.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def weighted_bce_sum(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy with logits, weighted per label, summed over samples.

    With all labels known, sum / terms is the weighted log loss of the RSNA 2019 challenge:
    the mean over samples of sum_c w_c loss_c / sum_c w_c. (BCEWithLogitsLoss(weight=w) divides by
    the number of labels instead of by the sum of the weights.)

    Args:
        logits: (batch, labels).
        labels: (batch, labels) in [0, 1], NaN where unknown.
        weights: (labels,).

    Returns:
        The sum, and the number of terms: samples, each counted by its share of known weight.
    """
    logits, targets, known_share = _prepared(logits, labels, weights)
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * known_share).sum(), known_share.sum()


def weighted_focal_sum(
    logits: Tensor, labels: Tensor, weights: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """Focal loss (Lin et al. 2017, equation 4), weighted per label, summed over samples.

    Each label's cross-entropy is multiplied by (1 - p)^gamma where it is positive and by p^gamma
    where it is negative; soft labels mix the two. A gamma of 0 gives `weighted_bce_sum`. There is
    no alpha: that is what the weights are for. It is not the metric, and its probabilities are
    less extreme than the true ones.

    Args:
        logits, labels, weights: as of `weighted_bce_sum`.
        gamma: at least 0.

    Returns:
        The sum, and the number of terms, as `weighted_bce_sum` does.
    """
    logits, targets, known_share = _prepared(logits, labels, weights)
    log_p, log_q = logsigmoid(logits), logsigmoid(-logits)
    # p^gamma as exp(gamma log p): its gradient is finite for every gamma and logit.
    losses = (
        -targets * (gamma * log_q).exp() * log_p - (1 - targets) * (gamma * log_p).exp() * log_q
    )
    return (losses * known_share).sum(), known_share.sum()


def _prepared(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits and targets in one precision, and the labels' weights, 0 if unknown."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    share = (weights / weights.sum()).to(dtype)
    is_known = ~labels.isnan()
    targets = torch.where(is_known, labels, torch.zeros_like(labels)).to(dtype)
    return logits.to(dtype), targets, share * is_known
