"""The learning-rate range test: how the loss goes while the learning rate grows (Smith 2017)."""

import copy
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d
from torch.utils.data import DataLoader

from common.callbacks import Callback
from common.networks import AbstractNetwork
from common.optim import IterationScheduler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

# Width of the Gaussian that the losses are smoothed with, as a share of the iterations.
SMOOTHING = 0.03
# The test ends where the running average of the loss (over about 5 iterations) is this many times
# its smallest.
DIVERGED = 4.0
_RUNNING = 0.8
# What the progress of a training decides stays as at its beginning: the test is a small part of it.
_LONGER = 1000


@dataclass(frozen=True)
class LearningRateRange:
    """What a range test found; all sequences have one value per iteration.

    Attributes:
        learning_rates: of the last layer.
        losses: of the batches.
        smoothed: the same over neighbouring iterations, to both sides.
        suggestion: learning rate at which the loss falls fastest per decade; None where it never
            falls.
        lowest: learning rate of the smallest smoothed loss; training diverges not far above it.
    """

    learning_rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    suggestion: float | None
    lowest: float | None


def find_learning_rate(
    network: AbstractNetwork,
    train_data: DataLoader,
    start_lr: float,
    end_lr: float,
    num_iterations: int,
) -> LearningRateRange:
    """Trains while the learning rate grows exponentially, and puts everything back.

    Weights, optimizer, schedule, callbacks, position in the data and random states are afterwards
    what they were. The test ends early where the loss diverges.

    Args:
        network: with its optimizer; its callbacks are left out of the test.
        train_data: what `fit` trains on.
        start_lr, end_lr: the range.
        num_iterations: optimizer steps from one to the other.
    """
    recorder = _Recorder(num_iterations)
    growth = math.log(end_lr / start_lr) / max(1, num_iterations - 1)
    with _restored(network):
        assert network.optimizer is not None
        network.callbacks = [recorder]
        longer = network.state.iteration + _LONGER * num_iterations
        network.settings = dataclasses.replace(network.settings, iteration_num=longer)
        network.scheduler = IterationScheduler(
            network.optimizer, lambda step: start_lr * math.exp(growth * step)
        )
        try:
            network.fit(train_data)
        except _Ended:
            pass
        except FloatingPointError as error:
            logger.info("the range test ends early: %s", error)
    return _evaluated(recorder)


def range_figure(found: LearningRateRange) -> "Figure":
    """Draws the loss over the learning rate, with the suggestion."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 4.8), layout="constrained")
    axes = drawing.subplots()
    axes.grid(color="#e6e9ed", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.plot(found.learning_rates, found.losses, color="#B0BEC5", linewidth=1, label="batch")
    axes.plot(found.learning_rates, found.smoothed, color="#0072B2", label="smoothed")
    if found.suggestion is not None:
        label = f"suggestion {found.suggestion:.2g} (falls fastest)"
        axes.axvline(found.suggestion, color="#D55E00", linestyle="--", label=label)
    if found.lowest is not None:
        label = f"lowest at {found.lowest:.2g}"
        axes.axvline(found.lowest, color="#999999", linestyle=":", label=label)
    axes.set_xscale("log")
    # What lies past the divergence would flatten all that matters.
    axes.set_ylim(0, 2 * float(np.median(found.smoothed)))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title("Learning-rate range test", fontsize=10)
    axes.legend(fontsize=8)
    return drawing


class _Ended(Exception):
    """The range test is over."""


class _Recorder(Callback):
    """Notes each step, and ends the fit at the end of the range or where the loss diverges."""

    def __init__(self, num_iterations: int) -> None:
        self.num_iterations = num_iterations
        self.learning_rates: list[float] = []
        self.losses: list[float] = []
        self._running: list[float] = []

    def on_iteration_end(self, network: AbstractNetwork) -> None:
        """Adds a point; raises _Ended after the last one."""
        self.learning_rates.append(network.step_values["learning_rate"])
        loss = network.step_values["loss"]
        self.losses.append(loss)
        before = self._running[-1] if self._running else loss
        self._running.append(_RUNNING * before + (1 - _RUNNING) * loss)
        has_diverged = self._running[-1] > DIVERGED * min(self._running)
        if has_diverged or len(self.losses) == self.num_iterations:
            raise _Ended


@contextmanager
def _restored(network: AbstractNetwork) -> Iterator[None]:
    """Puts back whatever the block does to the network, also after an error."""
    state = copy.deepcopy(network.state_dict())
    kept = {name: getattr(network, name) for name in ("callbacks", "settings", "scheduler")}
    step_values, is_training = network.step_values, network.model.training
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(network, name, value)
        network.load_state_dict(state)
        assert network.optimizer is not None
        network.optimizer.zero_grad(set_to_none=True)
        network.step_values = step_values
        network.model.train(is_training)


def _evaluated(recorder: _Recorder) -> LearningRateRange:
    rates, losses = np.asarray(recorder.learning_rates), np.asarray(recorder.losses)
    smoothed = losses
    suggestion = lowest = None
    if len(losses) > 2:
        width = max(1.0, SMOOTHING * recorder.num_iterations)
        smoothed = gaussian_filter1d(losses, width, mode="nearest")
        end = int(smoothed.argmin())
        slope = np.gradient(smoothed, np.log10(rates))[: end + 1]
        if slope.min() < 0:
            suggestion, lowest = float(rates[slope.argmin()]), float(rates[end])
    return LearningRateRange(
        recorder.learning_rates, recorder.losses, smoothed.tolist(), suggestion, lowest
    )
