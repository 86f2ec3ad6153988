"""The base of callbacks: every hook is there and does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from common.networks.network import AbstractNetwork


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

    def on_fit_begin(self, network: AbstractNetwork) -> None:
        """Before the first step."""

    def on_step_begin(self, network: AbstractNetwork) -> None:
        """Before the first batch of an iteration."""

    def on_step_end(self, network: AbstractNetwork) -> None:
        """After an optimizer step."""

    def on_validation_begin(self, network: AbstractNetwork) -> None:
        """Before a validation."""

    def on_validation_end(self, network: AbstractNetwork) -> None:
        """After a validation, also one that broke off."""

    def on_outputs(
        self,
        network: AbstractNetwork,
        outputs: Mapping[str, np.ndarray],
        metrics: dict[str, float | None],
    ) -> None:
        """With the outputs of a validation, whole or of a subset; metrics may be added."""

    def on_subset_metrics(self, network: AbstractNetwork, metrics: dict[str, float | None]) -> None:
        """After a validation of the subset."""

    def on_metrics(self, network: AbstractNetwork, metrics: dict[str, float | None]) -> None:
        """After a whole validation."""

    def on_iteration_end(self, network: AbstractNetwork) -> None:
        """After a step and the validation that may follow it."""

    def on_stop(self, network: AbstractNetwork) -> None:
        """A signal asked to stop."""

    def on_fit_end(self, network: AbstractNetwork) -> None:
        """After the last iteration."""

    def close(self, network: AbstractNetwork) -> None:
        """At the very end, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """What has to be remembered; tensors and plain types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
