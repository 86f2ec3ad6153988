"""The learning rate of every parameter group, in the record of a run."""

from __future__ import annotations

from common.networks.hooks import Callback, FittedNetwork


class LearningRates(Callback):
    """Records `learning_rate.group<n>` of each parameter group, as the step has used it."""

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self._rates: list[float] = []

    def on_step_begin(self, network: FittedNetwork) -> None:
        """Read the rates before the schedule changes them."""
        assert network.optimizer is not None
        self._rates = [float(group["lr"]) for group in network.optimizer.param_groups]

    def on_step_end(self, network: FittedNetwork) -> None:
        if network.state.iteration % self.every == 0 or network.is_done:
            for number, rate in enumerate(self._rates):
                network.gauges[f"learning_rate.group{number}"] = rate
