"""LayerCAM: where in an image a network of slices found what speaks for a label.

Jiang et al. 2021 (IEEE TIP 30:5875): activations of a layer, each weighted by its own gradient
where that is positive, and summed over channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError

STRIDE = 16
"""Pixels of the image to a cell of the layer. At 32 the peak of a map is on blood no more often
than by chance; at 8 maps are finer, and not better (`benchmarks/heat_maps.py --stride`)."""


def require_layer(network: nn.Module) -> tuple[nn.Module, int]:
    """Return the layer of `STRIDE` of a network, and its channels.

    Raises:
        InputError: it is none of timm's, has no such layer, or its head knows nothing.
    """
    classifier = getattr(network, "classifier", None)
    if classifier is not None and not any(p.any() for p in classifier.parameters()):
        raise InputError(
            f"no heat map: {_name(network)} is a frozen encoder, and the head over it decides"
        )
    backbone: Any = getattr(network, "backbone", None)
    found = [i for i in getattr(backbone, "feature_info", ()) if i["reduction"] == STRIDE]
    if not found:
        raise InputError(
            f"no heat map: {_name(network)} has no layer of stride {STRIDE} in timm's feature_info"
        )
    return backbone.get_submodule(found[-1]["module"]), int(found[-1]["num_chs"])


def _name(network: nn.Module) -> str:
    return str(getattr(network, "specification", {}).get("name", type(network).__name__))


def layer_cam(network: nn.Module, images: Tensor, label: int) -> Tensor:
    """Return LayerCAM float32 (batch, rows / 16, columns / 16) of the logit of a label, 0 or more.

    Only the layers behind `STRIDE` keep what gradients need, so that memory is little more than
    that of a prediction.

    Args:
        network: a `TimmClassifier` in evaluation mode.
        images: (batch, channels, rows, columns), on its device.
        label: its place among the logits.

    Raises:
        InputError: see `require_layer`; or the layer has tokens without a grid.
    """
    layer, num_channels = require_layer(network)
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # until no_grad below ends
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()  # what follows may change it in place

    handle = layer.register_forward_hook(keep)
    try:
        with torch.no_grad():
            logits = network(images)
            (gradient,) = torch.autograd.grad(logits[:, label].sum(), kept)
    finally:
        handle.remove()
    activation = kept[0].detach()
    if activation.ndim != 4:
        raise InputError(f"no heat map: the layers of {_name(network)} are tokens without a grid")
    has_channels_last = activation.shape[1] != num_channels
    cam = (gradient.clamp(min=0) * activation).sum(dim=3 if has_channels_last else 1)
    return cam.clamp(min=0).float()
