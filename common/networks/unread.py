"""Steps of a device that are looked at late, so that the loop need not wait for it."""

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from common.distributed import wait_for_failure


class _Step(NamedTuple):
    """A step whose verdict is on its way to the host; `copied` says when it is there."""

    iteration: int
    ids: list[list[str]]
    is_fine: Tensor
    copied: torch.cuda.Event | None


class UnreadSteps:
    """The verdicts on the newest steps: which of them had a loss or gradient that is not finite.

    Each step has its own, which no later one can hide. They are read from the oldest on.
    """

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()

    def add(self, iteration: int, ids: list[list[str]], is_fine: Tensor) -> None:
        """Add a step, without waiting for it.

        Args:
            iteration: its number, for the message.
            ids: names of the samples of each of its batches.
            is_fine: bool (batches + 2,) on the device: the loss of each batch, those of all
                processes, the gradient.
        """
        copied = None
        if is_fine.is_cuda:
            # Into pinned memory, which the copy does not wait for; the event says when it is done.
            stream = torch.cuda.current_stream(is_fine.device)
            is_fine = is_fine.to("cpu", non_blocking=True)
            copied = stream.record_event()
        self._steps.append(_Step(iteration, ids, is_fine, copied))

    def read(self, num_left: int = 0) -> None:
        """Look at all steps but the newest `num_left`.

        Raises:
            FloatingPointError: a loss or gradient is not finite; the message names the iteration
                and the samples.
            PeerFailure: it was that of another process.
        """
        while len(self._steps) > num_left:
            step = self._steps.popleft()
            if step.copied is not None:
                step.copied.synchronize()
            *of_batches, of_all, of_gradient = step.is_fine.tolist()
            _require("loss", of_batches, step)
            if not of_all:
                wait_for_failure()
            _require("gradient", [of_gradient] * len(step.ids), step)

    def forget(self) -> None:
        """Leave out the steps of a state that another one replaces."""
        self._steps.clear()


def _require(what: str, is_fine: list[bool], step: _Step) -> None:
    """Raise FloatingPointError where the loss or gradient of a batch is not finite."""
    if all(is_fine):
        return
    bad = [name for names, is_ok in zip(step.ids, is_fine) if not is_ok for name in names]
    raise FloatingPointError(
        f"the {what} is not finite at iteration {step.iteration}, in a batch of "
        f"{', '.join(bad) or 'unnamed samples'}: look at these images, lower the learning "
        f"rate, or train without mixed precision"
    )
