"""Stops a training that has used up its time, so that another run can go on with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from common.networks.hooks import Callback, FittedNetwork

logger = logging.getLogger(__name__)


class MaxTime(Callback):
    """Stops after a time as SIGTERM does: everything is saved, and a resumed run goes on.

    The clock starts with the object, anew in each run: a cluster gives each job its slot. Time is
    looked at after an iteration and the validation that may follow it, so leave room for one.

    Args:
        seconds: the time.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began = clock()

    def on_iteration_end(self, network: FittedNetwork) -> None:
        """Ask to stop when the time is up and training is not done anyway."""
        if network.is_done or self._clock() - self._began < self.seconds:
            return
        logger.warning(
            "the maximum time of %.2f hours is used up: saving, then stopping", self.seconds / 3600
        )
        network.ask_to_stop()
