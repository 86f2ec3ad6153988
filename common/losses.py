"""Losses as sums with their number of terms, so that accumulated and uneven batches are exact."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def weighted_bce_sum(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy with logits, weighted per label, summed over samples.

    With all labels known, sum / terms is the weighted log loss of the RSNA 2019 challenge:
    the mean over samples of sum_c w_c loss_c / sum_c w_c. (BCEWithLogitsLoss(weight=w) divides by
    the number of labels instead of by the sum of the weights.)

    Args:
        logits: (batch, labels).
        labels: (batch, labels) in [0, 1], NaN where unknown: these count neither here nor there.
        weights: (labels,).

    Returns:
        The sum, and the number of terms: samples, each counted by its share of known weight.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    share = (weights / weights.sum()).to(dtype)
    is_known = ~labels.isnan()
    targets = torch.where(is_known, labels, torch.zeros_like(labels)).to(dtype)
    losses = binary_cross_entropy_with_logits(logits.to(dtype), targets, reduction="none")
    known_share = share * is_known
    return (losses * known_share).sum(), known_share.sum()
