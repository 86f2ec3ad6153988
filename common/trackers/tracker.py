"""Shows a run in stores while it lasts, by a process beside the training for each of them."""

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from common.trackers.backend import Backend, Status
from common.trackers.sidecar import Order

logger = logging.getLogger(__name__)


class Tracker:
    """Lets one process per store follow an experiment folder (`common.trackers.sidecar`).

    It never raises into a training and never holds it up: values are in metrics.jsonl and wait
    there for a store that is dead or slow. Only `close` waits, for at most `close_seconds` a store.

    | method | called |
    |---|---|
    | start | when the folder is as it is to be shown, and grows from now on |
    | check | now and then: warns once of a store that fails |
    | close | once, at the end |

    Args:
        backends: the stores; none: nothing is shown anywhere.
        close_seconds: the longest wait for what is left at the end.
    """

    def __init__(
        self,
        folder: Path,
        backends: Sequence[Backend] = (),
        *,
        close_seconds: float = 60.0,
        batch_seconds: float = 2.0,
        retry_seconds: float = 60.0,
    ) -> None:
        self.has_missed = False
        self.sidecars: list[Sidecar] = []
        self._close_seconds = close_seconds
        self._orders = [
            Order(backend, folder.resolve(), os.getpid(), batch_seconds, retry_seconds)
            for backend in backends
        ]

    def start(self) -> None:
        """Start the processes, if they are not running."""
        if not self.sidecars:
            self.sidecars = [Sidecar(order) for order in self._orders]

    def check(self) -> None:
        for sidecar in self.sidecars:
            sidecar.listen()

    def close(self, status: Status = "finished") -> None:
        """End the run with a status; warn of stores that do not have everything."""
        for sidecar in self.sidecars:
            sidecar.end(status)
        for sidecar in self.sidecars:
            sidecar.wait(self._close_seconds)
            if not sidecar.is_complete:
                logger.warning("%s did not get everything; metrics.jsonl has it", sidecar.title)
        # A process that could not be started has missed everything.
        self.has_missed = any(not sidecar.is_complete for sidecar in self.sidecars)
        self.sidecars, self._orders = [], []


class Sidecar:
    """The process of one store, seen from the training."""

    def __init__(self, order: Order) -> None:
        self.title = order.backend.title
        self.is_complete = False
        self.process: subprocess.Popen[bytes] | None = None
        self._connection, other = Pipe()
        with other:
            try:
                self.process = _start(other)
                self._connection.send(order)
            except OSError as error:
                logger.warning("%s: its process does not start: %s", self.title, error)

    def listen(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while self._connection.poll():
                message = self._connection.recv()
                self.is_complete = message is None
                if message is not None:
                    logger.warning(
                        "%s fails, and the run goes on without it: %s", self.title, message
                    )

    def end(self, status: Status) -> None:
        with contextlib.suppress(OSError):  # a process that is gone has nothing to report
            self._connection.send(status)

    def wait(self, seconds: float) -> None:
        """Wait for the end of the process; kill it after `seconds`."""
        if self.process is not None:
            deadline = time.monotonic() + seconds
            while self.process.poll() is None and time.monotonic() < deadline:
                self.listen()
                time.sleep(0.02)
            self.process.kill()
            self.process.wait()
        self.listen()
        self._connection.close()


def _start(connection: Connection) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "common.trackers.sidecar", str(connection.fileno())],
        pass_fds=[connection.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        # Ctrl+C and the signals of a cluster are for the training.
        start_new_session=True,
    )
