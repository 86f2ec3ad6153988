"""Ends a training whose metric no longer gets better."""

from __future__ import annotations

import logging
from typing import Any

from common.networks.hooks import Callback, FittedNetwork
from common.scoring.directions import direction_of, improves
from common.words import count

logger = logging.getLogger(__name__)


class EarlyStopping(Callback):
    """Ends the training after `patience` validations in a row without an improvement.

    Only validations of the whole fold count: scores on a subset are never compared with them. An
    undefined metric is no improvement. The training ends as one that is done: its results are
    written.

    Args:
        min_delta: the least improvement that counts, in units of the metric.
    """

    def __init__(self, metric: str, patience: int, min_delta: float = 0.0) -> None:
        direction_of(metric)
        self.metric = metric
        self.patience = patience
        self.min_delta = min_delta
        self.best: float | None = None
        self.num_waited = 0

    def on_fit_begin(self, network: FittedNetwork) -> None:
        """End a resumed training that had already ended."""
        self._end_if_due(network)

    def on_metrics(self, network: FittedNetwork, metrics: dict[str, float | None]) -> None:
        value = metrics.get(self.metric)
        if value is not None and improves(self.metric, value, self.best, self.min_delta):
            self.best, self.num_waited = float(value), 0
            return
        self.num_waited += 1
        self._end_if_due(network)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "num_waited": self.num_waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.num_waited = state["best"], state["num_waited"]

    def _end_if_due(self, network: FittedNetwork) -> None:
        if self.num_waited < self.patience:
            return
        logger.info(
            "training ends after iteration %d: %s has not improved on %s in %s",
            network.state.iteration,
            self.metric,
            "undefined" if self.best is None else f"{self.best:.4f}",
            count(self.num_waited, "validation"),
        )
        network.end_early()
