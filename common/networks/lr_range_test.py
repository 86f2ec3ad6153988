"""The learning-rate range test: how the loss goes while the learning rate grows (Smith 2017).

Batches differ more from each other than a few steps change: with rare labels, the plain curve is
all noise. So each batch is also shown to the weights that the test began with, in the same mode and
with the same random draws, and what is drawn is how much better or worse than these it does.
"""

import copy
import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.utils.data import DataLoader

from common.networks import AbstractNetwork, StepOutput
from common.networks.hooks import Callback, FittedNetwork
from common.optim import IterationScheduler
from common.seeding import rng_state, set_rng_state

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

# Width of the Gaussian that the losses are smoothed with, as a share of the iterations.
SMOOTHING = 0.03
# The test ends where the running mean of the loss (over about 5 iterations) is this many times that
# of the first weights.
DIVERGED = 3.0
_RUNNING = 0.8
# The suggestion is this share of the learning rate at which the loss is lowest (fastai's rule,
# `lr_min / 10`). Where the loss falls fastest, the other usual choice, is often a step or two
# before the minimum, and another place with each draw of the batches.
SHARE_OF_LOWEST = 0.1
# The smallest of some twenty independent means is this many of their standard deviations below the
# largest, by chance: a fall must be larger to mean anything.
CLEAR = 4.0
# Values that follow the progress of a training stay at their first one: the test is a short part.
_LONGER = 1000


@dataclass(frozen=True)
class LearningRateRange:
    """The result of a range test; all sequences have one value per iteration.

    Attributes:
        learning_rates: of the last layer.
        losses: of the batches.
        start_losses: of the same batches with the weights that the test began with.
        smoothed: the difference of these two over neighbouring iterations, to both sides; the mean
            of `start_losses` is added.
        lowest: learning rate of the smallest of `smoothed`, None where it never falls; training
            diverges not far above it.
        suggestion: a tenth of `lowest`; None where `smoothed` never falls.
        is_clear: False where the fall is no larger than batches differ by chance.
    """

    learning_rates: Sequence[float]
    losses: Sequence[float]
    start_losses: Sequence[float]
    smoothed: Sequence[float]
    lowest: float | None
    suggestion: float | None
    is_clear: bool


