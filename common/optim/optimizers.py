"""Optimizers by name: torch's own, and LAMB, LARS and Lookahead of timm.

timm is imported when one of its optimizers is made: its imports take seconds.
"""

from typing import Any

import torch
from torch import nn

from common.optim.groups import parameter_groups

OPTIMIZERS = ("sgd", "adam", "adamw", "radam", "lamb", "lars")

# Lookahead (Zhang et al. 2019, section 4): the slow weights go half way every five steps.
LOOKAHEAD_ALPHA = 0.5
LOOKAHEAD_STEPS = 5

# LARS (You et al. 2017, table 1): share of the norm of the weights that one step may change.
LARS_TRUST = 0.001


def make_optimizer(
    name: str,
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    nesterov: bool = False,
    *,
    layer_decay: float = 1.0,
    lookahead: bool = False,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Return the optimizer `name` over the parameters of `model`.

    * sgd, adam, lars: weight decay is an L2 penalty, part of the gradient.
    * adamw, radam: weight decay is apart from the gradient (Loshchilov and Hutter 2019).
    * lamb: weight decay is part of the update whose norm the trust ratio divides by.
    * lars, lamb: norms and biases have neither weight decay nor a trust ratio, as in the papers'
      experiments; all other weights have the trust ratio whatever their decay is.

    Args:
        name: one of `OPTIMIZERS`.
        weight_decay: of all weights but norms, biases and other vectors.
        nesterov: Nesterov momentum for sgd and lars; nothing without momentum.
        fused: torch's fused kernels, where sgd, adam and adamw have them.
    """
    groups = parameter_groups(model, weight_decay, learning_rate, layer_decay)
    optimizer = _make(name, groups, learning_rate, momentum, nesterov and momentum > 0, fused)
    if lookahead:
        from timm.optim.lookahead import Lookahead

        optimizer = Lookahead(optimizer, alpha=LOOKAHEAD_ALPHA, k=LOOKAHEAD_STEPS)
    return optimizer


def _make(
    name: str,
    groups: list[dict[str, Any]],
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    fused: bool,
) -> torch.optim.Optimizer:
    kernel = True if fused else None
    if name == "sgd":
        return torch.optim.SGD(
            groups, learning_rate, momentum=momentum, nesterov=nesterov, fused=kernel
        )
    if name == "adam":
        return torch.optim.Adam(groups, learning_rate, fused=kernel)
    if name == "adamw":
        return torch.optim.AdamW(groups, learning_rate, fused=kernel)
    if name == "radam":
        return torch.optim.RAdam(groups, learning_rate, decoupled_weight_decay=True)
    for group in groups:
        # timm leaves the trust ratio out wherever weight decay is 0.
        group["always_adapt"] = group["params"][0].ndim > 1
    if name == "lamb":
        from timm.optim.lamb import Lamb

        # The fit loop clips gradients itself.
        return Lamb(groups, learning_rate, max_grad_norm=None)
    assert name == "lars", name
    from timm.optim.lars import Lars

    return Lars(groups, learning_rate, momentum=momentum, nesterov=nesterov, trust_coeff=LARS_TRUST)
