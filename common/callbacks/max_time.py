"""Stops a training that has used up its time, so that another run can go on with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from common.networks.hooks import Callback, FittedNetwork
from common.words import duration

logger = logging.getLogger(__name__)


class MaxTime(Callback):
    """Stops after a time as SIGTERM does: everything is saved, and a resumed run goes on.

    The clock starts with the object, anew in each run, since a cluster gives each job its own time.
    It is checked after an iteration and the validation that may follow it: leave time for one.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began = clock()

    def on_iteration_end(self, network: FittedNetwork) -> None:
        if network.is_done or self._clock() - self._began < self.seconds:
            return
        logger.warning(
            "the maximum time of %s is used up: saving, then stopping", duration(self.seconds)
        )
        network.ask_to_stop()
