"""Averages of the weights over training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from common.networks.hooks import Callback, FittedNetwork


class AveragedWeights(Callback):
    """An average of weights and of batch-norm statistics; subclasses define how it moves.

    Averaged batch-norm statistics are those of other activations than the averaged weights make:
    with `statistics_data` they are measured anew.

    Args:
        model: the module whose weights are averaged; the average begins as a copy of them.
        statistics_data: batches (of training samples, not augmented) from which the batch-norm
            statistics of the average are measured before it is used.
    """

    is_average = True
    label: str

    def __init__(self, model: nn.Module, statistics_data: Iterable[Any] | None = None) -> None:
        self.num_updates = 0
        self.statistics_data = statistics_data
        self._measured_at = -1
        self.average = {name: value.clone() for name, value in model.state_dict().items()}

    def on_fit_begin(self, network: FittedNetwork) -> None:
        weights = network.model.state_dict()
        self.average = {name: v.to(weights[name].device) for name, v in self.average.items()}

    @contextlib.contextmanager
    def in_place(self, network: FittedNetwork) -> Iterator[None]:
        """Put the average in the place of the weights inside the block."""
        weights = network.model.state_dict()
        aside = {name: value.clone() for name, value in weights.items()}
        try:
            network.model.load_state_dict(self.average)
            self._measure_statistics(network)
            yield
        finally:
            network.model.load_state_dict(aside)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.average, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_updates = state["num_updates"]
        self._measured_at = -1
        for name, value in state["model"].items():
            self.average[name].copy_(value)

    def _move(self, network: FittedNetwork, share: float) -> None:
        """Move the average towards the weights; counters are taken over as they are."""
        floats, sources = [], []
        for name, value in network.model.state_dict().items():
            if value.is_floating_point():
                floats.append(self.average[name])
                sources.append(value)
            else:
                self.average[name].copy_(value)
        torch._foreach_lerp_(floats, sources, share)

    def _measure_statistics(self, network: FittedNetwork) -> None:
        if self.statistics_data is None or self._measured_at == self.num_updates:
            return
        measure_batch_norm(network, self.statistics_data)
        for name, value in network.model.state_dict().items():
            self.average[name].copy_(value)
        self._measured_at = self.num_updates


class WeightAverage(AveragedWeights):
    """Exponential moving average.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the steps n, so that a short training
    is not held back by its first weights.

    Args:
        decay: share of the average that one step keeps.
    """

    label = "ema"

    def __init__(
        self, model: nn.Module, decay: float, statistics_data: Iterable[Any] | None = None
    ) -> None:
        super().__init__(model, statistics_data)
        self.decay = decay

    def on_step_end(self, network: FittedNetwork) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self._move(network, 1 - decay)


class StochasticWeightAverage(AveragedWeights):
    """The plain mean of the weights after each step from `start` on (Izmailov et al. 2018).

    The learning rate that belongs to it is the schedule's: see `common.optim.Schedule`.

    Args:
        start: iterations before the first step whose weights are averaged.
    """

    label = "swa"

    def __init__(
        self, model: nn.Module, start: int, statistics_data: Iterable[Any] | None = None
    ) -> None:
        super().__init__(model, statistics_data)
        self.start = start

    def on_step_end(self, network: FittedNetwork) -> None:
        if network.state.iteration > self.start:
            self.num_updates += 1
            self._move(network, 1 / self.num_updates)


def measure_batch_norm(network: FittedNetwork, data: Iterable[Any]) -> None:
    """Replace the running statistics of all batch norms by their means over the batches.

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
