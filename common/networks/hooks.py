"""Callbacks: the hooks, and what a callback may touch of the network that calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from common.distributed import Processes
from common.networks.state import FitSettings, FitState


class FittedNetwork(Protocol):
    """What callbacks see of `AbstractNetwork`, whose docstring says what each of these is."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    settings: FitSettings
    state: FitState
    device: torch.device
    processes: Processes
    step_values: dict[str, float]
    gauges: dict[str, float]

    @property
    def is_done(self) -> bool:
        """Whether the last iteration has been trained, or a callback has ended the training."""

    def end_early(self) -> None:
        """Make this iteration the last; the training counts as done."""

    def ask_to_stop(self) -> None:
        """Stop after this iteration as SIGTERM does: another run goes on."""

    def run_forward(self, data: Iterable[Any]) -> None:
        """Run batches through the model as its modules are now, for what they gather."""

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint holds."""


class Callback:
    """Something optional that happens around a fit; see `AbstractNetwork` for when each hook runs.

    Attributes:
        is_average: True for what holds averaged weights; its state is kept apart in a checkpoint.
    """

    is_average = False

    @property
    def name(self) -> str:
        """The key of its state in a checkpoint."""
        return type(self).__name__

    def on_fit_begin(self, network: FittedNetwork) -> None:
        """Before the first step."""

    def on_step_begin(self, network: FittedNetwork) -> None:
        """Before the first batch of an iteration."""

    def on_step_end(self, network: FittedNetwork) -> None:
        """After an optimizer step."""

    def on_validation_begin(self, network: FittedNetwork) -> None:
        """Before a validation."""

    def on_validation_end(self, network: FittedNetwork) -> None:
        """After a validation, also one that broke off."""

    def on_outputs(
        self,
        network: FittedNetwork,
        outputs: Mapping[str, np.ndarray],
        metrics: dict[str, float | None],
    ) -> None:
        """With the outputs of a validation, whole or of a subset; metrics may be added."""

    def on_subset_metrics(self, network: FittedNetwork, metrics: dict[str, float | None]) -> None:
        """After a validation of the subset."""

    def on_metrics(self, network: FittedNetwork, metrics: dict[str, float | None]) -> None:
        """After a whole validation."""

    def on_iteration_end(self, network: FittedNetwork) -> None:
        """After a step and the validation that may follow it."""

    def on_stop(self, network: FittedNetwork) -> None:
        """A signal asked to stop."""

    def on_fit_end(self, network: FittedNetwork) -> None:
        """After the last iteration."""

    def close(self, network: FittedNetwork) -> None:
        """At the very end, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """What has to be remembered; tensors and plain types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""


@runtime_checkable
class WeightAverager(Protocol):
    """A callback that holds averaged weights (`is_average` is true).

    Attributes:
        label: what its metrics are called beside those of other weights.
        num_updates: steps that the average has seen; it is not used before the first.
    """

    label: str
    num_updates: int

    def in_place(self, network: FittedNetwork) -> AbstractContextManager[None]:
        """Inside the block, the average is in the place of the weights."""
