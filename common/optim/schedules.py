"""Learning-rate schedules: functions of the iteration, which is an optimizer step.

Since the learning rate is a function of the iteration alone, a resumed training goes on exactly,
and the whole schedule can be drawn before or after it.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# Those of torch's OneCycleLR: the learning rate begins at 1/25 of the highest, and ends at
# 1/10,000 of where it began.
ONE_CYCLE_DIVISOR = 25.0
ONE_CYCLE_FINAL_DIVISOR = 1e4

# Stochastic weight averaging goes to its learning rate along a cosine over this share of its
# iterations: a jump would make the first averaged weights bad ones.
SWA_ANNEAL_SHARE = 0.1


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every iteration of a training.

    * constant: `learning_rate`.
    * multistep: `learning_rate`, times `gamma` from each milestone on.
    * one_cycle_lr: a cosine from 1/25 of `learning_rate` up to it over `pct_start` of the
      iterations, then a cosine down to nearly 0 (Smith and Topin 2018); momentum stays as it is.
    * warmup_cosine: linear from 0 to `learning_rate` over `warmup` of the iterations, then a cosine
      to `min_lr`.
    * cosine_restarts: `num_cycles` cosines from `learning_rate` to `min_lr`, each `cycle_factor`
      times as long as the one before (Loshchilov and Hutter 2017). The last one ends with the
      training.

    Attributes:
        num_steps: iterations of the training.
        min_lr: the lowest of warmup_cosine and cosine_restarts.
        milestones: iterations at which multistep changes, ascending.
        swa_start: iterations after which the learning rate goes to `swa_lr` and stays there; None
            for never.
    """

    name: str
    num_steps: int
    learning_rate: float
    min_lr: float = 0.0
    pct_start: float = 0.3
    warmup: float = 0.1
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    num_cycles: int = 1
    cycle_factor: float = 1.0
    swa_start: int | None = None
    swa_lr: float = 0.0

    def __call__(self, step: int) -> float:
        if self.swa_start is None or step < self.swa_start:
            return self._planned(step)
        num_annealed = max(1, round(SWA_ANNEAL_SHARE * (self.num_steps - self.swa_start)))
        progress = min(1.0, (step + 1 - self.swa_start) / num_annealed)
        before = self._planned(max(self.swa_start - 1, 0))
        return _cosine(before, self.swa_lr, progress)

    def _planned(self, step: int) -> float:
        shapes: dict[str, Callable[[int], float]] = {
            "constant": lambda step: self.learning_rate,
            "multistep": self._multistep,
            "one_cycle_lr": self._one_cycle,
            "warmup_cosine": self._warmup_cosine,
            "cosine_restarts": self._cosine_restarts,
        }
        return shapes[self.name](step)

    def _multistep(self, step: int) -> float:
        return self.learning_rate * self.gamma ** bisect.bisect_right(self.milestones, step)

    def _one_cycle(self, step: int) -> float:
        first = self.learning_rate / ONE_CYCLE_DIVISOR
        last = first / ONE_CYCLE_FINAL_DIVISOR
        end = max(self.num_steps, 2) - 1
        # Neither phase may be empty.
        peak = min(max(self.pct_start * (end + 1) - 1, 0.5), end - 0.5)
        if step <= peak:
            return _cosine(first, self.learning_rate, step / peak)
        return _cosine(self.learning_rate, last, min(1.0, (step - peak) / (end - peak)))

    def _warmup_cosine(self, step: int) -> float:
        num_warmup = round(self.warmup * self.num_steps)
        if step < num_warmup:
            return self.learning_rate * (step + 1) / num_warmup
        progress = min(1.0, (step - num_warmup) / max(1, self.num_steps - num_warmup))
        return _cosine(self.learning_rate, self.min_lr, progress)

    def _cosine_restarts(self, step: int) -> float:
        ends = self.cycle_ends()
        cycle = min(bisect.bisect_right(ends, step), self.num_cycles - 1)
        start = ends[cycle - 1] if cycle else 0
        progress = min(1.0, (step - start) / max(1, ends[cycle] - start))
        return _cosine(self.learning_rate, self.min_lr, progress)

    def cycle_ends(self) -> list[int]:
        """Return the iterations after which the cycles of cosine_restarts end."""
        lengths = [self.cycle_factor**cycle for cycle in range(self.num_cycles)]
        share = [sum(lengths[: cycle + 1]) / sum(lengths) for cycle in range(self.num_cycles)]
        return [round(self.num_steps * end) for end in share]


class IterationScheduler(LRScheduler):
    """Gives each parameter group the rate of the iteration, times the group's `lr_scale`.

    Args:
        rate: learning rate by the number of iterations done.
    """

    last_epoch: int

    def __init__(self, optimizer: Optimizer, rate: Callable[[int], float]) -> None:
        self.rate = rate
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Any]:
        rate = self.rate(self.last_epoch)
        return [rate * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return how many iterations are done: all else is the schedule's."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]


def make_schedule(optimizer: Optimizer, schedule: Schedule) -> LRScheduler | None:
    """Return the scheduler of `optimizer`; None where learning rates never change."""
    if schedule.name == "constant" and schedule.swa_start is None:
        return None
    return IterationScheduler(optimizer, schedule)


def _cosine(first: float, last: float, progress: float) -> float:
    """Return half a cosine from `first` to `last`, for a progress from 0 to 1."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
