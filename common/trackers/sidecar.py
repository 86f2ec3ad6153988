"""The process beside a training that follows its folder and sends it to one store.

A process and not a thread: whatever a client of a store does - imports for seconds, hangs, takes
memory, starts threads - the training and the loaders that it forks don't notice.

The training sends what to follow, and at the end a status. It gets a line of text where something
fails, and None at the end if all has arrived. When the training dies, what is there is sent and
the run is `killed`.
"""

import contextlib
import gc
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from common.trackers.backend import Backend, Status, reason_of
from common.trackers.sender import FolderSender


class Order(NamedTuple):
    """What a sidecar follows.

    Attributes:
        parent: id of the training's process.
        batch_seconds: how often the folder is looked at.
        retry_seconds: how long a failed store is left alone.
    """

    backend: Backend
    folder: Path
    parent: int
    batch_seconds: float
    retry_seconds: float


def follow(order: Order, training: Connection) -> None:
    """Send a folder as it grows, until the end of the training, however that comes."""
    sender = FolderSender(order.backend, order.folder)
    status: Status | None = None
    retry_at = 0.0
    has_failed = False
    with sender.alone():
        while status is None:
            status = _status(order, training)
            if status is None and time.monotonic() < retry_at:
                continue
            try:
                sender.send() if status is None else sender.finish(status)
            except Exception as error:
                # Whatever a store, a network or a disk throws concerns the store alone.
                if not has_failed:
                    _report(training, reason_of(error))
                if status is not None:
                    return
                has_failed, retry_at = True, time.monotonic() + order.retry_seconds
        _report(training, None)


def _status(order: Order, training: Connection) -> Status | None:
    """Wait `batch_seconds` at most; return the status once the training has ended."""
    with contextlib.suppress(OSError, EOFError):
        if not training.poll(order.batch_seconds):
            # Loaders that outlive a killed training hold its end of the connection open.
            return None if os.getppid() == order.parent else "killed"
        status: Status = training.recv()
        return status
    return "killed"


def _report(training: Connection, message: str | None) -> None:
    with contextlib.suppress(OSError):  # the training may be gone
        training.send(message)


def main() -> None:
    """Run the process; its argument is the file descriptor of the connection."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    # Clients of stores import thousands of modules: looking through them for garbage as often as
    # usual takes a fifth of the processor time until the store is connected.
    gc.set_threshold(100_000)
    training = Connection(int(sys.argv[1]))
    try:
        follow(training.recv(), training)
    except Exception as error:
        _report(training, reason_of(error))
    # Clients leave threads behind that would hold up an orderly exit.
    os._exit(0)


if __name__ == "__main__":
    main()