def find_learning_rate(
    network: AbstractNetwork,
    train_data: DataLoader,
    start_lr: float,
    end_lr: float,
    num_iterations: int,
) -> LearningRateRange:
    """Train while the learning rate grows exponentially, then restore everything.

    Weights, optimizer, schedule, callbacks, position in the data and random states are afterwards
    as before. The test ends early where the loss diverges.

    Args:
        network: with its optimizer; its callbacks are left out of the test.
    """
    recorder = _Recorder(network, num_iterations)
    growth = math.log(end_lr / start_lr) / max(1, num_iterations - 1)
    with _restored(network):
        assert network.optimizer is not None
        network.callbacks = [recorder]
        network.steps_ahead = 0  # each loss decides whether the test goes on
        setattr(network, "training_step", recorder.training_step)  # noqa: B010
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
    """Draw the loss over the learning rate, with the suggestion."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 4.8), layout="constrained")
    axes = drawing.subplots()
    axes.grid(color="#e6e9ed", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    label = "smoothed, against the first weights"
    axes.plot(found.learning_rates, found.smoothed, color="#0072B2", label=label)
    if found.suggestion is not None:
        label = f"suggestion {found.suggestion:.2g} (a tenth of the lowest)"
        label += "" if found.is_clear else ", within the noise"
        axes.axvline(found.suggestion, color="#D55E00", linestyle="--", label=label)
    if found.lowest is not None:
        label = f"lowest at {found.lowest:.2g}"
        axes.axvline(found.lowest, color="#999999", linestyle=":", label=label)
    axes.set_xscale("log")
    # The fall fills a quarter of the height; what lies past the divergence is left out.
    start, lowest = float(np.mean(found.start_losses)), min(found.smoothed)
    depth = max(start - lowest, 0.02 * start)
    axes.set_ylim(max(0, lowest - depth), start + 2 * depth)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title("Learning-rate range test", fontsize=10)
    axes.legend(fontsize=8)
    return drawing


class _Ended(Exception):
    """The range test is over."""


class _Recorder(Callback):
    """Records each step, and ends the fit at the end of the range or where the loss diverges."""

    def __init__(self, network: AbstractNetwork, num_iterations: int) -> None:
        self.network = network
        self.num_iterations = num_iterations
        self.learning_rates: list[float] = []
        self.losses: list[float] = []
        self.start_losses: list[float] = []
        self._start_weights = _copied(network.model.state_dict())
        self._training_step = network.training_step
        self._start_sum = self._start_terms = 0.0
        self._running = (0.0, 0.0)

    def training_step(self, batch: Any) -> StepOutput:
        """Return the loss of the batch, and record that of the first weights."""
        model, random_state = self.network.model, rng_state()
        weights = _copied(model.state_dict())
        model.load_state_dict(self._start_weights)
        with torch.no_grad():
            start = self._training_step(batch)
        self._start_sum += float(start.loss_sum)
        self._start_terms += float(start.num_terms)
        model.load_state_dict(weights)
        set_rng_state(random_state)
        return self._training_step(batch)

    def on_step_begin(self, network: FittedNetwork) -> None:
        self._start_sum = self._start_terms = 0.0

    def on_iteration_end(self, network: FittedNetwork) -> None:
        self.learning_rates.append(network.step_values["learning_rate"])
        self.losses.append(network.step_values["loss"])
        self.start_losses.append(self._start_sum / max(self._start_terms, 1e-12))
        now = self.losses[-1], self.start_losses[-1]
        before = self._running if len(self.losses) > 1 else now
        loss, start = (_RUNNING * old + (1 - _RUNNING) * new for old, new in zip(before, now))
        self._running = loss, start
        if loss > DIVERGED * start or len(self.losses) == self.num_iterations:
            raise _Ended


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights.items()}


@contextmanager
def _restored(network: AbstractNetwork) -> Iterator[None]:
    state = copy.deepcopy(network.state_dict())
    kept = {
        name: getattr(network, name)
        for name in ("callbacks", "settings", "scheduler", "steps_ahead")
    }
    step_values, is_training = network.step_values, network.model.training
    try:
        yield
    finally:
        network.__dict__.pop("training_step", None)
        for name, value in kept.items():
            setattr(network, name, value)
        network.load_state_dict(state)
        assert network.optimizer is not None
        network.optimizer.zero_grad(set_to_none=True)
        network.step_values = step_values
        network.model.train(is_training)


def _evaluated(recorder: _Recorder) -> LearningRateRange:
    rates, losses = np.asarray(recorder.learning_rates), np.asarray(recorder.losses)
    start_losses = np.asarray(recorder.start_losses)
    change = losses - start_losses
    lowest = None
    smoothed, is_clear = losses, False
    if len(losses) > 2:
        width = max(1.0, SMOOTHING * recorder.num_iterations)
        smoothed = gaussian_filter1d(change, width, mode="nearest")
        end = int(smoothed.argmin())
        lowest = float(rates[end]) if end else None
        # The variance of a mean with Gaussian weights of this width.
        noise = np.std((change - smoothed)[: end + 1]) / np.sqrt(2 * np.sqrt(np.pi) * width)
        is_clear = bool(smoothed[: end + 1].max() - smoothed[end] > CLEAR * noise)
        smoothed = smoothed + start_losses.mean()
    return LearningRateRange(
        recorder.learning_rates,
        recorder.losses,
        recorder.start_losses,
        smoothed.tolist(),
        lowest,
        None if lowest is None else SHARE_OF_LOWEST * lowest,
        is_clear and lowest is not None,
    )
