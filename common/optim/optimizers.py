"""Optimizers by name, without weight decay where it does harm."""

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: weights with decay; norms, biases and other vectors without."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    name: str,
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Returns `sgd` or `adamw` over the parameters of `model`."""
    groups = parameter_groups(model, weight_decay)
    if name == "sgd":
        nesterov = nesterov and momentum > 0
        return torch.optim.SGD(groups, learning_rate, momentum=momentum, nesterov=nesterov)
    assert name == "adamw", name
    return torch.optim.AdamW(groups, learning_rate)
