"""Parameter groups: weight decay and the learning rate of each layer."""

import copy
import fnmatch
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from common.models.base import AbstractModel


def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return groups of the trained parameters of `model` for an optimizer.

    Weights get the decay; norms, biases and other vectors get none, and neither do parameters that
    a timm network lists as without (class tokens, tables of positions). With a layer decay d, a
    layer that is n layers below the last one learns at d^n of the learning rate (ELECTRA, Clark et
    al. 2020, section 3.4); its share is `lr_scale` of the group, which the schedule multiplies
    with.

    Args:
        model: an `AbstractModel` where `layer_decay` is not 1.
        learning_rate: of the last layer.
        layer_decay: in (0, 1].
    """
    depths = dict.fromkeys((name for name, _ in model.named_parameters()), 0)
    if layer_decay != 1:
        assert isinstance(model, AbstractModel)
        depths = model.parameter_depths()
    last = max(depths.values())
    spared = _spared_names(model)
    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    keys = {
        name: (depths[name], p.ndim <= 1, name in spared)
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    parameters = dict(model.named_parameters())
    for name, key in sorted(keys.items(), key=lambda item: item[1]):
        depth, is_vector, is_spared = key
        scale = layer_decay ** (last - depth)
        group = groups.setdefault(
            key,
            {
                "params": [],
                "weight_decay": 0.0 if is_vector or is_spared else weight_decay,
                "lr": learning_rate * scale,
                "lr_scale": scale,
            },
        )
        group["params"].append(parameters[name])
    return list(groups.values())


def _spared_names(model: nn.Module) -> set[str]:
    """Return the names of parameters that timm networks inside `model` list as without decay."""
    spared: set[str] = set()
    for name, module in model.named_modules():
        if not hasattr(module, "no_weight_decay"):
            continue
        own = [parameter for parameter, _ in module.named_parameters()]
        prefix = f"{name}." if name else ""
        for pattern in module.no_weight_decay():
            spared |= {prefix + found for found in fnmatch.filter(own, pattern)}
    return spared


def state_in_groups(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module
) -> Mapping[str, Any]:
    """Return the state of an optimizer in the groups that `optimizer` has.

    Checkpoints of versions that spared no weight from weight decay have fewer groups, and the same
    parameters in another order.

    Args:
        state: of an optimizer over the same parameters of `model`.
    """
    before, now = state["param_groups"], optimizer.param_groups
    if len(before) >= len(now):
        return state
    scale_of = {p: group.get("lr_scale", 1.0) for group in now for p in group["params"]}
    order = sorted(
        (p for p in model.parameters() if p in scale_of), key=lambda p: (scale_of[p], p.ndim <= 1)
    )
    saved = [(index, group) for group in before for index in group["params"]]
    saved_of = dict(zip(order, saved, strict=True))
    groups = [
        {
            **copy.deepcopy(saved_of[group["params"][0]][1]),  # LAMB counts steps in a tensor of it
            "weight_decay": group["weight_decay"],
            "params": [saved_of[p][0] for p in group["params"]],
        }
        for group in now
    ]
    return {**state, "param_groups": groups}
