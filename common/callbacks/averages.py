"""Averages of the weights over training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.callbacks.base import Callback

if TYPE_CHECKING:
    from common.networks.network import AbstractNetwork


class WeightAverage(Callback):
    """Exponential moving average of weights and of batch-norm statistics.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the steps n, so that a short training
    is not held back by its first weights. In a validation the averages take the place of the
    weights.

    Averaged batch-norm statistics are those of other activations than the averaged weights make:
    with `statistics_data` they are measured anew, as for stochastic weight averaging.

    Args:
        model: the module whose weights are averaged; the average begins as a copy of them.
        decay: share of the average that one step keeps.
        statistics_data: batches (of training samples, not augmented) from which the batch-norm
            statistics of the average are measured before it is used.
    """

    is_average = True

    def __init__(
        self, model: nn.Module, decay: float, statistics_data: Iterable[Any] | None = None
    ) -> None:
        self.decay = decay
        self.num_updates = 0
        self.statistics_data = statistics_data
        self._measured_at = -1
        self.average = {name: value.clone() for name, value in model.state_dict().items()}
        self._aside: dict[str, Tensor] | None = None

    def on_step_end(self, network: AbstractNetwork) -> None:
        """Moves the average towards the weights; counters are taken over as they are."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        floats, sources = [], []
        for name, value in network.model.state_dict().items():
            if value.is_floating_point():
                floats.append(self.average[name])
                sources.append(value)
            else:
                self.average[name].copy_(value)
        torch._foreach_lerp_(floats, sources, 1 - decay)

    def on_validation_begin(self, network: AbstractNetwork) -> None:
        """Puts the average in the place of the weights."""
        weights = network.model.state_dict()
        self._aside = {name: value.clone() for name, value in weights.items()}
        network.model.load_state_dict(self.average)
        if self.statistics_data is not None and self._measured_at != self.num_updates:
            measure_batch_norm(network, self.statistics_data)
            for name, value in network.model.state_dict().items():
                self.average[name].copy_(value)
            self._measured_at = self.num_updates

    def on_validation_end(self, network: AbstractNetwork) -> None:
        """Puts the weights back."""
        if self._aside is not None:
            network.model.load_state_dict(self._aside)
            self._aside = None

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights under `model`, and the number of updates."""
        return {"model": self.average, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self.num_updates = state["num_updates"]
        self._measured_at = -1
        for name, value in state["model"].items():
            self.average[name].copy_(value)


def measure_batch_norm(network: AbstractNetwork, data: Iterable[Any]) -> None:
    """Replaces the running statistics of all batch norms by their means over the batches.

    Everything else in the model is in evaluation mode, so nothing is drawn at random.
    """
    norms = [m for m in network.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    network.model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    try:
        network.run_forward(data)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
