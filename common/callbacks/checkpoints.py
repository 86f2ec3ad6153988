"""Checkpoints: the last state, and the best by a metric."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.checkpoint import save_checkpoint
from common.networks.hooks import Callback, FittedNetwork
from common.scoring.directions import badness, direction_of

logger = logging.getLogger(__name__)


class CheckpointSaver(Callback):
    """Writes last.pt regularly, and after a validation the best ones.

    The best are `iteration_<n>.pt`, as many as `num_best`; best.pt is the first of them (a hard
    link). A run that is killed at any moment goes on from last.pt and writes the same files again.

    Args:
        every: iterations from one last.pt to the next.
        metric: name of the metric that decides, as validations of the whole fold report it;
            `common.scoring.directions` knows which way it is better.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        metric: str = "loss",
        num_best: int = 1,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        direction_of(metric)
        self.folder = folder
        self.every = every
        self.metric = metric
        self.num_best = num_best
        self.config = dict(config or {})
        self.best: list[tuple[float, int]] = []
        self._saved = -1

    @property
    def last_path(self) -> Path:
        """The checkpoint that a resumed run starts from."""
        return self.folder / "last.pt"

    @property
    def best_path(self) -> Path:
        return self.folder / "best.pt"

    def on_metrics(self, network: FittedNetwork, metrics: dict[str, float | None]) -> None:
        value, iteration = metrics.get(self.metric), network.state.iteration
        if value is None:
            logger.warning("%s is undefined at iteration %d: not kept", self.metric, iteration)
            return
        known = [*self.best, (float(value), iteration)]
        ranked = sorted(known, key=lambda one: (badness(self.metric, one[0]), one[1]))
        ranked = ranked[: self.num_best]
        if iteration in [kept for _, kept in ranked]:
            dropped, self.best = set(self.best) - set(ranked), ranked
            self._save(network, self._path(iteration))
            if network.processes.is_main:
                for _, old in dropped:
                    self._path(old).unlink(missing_ok=True)
                _link(self._path(ranked[0][1]), self.best_path)
        self._saved = -1

    def on_iteration_end(self, network: FittedNetwork) -> None:
        iteration = network.state.iteration
        if iteration % self.every == 0 or iteration == network.state.validated:
            self._save_last(network)

    def on_stop(self, network: FittedNetwork) -> None:
        self._saved = -1
        self._save_last(network)

    def on_fit_end(self, network: FittedNetwork) -> None:
        self._save_last(network)

    def state_dict(self) -> dict[str, Any]:
        return {"best": [list(item) for item in self.best]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = [(float(value), int(iteration)) for value, iteration in state["best"]]

    def _save_last(self, network: FittedNetwork) -> None:
        if self._saved != network.state.iteration:
            self._save(network, self.last_path)
            self._saved = network.state.iteration

    def _save(self, network: FittedNetwork, path: Path) -> None:
        """Save the state that all processes contribute to; one of them writes it."""
        state = network.state_dict()
        if network.processes.is_main:
            save_checkpoint(path, {**state, "config": self.config})

    def _path(self, iteration: int) -> Path:
        return self.folder / f"iteration_{iteration:07d}.pt"


def _link(source: Path, target: Path) -> None:
    """Link `target` to `source` in one step; copy where the file system has no links."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        temporary.write_bytes(source.read_bytes())
    os.replace(temporary, target)
