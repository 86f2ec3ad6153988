"""Parameter groups: weight decay and the learning rate of each layer."""

from typing import Any

from torch import nn

from common.models.base import AbstractModel


def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return groups of the trained parameters of `model` for an optimizer.

    Weights get the decay; norms, biases and other vectors get none. With a layer decay d, a layer
    that is n layers below the last one learns at d^n of the learning rate (ELECTRA, Clark et al.
    2020, section 3.4); its share is `lr_scale` of the group, which the schedule multiplies with.

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
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for name, parameter in sorted(trained, key=lambda item: (depths[item[0]], item[1].ndim <= 1)):
        key = depths[name], parameter.ndim > 1
        scale = layer_decay ** (last - depths[name])
        group = groups.setdefault(
            key,
            {
                "params": [],
                "weight_decay": weight_decay if parameter.ndim > 1 else 0.0,
                "lr": learning_rate * scale,
                "lr_scale": scale,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
