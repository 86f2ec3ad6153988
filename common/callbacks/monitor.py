"""The record of a run: metrics.jsonl, one log line a report, and the trackers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from common.files import without_nan, write_text
from common.memory import peak_memory_mb
from common.networks.hooks import Callback, FittedNetwork

if TYPE_CHECKING:
    from common.trackers import Tracker

logger = logging.getLogger(__name__)

# Values that are shares of the time of a step: their mean is over time, not over steps.
_OF_TIME = ("samples_per_second", "data_wait_share")


class TrainingMonitor(Callback):
    """Reports training every few iterations, and each validation, to the log and the trackers.

    metrics.jsonl is the source of truth: one object a line with iteration, micro_step, epoch, time
    (seconds since 1970) and named values: `train_*` as means since the last line (the learning
    rate as it is; speeds over the time of these steps together), with what callbacks put into
    `network.gauges` and, with fp16, the `skipped_steps` so far, which are in no mean; `valid_*` for
    a validation of the whole fold, `valid_subset_*` for one of the subset. A resumed run first
    drops the lines that lie after the checkpoint it starts from.

    Args:
        every: iterations from one line to the next.
        shown: metrics of a validation that the log shows; metrics.jsonl has all of them.
    """

    def __init__(
        self,
        path: Path,
        tracker: Tracker | None = None,
        every: int = 10,
        shown: Sequence[str] = ("loss",),
    ) -> None:
        self.path = path
        self.tracker = tracker
        self.every = every
        self.shown = tuple(shown)
        self._file: TextIO | None = None
        self._sums: dict[str, Any] = {}
        self._seconds = 0.0
        self._num_steps = 0
        self._began = (0, 0.0)

    def on_fit_begin(self, network: FittedNetwork) -> None:
        iteration = network.state.iteration
        if self.path.exists():
            write_text(self.path, "".join(_lines_until(self.path, iteration)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._began = (iteration, time.monotonic())
        if self.tracker is not None:
            self.tracker.start()

    def on_step_end(self, network: FittedNetwork) -> None:
        self._num_steps += 1
        self._seconds += network.step_seconds
        for name, value in network.step_values.items():
            weight = network.step_seconds if name in _OF_TIME else 1
            self._sums[name] = self._sums.get(name, 0.0) + weight * value
        iteration = network.state.iteration
        if iteration % self.every == 0 or iteration == network.settings.iteration_num:
            self._report(network)
        elif network.gauges:
            self._write(network, network.gauges)
        network.gauges = {}

    def on_metrics(self, network: FittedNetwork, metrics: dict[str, float | None]) -> None:
        self._write_validation(network, metrics, "valid_", "validation")

    def on_subset_metrics(self, network: FittedNetwork, metrics: dict[str, float | None]) -> None:
        self._write_validation(network, metrics, "valid_subset_", "validation of the subset")

    def on_fit_end(self, network: FittedNetwork) -> None:
        """Write what is left, where a callback has ended the training between two lines."""
        if self._num_steps and network.step_values:
            self._report(network)

    def close(self, network: FittedNetwork) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far, but for those of times: a resumed run has its own."""
        sums = {name: float(v) for name, v in self._sums.items() if name not in _OF_TIME}
        return {"sums": sums, "num_steps": self._num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {name: v for name, v in state["sums"].items() if name not in _OF_TIME}
        self._seconds, self._num_steps = 0.0, state["num_steps"]

    def _report(self, network: FittedNetwork) -> None:
        asked = time.perf_counter()
        means = {name: float(total) / self._num_steps for name, total in self._sums.items()}
        # A GPU was waited for just now: that belongs to its steps.
        seconds = self._seconds + time.perf_counter() - asked
        means |= {name: self._sums[name] / seconds for name in _OF_TIME}
        means["learning_rate"] = network.step_values["learning_rate"]
        self._sums, self._seconds, self._num_steps = {}, 0.0, 0
        memory_mb = peak_memory_mb(network.device)
        values = {f"train_{name}": value for name, value in means.items()}
        values["memory_mb"] = memory_mb
        if network.settings.amp_dtype == "fp16":
            values["skipped_steps"] = network.state.num_skipped
        self._write(network, values | network.gauges)
        logger.info(
            "iteration %d/%d  loss %.4f  lr %.2e  grad %.2f  %.1f samples/s  "
            "%.0f%% waiting for data  %.0f MB  %s left",
            network.state.iteration,
            network.settings.iteration_num,
            means["loss"],
            means["learning_rate"],
            means["gradient_norm"],
            means["samples_per_second"],
            100 * means["data_wait_share"],
            memory_mb,
            self._time_left(network),
        )

    def _write_validation(
        self, network: FittedNetwork, metrics: dict[str, float | None], prefix: str, title: str
    ) -> None:
        self._write(network, {f"{prefix}{name}": value for name, value in metrics.items()})
        shown = [
            f"{name} {metrics[name]:.4f}" for name in self.shown if metrics.get(name) is not None
        ]
        logger.info("%s at %d: %s", title, network.state.iteration, "  ".join(shown))

    def _write(self, network: FittedNetwork, values: Mapping[str, float | None]) -> None:
        state = network.state
        line = {
            "iteration": state.iteration,
            "micro_step": state.micro_step,
            "epoch": state.epoch,
            "time": round(time.time(), 3),
            **values,
        }
        if self._file is not None:
            self._file.write(json.dumps(without_nan(line), allow_nan=False) + "\n")
            self._file.flush()
        if self.tracker is not None:
            self.tracker.check()

    def _time_left(self, network: FittedNetwork) -> str:
        first, began = self._began
        done = network.state.iteration - first
        left = network.settings.iteration_num - network.state.iteration
        seconds = round((time.monotonic() - began) / max(done, 1) * left)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds % 60:02d}s"


def _lines_until(path: Path, iteration: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["iteration"] <= iteration and line.endswith("\n"):
                kept.append(line)
        except ValueError:
            continue
    return kept
