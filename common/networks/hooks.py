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
    """The part of `AbstractNetwork` that callbacks use; its docstring describes each."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    settings: FitSettings
    state: FitState
    device: torch.device
    processes: Processes
    step_values: dict[str, Any]
    step_seconds: float
    gauges: dict[str, float]

    @property
    def is_done(self) -> bool:
        """Whether the last iteration has been trained, or a callback has ended the training."""

    def end_early(self) -> None:
        """Make this iteration the last; the training counts as done."""

    def ask_to_stop(self) -> None:
        """Stop after this iteration as SIGTERM does, so that another run can resume."""

    def run_forward(self, data: Iterable[Any]) -> None:
        """Run batches through the model in its present modes, for the statistics it collects."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a checkpoint holds."""


class Callback:
    """Something optional that happens around a fit; see `AbstractNetwork` for when each hook runs.

    Attributes:
        is_average: True for averages of weights; a checkpoint keeps their state apart.
    """

    is_average = False

    @property
    def name(self) -> str:
        return type(self).__name__

    def on_fit_begin(self, network: FittedNetwork) -> None: ...

    def on_step_begin(self, network: FittedNetwork) -> None: ...

    def on_step_end(self, network: FittedNetwork) -> None: ...

    def on_validation_begin(self, network: FittedNetwork) -> None: ...

    def on_validation_end(self, network: FittedNetwork) -> None:
        """Run after a validation, also one that raised an error."""

    def on_outputs(
        self,
        network: FittedNetwork,
        outputs: Mapping[str, np.ndarray],
        metrics: dict[str, float | None],
    ) -> None:
        """Run with the outputs of a validation, whole or of a subset; metrics may be added."""

    def on_subset_metrics(
        self, network: FittedNetwork, metrics: dict[str, float | None]
    ) -> None: ...

    def on_metrics(self, network: FittedNetwork, metrics: dict[str, float | None]) -> None:
        """Run after a validation of the whole."""

    def on_iteration_end(self, network: FittedNetwork) -> None: ...

    def on_stop(self, network: FittedNetwork) -> None:
        """Run when a signal asks to stop."""

    def on_fit_end(self, network: FittedNetwork) -> None: ...

    def close(self, network: FittedNetwork) -> None:
        """Run at the very end, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state to remember; tensors and plain types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""


@runtime_checkable
class WeightAverager(Protocol):
    """A callback that holds averaged weights (`is_average` is true).

    Attributes:
        label: prefix of its metrics beside those of other weights.
        num_updates: steps that the average has seen; it is not used before the first.
    """

    label: str
    num_updates: int

    def in_place(self, network: FittedNetwork) -> AbstractContextManager[None]:
        """Put the average in the place of the weights inside the block."""
